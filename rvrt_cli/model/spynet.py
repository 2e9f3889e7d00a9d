"""SpyNet, the optical flow that guides the alignment (Ranjan and Black, CVPR 2017; six levels, as in BasicVSR)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Shapes, Weights, conv_shapes

LEVELS = 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB; constants in published checkpoints
WIDTHS = (8, 32, 64, 32, 16, 2)
CONVS = len(WIDTHS) - 1


def spynet_shapes(name: str = "spynet") -> Shapes:
    """Per level five 7x7 convolutions that correct the flow."""
    convs = [
        conv_shapes(f"{name}.basic_module.{i}.basic_module.{2 * j}", WIDTHS[j], WIDTHS[j + 1], 7, rank=4)
        for i in range(LEVELS)
        for j in range(CONVS)
    ]
    return [shape for conv in convs for shape in conv]


def spynet(reference: Tensor, neighbor: Tensor, weights: Weights) -> Tensor:
    """Where each pixel of `reference` lies in `neighbor`.

    Args:
        reference, neighbor: (B, H, W, 3) RGB in [0, 1].
        weights: `spynet_shapes`.

    Returns:
        (B, H, W, 2) px, as (x, y).
    """
    mean, std = _constant(MEAN).astype(reference.dtype), _constant(STD).astype(reference.dtype)
    height, width = reference.shape[1:3]
    step = 2 ** (LEVELS - 1)
    even = (-(-height // step) * step, -(-width // step) * step)
    pyramid = [((reference - mean) / std, (neighbor - mean) / std)]
    if even != (height, width):
        pyramid = [(ops.resize_bilinear(pyramid[0][0], *even), ops.resize_bilinear(pyramid[0][1], *even))]
    for _ in range(LEVELS - 1):
        pyramid.append((ops.halve(pyramid[-1][0]), ops.halve(pyramid[-1][1])))

    flow = msops.zeros((*pyramid[-1][0].shape[:3], 2), reference.dtype)
    for i in range(LEVELS):
        reference, neighbor = pyramid[LEVELS - 1 - i]
        if i > 0:
            flow = 2 * ops.resize_bilinear(flow, reference.shape[1], reference.shape[2], align_corners=True)
        guess = msops.concat((reference, ops.warp(neighbor, flow, border=True), flow), -1)
        for j in range(CONVS):
            first = 2 * (i * CONVS + j)
            guess = ops.conv2d(guess, weights[first], weights[first + 1], "relu" if j < CONVS - 1 else "none")
        flow = flow + guess
    if even != (height, width):
        flow = ops.resize_bilinear(flow, height, width)
        flow = ops.stack([flow[..., 0] * (width / even[1]), flow[..., 1] * (height / even[0])], -1)
    return flow


@msops.constexpr
def _constant(values: tuple) -> Tensor:
    return Tensor(np.array(values, np.float32))
