# SPDX-License-Identifier: Apache-2.0
"""Write a network as a model for other runtimes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.errors import OptionError, RvrtError, WeightsError
from rvrt_cli.export.export_options import ExportOptions
from rvrt_cli.files import write_atomically
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.runtime.exported_model import ExportedModel
from rvrt_cli.weights import check_names, find_weights, load_weights

FORMATS = (".onnx", ".mindir")


def check_export(target: Path, options: ExportOptions) -> None:
    """Refuse what cannot be exported, before MindSpore is loaded.

    Raises:
        OptionError: another ending, a file that exists, a missing package, or options that the format does not have.
    """
    if target.suffix not in FORMATS:
        raise OptionError(f"{target}: name a file that ends in {' or '.join(FORMATS)}")
    if target.exists() and not options.overwrite:
        raise OptionError(f"{target}: exists already; choose another name, or --overwrite")
    if find_spec("mindspore") is None:
        raise RvrtError("exporting needs MindSpore, which is not installed; export on a machine that has it")
    if target.suffix == ".onnx" and find_spec("onnx") is None:
        raise RvrtError('exporting to ONNX needs the onnx package; run pip install "rvrt[export]"')
    if target.suffix == ".mindir" and (options.size is None or options.precision != "float32"):
        raise OptionError(f"{target}: MindIR has a fixed size and float32; give --size, and no --precision")


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
    frames, lookahead = (count + -count % clip for count in (options.frames, options.lookahead))
    model = ExportedModel(loaded.config, loaded.card, frames, lookahead, options.height_width, options.precision)
    use_device("cpu")
    if target.suffix == ".mindir":
        from rvrt_cli.export.mindir import write_mindir

        write_mindir(target, model, loaded.arrays)
        return model
    from rvrt_cli.export.window_trace import trace_window  # imports MindSpore

    description = f"{model.card['name']}: one window of {frames} + {lookahead} frames, with its recurrent state"
    proto = trace_window(model, loaded.arrays).model(model.to_metadata(), description)
    write_atomically(target, proto.SerializeToString(), error=WeightsError)
    return model
