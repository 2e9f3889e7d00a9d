# SPDX-License-Identifier: Apache-2.0
"""Optical flow along a clip, the guide of the alignment (section 4.3), by SpyNet or Lucas-Kanade; frame fusion.

N batch, T frames of a clip, H×W frame size [px].
"""

from __future__ import annotations

from mindspore import Tensor

from rvrt_cli import ops
from rvrt_cli.model.spynet import spynet


@ops.compiled
def estimate_flow(before: Tensor, clip: Tensor, both: bool, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Optical flow along a clip in both directions.

    Args:
        before: (N, T, H, W, 3), the frames before the clip; only the last one is read.
        clip: (N, T, H, W, 3).
        both: otherwise the forward flow has the values of the backward flow.
        weights: see `spynet_shapes`; without weights `ops.lucas_kanade` estimates the flow.

    Returns:
        forward flow, in time order, and backward flow, in reversed time; (N, T, H, W, 2) px each.
    """
    batch, time, height, width, _ = clip.shape
    # On a CPU, MindSpore's graphs split a tensor ten times faster than they take a slice, and that ten times faster than an index.
    last, frames = ops.split(before, 1, 1)[-1], ops.split(clip, 1, 1)
    earlier = ops.concat((last, *frames[: time - 1]), 1).reshape(-1, height, width, 3)
    later = clip.reshape(-1, height, width, 3)
    reference, neighbor = earlier, later
    if both:
        reference, neighbor = ops.concat((later, earlier)), ops.concat((earlier, later))
    flow = spynet(reference, neighbor, weights) if weights else ops.lucas_kanade(reference, neighbor)[0]
    flows = ops.split(flow, batch * time, 0)
    shape = batch, time, height, width, 2
    return flows[0].reshape(shape), ops.reverse_time(flows[-1].reshape(shape))


@ops.compiled
def reduce_colors(frames: Tensor) -> Tensor:
    """The RGB of a clip at a quarter of its size, for the optical flow: (N, T, 4H, 4W, 3 or more) → (N, T, H, W, 3)."""
    batch, time, height, width, _ = frames.shape
    small = ops.quarter(frames[..., :3].reshape(batch * time, height, width, 3))
    return small.reshape(batch, time, height // 4, width // 4, 3)


@ops.compiled
def fuse_neighbors(frames: Tensor, reach: int) -> Tensor:
    """A stage of its own of `ops.fuse_clip`; see `MISSING_FRAME`."""
    return ops.fuse_clip(frames, reach)
