# SPDX-License-Identifier: Apache-2.0
"""Optical flow without weights, as a plain MindSpore definition. It has no gradient.

B pairs of frames, H×W frame size [px].
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import layers
from rvrt_cli.ops.sampling import warp

FLOW_LEVELS = 4  # of the pyramid: a motion of 8 px is one of its coarsest pixels
FLOW_ITERATIONS = 2  # on each level
_WINDOW, _WINDOW_SIGMA = 11, 2.0  # px, Gaussian: what is assumed to move together
_DAMPING = 1e-4  # squared gradient of luma in [0, 1]: below it, the coarser level's flow remains
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def lucas_kanade(reference: Tensor, neighbor: Tensor) -> Tensor:
    """Where each pixel of `reference` lies in `neighbor`; not differentiated.

    Least squares over a Gaussian window, iterated from coarse to fine (Lucas and Kanade, IJCAI 1981; Bouguet 2001), with
    damping, so that flat regions keep the coarser level's flow instead of following noise.

    Args:
        reference, neighbor: (B, H, W, 3) RGB in [0, 1].

    Returns:
        (B, H, W, 2) px, as (x, y).
    """
    dtype, (height, width) = reference.dtype, reference.shape[1:3]
    pyramid = [(_luma(reference), _luma(neighbor))]
    for _ in range(FLOW_LEVELS - 1):
        pyramid.append((layers.halve(pyramid[-1][0]), layers.halve(pyramid[-1][1])))
    flow = ops.zeros((*pyramid[-1][0].shape[:3], 2), ms.float32)
    for level in range(FLOW_LEVELS - 1, -1, -1):
        first, second = (_smooth(_smooth(image, 1), 2) for image in pyramid[level])
        if level < FLOW_LEVELS - 1:
            flow = 2 * layers.resize_bilinear(flow, first.shape[1], first.shape[2])
        for _ in range(FLOW_ITERATIONS):
            flow = flow - _correction(first, second, flow)
    return ops.stop_gradient(flow[:, :height, :width]).astype(dtype)


def _correction(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """What one iteration subtracts from the flow (B, h, w, 2) px between two lumas (B, h, w, 1), at most a pixel."""
    warped = warp(second, flow, border=True)
    inside = warp(ops.ones_like(second), flow)  # 0 where the flow points outside the frame
    across = 0.5 * (_slope(first, 2) + _slope(warped, 2))
    down = 0.5 * (_slope(first, 1) + _slope(warped, 1))
    change = inside * (warped - first)
    seen = (inside * across, inside * down)
    products = (seen[0] * across, seen[0] * down, seen[1] * down, across * change, down * change)
    sums = _windowed(ops.concat(products, -1))
    xx, xy, yy = sums[..., 0:1] + _DAMPING, sums[..., 1:2], sums[..., 2:3] + _DAMPING
    xt, yt = sums[..., 3:4], sums[..., 4:5]
    determinant = xx * yy - xy * xy  # at least _DAMPING²
    step = ops.concat((yy * xt - xy * yt, xx * yt - xy * xt), -1) / determinant
    return ops.clamp(step, -1.0, 1.0)


def _luma(frames: Tensor) -> Tensor:
    """(B, H, W, 3) → (B, h, w, 1) float32, padded at the bottom and on the right to whole pixels of the coarsest level."""
    luma = sum(weight * frames[..., c : c + 1].astype(ms.float32) for c, weight in enumerate(_LUMA_WEIGHTS))
    for axis in (1, 2):
        missing = -luma.shape[axis] % 2 ** (FLOW_LEVELS - 1)
        if missing:
            last = _slice_axis(luma, axis, luma.shape[axis] - 1, luma.shape[axis])
            luma = ops.concat((luma, *[last] * missing), axis)
    return luma


def _before_and_after(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """For every pixel, the one before and the one after along an axis; the frame's edge is repeated."""
    length = x.shape[axis]
    before = ops.concat((_slice_axis(x, axis, 0, 1), _slice_axis(x, axis, 0, length - 1)), axis)
    after = ops.concat((_slice_axis(x, axis, 1, length), _slice_axis(x, axis, length - 1, length)), axis)
    return before, after


def _slice_axis(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[:, start:stop] if axis == 1 else x[:, :, start:stop]


def _slope(x: Tensor, axis: int) -> Tensor:
    before, after = _before_and_after(x, axis)
    return 0.5 * (after - before)


def _smooth(x: Tensor, axis: int) -> Tensor:
    """Reduce aliasing, which does not move with the content."""
    before, after = _before_and_after(x, axis)
    return 0.5 * x + 0.25 * (before + after)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian sums around each pixel of (B, h, w, 5)."""
    down, across, bias = _gaussian(x.shape[-1])
    return layers.conv2d(layers.conv2d(x, down, bias), across, bias)


@ops.constexpr
def _gaussian(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of two depthwise convolutions, a column and a row, and their bias."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _WINDOW_SIGMA) ** 2)
    weight = np.eye(channels)[:, :, None] * (taps / taps.sum())
    down, across = weight[..., :, None].astype(np.float32), weight[..., None, :].astype(np.float32)
    return Tensor(down), Tensor(across), Tensor(np.zeros(channels, np.float32))
