# SPDX-License-Identifier: Apache-2.0
"""What becomes of a frame between the network and the encoder: its size, `--strength` and `--grain`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rvrt_cli.data.resize import imresize
from rvrt_cli.frame import Frame, round_levels, white_level
from rvrt_cli.options import JobOptions
from rvrt_cli.upscale.grain import GrainCurve, GrainPainter

_BLEND_BYTES = 4 * 3 * 4  # per px: the network's and the bicubic levels as floats, and what resizing takes meanwhile


@dataclass(frozen=True)
class Finish:
    """How an upscaled frame becomes one of the output.

    Attributes:
        size: (height, width) px of the output.
        strength: share of the network's result, 1 to 0; the rest is the source, enlarged by MATLAB's bicubic (`imresize`).
        grain: that is drawn on the frame; None for none.
    """

    size: tuple[int, int]
    strength: float = 1.0
    grain: GrainPainter | None = None

    @classmethod
    def of_options(
        cls, options: JobOptions, source_size: tuple[int, int], size: tuple[int, int], grain: GrainCurve | None
    ) -> Finish:
        """The finish that options ask for; sizes are (height, width) px of a frame of the source and of the output."""
        painter = None
        if grain is not None and options.grain and max(grain.levels) > 0:
            painter = GrainPainter(grain, options.grain, size[0] / source_size[0])
        return cls(size, options.strength, painter)

    @property
    def needs_source(self) -> bool:
        """Whether frames must come with the pixels that they were made from."""
        return self.strength < 1

    @property
    def bytes(self) -> int:
        """Main memory that blending and grain take beside the frames."""
        return 0 if self.strength == 1 and self.grain is None else _BLEND_BYTES * self.size[0] * self.size[1]

    def __call__(self, frame: Frame) -> Frame:
        """The frame as it is written; rounded once, to the type that it had. Alpha is resized only."""
        alpha = frame.alpha
        if alpha is not None and alpha.shape != self.size:
            alpha = resize_levels(alpha[..., None], self.size)[..., 0]
        return replace(frame, pixels=self._pixels(frame), alpha=alpha, source=None)

    def _pixels(self, frame: Frame) -> np.ndarray:
        if self.strength == 1 and self.grain is None:
            return resize_levels(frame.pixels, self.size)
        dtype = frame.pixels.dtype
        levels = frame.pixels.astype(np.float32)
        if levels.shape[:2] != self.size:
            levels = imresize(levels, size=self.size)
        if self.strength < 1:
            assert frame.source is not None
            baseline = bicubic(frame.source, self.size).astype(np.float32)
            levels -= baseline
            levels *= np.float32(self.strength)
            levels += baseline
        if self.grain is not None:
            white = np.float32(white_level(dtype))
            levels /= white
            self.grain.add(levels, frame.pts)
            levels *= white
        return round_levels(levels, dtype)


def bicubic(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W, C) at another size (H, W), by MATLAB's antialiased bicubic; in the type they had.

    uint8 is rounded after each axis, as MATLAB does: the baseline of `rvrt bench` and `rvrt compare`.
    """
    if pixels.shape[:2] == size:
        return pixels
    return imresize(pixels, size=size) if pixels.dtype == np.uint8 else resize_levels(pixels, size)


def resize_levels(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W, C) at another size (H, W), by `imresize`, rounded once; in the type they had."""
    if levels.shape[:2] == size:
        return levels
    return round_levels(imresize(levels.astype(np.float32), size=size), levels.dtype)
