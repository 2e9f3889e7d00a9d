# SPDX-License-Identifier: Apache-2.0
"""Size and contents of training batches. No NumPy import: command-line options are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import NATIVE_SCALE

TRAINING_DEGRADATIONS = ("bi", "bd", "video")


@dataclass(frozen=True)
class BatchSpec:
    """Size and contents of the training batches.

    Attributes:
        batch: samples per step, over all ranks.
        frames: frames per sample.
        crop: edge of a sample, high resolution [px].
        degradation: one of `TRAINING_DEGRADATIONS`.
        seed: random seed of the samples.
        still: share of the samples in which nothing moves.

    Raises:
        OptionError: a value cannot be used.
    """

    batch: int = 4
    frames: int = 6
    crop: int = 128
    degradation: str = "bi"
    seed: int = 0
    still: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 1:
            raise OptionError(f"--batch {self.batch}, --frames {self.frames}: give 1 or more of each")
        if self.crop < 32 or self.crop % NATIVE_SCALE:
            raise OptionError(f"--crop {self.crop}: give a multiple of 4 px, 32 or more")
        if not 0 <= self.still <= 1:
            raise OptionError(f"--still {self.still}: give a share from 0 to 1")
        if self.degradation not in TRAINING_DEGRADATIONS:
            raise OptionError(f"--degradation {self.degradation!r}: choose one of {', '.join(TRAINING_DEGRADATIONS)}")
