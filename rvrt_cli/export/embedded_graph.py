# SPDX-License-Identifier: Apache-2.0
"""The graph of the embedded network, for runtimes other than MindSpore, as it comes with the package.

`python -m rvrt_cli.export.embedded_graph` writes it anew, after a change of the network or of what exports it.
"""

from __future__ import annotations

from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.engine.plan import DEFAULT_WINDOW
from rvrt_cli.model.config import PRESETS
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.runtime import ExportedModel
from rvrt_cli.runtime.graph_template import GraphTemplate
from rvrt_cli.weights import embedded_folder

_FILE = "rvrt-tiny.graph.xz"


def embedded_model() -> ExportedModel:
    """What the embedded graph is for: the default network, windows as long as `rvrt upscale` makes them, frames of any size."""
    return ExportedModel(PRESETS[UpscaleOptions.model], {}, DEFAULT_WINDOW, UpscaleOptions.lookahead, None)


def embedded_template(model: ExportedModel) -> GraphTemplate | None:
    """The embedded graph, if it is that of `model`: its weights may be any.

    Raises:
        WeightsError: the file is damaged.
    """
    path = embedded_folder() / _FILE
    return GraphTemplate.from_file(path, model.structure) if path.is_file() else None


def write_embedded_graph(path: Path) -> None:
    """Trace the embedded network."""
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window  # imports MindSpore

    model = embedded_model()
    trace_window(model).to_file(path, model.structure)


if __name__ == "__main__":
    write_embedded_graph(embedded_folder() / _FILE)
