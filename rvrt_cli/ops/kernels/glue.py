"""The C++ kernels as MindSpore operations: the same functions as the definitions, with gradients.

Each takes float32; what a kernel does not do (another dtype, a rare combination) the definition does. Shapes, activations
and errors are those of the definitions; `*.cc` says what the kernels' inputs and outputs are.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import attention, fusion, layers, sampling
from rvrt_cli.ops.lucas_kanade import ITERATIONS, LEVELS, lucas_kanade as lucas_kanade_definition
from rvrt_cli.ops.kernels import library

_ABSENT = Tensor(np.zeros(1, np.float32))  # in place of an optional tensor


def _kernel(symbol: str, shapes: Callable, outputs: int = 1, bprop: Callable | None = None) -> ops.Custom:
    """A kernel of the library. `shapes` makes the shapes of its outputs from those of its inputs."""
    types = ms.float32 if outputs == 1 else (ms.float32,) * outputs
    kernel = ops.Custom(f"{library()}:{symbol}", shapes, types, func_type="aot", bprop=bprop)
    if bprop is not None:  # else graph mode takes the gradient of another operation with the same symbol
        kernel.add_prim_attr("gradient", bprop.__name__)
    return kernel


@ops.constexpr
def _numbers(*values: int) -> Tensor:
    """Attributes of a kernel: its last input."""
    return Tensor(np.array(values, np.int32))


@ops.constexpr
def _code(activation: str) -> int:
    return {"none": 0, "leaky_relu": 1, "relu": 3, "gelu": 4}[activation]


# --- dense layers: (x, weight, bias, residual, [activation, has_bias, has_residual])


def _dense_shape(x, weight, bias, residual, numbers):
    return [*x[:-1], weight[0]]


def _dense_gradient_shapes(x, weight, bias, dy, numbers):
    return x, weight, bias


_linear_backward = _kernel("linear_backward", _dense_gradient_shapes, 3)


def _linear_bprop(x, weight, bias, residual, numbers, out, dout):
    dx, dweight, dbias = _linear_backward(x, weight, bias, dout, numbers)
    return dx, dweight, dbias, ops.zeros_like(residual), ops.zeros_like(numbers)


def _linear_residual_bprop(x, weight, bias, residual, numbers, out, dout):
    dx, dweight, dbias = _linear_backward(x, weight, bias, dout, numbers)
    return dx, dweight, dbias, dout, ops.zeros_like(numbers)


_linear = _kernel("linear_forward", _dense_shape, bprop=_linear_bprop)
_linear_residual = _kernel("linear_forward", _dense_shape, bprop=_linear_residual_bprop)


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
    """See `layers.linear`."""
    if x.dtype != ms.float32:
        return layers.linear(x, weight, bias, activation, residual)
    if residual is None:
        return _linear(x, weight, bias, _ABSENT, _numbers(_code(activation), 1, 0))
    return _linear_residual(x, weight, bias, residual, _numbers(_code(activation), 1, 1))


def _norm_linear_shape(x, gamma, beta, weight, bias, numbers):
    return [*x[:-1], weight[0]]


def _norm_linear_gradient_shapes(x, gamma, beta, weight, bias, dy, numbers):
    return x, gamma, beta, weight, bias


_norm_linear_backward = _kernel("norm_linear_backward", _norm_linear_gradient_shapes, 5)


def _norm_linear_bprop(x, gamma, beta, weight, bias, numbers, out, dout):
    dx, dgamma, dbeta, dweight, dbias = _norm_linear_backward(x, gamma, beta, weight, bias, dout, numbers)
    return dx, dgamma, dbeta, dweight, dbias, ops.zeros_like(numbers)


_norm_linear = _kernel("norm_linear_forward", _norm_linear_shape, bprop=_norm_linear_bprop)


def norm_linear(
    x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, activation: str = "none"
) -> Tensor:
    """See `layers.norm_linear`."""
    if x.dtype != ms.float32:
        return layers.norm_linear(x, gamma, beta, weight, bias, activation)
    return _norm_linear(x, gamma, beta, weight, bias, _numbers(_code(activation), 1))


# --- feed-forward part


def _mlp_shape(x, gamma, beta, w1, b1, w2, b2):
    return x


def _mlp_gradient_shapes(x, gamma, beta, w1, b1, w2, dy):
    return x, gamma, beta, w1, b1, w2, beta


_mlp_backward = _kernel("mlp_backward", _mlp_gradient_shapes, 7)


def _mlp_bprop(x, gamma, beta, w1, b1, w2, b2, out, dout):
    return _mlp_backward(x, gamma, beta, w1, b1, w2, dout)


_mlp = _kernel("mlp_forward", _mlp_shape, bprop=_mlp_bprop)


def mlp(x: Tensor, gamma: Tensor | None, beta: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """See `layers.mlp`."""
    if x.dtype != ms.float32:
        return layers.mlp(x, gamma, beta, w1, b1, w2, b2)
    if gamma is None:
        return linear(linear(x, w1, b1, "gelu"), w2, b2, "none", x)
    return _mlp(x, gamma, beta, w1, b1, w2, b2)


# --- LayerNorm


def _norm_shape(x, gamma, beta):
    return x


def _norm_gradient_shapes(x, gamma, dy):
    return x, gamma, gamma


_layer_norm_backward = _kernel("layer_norm_backward", _norm_gradient_shapes, 3)


def _layer_norm_bprop(x, gamma, beta, out, dout):
    return _layer_norm_backward(x, gamma, dout)


_layer_norm = _kernel("layer_norm_forward", _norm_shape, bprop=_layer_norm_bprop)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `layers.layer_norm`."""
    if x.dtype != ms.float32:
        return layers.layer_norm(x, weight, bias)
    return _layer_norm(x, weight, bias)


# --- convolution: (x, weight, bias, residual, [activation, has_bias, has_residual])


def _conv2d_gradient_shapes(x, weight, y, dy, numbers):
    return x, weight, [weight[0]]


_conv2d_backward = _kernel("conv2d_backward", _conv2d_gradient_shapes, 3)


def _conv2d_bprop(x, weight, bias, residual, numbers, out, dout):
    dx, dweight, dbias = _conv2d_backward(x, weight, out, dout, numbers)  # has_bias lies where needs_dx does
    return dx, dweight, dbias, ops.zeros_like(residual), ops.zeros_like(numbers)


def _conv2d_residual_bprop(x, weight, bias, residual, numbers, out, dout):
    dx, dweight, dbias = _conv2d_backward(x, weight, dout, dout, numbers)
    return dx, dweight, dbias, dout, ops.zeros_like(numbers)


_conv2d = _kernel("conv2d_forward", _dense_shape, bprop=_conv2d_bprop)
_conv2d_residual = _kernel("conv2d_forward", _dense_shape, bprop=_conv2d_residual_bprop)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
    """See `layers.conv2d`."""
    if x.dtype != ms.float32 or activation == "gelu":
        return layers.conv2d(x, weight, bias, activation, residual)
    if weight.shape[-2:] == (1, 1):
        return linear(x, weight.reshape(weight.shape[0], weight.shape[1]), bias, activation, residual)
    if residual is None:
        return _conv2d(x, weight, bias, _ABSENT, _numbers(_code(activation), 1, 0))
    if activation == "none":
        return _conv2d_residual(x, weight, bias, residual, _numbers(0, 1, 1))
    # the gradient needs what the activation gave
    return _conv2d(x, weight, bias, _ABSENT, _numbers(_code(activation), 1, 0)) + residual


# --- attention


def _window_shape(qkv, pad, bias, numbers):
    return [*qkv[:-1], qkv[-1] // 3]


def _window_gradient_shapes(qkv, pad, bias, dout, numbers):
    return qkv, pad, bias


_window_backward = _kernel("window_attention_backward", _window_gradient_shapes, 3)


def _window_bprop(qkv, pad, bias, numbers, out, dout):
    dqkv, dpad, dbias = _window_backward(qkv, pad, bias, dout, numbers)
    return dqkv, dpad, dbias, ops.zeros_like(numbers)


_window = _kernel("window_attention_forward", _window_shape, bprop=_window_bprop)


def window_attention(
    qkv: Tensor,
    pad: Tensor,
    bias: Tensor | None,
    heads: int,
    window: tuple[int, int, int],
    shift: tuple[int, int, int],
) -> Tensor:
    """See `attention.window_attention`."""
    if qkv.dtype != ms.float32:
        return attention.window_attention(qkv, pad, bias, heads, window, shift)
    if bias is None:
        return _window(qkv, pad, _ABSENT, _numbers(heads, *window, *shift, 0))
    return _window(qkv, pad, bias, _numbers(heads, *window, *shift, 1))


def _neighborhood_shape(query, key_value, numbers):
    return query


def _neighborhood_gradient_shapes(query, key_value, dout, numbers):
    return query, key_value


_neighborhood_backward = _kernel("neighborhood_attention_backward", _neighborhood_gradient_shapes, 2)


def _neighborhood_bprop(query, key_value, numbers, out, dout):
    dquery, dkey_value = _neighborhood_backward(query, key_value, dout, numbers)
    return dquery, dkey_value, ops.zeros_like(numbers)


_neighborhood = _kernel("neighborhood_attention_forward", _neighborhood_shape, bprop=_neighborhood_bprop)


def neighborhood_attention(query: Tensor, key_value: Tensor, heads: int, kernel: tuple[int, int]) -> Tensor:
    """See `attention.neighborhood_attention`."""
    if query.dtype != ms.float32:
        return attention.neighborhood_attention(query, key_value, heads, kernel)
    return _neighborhood(query, key_value, _numbers(heads, *kernel))


def _deformable_shape(query, key_value, offset, numbers):
    return query


def _deformable_gradient_shapes(query, key_value, offset, dout, numbers):
    return query, key_value, offset


_deformable_backward = _kernel("deformable_attention_backward", _deformable_gradient_shapes, 3)


def _deformable_bprop(query, key_value, offset, numbers, out, dout):
    dquery, dkey_value, doffset = _deformable_backward(query, key_value, offset, dout, numbers)
    return dquery, dkey_value, doffset, ops.zeros_like(numbers)


_deformable = _kernel("deformable_attention_forward", _deformable_shape, bprop=_deformable_bprop)


def deformable_attention(
    query: Tensor, key_value: Tensor, offset: Tensor, heads: int, kernel: tuple[int, int]
) -> Tensor:
    """See `attention.deformable_attention`."""
    if query.dtype != ms.float32 or offset.dtype != ms.float32:
        return attention.deformable_attention(query, key_value, offset, heads, kernel)
    return _deformable(query, key_value, offset, _numbers(heads, *kernel))


# --- sampling and layout


def _warp_shape(x, flow, numbers):
    return x


def _warp_gradient_shapes(x, flow, dout, numbers):
    return x, flow


_warp_backward = _kernel("warp_backward", _warp_gradient_shapes, 2)


def _warp_bprop(x, flow, numbers, out, dout):
    dx, dflow = _warp_backward(x, flow, dout, numbers)
    return dx, dflow, ops.zeros_like(numbers)


_warp = _kernel("warp_forward", _warp_shape, bprop=_warp_bprop)


def warp(x: Tensor, flow: Tensor, border: bool = False) -> Tensor:
    """See `sampling.warp`."""
    if x.dtype != ms.float32 or flow.dtype != ms.float32:
        return sampling.warp(x, flow, border)
    return _warp(x, flow, _numbers(int(border)))


def _fusion_shape(frame, neighbors, flows):
    return [*frame[:-1], fusion.CHANNELS]


def _fusion_bprop(frame, neighbors, flows, out, dout):
    return ops.zeros_like(frame), ops.zeros_like(neighbors), ops.zeros_like(flows)


_fusion = _kernel("fuse_frames_forward", _fusion_shape, bprop=_fusion_bprop)


def fuse_frames(frame: Tensor, neighbors: Tensor, flows: Tensor) -> Tensor:
    """See `fusion.fuse_frames`."""
    if frame.dtype != ms.float32:
        return fusion.fuse_frames(frame, neighbors, flows)
    return _fusion(frame, neighbors, flows)


def _flow_shape(reference, neighbor, numbers):
    return [*reference[:-1], 2]


def _flow_bprop(reference, neighbor, numbers, out, dout):
    return ops.zeros_like(reference), ops.zeros_like(neighbor), ops.zeros_like(numbers)


_flow = _kernel("lucas_kanade_forward", _flow_shape, bprop=_flow_bprop)


def lucas_kanade(reference: Tensor, neighbor: Tensor) -> Tensor:
    """See `flow.lucas_kanade`."""
    if reference.dtype != ms.float32:
        return lucas_kanade_definition(reference, neighbor)
    return _flow(reference, neighbor, _numbers(LEVELS, ITERATIONS))


def _shuffle(factor):
    """The kernel for one factor: the shape of a kernel's output cannot follow from a tensor of numbers."""

    def shape(x, numbers):
        return [x[0], x[1] * factor, x[2] * factor, x[3] // factor**2]

    def gradient_shape(y, dy, numbers):
        return [y[0], y[1] // factor, y[2] // factor, y[3] * factor**2]

    backward = _kernel("pixel_shuffle_backward", gradient_shape)

    def bprop(x, numbers, out, dout):
        return backward(out, dout, numbers), ops.zeros_like(numbers)

    bprop.__name__ = f"_shuffle_bprop_{factor}"  # MindSpore tells gradients apart by name
    return _kernel("pixel_shuffle_forward", shape, bprop=bprop)


_SHUFFLES = {factor: _shuffle(factor) for factor in (2, 4)}


def pixel_shuffle(x: Tensor, factor: int, activation: str = "none") -> Tensor:
    """See `layers.pixel_shuffle`."""
    if x.dtype != ms.float32 or factor not in _SHUFFLES or activation == "gelu":
        return layers.pixel_shuffle(x, factor, activation)
    numbers = _numbers(factor, _code(activation))
    return _SHUFFLES[factor](x, numbers)


def _reverse_shape(x):
    return x


def _reverse_bprop(x, out, dout):
    return (_reverse_gradient(dout),)


_reverse_gradient = _kernel("reverse_time", _reverse_shape)
_reverse = _kernel("reverse_time", _reverse_shape, bprop=_reverse_bprop)


def reverse_time(x: Tensor) -> Tensor:
    """See `layers.reverse_time`."""
    return _reverse(x) if x.dtype == ms.float32 else layers.reverse_time(x)


def _add_enlarged_shape(small, x):
    return x


def _add_enlarged_bprop(small, x, out, dout):
    return layers.enlarged_gradient(dout, small.shape[1], small.shape[2]), dout


_add_enlarged = _kernel("add_bilinear", _add_enlarged_shape, bprop=_add_enlarged_bprop)


def add_enlarged(x: Tensor, small: Tensor) -> Tensor:
    """See `layers.add_enlarged`."""
    if x.dtype != ms.float32:
        return layers.add_enlarged(x, small)
    return _add_enlarged(small, x)


# --- loss


def _charbonnier_shape(x, y, numbers):
    return [1]  # graph mode takes [] for a Python number


def _charbonnier_gradient_shape(x, y, numbers, dloss):
    return x


_charbonnier_backward = _kernel("charbonnier_backward", _charbonnier_gradient_shape)


def _charbonnier_bprop(x, y, numbers, out, dout):
    dx = _charbonnier_backward(x, y, numbers, dout)
    return dx, -dx, ops.zeros_like(numbers)


_charbonnier = _kernel("charbonnier_forward", _charbonnier_shape, bprop=_charbonnier_bprop)


@ops.constexpr
def _floats(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32))


def charbonnier(x: Tensor, y: Tensor, epsilon2: float = 1e-9) -> Tensor:
    """See `layers.charbonnier`."""
    if x.dtype != ms.float32 or y.dtype != ms.float32:
        return layers.charbonnier(x, y, epsilon2)
    return _charbonnier(x, y, _floats(epsilon2)).reshape(())
