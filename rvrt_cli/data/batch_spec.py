# SPDX-License-Identifier: Apache-2.0
"""Size and contents of training batches. No NumPy import: command-line options are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import NATIVE_SCALE

# By task: what makes the input from the target. "blur" averages neighboring frames, or takes a set's own pairs.
TASK_DEGRADATIONS = {"upscale": ("bi", "bd", "video", "real"), "deblur": ("blur",), "denoise": ("noise",)}
TRAINING_DEGRADATIONS = tuple(kind for kinds in TASK_DEGRADATIONS.values() for kind in kinds)
MIXED_DEGRADATIONS = ("video", "real")  # of which a share of the clips is clean


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
        clean_share: share of the samples that a mix of degradations leaves clean; None: the mix's own.

    Raises:
        OptionError: a value cannot be used.
    """

    batch: int = 4
    frames: int = 6
    crop: int = 128
    degradation: str = "bi"
    seed: int = 0
    still: float = 0.0
    clean_share: float | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 1:
            raise OptionError(f"--batch {self.batch}, --frames {self.frames}: give 1 or more of each")
        if self.crop < 32 or self.crop % NATIVE_SCALE:
            raise OptionError(f"--crop {self.crop}: give a multiple of 4 px, 32 or more")
        if not 0 <= self.still <= 1:
            raise OptionError(f"--still {self.still}: give a share from 0 to 1")
        if self.degradation not in TRAINING_DEGRADATIONS:
            raise OptionError(f"--degradation {self.degradation!r}: choose one of {', '.join(TRAINING_DEGRADATIONS)}")
        if self.clean_share is not None:
            if not 0 <= self.clean_share <= 1:
                raise OptionError(f"--clean-share {self.clean_share}: give a share from 0 to 1")
            if self.degradation not in MIXED_DEGRADATIONS:
                raise OptionError(
                    f"--clean-share {self.clean_share}: {self.degradation} is no mix; choose --degradation "
                    f"{' or '.join(MIXED_DEGRADATIONS)}, or omit it"
                )
        if self.still and self.task == "deblur":
            raise OptionError(f"--still {self.still}: still frames have no blur to remove; give 0")

    @property
    def task(self) -> str:
        """What a network learns from such samples, a key of `TASK_DEGRADATIONS`."""
        return next(task for task, kinds in TASK_DEGRADATIONS.items() if self.degradation in kinds)

    @property
    def scale(self) -> int:
        """Px of the target per px of the input, along each axis."""
        return NATIVE_SCALE if self.task == "upscale" else 1
