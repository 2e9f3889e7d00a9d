# SPDX-License-Identifier: Apache-2.0
"""Optical flow without weights: Lucas-Kanade on an image pyramid, in plain MindSpore, without gradient.

B pairs of frames, H×W frame size [px].
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import layers
from rvrt_cli.ops.sampling import warp

PYRAMID_LEVELS = 4  # motion of 8 px is one pixel of the coarsest level
ITERATIONS_PER_LEVEL = 2
_WINDOW, _WINDOW_SIGMA = 17, 4.0  # px: Gaussian window, whose pixels are assumed to move together
DAMPING = 3e-5  # squared gradient of luma in [0, 1]; regions with less keep the flow of the coarser level
# Where things move apart, the window mixes their motions. On the finest levels each pixel therefore tries its neighbors' flows.
TRYING_LEVELS = 2
TRIED_DISTANCE = 5  # px between a pixel and those whose flows it tries
_MATCH_WINDOW, _MATCH_SIGMA = 5, 1.0  # px
LARGEST_ERROR = 0.02  # squared difference of luma that counts as no match at all, as beyond the edge of the frame
MATCHING_ERROR = 3e-5  # squared difference that aliasing and noise leave of a match
FLOW_SIGMA = 0.4  # px: standard deviation of the flow, beyond which neighbors are not to be trusted
DETAIL_SIGMA = 0.015  # of luma in [0, 1]: standard deviation of noise, exposure and what aliasing leaves
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def lucas_kanade(reference: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
    """Flow to where each pixel of `reference` lies in `neighbor`, and how well it matches there; not differentiated.

    Least squares over a Gaussian window, iterated from coarse to fine (Lucas and Kanade, IJCAI 1981; Bouguet 2001). Damped,
    so that flat regions keep the flow of the coarser level instead of following noise. Of luma, the local mean is
    subtracted: changes of exposure are no motion. At the edges of moving things, pixels take over the flow of those around
    them that matches best.

    Args:
        reference, neighbor: (B, H, W, 3) RGB in [0, 1].

    Returns:
        flow (B, H, W, 2) px, as (x, y); match (B, H, W) from 0 to 1, see `_match_of`.
    """
    dtype, (height, width) = reference.dtype, reference.shape[1:3]
    pyramid = [(_padded_luma(reference), _padded_luma(neighbor))]
    for _ in range(PYRAMID_LEVELS - 1):
        pyramid.append((layers.halve(pyramid[-1][0]), layers.halve(pyramid[-1][1])))
    details = [(_detail(pair[0]), _detail(pair[1])) for pair in pyramid]
    flow = ops.zeros((*pyramid[-1][0].shape[:3], 2), ms.float32)
    for level in range(PYRAMID_LEVELS - 1, -1, -1):
        first, second = details[level]
        if level < PYRAMID_LEVELS - 1:
            flow = 2 * layers.resize_bilinear(flow, first.shape[1], first.shape[2])
        for _ in range(ITERATIONS_PER_LEVEL):
            flow = flow - _flow_step(first, second, flow)
        if level < TRYING_LEVELS:
            flow = _try_flows_around(first, second, flow)
    match = _match_of(details[0][0], details[0][1], flow)
    return tuple(ops.stop_gradient(result[:, :height, :width]).astype(dtype) for result in (flow, match))


def _flow_step(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Step of one iteration, subtracted from the flow (B, h, w, 2) px between two lumas (B, h, w, 1); at most 1 px."""
    warped = warp(second, flow, border=True)
    inside = warp(ops.ones_like(second), flow)  # there is nothing to match where the flow leaves the frame
    across = 0.5 * (_slope(first, 2) + _slope(warped, 2))
    down = 0.5 * (_slope(first, 1) + _slope(warped, 1))
    change = inside * (warped - first)
    seen = (inside * across, inside * down)
    products = (seen[0] * across, seen[0] * down, seen[1] * down, across * change, down * change)
    sums = _window_sums(ops.concat(products, -1), window_taps())
    xx, xy, yy = sums[..., 0:1] + DAMPING, sums[..., 1:2], sums[..., 2:3] + DAMPING
    xt, yt = sums[..., 3:4], sums[..., 4:5]
    determinant = xx * yy - xy * xy  # at least DAMPING²
    step = ops.concat((yy * xt - xy * yt, xx * yt - xy * xt), -1) / determinant
    return ops.clamp(step, -1.0, 1.0)


def _try_flows_around(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """The mean of each pixel's flow and of four around it, weighted by how well the second luma matches the first there."""
    weight, total = ops.zeros_like(first), ops.zeros_like(flow)
    across, down = _adjacent_pixels(flow, 2, TRIED_DISTANCE), _adjacent_pixels(flow, 1, TRIED_DISTANCE)
    for tried in (flow, *across, *down):
        share = 1 / ops.square(_window_sums(_error_of(first, second, tried), match_taps()) + MATCHING_ERROR)
        weight, total = weight + share, total + share * tried
    return total / weight


def _error_of(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """(B, h, w, 1): squared difference of the second luma, where the flow leads, from the first; at most LARGEST_ERROR."""
    inside = warp(ops.ones_like(second), flow)
    change = ops.clamp(ops.square(warp(second, flow, border=True) - first), 0, LARGEST_ERROR)
    return inside * change + (1 - inside) * LARGEST_ERROR


def _match_of(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """(B, h, w): likelihood of the error around each pixel, if the flow is wrong by FLOW_SIGMA and luma by DETAIL_SIGMA.

    An error of the flow shows where there are gradients, as their product: near strong edges much is forgiven, in smooth
    places little.
    """
    energy = ops.square(_slope(first, 2)) + ops.square(_slope(first, 1))
    sums = _window_sums(ops.concat((_error_of(first, second, flow), energy), -1), match_taps())
    return ops.exp(-sums[..., 0] / (FLOW_SIGMA**2 * sums[..., 1] + DETAIL_SIGMA**2))


def _padded_luma(frames: Tensor) -> Tensor:
    """(B, H, W, 3) → (B, h, w, 1) float32, padded at the bottom and right to whole pixels of the coarsest level."""
    luma = sum(weight * frames[..., c : c + 1].astype(ms.float32) for c, weight in enumerate(LUMA_WEIGHTS))
    for axis in (1, 2):
        missing = -luma.shape[axis] % 2 ** (PYRAMID_LEVELS - 1)
        if missing:
            last = _slice_axis(luma, axis, luma.shape[axis] - 1, luma.shape[axis])
            luma = ops.concat((luma, *[last] * missing), axis)
    return luma


def _adjacent_pixels(x: Tensor, axis: int, distance: int = 1) -> tuple[Tensor, Tensor]:
    """The pixels at a distance before and after each one along an axis; the edge repeats."""
    length, padded = x.shape[axis], repeat_edges(x, axis, distance)
    return _slice_axis(padded, axis, 0, length), _slice_axis(padded, axis, 2 * distance, 2 * distance + length)


def _slice_axis(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[:, start:stop] if axis == 1 else x[:, :, start:stop]


def _slope(x: Tensor, axis: int) -> Tensor:
    before, after = _adjacent_pixels(x, axis)
    return 0.5 * (after - before)


def _smooth(x: Tensor, axis: int) -> Tensor:
    """Low-pass filter 1 2 1: aliasing does not move with the scene."""
    before, after = _adjacent_pixels(x, axis)
    return 0.5 * x + 0.25 * (before + after)


def _detail(luma: Tensor) -> Tensor:
    """(B, h, w, 1) smoothed, minus its local mean over the window; the edge repeats."""
    smooth = _smooth(_smooth(luma, 1), 2)
    height, width = luma.shape[1:3]
    reach = _WINDOW // 2
    means = _window_sums(repeat_edges(repeat_edges(smooth, 1, reach), 2, reach), window_taps())
    return smooth - means[:, reach : reach + height, reach : reach + width]


def repeat_edges(x: Tensor, axis: int, count: int) -> Tensor:
    """An axis longer by `count` at either end, where the edge repeats."""
    length = x.shape[axis]
    ends = _slice_axis(x, axis, 0, 1), _slice_axis(x, axis, length - 1, length)
    return ops.concat((*[ends[0]] * count, x, *[ends[1]] * count), axis)


def _window_sums(x: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Weighted sums around each pixel of (B, h, w, C), by the weights of a window along one axis."""
    down, across, bias = _window_kernels(x.shape[-1], taps)
    return layers.conv2d(layers.conv2d(x, down, bias), across, bias)


def window_taps() -> tuple[float, ...]:
    """Weights of the pixels of the window that moves together along one axis; they sum to 1."""
    return _gaussian_taps(_WINDOW, _WINDOW_SIGMA)


def match_taps() -> tuple[float, ...]:
    """The same of the window over which flows that are tried are compared."""
    return _gaussian_taps(_MATCH_WINDOW, _MATCH_SIGMA)


def _gaussian_taps(length: int, sigma: float) -> tuple[float, ...]:
    taps = np.exp(-0.5 * ((np.arange(length) - length // 2) / sigma) ** 2)
    return tuple(float(tap) for tap in taps / taps.sum())


@ops.constexpr
def _window_kernels(channels: int, taps: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of two convolutions, a column and a row that keep channels separate, and their bias."""
    weight = np.eye(channels)[:, :, None] * np.array(taps)
    down, across = weight[..., :, None].astype(np.float32), weight[..., None, :].astype(np.float32)
    return Tensor(down), Tensor(across), Tensor(np.zeros(channels, np.float32))
