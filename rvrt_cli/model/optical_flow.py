# SPDX-License-Identifier: Apache-2.0
"""Optical flow along a clip, the guide of the alignment: by SpyNet, or by Lucas and Kanade's method.

B pairs of frames, H×W frame size [px].
"""

from __future__ import annotations

from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.spynet import spynet

ABSENT = -8.0  # pixels of frames beyond the sequence: unlike any other, so that `fuse_neighbors` gives them no weight


@ops.compiled
def estimate_flow(frames: Tensor, both: bool, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Optical flow along a clip, both ways.

    Args:
        frames: (N, T+1, H, W, 3), a clip and the frame before it.
        both: else the backward flow is given twice.
        weights: `spynet_shapes`; none: by `ops.lucas_kanade`.

    Returns:
        forward and backward flow, (N, T, H, W, 2) px each.
    """
    batch, length, height, width, _ = frames.shape
    before = frames[:, :-1].reshape(-1, height, width, 3)
    after = frames[:, 1:].reshape(-1, height, width, 3)
    reference, neighbor = before, after
    if both:
        reference, neighbor = msops.concat((after, before)), msops.concat((before, after))
    flow = spynet(reference, neighbor, weights) if weights else ops.lucas_kanade(reference, neighbor)
    flow = flow.reshape(-1, batch, length - 1, height, width, 2)
    return flow[0], flow[-1]


@ops.compiled
def fuse_neighbors(frames: Tensor, reach: int) -> Tensor:
    """Fuse each frame of a clip with `reach` frames on either side, see `ops.fuse_frames`.

    Each flow is estimated directly, by `ops.lucas_kanade`: composing those between adjacent frames would add up their
    errors.

    Args:
        frames: (N, reach + T + reach, H, W, 3), a clip between its neighbors; see `ABSENT`.

    Returns:
        (N, T, H, W, 64).
    """
    batch, length, height, width, _ = frames.shape
    time = length - 2 * reach
    places = [at for at in range(2 * reach + 1) if at != reach]
    middle = frames[:, reach : reach + time].reshape(-1, height, width, 3)
    neighbors = ops.stack([frames[:, at : at + time].reshape(-1, height, width, 3) for at in places], 1)
    repeated = ops.stack([middle] * len(places), 1)
    flows = ops.lucas_kanade(repeated.reshape(-1, height, width, 3), neighbors.reshape(-1, height, width, 3))
    fused = ops.fuse_frames(middle, neighbors, flows.reshape(*neighbors.shape[:-1], 2))
    return fused.reshape(batch, time, height, width, -1)
