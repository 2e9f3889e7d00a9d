# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt compare`."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import parse_time, setting

MAX_EXCERPTS = 8
_MAX_SECONDS = 10.0


@dataclass(frozen=True)
class ExcerptOptions:
    """Which excerpts a page shows.

    Raises:
        OptionError: a value cannot be used.
    """

    excerpts: int = setting(3, "Number of excerpts.")
    at: str | None = setting(
        None, "Times of the excerpts in place of chosen ones, such as 0:42,1:05.", metavar="TIME,...", shown="chosen"
    )

    def __post_init__(self) -> None:
        if not 1 <= self.excerpts <= MAX_EXCERPTS:
            raise OptionError(f"--excerpts {self.excerpts}: give 1 to {MAX_EXCERPTS}")
        self.times  # noqa: B018  validates

    @property
    def times(self) -> list[float]:
        """The times of `at` [s]; empty: to be chosen."""
        return [parse_time(text) for text in self.at.split(",")] if self.at else []


@dataclass(frozen=True)
class CompareOptions(ExcerptOptions):
    """What a comparison shows.

    Raises:
        OptionError: a value cannot be used.
    """

    seconds: float = setting(1.5, "Duration of an excerpt [s].")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.seconds <= _MAX_SECONDS:
            raise OptionError(f"--seconds {self.seconds}: give 0.1 to {_MAX_SECONDS:g}")
