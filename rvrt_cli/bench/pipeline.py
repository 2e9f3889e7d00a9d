"""The whole of `rvrt upscale`, decoding and encoding included.

The result has: frames, width, height (of the source), seconds, frames_per_second, network_seconds, waiting_for_source_seconds,
waiting_for_target_seconds, compile_seconds (of the first of two runs, beyond the second), window, lookahead, tile (height,
width), tiles, peak_rss_mb (of this program; ffmpeg's processes are not in it).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rvrt_cli.bench.apart import apart
from rvrt_cli.bench.machine import peak_rss_bytes
from rvrt_cli.bench.options import BenchOptions
from rvrt_cli.engine.network import check_size
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import Job, Progress, prepare, run
from rvrt_cli.video.probe import probe


def check_pipeline(options: BenchOptions) -> None:
    """Refuse a clip that cannot be upscaled, before anything is measured.

    Raises:
        RvrtError: it is no video, or too small.
    """
    assert options.pipeline is not None
    info = probe(options.pipeline)
    check_size(info.width, info.height)


def measure_pipeline(options: BenchOptions) -> dict[str, Any]:
    """Upscale `options.pipeline` twice into a folder that is thrown away, in another process; the second run counts.

    Raises:
        RvrtError: with the remedy.
    """
    result: dict[str, Any] = apart(_measure, options)
    return result


def _measure(options: BenchOptions) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rvrt-bench-") as folder:
        _, first = _run(options, Path(folder) / "first.mkv")
        job, done = _run(options, Path(folder) / "second.mkv")
    return {
        "frames": done.frames,
        "width": job.source.width,
        "height": job.source.height,
        "seconds": done.elapsed,
        "frames_per_second": done.frames / done.elapsed,
        "network_seconds": done.network,
        "waiting_for_source_seconds": done.waiting_for_source,
        "waiting_for_target_seconds": done.waiting_for_target,
        "compile_seconds": max(0.0, first.elapsed - done.elapsed),
        "window": job.plan.window,
        "lookahead": job.plan.lookahead,
        "tile": list(job.plan.tile),
        "tiles": job.plan.tiles,
        "peak_rss_mb": peak_rss_bytes() / 1e6,
    }


def _run(options: BenchOptions, target: Path) -> tuple[Job, Progress]:
    assert options.pipeline is not None
    chosen = UpscaleOptions(options.model, options.weights, options.device, options.precision)
    job = prepare(options.pipeline, target, chosen)
    return job, run(job)
