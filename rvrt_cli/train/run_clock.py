# SPDX-License-Identifier: Apache-2.0
"""How long a run has taken, over all its starts, and how long its schedule is if --minutes end it. No MindSpore import."""

from __future__ import annotations

import time
from collections.abc import Callable

from rvrt_cli.train.train_options import TrainOptions
from rvrt_cli.train.training_counters import TrainingCounters


class RunClock:
    """Keeps `counters.elapsed`, and ends a run with its last step or its time, whichever comes first.

    Args:
        counters: as this start of the run found them.
        began: when it began, on the clock `now`.
        agree: makes a number the same on all ranks, which must not differ in learning rate and last step.
    """

    def __init__(
        self,
        options: TrainOptions,
        counters: TrainingCounters,
        began: float,
        agree: Callable[[float], float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options, self._counters, self._agree, self._now = options, counters, agree, now
        self._began, self._before = began, counters.elapsed
        # Step and time after the first step here, which includes compilation
        self._first: tuple[int, float] | None = None

    @property
    def ended(self) -> bool:
        """Whether the last step has been done."""
        limit = 60 * self._options.minutes
        return self._counters.step >= self._options.steps or 0 < limit <= self._counters.elapsed

    @property
    def schedule_steps(self) -> float:
        """Length of the learning rate schedule [steps]: --steps, or what --minutes will allow at the pace so far."""
        options, counters = self._options, self._counters
        step, elapsed = self._first or (counters.step, counters.elapsed)
        if not options.minutes or counters.step == step or counters.elapsed <= elapsed:
            return options.steps
        pace = (counters.elapsed - elapsed) / (counters.step - step)
        return min(options.steps, counters.step + (60 * options.minutes - counters.elapsed) / pace)

    def count_step(self) -> None:
        """Bring `counters.elapsed` up to date, after a step."""
        here = self._now() - self._began
        self._counters.elapsed = self._before + (self._agree(here) if self._options.minutes else here)
        if self._first is None:
            self._first = self._counters.step, self._counters.elapsed
