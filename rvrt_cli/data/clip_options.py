"""Options of `rvrt preprocess clips`, apart from what carries them out, so that `rvrt --help` need not import NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError


@dataclass(frozen=True)
class ClipOptions:
    """What `rvrt preprocess clips` makes.

    Raises:
        OptionError: a value cannot be used.
    """

    frames: int = 7
    size: int = 192  # HR px
    per_photo: int = 16  # clips
    per_video: int = 240  # clips, spread over its length
    reduce: int = 2  # videos are reduced this many times first, against compression artifacts
    seed: int = 0

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
        """How many clips this many sources give at most."""
        return photos * self.per_photo + videos * self.per_video
