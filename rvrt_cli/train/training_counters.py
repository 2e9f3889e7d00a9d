# SPDX-License-Identifier: Apache-2.0
"""Counters of a training run, which travel in its checkpoints. Does not import MindSpore."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from typing import Any

from rvrt_cli.errors import RvrtError

INITIAL_LOSS_SCALE = 2.0**16  # with float16 (Micikevicius et al. 2018)
LOSS_SCALE_INTERVAL = 2000  # steps without overflow after which the loss scale doubles
SKIP_WINDOW = 100  # steps among which skipped ones are counted

_FLOAT_COUNTERS = ("loss_scale", "best", "trained", "elapsed")
_LIST_COUNTERS = ("recent_skips", "updates")
_FORMER_NAMES = {"judged": "validation_id"}  # in checkpoints of earlier versions


@dataclass
class TrainingCounters:
    """Counters and scores of one run; plain values that JSON can hold.

    Attributes:
        step: steps done, skipped ones included.
        loss_scale: factor on the float16 loss; 1 with float32.
        good_steps: steps since the loss scale last changed.
        skipped: steps skipped because loss or gradient were not finite.
        recent_skips: those among the last `SKIP_WINDOW` steps, by number.
        best: best mean gain over bicubic so far [dB].
        validation_id: identity of the validation that measured `best`; "" where it is unknown.
        trained: training time [s].
        elapsed: training time, starts, validations and checkpoints included [s].
        updates: steps of the optimizer, per parameter group.
    """

    step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0
    skipped: int = 0
    recent_skips: list[int] = field(default_factory=list)
    best: float | None = None
    validation_id: str = ""
    trained: float = 0.0
    elapsed: float = 0.0
    updates: list[int] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: object) -> TrainingCounters:
        """The counters in a checkpoint's JSON.

        Raises:
            ValueError: unknown entries, or values of other types or out of range.
        """
        if not isinstance(values, dict):
            raise ValueError("its counters are damaged")
        entries: dict[str, Any] = {_FORMER_NAMES.get(str(name), str(name)): value for name, value in values.items()}
        if set(entries) - {entry.name for entry in fields(cls)}:
            raise ValueError("its counters are damaged")
        best = entries.get("best")
        if isinstance(best, float) and not _is_finite(best):  # earlier versions took such scores for the best
            entries["best"] = None
        entries.setdefault("elapsed", entries.get("trained", 0.0))  # earlier versions counted only that
        for name, value in entries.items():
            if not _is_valid_counter(name, value):
                raise ValueError(f"its counter {name} is damaged")
        return cls(**entries)

    def count_step(self, skipped: bool, scaled: bool, max_skipped: int) -> None:
        """Count a step.

        Args:
            skipped: its loss or gradient was not finite.
            scaled: the loss is scaled. An overflow then halves the scale, and only counts once the scale is 1.
            max_skipped: skipped steps that are tolerated among the last `SKIP_WINDOW`.

        Raises:
            RvrtError: there were more.
        """
        self.step += 1
        if scaled:
            self.good_steps = 0 if skipped else self.good_steps + 1
            if skipped and self.loss_scale > 1:
                self.loss_scale /= 2
                return
            if self.good_steps == LOSS_SCALE_INTERVAL:
                self.loss_scale, self.good_steps = self.loss_scale * 2, 0
        if not skipped:
            return
        self.skipped += 1
        self.recent_skips = [step for step in self.recent_skips if step > self.step - SKIP_WINDOW] + [self.step]
        if len(self.recent_skips) > max_skipped:
            raise RvrtError(
                f"step {self.step}: {len(self.recent_skips)} of the last {SKIP_WINDOW} steps gave no finite loss or "
                "gradient; restart from the last checkpoint with --resume and a lower --rate, or with --clip-norm"
            )


def _is_valid_counter(name: str, value: object) -> bool:
    if name == "validation_id":
        return isinstance(value, str)
    if name == "best" and value is None:
        return True
    if isinstance(value, list) != (name in _LIST_COUNTERS):
        return False
    kinds = (int, float) if name in _FLOAT_COUNTERS else (int,)
    return all(
        isinstance(number, kinds)
        and not isinstance(number, bool)
        and _is_finite(number)
        and (number >= 0 or name == "best")
        for number in (value if isinstance(value, list) else [value])
    )


def _is_finite(number: float) -> bool:
    return abs(number) <= sys.float_info.max  # unlike math.isfinite, also of integers that no float can hold
