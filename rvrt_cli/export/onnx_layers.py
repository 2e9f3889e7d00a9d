# SPDX-License-Identifier: Apache-2.0
"""Convolution, dense layers, LayerNorm, resizing and shapes as ONNX nodes; see `rvrt_cli.ops.layers` for what they compute.

T frames of a clip, B batch, H×W frame size [px], C channels. N is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np

from rvrt_cli.export.graph_builder import GraphBuilder, Size, known, shape_name
from rvrt_cli.export.symbolic_tensor import SymbolicTensor, SymbolicWeight, concatenate, symbolic, to_array
from rvrt_cli.ops.layers import LAYER_NORM_EPSILON, conv_body_of, conv_chain_of, convolve_onto_of

Features = SymbolicTensor | tuple[SymbolicTensor, ...]


class OnnxLayers:
    """Methods have the names and signatures of the functions of `rvrt_cli.ops`; a constant may be in a weight's place."""

    def __init__(self, graph: GraphBuilder):
        self.graph = graph

    # --- MindSpore's own

    def concat(self, tensors: Sequence[SymbolicTensor], axis: int = 0) -> SymbolicTensor:
        return concatenate(tensors, axis)

    def split(self, x: SymbolicTensor, size: int, axis: int) -> list[SymbolicTensor]:
        return [x.narrow(axis, slice(start, start + size)) for start in range(0, known(x.shape[axis]), size)]

    def tanh(self, x: SymbolicTensor) -> SymbolicTensor:
        return x.map("Tanh")

    def zeros(self, shape: Sequence[Size], dtype: Any) -> SymbolicTensor:
        one = SymbolicTensor(self.graph, [1] * len(shape), dtype, self._number(0, dtype, len(shape)))
        return one.like(self.graph.node("Expand", [one.value, shape_name(self.graph, shape)]), shape=shape)

    def zeros_like(self, x: SymbolicTensor) -> SymbolicTensor:
        return self.zeros(x.shape, x.dtype)

    def full_like(self, x: SymbolicTensor, value: float) -> SymbolicTensor:
        return self.zeros_like(x) + value

    # --- parameters

    def arguments(self, parameters: Sequence[Any]) -> list[SymbolicWeight]:
        return [SymbolicWeight(self.graph, one.shape, one.dtype, one.name) for one in parameters]

    # --- shapes

    def stack(self, tensors: Sequence[SymbolicTensor], axis: int) -> SymbolicTensor:
        return concatenate([tensor.expand_dims(axis) for tensor in tensors], axis)

    def roll(self, x: SymbolicTensor, shift: int, axis: int) -> SymbolicTensor:
        if shift == 0:
            return x
        return concatenate([x.narrow(axis, slice(shift, None)), x.narrow(axis, slice(0, shift))], axis)

    def reverse_time(self, x: SymbolicTensor) -> SymbolicTensor:
        return x if x.shape[1] == 1 else x.narrow(1, slice(None, None, -1))

    # --- layers

    def activate(self, x: SymbolicTensor, activation: str) -> SymbolicTensor:
        if activation == "relu":
            return x.map("Relu")
        if activation == "leaky_relu":
            return x.map("LeakyRelu", alpha=0.1)
        if activation == "gelu":
            return 0.5 * x * (1 + (x * 0.5**0.5).map("Erf"))  # Gelu itself came with opset 20; runtimes fuse this
        return x

    def conv2d(
        self,
        x: Features,
        weight: Any,
        bias: Any,
        activation: str = "none",
        residual: SymbolicTensor | None = None,
        groups: int = 1,
    ) -> SymbolicTensor:
        x = self._side_by_side(x)
        outputs, inputs, *_, height, width = weight.shape
        down, right = height // 2, width // 2
        constants = [self._weight(weight, x.dtype, outputs, inputs, height, width), self._weight(bias, x.dtype)]
        y = self.graph.node("Conv", [x.planes, *constants], pads=[down, right, down, right], group=groups)
        out = self.activate(x.like(planes=y, shape=[*x.shape[:3], outputs]), activation)
        return out if residual is None else residual + out

    def linear(
        self, x: Features, weight: Any, bias: Any, activation: str = "none", residual: SymbolicTensor | None = None
    ) -> SymbolicTensor:
        x = self._side_by_side(x)
        matrix = self.graph.node("Transpose", [self._weight(weight, x.dtype)], perm=(1, 0))  # runtimes do it once
        y = self.graph.node("MatMul", [x.value, matrix])
        y = self.graph.node("Add", [y, self._weight(bias, x.dtype)])
        out = self.activate(x.like(y, shape=[*x.shape[:-1], weight.shape[0]]), activation)
        return out if residual is None else residual + out

    def convolve_onto(self, x: SymbolicTensor, source: SymbolicTensor, weight: Any, bias: Any) -> SymbolicTensor:
        onto: SymbolicTensor = convolve_onto_of(self.conv2d)(x, source, weight, bias)
        return onto

    def conv_chain(self, x: SymbolicTensor, weights: tuple, residual: bool) -> SymbolicTensor:
        end: SymbolicTensor = conv_chain_of(self.conv2d)(x, weights, residual)
        return end

    def conv_body(self, sources: tuple, weights: tuple, scale: float, onto: bool) -> SymbolicTensor:
        end: SymbolicTensor = conv_body_of(self.conv2d, self.conv_chain)(sources, weights, scale, onto)
        return end

    def layer_norm(self, x: SymbolicTensor, weight: Any, bias: Any) -> SymbolicTensor:
        wide = x.astype(ms.float32)
        constants = [self._weight(one, ms.float32) for one in (weight, bias)]
        y = self.graph.node("LayerNormalization", [wide.value, *constants], axis=-1, epsilon=LAYER_NORM_EPSILON)
        return wide.like(y).astype(x.dtype)

    def norm_linear(
        self, x: SymbolicTensor, gamma: Any, beta: Any, weight: Any, bias: Any, activation: str = "none"
    ) -> SymbolicTensor:
        return self.linear(self.layer_norm(x, gamma, beta), weight, bias, activation)

    def mlp(self, x: SymbolicTensor, gamma: Any, beta: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> SymbolicTensor:
        y = x if gamma is None else self.layer_norm(x, gamma, beta)
        return self.linear(self.linear(y, w1, b1, "gelu"), w2, b2, "none", x)

    def linear_pair(
        self, x: SymbolicTensor, y: SymbolicTensor, x_w: Any, x_b: Any, y_w: Any, y_b: Any
    ) -> SymbolicTensor:
        return self._side_by_side((self.linear(x, x_w, x_b), self.linear(y, y_w, y_b)))

    def project_mlp(
        self, x: SymbolicTensor, proj_w: Any, proj_b: Any, w1: Any, b1: Any, w2: Any, b2: Any
    ) -> SymbolicTensor:
        return self.mlp(self.linear(x, proj_w, proj_b), None, None, w1, b1, w2, b2)

    # --- resizing

    def pixel_shuffle(self, x: SymbolicTensor, factor: int, activation: str = "none") -> SymbolicTensor:
        x = self.activate(x, activation)
        batch, height, width, channels = x.shape
        planes = self.graph.node("DepthToSpace", [x.planes], blocksize=factor, mode="CRD")
        return x.like(planes=planes, shape=[batch, height * factor, width * factor, channels // factor**2])

    def resize_bilinear(
        self, x: SymbolicTensor, height: Size, width: Size, align_corners: bool = False
    ) -> SymbolicTensor:
        batch, _, _, channels = x.shape
        sizes = shape_name(self.graph, (batch, channels, height, width))
        mode = "align_corners" if align_corners else "half_pixel"
        wide = x.astype(ms.float32)
        y = self.graph.node("Resize", [wide.planes, "", "", sizes], mode="linear", coordinate_transformation_mode=mode)
        return wide.like(planes=y, shape=[batch, height, width, channels]).astype(x.dtype)

    def halve(self, x: SymbolicTensor) -> SymbolicTensor:
        batch, height, width, channels = x.shape
        planes = self.graph.node("AveragePool", [x.planes], kernel_shape=[2, 2], strides=[2, 2])
        return x.like(planes=planes, shape=[batch, height // 2, width // 2, channels])

    def add_upsampled(self, x: SymbolicTensor, small: SymbolicTensor) -> SymbolicTensor:
        return x + self.resize_bilinear(small, x.shape[1], x.shape[2])

    def _weight(self, weight: Any, dtype: Any, *shape: int) -> str:
        """Name of a weight, in another shape if one is given."""
        if not isinstance(weight, SymbolicTensor):
            array = to_array(weight, dtype)
            weight = symbolic(self.graph, array.reshape(shape or array.shape), dtype)
        return weight.astype(dtype).reshape(*(shape or weight.shape)).value

    def _side_by_side(self, x: Features) -> SymbolicTensor:
        return concatenate(x, -1) if isinstance(x, tuple) else x

    def _number(self, value: float, dtype: Any, rank: int = 0) -> str:
        """Name of a constant of one element."""
        return self.graph.constant(np.full([1] * rank, value, ms.dtype_to_nptype(dtype)))
