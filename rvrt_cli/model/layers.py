"""Layers of RVRT on channels-last features; every parameter carries its published name.

N batch, T frames of a clip, H×W frame size [px], C channels.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn

from rvrt_cli import ops


def parameter(name: str, shape: tuple[int, ...]) -> Parameter:
    """A parameter that has no value of its own yet: weights come from a file or from `model.initial`."""
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name)


class Conv(nn.Cell):
    """Convolution of every frame by itself, with its activation; published as Conv3d of temporal extent 1."""

    def __init__(self, name: str, inputs: int, outputs: int, kernel: int, activation: str = "none", rank: int = 5):
        super().__init__(auto_prefix=False)
        shape = (outputs, inputs, *([1] if rank == 5 else []), kernel, kernel)
        self.weight = parameter(f"{name}.weight", shape)
        self.bias = parameter(f"{name}.bias", (outputs,))
        self.activation = activation

    def construct(self, x: Tensor) -> Tensor:
        """(..., H, W, inputs) → (..., H, W, outputs)."""
        frames = x.reshape(-1, *x.shape[-3:])
        y = ops.conv2d(frames, self.weight, self.bias, self.activation)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class Linear(nn.Cell):
    """Dense layer over the channels, with its activation."""

    def __init__(self, name: str, inputs: int, outputs: int, activation: str = "none"):
        super().__init__(auto_prefix=False)
        self.weight = parameter(f"{name}.weight", (outputs, inputs))
        self.bias = parameter(f"{name}.bias", (outputs,))
        self.activation = activation

    def construct(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., inputs) → (..., outputs), with the residual added."""
        return ops.linear(x, self.weight, self.bias, self.activation, residual)


class LayerNorm(nn.Cell):
    """LayerNorm over the channels."""

    def __init__(self, name: str, channels: int):
        super().__init__(auto_prefix=False)
        self.weight = parameter(f"{name}.weight", (channels,))
        self.bias = parameter(f"{name}.bias", (channels,))

    def construct(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        return ops.layer_norm(x, self.weight, self.bias)


class MLP(nn.Cell):
    """Two dense layers with an exact GELU between, on a residual path; with a LayerNorm before them if it has a name."""

    def __init__(self, name: str, channels: int, ratio: int, norm: str | None = None):
        super().__init__(auto_prefix=False)
        self.norm = LayerNorm(norm, channels) if norm else None
        self.fc1 = Linear(f"{name}.fc1", channels, channels * ratio)
        self.fc2 = Linear(f"{name}.fc2", channels * ratio, channels)

    def construct(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        fc1, fc2 = self.fc1, self.fc2
        if self.norm is None:
            return ops.mlp(x, None, None, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return ops.mlp(x, self.norm.weight, self.norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias)


class TransformerLayer(nn.Cell):
    """Swin transformer layer over (T, H, W): shifted-window attention, then MLP, each on a residual path."""

    def __init__(self, name: str, channels: int, heads: int, window: tuple, shifted: bool, ratio: int, biased: bool):
        super().__init__(auto_prefix=False)
        self.norm1 = LayerNorm(f"{name}.norm1", channels)
        self.qkv = Linear(f"{name}.attn.qkv_self", channels, 3 * channels)
        self.proj = Linear(f"{name}.attn.proj", channels, channels)
        self.mlp = MLP(f"{name}.mlp", channels, ratio, f"{name}.norm2")
        self.heads, self.window, self.shifted, self.biased = heads, window, shifted, biased
        if biased:
            table = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
            self.bias_table = parameter(f"{name}.attn.relative_position_bias_table", (table, heads))
            self.bias_index = Tensor(relative_position_index(window))

    def construct(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C) → (N, T, H, W, C)."""
        window, shift = ops.window_and_shift(x.shape[1:4], self.window, self.shifted)
        bias = None
        if self.biased:
            length = window[0] * window[1] * window[2]
            bias = self.bias_table[self.bias_index[:length, :length]].transpose(2, 0, 1)  # (heads, L, L)
        qkv = ops.norm_linear(x, self.norm1.weight, self.norm1.bias, self.qkv.weight, self.qkv.bias)
        attended = ops.window_attention(qkv, self.qkv.bias, bias, self.heads, window, shift)
        return self.mlp(self.proj(attended, x))


def relative_position_index(window: tuple[int, int, int]) -> np.ndarray:
    """(L, L) int32: the row of the bias table for each pair of a window's pixels.

    A row stands for the displacement (t, y, x) of the two, each axis counted from -(edge - 1). As published, a window that
    was shortened to the frame takes the top left part of this table.
    """
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in window), indexing="ij"), -1).reshape(-1, 3)
    shift = grid[:, None] - grid[None, :] + np.array(window) - 1
    edges = 2 * np.array(window) - 1
    return ((shift[..., 0] * edges[1] + shift[..., 1]) * edges[2] + shift[..., 2]).astype(np.int32)


class ResidualGroup(nn.Cell):
    """RSTB: transformer layers, every second one shifted, and a dense layer, on a residual path."""

    def __init__(self, name: str, channels: int, depth: int, heads: int, window: tuple, ratio: int, biased: bool):
        super().__init__(auto_prefix=False)
        self.layers = nn.CellList(
            [
                TransformerLayer(
                    f"{name}.residual_group.blocks.{i}", channels, heads, window, i % 2 == 1, ratio, biased
                )
                for i in range(depth)
            ],
            auto_prefix=False,
        )
        self.linear = Linear(f"{name}.linear", channels, channels)

    def construct(self, x: Tensor) -> Tensor:
        """(N, T, H, W, C) → (N, T, H, W, C)."""
        y = x
        for layer in self.layers:
            y = layer(y)
        return self.linear(y, x)


class Refine(nn.Cell):
    """A 3x3 convolution, LayerNorm, residual groups, LayerNorm: the body of extraction, branches and reconstruction."""

    def __init__(self, name: str, inputs: int, channels: int, groups: int, depth: int, heads: int, window: tuple,
                 ratio: int, biased: bool):  # fmt: skip
        super().__init__(auto_prefix=False)
        self.conv = Conv(f"{name}.main.1", inputs, channels, 3)
        self.norm_in = LayerNorm(f"{name}.main.3", channels)
        self.groups = nn.CellList(
            [
                ResidualGroup(f"{name}.main.5.{i}", channels, depth, heads, window, ratio, biased)
                for i in range(groups)
            ],
            auto_prefix=False,
        )
        self.norm_out = LayerNorm(f"{name}.main.7", channels)

    def construct(self, x: Tensor) -> Tensor:
        """(N, T, H, W, inputs) → (N, T, H, W, C)."""
        x = self.norm_in(self.conv(x))
        for group in self.groups:
            x = group(x)
        return self.norm_out(x)
