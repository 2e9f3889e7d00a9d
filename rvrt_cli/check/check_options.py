# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt check`."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.options import check_excerpt, setting


@dataclass(frozen=True)
class CheckOptions:
    """The part of the source that the target shows.

    Raises:
        OptionError: a value cannot be used.
    """

    start: float = setting(0.0, "Start of the part of SOURCE that TARGET shows [s].")
    duration: float | None = setting(None, "Duration of this part [s].", shown="to the end")

    def __post_init__(self) -> None:
        check_excerpt(self.start, self.duration)

    @property
    def whole(self) -> bool:
        """Whether the target shows the whole source."""
        return self.start == 0 and self.duration is None
