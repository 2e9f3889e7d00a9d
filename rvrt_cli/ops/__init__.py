# SPDX-License-Identifier: Apache-2.0
"""The operations that the network is made of; used as `ops.conv2d(...)`, never imported by name.

Each exists as a definition in plain MindSpore, which runs on every device and differentiates, and most exist as a C++ kernel
for float32 on the CPU as well, with the same signature.

- `layers` defines convolution, dense layer, LayerNorm, MLP, pixel shuffle, resizing and the loss; `sampling` warping by optical
  flow; `attention` the three attentions; `lucas_kanade` optical flow without weights; `fusion` the fusion of neighboring frames.
- `kernels` holds the C++ kernels, their build and the glue that makes MindSpore operations of them.
- `backend` has the table of definitions and that of kernels, and decides which one runs.
"""

from __future__ import annotations

from rvrt_cli.ops.attention import deformable_attention, neighborhood_attention, window_and_shift, window_attention
from rvrt_cli.ops.backend import arguments, compiled, differentiable, kernels_active, use_kernels
from rvrt_cli.ops.fusion import fuse_frames
from rvrt_cli.ops.layers import (
    activate,
    add_upsampled,
    charbonnier,
    conv2d,
    halve,
    layer_norm,
    linear,
    mlp,
    norm_linear,
    pixel_shuffle,
    resize_bilinear,
    reverse_time,
    stack,
)
from rvrt_cli.ops.lucas_kanade import lucas_kanade
from rvrt_cli.ops.sampling import warp

__all__ = [
    "activate",
    "add_upsampled",
    "arguments",
    "charbonnier",
    "compiled",
    "conv2d",
    "deformable_attention",
    "differentiable",
    "fuse_frames",
    "halve",
    "kernels_active",
    "layer_norm",
    "linear",
    "lucas_kanade",
    "mlp",
    "neighborhood_attention",
    "norm_linear",
    "pixel_shuffle",
    "resize_bilinear",
    "reverse_time",
    "stack",
    "use_kernels",
    "warp",
    "window_and_shift",
    "window_attention",
]

use_kernels()
