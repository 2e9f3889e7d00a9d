# SPDX-License-Identifier: Apache-2.0
"""The parts of RVRT that own its parameters: feature extraction, alignment, recurrent branch, reconstruction (section 4).

N batch, T frames of a clip, H×W size of the features [px], C channels. The frames have that size, or four times that.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from rvrt_cli import ops
from rvrt_cli.model.alignment import align_deformable, align_neighborhood, align_unguided
from rvrt_cli.model.blocks import merge, merge_and_run, parameters, run_body
from rvrt_cli.model.config import UPSAMPLING, RVRTConfig
from rvrt_cli.model.weight_shapes import (
    BRANCH,
    EXTRACTION,
    RECONSTRUCTION,
    Body,
    alignment_shapes,
    body_of,
    branch_shapes,
    extraction_shapes,
    reconstruction_shapes,
)


class Extract(nn.Cell):
    """Shallow features of a clip (section 4.1)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.reducing, self.conv, self.fused, self.body = map(parameters, extraction_shapes(config))

    def construct(self, frames: Tensor, fused: Tensor | None = None) -> Tensor:
        """Shallow features of a clip.

        Args:
            frames: (N, T, R * H, R * W, S), R the reduction, S the input's channels.
            fused: (N, T, H, W, `FUSED_CHANNELS`), output of `fuse_neighbors`, or None.

        Returns:
            (N, T, H, W, C).
        """
        parts = self.reducing, self.conv, self.fused, self.body
        weights = [weight for part in parts for weight in ops.arguments(part)]
        return extract_features(frames, fused, len(self.reducing), body_of(self.config, EXTRACTION), *weights)


class Align(nn.Cell):
    """Alignment of the propagated features in one branch (section 4.3)."""

    def __init__(self, branch: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.weights = parameters(alignment_shapes(branch, config))

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
        self.config = config
        self.conv, self.body = map(parameters, branch_shapes(branch, sources, config))

    def construct(self, aligned: Tensor, *features: Tensor) -> Tensor:
        """Aligned propagated features and the clip's features of earlier branches, (N, T, H, W, C) each → same shape."""
        weights = *ops.arguments(self.conv), *ops.arguments(self.body)
        body = body_of(self.config, BRANCH)
        return refine_branch(aligned, self.config.carry, len(features), body, *features, *weights)


class Reconstruct(nn.Cell):
    """Refinement of the features of all branches, upsampling and the bilinear residual (section 4.4)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.conv, self.body, self.head, self.fused = map(parameters, reconstruction_shapes(config))

    def construct(self, frames: Tensor, fused: Tensor | None, *features: Tensor) -> Tensor:
        """Reconstruct frames from the features of all branches.

        Args:
            frames: (N, T, R * H, R * W, S), the network's input.
            fused: (N, T, H, W, `FUSED_CHANNELS`), output of `fuse_neighbors`, or None.
            features: (N, T, H, W, C) each.

        Returns:
            (N, T, 4H, 4W, 3), not clamped.
        """
        parts = self.conv, self.body, self.head, self.fused
        sizes = tuple(len(part) for part in parts)
        weights = [weight for part in parts for weight in ops.arguments(part)]
        body = body_of(self.config, RECONSTRUCTION)
        upsampler = self.config.upsampler_width > 0
        return reconstruct(frames, fused, len(features), body, upsampler, sizes, *features, *weights)


# --- the compiled stages


@ops.compiled
def extract_features(frames: Tensor, fused: Tensor | None, count: int, body: Body, *weights: Tensor) -> Tensor:
    """See `Extract.construct`; `count` weights that reduce the frames, of its convolution, of that of `fused`, of its body."""
    reducing, weights = weights[:count], weights[count:]
    conv_w, conv_b = weights[:2]
    x = merge(conv_w, conv_b, reduce_frames(frames, *reducing) if reducing else frames)
    if fused is None:
        return run_body(x, body, weights[2:])
    fused_w, fused_b = weights[2:4]
    return run_body(ops.convolve_onto(x, fused, fused_w, fused_b), body, weights[4:])


@ops.compiled
def refine_branch(aligned: Tensor, carry: float, count: int, body: Body, *tensors: Tensor) -> Tensor:
    """See `Branch.construct`; `count` features, then weights of the convolution and of the body."""
    features, weights = tensors[:count], tensors[count:]
    return merge_and_run((*features, aligned), carry, True, body, weights)


@ops.compiled
def reconstruct(
    frames: Tensor,
    fused: Tensor | None,
    count: int,
    body: Body,
    upsampler: bool,
    sizes: tuple[int, ...],
    *tensors: Tensor,
) -> Tensor:
    """See `Reconstruct.construct`; `count` features, then weights, `sizes` of each part."""
    features, weights = tensors[:count], tensors[count:]
    bodies, heads = sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]
    x = merge_and_run(features, 1.0, False, body, weights[:bodies])
    if upsampler:
        return upsample(frames, x, *weights[bodies:heads])
    last_w, last_b = weights[bodies:heads]
    subpixels = merge(last_w, last_b, x)
    if fused is not None:
        fused_w, fused_b = weights[heads:]
        subpixels = ops.convolve_onto(subpixels, fused, fused_w, fused_b)  # the colors, without the neighbors' share
    return upsample_pixels(frames, subpixels)


# --- from frames to features, and back


def reduce_frames(frames: Tensor, *weights: Tensor) -> Tensor:
    """Features at a quarter of the size, by two convolutions of stride 2: (N, T, 4H, 4W, S) → (N, T, H, W, C)."""
    first_w, first_b, second_w, second_b = weights
    batch, time, height, width, channels = frames.shape
    x = frames.reshape(batch * time, height, width, channels)
    x = ops.conv2d(x, first_w, first_b, "leaky_relu", stride=2)  # (N·T, 2H, 2W, C)
    x = ops.conv2d(x, second_w, second_b, "leaky_relu", stride=2)
    return x.reshape(batch, time, x.shape[1], x.shape[2], x.shape[3])


def upsample(frames: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """The network's input and refined features (N, T, H, W, C) → (N, T, 4H, 4W, 3)."""
    before_w, before_b, shuffle1_w, shuffle1_b, shuffle2_w, shuffle2_b, after_w, after_b, last_w, last_b = weights
    batch, time, height, width, channels = x.shape
    x = ops.conv2d(x.reshape(batch * time, height, width, channels), before_w, before_b, "leaky_relu")
    x = ops.pixel_shuffle(ops.conv2d(x, shuffle1_w, shuffle1_b), 2, "leaky_relu")  # (N·T, 2H, 2W, hidden)
    x = ops.pixel_shuffle(ops.conv2d(x, shuffle2_w, shuffle2_b), 2, "leaky_relu")  # (N·T, 4H, 4W, hidden)
    x = ops.conv2d(ops.conv2d(x, after_w, after_b), last_w, last_b)
    return add_input(x, frames)


def upsample_pixels(frames: Tensor, subpixels: Tensor) -> Tensor:
    """Output of a network without upsampler (not in the paper): a pixel shuffle and the residual.

    The network's input and subpixels (N, T, H, W, 3 * 4²) → (N, T, 4H, 4W, 3).
    """
    batch, time, height, width, channels = subpixels.shape
    pixels = ops.pixel_shuffle(subpixels.reshape(batch * time, height, width, channels), UPSAMPLING)
    return add_input(pixels, frames)


def add_input(pixels: Tensor, frames: Tensor) -> Tensor:
    """The global residual: `pixels` (N·T, …, 3) plus the RGB of the input, bilinearly upsampled if it is smaller."""
    batch, time, height, width, channels = frames.shape
    rgb = frames.reshape(batch * time, height, width, channels)
    if channels > 3:
        rgb = rgb[..., :3]
    output = pixels + rgb if pixels.shape[1] == height else ops.add_upsampled(pixels, rgb)
    return output.reshape(batch, time, output.shape[1], output.shape[2], 3)
