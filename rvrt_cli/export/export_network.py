# SPDX-License-Identifier: Apache-2.0
"""Write a network as an ONNX model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.engine import whole_clips
from rvrt_cli.errors import OptionError, RvrtError, WeightsError
from rvrt_cli.export.export_options import ExportOptions
from rvrt_cli.files import write_atomically
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.runtime.exported_model import ExportedModel
from rvrt_cli.weights import check_names, find_weights, load_weights


def check_export(target: Path, options: ExportOptions) -> None:
    """Refuse what cannot be exported, before MindSpore is loaded.

    Raises:
        OptionError: another ending, or a file that exists.
        RvrtError: a missing package.
    """
    if target.suffix != ".onnx":
        raise OptionError(f"{target}: name a file that ends in .onnx")
    if target.exists() and not options.overwrite:
        raise OptionError(f"{target}: exists already; choose another name, or --overwrite")
    if find_spec("mindspore") is None:
        raise RvrtError("exporting needs MindSpore, which is not installed; export on a machine that has it")
    if find_spec("onnx") is None:
        raise RvrtError("exporting to ONNX needs the onnx package; run pip install '.[export]' in rvrt's checkout")


def export_network(target: Path, options: ExportOptions) -> ExportedModel:
    """Export the network that `options` name; the file appears when it is complete.

    Returns:
        what the file says about itself.

    Raises:
        RvrtError: with the remedy.
    """
    check_export(target, options)
    path = find_weights(options.model, options.weights)
    loaded = load_weights(path)
    check_names(loaded.arrays, parameter_shapes(loaded.config), path)
    clip = loaded.config.clip_size
    frames, lookahead = (whole_clips(count, clip) for count in (options.frames, options.lookahead))
    model = ExportedModel(loaded.config, loaded.card, frames, lookahead, options.height_width, options.precision)
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window  # imports MindSpore

    description = f"{model.card['name']}: one window of {frames} + {lookahead} frames, with its recurrent state"
    proto = trace_window(model, loaded.arrays).model(model.to_metadata(), description)
    write_atomically(target, proto.SerializeToString(), error=WeightsError)
    return model
