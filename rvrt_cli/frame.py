# SPDX-License-Identifier: Apache-2.0
"""A frame on its way from decoder to encoder, and its pixels as integers and as floats.

Pixels are RGB, channels last: (H, W, 3), uint8, or uint16 for sources of more than 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from rvrt_cli.options import SMALLEST_FRAME

_ROWS = 32  # converted at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Frame:
    """One frame and when it is shown.

    Attributes:
        pixels: RGB, (H, W, 3), uint8 in 0..255, or uint16 in 0..65535 for sources of more than 8 bits; may be read-only.
        pts: presentation timestamp on the source's own clock, in units of the reader's `time_base`.
        alpha: (H, W), same type as `pixels`, opaque at its maximum; None where there is none.
        source: pixels that an upscaled frame was made from, at their own size; None where nobody asked for them.
    """

    pixels: np.ndarray
    pts: int
    alpha: np.ndarray | None = None
    source: np.ndarray | None = None


def white_level(dtype: DTypeLike) -> float:
    """The value of white in pixels of this type: the largest of an integer type, 1 of floats."""
    return 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max)


def to_float(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Integer pixels of any shape as float32 in [0, 1]; into `out` where it is given. Floats stay as they are."""
    if pixels.dtype == np.float32:
        return np.positive(pixels, out=out)
    return np.divide(pixels, np.iinfo(pixels.dtype).max, out=out, dtype=np.float32)


def round_levels(levels: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Floats on the scale of `dtype` (0..255 for uint8) as `dtype`: rounded to the nearest level, then clipped.

    Exact halves go to the even level (`np.rint`), so that rounding adds no bias. As floats, they stay as they are.
    """
    if np.dtype(dtype).kind == "f":
        return levels.astype(dtype, copy=False)
    top = np.iinfo(dtype).max
    return np.clip(np.rint(levels), 0, top).astype(dtype)


def to_pixels(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write floats in [0, 1] into the integer pixels `out` of the same shape, clipped and rounded as `round_levels` does.

    The first axis should be rows: a few are converted at a time. Floats in `out` get the values as they are.
    """
    if out.dtype == np.float32:
        out[:] = values
        return out
    top = np.float32(np.iinfo(out.dtype).max)
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS] * top
        np.rint(rows, out=rows)
        np.clip(rows, 0, top, out=rows)
        out[start : start + _ROWS] = rows  # cast in place
    return out


def pad_by_reflection(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (..., H, W, C), reflected at their lower and right edges to `height` × `width` px; themselves if they are that."""
    below, right = height - frames.shape[-3], width - frames.shape[-2]
    if not below and not right:
        return frames
    return np.pad(frames, [(0, 0)] * (frames.ndim - 3) + [(0, below), (0, right), (0, 0)], "reflect")


def padded_size(height: int, width: int, reduction: int) -> tuple[int, int]:
    """Height and width of what a network takes for a frame: multiples of its reduction, at least `SMALLEST_FRAME` of them."""
    rows, columns = (max(SMALLEST_FRAME, -(-side // reduction)) * reduction for side in (height, width))
    return rows, columns
