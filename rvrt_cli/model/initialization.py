# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of a network's weights, and weights to start training from."""

from __future__ import annotations

import numpy as np

from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.rvrt import RVRT

_KERNEL_SHRINK = 0.2  # of the kernel's size; above 0, or all points would learn the same


def parameter_shapes(config: RVRTConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of the network; names are the published ones."""
    return {parameter.name: tuple(parameter.shape) for parameter in RVRT(config).get_parameters()}


def initial_weights(config: RVRTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights to start training from, float32; the output is bilinear upsampling plus very little.

    Convolutions and dense layers: normal with variance 1 / inputs. The last convolution is a fiftieth of that: zeros there
    would stall everything before it. The second convolution of a residual pair is a tenth.

    Last layer of the offsets: its weights are zero, so that the alignment starts at the flow itself (without a flow, at no
    motion), and its biases contract the kernel around that place: the mean over a whole neighborhood would blur what is
    propagated. The convolutions of fused neighbors start at zero, so that they can be added to a trained network.
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
            value = noise / np.sqrt(np.prod(shape[1:])) * _gain(name)
        weights[name] = value.astype(np.float32)
    return weights


def _contracted_kernel(config: RVRTConfig) -> np.ndarray:
    """Bias of the offsets with which each point of the kernel keeps `_KERNEL_SHRINK` of its distance from the center."""
    edge = config.align_kernel
    grid = np.indices((edge, edge)).reshape(2, -1).T - edge // 2  # (K, 2) px, as (y, x)
    bias = np.arctanh(np.clip((_KERNEL_SHRINK - 1) * grid / config.max_offset, -0.9, 0.9))
    return np.tile(bias.ravel(), config.clip_size * config.deformable_groups)


def _gain(name: str) -> float:
    if name == "conv_last.weight":
        return 0.02
    return 0.1 if name.endswith(".conv2.weight") else 1.0  # the end of a residual path
