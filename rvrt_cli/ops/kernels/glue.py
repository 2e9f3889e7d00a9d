# SPDX-License-Identifier: Apache-2.0
"""The kernels of a device as MindSpore ops with gradients, and the table of them: `FUSED_OPS`.

Every `*_kernel` function has the signature, shapes and errors of its definition in `rvrt_cli.ops`. Kernels take float32, on
a GPU float16 too; for other dtypes and rare arguments the definition runs. The CPU's and the GPU's kernels have the same
names, inputs and outputs, which the `*.cc` files of the CPU describe. Import this module after the device was selected.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops import attention, frame_fusion, layers, lucas_kanade_flow, sampling
from rvrt_cli.ops.kernels import amx_in_use, library
from rvrt_cli.ops.parameter_passing import gradients_wanted

_ON_GPU = ms.get_context("device_target") == "GPU"
_SYMBOL_PREFIX = "cuda_" if _ON_GPU else ""
# Channels of the widest attention head; cuda/launch_attention.cc refuses wider ones. The CPU has no limit.
_WIDEST_HEAD = 32 if _ON_GPU else 1 << 30
# In place of an optional tensor, which has the type of the others
_NO_TENSOR = Tensor(np.zeros(1, np.float32))
_NO_INDEX = Tensor(np.zeros(1, np.int32))
_NO_HALF_TENSOR = Tensor(np.zeros(1, np.float16))
_ACTIVATIONS = {"none": 0, "leaky_relu": 1, "relu": 3, "gelu": 4}
_serial = itertools.count()


def custom_op(
    name: str,
    inputs: str,
    output_shape: Callable,
    gradient: str | Callable = "",
    gradient_shapes: Callable | None = None,
    outputs: int = 1,
) -> ops.Custom:
    """The C symbol `{name}_forward` as a MindSpore op with a gradient.

    Args:
        name: prefix of the C symbols.
        inputs: names of the inputs, for example "x flow attributes".
        output_shape: shape of the output from the shapes of the inputs. A named function: graph mode cannot parse a lambda.
        gradient: inputs and outputs of `{name}_backward`, for example "x flow dout attributes -> dx dflow". It may read the
            op's inputs, its output `out` and the gradient of that, `dout`; "dresidual=dout" names an input whose gradient is
            `dout` itself. Inputs that are not listed get zeros. Or a function: MindSpore's `bprop` of the op.
        gradient_shapes: shapes of the outputs of `{name}_backward` from those of its inputs; by default `dx` is like `x`.
        outputs: how many; `output_shape` returns a tuple of their shapes if there are several.
    """
    bprop = gradient if callable(gradient) else _bprop(name, inputs.split(), gradient, gradient_shapes)
    # MindSpore identifies a gradient by its function's name in PyNative mode, and by the attributes of the op in graph mode:
    # there it would take the gradient of another op with the same symbol.
    bprop.__name__ = f"{name}_bprop_{next(_serial)}"
    types = _types_of_first(outputs)
    op = ops.Custom(_symbol(f"{name}_forward"), output_shape, types, func_type="aot", bprop=bprop)
    op.add_prim_attr("gradient", bprop.__name__)
    return op


def _symbol(name: str) -> str:
    return f"{library()}:{_SYMBOL_PREFIX}{name}"


def _type_of_first(first, *others):
    return first


def _types_of_first(outputs: int) -> Callable:
    def types_of_first(first, *others):
        return (first,) * outputs

    return _type_of_first if outputs == 1 else types_of_first


def _backward_kernel(name: str, output_shapes: Callable, outputs: int = 1) -> ops.Custom:
    return ops.Custom(_symbol(name), output_shapes, _types_of_first(outputs), func_type="aot")


def _read_and_made(gradient: str) -> tuple[list[str], list[str], set[str]]:
    """What a gradient kernel reads and makes, and which gradients are `dout` itself: see `custom_op`."""
    read, _, made = (part.split() for part in gradient.partition(" -> "))
    passed_on = {item.removesuffix("=dout") for item in made if item.endswith("=dout")}
    return read, [item for item in made if "=" not in item], passed_on


def _gradient_kernel(name: str, gradient: str, gradient_shapes: Callable | None = None) -> ops.Custom:
    """The C symbol `{name}_backward`; the arguments are those of `custom_op`."""
    read, made, _ = _read_and_made(gradient)

    def like_inputs(*shapes: Sequence[int]) -> Any:
        chosen = tuple(shapes[read.index(item.removeprefix("d"))] for item in made)
        return chosen if len(chosen) > 1 else chosen[0]

    return _backward_kernel(f"{name}_backward", gradient_shapes or like_inputs, len(made))


def _bprop(name: str, inputs: list[str], gradient: str, gradient_shapes: Callable | None) -> Callable:
    """The `bprop` that `custom_op` describes."""
    read, made, passed_on = _read_and_made(gradient)
    known = [*inputs, "out", "dout"]
    reads = tuple(known.index(item) for item in read)
    backward = _gradient_kernel(name, gradient, gradient_shapes) if made else None
    zeros, is_dout = -1, -2
    places = [is_dout if f"d{item}" in passed_on else zeros for item in inputs]
    for place, item in enumerate(made):
        places[inputs.index(item.removeprefix("d"))] = place
    sources = tuple(places)  # of each input's gradient: a place in `made`, or one of the two above

    # Graph mode compiles this function: its loops run over constants, and it cannot unpack into a tuple.
    def gradients(values: tuple) -> tuple:
        found: Any = ()
        if backward is not None:
            found = backward(*[values[i] for i in reads])
            if len(made) == 1:
                found = (found,)
        results: Any = ()
        for i in range(len(sources)):
            if sources[i] == zeros:
                results = results + (ops.zeros_like(values[i]),)  # noqa: RUF005
            elif sources[i] == is_dout:
                results = results + (values[-1],)  # noqa: RUF005
            else:
                results = results + (found[sources[i]],)  # noqa: RUF005
        return results

    return _of_arity(gradients, len(inputs))


def _of_arity(gradients: Callable, inputs: int) -> Callable:
    """`gradients` as a `bprop` with `inputs` parameters, `out` and `dout`: MindSpore counts them, and takes no `*values`."""

    def of_1(a, out, dout):
        return gradients((a, out, dout))

    def of_2(a, b, out, dout):
        return gradients((a, b, out, dout))

    def of_3(a, b, c, out, dout):
        return gradients((a, b, c, out, dout))

    def of_4(a, b, c, d, out, dout):
        return gradients((a, b, c, d, out, dout))

    def of_5(a, b, c, d, e, out, dout):
        return gradients((a, b, c, d, e, out, dout))

    def of_6(a, b, c, d, e, f, out, dout):
        return gradients((a, b, c, d, e, f, out, dout))

    def of_7(a, b, c, d, e, f, g, out, dout):
        return gradients((a, b, c, d, e, f, g, out, dout))

    def of_8(a, b, c, d, e, f, g, h, out, dout):
        return gradients((a, b, c, d, e, f, g, h, out, dout))

    def of_9(a, b, c, d, e, f, g, h, i, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, out, dout))

    by_inputs: dict[int, Callable] = {
        1: of_1,
        2: of_2,
        3: of_3,
        4: of_4,
        5: of_5,
        6: of_6,
        7: of_7,
        8: of_8,
        9: of_9,
    }
    return by_inputs[inputs] if inputs in by_inputs else _of_large_arity(gradients, inputs)


def _of_large_arity(gradients: Callable, inputs: int) -> Callable:
    """`_of_arity` of ten and more."""

    def of_10(a, b, c, d, e, f, g, h, i, j, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, j, out, dout))

    def of_14(a, b, c, d, e, f, g, h, i, j, k, m, n, o, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, j, k, m, n, o, out, dout))

    def of_16(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, out, dout))

    def of_18(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s, out, dout))

    def of_19(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s, t, out, dout):
        return gradients((a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s, t, out, dout))

    def of_21(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, out, dout):  # noqa: E741
        return gradients((a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, out, dout))

    by_inputs: dict[int, Callable] = {10: of_10, 14: of_14, 16: of_16, 18: of_18, 19: of_19, 21: of_21}
    return by_inputs[inputs]


@ops.constexpr
def _attributes(*values: int) -> Tensor:
    """Numbers that a kernel takes as its last input; on a GPU, which is not read from here, as the shape of an empty one."""
    return Tensor(np.zeros((0, *values), np.int8)) if _ON_GPU else Tensor(np.array(values, np.int32))


@ops.constexpr
def _float_constant(value: float) -> Tensor:
    return Tensor(np.array([value], np.float32))


@ops.constexpr
def _activation_code(activation: str) -> int:
    return _ACTIVATIONS[activation]


def _cpu_op(name: str, inputs: str, output_shape: Callable, gradient: Callable, outputs: int = 1) -> Any:
    """`custom_op`, or None on a GPU, which has no such kernel: graph mode wants the name even where it calls nothing."""
    return None if _ON_GPU else custom_op(name, inputs, output_shape, gradient, outputs=outputs)


@ops.constexpr
def _gradients_wanted() -> bool:
    return gradients_wanted()


def _like_first(first, *others):
    return first


def _has_kernel(x: Tensor) -> bool:
    return x.dtype == ms.float32 or (_ON_GPU and x.dtype == ms.float16)


def _no_tensor(x: Tensor) -> Tensor:
    return _NO_HALF_TENSOR if x.dtype == ms.float16 else _NO_TENSOR


# --- dense layers and convolution; attributes: activation, has_bias, has_residual


def _dense_shape(x, weight, bias, residual, attributes):
    return [*x[:-1], weight[0]]


def _norm_linear_shape(x, gamma, beta, weight, bias, attributes):
    return [*x[:-1], weight[0]]


def _conv2d_gradient_shapes(x, weight, out, dout, attributes):
    return x, weight, [weight[0]]


def _layer_norm_gradient_shapes(x, gamma, dout):
    return x, gamma, gamma


def _mlp_gradient_shapes(x, gamma, beta, w1, b1, w2, dout):
    return x, gamma, beta, w1, b1, w2, beta


_DENSE_INPUTS = "x weight bias residual attributes"
_DENSE_GRADIENT = "x weight bias dout attributes -> dx dweight dbias"
_NORM_LINEAR_GRADIENT = "x gamma beta weight bias dout attributes -> dx dgamma dbeta dweight dbias"
_MLP_GRADIENT = "x gamma beta w1 b1 w2 dout -> dx dgamma dbeta dw1 db1 dw2 db2"
_CONV_GRADIENT = "x weight out dout attributes -> dx dweight dbias"
_linear = custom_op("linear", _DENSE_INPUTS, _dense_shape, _DENSE_GRADIENT)
_linear_residual = custom_op("linear", _DENSE_INPUTS, _dense_shape, f"{_DENSE_GRADIENT} dresidual=dout")
_norm_linear = custom_op(
    "norm_linear",
    "x gamma beta weight bias attributes",
    _norm_linear_shape,
    _NORM_LINEAR_GRADIENT,
)
_mlp = custom_op(
    "mlp",
    "x gamma beta w1 b1 w2 b2",
    _like_first,
    _MLP_GRADIENT,
    _mlp_gradient_shapes,
)
_layer_norm = custom_op(
    "layer_norm",
    "x gamma beta",
    _like_first,
    "x gamma dout -> dx dgamma dbeta",
    _layer_norm_gradient_shapes,
)
# In the backward kernel `needs_dx` takes the place of `has_bias`.
_conv2d = custom_op("conv2d", _DENSE_INPUTS, _dense_shape, _CONV_GRADIENT, _conv2d_gradient_shapes)
_conv2d_residual = custom_op(
    "conv2d",
    _DENSE_INPUTS,
    _dense_shape,
    "x weight dout dout attributes -> dx dweight dbias dresidual=dout",  # without activation `out` is not read
    _conv2d_gradient_shapes,
)


_dense_gradients = _gradient_kernel("linear", _DENSE_GRADIENT)


def _linear_pair_shape(x, x_w, x_b, y, y_w, y_b):
    return [*x[:-1], x_w[0] + y_w[0]]


def _linear_pair_gradients(values: tuple) -> tuple:
    x, x_w, x_b, y, y_w, y_b, _, dout = values
    plain = _attributes(0, 1, 0)
    of_x, of_y = ops.split(dout, (x_w.shape[0], y_w.shape[0]), -1)
    dx, dx_w, dx_b = _dense_gradients(x, x_w, x_b, of_x, plain)
    dy, dy_w, dy_b = _dense_gradients(y, y_w, y_b, of_y, plain)
    return dx, dx_w, dx_b, dy, dy_w, dy_b


def _project_mlp_shape(x, proj_w, proj_b, w1, b1, w2, b2):
    return [*x[:-1], proj_w[0]]


def _project_mlp_gradients(values: tuple) -> tuple:
    x, proj_w, proj_b, w1, b1, w2, b2, _, dout = values
    plain, gelu = _attributes(0, 1, 0), _attributes(_activation_code("gelu"), 1, 0)
    z = _linear(x, proj_w, proj_b, _NO_TENSOR, plain)
    hidden = _linear(z, w1, b1, _NO_TENSOR, gelu)
    dhidden, dw2, db2 = _dense_gradients(hidden, w2, b2, dout, plain)
    dz, dw1, db1 = _dense_gradients(z, w1, b1, dhidden, gelu)
    dx, dproj_w, dproj_b = _dense_gradients(x, proj_w, proj_b, dz + dout, plain)
    return dx, dproj_w, dproj_b, dw1, db1, dw2, db2


_linear_pair = _cpu_op("linear_pair", "x x_w x_b y y_w y_b", _linear_pair_shape, _of_arity(_linear_pair_gradients, 6))
_project_mlp = _cpu_op(
    "project_mlp", "x proj_w proj_b w1 b1 w2 b2", _project_mlp_shape, _of_arity(_project_mlp_gradients, 7)
)


def _weight_gradient_shapes(x, weight, out, dout, attributes):
    return [1], weight, [weight[0]]


_conv2d_weight_gradients = _gradient_kernel("conv2d", _CONV_GRADIENT, _weight_gradient_shapes)


def _onto_bprop(x, weight, bias, residual, attributes, out, dout):
    _, dweight, dbias = _conv2d_weight_gradients(x, weight, dout, dout, _attributes(0, 0, 1))
    return ops.zeros_like(x), dweight, dbias, dout, ops.zeros_like(attributes)


_conv2d_onto = custom_op("conv2d", _DENSE_INPUTS, _dense_shape, _onto_bprop)  # x is data, without a gradient


def _grouped_shape(x, weight, bias, attributes):
    return [*x[:-1], weight[0]]


def _strided_conv2d_op(stride: int) -> ops.Custom:
    """The shape of the output depends on the stride, which is no shape of an input: one op for each."""

    def shape(x, weight, bias, attributes):
        return [x[0], (x[1] + stride - 1) // stride, (x[2] + stride - 1) // stride, weight[0]]

    return custom_op("strided_conv2d", "x weight bias attributes", shape, _CONV_GRADIENT, _conv2d_gradient_shapes)


_strided_conv2d = {stride: _strided_conv2d_op(stride) for stride in (2, 3, 4)}
_grouped_conv2d = custom_op(
    "grouped_conv2d", "x weight bias attributes", _grouped_shape, _CONV_GRADIENT, _conv2d_gradient_shapes
)


def _side_by_side_op(name: str, sources: int) -> ops.Custom:
    """The dense layer or convolution of several tensors whose channels lie side by side."""

    def shape(first, *others):
        return [*first[:-1], others[sources - 1][0]]

    def gradient_shapes(*shapes):
        return *shapes[: sources + 1], [shapes[sources][0]]

    several = [f"x{i}" for i in range(sources)]
    read = [*several, "weight", "out" if name == "conv2d" else "bias", "dout", "attributes"]
    made = [f"d{item}" for item in [*several, "weight", "bias"]]
    inputs = [*several, "weight", "bias", "residual", "attributes"]
    return custom_op(name, " ".join(inputs), shape, f"{' '.join(read)} -> {' '.join(made)}", gradient_shapes)


_MOST_SOURCES = 1 if _ON_GPU else 5  # kMostSources of the kernels
_SIDE_BY_SIDE = {
    name: {sources: _side_by_side_op(name, sources) for sources in range(2, _MOST_SOURCES + 1)}
    for name in ("linear", "conv2d")
}


def linear_kernel(
    x: Tensor | tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """See `layers.linear`."""
    if isinstance(x, tuple) and residual is None and len(x) in _SIDE_BY_SIDE["linear"] and _has_kernel(x[0]):
        code = _attributes(_activation_code(activation), 1, 0)
        return _SIDE_BY_SIDE["linear"][len(x)](*x, weight, bias, _no_tensor(x[0]), code)
    x = layers.side_by_side(x)  # not in a call of this function: graph mode compiles it with the wrong parameters
    if not _has_kernel(x):
        return layers.linear(x, weight, bias, activation, residual)
    if residual is None:
        return _linear(x, weight, bias, _no_tensor(x), _attributes(_activation_code(activation), 1, 0))
    return _linear_residual(x, weight, bias, residual, _attributes(_activation_code(activation), 1, 1))


def norm_linear_kernel(
    x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, activation: str = "none"
) -> Tensor:
    """See `layers.norm_linear`."""
    if not _has_kernel(x):
        return layers.norm_linear(x, gamma, beta, weight, bias, activation)
    return _norm_linear(x, gamma, beta, weight, bias, _attributes(_activation_code(activation), 1))


def mlp_kernel(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """See `layers.mlp`."""
    if not _has_kernel(x):
        return layers.mlp(x, gamma, beta, w1, b1, w2, b2)
    if gamma is None:
        return linear_kernel(linear_kernel(x, w1, b1, "gelu"), w2, b2, "none", x)
    return _mlp(x, gamma, beta, w1, b1, w2, b2)


def linear_pair_kernel(x: Tensor, y: Tensor, x_w: Tensor, x_b: Tensor, y_w: Tensor, y_b: Tensor) -> Tensor:
    """See `layers.linear_pair`."""
    if _ON_GPU or not _has_kernel(x):
        return ops.concat((linear_kernel(x, x_w, x_b), linear_kernel(y, y_w, y_b)), -1)
    return _linear_pair(x, x_w, x_b, y, y_w, y_b)


def project_mlp_kernel(
    x: Tensor, proj_w: Tensor, proj_b: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """See `layers.project_mlp`. One kernel in inference; in training layers of their own, whose features are kept."""
    if _ON_GPU or not _has_kernel(x) or _gradients_wanted():
        return mlp_kernel(linear_kernel(x, proj_w, proj_b), None, None, w1, b1, w2, b2)
    return _project_mlp(x, proj_w, proj_b, w1, b1, w2, b2)


def layer_norm_kernel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `layers.layer_norm`."""
    if not _has_kernel(x):
        return layers.layer_norm(x, weight, bias)
    return _layer_norm(x, weight, bias)


def _channels(x: Tensor | tuple[Tensor, ...]) -> int:
    """Of `layers.side_by_side(x)`."""
    if not isinstance(x, tuple):
        return x.shape[-1]
    channels = 0
    for source in x:
        channels += source.shape[-1]
    return channels


def _strided_or_grouped(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str, residual: Tensor | None, stride: int
) -> Tensor:
    """`conv2d_kernel` of a convolution with a stride or groups; with both, or on a GPU, the definition runs."""
    grouped = weight.shape[1] != x.shape[-1]
    if _ON_GPU or x.dtype != ms.float32 or activation == "gelu" or (grouped and stride != 1) or stride > 4:
        return layers.conv2d(x, weight, bias, activation, residual, stride)
    code = _activation_code(activation)
    if grouped:
        y = _grouped_conv2d(x, weight, bias, _attributes(code))
    else:
        y = _strided_conv2d[stride](x, weight, bias, _attributes(code, stride))
    return y if residual is None else y + residual


def conv2d_kernel(
    x: Tensor | tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
    activation: str = "none",
    residual: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """See `layers.conv2d`."""
    if stride != 1 or weight.shape[1] != _channels(x):
        return _strided_or_grouped(layers.side_by_side(x), weight, bias, activation, residual, stride)
    if weight.shape[-2:] == (1, 1):
        return linear_kernel(x, weight.reshape(weight.shape[0], weight.shape[1]), bias, activation, residual)
    several = isinstance(x, tuple) and residual is None and activation != "gelu" and len(x) in _SIDE_BY_SIDE["conv2d"]
    if several and _has_kernel(x[0]):
        code = _attributes(_activation_code(activation), 1, 0)
        return _SIDE_BY_SIDE["conv2d"][len(x)](*x, weight, bias, _no_tensor(x[0]), code)
    x = layers.side_by_side(x)
    if not _has_kernel(x) or activation == "gelu":
        return layers.conv2d(x, weight, bias, activation, residual)
    if residual is None:
        return _conv2d(x, weight, bias, _no_tensor(x), _attributes(_activation_code(activation), 1, 0))
    if activation == "none":
        return _conv2d_residual(x, weight, bias, residual, _attributes(0, 1, 1))
    # The gradient reads the activation's output, which the sum with the residual would hide.
    return _conv2d(x, weight, bias, _no_tensor(x), _attributes(_activation_code(activation), 1, 0)) + residual


_convolve_onto_whole = layers.convolve_onto_of(conv2d_kernel)


def convolve_onto_kernel(x: Tensor, source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `layers.convolve_onto`. Zero weights for the other channels take a tenth of the time of MindSpore's slice."""
    others = source.shape[-1] - weight.shape[1]
    if others:
        if _gradients_wanted():
            weight = weight * 1.0  # MindSpore loses the gradient of a parameter that it concatenates
        zeros = ops.zeros((weight.shape[0], others, *weight.shape[2:]), weight.dtype)
        weight = ops.concat((weight, zeros), 1)
    if _ON_GPU or not _has_kernel(source) or x.shape[:-1] != source.shape[:-1] or weight.shape[-2:] == (1, 1):
        return _convolve_onto_whole(x, source, weight, bias)
    return _conv2d_onto(source, weight, bias, x, _attributes(0, 1, 1))  # clips as they are: a reshape copies them


# --- convolutions one after the other, in training: the gradient reads what the forward pass keeps of all layers


def _conv_chain_op(layers: int) -> ops.Custom:
    def shapes(x, *others):
        return x, [layers - 1, *x]

    def gradient_shapes(x, *others):
        found = [x]
        for i in range(layers):
            found += [others[i], [others[i][0]]]
        return tuple(found)

    backward = _backward_kernel("conv_chain_backward", gradient_shapes, 1 + 2 * layers)

    def gradients(values: tuple) -> tuple:
        out, dout, attributes = values[-2], values[-1], values[1 + 2 * layers]
        found = backward(values[0], *values[1 : 1 + 2 * layers : 2], out[0], out[1], dout[0], attributes)
        return found + (ops.zeros_like(attributes),)  # noqa: RUF005  graph mode cannot unpack into a tuple

    inputs = ["x", *[f"{kind}{i}" for i in range(layers) for kind in "wb"], "attributes"]
    return custom_op("conv_chain", " ".join(inputs), shapes, _of_arity(gradients, len(inputs)), outputs=2)


_chain_sequence = layers.conv_chain_of(conv2d_kernel)
_CHAIN_LAYERS = () if _ON_GPU else (2, 4, 6, 8)
_conv_chains = {layers: _conv_chain_op(layers) for layers in _CHAIN_LAYERS}


def _chain_suits(x: Tensor, weights: tuple[Tensor, ...]) -> bool:
    """Whether kernels have chains of these weights: 3x3, and as many channels everywhere."""
    if not _has_kernel(x):
        return False
    for weight in weights[::2]:
        if weight.shape[0] != x.shape[-1] or weight.shape[1] != x.shape[-1] or weight.shape[-2:] != (3, 3):
            return False
    return True


_BODY_LAYERS = range(1, 18)  # kMostLayers of the kernel
_FEWEST_HALF_CHANNELS = 16  # fewer fill no tile of operands


@ops.constexpr
def _body_suits(layer_count: int, channels: int) -> bool:
    """Whether the kernel runs, and is faster than Winograd's convolutions in float32."""
    if _ON_GPU or gradients_wanted() or not amx_in_use():
        return False
    return layer_count in _BODY_LAYERS and channels >= _FEWEST_HALF_CHANNELS


def _conv_body_op(sources: int, layer_count: int) -> ops.Custom:
    """The op, which has no gradient: products of bfloat16 operands are for inference."""
    last_bias = sources + 2 * layer_count - 1

    def shape(first, *others):
        return [*first[:-1], others[last_bias - 1][0]]

    return ops.Custom(_symbol("conv_body_forward"), shape, _type_of_first, func_type="aot")


_conv_body = ops.constexpr(functools.cache(_conv_body_op))


def conv_chain_kernel(x: Tensor, weights: tuple[Tensor, ...], residual: bool) -> Tensor:
    """See `layers.conv_chain`. Features between the layers are kept in training, whose gradient reads them."""
    layer_count = len(weights) // 2
    if _gradients_wanted() and layer_count in _conv_chains and _chain_suits(x, weights):
        return _conv_chains[layer_count](x, *weights, _attributes(int(residual)))[0]
    if not _body_suits(layer_count, x.shape[-1]) or not _chain_suits(x, weights):
        return _chain_sequence(x, weights, residual)
    return _conv_body(1, layer_count)(x, *weights, _float_constant(1.0), _attributes(1, 0, int(residual), 0))


_body_of_layers = layers.conv_body_of(conv2d_kernel, conv_chain_kernel)
# On a CPU, MindSpore's graphs copy what is reshaped.
_body_of_clips = layers.conv_body_of(conv2d_kernel, conv_chain_kernel, of_clips=True)


def conv_body_kernel(sources: tuple[Tensor, ...], weights: tuple[Tensor, ...], scale: float, onto: bool) -> Tensor:
    """See `layers.conv_body`. One kernel with bfloat16 operands, in inference on AMX; otherwise a sequence."""
    count, layer_count, first = len(sources), len(weights) // 2, weights[0]
    merges = first.shape[1] == _channels(sources) and first.shape[-2:] == (3, 3) and 1 < count <= _MOST_SOURCES
    if not merges or not _has_kernel(sources[0]):
        return _body_of_layers(sources, weights, scale, onto)
    if not _body_suits(layer_count, first.shape[0]):
        return _body_of_clips(sources, weights, scale, onto)
    numbers = _attributes(count, 1, 1, int(onto))
    return _conv_body(count, layer_count)(*sources, *weights, _float_constant(scale), numbers)


# --- attention and warping


def _window_shape(qkv, pad, bias, attributes):
    return [*qkv[:-1], qkv[-1] // 3]


_WINDOW_GRADIENT = "qkv pad bias dout attributes -> dqkv dpad dbias"
_window_attention = custom_op("window_attention", "qkv pad bias attributes", _window_shape, _WINDOW_GRADIENT)
_neighborhood_attention = custom_op(
    "neighborhood_attention",
    "query key_value attributes",
    _like_first,
    "query key_value dout attributes -> dquery dkey_value",
)
_DEFORMABLE_GRADIENT = "query key_value offset dout attributes -> dquery dkey_value doffset"
_deformable_attention = custom_op(
    "deformable_attention", "query key_value offset attributes", _like_first, _DEFORMABLE_GRADIENT
)


_WARP_GRADIENT = "x flow dout attributes -> dx dflow"
_warp = custom_op("warp", "x flow attributes", _like_first, _WARP_GRADIENT)


def window_attention_kernel(
    qkv: Tensor,
    pad: Tensor,
    bias: Tensor | None,
    heads: int,
    window: tuple[int, int, int],
    shift: tuple[int, int, int],
) -> Tensor:
    """See `attention.window_attention`."""
    if not _has_kernel(qkv) or qkv.shape[-1] // 3 // heads > _WIDEST_HEAD:
        return attention.window_attention(qkv, pad, bias, heads, window, shift)
    if bias is None:
        return _window_attention(qkv, pad, _no_tensor(qkv), _attributes(heads, *window, *shift, 0))
    return _window_attention(qkv, pad, bias, _attributes(heads, *window, *shift, 1))


def neighborhood_attention_kernel(query: Tensor, key_value: Tensor, heads: int, kernel: tuple[int, int]) -> Tensor:
    """See `attention.neighborhood_attention`."""
    if not _has_kernel(query) or query.shape[-1] // heads > _WIDEST_HEAD:
        return attention.neighborhood_attention(query, key_value, heads, kernel)
    return _neighborhood_attention(query, key_value, _attributes(heads, *kernel))


def deformable_attention_kernel(
    query: Tensor, key_value: Tensor, offset: Tensor, heads: int, kernel: tuple[int, int]
) -> Tensor:
    """See `attention.deformable_attention`."""
    if not _has_kernel(query) or offset.dtype != query.dtype or query.shape[-1] // heads > _WIDEST_HEAD:
        return attention.deformable_attention(query, key_value, offset, heads, kernel)
    return _deformable_attention(query, key_value, offset, _attributes(heads, *kernel))


def warp_kernel(x: Tensor, flow: Tensor, border: bool = False) -> Tensor:
    """See `sampling.warp`."""
    if not _has_kernel(x) or flow.dtype != x.dtype:
        return sampling.warp(x, flow, border)
    return _warp(x, flow, _attributes(int(border)))


# --- what surrounds the deformable attention; the CPU has kernels for it


def _warp_clip_shape(x, flows):
    return [*x[:-1], x[1] * (x[4] + 2)]


_warp_clip = custom_op("warp_clip", "x flows", _warp_clip_shape, "x flows dout -> dx dflows")
_warp_clip_sequence = sampling.warp_clip_of(warp_kernel)


def warp_clip_kernel(x: Tensor, flows: Tensor) -> Tensor:
    """See `sampling.warp_clip`."""
    if _ON_GPU or not _has_kernel(x) or flows.dtype != x.dtype:
        return _warp_clip_sequence(x, flows)
    return _warp_clip(x, flows)


def _guided_offsets_op(groups: int, points: int) -> ops.Custom:
    """The op for the sizes of one network: the shape of an op's output cannot depend on the values of a tensor."""

    def shapes(x, weight, bias, flows, max_offset, attributes):
        return [*x[:-1], flows[2], groups, points, 2], flows

    return custom_op(
        "guided_offsets", "x weight bias flows max_offset attributes", shapes, _guided_offsets_bprop, outputs=2
    )


_bound_gradients = _gradient_kernel(
    "guided_offsets", "raw flows max_offset doffset dcorrected attributes -> draw dflows"
)


def _guided_offsets_bprop(x, weight, bias, flows, max_offset, attributes, out, dout):
    raw = linear_kernel(x, weight, bias)
    draw, dflows = _bound_gradients(raw, flows, max_offset, dout[0], dout[1], attributes)
    dx, dweight, dbias = _dense_gradients(x, weight, bias, draw, _attributes(0, 1, 0))
    return dx, dweight, dbias, dflows, ops.zeros_like(max_offset), ops.zeros_like(attributes)


_guided_offsets = ops.constexpr(functools.cache(_guided_offsets_op))
_guided_offsets_sequence = attention.guided_offsets_of(linear_kernel)


def guided_offsets_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    flows: Tensor,
    sizes: tuple[int, int],
    max_offset: float,
) -> tuple[Tensor, Tensor]:
    """See `attention.guided_offsets`."""
    if _ON_GPU or not _has_kernel(x) or flows.dtype != x.dtype:
        return _guided_offsets_sequence(x, weight, bias, flows, sizes, max_offset)
    groups, points = sizes
    return _guided_offsets(groups, points)(
        x, weight, bias, flows, _float_constant(max_offset), _attributes(groups * points)
    )


_attend_at_offsets = attention.attend_at_offsets_of(
    linear_kernel, linear_pair_kernel, deformable_attention_kernel, project_mlp_kernel
)
_guided_sequence = attention.guided_attention_of(guided_offsets_kernel, _attend_at_offsets)


def _guided_attention_shapes(query, key, value, hidden, flows, max_offset, *layers_and_attributes):
    projection = layers_and_attributes[8]
    return [*query[:-1], projection[0]], flows


_GUIDED_INPUTS = (
    "query key value hidden flows max_offset last_w last_b q_w q_b k_w k_b v_w v_b proj_w proj_b w1 b1 w2 b2 attributes"
)


def _guided_training_shapes(query, key, value, hidden, flows, max_offset, *layers_and_attributes):
    last_w, q_w, proj_w, w1 = (layers_and_attributes[i] for i in (0, 2, 8, 10))
    kept = last_w[0] + 4 * q_w[0] + proj_w[0] + w1[0]
    return [*query[:-1], proj_w[0]], flows, [kept, *query[:-1]]


def _guided_gradient_shapes(query, key, value, hidden, flows, max_offset, *others):
    return (query, key, value, hidden, flows, *others[:14])


_guided_backward: Any = None if _ON_GPU else _backward_kernel("guided_training_backward", _guided_gradient_shapes, 19)


def _guided_gradients(inputs: tuple, kept: Tensor, dout: tuple) -> tuple:
    found = _guided_backward(*inputs[:20], kept, dout[0], dout[1], inputs[20])
    before, after = found[:5] + (ops.zeros_like(inputs[5]),), found[5:]  # noqa: RUF005  graph mode cannot unpack into a tuple
    return before + after + (ops.zeros_like(inputs[20]),)


def _guided_training_gradients(values: tuple) -> tuple:
    return _guided_gradients(values[:21], values[21][2], values[22])


_guided_training = _cpu_op(
    "guided_training", _GUIDED_INPUTS, _guided_training_shapes, _of_arity(_guided_training_gradients, 21), outputs=3
)


def _guided_attention_gradients(values: tuple) -> tuple:
    """Of the op for inference, which keeps nothing: its parts are computed again."""
    inputs = values[:21]
    return _guided_gradients(inputs, _guided_training(*inputs)[2], values[22])


_guided_attention = _cpu_op(
    "guided_attention", _GUIDED_INPUTS, _guided_attention_shapes, _of_arity(_guided_attention_gradients, 21), outputs=2
)


def guided_attention_kernel(
    features: tuple[Tensor, Tensor, Tensor, Tensor],
    flows: Tensor,
    weights: tuple[Tensor, ...],
    sizes: tuple[int, int, int],
    max_offset: float,
) -> tuple[Tensor, Tensor]:
    """See `attention.guided_attention`. One kernel; that of training keeps what its gradient reads."""
    heads, edge, groups = sizes
    shared = heads % (groups // 2) == 0  # heads share groups of offsets, not the other way round
    if _ON_GPU or not _has_kernel(flows) or features[0].dtype != flows.dtype or not shared:
        return _guided_sequence(features, flows, weights, sizes, max_offset)
    inputs = *features, flows, _float_constant(max_offset), *weights, _attributes(heads, edge, edge, groups)
    if _gradients_wanted():
        found = _guided_training(*inputs)
        return found[0], found[1]
    return _guided_attention(*inputs)


# --- the Swin layer: one kernel on the CPU, whose gradient runs those of its parts; a sequence of kernels on a GPU

_swin_sequence = attention.swin_layer_of(norm_linear_kernel, window_attention_kernel, linear_kernel, mlp_kernel)
_SWIN_INPUTS = (
    "x norm1_g norm1_b qkv_w qkv_b proj_w proj_b norm2_g norm2_b fc1_w fc1_b fc2_w fc2_b table index attributes"
)


_mlp_gradients = _gradient_kernel("mlp", _MLP_GRADIENT, _mlp_gradient_shapes)
_window_gradients = _gradient_kernel("window_attention", _WINDOW_GRADIENT)
_norm_linear_gradients = _gradient_kernel("norm_linear", _NORM_LINEAR_GRADIENT)


def _swin_gradients(values: tuple) -> tuple:
    """Gradients of the op's inputs from these, its output and the gradient of that; graph mode compiles it."""
    x, norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w = values[:12]
    table, index, attributes, dy = values[13], values[14], values[15], values[17]
    has_table = len(table.shape) == 2
    bias = attention.position_bias(table, index) if has_table else table
    plain = _attributes(_activation_code("none"), 1)
    residual = _attributes(_activation_code("none"), 1, 1)
    # Again, as far as it is needed: the layer keeps nothing but its input.
    qkv = _norm_linear(x, norm1_g, norm1_b, qkv_w, qkv_b, plain)
    attended = _window_attention(qkv, qkv_b, bias, attributes)
    z = _linear_residual(attended, proj_w, proj_b, x, residual)
    dz, dnorm2_g, dnorm2_b, dfc1_w, dfc1_b, dfc2_w, dfc2_b = _mlp_gradients(
        z, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, dy
    )
    dattended, dproj_w, dproj_b = _dense_gradients(attended, proj_w, proj_b, dz, residual)
    dqkv, dpad, dbias = _window_gradients(qkv, qkv_b, bias, dattended, attributes)
    dx, dnorm1_g, dnorm1_b, dqkv_w, dqkv_b = _norm_linear_gradients(x, norm1_g, norm1_b, qkv_w, qkv_b, dqkv, plain)
    dtable = attention.position_bias_gradient(dbias, index, table.shape[0]) if has_table else ops.zeros_like(table)
    first = dx + dz, dnorm1_g, dnorm1_b, dqkv_w, dqkv_b + dpad, dproj_w, dproj_b, dnorm2_g, dnorm2_b
    last = dfc1_w, dfc1_b, dfc2_w, dfc2_b, dtable, ops.zeros_like(index), ops.zeros_like(attributes)
    return first + last


_swin_layer = custom_op("swin_layer", _SWIN_INPUTS, _like_first, _of_arity(_swin_gradients, len(_SWIN_INPUTS.split())))


def _swin_arguments(x: Tensor, weights: tuple[Tensor, ...], heads: int, window: tuple, shifted: bool) -> tuple:
    """The op's inputs up to the table of position biases, and its index and attributes."""
    fitted, shift = attention.window_and_shift(x.shape[1:4], window, shifted)
    swin = weights[: attention.SWIN_WEIGHTS]
    table, index, has_table = _NO_TENSOR, _NO_INDEX, 0
    if len(weights) > attention.SWIN_WEIGHTS:
        table, index, has_table = weights[attention.SWIN_WEIGHTS], attention.position_index(window, fitted), 1
    return (x, *swin, table), index, _attributes(heads, *fitted, *shift, has_table)


def swin_layer_kernel(
    x: Tensor, weights: tuple[Tensor, ...], heads: int, window: tuple[int, int, int], shifted: bool
) -> Tensor:
    """See `attention.swin_layer`."""
    if _ON_GPU or not _has_kernel(x):
        return _swin_sequence(x, weights, heads, window, shifted)
    layer, index, attributes = _swin_arguments(x, weights, heads, window, shifted)
    return _swin_layer(*layer, index, attributes)


_SWIN_ONTO_INPUTS = _SWIN_INPUTS.replace("table", "table linear_w linear_b residual")


def _swin_onto_gradients(values: tuple) -> tuple:
    """Of the op for inference: its parts are computed again."""
    layer, linear_w, linear_b, rest, dy = values[:14], values[14], values[15], values[17:19], values[20]
    y = _swin_layer(*layer, *rest)
    code = _attributes(_activation_code("none"), 1, 1)
    dswin, dlinear_w, dlinear_b = _dense_gradients(y, linear_w, linear_b, dy, code)
    found = _swin_gradients((*layer, *rest, y, dswin))
    first, last = found[:14], (dlinear_w, dlinear_b, dy)
    return first + last + found[14:]


_swin_layer_onto = _cpu_op(
    "swin_layer_onto", _SWIN_ONTO_INPUTS, _like_first, _of_arity(_swin_onto_gradients, len(_SWIN_ONTO_INPUTS.split()))
)


def swin_layer_onto_kernel(
    x: Tensor,
    residual: Tensor,
    weights: tuple[Tensor, ...],
    linear_w: Tensor,
    linear_b: Tensor,
    heads: int,
    window: tuple[int, int, int],
    shifted: bool,
) -> Tensor:
    """See `attention.swin_layer_onto`. One kernel in inference; the gradient of two keeps what lies between them."""
    if _ON_GPU or not _has_kernel(x) or _gradients_wanted():
        return linear_kernel(
            swin_layer_kernel(x, weights, heads, window, shifted), linear_w, linear_b, "none", residual
        )
    layer, index, attributes = _swin_arguments(x, weights, heads, window, shifted)
    return _swin_layer_onto(*layer, linear_w, linear_b, residual, index, attributes)


# --- optical flow and frame fusion, which have no gradient


def _fusion_shape(frame, neighbors, flows, matches):
    return [*frame[:-1], frame_fusion.FUSED_CHANNELS]


def _flow_shape(reference, neighbor, attributes):
    return [*reference[:-1], 2], reference[:-1]


_fuse_frames = custom_op("fuse_frames", "frame neighbors flows matches", _fusion_shape)
_FLOW_SIZES = lucas_kanade_flow.PYRAMID_LEVELS, lucas_kanade_flow.ITERATIONS_PER_LEVEL
_lucas_kanade = custom_op("lucas_kanade", "reference neighbor attributes", _flow_shape, outputs=2)


def fuse_frames_kernel(frame: Tensor, neighbors: Tensor, flows: Tensor, matches: Tensor) -> Tensor:
    """See `frame_fusion.fuse_frames`."""
    if not _has_kernel(frame):
        return frame_fusion.fuse_frames(frame, neighbors, flows, matches)
    return _fuse_frames(frame, neighbors, flows, matches)


def lucas_kanade_kernel(reference: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
    """See `lucas_kanade_flow.lucas_kanade`."""
    if not _has_kernel(reference):
        return lucas_kanade_flow.lucas_kanade(reference, neighbor)
    return _lucas_kanade(reference, neighbor, _attributes(*_FLOW_SIZES))


def _fuse_clip_op(reach: int) -> ops.Custom:
    """The op for one reach: the shape of an op's output cannot depend on the values of a tensor."""

    def shape(frames, attributes):
        return [frames[0], frames[1] - 2 * reach, frames[2], frames[3], frame_fusion.FUSED_CHANNELS]

    return custom_op("fuse_clip", "frames attributes", shape)


_fuse_clip = ops.constexpr(functools.cache(_fuse_clip_op))
_fuse_clip_sequence = frame_fusion.fuse_clip_of(lucas_kanade_kernel, fuse_frames_kernel, layers.stack)


def fuse_clip_kernel(frames: Tensor, reach: int) -> Tensor:
    """See `frame_fusion.fuse_clip`."""
    if _ON_GPU or not _has_kernel(frames):
        return _fuse_clip_sequence(frames, reach)
    return _fuse_clip(reach)(frames, _attributes(*_FLOW_SIZES))


# --- rearrangements


def _pixel_shuffle_op(factor: int) -> ops.Custom:
    """The op for one factor: the shape of an op's output cannot depend on the values of a tensor."""

    def shape(x, attributes):
        return [x[0], x[1] * factor, x[2] * factor, x[3] // factor**2]

    def gradient_shape(out, dout, attributes):
        return [out[0], out[1] // factor, out[2] // factor, out[3] * factor**2]

    return custom_op("pixel_shuffle", "x attributes", shape, "out dout attributes -> dx", gradient_shape)


_PIXEL_SHUFFLES = {factor: _pixel_shuffle_op(factor) for factor in (2, 4)}
_reverse_back = _backward_kernel("reverse_time_forward", _like_first)  # reversal is its own gradient


def _reverse_time_bprop(x, out, dout):
    return (_reverse_back(dout),)


_reverse_time = custom_op("reverse_time", "x", _like_first, _reverse_time_bprop)


def _add_upsampled_shape(small, x):
    return x


def _add_upsampled_bprop(small, x, out, dout):
    return layers.upsampling_gradient(dout, small.shape[1], small.shape[2]), dout


_add_upsampled = custom_op("add_upsampled", "small x", _add_upsampled_shape, _add_upsampled_bprop)


def pixel_shuffle_kernel(x: Tensor, factor: int, activation: str = "none") -> Tensor:
    """See `layers.pixel_shuffle`."""
    if not _has_kernel(x) or factor not in _PIXEL_SHUFFLES or activation == "gelu":
        return layers.pixel_shuffle(x, factor, activation)
    return _PIXEL_SHUFFLES[factor](x, _attributes(factor, _activation_code(activation)))


def reverse_time_kernel(x: Tensor) -> Tensor:
    """See `layers.reverse_time`."""
    return _reverse_time(x) if _has_kernel(x) else layers.reverse_time(x)


def add_upsampled_kernel(x: Tensor, small: Tensor) -> Tensor:
    """See `layers.add_upsampled`."""
    if not _has_kernel(x):
        return layers.add_upsampled(x, small)
    return _add_upsampled(small, x)


# --- loss


def _charbonnier_shape(x, y, epsilon2):
    return [1]  # graph mode takes [] for a Python number


_charbonnier_backward = _backward_kernel("charbonnier_backward", _like_first)


def _charbonnier_bprop(x, y, epsilon2, out, dout):
    dx = _charbonnier_backward(x, y, epsilon2, dout)
    return dx, -dx, ops.zeros_like(epsilon2)


_charbonnier = custom_op("charbonnier", "x y epsilon2", _charbonnier_shape, _charbonnier_bprop)


def charbonnier_kernel(x: Tensor, y: Tensor, epsilon2: float = 1e-9) -> Tensor:
    """See `layers.charbonnier`."""
    if x.dtype != ms.float32 or y.dtype != ms.float32:
        return layers.charbonnier(x, y, epsilon2)
    return _charbonnier(x, y, _float_constant(epsilon2)).reshape(())


FUSED_OPS: dict[str, Callable] = {
    "add_upsampled": add_upsampled_kernel,
    "attend_at_offsets": _attend_at_offsets,
    "charbonnier": charbonnier_kernel,
    "conv2d": conv2d_kernel,
    "conv_body": conv_body_kernel,
    "conv_chain": conv_chain_kernel,
    "convolve_onto": convolve_onto_kernel,
    "deformable_attention": deformable_attention_kernel,
    "fuse_clip": fuse_clip_kernel,
    "fuse_frames": fuse_frames_kernel,
    "guided_attention": guided_attention_kernel,
    "guided_offsets": guided_offsets_kernel,
    "layer_norm": layer_norm_kernel,
    "linear": linear_kernel,
    "linear_pair": linear_pair_kernel,
    "lucas_kanade": lucas_kanade_kernel,
    "mlp": mlp_kernel,
    "neighborhood_attention": neighborhood_attention_kernel,
    "norm_linear": norm_linear_kernel,
    "pixel_shuffle": pixel_shuffle_kernel,
    "project_mlp": project_mlp_kernel,
    "reverse_time": reverse_time_kernel,
    "swin_layer": swin_layer_kernel,
    "swin_layer_onto": swin_layer_onto_kernel,
    "warp": warp_kernel,
    "warp_clip": warp_clip_kernel,
    "window_attention": window_attention_kernel,
}
