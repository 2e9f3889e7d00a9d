# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt preview`."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.compare.compare_options import ExcerptOptions
from rvrt_cli.errors import OptionError
from rvrt_cli.options import setting

_MAX_FRAMES = 90


@dataclass(frozen=True)
class PreviewOptions(ExcerptOptions):
    """What of a source is previewed.

    Raises:
        OptionError: a value cannot be used.
    """

    frames: int = setting(8, "Frames of each excerpt.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.frames <= _MAX_FRAMES:
            raise OptionError(f"--frames {self.frames}: give 1 to {_MAX_FRAMES}")
