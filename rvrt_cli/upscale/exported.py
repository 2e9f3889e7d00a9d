# SPDX-License-Identifier: Apache-2.0
"""The exported network of `--runtime onnx`: a file of the user's, or one that is exported into the cache at its first use."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rvrt_cli.engine import whole_clips
from rvrt_cli.engine.plan import DEFAULT_WINDOW
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.export.embedded_graph import embedded_model, embedded_template
from rvrt_cli.export.export_network import export_network
from rvrt_cli.export.export_options import ExportOptions
from rvrt_cli.files import cache_folder
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.runtime import ExportedModel, OnnxNetwork, check_onnx_runtime
from rvrt_cli.version import __version__
from rvrt_cli.weights import file_sha256, find_weights, read_about


def open_exported(options: UpscaleOptions) -> OnnxNetwork:
    """The network that `options` name, in ONNX Runtime.

    Raises:
        OptionError: another window or precision than the model's, no ONNX Runtime, or no such device.
        WeightsError: no such weights, or a damaged model.
        RvrtError: the model has yet to be exported, and MindSpore is not there to do it.
    """
    if options.precision == "bfloat16":
        raise OptionError("--precision bfloat16: exported models compute in float32 or float16; choose one of them")
    check_onnx_runtime()
    if options.weights is not None and options.weights.endswith(".onnx"):
        network = OnnxNetwork(find_weights(None, options.weights), options.device)
    else:
        network = OnnxNetwork(exported_file(options), options.device)
    network.check_windows(options.window, options.lookahead)
    if options.precision != network.model.precision:
        raise OptionError(
            f"--precision {options.precision}: {options.weights} computes in {network.model.precision}; give that "
            f"precision, or a model of rvrt export --precision {options.precision}"
        )
    return network


def exported_file(options: UpscaleOptions) -> Path:
    """The model of any frame size in the cache; exported where it is missing.

    Raises:
        WeightsError: no such weights.
        RvrtError: it cannot be exported here.
    """
    weights = find_weights(options.model, options.weights)
    about = read_about(weights)
    wanted = options.window or DEFAULT_WINDOW, options.lookahead
    frames, lookahead = (whole_clips(count, about.config.clip_size) for count in wanted)
    digest = file_sha256(None, weights)[:16]
    name = f"{weights.stem}-{digest}-{frames}+{lookahead}-{options.precision}-{__version__}.onnx"
    path = cache_folder() / "exported" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        exporting = ExportOptions(
            weights=str(weights.absolute()),
            frames=frames,
            lookahead=lookahead,
            precision=options.precision,
            overwrite=True,
        )
        model = ExportedModel(about.config, about.card, frames, lookahead, None, options.precision)
        if embedded_template(model) is not None:
            export_network(path, exporting)
        else:
            _export_in_process(path, exporting)
    return path


def _export_in_process(path: Path, options: ExportOptions) -> None:
    """Export in a process of its own: this one does without MindSpore."""
    weights = Path(str(options.weights))
    if find_spec("mindspore") is None or find_spec("onnx") is None:
        own = embedded_model()
        raise RvrtError(
            f"{weights.stem}: windows of {options.frames} + {options.lookahead} frames in {options.precision} are not exported "
            f"yet, which needs MindSpore and the onnx package; run rvrt export {weights.stem}.onnx where they are installed, "
            f"and give --weights {weights.stem}.onnx. Without them rvrt-tiny runs, in windows of {own.frames} + "
            f"{own.lookahead} in float32"
        )
    arguments = ["--weights", str(weights), "--precision", options.precision]
    arguments += ["--frames", str(options.frames), "--lookahead", str(options.lookahead), "--overwrite"]
    command = [sys.executable, "-m", "rvrt_cli", "export", str(path), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0 or not path.is_file():
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RvrtError(f"{path.name}: the export failed: {lines[-1].removeprefix('rvrt: ')}")
