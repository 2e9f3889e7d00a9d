# SPDX-License-Identifier: Apache-2.0
"""How long a job may take, before it has begun: the network's operations at a share of the speed of a matrix product."""

from __future__ import annotations

import functools
import time

import numpy as np

from rvrt_cli.model.cost import count_flops
from rvrt_cli.model.outline import NetworkOutline
from rvrt_cli.upscale.job import Job

_MATRIX_EDGE, _PRODUCTS = 768, 6  # of the product that is timed: a tenth of a second
# Of NumPy's product, measured with rvrt-tiny on 96x64 to 320x180 px: between 0.4 and 0.8 with the kernels
_KERNELS_SHARE = 0.6
_DEFINITIONS_SHARE = 0.055


def estimate_seconds(job: Job) -> float | None:
    """Seconds of computing on a CPU; None on an accelerator, or where the number of frames is not known.

    Good to a factor of two: processors differ in how much of a matrix product's speed the network reaches.
    """
    network, plan, options = job.inputs.network, job.plan, job.options
    if job.frames is None or network.device.kind != "cpu":
        return None
    left = max(0, job.frames - job.kept)
    emitted = plan.window or left
    frames = min(left, emitted + plan.lookahead)
    if not frames:
        return 0.0
    calls = plan.tiles * (1.0 if frames == left else left / emitted)
    outline = network if isinstance(network, NetworkOutline) else network.outline
    rate = (_KERNELS_SHARE if outline.uses_kernels else _DEFINITIONS_SHARE) * _product_rate()
    machines = options.ranks / options.ranks_here
    return calls * count_flops(network.config, frames, *plan.tile).total / (rate * machines)


@functools.cache
def _product_rate() -> float:
    """Operations per second of NumPy's float32 matrix product."""
    matrix = np.full((_MATRIX_EDGE, _MATRIX_EDGE), 1 / _MATRIX_EDGE, np.float32)
    best = float("inf")
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        np.matmul(matrix, matrix)
        best = min(best, time.perf_counter() - start)
    return 2 * _MATRIX_EDGE**3 / best
