"""Convolution, dense layer, LayerNorm and their neighbours on channels-last features, as plain MindSpore definitions.

B batch, H×W frame size [px], C channels.
"""

from __future__ import annotations

from mindspore import Tensor, ops

EPSILON = 1e-5  # LayerNorm, as published


def activate(x: Tensor, activation: str) -> Tensor:
    """`x` through "none", "relu", "leaky_relu" (slope 0.1) or "gelu" (exact, erf)."""
    if activation == "relu":
        return ops.relu(x)
    if activation == "leaky_relu":
        return ops.maximum(x, 0.1 * x)
    if activation == "gelu":
        return 0.5 * x * (1 + ops.erf(x * 0.5**0.5))
    return x


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none") -> Tensor:
    """Convolution with stride 1 and zero padding that keeps the frame size, then the activation.

    Args:
        x: (B, H, W, Ci).
        weight: (Co, Ci, [1,] h, w), h and w odd.
        bias: (Co,).

    Returns:
        (B, H, W, Co).
    """
    kernel = weight.shape[-2:]
    weight = weight.reshape(weight.shape[0], weight.shape[1], kernel[0], kernel[1])
    if kernel == (1, 1):
        return linear(x, weight.reshape(weight.shape[0], weight.shape[1]), bias, activation)
    y = ops.conv2d(x.transpose(0, 3, 1, 2), weight, bias, 1, "pad", (kernel[0] // 2, kernel[1] // 2))
    return activate(y.transpose(0, 2, 3, 1), activation)


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none") -> Tensor:
    """Dense layer over the last axis: x (..., Ci), weight (Co, Ci), bias (Co,) → (..., Co)."""
    y = ops.matmul(x.reshape(-1, x.shape[-1]), weight.swapaxes(0, 1)) + bias
    return activate(y, activation).reshape(*x.shape[:-1], weight.shape[0])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the last axis, ε 1e-5: x (..., C), weight and bias (C,) → (..., C)."""
    mean = x.mean(-1, keep_dims=True)
    centred = x - mean
    variance = (centred * centred).mean(-1, keep_dims=True)
    return centred * ops.rsqrt(variance + EPSILON) * weight + bias


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(B, H, W, C * factor²) → (B, factor * H, factor * W, C); channel c * factor² + i * factor + j goes to (i, j)."""
    batch, height, width, channels = x.shape
    channels = channels // factor**2
    x = x.reshape(batch, height, width, channels, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * factor, width * factor, channels)


def resize_bilinear(x: Tensor, height: int, width: int, align_corners: bool = False) -> Tensor:
    """(B, H, W, C) → (B, height, width, C), bilinear; half-pixel centres unless corners are aligned."""
    x = ops.interpolate(x.transpose(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=align_corners)
    return x.transpose(0, 2, 3, 1)
