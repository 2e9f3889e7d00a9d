# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt check`."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.options import check_excerpt, parse_time, setting


@dataclass(frozen=True)
class CheckOptions:
    """The part of the source that the target shows.

    Raises:
        OptionError: a value cannot be used.
    """

    start: float = setting(
        0.0,
        "Start of the part of SOURCE that TARGET shows, such as 90 or 00:01:30 [s].",
        metavar="TIME",
        shown="0",
        parse=parse_time,
    )
    duration: float | None = setting(
        None, "Duration of this part [s].", metavar="TIME", shown="to the end", parse=parse_time
    )

    def __post_init__(self) -> None:
        check_excerpt(self.start, self.duration)

    @property
    def whole(self) -> bool:
        """Whether the target shows the whole source."""
        return self.start == 0 and self.duration is None
