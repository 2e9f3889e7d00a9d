# SPDX-License-Identifier: Apache-2.0
"""Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), for the matrices of hidden layers.

Their momentum is orthogonalized: all its singular values become about 1, so that directions in which gradients are small are
learned as fast as the others. In NumPy, like Adam: see `optimizer`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from rvrt_cli.train.adam import Adam

MOMENTUM = 0.95  # Nesterov's
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that is applied to the singular values
_ITERATIONS = 5
# Root mean square of an update at a learning rate of 1, about that of Adam (Liu et al., "Muon is Scalable for LLM Training", 2025)
_UPDATE_RMS = 0.2
_PIXEL_CHANNELS = 4  # input channels of a layer that sees pixels, not features


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter is the weight of a layer between others, for which Muon is meant.

    Layers that read pixels, the last layer, that of the offsets, biases and tables are left to Adam.
    """
    last = name.startswith("conv_last") or "conv_offset.10" in name
    return name.endswith(".weight") and len(shape) > 1 and shape[1] > _PIXEL_CHANNELS and not last


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Outputs × all that each output is made of: the shape of a layer's weight as a matrix."""
    return shape[0], math.prod(shape[1:])


def muon_step(
    step: Adam,
    shapes: Sequence[tuple[int, int]],
    value: np.ndarray,
    gradient: np.ndarray,
    m: np.ndarray,
    ema: np.ndarray,
) -> None:
    """One step of Muon, in place on float32 (n,) buffers: weights, momentum and average; not `gradient`.

    Args:
        step: Adam's own `beta1`, `beta2` and `step` are not used.
        shapes: of the matrices in the buffers, those of one shape next to each other.
    """
    rate, decay, factor, ema_decay = (np.float32(x) for x in (step.rate, step.decay, step.factor, step.ema_decay))
    one, beta = np.float32(1), np.float32(MOMENTUM)
    start = 0
    for (rows, columns), same in itertools.groupby(shapes):
        count = len(list(same))
        part = slice(start, start + count * rows * columns)
        start = part.stop
        g = factor * gradient[part]
        m[part] += (one - beta) * (g - m[part])
        ahead = beta * m[part] + (one - beta) * g
        direction = orthogonalized(ahead.reshape(count, rows, columns)).ravel()
        size = np.float32(_UPDATE_RMS * math.sqrt(max(rows, columns)))
        value[part] -= rate * (size * direction + decay * value[part])
        ema[part] += (one - ema_decay) * (value[part] - ema[part])


def orthogonalized(matrices: np.ndarray) -> np.ndarray:
    """The matrices (K, m, n) with singular values of about 1, from 0.7 to 1.2, by Newton–Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = np.ascontiguousarray(matrices.transpose(0, 2, 1)) if tall else matrices
    x = x / (np.linalg.norm(x, axis=(1, 2), keepdims=True) + np.float32(1e-12))
    a, b, c = (np.float32(coefficient) for coefficient in _COEFFICIENTS)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(0, 2, 1)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.transpose(0, 2, 1) if tall else x
