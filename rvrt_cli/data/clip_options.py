# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt preprocess clips`; no NumPy import, so that `rvrt --help` stays fast."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import setting


@dataclass(frozen=True)
class ClipOptions:
    """The training clips that `rvrt preprocess clips` makes; every field is one command-line option.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    # At least what every recipe in rvrt_cli/train/recipes asks for, and the last stage of rvrt-tiny's training
    frames: int = setting(12, "Frames per clip.")
    size: int = setting(256, "Edge of a clip, high resolution [px].")
    per_photo: int = setting(16, "Clips from each photo.")
    per_video: int = setting(240, "Most clips from each video, spread over its length.")
    reduce: int = setting(2, "Factor by which videos are downscaled first, to remove compression artifacts.")
    high_rate: bool = setting(
        False, "Take every frame of a video, for blur that is made by averaging neighboring frames (--task deblur)."
    )
    seed: int = setting(0, "Random seed; the same seed makes the same clips.")

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise OptionError(f"--frames {self.frames}: give 2 or more")
        if self.size < 64 or self.size % 4:
            raise OptionError(f"--size {self.size}: give a multiple of 4 px, 64 or more")
        if min(self.per_photo, self.per_video) < 1:
            raise OptionError("--per-photo and --per-video: give 1 or more")
        if self.reduce not in (1, 2, 3, 4):
            raise OptionError(f"--reduce {self.reduce}: choose 1, 2, 3 or 4")
        if self.seed < 0:
            raise OptionError(f"--seed {self.seed}: give 0 or more")

    @property
    def clip_bytes(self) -> int:
        """Bytes of one stored clip."""
        return self.frames * self.size**2 * 3

    def most_clips(self, photos: int, videos: int) -> int:
        """The most clips that this many sources can give."""
        return photos * self.per_photo + videos * self.per_video
