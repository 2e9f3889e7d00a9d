# SPDX-License-Identifier: Apache-2.0
"""Places of a video that are worth looking at: the sharpest, the busiest, and those that differ most from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from rvrt_cli.check.paired_frames import Part
from rvrt_cli.errors import OptionError
from rvrt_cli.video.read.source import SourceInfo

_LOOKS = 24  # that are looked at, spread evenly
_LOOK_EDGE = 64  # px of the small copies
_WHOLE_SECONDS = 60.0  # up to which the whole video is read once in place of being searched


@dataclass(frozen=True)
class ExcerptPlace:
    """Where an excerpt begins [s], and why it was chosen."""

    begin: float
    reason: str


class _Look(NamedTuple):
    begin: float
    thumbnail: np.ndarray  # (_LOOK_EDGE, _LOOK_EDGE) luma
    sharpness: float
    motion: float


def choose_excerpts(
    info: SourceInfo, end: float, seconds: float, count: int, at: list[float], begin: float = 0.0
) -> list[ExcerptPlace]:
    """Up to `count` places for excerpts of `seconds` between `begin` and `end` [s] of `info`, in order of time.

    Args:
        at: times that the user asks for, in place of chosen ones.

    Raises:
        OptionError: one of them is beyond the end.
    """
    for time in at:
        if time >= end:
            raise OptionError(f"--at {time:g}: the video lasts {end:g} s; give an earlier time")
    if at:
        return [ExcerptPlace(time, "asked for") for time in sorted(at)]
    room = end - begin - seconds
    if room <= seconds / 2:
        return [ExcerptPlace(begin, "all of it" if room <= 0 else "the beginning")]
    looks = _look_around(info, begin, room, min(_LOOKS, max(2, int(room / seconds) + 1)))
    if not looks:
        return [ExcerptPlace(begin, "the beginning")]
    chosen = {max(looks, key=lambda look: look.sharpness).begin: "the sharpest"}
    if count > 1:
        others = [look for look in looks if _apart(look, chosen, seconds)]
        if others:
            chosen[max(others, key=lambda look: look.motion).begin] = "the busiest"
    while len(chosen) < count:
        others = [look for look in looks if _apart(look, chosen, seconds)]
        if not others:
            break
        known = [look.thumbnail for look in looks if look.begin in chosen]
        unlike = max(others, key=lambda look: min(float(np.abs(look.thumbnail - other).mean()) for other in known))
        chosen[unlike.begin] = "unlike the others"
    return [ExcerptPlace(begin, reason) for begin, reason in sorted(chosen.items())]


def _apart(look: _Look, chosen: dict[float, str], seconds: float) -> bool:
    return all(abs(look.begin - begin) >= seconds for begin in chosen)


def _look_around(info: SourceInfo, begin: float, room: float, count: int) -> list[_Look]:
    """Sharpness and motion of short moments, evenly spread over `room` seconds from `begin`."""
    step = 1 / float(info.frame_rate)
    places = [float(place) for place in np.linspace(begin, begin + room, count)]
    part = Part(info, info.output_zero())
    if begin + room <= _WHOLE_SECONDS:
        taken: list[list[np.ndarray]] = [[] for _ in places]
        for frame in part.frames((_LOOK_EDGE, _LOOK_EDGE)):
            near = int(np.searchsorted(places, frame.seconds + 1e-6)) - 1
            if near >= 0 and len(taken[near]) < 3:
                taken[near].append(frame.pixels.mean(-1))
    else:
        taken = []
        for place in places:
            moment = Part(info, info.output_zero(), place, 2.5 * step)
            taken.append([frame.pixels.mean(-1) for frame in moment.frames((_LOOK_EDGE, _LOOK_EDGE))])
    return [_describe(place, frames) for place, frames in zip(places, taken, strict=True) if frames]


def _describe(begin: float, frames: list[np.ndarray]) -> _Look:
    first = frames[0]
    laplacian = 4 * first[1:-1, 1:-1] - first[:-2, 1:-1] - first[2:, 1:-1] - first[1:-1, :-2] - first[1:-1, 2:]
    motion = max((float(np.abs(b - a).mean()) for a, b in pairwise(frames)), default=0.0)
    return _Look(begin, first, float(np.abs(laplacian).mean()), motion)
