# SPDX-License-Identifier: Apache-2.0
"""Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015) with a moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ADAM_EPSILON = 1e-8
_CACHE_CHUNK = 1 << 15  # numbers per pass, so that all five buffers stay in the cache


@dataclass(frozen=True)
class Adam:
    """The scalars of one step of Adam or Muon and of the moving average."""

    rate: float
    beta1: float
    beta2: float
    decay: float  # decoupled weight decay (Loshchilov and Hutter 2019)
    step: int  # from 1
    factor: float  # that scales the gradient
    ema_decay: float


def adam_step(
    adam: Adam, value: np.ndarray, gradient: np.ndarray, m: np.ndarray, v: np.ndarray, ema: np.ndarray
) -> None:
    """One step of Adam, in place on float32 (n,) buffers: the weights, both moments and the average; not `gradient`."""
    numbers = (adam.rate, adam.beta1, adam.beta2, adam.decay, adam.factor, adam.ema_decay)
    rate, beta1, beta2, decay, factor, ema_decay = (np.float32(x) for x in numbers)
    one, over1 = np.float32(1), np.float32(1 / (1 - adam.beta1**adam.step))
    over2 = np.float32(1 / (1 - adam.beta2**adam.step))
    for start in range(0, value.size, _CACHE_CHUNK):
        p, g, m1, m2, e = (x[start : start + _CACHE_CHUNK] for x in (value, gradient, m, v, ema))
        g = g * factor
        m1 += (one - beta1) * (g - m1)
        m2 += (one - beta2) * (g * g - m2)
        p -= rate * (over1 * m1 / (np.sqrt(over2 * m2) + np.float32(ADAM_EPSILON)) + decay * p)
        e += (one - ema_decay) * (p - e)
