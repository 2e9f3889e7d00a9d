# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt preview`."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.compare.compare_options import MAX_EXCERPTS
from rvrt_cli.errors import OptionError
from rvrt_cli.options import parse_time, setting

_MAX_FRAMES = 90


@dataclass(frozen=True)
class PreviewOptions:
    """What of a source is previewed.

    Raises:
        OptionError: a value cannot be used.
    """

    excerpts: int = setting(3, "Number of excerpts.")
    frames: int = setting(8, "Frames of each excerpt.")
    at: str | None = setting(
        None, "Times of the excerpts in place of chosen ones, such as 0:42,1:05.", metavar="TIME,...", shown="chosen"
    )

    def __post_init__(self) -> None:
        if not 1 <= self.excerpts <= MAX_EXCERPTS:
            raise OptionError(f"--excerpts {self.excerpts}: give 1 to {MAX_EXCERPTS}")
        if not 1 <= self.frames <= _MAX_FRAMES:
            raise OptionError(f"--frames {self.frames}: give 1 to {_MAX_FRAMES}")
        self.times  # noqa: B018  validates

    @property
    def times(self) -> list[float]:
        """The times of `at` [s]; empty: to be chosen."""
        return [parse_time(text) for text in self.at.split(",")] if self.at else []
