# SPDX-License-Identifier: Apache-2.0
"""Adam, Muon, the moving average and the learning rate schedules against their formulas in float64."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rvrt_cli.train.adam import Adam, adam_step
from rvrt_cli.train.muon import MOMENTUM, muon_step, orthogonalized
from rvrt_cli.train.run_clock import RunClock
from rvrt_cli.train.schedule import learning_rate
from rvrt_cli.train.train_options import TrainOptions
from rvrt_cli.train.training_counters import TrainingCounters


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_follows_its_formulas(decay: float) -> None:
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


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """A matrix with its singular values through Muon's polynomial five times, in float64."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values) @ right


@pytest.mark.parametrize("shape", [(32, 288), (64, 32), (16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_1(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([1e-6, 1, 1e4], np.float32)[:, None, None]
    matrices = rng.standard_normal((3, *shape)).astype(np.float32) * sizes
    found = orthogonalized(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        np.testing.assert_allclose(result, newton_schulz(matrix), atol=5e-4)
    values = np.linalg.svd(found, compute_uv=False)
    assert 0.6 < np.median(values) < 1.25
    assert values.max() < 1.25
    assert not orthogonalized(np.zeros((1, *shape), np.float32)).any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_follows_its_formulas(decay: float) -> None:
    rng = np.random.default_rng(2)
    shapes = [(8, 24), (8, 24), (12, 4)]
    size = sum(rows * columns for rows, columns in shapes)
    value, ema = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    m = np.zeros(size, np.float32)
    p, e, a = value.astype(np.float64), ema.astype(np.float64), np.zeros(size)
    for t in range(1, 5):
        gradient = rng.standard_normal(size).astype(np.float32)
        step = Adam(rate=1e-2, beta1=0.9, beta2=0.99, decay=decay, step=t, factor=0.5, ema_decay=0.9)
        muon_step(step, shapes, value, gradient, m, ema)
        g = 0.5 * gradient.astype(np.float64)
        a = MOMENTUM * a + (1 - MOMENTUM) * g
        start = 0
        for rows, columns in shapes:
            part = slice(start, start + rows * columns)
            start = part.stop
            direction = newton_schulz((MOMENTUM * a[part] + (1 - MOMENTUM) * g[part]).reshape(rows, columns)).ravel()
            p[part] -= 1e-2 * (0.2 * np.sqrt(max(rows, columns)) * direction + decay * p[part])
        e = 0.9 * e + 0.1 * p
    assert np.abs(value - p).max() < 1e-5
    assert np.abs(ema - e).max() < 1e-5
    assert np.abs(m - a).max() < 1e-6


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


@dataclass
class Start:
    """One start of a run on a clock of its own: 20 s of compiling, steps of 0.5 s, 20 s of validation every 100 steps."""

    options: TrainOptions
    counters: TrainingCounters
    now: float = 1000.0

    def rates(self, steps: int | None = None) -> list[float]:
        """Learning rates, of all steps until the end of the run or of `steps` steps."""
        clock = RunClock(self.options, self.counters, self.now, lambda seconds: seconds, lambda: self.now)
        self.now += 20
        rates: list[float] = []
        while not clock.ended and len(rates) != steps:
            rates.append(learning_rate(self.options, self.counters.step, clock.schedule_steps))
            self.counters.step += 1
            self.now += 0.5
            clock.count_step()
            self.now += 20 * (self.counters.step % 100 == 0)
        return rates


def test_with_minutes_the_schedule_ends_when_the_time_does() -> None:
    options = TrainOptions(steps=40_000, rate=1e-3, final_rate=1e-6, warmup=200, minutes=30)
    counters = TrainingCounters()
    rates = Start(options, counters).rates()
    assert 1800 <= counters.elapsed < 1821
    assert 2300 < len(rates) < 2700  # 1780 s at 0.7 s a step
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert 190 <= rates.index(max(rates)) <= 201  # warm-up is shorter than a tenth, and so as long as asked for
    assert rates[-1] < 1e-5
    middle = rates[len(rates) // 2]  # half a cosine is half way down at its middle, a little later for the warm-up
    assert 4.8e-4 < middle < 6.5e-4


def test_a_resumed_run_has_the_minutes_that_are_left() -> None:
    options = TrainOptions(steps=40_000, rate=1e-3, final_rate=1e-6, minutes=30)
    counters = TrainingCounters()
    first = Start(options, counters).rates(steps=1000)
    resumed = Start(options, counters, now=77_000.0).rates()
    assert 1800 <= counters.elapsed < 1821
    assert 1.1e-3 > resumed[2] > 0.9 * first[-1]
    assert resumed[-1] < 1e-5


def test_minutes_beyond_the_steps_change_nothing_and_few_shorten_the_warm_up() -> None:
    options = TrainOptions(steps=300, rate=1e-3, warmup=20)
    plain = [learning_rate(options, step) for step in range(300)]
    assert Start(replace(options, minutes=60), TrainingCounters()).rates() == pytest.approx(plain)
    short = Start(replace(options, steps=40_000, warmup=500, minutes=3), TrainingCounters()).rates()
    assert max(short) > 0.9e-3  # although there are fewer than 500 steps
    assert short[-1] < 2e-5
