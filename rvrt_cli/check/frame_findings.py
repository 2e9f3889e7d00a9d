# SPDX-License-Identifier: Apache-2.0
"""What the small copies of all frames tell: frames missing, misplaced, repeated, black or damaged, and sudden changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rvrt_cli.check.paired_frames import Pair, SizedFrame, SourceAndTarget
from rvrt_cli.check.verdict import Finding, number_ranges

_NEIGHBORS = 3  # frames on either side in which a misplaced frame is looked for
_MOVES = 0.5  # levels by which neighboring frames of the source differ where something moves
_CUT = 15.0  # levels; more than motion makes of such small copies
_CLEARLY_BETTER = 0.6  # of the difference
_FEWEST_MISPLACED = 3  # frames; one or two may be chance
_STILL = 0.1  # of the source's own change
_BLACK, _NOT_BLACK = 4.0, 16.0  # levels, mean of a frame
_DAMAGED, _DAMAGED_FACTOR = 8.0, 4.0  # levels, and times the median difference
_ANOTHER_PICTURE = 20.0  # levels, median difference
_JUMP, _JUMP_FACTOR, _JUMP_NEIGHBORS = 0.6, 2.0, 6  # levels, times the median of so many changes on either side
_CELLS = 4
_STRUCTURE = 10.0  # levels of standard deviation from which an orientation can be seen
_MAX_SAMPLES = 128  # pairs kept for `color_findings`

# How a target may lie: what turns it upright, by name
_ORIENTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upright": lambda pixels: pixels,
    "rotated by 90° to the left": lambda pixels: np.rot90(pixels, -1),
    "upside down": lambda pixels: np.rot90(pixels, 2),
    "rotated by 90° to the right": lambda pixels: np.rot90(pixels, 1),
    "mirrored": lambda pixels: pixels[:, ::-1],
    "mirrored top to bottom": lambda pixels: pixels[::-1],
}


@dataclass
class FrameComparison:
    """Takes in all pairs of a pass, and holds only numbers of each, and a bounded sample of their pixels."""

    clips: SourceAndTarget
    shift: float  # of the target [s]
    orientation: str = ""  # how the target lies; empty before it is known
    times: list[tuple[float, float]] = field(default_factory=list)  # (source, target) of each pair
    samples: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)  # of some: target's number, pixels
    counts: Counter[str] = field(default_factory=Counter)  # frames of "source" and "target"
    missing: list[int] = field(default_factory=list)  # frames of the source
    extra: list[int] = field(default_factory=list)  # and all others of the target
    frozen: list[int] = field(default_factory=list)
    black: list[int] = field(default_factory=list)
    misplaced: dict[int, int] = field(default_factory=dict)  # by how many frames
    moving: int = 0  # frames of which it can be told whether they are misplaced
    differences: dict[int, float] = field(default_factory=dict)  # by the target's frame [levels]
    changes: dict[int, float] = field(default_factory=dict)  # of target minus source, from the frame before [levels]
    _recent: list[Pair] = field(default_factory=list)
    _judged: int = 0  # pairs of `_recent` whose place is known
    _last: tuple[np.ndarray, np.ndarray] | None = None  # of the pair before
    _stride: int = 1

    def take(self, pairs: Iterator[Pair]) -> None:
        """Take in all pairs, in order."""
        for source, target in pairs:
            self.counts["source"] += source is not None
            self.counts["target"] += target is not None
            if source is not None and target is not None:
                target = target._replace(pixels=self._upright(source.pixels, target.pixels))
                self._compare(source, target)
            else:
                self._last = None
                if source is not None:
                    self.missing.append(source.number)
                elif target is not None:
                    self.extra.append(target.number)
            self._recent.append(Pair(source, target))
            if len(self._recent) > 2 * _NEIGHBORS:
                self._judge_place(len(self._recent) - 1 - _NEIGHBORS)
                del self._recent[0]
                self._judged -= 1
        while self._judged < len(self._recent):
            self._judge_place(self._judged)

    def _upright(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The target turned as the first frame with structure shows that it must be."""
        if not self.orientation and source.std() > _STRUCTURE:
            errors = {name: _mean_difference(source, turn(target)) for name, turn in _ORIENTATIONS.items()}
            best = min(errors, key=errors.__getitem__)
            self.orientation = best if errors[best] < _CLEARLY_BETTER * errors["upright"] else "upright"
        return _ORIENTATIONS[self.orientation or "upright"](target)

    def _compare(self, source: SizedFrame, target: SizedFrame) -> None:
        pair = source.pixels, target.pixels
        if len(self.times) % self._stride == 0:
            self.samples.append((target.number, *pair))
            if len(self.samples) > _MAX_SAMPLES:
                del self.samples[1::2]
                self._stride *= 2
        self.times.append((source.seconds, target.seconds))
        self.differences[target.number] = _mean_difference(*pair)
        black = pair[1].mean() < _BLACK and pair[0].mean() > _NOT_BLACK
        if black:
            self.black.append(target.number)
        if self._last is not None:
            moved, followed = pair[0] - self._last[0], pair[1] - self._last[1]
            change = float(np.abs(moved).mean())
            if not black and change > _MOVES and np.abs(followed).mean() < _STILL * change:
                self.frozen.append(target.number)
            if change < _CUT:
                self.changes[target.number] = _cell_change(followed - moved)
        self._last = pair

    def _judge_place(self, index: int) -> None:
        """Whether the target's frame resembles another frame of the source more than its own."""
        self._judged = index + 1
        own, target = self._recent[index]
        if own is None or target is None:
            return
        around = self._recent[max(0, index - _NEIGHBORS) : index + _NEIGHBORS + 1]
        others = [pair.source for pair in around if pair.source is not None and pair.source is not own]
        near = [other for other in others if abs(other.number - own.number) == 1]
        if not near or min(_mean_difference(own.pixels, other.pixels) for other in near) < _MOVES:
            return
        self.moving += 1
        best = min(others, key=lambda other: _mean_difference(other.pixels, target.pixels))
        if _mean_difference(best.pixels, target.pixels) < _CLEARLY_BETTER * self.differences[target.number]:
            self.misplaced[target.number] = best.number - own.number

    def bad(self) -> set[int]:
        """Frames of the target that do not show what the source shows at their time."""
        return {*self.frozen, *self.black, *self.damaged(), *self.misplaced}

    def sound_samples(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(source, target) pixels of some pairs, without those of `bad` frames."""
        bad = self.bad()
        return [(source, target) for number, source, target in self.samples if number not in bad]

    def jumps(self) -> list[int]:
        """Frames of the target at which it changes suddenly against the source."""
        known = self.bad()
        known |= {number + 1 for number in known}
        numbers = [number for number in self.changes if number not in known]
        values = np.array([self.changes[number] for number in numbers])
        return [numbers[place] for place in outliers(values, _JUMP, _JUMP_FACTOR, _JUMP_NEIGHBORS)]

    def damaged(self) -> list[int]:
        """Frames of the target that differ from the source far more than the others."""
        limit = max(_DAMAGED, _DAMAGED_FACTOR * self.typical_difference())
        known = {*self.black, *self.frozen, *self.misplaced}
        return [number for number, value in self.differences.items() if value > limit and number not in known]

    def typical_difference(self) -> float:
        """Median difference of the pairs [levels], without that of their means."""
        return float(np.median(list(self.differences.values()))) if self.differences else 0.0


def _cell_change(change: np.ndarray) -> float:
    """Change of brightness or color without that of detail: of the mean of each of _CELLS × _CELLS parts [levels]."""
    edge = len(change) // _CELLS
    cells = change.reshape(_CELLS, edge, _CELLS, edge, 3).mean((1, 3))
    return float(np.abs(cells).mean((0, 1)).max())


def outliers(values: np.ndarray, least: float, factor: float, neighbors: int) -> list[int]:
    """Places of values above `least` + `factor` × the median of up to `neighbors` values on either side of them."""
    found = []
    for place, value in enumerate(values):
        if value <= least:
            continue
        around = np.concatenate([values[max(0, place - neighbors) : place], values[place + 1 : place + 1 + neighbors]])
        if len(around) >= 2 and value > least + factor * np.median(around):
            found.append(place)
    return found


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two small frames, that of their mean colors excepted [levels]."""
    offset = a - b
    return float(np.abs(offset - offset.mean((0, 1))).mean())


def frame_findings(seen: FrameComparison) -> Iterator[Finding]:
    """Everything that the pass over all frames has shown."""
    yield _count_finding(seen)
    yield _timestamp_finding(seen)
    yield _content_finding(seen)
    for name, numbers, what in (
        ("frozen", seen.frozen, "repeat the one before, while the source moves"),
        ("black", seen.black, "are black, while the source is not"),
    ):
        if numbers:
            text = f"frames {number_ranges(numbers)} {what}"
            yield Finding(name, "fail", text, {"frames": len(numbers), "first": numbers[:100]})
        else:
            yield Finding(name, "ok", "none that the source does not have")
    yield _jump_finding(seen)


def _count_finding(seen: FrameComparison) -> Finding:
    source, target = seen.counts["source"], seen.counts["target"]
    values = {"source": source, "target": target, "missing": seen.missing[:100], "extra": seen.extra[:100]}
    if not seen.missing and not seen.extra:
        return Finding("frames", "ok", f"{target}, each at the time of one of the source", values)
    parts = [f"{target} of {source}"] if source != target else [str(target)]
    if seen.missing:
        count = len(seen.missing)
        last = seen.missing == list(range(source - count, source))
        first = seen.missing == list(range(count))
        frames = f"frame{'s' * (count > 1)}"
        if last:
            parts.append(f"the last {count} {frames} of the source missing")
        elif first:
            parts.append(f"the first {count} {frames} of the source missing")
        else:
            parts.append(f"{count} {frames} of the source missing ({number_ranges(seen.missing)}, counted from 0)")
    if seen.extra:
        parts.append(f"{len(seen.extra)} without a counterpart in the source ({number_ranges(seen.extra)})")
    return Finding("frames", "fail", "; ".join(parts), values)


def _timestamp_finding(seen: FrameComparison) -> Finding:
    clips = seen.clips
    if len(seen.times) < 2:
        return Finding("timestamps", "skipped", "fewer than two frames of both videos coincide")
    times = np.array(seen.times)
    late = times[:, 1] - times[:, 0]
    shift = float(np.median(late))
    units = float(clips.source.time_base + clips.target.time_base)
    tolerance = min(units, 0.25 * clips.frame_seconds) + 1e-6
    worst = int(np.argmax(np.abs(late - shift)))
    deviation = float(abs(late[worst] - shift))
    values = {"largest_deviation": deviation, "tolerance": tolerance, "shift": shift}
    if deviation > tolerance:
        text = f"differ by up to {1000 * deviation:.1f} ms (frame {worst})"
        steps = np.diff(times, axis=0)
        varies = np.ptp(steps, axis=0) > 2 * tolerance
        if varies[0] and not varies[1]:
            text += "; the variable frame rate has become constant"
        return Finding("timestamps", "fail", text, values)
    text = f"all within {1000 * max(deviation, 1e-6):.2f} ms"
    if abs(shift) > tolerance:
        return Finding("timestamps", "note", f"{text}, but all {_direction(shift)} than in the source", values)
    return Finding("timestamps", "ok", text, values)


def _direction(shift: float) -> str:
    return f"{abs(shift):.3f} s {'later' if shift > 0 else 'earlier'}"


def _content_finding(seen: FrameComparison) -> Finding:
    values = {
        "typical_difference": seen.typical_difference(),
        "judged": seen.moving,
        "misplaced": len(seen.misplaced),
        "orientation": seen.orientation or "unknown",
    }
    if not seen.differences:
        return Finding("content", "skipped", "no frames of both videos coincide", values)
    if seen.typical_difference() > _ANOTHER_PICTURE:
        text = (
            f"the frames do not show what the source shows (median difference {seen.typical_difference():.0f} levels)"
        )
        return Finding("content", "fail", text, values)
    misplaced = {number: by for number, by in seen.misplaced.items() if number not in seen.frozen}
    by, count = Counter(misplaced.values()).most_common(1)[0] if misplaced else (0, 0)
    if count >= _FEWEST_MISPLACED:
        numbers = [number for number, distance in misplaced.items() if distance == by]
        frames = f"frame{'s' * (abs(by) > 1)}"
        where = f"frames {number_ranges(numbers)} show what the source shows {abs(by)} {frames}"
        return Finding("content", "fail", f"{where} {'later' if by > 0 else 'earlier'}", values)
    if damaged := seen.damaged():
        text = f"frames {number_ranges(damaged)} differ from the source far more than the others"
        return Finding("content", "fail", text, {**values, "damaged": damaged[:100]})
    return Finding("content", "ok", "every frame shows what the source shows at this time", values)


def _jump_finding(seen: FrameComparison) -> Finding:
    if len(seen.changes) < 2 * _JUMP_NEIGHBORS:
        return Finding("jumps", "skipped", "too few frames")
    jumps = seen.jumps()
    values = {"frames": jumps[:100], "every": period(jumps)}
    if not jumps:
        return Finding("jumps", "ok", "no sudden change that the source does not have", values)
    regular = f", every {period(jumps)} frames as at joins of windows" if period(jumps) else ""
    text = f"brightness or color changes suddenly at frames {number_ranges(jumps)}{regular}"
    return Finding("jumps", "fail", text, values)


def period(numbers: list[int]) -> int | None:
    """The distance of most neighboring numbers, if there are three numbers or more and one distance dominates."""
    if len(numbers) < 3:
        return None
    steps = Counter(int(step) for step in np.diff(numbers))
    step, count = steps.most_common(1)[0]
    return step if count >= 2 and 2 * count >= len(numbers) - 1 else None
