# SPDX-License-Identifier: Apache-2.0
"""Write a network as an ONNX model, or as MindIR."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.engine import whole_clips
from rvrt_cli.errors import OptionError, RvrtError, WeightsError
from rvrt_cli.export.export_options import ExportOptions
from rvrt_cli.export.graph_template import GraphTemplate
from rvrt_cli.export.mindspore_stand_in import mindspore_to_trace_with
from rvrt_cli.files import write_atomically
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.runtime import ExportedModel
from rvrt_cli.weights import check_names, find_weights, load_weights

_MINDIR = ".mindir"


def check_export(target: Path, options: ExportOptions) -> None:
    """Refuse a file that cannot be written, before the work.

    Raises:
        OptionError: another ending, what a format lacks, or a file that exists.
    """
    if target.suffix not in (".onnx", _MINDIR):
        raise OptionError(f"{target}: name a file that ends in .onnx or {_MINDIR}")
    if target.suffix == _MINDIR and options.size is None:
        raise OptionError(f"{target}: MindIR is for frames of one size; give --size WIDTHxHEIGHT")
    if target.suffix == _MINDIR and options.precision != "float32":
        raise OptionError(
            f"{target}: MindIR is written in float32, which MindSpore Lite's converter reduces; omit --precision"
        )
    if target.exists() and not options.overwrite:
        raise OptionError(f"{target}: exists already; choose another name, or --overwrite")


def export_network(target: Path, options: ExportOptions) -> ExportedModel:
    """Export the network that `options` name; the file appears when it is complete.

    ONNX needs no MindSpore; MindIR does.

    Returns:
        what the file says about itself.

    Raises:
        RvrtError: with the remedy.
    """
    check_export(target, options)
    path = find_weights(options.model, options.weights)
    loaded = load_weights(path)
    check_names(loaded.arrays, parameter_shapes(loaded.config), path)
    if loaded.config.reduction > 1:
        raise OptionError(
            f"{path.stem}: networks for restoration are not exported; run rvrt restore, which needs MindSpore"
        )
    clip = loaded.config.clip_size
    frames, lookahead = (whole_clips(count, clip) for count in (options.frames, options.lookahead))
    model = ExportedModel(
        loaded.config,
        loaded.card,
        frames,
        lookahead,
        options.height_width,
        options.precision,
        loaded.config.fusion_lookahead(lookahead),
    )
    if target.suffix == _MINDIR:
        _prepare_mindspore(target)
        from rvrt_cli.export.mindir import write_mindir  # imports MindSpore

        write_mindir(target, model, loaded.arrays)
    else:
        template = _traced(model)
        write_atomically(target, template.fill(loaded.arrays, model.to_metadata()), error=WeightsError)
    return model


def _prepare_mindspore(target: Path) -> None:
    """Refuse to go on without MindSpore.

    Raises:
        RvrtError: it is missing.
    """
    if find_spec("mindspore") is None:
        raise RvrtError(
            f"{target}: writing MindIR needs MindSpore, which is not installed; export on a machine that has it, or to .onnx"
        )
    use_device("cpu")


def _traced(model: ExportedModel) -> GraphTemplate:
    """The graph of any network."""
    if find_spec("mindspore") is not None:
        use_device("cpu")
    with mindspore_to_trace_with():
        from rvrt_cli.export.window_trace import trace_window

        return trace_window(model)
