# SPDX-License-Identifier: Apache-2.0
"""Detect scene cuts in a stream of frames as they come.

Each frame is reduced to a thumbnail of 64 px luma whose mean and contrast are normalized, so that fades and lighting
hardly matter. Two thumbnails differ by how far each px of one lies outside the range of values in the 3×3 px around it in
the other: motion up to 1/64 of the frame costs nothing. A cut is a difference that is large, that stands out from
those just before and just after it (a fast pan, an explosion or noise does not; the idea of PySceneDetect's adaptive
detector), and that stays: a flash returns to what was there before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rvrt_cli.frame import Frame, white_level

DELAY = 3  # frames after a candidate that are looked at before the decision, and the longest flash seen through

_THUMBNAIL_EDGE = 64  # px, the longer one
_SAMPLES = 3  # per thumbnail px and axis: enough against grain and moiré, far cheaper than the mean of all px
_THUMBNAIL_LUMA = np.array([0.25, 0.5, 0.25], np.float32)  # of R, G, B; near enough
_MIN_CONTRAST = 16.0  # levels of 255; stretched further, the last step of a fade to black would be a cut
_MIN_CUT = 0.2  # different shots measure 0.2-1.1 (1 % below 0.4), quick motion in one shot up to 0.1
_MIN_PROMINENCE = 2.0  # times the differences around it
_MIN_REMAINING = 0.5  # of the difference between any frame just before and any just after
_CHANGES_BEFORE = 3  # differences before a candidate that it is compared with


class _Thumbnail(NamedTuple):
    luma: np.ndarray  # (h, w) float32, mean 0, standard deviation 1 (less where the frame is nearly flat)
    low: np.ndarray  # (h, w), least and
    high: np.ndarray  # greatest luma of the 3×3 px around each


class _Candidate(NamedTuple):
    frame: Frame | np.ndarray
    thumbnail: _Thumbnail
    change: float  # from the frame before


FrameOrPixels = TypeVar("FrameOrPixels", Frame, np.ndarray)


def mark_scenes(frames: Iterable[FrameOrPixels]) -> Iterator[tuple[FrameOrPixels, bool]]:
    """Each frame with whether a scene starts with it; the first one does.

    Frames come out unchanged and in order, `DELAY` frames late.

    Args:
        frames: `Frame`s, or their pixels (H, W, 3), uint8 or uint16.
    """
    detector = _CutDetector()
    ahead: deque[_Candidate] = detector.ahead
    last: _Thumbnail | None = None
    for frame in frames:
        thumbnail = _thumbnail(frame.pixels if isinstance(frame, Frame) else frame)
        ahead.append(_Candidate(frame, thumbnail, _difference(last, thumbnail) if last else 0.0))
        last = thumbnail
        del frame  # so that the generator, while it waits, keeps no frame alive that has come out
        if len(ahead) > DELAY:
            yield detector.decide()
    while ahead:
        yield detector.decide()


class _CutDetector:
    """Decides on the oldest frame in `ahead`, which is followed by up to `DELAY` others."""

    def __init__(self) -> None:
        self.ahead: deque[_Candidate] = deque()
        self._before: deque[_Thumbnail] = deque(maxlen=DELAY)
        self._changes: deque[float] = deque(maxlen=_CHANGES_BEFORE)  # in the present scene

    def decide(self) -> tuple[Any, bool]:
        """The oldest frame, and whether a scene starts with it."""
        cut = not self._before or _is_cut(self._before, self._changes, self.ahead)
        frame, thumbnail, change = self.ahead.popleft()
        self._before.append(thumbnail)
        if cut:
            self._changes.clear()
        else:
            self._changes.append(change)
        return frame, cut


def _is_cut(before: deque[_Thumbnail], changes: deque[float], ahead: deque[_Candidate]) -> bool:
    change = ahead[0].change
    if change < _MIN_CUT:
        return False
    around = [*changes, ahead[1].change] if len(ahead) > 1 else [*changes]
    if change < _MIN_PROMINENCE * max(around, default=0.0):
        return False
    return all(_difference(old, seen.thumbnail) >= _MIN_REMAINING * change for old in before for seen in ahead)


def _thumbnail(frame: np.ndarray) -> _Thumbnail:
    longest = max(frame.shape[:2])
    samples = min(_SAMPLES, max(1, longest // _THUMBNAIL_EDGE))
    step = max(1, longest // (_THUMBNAIL_EDGE * samples))
    luma = frame[::step, ::step].astype(np.float32) @ (_THUMBNAIL_LUMA * 255 / np.float32(white_level(frame.dtype)))
    luma = _mean_of_rows(_mean_of_rows(luma, samples).T, samples).T
    luma -= luma.mean()
    luma /= max(float(luma.std()), _MIN_CONTRAST)
    return _Thumbnail(luma, _extreme_around(luma, np.minimum), _extreme_around(luma, np.maximum))


def _mean_of_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """The mean of every `count` rows; remaining rows at the end are dropped."""
    count = min(count, len(rows))
    whole = len(rows) // count * count
    return np.ascontiguousarray(rows[:whole]).reshape(-1, count, rows.shape[1]).mean(1)


def _extreme_around(luma: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """The least or greatest of the 3×3 px around each px, of those inside the frame."""
    for _ in range(2):  # rows, then columns
        best = luma.copy()
        pick(best[1:], luma[:-1], out=best[1:])
        pick(best[:-1], luma[1:], out=best[:-1])
        luma = best.T
    return luma


def _difference(a: _Thumbnail, b: _Thumbnail) -> float:
    return max(_outside(a, b), _outside(b, a))


def _outside(a: _Thumbnail, b: _Thumbnail) -> float:
    """How far a px of `a` lies outside what surrounds it in `b`, on average."""
    return float(np.maximum(np.maximum(a.luma - b.high, b.low - a.luma), 0).mean())
