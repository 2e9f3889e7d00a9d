# SPDX-License-Identifier: Apache-2.0
"""Building blocks of RVRT on channels-last features, as functions of features and weights.

Weights are a flat tuple, in the order in which `*_shapes` lists them by their published names; each function unpacks them by
name. A compiled stage is given its weights with its features: so it serves every branch of the same shape, and sees what
training changes.

N batch, T frames of a clip, H×W frame size [px], C channels.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops as msops

from rvrt_cli import ops

Shapes = list[tuple[str, tuple[int, ...]]]  # name and shape of each weight
Weights = tuple[Tensor, ...]
Sizes = tuple[int, int, int, tuple[int, int, int], bool]  # see `refine`


def parameters(shapes: Shapes) -> ParameterTuple:
    """Parameters that are zero until weights come from a file or from `initial_weights`."""
    return ParameterTuple([Parameter(Tensor(np.zeros(shape, np.float32)), name=name) for name, shape in shapes])


def linear_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    """Dense layer: weight, bias."""
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def norm_shapes(name: str, channels: int) -> Shapes:
    """LayerNorm: weight, bias."""
    return [(f"{name}.weight", (channels,)), (f"{name}.bias", (channels,))]


def conv_shapes(name: str, inputs: int, outputs: int, kernel: int, rank: int = 5) -> Shapes:
    """Convolution: weight, bias. Rank 5 is a published Conv3d of temporal extent 1."""
    frames = (1,) if rank == 5 else ()
    return [(f"{name}.weight", (outputs, inputs, *frames, kernel, kernel)), (f"{name}.bias", (outputs,))]


def mlp_shapes(name: str, channels: int, ratio: int) -> Shapes:
    """Two dense layers: the last four arguments of `ops.mlp`."""
    hidden = channels * ratio
    return [*linear_shapes(f"{name}.fc1", channels, hidden), *linear_shapes(f"{name}.fc2", hidden, channels)]


LAYER_WEIGHTS = 12  # of a Swin layer, without the table of relative position biases


def transformer_shapes(name: str, channels: int, heads: int, window: tuple, ratio: int, biased: bool) -> Shapes:
    """Swin layer: `LAYER_WEIGHTS` weights, then the table of relative position biases where it has one."""
    rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
    table = [(f"{name}.attn.relative_position_bias_table", (rows, heads))] if biased else []
    return [
        *norm_shapes(f"{name}.norm1", channels),
        *linear_shapes(f"{name}.attn.qkv_self", channels, 3 * channels),
        *linear_shapes(f"{name}.attn.proj", channels, channels),
        *norm_shapes(f"{name}.norm2", channels),
        *mlp_shapes(f"{name}.mlp", channels, ratio),
        *table,
    ]


def transformer_layer(
    x: Tensor, weights: Weights, heads: int, window: tuple[int, int, int], shifted: bool, biased: bool
) -> Tensor:
    """Swin transformer layer over (T, H, W): shifted-window attention, then MLP, each on a residual path.

    (N, T, H, W, C) → (N, T, H, W, C).
    """
    (
        norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b,
    ) = weights[:LAYER_WEIGHTS]  # fmt: skip
    fitted, shift = ops.window_and_shift(x.shape[1:4], window, shifted)
    bias = None
    if biased:
        bias_table = weights[LAYER_WEIGHTS]
        index = _position_index(window, fitted[0] * fitted[1] * fitted[2])
        bias = bias_table[index].transpose(2, 0, 1)  # (heads, L, L)
    qkv = ops.norm_linear(x, norm1_g, norm1_b, qkv_w, qkv_b)
    attended = ops.window_attention(qkv, qkv_b, bias, heads, fitted, shift)  # padding holds the bias
    x = ops.linear(attended, proj_w, proj_b, "none", x)
    return ops.mlp(x, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b)


@msops.constexpr
def _position_index(window: tuple[int, int, int], length: int) -> Tensor:
    """As published, a window that is cropped to the frame uses the top left part of the index."""
    return Tensor(relative_position_index(window)[:length, :length])


def relative_position_index(window: tuple[int, int, int]) -> np.ndarray:
    """(L, L) int32: the row of the bias table for each pair of a window's pixels.

    A row stands for the displacement (t, y, x) of the two, each axis counted from -(edge - 1).
    """
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in window), indexing="ij"), -1).reshape(-1, 3)
    shift = grid[:, None] - grid[None, :] + np.array(window) - 1
    edges = 2 * np.array(window) - 1
    return ((shift[..., 0] * edges[1] + shift[..., 1]) * edges[2] + shift[..., 2]).astype(np.int32)


def refine_shapes(name: str, channels: int, sizes: Sizes, ratio: int) -> Shapes:
    """Weights of `refine`: LayerNorm; per group the layers and a dense layer; LayerNorm."""
    groups, depth, heads, window, biased = sizes
    shapes = norm_shapes(f"{name}.main.3", channels)
    for i in range(groups):
        group = f"{name}.main.5.{i}"
        for j in range(depth):
            layer = f"{group}.residual_group.blocks.{j}"
            shapes += transformer_shapes(layer, channels, heads, window, ratio, biased)
        shapes += linear_shapes(f"{group}.linear", channels, channels)
    return shapes + norm_shapes(f"{name}.main.7", channels)


@ops.compiled
def refine(x: Tensor, sizes: Sizes, *weights: Tensor) -> Tensor:
    """LayerNorm, residual groups (RSTB), LayerNorm: the body of extraction, branches and reconstruction.

    A group is some transformer layers, every second one shifted, and a dense layer, on a residual path.

    Args:
        x: (N, T, H, W, C), what `merge` gave.
        sizes: groups, layers of a group, heads, window (T, H, W), whether attention has relative position biases.
    """
    groups, depth, heads, window, biased = sizes
    norm_in_g, norm_in_b = weights[:2]
    norm_out_g, norm_out_b = weights[-2:]
    per_layer = LAYER_WEIGHTS + int(biased)
    per_group = depth * per_layer + 2
    x = ops.layer_norm(x, norm_in_g, norm_in_b)
    for i in range(groups):
        group = weights[2 + i * per_group : 2 + (i + 1) * per_group]
        linear_w, linear_b = group[-2:]
        y = x
        for j in range(depth):
            layer = group[j * per_layer : (j + 1) * per_layer]
            y = transformer_layer(y, layer, heads, window, j % 2 == 1, biased)
        x = ops.linear(y, linear_w, linear_b, "none", x)
    return ops.layer_norm(x, norm_out_g, norm_out_b)


def convolve_shapes(name: str, channels: int, blocks: int) -> Shapes:
    """Weights of `convolve`: two convolutions a block."""
    convs = [f"{name}.main.5.{i}.{conv}" for i in range(blocks) for conv in ("conv1", "conv2")]
    return [shape for conv in convs for shape in conv_shapes(conv, channels, channels, 3)]


@ops.compiled
def convolve(x: Tensor, *weights: Tensor) -> Tensor:
    """Residual blocks of two 3x3 convolutions, (N, T, H, W, C) → (N, T, H, W, C): in place of `refine`, without norms."""
    shape = x.shape
    x = x.reshape(shape[0] * shape[1], shape[2], shape[3], shape[4])
    for i in range(0, len(weights), 4):
        conv1_w, conv1_b, conv2_w, conv2_b = weights[i : i + 4]
        y = ops.conv2d(x, conv1_w, conv1_b, "leaky_relu")
        x = ops.conv2d(y, conv2_w, conv2_b, "none", x)
    return x.reshape(shape)


@ops.compiled
def convolve_onto(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (N, T, H, W, C) plus a convolution of `source` (N, T, H, W, S)."""
    shape = x.shape
    batch, time, height, width, channels = source.shape
    x, source = x.reshape(-1, height, width, shape[-1]), source.reshape(batch * time, height, width, channels)
    return ops.conv2d(source, weight, bias, "none", x).reshape(shape)


@ops.compiled
def merge(weight: Tensor, bias: Tensor, *sources: Tensor) -> Tensor:
    """Convolution of several features (N, T, H, W, C), concatenated along the channels."""
    x = sources[0] if len(sources) == 1 else msops.concat(sources, -1)
    batch, time, height, width, channels = x.shape
    y = ops.conv2d(x.reshape(batch * time, height, width, channels), weight, bias)
    return y.reshape(batch, time, height, width, -1)
