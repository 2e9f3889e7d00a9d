# SPDX-License-Identifier: Apache-2.0
"""Small copies of the frames of source and target, paired by their timestamps, in one pass over both.

A small copy is square whatever the frame's shape, so that a changed aspect ratio does not hide everything else, and is
made by ffmpeg while it converts the frame to RGB as its tags say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from rvrt_cli.check.check_options import CheckOptions
from rvrt_cli.data.resize import imresize
from rvrt_cli.frame import to_float
from rvrt_cli.video.color import subsampling
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.source import SourceInfo

SMALL_EDGE = 96  # px


class SizedFrame(NamedTuple):
    """A frame, scaled.

    Attributes:
        number: from 0, in what is read.
        seconds: timestamp on the clock of an output, see `SourceInfo.output_zero`.
        pixels: (H, W, 3) float32, levels 0…255.
    """

    number: int
    seconds: float
    pixels: np.ndarray


class Pair(NamedTuple):
    """Frames that belong together; one of them is None where the other video has none at this time."""

    source: SizedFrame | None
    target: SizedFrame | None


@dataclass(frozen=True)
class SourceAndTarget:
    """Source and target as probed, and the part of the source that the target shows."""

    source: SourceInfo
    target: SourceInfo
    options: CheckOptions

    @property
    def frame_seconds(self) -> float:
        """Average duration of a frame of the source."""
        return float(1 / self.source.frame_rate)


@dataclass(frozen=True)
class Part:
    """A part of a video, and the clock on which its frames are told: `zero` on the video's own clock counts as 0 [s]."""

    info: SourceInfo
    zero: Fraction
    begin: float = 0.0
    length: float | None = None  # None: to the end

    def frames(self, size: tuple[int, int]) -> Iterator[SizedFrame]:
        """The frames, scaled to `size` (height, width) px by ffmpeg; images, and what zimg refuses, by bicubic."""
        info, (height, width) = self.info, size
        scaled = replace(info, width=width, height=height) if info.kind == "video" and _has_whole_chroma(info) else info
        start = max(0.0, float(self.zero - info.begin) + self.begin)
        with open_reader(scaled, start=start, duration=self.length, alpha=False) as reader:
            for number, frame in enumerate(reader):
                pixels = to_float(frame.pixels) * np.float32(255)
                if pixels.shape[:2] != size:
                    pixels = imresize(pixels, size=size)
                yield SizedFrame(number, float(frame.pts * reader.time_base - self.zero), pixels)


def _has_whole_chroma(info: SourceInfo) -> bool:
    """Whether no px at the frame's edges has part of a chroma sample, as in 4:2:0 of an odd height."""
    return not any(side % step for side in (info.width, info.height) for step in subsampling(info.pix_fmt))


def pair_up(sources: Iterator[SizedFrame], targets: Iterator[SizedFrame], shift: float, near: float) -> Iterator[Pair]:
    """Frames of both videos in order of their timestamps, those less than `near` apart as pairs.

    Args:
        shift: by how much the target is later than the source [s].
    """
    source, target = next(sources, None), next(targets, None)
    while source is not None or target is not None:
        late = 0.0
        if source is not None and target is not None:
            late = target.seconds - shift - source.seconds
            if abs(late) <= near:
                yield Pair(source, target)
                source, target = next(sources, None), next(targets, None)
                continue
        if target is None or (source is not None and late > 0):
            yield Pair(source, None)
            source = next(sources, None)
        else:
            yield Pair(None, target)
            target = next(targets, None)


def paired_frames(
    clips: SourceAndTarget,
    shift: float,
    size: tuple[int, int] = (SMALL_EDGE, SMALL_EDGE),
    part: tuple[float, float] | None = None,
    in_order: bool = False,
) -> Iterator[Pair]:
    """Frames of source and target, scaled to one `size` (height, width) px, as `pair_up` gives them.

    Args:
        in_order: pair them by their numbers, whatever their timestamps.
        part: begin and length of a part to read, on the clock of the target [s]; None: everything.
    """
    options = clips.options
    source_part = Part(clips.source, clips.source.output_zero(options.start), 0.0, options.duration)
    target_part = Part(clips.target, clips.target.output_zero())
    if part is not None:
        begin, length = part
        source_part = replace(source_part, begin=max(0.0, begin - shift), length=length)
        target_part = replace(target_part, begin=begin, length=length)
    sources, targets = source_part.frames(size), target_part.frames(size)
    with closing(sources), closing(targets):  # type: ignore[type-var]
        near = math.inf if in_order else 0.5 * clips.frame_seconds
        yield from pair_up(sources, targets, shift, near)


def find_shift(source: list[float], target: list[float], near: float) -> float:
    """By how many seconds the target is later: the shift with which most timestamps find a partner within `near`.

    Tried: none, first frame on first frame, last on last, and the shortest of those that are equally good.
    """
    if not source or not target:
        return 0.0
    candidates = sorted({0.0, target[0] - source[0], target[-1] - source[-1]}, key=abs)
    times = np.asarray(source)

    def partners(shift: float) -> int:
        wanted = np.asarray(target) - shift
        place = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
        left, right = times[place - 1], times[np.minimum(place, len(times) - 1)]
        return int(np.sum(np.minimum(np.abs(wanted - left), np.abs(wanted - right)) <= near))

    return max(candidates, key=partners)
