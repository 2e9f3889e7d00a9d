# SPDX-License-Identifier: Apache-2.0
"""Frames of two or three videos that are shown at the same time, all at the size of the upscaled one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from rvrt_cli.check.paired_frames import Part, SizedFrame
from rvrt_cli.data.resize import imresize
from rvrt_cli.frame import round_levels
from rvrt_cli.video.read.source import SourceInfo


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        before: the source, or another upscaled video.
        after: the upscaled video, whose frames set times and size.
        truth: the original at high resolution, if there is one.
        begin: of what `after` shows, on the clock of `before` and `truth` [s].
    """

    before: SourceInfo
    after: SourceInfo
    truth: SourceInfo | None = None
    begin: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px of everything that is shown."""
        return self.after.height, self.after.width

    @property
    def enlarged(self) -> bool:
        """Whether `before` is smaller, and shown enlarged by bicubic."""
        return (self.before.height, self.before.width) != self.size

    @property
    def layers(self) -> list[str]:
        """Names of the versions of a frame, in order."""
        return ["bicubic" if self.enlarged else "before", "upscaled", *(["truth"] if self.truth else [])]

    @property
    def seconds(self) -> float:
        """Duration of `after`, as far as it is known."""
        return self.after.duration or float((self.after.frame_count or 1) / self.after.frame_rate)


class Aligned(NamedTuple):
    """Versions of one frame.

    Attributes:
        seconds: when it is shown.
        small: the frame of `before` at its own size, (H, W, 3) uint8.
        layers: all versions in the order of `Comparison.layers`, (H, W, 3) uint8 each.
    """

    seconds: float
    small: np.ndarray
    layers: list[np.ndarray]


def aligned_frames(comparison: Comparison, begin: float, length: float | None) -> Iterator[Aligned]:
    """Frames of a part of `after` that the others show too, from `begin` for `length` seconds (None: to the end).

    Each is paired with the frame of the others that is nearest in time, no further away than half a frame.
    """
    before, after, truth = comparison.before, comparison.after, comparison.truth
    near = 0.5 / float(after.frame_rate)
    own_size = before.height, before.width
    start = Fraction(comparison.begin).limit_denominator(10**6)

    def part(info: SourceInfo) -> Part:
        late = 0.0 if info is after else -near
        zero = info.output_zero(float(start)) if info is not after else info.output_zero()
        return Part(info, zero, max(0.0, begin + late), None if length is None else length + 2 * near)

    with ExitStack() as stack:
        frames = stack.enter_context(closing(part(after).frames(comparison.size)))  # type: ignore[type-var]
        others = [stack.enter_context(closing(part(before).frames(own_size)))]  # type: ignore[type-var]
        if truth is not None:
            others.append(stack.enter_context(closing(part(truth).frames(comparison.size))))  # type: ignore[type-var]
        followers = [_Follower(frames) for frames in others]
        for frame in frames:
            if length is not None and frame.seconds >= begin + length - 1e-6:
                break
            found = [follower.at(frame.seconds, near) for follower in followers]
            if any(other is None for other in found):
                continue
            small, *rest = (round_levels(other.pixels, np.uint8) for other in found if other is not None)
            first = imresize(small, size=comparison.size) if comparison.enlarged else small
            yield Aligned(frame.seconds, small, [first, round_levels(frame.pixels, np.uint8), *rest])


class _Follower:
    """The frames of a video, one by one as another one's times ask for them."""

    def __init__(self, frames: Iterator[SizedFrame]) -> None:
        self._frames = frames
        self._frame: SizedFrame | None = next(frames, None)

    def at(self, seconds: float, near: float) -> SizedFrame | None:
        """The frame that is shown at this time, or None."""
        while self._frame is not None and self._frame.seconds < seconds - near - 1e-6:
            self._frame = next(self._frames, None)
        if self._frame is None or self._frame.seconds > seconds + near + 1e-6:
            return None
        return self._frame
