# SPDX-License-Identifier: Apache-2.0
"""The same call of the exported network in ONNX Runtime, for comparison: time, memory, and how far its output is."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.machine import peak_rss_bytes
from rvrt_cli.bench.speed import MB, moving_clip
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale.exported import exported_file, open_exported

if TYPE_CHECKING:
    from rvrt_cli.model import Network


def measure_onnx(options: BenchOptions, network: Network) -> dict[str, Any]:
    """The entry `onnx` of a report of kind "speed"; measured in a process of its own, which does not load MindSpore.

    Raises:
        RvrtError: with the remedy.
    """
    job = _exported_job(options)
    exported_file(job)  # its export is not part of the measurement
    width, height = options.width_height
    expected, _ = network(moving_clip(options.frames, height, width), None, options.frames)
    return run_isolated(_measure_session, job, options, expected)


def _exported_job(options: BenchOptions) -> UpscaleOptions:
    """The exported network for one call of `options`, without lookahead."""
    return UpscaleOptions(
        model=options.model,
        weights=options.weights,
        runtime="onnx",
        device=options.device,
        precision=options.precision,
        window=options.frames,
        lookahead=0,
    )


def _measure_session(job: UpscaleOptions, options: BenchOptions, expected: np.ndarray) -> dict[str, Any]:
    import onnxruntime

    start = time.perf_counter()
    network = open_exported(job)
    width, height = options.width_height
    clip = moving_clip(options.frames, height, width)
    output, _ = network(clip, None, options.frames)
    opening = time.perf_counter() - start
    seconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        network(clip, None, options.frames)
        seconds.append(time.perf_counter() - start)
    error = float(np.mean((output.astype(np.float64) - expected) ** 2))
    return {
        "version": onnxruntime.__version__,
        "provider": network.device.kind,
        "seconds_per_call": statistics.median(seconds),
        "opening_seconds": opening,
        "peak_rss_mb": peak_rss_bytes() / MB,
        "psnr_to_mindspore": float("inf") if error == 0 else float(-10 * np.log10(error)),
        "largest_difference": float(np.abs(output - expected).max()),
    }
