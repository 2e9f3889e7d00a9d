"""SpyNet, the optical flow that guides the alignment (Ranjan and Black, CVPR 2017; published: six levels, as in BasicVSR)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.layers import Shapes, Weights, conv_shapes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB; constants in published checkpoints
INPUTS, OUTPUTS = 8, 2  # channels: two frames and a flow; its correction


def spynet_shapes(config: RVRTConfig, name: str = "spynet") -> Shapes:
    """Per level, coarsest first, the convolutions that correct the flow (published: five of 7x7 px)."""
    widths = (INPUTS, *config.flow_widths, OUTPUTS)
    convs = [
        conv_shapes(f"{name}.basic_module.{i}.basic_module.{2 * j}", ins, outs, config.flow_kernel, rank=4)
        for i in range(config.flow_levels)
        for j, (ins, outs) in enumerate(pairwise(widths))
    ]
    return [shape for conv in convs for shape in conv]


@ops.compiled
def estimate_flow(frames: Tensor, both: bool, levels: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Optical flow along a clip, both ways.

    Args:
        frames: (N, T+1, H, W, 3), a clip and the frame before it.
        both: else the backward flow is given twice.
        levels: of the pyramid.
        weights: `spynet_shapes`.

    Returns:
        forward and backward flow, (N, T, H, W, 2) px each.
    """
    batch, length, height, width, _ = frames.shape
    before = frames[:, :-1].reshape(-1, height, width, 3)
    after = frames[:, 1:].reshape(-1, height, width, 3)
    if both:
        flow = spynet(msops.concat((after, before)), msops.concat((before, after)), levels, weights)
    else:
        flow = spynet(before, after, levels, weights)
    flow = flow.reshape(-1, batch, length - 1, height, width, 2)
    return flow[0], flow[-1]


def spynet(reference: Tensor, neighbour: Tensor, levels: int, weights: Weights) -> Tensor:
    """Where each pixel of `reference` lies in `neighbour`.

    Args:
        reference, neighbour: (B, H, W, 3) RGB in [0, 1].
        levels: of the pyramid, each half the size of the one before.
        weights: `spynet_shapes`.

    Returns:
        (B, H, W, 2) px, as (x, y).
    """
    mean, std = _constant(MEAN).astype(reference.dtype), _constant(STD).astype(reference.dtype)
    height, width = reference.shape[1:3]
    step = 2 ** (levels - 1)
    even = (-(-height // step) * step, -(-width // step) * step)
    pyramid = [((reference - mean) / std, (neighbour - mean) / std)]
    if even != (height, width):
        pyramid = [(ops.resize_bilinear(pyramid[0][0], *even), ops.resize_bilinear(pyramid[0][1], *even))]
    for _ in range(levels - 1):
        pyramid.append((halve(pyramid[-1][0]), halve(pyramid[-1][1])))

    convs = len(weights) // (2 * levels)
    flow = msops.zeros((*pyramid[-1][0].shape[:3], 2), reference.dtype)
    for i in range(levels):
        reference, neighbour = pyramid[levels - 1 - i]
        if i > 0:
            flow = 2 * ops.resize_bilinear(flow, reference.shape[1], reference.shape[2], align_corners=True)
        guess = msops.concat((reference, ops.warp(neighbour, flow, border=True), flow), -1)
        for j in range(convs):
            first = 2 * (i * convs + j)
            guess = ops.conv2d(guess, weights[first], weights[first + 1], "relu" if j < convs - 1 else "none")
        flow = flow + guess
    if even != (height, width):
        flow = ops.resize_bilinear(flow, height, width)
        flow = ops.stack([flow[..., 0] * (width / even[1]), flow[..., 1] * (height / even[0])], -1)
    return flow


@msops.constexpr
def _constant(values: tuple) -> Tensor:
    return Tensor(np.array(values, np.float32))


def halve(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, H/2, W/2, C), mean of 2x2 pixels; H and W even."""
    x = 0.5 * (x[:, 0::2] + x[:, 1::2])
    return 0.5 * (x[:, :, 0::2] + x[:, :, 1::2])


@ops.compiled
def photometric_error(frames: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """How far a clip is from its neighbours, warped to it by their flow: what the flow learns by where nobody knows it.

    Mean Charbonnier error over RGB (Sajjadi et al., "Frame-Recurrent Video Super-Resolution", CVPR 2018, equation 8); where
    the flow leads out of the frame nothing can be compared, and the error is zero.

    Args:
        frames: (N, T+1, H, W, 3), a clip and the frame before it.
        forward, backward: (N, T, H, W, 2) px, as `estimate_flow` gives them.

    Returns:
        a scalar.
    """
    batch, length, height, width, channels = frames.shape
    before = frames[:, :-1].reshape(-1, height, width, channels)
    after = frames[:, 1:].reshape(-1, height, width, channels)
    reference, neighbour = msops.concat((after, before)), msops.concat((before, after))
    flow = msops.concat((forward.reshape(-1, height, width, 2), backward.reshape(-1, height, width, 2)))
    inside = ops.warp(msops.ones((2 * batch * (length - 1), height, width, 1), frames.dtype), msops.stop_gradient(flow))
    return ops.charbonnier(inside * ops.warp(neighbour, flow), inside * reference)
