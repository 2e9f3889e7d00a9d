# SPDX-License-Identifier: Apache-2.0
"""The parts of RVRT that own its parameters: feature extraction, alignment, recurrent branch, reconstruction (section 4).

N batch, T frames of a clip, H×W frame size [px], C channels.
"""

from __future__ import annotations

from mindspore import ParameterTuple, Tensor, nn

from rvrt_cli import ops
from rvrt_cli.model.alignment import (
    align_deformable,
    align_neighborhood,
    align_unguided,
    attend_shapes,
    deformable_shapes,
)
from rvrt_cli.model.blocks import (
    RefineSizes,
    Shapes,
    conv_shapes,
    convolve,
    convolve_onto,
    convolve_shapes,
    merge,
    parameters,
    refine,
    refine_shapes,
)
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.ops.frame_fusion import FUSED_CHANNELS

_EXTRACTION, _BRANCH, _RECONSTRUCTION = range(3)  # the parts of `RVRTConfig`


class Extract(nn.Cell):
    """Shallow features of a clip (section 4.1)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        width = config.widths[_EXTRACTION]
        self.config = config
        self.conv = parameters(conv_shapes("feat_extract.main.1", 3, width, 3))
        fused = conv_shapes("feat_extract.fused", FUSED_CHANNELS, width, 3)
        self.fused = parameters(fused if config.fused_neighbors else [])
        self.body = parameters(_body_shapes("feat_extract", config, _EXTRACTION))

    def construct(self, frames: Tensor, fused: Tensor | None = None) -> Tensor:
        """Frames (N, T, H, W, 3) and the output of `fuse_neighbors` or None → (N, T, H, W, C)."""
        x = merge(*ops.arguments(self.conv), frames)
        if fused is not None:
            x = convolve_onto(x, fused, *ops.arguments(self.fused))
        return _run_body(x, self.config, _EXTRACTION, self.body)


class Align(nn.Cell):
    """Alignment of the propagated features in one branch (section 4.3)."""

    def __init__(self, branch: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        shapes = attend_shapes if config.alignment == "neighborhood" else deformable_shapes
        self.weights = parameters(shapes(f"deform_align.{branch}", config))

    def construct(self, query: Tensor, key: Tensor, value: Tensor, flows: Tensor | None) -> tuple:
        """Aligned features (N, T, H, W, C), and the corrected flows, or None without flows."""
        config, weights = self.config, ops.arguments(self.weights)
        if config.alignment == "neighborhood":
            return align_neighborhood(query, key, value, (config.align_heads, config.align_kernel), *weights), None
        sizes = (config.align_heads, config.align_kernel, config.deformable_groups)
        if flows is None:
            return align_unguided(query, key, value, sizes, config.max_offset, *weights), None
        return align_deformable(query, key, value, flows, sizes, config.max_offset, *weights)


class Branch(nn.Cell):
    """Refinement of a clip in one branch (equations 3 to 5)."""

    def __init__(self, branch: str, sources: int, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        name, width = f"backbone.{branch}", config.widths[_BRANCH]
        self.config = config
        self.conv = parameters(conv_shapes(f"{name}.main.1", (sources + 1) * width, width, 3))
        self.body = parameters(_body_shapes(name, config, _BRANCH))

    def construct(self, aligned: Tensor, *features: Tensor) -> Tensor:
        """Aligned propagated features and the clip's features of earlier branches, (N, T, H, W, C) each → same shape."""
        if self.config.carry != 1:
            aligned = self.config.carry * aligned
        merged = merge(*ops.arguments(self.conv), *features, aligned)
        return aligned + _run_body(merged, self.config, _BRANCH, self.body)


class Reconstruct(nn.Cell):
    """Refinement of the features of all branches, upsampling and the bilinear residual (section 4.4)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        width, sources = config.widths[_RECONSTRUCTION], 1 + config.passes
        self.conv = parameters(conv_shapes("reconstruction.main.1", sources * config.width, width, 3))
        self.body = parameters(_body_shapes("reconstruction", config, _RECONSTRUCTION))
        subpixels = 3 * config.scale**2  # RGB of all output pixels of an LR pixel
        if config.upsampler_width:
            self.head = parameters(_upsampler_shapes(width, config.upsampler_width))
        else:
            self.head = parameters(conv_shapes("conv_last", width, subpixels, 3))
        linear_path = config.fused_neighbors and not config.upsampler_width
        self.fused = parameters(conv_shapes("conv_last.fused", subpixels, subpixels, 3) if linear_path else [])

    def construct(self, frames: Tensor, fused: Tensor | None, *features: Tensor) -> Tensor:
        """Reconstruct frames from the features of all branches.

        Args:
            frames: (N, T, H, W, 3), the network's input.
            fused: (N, T, H, W, `FUSED_CHANNELS`), output of `fuse_neighbors`, or None.
            features: (N, T, H, W, C) each.

        Returns:
            (N, T, 4H, 4W, 3), not clamped.
        """
        x = _run_body(merge(*ops.arguments(self.conv), *features), self.config, _RECONSTRUCTION, self.body)
        if self.config.upsampler_width:
            return upsample(frames, x, *ops.arguments(self.head))
        subpixels = merge(*ops.arguments(self.head), x)
        if fused is not None:
            colors = fused[..., : subpixels.shape[-1]]  # without the neighbors' share of the weight
            subpixels = convolve_onto(subpixels, colors, *ops.arguments(self.fused))
        return upsample_pixels(frames, subpixels, self.config.scale)


# --- the body of a part: `refine`, or `convolve`


def _body_shapes(name: str, config: RVRTConfig, part: int) -> Shapes:
    """Weights of `_run_body`."""
    if config.bodies[part] == "convolution":
        return convolve_shapes(name, config.widths[part], config.groups[part] * config.depths[part])
    return refine_shapes(name, config.widths[part], _refine_sizes(config, part), config.mlp_ratio)


def _run_body(x: Tensor, config: RVRTConfig, part: int, weights: ParameterTuple) -> Tensor:
    """(N, T, H, W, C) → (N, T, H, W, C)."""
    if config.bodies[part] == "convolution":
        return convolve(x, *ops.arguments(weights))
    return refine(x, _refine_sizes(config, part), *ops.arguments(weights))


def _refine_sizes(config: RVRTConfig, part: int) -> RefineSizes:
    window = (config.clip_size if part == _BRANCH else 1, config.window, config.window)
    return config.groups[part], config.depths[part], config.heads[part], window, config.relative_position_bias


# --- upsampling


def _upsampler_shapes(width: int, hidden: int) -> Shapes:
    """Weights of `upsample`: a 1x1 convolution, two pixel shuffles by 2, two convolutions at full size."""
    return [
        *conv_shapes("conv_before_upsampler.0", width, hidden, 1),
        *conv_shapes("upsampler.0", hidden, 4 * hidden, 3),
        *conv_shapes("upsampler.5", hidden, 4 * hidden, 3),
        *conv_shapes("upsampler.10", hidden, hidden, 3),
        *conv_shapes("conv_last", hidden, 3, 3),
    ]


@ops.compiled
def upsample(frames: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """Frames (N, T, H, W, 3) and refined features (N, T, H, W, C) → (N, T, 4H, 4W, 3)."""
    before_w, before_b, shuffle1_w, shuffle1_b, shuffle2_w, shuffle2_b, after_w, after_b, last_w, last_b = weights
    batch, time, height, width, channels = x.shape
    frames = frames.reshape(batch * time, height, width, 3)
    x = ops.conv2d(x.reshape(batch * time, height, width, channels), before_w, before_b, "leaky_relu")
    x = ops.pixel_shuffle(ops.conv2d(x, shuffle1_w, shuffle1_b), 2, "leaky_relu")  # (N·T, 2H, 2W, hidden)
    x = ops.pixel_shuffle(ops.conv2d(x, shuffle2_w, shuffle2_b), 2, "leaky_relu")  # (N·T, 4H, 4W, hidden)
    x = ops.conv2d(ops.conv2d(x, after_w, after_b), last_w, last_b)
    return ops.add_upsampled(x, frames).reshape(batch, time, 4 * height, 4 * width, 3)


@ops.compiled
def upsample_pixels(frames: Tensor, subpixels: Tensor, scale: int) -> Tensor:
    """Output of a network without upsampler (not in the paper): a pixel shuffle and the bilinear residual.

    Frames (N, T, H, W, 3) and subpixels (N, T, H, W, 3 S²), S the scale → (N, T, S·H, S·W, 3).
    """
    batch, time, height, width, channels = subpixels.shape
    frames = frames.reshape(batch * time, height, width, 3)
    pixels = ops.pixel_shuffle(subpixels.reshape(batch * time, height, width, channels), scale)
    return ops.add_upsampled(pixels, frames).reshape(batch, time, scale * height, scale * width, 3)
