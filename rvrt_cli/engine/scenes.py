"""Find scene cuts in a stream of frames as they come.

Each frame is reduced to a thumbnail of 64 px luma whose mean and contrast are taken out, so that fades and lighting
say little. Two thumbnails differ by how far each px of one lies outside the range of values in the 3×3 px around it in
the other: motion up to 1/64 of the frame costs nothing. A cut is a difference that is large, that stands out from
those just before and just after it (a fast pan, an explosion or noise does not; the idea of PySceneDetect's adaptive
detector), and that stays: a flash returns to what was there before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

DELAY = 3  # frames after a candidate that are looked at before the decision, and the longest flash seen through

_EDGE = 64  # px, longer edge of the thumbnail
_SAMPLES = 3  # per thumbnail px and axis: enough against grain and moiré, far cheaper than the mean of all px
_LUMA = np.array([0.25, 0.5, 0.25], np.float32)  # of R, G, B; near enough
_SMALLEST_CONTRAST = 16.0  # levels of 255; stretched further, the last step of a fade to black would be a cut
_LARGE = 0.2  # different shots measure 0.2-1.1 (1 % below 0.4), quick motion in one shot up to 0.1
_STANDS_OUT = 2.0  # times the differences around it
_STAYS = 0.5  # of the difference remains between any frame just before and any just after
_BEFORE = 3  # differences before a candidate that it is compared with


class _Thumbnail(NamedTuple):
    luma: np.ndarray  # (h, w) float32, mean 0, standard deviation 1 (less where the frame is nearly flat)
    low: np.ndarray  # (h, w), least and
    high: np.ndarray  # greatest luma of the 3×3 px around each


class _Seen(NamedTuple):
    frame: np.ndarray
    thumbnail: _Thumbnail
    change: float  # from the frame before


def mark_scenes(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Each frame (H, W, 3), uint8 or uint16, with whether a scene starts with it; the first one does.

    Frames come out unchanged and in order, `DELAY` frames late.
    """
    before: deque[_Thumbnail] = deque(maxlen=DELAY)
    changes: deque[float] = deque(maxlen=_BEFORE)  # in the present scene
    ahead: deque[_Seen] = deque()
    last: _Thumbnail | None = None

    def release() -> tuple[np.ndarray, bool]:
        cut = not before or _is_cut(before, changes, ahead)
        frame, thumbnail, change = ahead.popleft()
        before.append(thumbnail)
        if cut:
            changes.clear()
        else:
            changes.append(change)
        return frame, cut

    for frame in frames:
        thumbnail = _reduce(frame)
        ahead.append(_Seen(frame, thumbnail, _difference(last, thumbnail) if last else 0.0))
        last = thumbnail
        del frame  # so that the generator, while it waits, keeps no frame alive that has come out
        if len(ahead) > DELAY:
            yield release()
    while ahead:
        yield release()


def _is_cut(before: deque[_Thumbnail], changes: deque[float], ahead: deque[_Seen]) -> bool:
    change = ahead[0].change
    if change < _LARGE:
        return False
    around = [*changes, ahead[1].change] if len(ahead) > 1 else [*changes]
    if change < _STANDS_OUT * max(around, default=0.0):
        return False
    return all(_difference(old, seen.thumbnail) >= _STAYS * change for old in before for seen in ahead)


def _reduce(frame: np.ndarray) -> _Thumbnail:
    longest = max(frame.shape[:2])
    samples = min(_SAMPLES, max(1, longest // _EDGE))
    step = max(1, longest // (_EDGE * samples))
    luma = frame[::step, ::step].astype(np.float32) @ (_LUMA * 255 / np.float32(np.iinfo(frame.dtype).max))
    luma = _mean(_mean(luma, samples).T, samples).T
    luma -= luma.mean()
    luma /= max(float(luma.std()), _SMALLEST_CONTRAST)
    return _Thumbnail(luma, _around(luma, np.minimum), _around(luma, np.maximum))


def _mean(rows: np.ndarray, count: int) -> np.ndarray:
    """The mean of every `count` rows; left-over rows at the end are dropped."""
    count = min(count, len(rows))
    whole = len(rows) // count * count
    return np.ascontiguousarray(rows[:whole]).reshape(-1, count, rows.shape[1]).mean(1)


def _around(luma: np.ndarray, pick: np.ufunc) -> np.ndarray:
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
