"""What a run has come to, apart from its arrays; travels in the checkpoint. No MindSpore."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from rvrt_cli.errors import RvrtError

FIRST_SCALE = 2.0**16  # of the float16 loss (Micikevicius et al. 2018)
GROW_AFTER = 2000  # steps without an overflow, after which the scale doubles
REMEMBERED = 100  # steps over which skipped ones are counted


@dataclass
class Counters:
    """Counts of one run; plain values, so that JSON carries them."""

    step: int = 0  # steps done, skipped ones included
    loss_scale: float = 1.0
    good_steps: int = 0  # since the loss scale changed
    skipped: int = 0
    recent_skips: list[int] = field(default_factory=list)
    best: float | None = None  # mean gain over bicubic [dB]
    judged: str = ""  # on what: the validation's identity; "" in checkpoints of earlier versions
    trained: float = 0.0  # s
    updates: list[int] = field(default_factory=list)  # of Adam, per group of parameters

    @classmethod
    def from_dict(cls, values: object) -> Counters:
        """The counters that a checkpoint's JSON holds.

        Raises:
            ValueError: unknown entries, or values of other types or out of range.
        """
        if not isinstance(values, dict) or set(values) - {entry.name for entry in fields(cls)}:
            raise ValueError("its counters are damaged")
        best, judged = values.get("best"), values.get("judged", "")
        if isinstance(best, float) and not math.isfinite(best):  # earlier versions took such scores for the best
            values = {**values, "best": None}
        if not isinstance(judged, str):
            raise ValueError("its counter judged is damaged")
        for name, value in values.items():
            if name == "judged":
                continue
            numbers = value if isinstance(value, list) else [0 if value is None and name == "best" else value]
            kinds = (int, float) if name in ("loss_scale", "best", "trained") else (int,)
            if isinstance(value, list) != (name in ("recent_skips", "updates")) or not all(
                isinstance(number, kinds) and not isinstance(number, bool) and math.isfinite(number)
                and (number >= 0 or name == "best")
                for number in numbers
            ):  # fmt: skip
                raise ValueError(f"its counter {name} is damaged")
        return cls(**values)

    def count(self, skipped: bool, scaled: bool, most: int) -> None:
        """Count a step.

        Args:
            skipped: its loss or gradient was not finite.
            scaled: the loss is scaled; an overflow halves the scale, and does not count while there is some to halve.
            most: skipped steps that are borne, out of the last `REMEMBERED`.

        Raises:
            RvrtError: there were more.
        """
        self.step += 1
        if scaled:
            self.good_steps = 0 if skipped else self.good_steps + 1
            if skipped and self.loss_scale > 1:
                self.loss_scale /= 2
                return
            if self.good_steps == GROW_AFTER:
                self.loss_scale, self.good_steps = self.loss_scale * 2, 0
        if not skipped:
            return
        self.skipped += 1
        self.recent_skips = [step for step in self.recent_skips if step > self.step - REMEMBERED] + [self.step]
        if len(self.recent_skips) > most:
            raise RvrtError(
                f"step {self.step}: {len(self.recent_skips)} of the last {REMEMBERED} steps gave no finite loss or "
                "gradient; go on from the last checkpoint with --resume and a lower --rate, or with --clip-norm"
            )
