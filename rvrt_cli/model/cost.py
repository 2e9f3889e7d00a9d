# SPDX-License-Identifier: Apache-2.0
"""Cost of a network in floating-point operations, counted from the shapes of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.weight_shapes import SPYNET_LEVELS, SPYNET_STEP, parameter_shapes

# Px that a convolution before reduction or after upsampling computes per px of the features
_PIXELS_PER_FEATURE = {"feat_extract.1": 4, "upsampler.5": 4, "upsampler.10": 16, "conv_last": 16}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one call; a multiplication and an addition each count as one."""

    convolutions: float
    dense: float
    attention: float

    @property
    def total(self) -> float:
        """Sum of all kinds."""
        return self.convolutions + self.dense + self.attention


def count_flops(config: RVRTConfig, frames: int, height: int, width: int) -> Flops:
    """Operations of upscaling or restoring one sequence of `frames` frames of `height` × `width` px in one call.

    Convolutions (optical flow included), dense layers, and the two products of each attention. Sampling, activations,
    norms and softmax are not counted, as is customary: they are a few percent.
    """
    size = config.clip_size
    height, width = (-(-side // config.reduction) for side in (height, width))  # of the features
    clips = -(-frames // size)
    pixels = size * clips * height * width
    refined = (clips + config.lead_in) / clips  # clips that a branch sees, of those that there are
    aligned = (clips + config.lead_in - 1) / clips  # a branch's first clip has nothing to align
    convolutions = dense = 0.0
    for name, shape in parameter_shapes(config).items():
        if len(shape) < 2 or "bias_table" in name:
            continue
        each = 2 * math.prod(shape)
        if name.startswith("spynet."):
            convolutions += each * _spynet_pixels(name, height, width) * 2 * (frames - 1)
            continue
        pixels_per_feature = _PIXELS_PER_FEATURE.get(name.removesuffix(".weight"), 1)
        if name.startswith("conv_last") and not config.upsampler_width:
            pixels_per_feature = 1
        share = aligned if name.startswith("deform_align.") else refined if name.startswith("backbone.") else 1
        if len(shape) == 2:
            dense += each * share * pixels
        else:
            convolutions += each * pixels_per_feature * share * pixels
    attention = 4 * aligned * config.passes * size * config.align_kernel**2 * config.align_width
    for part, (span, repeats) in enumerate(((1, 1), (size, config.passes * refined), (1, 1))):
        if config.bodies[part] == "attention":
            layers = config.groups[part] * config.depths[part] * repeats
            attention += layers * 4 * span * config.window**2 * config.widths[part]
    return Flops(convolutions, dense, attention * pixels)


def _spynet_pixels(name: str, height: int, width: int) -> float:
    """Pixels that a convolution of SpyNet computes; the frame is first resized to a multiple of `SPYNET_STEP` px."""
    level = int(name.split("basic_module.")[1].split(".")[0])
    rows, columns = (-(-side // SPYNET_STEP) * SPYNET_STEP for side in (height, width))
    return rows * columns / 4 ** (SPYNET_LEVELS - 1 - level)
