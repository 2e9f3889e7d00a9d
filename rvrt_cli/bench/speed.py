# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a call of a network."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rvrt_cli.bench.bench_options import RANDOM, BenchOptions
from rvrt_cli.bench.machine import (
    OtherLoad,
    describe_machine,
    isa_note,
    peak_device_bytes,
    peak_rss_bytes,
    reset_device_peak,
    synchronize,
)
from rvrt_cli.bench.matrix_product import measure_product
from rvrt_cli.bench.published_figures import published_speed
from rvrt_cli.bench.report import make_report
from rvrt_cli.bench.stages import stage_seconds
from rvrt_cli.device import host_free_bytes, use_device
from rvrt_cli.errors import OptionError, OutOfMemoryError, WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.upscale import load_network

if TYPE_CHECKING:
    from rvrt_cli.model import Network

MB = 1e6
LOAD_THRESHOLD = 0.05  # share of the processors; more taken by other programs is reported


def open_network(options: BenchOptions) -> Network:
    """The network to measure; with `--weights random` that of a preset, with random weights.

    Raises:
        WeightsError: no such weights.
        OptionError: no such preset.
        RvrtError: no such device.
    """
    if options.weights != RANDOM:
        try:
            return _with_any_noise(load_network(options.model, options.weights, options.device, options.precision))
        except WeightsError as error:
            if options.weights is None and options.model in PRESETS and options.protocol is None:
                raise WeightsError(f"{error}; to measure its speed without them, add --weights random") from error
            raise
    if options.model not in PRESETS:
        raise OptionError(f"--model {options.model}: --weights random needs one of {', '.join(PRESETS)}")
    device = use_device(options.device, options.precision)
    from rvrt_cli.model import Network  # brings MindSpore, whose device is set by now

    return _with_any_noise(Network(*preset_with_random_weights(options.model), device))


def _with_any_noise(network: Network) -> Network:
    """The network, with a noise level if it takes one: its time does not depend on which."""
    return network.with_noise(0.1) if network.config.noise_input else network


def preset_with_random_weights(model: str) -> tuple[RVRTConfig, dict[str, np.ndarray], dict[str, Any]]:
    """Configuration, weights and card of a preset; MindSpore's device must have been set before."""
    from rvrt_cli.model import initial_weights

    config = PRESETS[model]
    return config, initial_weights(config), {"name": model, "trained": False, "degradation": "none"}


def measure_speed(options: BenchOptions, network: Network | None = None, whole: bool = True) -> dict[str, Any]:
    """Time calls of the network: a report of kind "speed".

    Args:
        network: by default the one that `options` names.
        whole: measure the time by stage and the rates of a matrix product too, not only the calls.

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
        reset_device_peak(device)
        first = _call_seconds(network, clip)
        _call_seconds(network, clip)  # the second call still touches new memory
        load = OtherLoad()
        seconds = [_call_seconds(network, clip) for _ in range(options.repeat)]
        other = load.share()
        peak, device_peak = peak_rss_bytes(), peak_device_bytes(device)
        by_stage = _stage_times(network, clip) if whole else None
    except OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{frames} frames of {width}x{height} px do not fit ({error}); give fewer --frames or a smaller --size"
        ) from error
    median = statistics.median(seconds)
    gflop = count_flops(network.config, frames, height, width).total / 1e9
    product = measure_product(device) if whole else None
    facts = _with_load_note(network_facts(network, random=options.weights == RANDOM), other)
    if product is not None:
        facts |= {**product.facts(), "notes": [*facts["notes"], *product.notes()]}
    return make_report(
        "speed",
        **facts,
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
        efficiency=gflop / median / product.best if product else None,
        compile_seconds=max(0.0, first - median),
        peak_rss_mb=peak / MB,
        peak_device_mb=None if device_peak is None else device_peak / MB,
        stages=by_stage,
        published=published_speed(frames, width, height) if network.scale > 1 else [],
    )


_TRAINED_WORDS = {True: "trained", False: "untrained", None: "unknown"}  # as a report says what a card does


def network_facts(network: Network, random: bool = False) -> dict[str, Any]:
    """The keys of a report that describe the network and the machine."""
    notes = list(network.notes)
    if random:
        notes = [note for note in notes if "untrained" not in note]
        notes.append(
            "random weights: only speed is meaningful, and even that depends on the weights, which decide where samples are fetched"
        )
    machine = describe_machine(network.device)
    notes += filter(None, [isa_note(machine)])
    return {
        "network": network.card["name"],
        "weights": RANDOM if random else _TRAINED_WORDS[network.card["trained"]],
        "parameters": sum(math.prod(parameter.shape) for parameter in network.cell.get_parameters()),
        "machine": machine,
        "notes": notes,
    }


def _with_load_note(facts: dict[str, Any], other: float) -> dict[str, Any]:
    """`facts` with a note, where other programs have slowed the calls down."""
    if other <= LOAD_THRESHOLD:
        return facts
    note = f"other programs took {other:.0%} of the processors while the calls were timed; a quiet machine is faster"
    return {**facts, "notes": [*facts["notes"], note]}


def moving_clip(frames: int, height: int, width: int) -> np.ndarray:
    """(1, T, H, W, 3) float32 in [0, 1]: smooth noise that moves by one px per frame, for the optical flow to follow."""
    noise = np.random.default_rng(0).random((height + frames + 3, width + frames + 3, 3), np.float32)
    for axis in (0, 1):  # averaged over 4 px
        noise = np.stack([np.roll(noise, shift, axis) for shift in range(4)]).mean(0)
    return np.stack([noise[t : t + height, t : t + width] for t in range(frames)])[None]


def _call_seconds(network: Network, clip: np.ndarray) -> float:
    from rvrt_cli.ops import compiled_at_once  # MindSpore's device is set by now

    synchronize(network.device)
    start = time.perf_counter()
    with compiled_at_once():
        network(clip, None, clip.shape[1])  # ends with the output in main memory
    synchronize(network.device)
    return time.perf_counter() - start


def _stage_times(network: Network, clip: np.ndarray) -> dict[str, float]:
    with stage_seconds(network) as seconds:
        total = _call_seconds(network, clip)
    return {**seconds, "other": max(0.0, total - sum(seconds.values()))}


def _check_memory(network: Network, frames: int, height: int, width: int) -> None:
    """Refuse a call for which the system would kill the program."""
    needed = network.memory(frames, height, width)
    free = network.device.free_bytes() or host_free_bytes()
    if needed > free:
        raise OutOfMemoryError(f"about {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free")
