# SPDX-License-Identifier: Apache-2.0
"""The exported network of `--runtime onnx`: a file of the user's, or one that is exported into the cache at its first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rvrt_cli.engine import whole_clips
from rvrt_cli.engine.plan import DEFAULT_WINDOW
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.files import cache_folder
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.runtime import OnnxNetwork, check_onnx_runtime
from rvrt_cli.version import __version__
from rvrt_cli.weights import file_sha256, find_weights, read_about


def open_exported(options: UpscaleOptions) -> OnnxNetwork:
    """The network that `options` name, in ONNX Runtime.

    Raises:
        OptionError: another window or precision than the model's, no ONNX Runtime, or no such device.
        WeightsError: no such weights, or a damaged model.
        RvrtError: it cannot be exported.
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
        RvrtError: it cannot be exported.
    """
    weights = find_weights(options.model, options.weights)
    config = read_about(weights).config
    wanted = options.window or DEFAULT_WINDOW, options.lookahead
    frames, lookahead = (whole_clips(count, config.clip_size) for count in wanted)
    digest = file_sha256(None, weights)[:16]
    window = f"{frames}+{lookahead}+{config.fusion_lookahead(lookahead)}"
    name = f"{weights.stem}-{digest}-{window}-{options.precision}-{__version__}.onnx"
    path = cache_folder() / "exported" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _export_in_process(path, weights, [frames, lookahead], options.precision)
    return path


def _export_in_process(path: Path, weights: Path, window: list[int], precision: str) -> None:
    """Export in a process of its own: this one does without MindSpore, which traces the network where it is installed."""
    frames, lookahead = map(str, window)
    arguments = ["--weights", str(weights.absolute()), "--frames", frames, "--lookahead", lookahead]
    command = [
        sys.executable,
        "-m",
        "rvrt_cli",
        "export",
        str(path),
        *arguments,
        "--precision",
        precision,
        "--overwrite",
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0 or not path.is_file():
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RvrtError(f"{path.name}: the export failed: {lines[-1].removeprefix('rvrt: ')}")
