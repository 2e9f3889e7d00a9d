# SPDX-License-Identifier: Apache-2.0
"""Frame fusion: samples of neighboring frames on the upscaled grid of one frame, in plain MindSpore, without gradient.

B batch, K neighbors, H×W frame size [px], S scale: S×S subpixels, the pixels of the upscaled frame, in every pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import layers
from rvrt_cli.ops.lucas_kanade_flow import lucas_kanade, repeat_edges
from rvrt_cli.ops.sampling import FAR_OUTSIDE, pixel_grid, warp

FUSION_SCALE = 4
SUBPIXELS = FUSION_SCALE**2
FUSED_CHANNELS = 4 * SUBPIXELS  # RGB and the share of the neighbors
POSITION_SIGMA = 0.25  # px: standard deviation of a sample's weight by distance
COLOR_SIGMA = 0.1  # of RGB in [0, 1]: standard deviation by difference; farther colors belong to another object
CUBIC = -0.75  # slope of Keys' kernel at a distance of 1 px, as in GridSample of PyTorch and ONNX
REACH = 2  # px: the pixels around one from which cubic interpolation takes places up to 1 px away
# px: over the last of its distance, up to a whole pixel, a neighbor's sample fades. Where a flow crosses a whole number one
# sample takes the place of another; unfaded, a rounding error of the flow would show as a step.
FADE = 1 / 16
# (S,) px: subpixels along one axis, from the pixel's center
SUBPIXEL_POSITIONS = ((np.arange(FUSION_SCALE) + 0.5) / FUSION_SCALE - 0.5).astype(np.float32)

_OWN_ALONG = np.exp(-0.5 * ((SUBPIXEL_POSITIONS[:, None] - np.arange(-1, 2)) / POSITION_SIGMA) ** 2).sum(1)
# (S²,): sums of the weights of the frame's own 3×3 pixels at each subpixel
OWN_WEIGHTS = np.outer(_OWN_ALONG, _OWN_ALONG).ravel().astype(np.float32)


def fuse_frames(frame: Tensor, neighbors: Tensor, flows: Tensor, matches: Tensor) -> Tensor:
    """Kernel regression over the samples of a frame and its neighbors, at the subpixels of the upscaled frame.

    Every sample, a pixel of some frame, is placed by the flow. Its weight at a subpixel depends on its distance, on its
    similarity to the frame there, and on how well the flow matches around it (Wronski et al., "Handheld Multi-Frame
    Super-Resolution", 2019, equations 1 and 2, with isotropic kernels). Not the samples are averaged but what they differ
    by from the frame, which cubic interpolation continues between its pixels (Keys, "Cubic Convolution Interpolation",
    1981): samples lie unevenly around a subpixel, and a mean of colors would be that of another place. What neighbors saw
    between the frame's own pixels stays sharp; a warp would blur it. Four samples of each neighbor take part, those around
    the place where the flow leads; the result is continuous in the flow, see `FADE`.

    Args:
        frame: (B, H, W, 3) RGB in [0, 1].
        neighbors: (B, K, H, W, 3).
        flows: (B, K, H, W, 2) px, as (x, y): where each pixel of the frame lies in the neighbor.
        matches: (B, K, H, W) from 0 to 1: how far that is to be trusted; see `lucas_kanade`.

    Returns:
        (B, H, W, 4 S²): the regression minus the frame's pixel, as 3 channels of S² subpixels; then the neighbors' share
        of the weight at each subpixel. Subpixel i * S + j is in row i and column j of the pixel.
    """
    dtype, frame = frame.dtype, frame.astype(ms.float32)
    batch, height, width, _ = frame.shape
    rows, columns = pixel_grid(height, width)
    around = _pixels_around(frame)
    own = Tensor(OWN_WEIGHTS)  # of the frame's pixels, which differ by nothing
    weight = own + ops.zeros((batch, height, width, SUBPIXELS), ms.float32)
    total = [ops.zeros_like(weight)] * 3
    for k in range(neighbors.shape[1]):
        neighbor, flow, match = (x[:, k].astype(ms.float32) for x in (neighbors, flows, matches))
        across, along = (ops.clamp(flow[..., i], -FAR_OUTSIDE, FAR_OUTSIDE) for i in (0, 1))
        for down in (0, 1):
            for right in (0, 1):
                whole_x, whole_y = ops.floor(across) + right, ops.floor(along) + down
                x, y = whole_x - across, whole_y - along  # position of the sample relative to the frame's pixel
                sample = warp(neighbor, ops.stack((whole_x, whole_y), -1), border=True)
                difference = sample - _interpolated(around, x, y)
                distance = ops.square(difference).mean(-1) / COLOR_SIGMA**2
                seen = ops.logical_and(
                    ops.logical_and(columns + whole_x >= 0, columns + whole_x <= width - 1),
                    ops.logical_and(rows + whole_y >= 0, rows + whole_y <= height - 1),
                )
                likeness = ops.exp(-0.5 * distance) * seen.astype(ms.float32)
                trust = (match * likeness * _presence(x) * _presence(y)).expand_dims(-1)
                total, weight = _add_value(total, weight, difference, x, y, trust)
    continued = _at_subpixels(around)
    estimates = [continued[..., c, :] + total[c] / weight - frame[..., c : c + 1] for c in range(3)]
    fused = ops.concat((*estimates, 1 - own / weight), -1)
    return ops.stop_gradient(fused).astype(dtype)


def fuse_clip_of(lucas_kanade: Callable, fuse_frames: Callable, stack: Callable) -> Callable:
    """`fuse_clip` made of these functions: definitions or kernels."""

    def fuse(frames: Tensor, reach: int) -> Tensor:
        """Fuse `reach` frames on either side onto each frame of a clip, see `fuse_frames`; without gradient.

        Each flow is estimated directly by `lucas_kanade`: composing flows between adjacent frames would accumulate errors.

        Args:
            frames: (N, reach + T + reach, H, W, 3), a clip between its neighbors; where one is missing, a color that is far
                from any other.

        Returns:
            (N, T, H, W, 4 S²).
        """
        batch, length, height, width, _ = frames.shape
        time = length - 2 * reach
        starts = [start for start in range(2 * reach + 1) if start != reach]
        middle = frames[:, reach : reach + time].reshape(-1, height, width, 3)
        neighbors = stack([frames[:, start : start + time].reshape(-1, height, width, 3) for start in starts], 1)
        repeated = stack([middle] * len(starts), 1)
        flows, matches = lucas_kanade(repeated.reshape(-1, height, width, 3), neighbors.reshape(-1, height, width, 3))
        shape = neighbors.shape[:-1]
        fused = fuse_frames(middle, neighbors, flows.reshape(*shape, 2), matches.reshape(*shape))
        return fused.reshape(batch, time, height, width, -1)

    return fuse


fuse_clip = fuse_clip_of(lucas_kanade, fuse_frames, layers.stack)


def _presence(offset: Tensor) -> Tensor:
    """1, and from there to 0 at a whole pixel: the factor of a neighbor's sample at `offset` px along one axis."""
    return ops.clamp((1 - ops.abs(offset)) / FADE, 0, 1)


def _pixels_around(frame: Tensor) -> Tensor:
    """The pixels around each of (B, H, W, 3), row by row, the edge repeated: (B, H, W, 3, (2 REACH + 1)²)."""
    _, height, width, _ = frame.shape
    padded = repeat_edges(repeat_edges(frame, 1, REACH), 2, REACH)
    side = 2 * REACH + 1
    # One comprehension: graph mode refuses nested ones.
    shifted = [padded[:, i // side : i // side + height, i % side : i % side + width] for i in range(side**2)]
    return ops.stack(shifted, -1)


def _interpolated(around: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Cubic interpolation at (x, y) px, (B, H, W) from -1 to 1, from each pixel: (B, H, W, 3)."""
    across, down = _cubic_weights(x), _cubic_weights(y)
    grid = (down.expand_dims(-1) * across.expand_dims(-2)).reshape(*x.shape, 1, -1)
    return (around * grid).sum(-1)


def _at_subpixels(around: Tensor) -> Tensor:
    """Cubic interpolation at the subpixels: (B, H, W, 3, S²)."""
    weights = _cubic_weights(Tensor(SUBPIXEL_POSITIONS))
    grids = (weights.reshape(FUSION_SCALE, 1, -1, 1) * weights.reshape(1, FUSION_SCALE, 1, -1)).reshape(SUBPIXELS, -1)
    return ops.stack([(around * grids[i]).sum(-1) for i in range(SUBPIXELS)], -1)


def _cubic_weights(offset: Tensor) -> Tensor:
    """Weights of the pixels around at `offset` (…) px along one axis: (…, 2 REACH + 1)."""
    pixels = Tensor(np.arange(-REACH, REACH + 1, dtype=np.float32))
    away = ops.clamp(ops.abs(offset.expand_dims(-1) - pixels), 0, 2)
    near = ((CUBIC + 2) * away - (CUBIC + 3)) * away * away + 1
    far = CUBIC * (((away - 5) * away + 8) * away - 4)
    return ops.where(away < 1, near, far)


def _axis_weights(offset: Tensor) -> Tensor:
    """Weight of a sample at `offset` (…) px along one axis, at the S subpixels of that axis: (…, S)."""
    return ops.exp(-0.5 * ops.square((Tensor(SUBPIXEL_POSITIONS) - offset.expand_dims(-1)) / POSITION_SIGMA))


def _add_value(
    total: list[Tensor], weight: Tensor, value: Tensor, x: Tensor, y: Tensor, trust: Tensor | float
) -> tuple[list[Tensor], Tensor]:
    """Add a value (B, H, W, 3) at (x, y) to the weighted sums (B, H, W, S²) of the channels and to the sum of weights."""
    across, down = _axis_weights(x), _axis_weights(y)
    grid = down.expand_dims(-1) * across.expand_dims(-2)
    grid = trust * grid.reshape(*grid.shape[:-2], SUBPIXELS)
    return [total[c] + grid * value[..., c : c + 1] for c in range(3)], weight + grid
