# SPDX-License-Identifier: Apache-2.0
"""Layers of RVRT on channels-last features, as functions of features and weights.

Weights are flat tuples in the order in which the functions of `weight_shapes` list them by their published names, and each
function unpacks them by name. A compiled stage takes its weights as arguments: it serves every branch of the same shape, and it sees
changes of the weights in training. (MindSpore 2.10 gives no gradients to a NamedTuple of them.)

N batch, T frames of a clip, H×W frame size [px], C channels, L pixels of a window.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.weight_shapes import Body, RefineSizes, Shapes

Weights = tuple[Tensor, ...]

_TRANSFORMER_WEIGHTS = 12  # of a layer, and the table of relative position biases if it has one
_BLOCK_WEIGHTS = 4  # of a pair of convolutions


def parameters(shapes: Shapes) -> ParameterTuple:
    """Parameters filled with zeros; values come from a weights file or from `initial_weights`."""
    return ParameterTuple([Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in shapes])


def split_evenly(weights: Weights, parts: int) -> list[Weights]:
    """`parts` consecutive tuples of the same length."""
    length = len(weights) // parts
    return [weights[i * length : (i + 1) * length] for i in range(parts)]


# --- Swin layers (section 4.2, figure 2)


def transformer_layer(
    x: Tensor, weights: Weights, heads: int, window: tuple[int, int, int], shifted: bool, biased: bool
) -> Tensor:
    """Swin transformer layer over (T, H, W): shifted-window attention and MLP, each with a residual connection.

    (N, T, H, W, C) → (N, T, H, W, C).
    """
    swin = weights[:_TRANSFORMER_WEIGHTS]
    norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b = swin
    fitted, shift = ops.window_and_shift(x.shape[1:4], window, shifted)
    bias = None
    if biased:
        bias_table = weights[_TRANSFORMER_WEIGHTS]
        index = _position_index(window, fitted[0] * fitted[1] * fitted[2])
        bias = msops.gather(bias_table, index, 0).transpose(2, 0, 1)  # (heads, L, L)
    qkv = ops.norm_linear(x, norm1_g, norm1_b, qkv_w, qkv_b)  # (N, T, H, W, 3C)
    attended = ops.window_attention(qkv, qkv_b, bias, heads, fitted, shift)
    x = ops.linear(attended, proj_w, proj_b, "none", x)
    return ops.mlp(x, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b)


@msops.constexpr
def _position_index(window: tuple[int, int, int], length: int) -> Tensor:
    """As published: a window that was shortened to the frame uses the top left part of the index."""
    return Tensor(relative_position_index(window)[:length, :length])


def relative_position_index(window: tuple[int, int, int]) -> np.ndarray:
    """Row of the bias table for each pair of a window's pixels: (L, L) int32.

    A row stands for the displacement (t, y, x) between the two, counted from -(edge - 1) along each axis.
    """
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in window), indexing="ij"), -1).reshape(-1, 3)
    shift = grid[:, None] - grid[None, :] + np.array(window) - 1
    edges = 2 * np.array(window) - 1
    return ((shift[..., 0] * edges[1] + shift[..., 1]) * edges[2] + shift[..., 2]).astype(np.int32)


def refine(x: Tensor, sizes: RefineSizes, *weights: Tensor) -> Tensor:
    """LayerNorm, residual groups (RSTB), LayerNorm: the body of feature extraction, branches and reconstruction.

    A group is a sequence of transformer layers, every second one shifted, and a dense layer, with a residual connection.

    Args:
        x: (N, T, H, W, C), the output of `merge`.
        sizes: groups, layers per group, heads, window (T, H, W), whether attention has relative position biases.
        weights: see `refine_shapes`.
    """
    groups, depth, heads, window, biased = sizes
    norm_g, norm_b = weights[:2]
    x = ops.layer_norm(x, norm_g, norm_b)
    for group in split_evenly(weights[2:-2], groups):
        layers, (linear_w, linear_b) = split_evenly(group[:-2], depth), group[-2:]
        y = x
        for j in range(depth):
            y = transformer_layer(y, layers[j], heads, window, j % 2 == 1, biased)
        x = ops.linear(y, linear_w, linear_b, "none", x)
    norm_g, norm_b = weights[-2:]
    return ops.layer_norm(x, norm_g, norm_b)


# --- convolutions


def convolve(x: Tensor, *weights: Tensor) -> Tensor:
    """Residual blocks of two 3x3 convolutions in place of `refine`, without norms and windows (not in the paper).

    (N, T, H, W, C) → (N, T, H, W, C).
    """
    shape = x.shape
    x = x.reshape(shape[0] * shape[1], shape[2], shape[3], shape[4])
    for block in split_evenly(weights, len(weights) // _BLOCK_WEIGHTS):
        conv1_w, conv1_b, conv2_w, conv2_b = block
        x = ops.conv2d(ops.conv2d(x, conv1_w, conv1_b, "leaky_relu"), conv2_w, conv2_b, "none", x)
    return x.reshape(shape)


def convolve_onto(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (N, T, H, W, C) plus a convolution of `source` (N, T, H, W, S)."""
    shape = x.shape
    batch, time, height, width, channels = source.shape
    x, source = x.reshape(-1, height, width, shape[-1]), source.reshape(batch * time, height, width, channels)
    return ops.conv2d(source, weight, bias, "none", x).reshape(shape)


def merge(weight: Tensor, bias: Tensor, *sources: Tensor) -> Tensor:
    """Convolution of features side by side, (N, T, H, W, C) each."""
    batch, time, height, width, _ = sources[0].shape
    frames = [source.reshape(batch * time, height, width, source.shape[-1]) for source in sources]
    y = ops.conv2d(frames[0] if len(frames) == 1 else tuple(frames), weight, bias)
    return y.reshape(batch, time, height, width, -1)


def run_body(x: Tensor, body: Body, weights: Weights) -> Tensor:
    """`refine`, or `convolve`: (N, T, H, W, C) → (N, T, H, W, C)."""
    if body is None:
        return convolve(x, *weights)
    return refine(x, body, *weights)
