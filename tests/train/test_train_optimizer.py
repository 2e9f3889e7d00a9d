# SPDX-License-Identifier: Apache-2.0
"""Adam, the moving average and the learning rate schedules against their formulas in float64."""

import math

import numpy as np
import pytest

from rvrt_cli.train.schedule import learning_rate
from rvrt_cli.train.train_options import TrainOptions


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_follows_its_formulas(decay: float) -> None:
    from rvrt_cli.train.optimizer import Adam, adam_step

    rng = np.random.default_rng(0)
    size = 70_000  # more than two chunks
    value, ema = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    m, v = np.zeros(size, np.float32), np.zeros(size, np.float32)
    p, e, a, b = (x.astype(np.float64) for x in (value, ema, m, v))
    largest = np.zeros(size)
    for t in range(1, 6):
        gradient = (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 2, size)).astype(np.float32)
        adam_step(
            Adam(rate=1e-3, beta1=0.9, beta2=0.99, decay=decay, step=t, factor=0.5, ema_decay=0.95),
            value,
            gradient,
            m,
            v,
            ema,
        )
        g = 0.5 * gradient.astype(np.float64)
        largest = np.maximum(largest, np.abs(g))
        a = 0.9 * a + 0.1 * g
        b = 0.99 * b + 0.01 * g**2
        p = p - 1e-3 * (a / (1 - 0.9**t) / (np.sqrt(b / (1 - 0.99**t)) + 1e-8) + decay * p)
        e = 0.95 * e + 0.05 * p
    for name, ours, exact in (("value", value, p), ("average", ema, e)):
        assert np.abs(ours - exact).max() < 2e-6, f"{name}: {np.abs(ours - exact).max():.1e}"
    assert (np.abs(m - a) / largest).max() < 3e-7
    assert (np.abs(v - b) / largest**2).max() < 3e-7


def test_cosine_schedule_from_the_highest_to_the_final_rate() -> None:
    options = TrainOptions(steps=300_000, rate=2e-4, final_rate=1e-7)
    assert learning_rate(options, 0) == pytest.approx(2e-4)
    assert learning_rate(options, 150_000) == pytest.approx((2e-4 + 1e-7) / 2)
    assert learning_rate(options, 100_000) == pytest.approx(1e-7 + (2e-4 - 1e-7) * (1 + math.cos(math.pi / 3)) / 2)
    assert learning_rate(options, 300_000) == pytest.approx(1e-7)


def test_warm_up_and_one_cycle_rise_linearly_and_then_fall() -> None:
    warm = TrainOptions(steps=1000, rate=1e-3, warmup=100)
    assert learning_rate(warm, 49) == pytest.approx(1e-3 * (1 + 24 * 0.5) / 25)
    cycle = TrainOptions(steps=1000, rate=1e-3, schedule="one-cycle")
    rates = [learning_rate(cycle, step) for step in range(1000)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (299, 300)
    assert np.all(np.diff(rates[:300]) > 0)
    assert np.all(np.diff(rates[300:]) < 0)
    constant = TrainOptions(steps=1000, rate=1e-3, schedule="constant", warmup=10)
    assert {learning_rate(constant, step) for step in range(10, 1000)} == {1e-3}
