# SPDX-License-Identifier: Apache-2.0
"""SpyNet, the optical flow that guides the alignment (Ranjan and Black, CVPR 2017; six levels, as in BasicVSR).

B pairs of frames, H×W frame size [px].
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Weights, split_evenly
from rvrt_cli.model.weight_shapes import SPYNET_LEVELS, SPYNET_STEP

_RGB_MEAN, _RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet; constants in published checkpoints


def spynet(reference: Tensor, neighbor: Tensor, weights: Weights) -> Tensor:
    """Flow to where each pixel of `reference` lies in `neighbor`, from coarse to fine.

    Args:
        reference, neighbor: (B, H, W, 3) RGB in [0, 1].
        weights: see `spynet_shapes`.

    Returns:
        (B, H, W, 2) px, as (x, y).
    """
    mean, std = _rgb_constant(_RGB_MEAN).astype(reference.dtype), _rgb_constant(_RGB_STD).astype(reference.dtype)
    batch, height, width, _ = reference.shape
    resized = (-(-height // SPYNET_STEP) * SPYNET_STEP, -(-width // SPYNET_STEP) * SPYNET_STEP)
    # One pyramid of both: on small frames, starting the operations takes most of their time.
    pyramid = [(ops.concat((reference, neighbor)) - mean) / std]
    if resized != (height, width):
        pyramid = [ops.resize_bilinear(pyramid[0], *resized)]
    for _ in range(SPYNET_LEVELS - 1):
        pyramid.append(ops.halve(pyramid[-1]))

    levels = split_evenly(weights, SPYNET_LEVELS)
    flow = ops.zeros((batch, *pyramid[-1].shape[1:3], 2), reference.dtype)
    for i in range(SPYNET_LEVELS):
        reference, neighbor = ops.split(pyramid[SPYNET_LEVELS - 1 - i], batch, 0)
        if i > 0:
            flow = 2 * ops.resize_bilinear(flow, reference.shape[1], reference.shape[2], align_corners=True)
        flow = flow + _flow_residue(reference, neighbor, flow, levels[i])
    if resized != (height, width):
        flow = ops.resize_bilinear(flow, height, width)
        flow = ops.stack([flow[..., 0] * (width / resized[1]), flow[..., 1] * (height / resized[0])], -1)
    return flow


def _flow_residue(reference: Tensor, neighbor: Tensor, flow: Tensor, weights: Weights) -> Tensor:
    """Correction of the flow (B, h, w, 2) px on one level."""
    conv1_w, conv1_b, conv2_w, conv2_b, conv3_w, conv3_b, conv4_w, conv4_b, conv5_w, conv5_b = weights
    x = ops.concat((reference, ops.warp(neighbor, flow, border=True), flow), -1)  # (B, h, w, 8)
    x = ops.conv2d(x, conv1_w, conv1_b, "relu")
    x = ops.conv2d(x, conv2_w, conv2_b, "relu")
    x = ops.conv2d(x, conv3_w, conv3_b, "relu")
    x = ops.conv2d(x, conv4_w, conv4_b, "relu")
    return ops.conv2d(x, conv5_w, conv5_b)


@msops.constexpr
def _rgb_constant(values: tuple) -> Tensor:
    return Tensor(np.array(values, np.float32))
