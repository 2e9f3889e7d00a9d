# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt export`; no MindSpore or NumPy import."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import SMALLEST_FRAME, UpscaleOptions, check_choice, parse_size, setting

EXPORT_PRECISIONS = ("float32", "float16")


@dataclass(frozen=True)
class ExportOptions:
    """Options of `rvrt export`; every field is one command-line option.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    model: str = setting(UpscaleOptions.model, "Weights to export; see `rvrt weights list`.", metavar="NAME")
    weights: str | None = setting(None, "Weights file to use in place of --model.", metavar="FILE")
    frames: int = setting(14, "Frames that a window upscales, rounded up to whole clips.")
    lookahead: int = setting(
        UpscaleOptions.lookahead, "Future frames that the recurrence of a window sees, rounded up to whole clips."
    )
    size: str | None = setting(None, "Fixed frame size before upscaling [px].", metavar="WIDTHxHEIGHT", shown="any")
    dynamic: bool = setting(False, "Accept frames of any size; the default without --size.")
    precision: str = setting("float32", "Precision in which the model computes.", choices=EXPORT_PRECISIONS)
    overwrite: bool = setting(False, "Replace an existing file.")

    def __post_init__(self) -> None:
        check_choice("--precision", self.precision, EXPORT_PRECISIONS)
        if self.frames < 1:
            raise OptionError(f"--frames {self.frames}: give 1 or more")
        if self.lookahead < 0:
            raise OptionError(f"--lookahead {self.lookahead}: give 0 or more")
        if self.size is not None and self.dynamic:
            raise OptionError(f"--size {self.size}: fixes the size; omit it, or --dynamic")
        if self.height_width is not None and min(self.height_width) < SMALLEST_FRAME:
            raise OptionError(f"--size {self.size}: the network needs at least {SMALLEST_FRAME}x{SMALLEST_FRAME} px")

    @property
    def height_width(self) -> tuple[int, int] | None:
        """`size` as (height, width) px; None for any."""
        if self.size is None:
            return None
        size = parse_size(self.size)
        if isinstance(size, int):
            raise OptionError(f"--size {self.size!r}: write WIDTHxHEIGHT such as 320x180")
        return size[1], size[0]
