# SPDX-License-Identifier: Apache-2.0
"""SpyNet, the optical flow that guides the alignment (Ranjan and Black, CVPR 2017; six levels, as in BasicVSR)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Shapes, Weights, conv_shapes

SPYNET_LEVELS = 6
IMAGENET_MEAN, IMAGENET_STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of ImageNet's RGB; constants in published checkpoints
LEVEL_WIDTHS = (8, 32, 64, 32, 16, 2)  # channels between the convolutions of a level
LEVEL_CONVS = len(LEVEL_WIDTHS) - 1


def spynet_shapes(name: str = "spynet") -> Shapes:
    """Five 7x7 convolutions per level, which correct the flow."""
    convs = [
        conv_shapes(f"{name}.basic_module.{i}.basic_module.{2 * j}", LEVEL_WIDTHS[j], LEVEL_WIDTHS[j + 1], 7, rank=4)
        for i in range(SPYNET_LEVELS)
        for j in range(LEVEL_CONVS)
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
    mean, std = (
        _rgb_constant(IMAGENET_MEAN).astype(reference.dtype),
        _rgb_constant(IMAGENET_STD).astype(reference.dtype),
    )
    height, width = reference.shape[1:3]
    step = 2 ** (SPYNET_LEVELS - 1)
    even = (-(-height // step) * step, -(-width // step) * step)
    pyramid = [((reference - mean) / std, (neighbor - mean) / std)]
    if even != (height, width):
        pyramid = [(ops.resize_bilinear(pyramid[0][0], *even), ops.resize_bilinear(pyramid[0][1], *even))]
    for _ in range(SPYNET_LEVELS - 1):
        pyramid.append((ops.halve(pyramid[-1][0]), ops.halve(pyramid[-1][1])))

    flow = msops.zeros((*pyramid[-1][0].shape[:3], 2), reference.dtype)
    for i in range(SPYNET_LEVELS):
        reference, neighbor = pyramid[SPYNET_LEVELS - 1 - i]
        if i > 0:
            flow = 2 * ops.resize_bilinear(flow, reference.shape[1], reference.shape[2], align_corners=True)
        guess = msops.concat((reference, ops.warp(neighbor, flow, border=True), flow), -1)
        flow = flow + _correct_flow(guess, weights[2 * LEVEL_CONVS * i : 2 * LEVEL_CONVS * (i + 1)])
    if even != (height, width):
        flow = ops.resize_bilinear(flow, height, width)
        flow = ops.stack([flow[..., 0] * (width / even[1]), flow[..., 1] * (height / even[0])], -1)
    return flow


def _correct_flow(x: Tensor, weights: Weights) -> Tensor:
    """What one level adds to the flow: (B, h, w, 8), reference | warped neighbor | flow → (B, h, w, 2) px."""
    conv0_w, conv0_b, conv1_w, conv1_b, conv2_w, conv2_b, conv3_w, conv3_b, conv4_w, conv4_b = weights
    x = ops.conv2d(x, conv0_w, conv0_b, "relu")
    x = ops.conv2d(x, conv1_w, conv1_b, "relu")
    x = ops.conv2d(x, conv2_w, conv2_b, "relu")
    x = ops.conv2d(x, conv3_w, conv3_b, "relu")
    return ops.conv2d(x, conv4_w, conv4_b)


@msops.constexpr
def _rgb_constant(values: tuple) -> Tensor:
    return Tensor(np.array(values, np.float32))
