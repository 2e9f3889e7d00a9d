# SPDX-License-Identifier: Apache-2.0
"""Convolution, dense layers, LayerNorm, resizing and loss on channels-last features, in plain MindSpore.

B batch, H×W frame size [px], C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

LAYER_NORM_EPSILON = 1e-5  # as published
_QUARTER_TAPS = (-0.09375, 0.59375)  # Keys' kernel with a = -0.75 at distances of 1.5 and 0.5 px


def activate(x: Tensor, activation: str) -> Tensor:
    """`x` through "none", "relu", "leaky_relu" (slope 0.1) or "gelu" (exact, erf)."""
    if activation == "relu":
        return ops.relu(x)
    if activation == "leaky_relu":
        return ops.maximum(x, 0.1 * x)
    if activation == "gelu":
        return 0.5 * x * (1 + ops.erf(x * 0.5**0.5))
    return x


def side_by_side(x: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Features as one tensor: those of a tuple, concatenated along their channels."""
    return ops.concat(x, -1) if isinstance(x, tuple) else x


def conv2d(
    x: Tensor | tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
    activation: str = "none",
    residual: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """Convolution with zero padding by half the kernel, then activation, then the residual added.

    Args:
        x: (B, H, W, Ci), or a tuple of such tensors, whose channels lie side by side.
        weight: (Co, Ci / G, [1,] h, w), h and w odd. Where it has fewer input channels than `x`, the convolution has G groups:
            output channels k * Co / G … read input channels k * Ci / G ….
        bias: (Co,).
        residual: (B, H / stride, W / stride, Co), sizes rounded up.
        stride: px of the input per px of the output.

    Returns:
        (B, H / stride, W / stride, Co).
    """
    x = side_by_side(x)
    kernel = weight.shape[-2:]
    groups = x.shape[-1] // weight.shape[1]
    weight = weight.reshape(weight.shape[0], weight.shape[1], kernel[0], kernel[1])
    if kernel == (1, 1) and groups == 1 and stride == 1:
        return linear(x, weight.reshape(weight.shape[0], weight.shape[1]), bias, activation, residual)
    padding = (kernel[0] // 2, kernel[1] // 2)
    y = ops.conv2d(x.transpose(0, 3, 1, 2), weight, bias, stride, "pad", padding, 1, groups)
    y = activate(y.transpose(0, 2, 3, 1), activation)
    return y if residual is None else residual + y


def convolve_onto_of(conv2d: Callable) -> Callable:
    """`convolve_onto` made of this function: the definition of `conv2d`, or its kernel."""

    def onto(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x (N, T, H, W, C) plus `conv2d` of the first channels of `source` (N, T, H, W, S), as many as the weight takes.

        The source is data: it gets no gradient.
        """
        channels = weight.shape[1]
        source = ops.stop_gradient(source)
        if source.shape[-1] != channels:
            source = source[..., :channels]
        shape = x.shape
        batch, time, height, width, _ = source.shape
        x, source = x.reshape(-1, height, width, shape[-1]), source.reshape(batch * time, height, width, channels)
        return conv2d(source, weight, bias, "none", x).reshape(shape)

    return onto


convolve_onto = convolve_onto_of(conv2d)


def conv_chain_of(conv2d: Callable) -> Callable:
    """`conv_chain` made of this function: the definition of `conv2d`, its kernel, or ONNX nodes."""

    def chain(x: Tensor, weights: tuple[Tensor, ...], residual: bool) -> Tensor:
        """3x3 convolutions one after the other: residual blocks of two, or each followed by a leaky ReLU.

        Args:
            x: (B, H, W, C).
            weights: (C, C, [1,] 3, 3) and (C,) of each convolution.
            residual: whether they are blocks, each a leaky ReLU between two convolutions, on their residual path.
        """
        if residual:
            for i in range(0, len(weights), 4):
                hidden = conv2d(x, weights[i], weights[i + 1], "leaky_relu")
                x = conv2d(hidden, weights[i + 2], weights[i + 3], "none", x)
        else:
            for i in range(0, len(weights), 2):
                x = conv2d(x, weights[i], weights[i + 1], "leaky_relu")
        return x

    return chain


conv_chain = conv_chain_of(conv2d)


def conv_body_of(conv2d: Callable, conv_chain: Callable, of_clips: bool = False) -> Callable:
    """`conv_body` made of these functions: definitions, kernels or ONNX nodes; `of_clips`: they take clips as they are."""

    def body(sources: tuple[Tensor, ...], weights: tuple[Tensor, ...], scale: float, onto: bool) -> Tensor:
        """A 3x3 convolution of features side by side, then residual blocks.

        Args:
            sources: (N, T, H, W, Ci) each.
            weights: (C, sum of Ci, [1,] 3, 3) and (C,) of the convolution, then those of the blocks: see `conv_chain`.
            scale: of the last source.
            onto: whether that, scaled, is added to the output.

        Returns:
            (N, T, H, W, C).
        """
        batch, time, height, width, _ = sources[-1].shape
        last = sources[-1] if scale == 1 else scale * sources[-1]
        beside = [*sources[:-1], last]
        if not of_clips:
            beside = [one.reshape(batch * time, height, width, one.shape[-1]) for one in beside]
        x = conv_chain(conv2d(tuple(beside), weights[0], weights[1]), weights[2:], True)
        x = x.reshape(batch, time, height, width, x.shape[-1])
        return last + x if onto else x

    return body


conv_body = conv_body_of(conv2d, conv_chain)


def linear(
    x: Tensor | tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Dense layer over the last axis, activation, residual added.

    x (..., Ci) or a tuple of such tensors, whose channels lie side by side; weight (Co, Ci), bias (Co,), residual (..., Co)
    → (..., Co).
    """
    x = side_by_side(x)
    y = ops.matmul(x.reshape(-1, x.shape[-1]), weight.swapaxes(0, 1)) + bias
    y = activate(y, activation).reshape(*x.shape[:-1], weight.shape[0])
    return y if residual is None else residual + y


def linear_pair(x: Tensor, y: Tensor, x_w: Tensor, x_b: Tensor, y_w: Tensor, y_b: Tensor) -> Tensor:
    """Two `linear` layers, of x (..., Cx) and y (..., Cy), whose outputs lie side by side: (..., Dx + Dy)."""
    return ops.concat((linear(x, x_w, x_b), linear(y, y_w, y_b)), -1)


def norm_linear(
    x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, activation: str = "none"
) -> Tensor:
    """`layer_norm`, then `linear`: x (..., Ci), gamma and beta (Ci,), weight (Co, Ci), bias (Co,) → (..., Co)."""
    return linear(layer_norm(x, gamma, beta), weight, bias, activation)


def mlp(x: Tensor, gamma: Tensor | None, beta: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The transformer's feed-forward part on its residual path: x + linear(gelu(linear(layer_norm(x)))).

    Args:
        x: (..., C).
        gamma, beta: (C,) of the LayerNorm; None: there is none.
        w1, b1: (hidden, C), (hidden,); w2, b2: (C, hidden), (C,).
    """
    y = x if gamma is None else layer_norm(x, gamma, beta)
    return linear(linear(y, w1, b1, "gelu"), w2, b2, "none", x)


def project_mlp(x: Tensor, proj_w: Tensor, proj_b: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """`linear`, then `mlp` without LayerNorm: x (..., Ci), proj_w (C, Ci), proj_b (C,), the rest as there → (..., C)."""
    return mlp(linear(x, proj_w, proj_b), None, None, w1, b1, w2, b2)


def widen_half(x: Tensor) -> Tensor:
    """float16 as float32; other dtypes unchanged."""
    return x.astype(ms.float32) if x.dtype == ms.float16 else x


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the last axis, ε 1e-5: x (..., C), weight and bias (C,) → (..., C).

    Statistics of float16 are computed in float32: the gradient of 1 / sqrt(ε) overflows float16.
    """
    wide = widen_half(x)
    centered = wide - wide.mean(-1, keep_dims=True)
    variance = (centered * centered).mean(-1, keep_dims=True)
    return (centered * ops.rsqrt(variance + LAYER_NORM_EPSILON)).astype(x.dtype) * weight + bias


def pixel_shuffle(x: Tensor, factor: int, activation: str = "none") -> Tensor:
    """(B, H, W, C * factor²) → (B, factor * H, factor * W, C), through an activation.

    Channel c * factor² + i * factor + j moves to row i and column j of the pixel.
    """
    batch, height, width, channels = x.shape
    channels = channels // factor**2
    x = activate(x, activation).reshape(batch, height, width, channels, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * factor, width * factor, channels)


def stack(tensors: list[Tensor], axis: int) -> Tensor:
    """Stack along a new axis. MindSpore's own `stack` has no gradient where a whole training step is traced."""
    return ops.concat([tensor.expand_dims(axis) for tensor in tensors], axis)


def roll(x: Tensor, shift: int, axis: int) -> Tensor:
    """`x` rolled towards the start by `shift`; MindSpore's own roll has no CPU kernel."""
    if shift == 0:
        return x
    head, tail = ops.split(x, [shift, x.shape[axis] - shift], axis)
    return ops.concat((tail, head), axis)


def reverse_time(x: Tensor) -> Tensor:
    """(N, T, H, ...) with its frames in reverse order; MindSpore's flip is 25 times slower on the CPU."""
    return ops.concat([x[:, t : t + 1] for t in range(x.shape[1] - 1, -1, -1)], 1)


def resize_bilinear(x: Tensor, height: int, width: int, align_corners: bool = False) -> Tensor:
    """(B, H, W, C) → (B, height, width, C), bilinear; half-pixel centers unless corners are aligned."""
    x = ops.interpolate(x.transpose(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=align_corners)
    return x.transpose(0, 2, 3, 1)


def halve(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, H/2, W/2, C), mean of 2x2 pixels; H and W even."""
    batch, height, width, channels = x.shape
    # On a CPU, MindSpore's graphs sum over an axis three times as fast as they take slices with a step.
    x = 0.5 * x.reshape(batch, height // 2, 2, width * channels).sum(2)
    return 0.5 * x.reshape(batch, height // 2, width // 2, 2, channels).sum(3)


def quarter(x: Tensor) -> Tensor:
    """(B, 4H, 4W, C) → (B, H, W, C), bicubic with half-pixel centers, without antialiasing.

    Keys' kernel with a = -0.75, as PyTorch's: each pixel is made of the 4x4 pixels that it covers.
    """
    batch, height, width, channels = x.shape
    outer, inner = _QUARTER_TAPS
    rows = x.reshape(batch, height // 4, 4, width, channels)
    x = outer * (rows[:, :, 0] + rows[:, :, 3]) + inner * (rows[:, :, 1] + rows[:, :, 2])
    columns = x.reshape(batch, height // 4, width // 4, 4, channels)
    return outer * (columns[:, :, :, 0] + columns[:, :, :, 3]) + inner * (columns[:, :, :, 1] + columns[:, :, :, 2])


def add_upsampled(x: Tensor, small: Tensor) -> Tensor:
    """x (B, f * H, f * W, C) plus small (B, H, W, C) upsampled bilinearly with half-pixel centers."""
    return x + resize_bilinear(small, x.shape[1], x.shape[2])


def upsampling_gradient(gradient: Tensor, height: int, width: int) -> Tensor:
    """Gradient of `add_upsampled` with respect to `small` (B, height, width, C), from that of its output."""
    batch, rows, columns, channels = gradient.shape
    down = _bilinear_weights(height, rows).astype(gradient.dtype)
    across = _bilinear_weights(width, columns).astype(gradient.dtype)
    gradient = ops.matmul(down, gradient.reshape(batch, rows, columns * channels))
    return ops.matmul(across, gradient.reshape(batch, height, columns, channels))


@ops.constexpr
def _bilinear_weights(small: int, large: int) -> Tensor:
    """(small, large): weight of each small pixel in each large one, along one axis."""
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    weights = np.maximum(0, 1 - np.abs(at[None, :] - np.arange(small)[:, None]))
    return Tensor(weights.astype(np.float32))


def charbonnier(x: Tensor, y: Tensor, epsilon2: float = 1e-9) -> Tensor:
    """Mean of sqrt((x - y)² + ε²) over all elements (Charbonnier et al., 1994); a scalar."""
    difference = x - y
    return ops.sqrt(difference * difference + epsilon2).mean()
