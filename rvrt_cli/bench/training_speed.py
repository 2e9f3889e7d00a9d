# SPDX-License-Identifier: Apache-2.0
"""Time of a whole training step: loss, forward, backward, optimizer."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.machine import peak_rss_bytes
from rvrt_cli.bench.speed import MB, moving_clip, open_network

if TYPE_CHECKING:
    from rvrt_cli.model import RVRTConfig

STEP_BATCH, STEP_FRAMES, STEP_EDGE = 4, 6, 32  # samples, frames, LR px
_STEP_PASSES = 3  # operations of a step over those of its forward pass: each product has two gradients


def _training_batch(config: RVRTConfig, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of a step, with samples of `edge` px before upscaling."""
    low = np.concatenate([moving_clip(STEP_FRAMES, edge, edge)] * STEP_BATCH)
    high = low.repeat(config.scale, -2).repeat(config.scale, -3)
    if config.noise_input:
        low = np.concatenate([low, np.full_like(low[..., :1], 0.1)], -1)
    return low, high


def measure_training(options: BenchOptions, gemm_gflops: float) -> dict[str, Any]:
    """Time steps of a network of the same sizes, from its initial weights: 4 samples of 6 frames of 32×32 px of features.

    In a process of its own: in the memory that calls and a matrix product have left in MindSpore's pool, the tensors of a
    step do not lie side by side, and it takes 0.4 GB more.

    Args:
        options: of the network, and how many steps are timed.
        gemm_gflops: rate of the matrix product with which the step's is compared [GFLOP/s].

    Returns:
        "network" (its name), "batch", "frames", "width", "height", "seconds_per_step" (median),
        "steps_per_hour", "gflop_per_step", "gflops", "gemm_gflops", "efficiency", "compile_seconds", "peak_rss_mb".
    """
    return run_isolated(_measure_steps, options, gemm_gflops)


def _measure_steps(options: BenchOptions, gemm_gflops: float) -> dict[str, Any]:
    network = open_network(options)
    from rvrt_cli.data.batch_spec import TASK_DEGRADATIONS
    from rvrt_cli.model import initial_weights
    from rvrt_cli.model.config import UPSAMPLING
    from rvrt_cli.model.cost import count_flops
    from rvrt_cli.train.communicator import Communicator
    from rvrt_cli.train.learner import Learner
    from rvrt_cli.train.train_options import TrainOptions, task_of
    from rvrt_cli.train.training_counters import TrainingCounters

    device, config = network.device, network.config
    task, edge = task_of(config), STEP_EDGE * config.reduction
    run = TrainOptions(
        task=task,
        degradation=TASK_DEGRADATIONS[task][0],
        network=config.to_dict(),  # every size, so that no preset counts
        batch=STEP_BATCH,
        frames=STEP_FRAMES,
        crop=UPSAMPLING * STEP_EDGE,
        precision=device.precision,
    )
    weights = {f"value.{name}": array for name, array in initial_weights(run.config).items()}
    learner = Learner(run, device, Communicator(), weights, TrainingCounters())
    low, high = _training_batch(config, edge)

    def step_seconds() -> float:
        start = time.perf_counter()
        learner.step(low, high, run.rate)  # ends with the loss and all gradients in main memory
        return time.perf_counter() - start

    first, _ = step_seconds(), step_seconds()
    seconds = statistics.median(step_seconds() for _ in range(options.repeat))
    forward = count_flops(run.config, STEP_FRAMES, edge, edge).total * STEP_BATCH
    gflop = _STEP_PASSES * forward / 1e9
    return {
        "network": network.card["name"],
        "batch": STEP_BATCH,
        "frames": STEP_FRAMES,
        "width": edge,
        "height": edge,
        "seconds_per_step": seconds,
        "steps_per_hour": 3600 / seconds,
        "gflop_per_step": gflop,
        "gflops": gflop / seconds,
        "gemm_gflops": gemm_gflops,
        "efficiency": gflop / seconds / gemm_gflops,
        "compile_seconds": max(0.0, first - seconds),
        "peak_rss_mb": peak_rss_bytes() / MB,
    }
