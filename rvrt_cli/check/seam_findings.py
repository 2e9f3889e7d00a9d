# SPDX-License-Identifier: Apache-2.0
"""Steps at tile borders and at joins of windows, in excerpts at the target's full size.

Nothing is known of the tool's tiles and windows, so every column, row and frame is judged against the others.

- Tile borders: where the source is smooth, the target must be too. The step at a column is the mean over 16 rows of the
  second difference of luma, without its sign, as far as the enlarged source has none; it is compared with columns nearby and
  with those 16, 32, ... px away, which lie the same way in an encoder's blocks.
- Window joins: the change of target minus enlarged source from frame to frame, compared with the frames before and after, as
  it is and as a share of the source's own change: details change more where motion is jerky.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rvrt_cli.check.frame_findings import outliers, period
from rvrt_cli.check.paired_frames import SourceAndTarget, paired_frames
from rvrt_cli.check.verdict import Finding, number_ranges

_EXCERPT_FRAMES = 48  # three windows and more of any usual length
_MAX_EXCERPTS = 6
_MAX_PIXELS = 1_000_000_000  # that are looked at in all
_BAND = 16  # px of a border that a step is averaged over
_SMOOTH = 4.0  # levels by which the source changes across _SMOOTH_REACH px where it is smooth
_SMOOTH_REACH = 6  # px
_STEP, _STEP_FACTOR = 0.8, 1.5  # levels, and times the steps elsewhere
_GRID = 16  # px, blocks of encoders
_COMPARED = 6  # places on either side that a step is compared with
_SAME_STEP = 3  # px
_RINGING = 3  # px of the source: as far from a bend in the source as Lanczos's kernel makes others
_EDGE = 8  # px of the source: no tile ends nearer to an edge, where interpolation sees padding and bends what is smooth
_FEWEST_COMPARED = 4  # of these places, where the source is smooth too
_MOST_BANDS = 0.3  # quantile: a tile's border is there all along, what an encoder leaves is not
_FEWEST_BANDS, _SMOOTH_BANDS = 4, 0.4  # smooth bands along a border that make a judgment: number, and share
_JOIN, _JOIN_FACTOR = 0.5, 1.8  # levels, and times the changes around
_STILL_CHANGE = 0.5  # levels by which the source changes where nothing moves, roughly
_CUT_CHANGE = 15.0  # levels: a cut in the source, at which everything changes


class _StepProfile:
    """Mean step before each column of px (or row, of transposed frames), in each band of _BAND rows.

    Args:
        scale: px per px of the source.
    """

    def __init__(self, height: int, width: int, scale: float) -> None:
        self._edge, self._ringing = round(_EDGE * scale), round(_RINGING * scale)
        self._sums = np.zeros((height // _BAND, width))
        self._counts = np.zeros((height // _BAND, width))

    def add(self, luma: np.ndarray, enlarged: np.ndarray) -> None:
        """Take in a frame: luma (H, W) of the target and of the enlarged source."""
        width, reach = luma.shape[1], _SMOOTH_REACH
        bands = len(self._sums)
        rows = bands * _BAND
        if rows == 0 or width <= 2 * reach + 2:
            return
        smooth = _smooth_places(enlarged[:rows])  # [:, x - reach]
        judged = slice(reach, reach + smooth.shape[1])
        count = smooth.reshape(bands, _BAND, -1).sum(1)

        own = np.abs(_bend(enlarged[:rows]).reshape(bands, _BAND, width).mean(1))  # such as the end of a ramp
        bend = np.abs((_bend(luma[:rows] - enlarged[:rows])[:, judged] * smooth).reshape(bands, _BAND, -1).sum(1))
        mean = np.maximum(0, bend / np.maximum(count, 1) - _most_around(own, self._ringing)[:, judged])
        enough = count >= _BAND // 2
        self._sums[:, judged] += mean * enough
        self._counts[:, judged] += enough

    def steps(self) -> np.ndarray:
        """(W,) what most bands that are smooth there have at least, NaN where there are too few: an object is in few bands."""
        bands = (self._counts > 0).sum(0)
        few = bands < max(_FEWEST_BANDS, _SMOOTH_BANDS * len(self._counts))
        if not len(self._counts):
            return np.full(len(few), np.nan)
        means = np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1), np.inf)
        means[:, few] = 0.0
        means.sort(0)  # NumPy's nanquantile takes one column at a time
        place = _MOST_BANDS * np.maximum(bands - 1, 0)
        below = place.astype(int)
        lower, upper = (np.take_along_axis(means, (below + k).clip(0, len(means) - 1)[None], 0)[0] for k in (0, 1))
        return np.where(few, np.nan, lower + (place - below) * (upper - lower))

    def borders(self) -> list[int]:
        """Columns before which there is a step that the others do not have."""
        steps = self.steps()
        found = []
        for x in np.flatnonzero(np.nan_to_num(steps) > _STEP):
            near = [x + k for k in range(-_COMPARED, _COMPARED + 1) if abs(k) > 1]
            alike = [x + _GRID * k for k in range(-_COMPARED, _COMPARED + 1) if k]
            there = [
                [steps[place] for place in places if 0 <= place < len(steps) and not np.isnan(steps[place])]
                for places in (near, alike)
            ]
            if min(map(len, there)) < _FEWEST_COMPARED:
                continue  # there is structure beside it
            if steps[x] > _STEP + _STEP_FACTOR * max(float(np.median(values)) for values in there):
                found.append(int(x))
        # a step bends the px beside it too
        places = [x for x in found if steps[x] == max(steps[y] for y in found if abs(y - x) <= _SAME_STEP)]
        return [x for x in places if self._edge <= x <= len(steps) - self._edge]


def _bend(image: np.ndarray) -> np.ndarray:
    """Second difference (H, W) at the step before each column; 0 at the first two columns and the last."""
    step = np.diff(image, axis=1)  # [:, x - 1] is the step before column x
    bend = np.zeros_like(image)
    bend[:, 2:-1] = step[:, 1:-1] - 0.5 * (step[:, :-2] + step[:, 2:])
    return bend


def _most_around(values: np.ndarray, reach: int) -> np.ndarray:
    """The largest of the values (bands, W) up to `reach` columns away."""
    wide = np.pad(values, ((0, 0), (reach, reach)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=1).max(-1))


def _smooth_places(enlarged: np.ndarray) -> np.ndarray:
    """Whether the luma (H, W) changes little over the px around a column: of columns _SMOOTH_REACH … W - _SMOOTH_REACH."""
    reach, width = _SMOOTH_REACH, enlarged.shape[1]
    columns = [
        enlarged[:, reach + k : width - reach + k] for k in (-reach, -reach // 2, -1, 0, reach // 2 - 1, reach - 1)
    ]
    return np.asarray(np.maximum.reduce(columns) - np.minimum.reduce(columns) < _SMOOTH)


@dataclass
class SeamProfiles:
    """What excerpts of both videos show of borders and joins."""

    clips: SourceAndTarget
    shift: float  # of the target [s]
    key_times: list[float]  # of the target's keyframes [s]
    bad_times: list[float]  # of frames that are known not to show what the source shows [s]
    columns: _StepProfile = field(init=False)
    rows: _StepProfile = field(init=False)  # of transposed frames
    joins: list[float] = field(default_factory=list)  # s
    at_keyframes: list[float] = field(default_factory=list)
    frames: int = 0

    def __post_init__(self) -> None:
        source, target = self.clips.source, self.clips.target
        self.columns = _StepProfile(target.height, target.width, target.width / source.width)
        self.rows = _StepProfile(target.width, target.height, target.height / source.height)

    def look(self, length: float) -> None:
        """Read excerpts spread over `length` seconds of the target, or all of it where that is little."""
        target, seconds = self.clips.target, self.clips.frame_seconds
        affordable = _MAX_PIXELS // (target.width * target.height)
        excerpt = min(max(8, affordable), _EXCERPT_FRAMES)
        count = max(1, min(_MAX_EXCERPTS, affordable // excerpt))
        if length <= count * excerpt * seconds:
            self._look_at((0.0, length + seconds))
            return
        for number in range(count):
            begin = number * (length - excerpt * seconds) / max(1, count - 1)
            self._look_at((begin, excerpt * seconds))

    def _look_at(self, part: tuple[float, float]) -> None:
        size = self.clips.target.height, self.clips.target.width
        changes: list[float] = []
        moved: list[float] = []  # by which the source changes [levels]
        times: list[float] = []
        last: np.ndarray | None = None
        last_source: np.ndarray | None = None
        for source, target in paired_frames(self.clips, self.shift, size, part):
            if source is None or target is None:
                continue
            if any(abs(target.seconds - bad) < 1e-6 for bad in self.bad_times):
                last = None
                continue
            enlarged, luma = (
                pixels @ np.array([0.25, 0.5, 0.25], np.float32) for pixels in (source.pixels, target.pixels)
            )
            self.columns.add(luma, enlarged)
            self.rows.add(np.ascontiguousarray(luma.T), np.ascontiguousarray(enlarged.T))
            detail: np.ndarray = luma - enlarged
            if last is not None and last_source is not None:
                motion = float(np.abs(enlarged - last_source).mean())
                if motion <= _CUT_CHANGE:
                    moved.append(motion)
                    changes.append(float(np.abs(detail - last).mean()))
                    times.append(target.seconds)
            last, last_source = detail, enlarged
            self.frames += 1
        near = 0.5 * self.clips.frame_seconds
        for place in _sudden_changes(np.array(changes), np.array(moved)):
            keyframe = any(abs(times[place] - key) < near for key in self.key_times)
            (self.at_keyframes if keyframe else self.joins).append(times[place])


def _sudden_changes(changes: np.ndarray, moved: np.ndarray) -> list[int]:
    """Places where details change more than before and after, and the source's jerky motion does not explain it.

    Args:
        changes: of target minus enlarged source, from frame to frame [levels]; moved: of the source [levels].
    """
    sudden = set(outliers(changes, _JOIN, _JOIN_FACTOR, _COMPARED))
    sudden &= set(outliers(changes / (moved + _STILL_CHANGE), 0.0, _JOIN_FACTOR, _COMPARED))
    return sorted(sudden - set(outliers(moved, _STILL_CHANGE, _JOIN_FACTOR, _COMPARED)))


def seam_findings(profiles: SeamProfiles) -> Iterator[Finding]:
    """Findings "tile borders" and "window joins"."""
    columns, rows = profiles.columns.borders(), profiles.rows.borders()
    values = {"columns": columns, "rows": rows, "frames": profiles.frames}
    judged = not all(np.isnan(part.steps()).all() for part in (profiles.columns, profiles.rows))
    if columns or rows:
        parts = [f"{name} {number_ranges(places)}" for name, places in (("x =", columns), ("y =", rows)) if places]
        text = f"steps that the source does not have at {' and '.join(parts)} px"
        yield Finding("tile borders", "fail", text, values)
    elif judged:
        yield Finding("tile borders", "ok", f"no steps in {profiles.frames} frames", values)
    else:
        yield Finding("tile borders", "skipped", "the source has no smooth places to judge by", values)
    yield _join_finding(profiles)


def _join_finding(profiles: SeamProfiles) -> Finding:
    rate = 1 / profiles.clips.frame_seconds
    frames = [round(seconds * rate) for seconds in profiles.joins]
    values = {"seconds": profiles.joins, "at_keyframes": profiles.at_keyframes, "every": period(frames)}
    if frames:
        regular = f", every {period(frames)} frames" if period(frames) else ""
        text = f"details change suddenly at frames {number_ranges(frames)}{regular}"
        return Finding("window joins", "fail", text, values)
    if profiles.at_keyframes:
        text = f"details change at {len(profiles.at_keyframes)} keyframes of the encoder; a higher quality hides them"
        return Finding("window joins", "note", text, values)
    if profiles.frames < _COMPARED:
        return Finding("window joins", "skipped", "too few frames", values)
    return Finding("window joins", "ok", f"no sudden change of details in {profiles.frames} frames", values)
