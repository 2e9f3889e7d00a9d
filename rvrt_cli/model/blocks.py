# SPDX-License-Identifier: Apache-2.0
"""Layers of RVRT on channels-last features, as functions of features and weights.

Weights are flat tuples in the order in which the functions of `weight_shapes` list them by their published names, and each
function unpacks them by name. A compiled stage takes its weights as arguments: it serves every branch of the same shape, and it sees
changes of the weights in training. (MindSpore 2.10 gives no gradients to a NamedTuple of them.)

N batch, T frames of a clip, H×W frame size [px], C channels, L pixels of a window.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor

from rvrt_cli import ops
from rvrt_cli.model.weight_shapes import Body, RefineSizes, Shapes

Weights = tuple[Tensor, ...]


def parameters(shapes: Shapes) -> ParameterTuple:
    """Parameters filled with zeros; values come from a weights file or from `initial_weights`."""
    return ParameterTuple([Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in shapes])


def split_evenly(weights: Weights, parts: int) -> list[Weights]:
    """`parts` consecutive tuples of the same length."""
    length = len(weights) // parts
    return [weights[i * length : (i + 1) * length] for i in range(parts)]


# --- Swin layers (section 4.2, figure 2)


def refine(x: Tensor, sizes: RefineSizes, *weights: Tensor) -> Tensor:
    """LayerNorm, residual groups (RSTB), LayerNorm: the body of feature extraction, branches and reconstruction.

    A group is a sequence of transformer layers, every second one shifted, and a dense layer, with a residual connection.

    Args:
        x: (N, T, H, W, C), the output of `merge`.
        sizes: groups, layers per group, heads, window (T, H, W), whether attention has relative position biases.
        weights: see `refine_shapes`.
    """
    groups, depth, heads, window, _ = sizes
    norm_g, norm_b = weights[:2]
    x = ops.layer_norm(x, norm_g, norm_b)
    for group in split_evenly(weights[2:-2], groups):
        layers, (linear_w, linear_b) = split_evenly(group[:-2], depth), group[-2:]
        y = x
        for j in range(depth - 1):
            y = ops.swin_layer(y, layers[j], heads, window, j % 2 == 1)
        x = ops.swin_layer_onto(y, x, layers[-1], linear_w, linear_b, heads, window, depth % 2 == 0)
    norm_g, norm_b = weights[-2:]
    return ops.layer_norm(x, norm_g, norm_b)


# --- convolutions


def convolve(x: Tensor, *weights: Tensor) -> Tensor:
    """Residual blocks of two 3x3 convolutions in place of `refine`, without norms and windows (not in the paper).

    (N, T, H, W, C) → (N, T, H, W, C).
    """
    shape = x.shape
    x = x.reshape(shape[0] * shape[1], shape[2], shape[3], shape[4])
    return ops.conv_chain(x, weights, True).reshape(shape)


def merge(weight: Tensor, bias: Tensor, *sources: Tensor) -> Tensor:
    """Convolution of features side by side, (N, T, H, W, C) each."""
    batch, time, height, width, _ = sources[0].shape
    frames = [source.reshape(batch * time, height, width, source.shape[-1]) for source in sources]
    y = ops.conv2d(frames[0] if len(frames) == 1 else tuple(frames), weight, bias)
    return y.reshape(batch, time, height, width, -1)


def merge_and_run(sources: tuple[Tensor, ...], carry: float, onto: bool, body: Body, weights: Weights) -> Tensor:
    """`merge` and `run_body`, with the last source times `carry`, which is added to the output if `onto`.

    The weights are those of the convolution, then of the body.
    """
    if body is None:
        return ops.conv_body(sources, weights, carry, onto)
    *others, last = sources
    if carry != 1:
        last = carry * last
    x = run_body(merge(weights[0], weights[1], *others, last), body, weights[2:])
    return last + x if onto else x


def run_body(x: Tensor, body: Body, weights: Weights) -> Tensor:
    """`refine`, or `convolve`: (N, T, H, W, C) → (N, T, H, W, C)."""
    if body is None:
        return convolve(x, *weights)
    return refine(x, body, *weights)
