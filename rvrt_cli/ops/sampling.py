# SPDX-License-Identifier: Apache-2.0
"""Bilinear sampling and warping by optical flow, in plain MindSpore.

B batch, H×W frame size [px], C channels, P points. Channels come last, so that a sample reads contiguous memory.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops.layers import roll

FAR_OUTSIDE = 1e6  # px; farther positions are equally outside the frame, and such floats still convert to integers


def bilinear_corners(y: Tensor, x: Tensor, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """The four pixels around each position and their bilinear weights.

    Args:
        y: row of each position [px], any shape; 0 is the center of the first row. May be outside the frame.
        x: column, same shape.

    Returns:
        four pairs: index row * width + column of the pixel (int32, clamped to the frame) and its weight, zero for a pixel
        outside the frame. Gradients with respect to the positions flow through the weights.
    """
    y, x = ops.clamp(y, -FAR_OUTSIDE, FAR_OUTSIDE), ops.clamp(x, -FAR_OUTSIDE, FAR_OUTSIDE)
    top, left = ops.floor(y), ops.floor(x)
    down, right = y - top, x - left
    corners = []
    for row, row_weight in ((top, 1 - down), (top + 1, down)):
        for column, column_weight in ((left, 1 - right), (left + 1, right)):
            inside = ops.logical_and(
                ops.logical_and(row >= 0, row <= height - 1), ops.logical_and(column >= 0, column <= width - 1)
            )
            index = ops.clamp(row, 0, height - 1) * width + ops.clamp(column, 0, width - 1)
            weight = row_weight * column_weight * ops.cast(inside, y.dtype)
            corners.append((ops.cast(index, ms.int32), weight))
    return corners


@ops.constexpr
def index_range(count: int, step: int = 1) -> Tensor:
    """0, step, 2 * step, …: (count,) int32, a constant of the graph: MindSpore cannot trace its own `arange`."""
    return Tensor(step * np.arange(count, dtype=np.int32))


def pixel_grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W) of every pixel [px], float32: float16 counts only to 2048, in halves from 512 on."""
    rows = ops.cast(index_range(height), ms.float32).reshape(height, 1)
    columns = ops.cast(index_range(width), ms.float32).reshape(1, width)
    return rows, columns


def warp(x: Tensor, flow: Tensor, border: bool = False) -> Tensor:
    """Backward warping: the output at a pixel is `x` at that pixel plus the flow, bilinearly interpolated.

    Args:
        x: (B, H, W, C).
        flow: (B, H, W, 2) px, as (x, y).
        border: outside the frame, repeat the nearest border pixel instead of zeros.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = x.shape
    rows, columns = pixel_grid(height, width)
    x_at, y_at = columns + flow[..., 0], rows + flow[..., 1]
    if border:
        x_at, y_at = ops.clamp(x_at, 0, width - 1), ops.clamp(y_at, 0, height - 1)
    table = x.reshape(batch * height * width, channels)
    first = index_range(batch, height * width).reshape(batch, 1, 1)
    out = None
    for index, weight in bilinear_corners(y_at, x_at, height, width):
        sample = ops.gather(table, index + first, 0) * ops.cast(weight, x.dtype).expand_dims(-1)
        out = sample if out is None else out + sample
    return out


def warp_clip_of(warp: Callable) -> Callable:
    """`warp_clip` made of this function: the definition of `warp`, or its kernel."""

    def clip_warp(x: Tensor, flows: Tensor) -> Tensor:
        """Every frame of a clip warped to every frame of the next one, and the flows: what predicts the offsets (equation 7).

        Args:
            x: (N, T, H, W, C).
            flows: (N, T, T, H, W, 2) px, as (x, y): field n of frame b leads to frame (n + b) % T of `x`.

        Returns:
            (N, T, H, W, T * C + T * 2): the warped frames of fields 0 … T-1 side by side, zero where a field leads outside the
            frame, then the fields.
        """
        batch, time, height, width, channels = x.shape
        fields = [flows[:, :, n] for n in range(time)]
        warped = []
        for n in range(time):
            frames = roll(x, n, 1).reshape(batch * time, height, width, channels)
            warped.append(warp(frames, fields[n].reshape(batch * time, height, width, 2)).reshape(x.shape))
        return ops.concat([*warped, *fields], -1)

    return clip_warp


warp_clip = warp_clip_of(warp)
