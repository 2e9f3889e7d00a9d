# SPDX-License-Identifier: Apache-2.0
"""Time of the whole of `rvrt upscale`, decoding and encoding included.

The result has: frames, width, height (of the source), seconds, frames_per_second, network_seconds, network_alone_seconds (the
same windows while nothing is decoded or encoded), waiting_for_source_seconds, waiting_for_target_seconds, compile_seconds
(time of the first of two runs beyond that of the second), window, lookahead, tile (height, width), tiles, peak_rss_mb (of
this program, without ffmpeg's processes).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rvrt_cli import engine
from rvrt_cli.bench.bench_options import RANDOM, BenchOptions
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.machine import peak_rss_bytes
from rvrt_cli.bench.speed import MB, preset_with_random_weights
from rvrt_cli.device import use_device
from rvrt_cli.engine import check_frame_size
from rvrt_cli.frame import Frame
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import Job, Progress, prepare, run
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.weights import save_weights


def check_pipeline(options: BenchOptions) -> None:
    """Refuse a clip that cannot be upscaled, before anything is measured.

    Raises:
        RvrtError: it is not a video, or too small.
    """
    assert options.pipeline is not None
    info = probe(options.pipeline)
    check_frame_size(info.width, info.height)


def measure_pipeline(options: BenchOptions) -> dict[str, Any]:
    """Upscale `options.pipeline` twice into a temporary folder, in a process of its own; the second run counts.

    Raises:
        RvrtError: with the remedy.
    """
    result: dict[str, Any] = run_isolated(_measure_upscale, options)
    return result


def _measure_upscale(options: BenchOptions) -> dict[str, Any]:
    use_device(options.device, options.precision)
    from rvrt_cli.ops import compiled_at_once

    with tempfile.TemporaryDirectory(prefix="rvrt-bench-") as name, compiled_at_once():
        folder, weights = Path(name), options.weights
        if weights == RANDOM:
            config, arrays, card = preset_with_random_weights(options.model)
            weights = str(folder / "random.safetensors")
            save_weights(Path(weights), arrays, config, card)
        _, first = _upscale_once(options, weights, folder / "first.mkv")
        job, done = _upscale_once(options, weights, folder / "second.mkv")
        peak = peak_rss_bytes()
        alone = _network_alone(job, folder / "frames")
    return {
        "frames": done.frames,
        "width": job.source.width,
        "height": job.source.height,
        "seconds": done.elapsed,
        "frames_per_second": done.frames / done.elapsed,
        "network_seconds": done.network,
        "network_alone_seconds": alone,
        "waiting_for_source_seconds": done.waiting_for_source,
        "waiting_for_target_seconds": done.waiting_for_target,
        "compile_seconds": max(0.0, first.elapsed - done.elapsed),
        "window": job.plan.window,
        "lookahead": job.plan.lookahead,
        "tile": list(job.plan.tile),
        "tiles": job.plan.tiles,
        "peak_rss_mb": peak / MB,
    }


def _network_alone(job: Job, scratch: Path) -> float:
    """Seconds that the network takes for the windows of a job, with the frames decoded beforehand into the file `scratch`."""
    shape: tuple[int, ...] = ()
    dtype, count = np.dtype(np.uint8), 0
    with open_reader(job.source) as reader, scratch.open("wb") as file:
        for frame in reader:
            shape, dtype, count = frame.pixels.shape, frame.pixels.dtype, count + 1
            file.write(np.ascontiguousarray(frame.pixels).data)

    def frames() -> Iterator[Frame]:
        with scratch.open("rb") as file:
            for number in range(count):
                yield Frame(np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape), number)

    started = time.monotonic()
    for segment in engine.stream(frames(), job.network, job.plan):
        for _ in segment:
            pass
    return time.monotonic() - started


def _upscale_once(options: BenchOptions, weights: str | None, target: Path) -> tuple[Job, Progress]:
    assert options.pipeline is not None
    chosen = UpscaleOptions(model=options.model, weights=weights, device=options.device, precision=options.precision)
    job = prepare(options.pipeline, target, chosen)
    return job, run(job)
