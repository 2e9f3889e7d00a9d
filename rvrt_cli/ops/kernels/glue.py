# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels as MindSpore operations: the same functions as the definitions, with gradients.

Kernels take float32; for other types, and rare combinations of arguments, each function calls its definition. Shapes, activations
and errors are those of the definitions; the C++ files say what a kernel's inputs and outputs are. A kernel's attributes (heads,
activation...) are its last input, a constant tensor of numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import attention, fusion, layers, sampling
from rvrt_cli.ops.kernels import library
from rvrt_cli.ops.lucas_kanade import FLOW_ITERATIONS, FLOW_LEVELS, lucas_kanade as lucas_kanade_definition

Shape = list[int]
MakeBprop = Callable[
    [ops.Custom], Callable
]  # of a kernel for the gradients → the function that MindSpore calls for them

_ABSENT = Tensor(np.zeros(1, np.float32))  # in place of an optional tensor


def _kernel(symbol: str, shapes: Callable, outputs: int = 1, bprop: Callable | None = None) -> ops.Custom:
    """A function of the library; `shapes` makes the shapes of its outputs from those of its inputs.

    Shape functions are named: graph mode cannot parse an inline lambda here.
    """
    types = ms.float32 if outputs == 1 else (ms.float32,) * outputs
    kernel = ops.Custom(f"{library()}:{symbol}", shapes, types, func_type="aot", bprop=bprop)
    if bprop is not None:  # else graph mode takes the gradient of another operation with the same symbol
        kernel.add_prim_attr("gradient", bprop.__name__)
    return kernel


def custom_op(
    name: str, shape: Callable, gradient_shapes: Callable | None = None, gradients: int = 1, variant: str = ""
) -> Callable[[MakeBprop], ops.Custom]:
    """Make an operation of the kernels `NAME_forward` and `NAME_backward`; decorates a function that makes its bprop.

    Args:
        shape: shape of the output, from those of the inputs.
        gradient_shapes: shapes of what the backward kernel returns, from those of its inputs; None: it has none.
        gradients: how many that are.
        variant: tells operations apart that share their kernels and differ in their bprop.
    """

    def decorate(make_bprop: MakeBprop) -> ops.Custom:
        backward = None if gradient_shapes is None else _kernel(f"{name}_backward", gradient_shapes, gradients)
        bprop = make_bprop(backward)  # its arguments are the operation's, then out and dout: MindSpore counts them
        bprop.__name__ = f"{name}{variant}_bprop"  # MindSpore tells gradients apart by name
        return _kernel(f"{name}_forward", shape, bprop=bprop)

    return decorate


@ops.constexpr
def _attributes(*values: int) -> Tensor:
    return Tensor(np.array(values, np.int32))


@ops.constexpr
def _float_attributes(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32))


@ops.constexpr
def _activation_code(activation: str) -> int:
    return {"none": 0, "leaky_relu": 1, "relu": 3, "gelu": 4}[activation]


# Shapes that several operations have


def _like_first(first: Shape, *_: Shape) -> Shape:
    return first


def _like_first_two(first: Shape, second: Shape, *_: Shape) -> tuple[Shape, ...]:
    return first, second


def _like_first_three(first: Shape, second: Shape, third: Shape, *_: Shape) -> tuple[Shape, ...]:
    return first, second, third


def _like_first_five(*inputs: Shape) -> tuple[Shape, ...]:
    return inputs[:5]


def _dense_shape(x: Shape, weight: Shape, *_: Shape) -> Shape:
    return [*x[:-1], weight[0]]


# Dense layers: attributes are activation, has bias, has residual


@custom_op("linear", _dense_shape, _like_first_three, gradients=3)
def _linear(backward: ops.Custom) -> Callable:
    def bprop(x, weight, bias, residual, attributes, out, dout):
        dx, dweight, dbias = backward(x, weight, bias, dout, attributes)
        return dx, dweight, dbias, ops.zeros_like(residual), ops.zeros_like(attributes)

    return bprop


@custom_op("linear", _dense_shape, _like_first_three, gradients=3, variant="_residual")
def _linear_residual(backward: ops.Custom) -> Callable:
    def bprop(x, weight, bias, residual, attributes, out, dout):
        dx, dweight, dbias = backward(x, weight, bias, dout, attributes)
        return dx, dweight, dbias, dout, ops.zeros_like(attributes)

    return bprop


def linear_kernel(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """See `layers.linear`."""
    if x.dtype != ms.float32:
        return layers.linear(x, weight, bias, activation, residual)
    if residual is None:
        return _linear(x, weight, bias, _ABSENT, _attributes(_activation_code(activation), 1, 0))
    return _linear_residual(x, weight, bias, residual, _attributes(_activation_code(activation), 1, 1))


def _norm_linear_shape(x: Shape, gamma: Shape, beta: Shape, weight: Shape, *_: Shape) -> Shape:
    return [*x[:-1], weight[0]]


@custom_op("norm_linear", _norm_linear_shape, _like_first_five, gradients=5)
def _norm_linear(backward: ops.Custom) -> Callable:
    def bprop(x, gamma, beta, weight, bias, attributes, out, dout):
        dx, dgamma, dbeta, dweight, dbias = backward(x, gamma, beta, weight, bias, dout, attributes)
        return dx, dgamma, dbeta, dweight, dbias, ops.zeros_like(attributes)

    return bprop


def norm_linear_kernel(
    x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, activation: str = "none"
) -> Tensor:
    """See `layers.norm_linear`."""
    if x.dtype != ms.float32:
        return layers.norm_linear(x, gamma, beta, weight, bias, activation)
    return _norm_linear(x, gamma, beta, weight, bias, _attributes(_activation_code(activation), 1))


def _mlp_gradient_shapes(x: Shape, gamma: Shape, beta: Shape, w1: Shape, b1: Shape, w2: Shape, dy: Shape) -> tuple:
    return x, gamma, beta, w1, b1, w2, beta


@custom_op("mlp", _like_first, _mlp_gradient_shapes, gradients=7)
def _mlp(backward: ops.Custom) -> Callable:
    def bprop(x, gamma, beta, w1, b1, w2, b2, out, dout):
        return backward(x, gamma, beta, w1, b1, w2, dout)

    return bprop


def mlp_kernel(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """See `layers.mlp`."""
    if x.dtype != ms.float32:
        return layers.mlp(x, gamma, beta, w1, b1, w2, b2)
    if gamma is None:
        return linear_kernel(linear_kernel(x, w1, b1, "gelu"), w2, b2, "none", x)
    return _mlp(x, gamma, beta, w1, b1, w2, b2)


def _layer_norm_gradient_shapes(x: Shape, gamma: Shape, dy: Shape) -> tuple[Shape, ...]:
    return x, gamma, gamma


@custom_op("layer_norm", _like_first, _layer_norm_gradient_shapes, gradients=3)
def _layer_norm(backward: ops.Custom) -> Callable:
    def bprop(x, gamma, beta, out, dout):
        return backward(x, gamma, dout)

    return bprop


def layer_norm_kernel(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """See `layers.layer_norm`."""
    if x.dtype != ms.float32:
        return layers.layer_norm(x, gamma, beta)
    return _layer_norm(x, gamma, beta)


# Convolution: attributes are activation, has bias (for the gradient: needs dx, which lies in the same place), has residual


def _conv2d_gradient_shapes(x: Shape, weight: Shape, *_: Shape) -> tuple:
    return x, weight, [weight[0]]


@custom_op("conv2d", _dense_shape, _conv2d_gradient_shapes, gradients=3)
def _conv2d(backward: ops.Custom) -> Callable:
    def bprop(x, weight, bias, residual, attributes, out, dout):
        dx, dweight, dbias = backward(x, weight, out, dout, attributes)
        return dx, dweight, dbias, ops.zeros_like(residual), ops.zeros_like(attributes)

    return bprop


@custom_op("conv2d", _dense_shape, _conv2d_gradient_shapes, gradients=3, variant="_residual")
def _conv2d_residual(backward: ops.Custom) -> Callable:
    def bprop(x, weight, bias, residual, attributes, out, dout):
        dx, dweight, dbias = backward(x, weight, dout, dout, attributes)  # no activation: its output is not needed
        return dx, dweight, dbias, dout, ops.zeros_like(attributes)

    return bprop


def conv2d_kernel(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """See `layers.conv2d`."""
    if x.dtype != ms.float32 or activation == "gelu":
        return layers.conv2d(x, weight, bias, activation, residual)
    if weight.shape[-2:] == (1, 1):
        return linear_kernel(x, weight.reshape(weight.shape[0], weight.shape[1]), bias, activation, residual)
    if residual is None:
        return _conv2d(x, weight, bias, _ABSENT, _attributes(_activation_code(activation), 1, 0))
    if activation == "none":
        return _conv2d_residual(x, weight, bias, residual, _attributes(0, 1, 1))
    # the gradient needs the output of the activation, without the residual
    return _conv2d(x, weight, bias, _ABSENT, _attributes(_activation_code(activation), 1, 0)) + residual


# Attention


def _window_attention_shape(qkv: Shape, *_: Shape) -> Shape:
    return [*qkv[:-1], qkv[-1] // 3]


@custom_op("window_attention", _window_attention_shape, _like_first_three, gradients=3)
def _window_attention(backward: ops.Custom) -> Callable:
    def bprop(qkv, pad, bias, attributes, out, dout):
        dqkv, dpad, dbias = backward(qkv, pad, bias, dout, attributes)
        return dqkv, dpad, dbias, ops.zeros_like(attributes)

    return bprop


def window_attention_kernel(
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
        return _window_attention(qkv, pad, _ABSENT, _attributes(heads, *window, *shift, 0))
    return _window_attention(qkv, pad, bias, _attributes(heads, *window, *shift, 1))


@custom_op("neighborhood_attention", _like_first, _like_first_two, gradients=2)
def _neighborhood_attention(backward: ops.Custom) -> Callable:
    def bprop(query, key_value, attributes, out, dout):
        dquery, dkey_value = backward(query, key_value, dout, attributes)
        return dquery, dkey_value, ops.zeros_like(attributes)

    return bprop


def neighborhood_attention_kernel(query: Tensor, key_value: Tensor, heads: int, kernel: tuple[int, int]) -> Tensor:
    """See `attention.neighborhood_attention`."""
    if query.dtype != ms.float32:
        return attention.neighborhood_attention(query, key_value, heads, kernel)
    return _neighborhood_attention(query, key_value, _attributes(heads, *kernel))


@custom_op("deformable_attention", _like_first, _like_first_three, gradients=3)
def _deformable_attention(backward: ops.Custom) -> Callable:
    def bprop(query, key_value, offset, attributes, out, dout):
        dquery, dkey_value, doffset = backward(query, key_value, offset, dout, attributes)
        return dquery, dkey_value, doffset, ops.zeros_like(attributes)

    return bprop


def deformable_attention_kernel(
    query: Tensor, key_value: Tensor, offset: Tensor, heads: int, kernel: tuple[int, int]
) -> Tensor:
    """See `attention.deformable_attention`."""
    if query.dtype != ms.float32 or offset.dtype != ms.float32:
        return attention.deformable_attention(query, key_value, offset, heads, kernel)
    return _deformable_attention(query, key_value, offset, _attributes(heads, *kernel))


# Sampling and rearranging


@custom_op("warp", _like_first, _like_first_two, gradients=2)
def _warp(backward: ops.Custom) -> Callable:
    def bprop(x, flow, attributes, out, dout):
        dx, dflow = backward(x, flow, dout, attributes)
        return dx, dflow, ops.zeros_like(attributes)

    return bprop


def warp_kernel(x: Tensor, flow: Tensor, border: bool = False) -> Tensor:
    """See `sampling.warp`."""
    if x.dtype != ms.float32 or flow.dtype != ms.float32:
        return sampling.warp(x, flow, border)
    return _warp(x, flow, _attributes(int(border)))


def _fuse_frames_shape(frame: Shape, *_: Shape) -> Shape:
    return [*frame[:-1], fusion.FUSED_CHANNELS]


@custom_op("fuse_frames", _fuse_frames_shape)
def _fuse_frames(_: None) -> Callable:
    def bprop(frame, neighbors, flows, out, dout):
        return ops.zeros_like(frame), ops.zeros_like(neighbors), ops.zeros_like(flows)

    return bprop


def fuse_frames_kernel(frame: Tensor, neighbors: Tensor, flows: Tensor) -> Tensor:
    """See `fusion.fuse_frames`."""
    if frame.dtype != ms.float32:
        return fusion.fuse_frames(frame, neighbors, flows)
    return _fuse_frames(frame, neighbors, flows)


def _flow_shape(reference: Shape, *_: Shape) -> Shape:
    return [*reference[:-1], 2]


@custom_op("lucas_kanade", _flow_shape)
def _lucas_kanade(_: None) -> Callable:
    def bprop(reference, neighbor, attributes, out, dout):
        return ops.zeros_like(reference), ops.zeros_like(neighbor), ops.zeros_like(attributes)

    return bprop


def lucas_kanade_kernel(reference: Tensor, neighbor: Tensor) -> Tensor:
    """See `lucas_kanade.lucas_kanade`."""
    if reference.dtype != ms.float32:
        return lucas_kanade_definition(reference, neighbor)
    return _lucas_kanade(reference, neighbor, _attributes(FLOW_LEVELS, FLOW_ITERATIONS))


def _make_pixel_shuffle(factor: int) -> ops.Custom:
    """The operation for one factor: its output's shape cannot follow from a tensor of numbers."""

    def shape(x: Shape, attributes: Shape) -> Shape:
        return [x[0], x[1] * factor, x[2] * factor, x[3] // factor**2]

    def gradient_shape(y: Shape, dy: Shape, attributes: Shape) -> Shape:
        return [y[0], y[1] // factor, y[2] // factor, y[3] * factor**2]

    @custom_op("pixel_shuffle", shape, gradient_shape, variant=f"_{factor}")
    def shuffle(backward: ops.Custom) -> Callable:
        def bprop(x, attributes, out, dout):
            return backward(out, dout, attributes), ops.zeros_like(attributes)

        return bprop

    return shuffle


_PIXEL_SHUFFLES = {factor: _make_pixel_shuffle(factor) for factor in (2, 4)}


def pixel_shuffle_kernel(x: Tensor, factor: int, activation: str = "none") -> Tensor:
    """See `layers.pixel_shuffle`."""
    if x.dtype != ms.float32 or factor not in _PIXEL_SHUFFLES or activation == "gelu":
        return layers.pixel_shuffle(x, factor, activation)
    attributes = _attributes(factor, _activation_code(activation))
    return _PIXEL_SHUFFLES[factor](x, attributes)


def _reverse_time_bprop(x, out, dout):
    return (_reverse_time_gradient(dout),)


_reverse_time_gradient = _kernel("reverse_time", _like_first)  # its own inverse
_reverse_time = _kernel("reverse_time", _like_first, bprop=_reverse_time_bprop)


def reverse_time_kernel(x: Tensor) -> Tensor:
    """See `layers.reverse_time`."""
    return _reverse_time(x) if x.dtype == ms.float32 else layers.reverse_time(x)


def _like_second(first: Shape, second: Shape) -> Shape:
    return second


def _add_upsampled_bprop(small, x, out, dout):
    return layers.upsampled_gradient(dout, small.shape[1], small.shape[2]), dout


_add_upsampled = _kernel("add_bilinear", _like_second, bprop=_add_upsampled_bprop)


def add_upsampled_kernel(x: Tensor, small: Tensor) -> Tensor:
    """See `layers.add_upsampled`."""
    if x.dtype != ms.float32:
        return layers.add_upsampled(x, small)
    return _add_upsampled(small, x)


# Loss


def _scalar_shape(*_: Shape) -> Shape:
    return [1]  # graph mode takes [] for a Python number


@custom_op("charbonnier", _scalar_shape, _like_first)
def _charbonnier(backward: ops.Custom) -> Callable:
    def bprop(x, y, attributes, out, dout):
        dx = backward(x, y, attributes, dout)
        return dx, -dx, ops.zeros_like(attributes)

    return bprop


def charbonnier_kernel(x: Tensor, y: Tensor, epsilon2: float = 1e-9) -> Tensor:
    """See `layers.charbonnier`."""
    if x.dtype != ms.float32 or y.dtype != ms.float32:
        return layers.charbonnier(x, y, epsilon2)
    return _charbonnier(x, y, _float_attributes(epsilon2)).reshape(())


CPU_KERNELS: dict[str, Callable] = {
    "add_upsampled": add_upsampled_kernel,
    "charbonnier": charbonnier_kernel,
    "conv2d": conv2d_kernel,
    "deformable_attention": deformable_attention_kernel,
    "fuse_frames": fuse_frames_kernel,
    "layer_norm": layer_norm_kernel,
    "linear": linear_kernel,
    "lucas_kanade": lucas_kanade_kernel,
    "mlp": mlp_kernel,
    "neighborhood_attention": neighborhood_attention_kernel,
    "norm_linear": norm_linear_kernel,
    "pixel_shuffle": pixel_shuffle_kernel,
    "reverse_time": reverse_time_kernel,
    "warp": warp_kernel,
    "window_attention": window_attention_kernel,
}
