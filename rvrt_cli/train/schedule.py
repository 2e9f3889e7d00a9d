# SPDX-License-Identifier: Apache-2.0
"""Learning rate schedules: pure functions of the step and of the schedule's length; a resumed run needs no state for them."""

from __future__ import annotations

import math

from rvrt_cli.train.train_options import TrainOptions

_WARMUP_DIVISOR = 25  # warm-up starts at the highest rate divided by this (Smith and Topin 2018)
_ONE_CYCLE_WARMUP = 0.3  # share of the steps of a one-cycle schedule
_LONGEST_WARMUP = 0.1  # share of a schedule that --minutes end


def learning_rate(options: TrainOptions, step: int, steps: float | None = None) -> float:
    """The learning rate of step `step`, from 0.

    Linear warm-up for `warmup` steps, then half a cosine from `rate` down to `final_rate` (Loshchilov and Hutter 2017),
    or `rate` throughout. Warm-up takes at most a tenth of a schedule that --minutes make shorter than `options.steps`.

    Args:
        steps: length of the schedule, see `rvrt_cli.train.run_clock`; by default `options.steps`.
    """
    warmup, steps = options.warmup, steps or options.steps
    if options.schedule == "one-cycle" and warmup == 0:
        warmup = int(_ONE_CYCLE_WARMUP * steps)
    elif steps < options.steps:
        warmup = min(warmup, int(_LONGEST_WARMUP * steps))
    if step < warmup:
        return options.rate * (1 + (_WARMUP_DIVISOR - 1) * (step + 1) / warmup) / _WARMUP_DIVISOR
    if options.schedule == "constant":
        return options.rate
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return options.final_rate + (options.rate - options.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
