# SPDX-License-Identifier: Apache-2.0
"""Fusion of neighboring frames on the finer grid of one frame, as a plain MindSpore definition. It has no gradient.

B batch, K neighbors, H×W frame size [px], S scale: every pixel has S×S places, the pixels of the upscaled frame.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops.sampling import FAR, pixel_grid, warp

FUSED_SCALE = 4
FUSED_CHANNELS = 4 * FUSED_SCALE**2  # of the result
SAMPLE_SIGMA = 0.2  # px: standard deviation of a sample's weight over the distance to a place
LIKENESS_SIGMA = 0.1  # of RGB in [0, 1]: what differs more from the frame itself is taken for another object


def fuse_frames(frame: Tensor, neighbors: Tensor, flows: Tensor) -> Tensor:
    """Kernel regression over the samples of a frame and of its neighbors, at the places of the upscaled frame.

    Every sample, a pixel of some frame, is placed by the flow, and weighted by its distance to a place and by its likeness to
    the frame there (Wronski et al., "Handheld Multi-Frame Super-Resolution", 2019, equations 1 and 2, with isotropic
    kernels). Detail that neighbors show between the frame's own pixels stays sharp; warping would blur it.

    Args:
        frame: (B, H, W, 3) RGB in [0, 1].
        neighbors: (B, K, H, W, 3).
        flows: (B, K, H, W, 2) px, as (x, y): where each pixel of the frame lies in the neighbor.

    Returns:
        (B, H, W, 64): the regression minus the frame's pixel, as 3 channels of 16 places; then the neighbors' share of
        the weight at each place. Place i * 4 + j is that of row i and column j within the pixel.
    """
    dtype, frame = frame.dtype, frame.astype(ms.float32)
    batch, height, width, _ = frame.shape
    rows, columns = pixel_grid(height, width)
    still = ops.zeros((batch, height, width), ms.float32)
    empty = ops.zeros((batch, height, width, FUSED_SCALE**2), ms.float32)
    own_sum, own_weight = [empty] * 3, empty
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            sample = warp(frame, ops.stack((still + right, still + down), -1), border=True)
            own_sum, own_weight = _accumulate(own_sum, own_weight, sample, still + right, still + down, 1.0)
    total, weight = own_sum, own_weight
    for k in range(neighbors.shape[1]):
        neighbor, flow = neighbors[:, k].astype(ms.float32), flows[:, k].astype(ms.float32)
        across, along = (ops.clamp(flow[..., i], -FAR, FAR) for i in (0, 1))
        for down in (0, 1):
            for right in (0, 1):
                whole_x, whole_y = ops.floor(across) + right, ops.floor(along) + down
                x, y = whole_x - across, whole_y - along  # where the sample lies, from the frame's pixel
                sample = warp(neighbor, ops.stack((whole_x, whole_y), -1), border=True)
                expected = warp(frame, ops.stack((x, y), -1), border=True)
                unlike = ops.square(sample - expected).mean(-1) / LIKENESS_SIGMA**2
                seen = ops.logical_and(
                    ops.logical_and(columns + whole_x >= 0, columns + whole_x <= width - 1),
                    ops.logical_and(rows + whole_y >= 0, rows + whole_y <= height - 1),
                )
                trust = (ops.exp(-0.5 * unlike) * seen.astype(ms.float32)).expand_dims(-1)
                total, weight = _accumulate(total, weight, sample, x, y, trust)
    estimates = [total[c] / weight - frame[..., c : c + 1] for c in range(3)]
    fused = ops.concat((*estimates, 1 - own_weight / weight), -1)
    return ops.stop_gradient(fused).astype(dtype)


def _place_weights(offset: Tensor) -> Tensor:
    """Weight of a sample at `offset` (…) px along one axis for the four places of that axis: (…, 4)."""
    places = Tensor(((np.arange(FUSED_SCALE) + 0.5) / FUSED_SCALE - 0.5).astype(np.float32))
    return ops.exp(-0.5 * ops.square((places - offset.expand_dims(-1)) / SAMPLE_SIGMA))


def _accumulate(
    total: list[Tensor], weight: Tensor, sample: Tensor, x: Tensor, y: Tensor, trust: Tensor | float
) -> tuple[list[Tensor], Tensor]:
    """The weighted sums (B, H, W, 16) of each channel and of the weights, with one more sample (B, H, W, 3) at (x, y)."""
    across, down = _place_weights(x), _place_weights(y)
    grid = down.expand_dims(-1) * across.expand_dims(-2)
    grid = trust * grid.reshape(*grid.shape[:-2], FUSED_SCALE**2)
    return [total[c] + grid * sample[..., c : c + 1] for c in range(3)], weight + grid
