# SPDX-License-Identifier: Apache-2.0
"""The part of a source that an output shows."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rvrt_cli.video.read.source import SourceInfo


@dataclass(frozen=True)
class Excerpt:
    """The part of a source that an output shows.

    Attributes:
        start: seconds into the source.
        duration: seconds from there on; None: to the end.
        end_pts: end of the last frame, on the source's clock in units of its `time_base`; None when unknown: the last
            frame is then shown for the average duration.
    """

    start: float = 0.0
    duration: float | None = None
    end_pts: int | None = None

    def video_end(self, info: SourceInfo, last: Fraction) -> Fraction:
        """End of the last frame, which appears at `last`; both in seconds on the output's clock."""
        if self.end_pts is not None:
            end = self.end_pts * info.time_base - info.output_zero(self.start)
            if end > last:
                return end
        return last + 1 / info.frame_rate

    @property
    def exact_duration(self) -> Fraction | None:
        """`duration` without the error of binary fractions."""
        return Fraction(self.duration).limit_denominator(10**6) if self.duration is not None else None
