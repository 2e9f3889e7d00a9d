"""Learning rates: a pure function of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math

from rvrt_cli.train.train_options import TrainOptions

_START = 25  # a rise begins at the highest rate divided by this (Smith and Topin 2018)
_RISING = 0.3  # share of a one-cycle schedule


def learning_rate(options: TrainOptions, step: int) -> float:
    """The rate of step `step`, from 0 to `options.steps` - 1.

    A linear rise for `warmup` steps, then half a cosine from `rate` down to `final_rate` (Loshchilov and Hutter 2017),
    or `rate` throughout.
    """
    rising = options.warmup
    if options.schedule == "one-cycle" and rising == 0:
        rising = int(_RISING * options.steps)
    if step < rising:
        return options.rate * (1 + (_START - 1) * (step + 1) / rising) / _START
    if options.schedule == "constant":
        return options.rate
    done = min(1.0, (step - rising) / max(1, options.steps - rising))
    return options.final_rate + (options.rate - options.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
