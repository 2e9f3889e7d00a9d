# SPDX-License-Identifier: Apache-2.0
"""Initial weights to train from."""

from __future__ import annotations

import numpy as np

from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.weight_shapes import parameter_shapes

_INITIAL_SPREAD = 0.2  # of the sampling points, relative to the kernel; at 0 all points would learn the same


def initial_weights(config: RVRTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Initial weights, float32. The network's output is the bilinearly upsampled input plus a small residual.

    Convolutions and dense layers: normal with variance 1 / inputs. The last convolution is scaled by 0.015 (zeros there would
    stall all layers before it), the second convolution of a residual pair by 0.1.

    Last layer of the offsets: zero weights, so that the alignment starts at the flow (without flow, at zero motion), and
    biases that pull the sampling points towards the center: the mean over the whole kernel would blur the propagated
    features. The weights of the fused neighbors are zero, so that frame fusion can be added to a trained network.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in parameter_shapes(config).items():
        noise = rng.standard_normal(shape)
        if name.endswith("conv_offset.10.bias"):
            value = _contracted_kernel(config)
        elif name.endswith(".bias") or "conv_offset.10" in name or ".fused." in name:
            value = np.zeros(shape)
        elif len(shape) == 1:  # LayerNorm
            value = np.ones(shape)
        elif name.endswith("relative_position_bias_table"):
            value = 0.02 * noise
        else:
            value = noise / np.sqrt(np.prod(shape[1:])) * _initial_gain(name)
        weights[name] = value.astype(np.float32)
    return weights


def _contracted_kernel(config: RVRTConfig) -> np.ndarray:
    """Bias of the offsets that contracts the kernel to `_INITIAL_SPREAD` of its size."""
    edge = config.align_kernel
    grid = np.indices((edge, edge)).reshape(2, -1).T - edge // 2  # (K, 2) px, as (y, x)
    bias = np.arctanh(np.clip((_INITIAL_SPREAD - 1) * grid / config.max_offset, -0.9, 0.9))
    return np.tile(bias.ravel(), config.clip_size * config.deformable_groups)


def _initial_gain(name: str) -> float:
    if name == "conv_last.weight":
        return 0.015
    return 0.1 if name.endswith(".conv2.weight") else 1.0  # the end of a residual path
