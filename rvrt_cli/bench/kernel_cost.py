# SPDX-License-Identifier: Apache-2.0
"""Operations of a kernel, and the bytes that it has to move, counted from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

GRADIENT_PRODUCTS = 2  # of each product of the forward pass: towards either factor
WEIGHT_GRADIENTS_ONLY = ("convolve_onto",)  # functions of data, which gets no gradient
_FLOAT_BYTES = 4

Shape = tuple[int, ...]


def kernel_flops(function: str, shapes: Sequence[Shape], settings: Sequence[Any]) -> float | None:
    """Operations of the forward pass of a function of `rvrt_cli.ops`.

    The convention is that of `rvrt_cli.model.cost`: a multiplication and an addition each count as one. Counted are
    convolutions (taps in the zero padding included), dense layers, and the two products of an attention; not sampling,
    activations, norms and softmax. Convolutions count as direct ones, although Winograd's algorithm computes 3x3 ones
    with a quarter of the multiplications, 7x7 ones with a third: their rate may exceed that of a matrix product. A gradient has
    `GRADIENT_PRODUCTS` times the operations of the forward pass, that of `WEIGHT_GRADIENTS_ONLY` as many as it; what its
    kernel computes again is not counted.

    Args:
        shapes: of the tensors, in the order of the function's arguments, those of a tuple one by one.
        settings: the arguments after the tensors.

    Returns:
        None for a function without such products: it moves memory, or samples images.
    """
    first = shapes[0]
    positions = math.prod(first[:-1])
    if function in ("conv2d", "linear"):  # one or several x (..., C), weight (Co, Ci, ...), bias
        stride = settings[2] if len(settings) > 2 else 1  # after activation and residual
        return 2.0 * positions / stride**2 * math.prod(shapes[-2])
    if function == "guided_offsets":  # x (N, T, H, W, I), weight (outputs, I)
        return 2.0 * positions * math.prod(shapes[1])
    if function == "convolve_onto":  # x (N, T, H, W, C), source, weight (C, S, ...)
        return 2.0 * positions * math.prod(shapes[2])
    if function == "attend_at_offsets":  # query, key, value, offsets, then weight and bias of six layers
        [(_, edge, _)] = settings
        return 2.0 * positions * (sum(map(math.prod, shapes[4::2])) + 2.0 * first[1] * edge**2 * shapes[4][0])
    if function == "guided_attention":  # query, key, value, hidden, flows, then weight and bias of seven layers
        (_, edge, _), _ = settings
        attention = 2.0 * first[1] * edge**2 * shapes[7][0]
        return 2.0 * positions * (sum(math.prod(shape) for shape in shapes[5::2]) + attention)
    if function == "norm_linear":  # x, gamma, beta, weight
        return 2.0 * positions * math.prod(shapes[3])
    if function == "mlp":  # x, gamma, beta, w1, b1, w2
        return 2.0 * positions * (math.prod(shapes[3]) + math.prod(shapes[5]))
    if function == "project_mlp":  # x, projection, bias, w1, b1, w2
        return 2.0 * positions * sum(math.prod(shapes[i]) for i in (1, 3, 5))
    if function == "linear_pair":  # x, y, weight and bias of each
        return 2.0 * positions * (math.prod(shapes[2]) + math.prod(shapes[4]))
    if function == "conv_body":  # x of each source, then weight (C, Ci, 3, 3) and bias of each layer
        return 2.0 * positions * sum(math.prod(shape) for shape in shapes if shape[-2:] == (3, 3))
    if function == "conv_chain":  # x, then weight (C, C, 3, 3) and bias of each layer
        return 2.0 * positions * sum(map(math.prod, shapes[1::2]))
    if function == "window_attention":  # qkv (..., 3C); each position attends to those of its window
        _, window, _ = settings
        return 4.0 * positions * math.prod(window) * (first[-1] // 3)
    if function in ("swin_layer", "swin_layer_onto"):  # x (N, T, H, W, C), weights; a dense layer after it
        _, window, _ = settings
        fitted = map(min, first[1:4], window)
        matrices = [shape for shape in shapes[1:] if len(shape) == 2]
        dense = sum(map(math.prod, matrices[:4]))  # qkv, projection, feed-forward; not the table
        dense += math.prod(shapes[-2]) if function == "swin_layer_onto" else 0
        return 2.0 * positions * dense + 4.0 * positions * math.prod(fitted) * first[-1]
    if function in ("neighborhood_attention", "deformable_attention"):
        _, kernel = settings  # query (N, T, H, W, A) attends to K points in each of T frames
        return 4.0 * positions * first[1] * math.prod(kernel) * first[-1]
    return None


# Functions that only move memory, apart from a few operations per element
_MEMORY_FUNCTIONS = ("add_upsampled", "charbonnier", "layer_norm", "pixel_shuffle", "reverse_time", "warp", "warp_clip")


def kernel_bytes(function: str, shapes: Sequence[Shape]) -> float | None:
    """Bytes that the forward pass of a function that moves memory has to: each tensor is read or written once.

    A gradient has to move as many: it reads the gradient of the output and writes those of the inputs.

    Args:
        shapes: of all tensors, outputs included.

    Returns:
        None for other functions.
    """
    if function not in _MEMORY_FUNCTIONS:
        return None
    return float(_FLOAT_BYTES * sum(map(math.prod, shapes)))
