"""Time and memory of one call of a network."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rvrt_cli.bench.bench_options import RANDOM, BenchOptions
from rvrt_cli.bench.machine import (
    OtherLoad,
    describe,
    forget_device_peak,
    peak_device_bytes,
    peak_rss_bytes,
    synchronize,
)
from rvrt_cli.bench.published_figures import published_speed
from rvrt_cli.bench.report import report
from rvrt_cli.bench.stages import stage_seconds
from rvrt_cli.device import Device, host_free_bytes, use_device
from rvrt_cli.errors import OptionError, OutOfMemoryError, WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.upscale import load_network

if TYPE_CHECKING:
    from rvrt_cli.model import Network

MB = 1e6
NOISE = 0.05  # of the processors; what other programs may take before a reader is told
_GEMM = 2048  # edge of the matrices whose product shows what the machine can do
_GEMM_REPEAT, _GEMM_ROW = 5, 4  # measurements, and products in a row in each: fetching the last one weighs little


def open_network(options: BenchOptions) -> Network:
    """The network to measure; with `--weights random` a preset's, with weights that only look like some.

    Raises:
        WeightsError: no such weights; OptionError: no such preset; RvrtError: no such device.
    """
    if options.weights != RANDOM:
        try:
            return load_network(options.model, options.weights, options.device, options.precision)
        except WeightsError as error:
            if options.weights is None and options.model in PRESETS and options.protocol is None:
                raise WeightsError(f"{error}; its speed can be measured with --weights random") from error
            raise
    if options.model not in PRESETS:
        raise OptionError(f"--model {options.model}: --weights random needs one of {', '.join(PRESETS)}")
    device = use_device(options.device, options.precision)
    from rvrt_cli.model import Network  # brings MindSpore, whose device is set by now

    return Network(*random_weights(options.model), device)


def random_weights(model: str) -> tuple[RVRTConfig, dict[str, np.ndarray], dict[str, Any]]:
    """Sizes, weights and card of a preset; MindSpore's device has been chosen before."""
    from rvrt_cli.model import initial_weights

    config = PRESETS[model]
    return config, initial_weights(config), {"name": model, "trained": False, "degradation": "none"}


def measure_speed(options: BenchOptions, network: Network | None = None, whole: bool = True) -> dict[str, Any]:
    """Time calls of the network: a report of kind "speed".

    Args:
        network: by default the one that `options` names.
        whole: with the time by stage, and the rate of a matrix product; else the calls alone.

    Raises:
        RvrtError: with the remedy.
    """
    network = network or open_network(options)
    from rvrt_cli.model.cost import count_flops  # MindSpore's device is set by now

    device, frames = network.device, options.frames
    width, height = options.width_height
    try:
        _check_memory(network, frames, height, width)
        clip = moving_clip(frames, height, width)
        forget_device_peak(device)
        first = _seconds(network, clip)
        _seconds(network, clip)  # the second call still touches memory for the first time
        load = OtherLoad()
        seconds = [_seconds(network, clip) for _ in range(options.repeat)]
        other = load.share()
        peak, device_peak = peak_rss_bytes(), peak_device_bytes(device)
        by_stage = _stages(network, clip) if whole else None
    except OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{frames} frames of {width}x{height} px do not fit ({error}); give fewer --frames or a smaller --size"
        ) from error
    median = statistics.median(seconds)
    gflop = count_flops(network.config, frames, height, width).total / 1e9
    gemm = gemm_gflops(device) if whole else None
    return report(
        "speed",
        **_with_load(about(network, random=options.weights == RANDOM), other),
        other_load=other,
        frames=frames,
        width=width,
        height=height,
        repeat=options.repeat,
        seconds_per_call=median,
        seconds_per_call_min=min(seconds),
        seconds_per_call_max=max(seconds),
        seconds_per_frame=median / frames,
        frames_per_second=frames / median,
        gflop_per_call=gflop,
        gflops=gflop / median,
        gemm_gflops=gemm,
        efficiency=gflop / median / gemm if gemm else None,
        compile_seconds=max(0.0, first - median),
        peak_rss_mb=peak / MB,
        peak_device_mb=None if device_peak is None else device_peak / MB,
        stages=by_stage,
        published=published_speed(frames, width, height),
    )


def about(network: Network, random: bool = False) -> dict[str, Any]:
    """The keys of a report that say which network on which machine."""
    notes = list(network.notes)
    if random:
        notes = [note for note in notes if "untrained" not in note]
        notes.append(
            "random weights: the figures are of speed only, and where samples are fetched depends on the weights"
        )
    return {
        "network": network.card["name"],
        "weights": RANDOM if random else "trained" if network.card["trained"] else "untrained",
        "parameters": sum(math.prod(parameter.shape) for parameter in network.cell.get_parameters()),
        "machine": describe(network.device),
        "notes": notes,
    }


def _with_load(known: dict[str, Any], other: float) -> dict[str, Any]:
    """`about`, with a note where other programs have made the times longer."""
    if other <= NOISE:
        return known
    note = f"other programs took {other:.0%} of the processors while the calls were timed: on a quiet machine they are faster"
    return {**known, "notes": [*known["notes"], note]}


def moving_clip(frames: int, height: int, width: int) -> np.ndarray:
    """(1, T, H, W, 3) float32 in [0, 1]: soft noise that moves one px a frame, so that a flow has something to follow."""
    noise = np.random.default_rng(0).random((height + frames + 3, width + frames + 3, 3), np.float32)
    for axis in (0, 1):  # four px wide
        noise = np.stack([np.roll(noise, shift, axis) for shift in range(4)]).mean(0)
    return np.stack([noise[t : t + height, t : t + width] for t in range(frames)])[None]


def gemm_gflops(device: Device) -> float:
    """Rate of a product of two square matrices of 2048 under `ms.jit`, in the device's precision, median [GFLOP/s]."""
    import mindspore as ms

    rng = np.random.default_rng(0)
    dtype = ms.float16 if device.precision == "float16" else ms.float32
    matrix = ms.Tensor(rng.standard_normal((_GEMM, _GEMM)) / math.sqrt(_GEMM), dtype)  # products keep their size
    graph = ms.jit(_product)
    seconds = []
    for _ in range(_GEMM_REPEAT + 1):  # the first one compiles and warms up
        product = matrix
        synchronize(device)
        start = time.perf_counter()
        for _ in range(_GEMM_ROW):
            product = graph(matrix, product)
        synchronize(device, product)
        seconds.append(time.perf_counter() - start)
    return 2 * _GEMM**3 * _GEMM_ROW / statistics.median(seconds[1:]) / 1e9


def _product(a: Any, b: Any) -> Any:  # a function of this module: MindSpore knows a graph by the function's id
    return a @ b


def _seconds(network: Network, clip: np.ndarray) -> float:
    synchronize(network.device)
    start = time.perf_counter()
    network(clip, None, clip.shape[1])  # ends with the output in main memory
    synchronize(network.device)
    return time.perf_counter() - start


def _stages(network: Network, clip: np.ndarray) -> dict[str, float]:
    with stage_seconds(network) as seconds:
        total = _seconds(network, clip)
    return {**seconds, "other": max(0.0, total - sum(seconds.values()))}


def _check_memory(network: Network, frames: int, height: int, width: int) -> None:
    """Refuse what would have the system end the program."""
    needed = network.memory(frames, height, width)
    free = network.device.free_bytes() or host_free_bytes()
    if needed > free:
        raise OutOfMemoryError(f"about {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free")


def smaller(options: BenchOptions, frames: int, width: int, height: int) -> BenchOptions:
    """`options` for a call of another size."""
    return dataclasses.replace(options, frames=frames, size=f"{width}x{height}", sweep=False, pipeline=None)
