# SPDX-License-Identifier: Apache-2.0
"""A tensor of a graph under construction, with as much of MindSpore's `Tensor` as the network's code uses.

N batch, T frames of a clip, H×W frame size [px], C channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np

from rvrt_cli.export.graph_builder import Dim, GraphBuilder, Size, SizeRatio, known, shape_name, size_name
from rvrt_cli.export.graph_template import WeightForm
from rvrt_cli.export.onnx_messages import DataType

_ONNX_TYPES = {ms.float32: DataType.FLOAT32, ms.float16: DataType.FLOAT16, ms.bool_: DataType.BOOL}
END = 2**62  # beyond the end of any axis
# Axes (N, T, H, W, C) → (N, T, C, H, W), and back; the same for (B, H, W, C). N is 1 throughout.
_TO_PLANES = {4: (0, 3, 1, 2), 5: (0, 1, 4, 2, 3)}
_FROM_PLANES = {4: (0, 2, 3, 1), 5: (0, 1, 3, 4, 2)}


class SymbolicTensor:
    """A value of the graph. The network's code calls it what it calls a `Tensor`.

    Convolution and sampling in ONNX want planes, (B, C, H, W); the network's features are channels-last. A tensor is kept in
    the layout in which it was made, and as the other one too once somebody has asked for that: chains of convolutions and
    elementwise operations need no transposes in between.

    Attributes:
        shape: channels-last, whatever the layout of the value.
        dtype: MindSpore's.
    """

    __array_priority__ = 1000  # NumPy scalars leave arithmetic to this class

    def __init__(
        self,
        graph: GraphBuilder,
        shape: Sequence[Size],
        dtype: Any,
        value: str | None = None,
        planes: str | None = None,
    ):
        self.graph, self.shape, self.dtype = graph, tuple(shape), dtype
        assert value or planes
        self._value, self._planes = value, planes

    @property
    def value(self) -> str:
        """Name of the value in the graph, channels-last."""
        if self._value is None:
            self._value = self.graph.node("Transpose", [str(self._planes)], perm=_FROM_PLANES[len(self.shape)])
        return self._value

    @property
    def planes(self) -> str:
        """Name of the value in the graph, with channels before rows and columns."""
        if self._planes is None:
            self._planes = self.graph.node("Transpose", [self.value], perm=_TO_PLANES[len(self.shape)])
        return self._planes

    @property
    def has_planes(self) -> bool:
        """Whether `planes` costs nothing."""
        return self._planes is not None

    def like(self, value: str | None = None, planes: str | None = None, shape: Sequence[Size] | None = None) -> Any:
        """Another tensor of this dtype and, by default, shape."""
        return SymbolicTensor(self.graph, self.shape if shape is None else shape, self.dtype, value, planes)

    # --- elementwise

    def map(self, kind: str, *more: str, **attributes: Any) -> SymbolicTensor:
        """Through an elementwise operator with further inputs that are scalars."""
        if self.has_planes:
            return self.like(planes=self.graph.node(kind, [self.planes, *more], **attributes))
        return self.like(self.graph.node(kind, [self.value, *more], **attributes))

    def combine(self, kind: str, other: Any) -> SymbolicTensor:
        """With another tensor, constant or number through an elementwise operator that broadcasts."""
        other = symbolic(self.graph, other, self.dtype)
        assert self.shape, "scalars come second"
        assert other.dtype == self.dtype, f"{kind} of {self.dtype} and {other.dtype}"
        shape = _broadcast(self.shape, other.shape)
        same_rank = len(self.shape) == len(other.shape)
        if all(one.has_planes or not one.shape for one in (self, other)) and (same_rank or not other.shape):
            names = [one.planes if one.shape else one.value for one in (self, other)]
            return self.like(planes=self.graph.node(kind, names), shape=shape)
        return self.like(self.graph.node(kind, [self.value, other.value]), shape=shape)

    def __add__(self, other: Any) -> SymbolicTensor:
        return self.combine("Add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> SymbolicTensor:
        return self.combine("Sub", other)

    def __mul__(self, other: Any) -> SymbolicTensor:
        return self.combine("Mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> SymbolicTensor:
        return self.combine("Div", other)

    def astype(self, dtype: Any) -> SymbolicTensor:
        """Cast to another dtype of MindSpore."""
        if dtype == self.dtype:
            return self
        cast = self.map("Cast", to=_ONNX_TYPES[dtype])
        cast.dtype = dtype
        return cast

    # --- shapes

    def reshape(self, *shape: Any) -> SymbolicTensor:
        """As MindSpore's; the sizes may be `Dim`s, and -1 once."""
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        wanted = _without_placeholder(self.shape, shape)
        if wanted == self.shape:
            return self
        planes = None
        if self.has_planes and _same_frames(self.shape, wanted):
            before, after = ([shape[i] for i in _TO_PLANES[len(shape)]] for shape in (self.shape, wanted))
            planes = _reshaped(self.graph, self.planes, before, after)
            if self._value is None:
                return self.like(planes=planes, shape=wanted)
        return self.like(_reshaped(self.graph, self.value, self.shape, wanted), planes, wanted)

    def expand_dims(self, axis: int) -> SymbolicTensor:
        """With a new axis of size 1."""
        axis = axis % (len(self.shape) + 1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def transpose(self, *order: int) -> SymbolicTensor:
        """With its axes in another order."""
        value = self.graph.node("Transpose", [self.value], perm=order)
        return self.like(value, shape=[self.shape[i] for i in order])

    def mean(self, axes: tuple[int, ...]) -> SymbolicTensor:
        """Mean over axes, which are gone afterwards."""
        shape = [size for i, size in enumerate(self.shape) if i not in axes]
        return self.like(self.graph.node("ReduceMean", [self.value], axes=axes, keepdims=0), shape=shape)

    def __getitem__(self, index: Any) -> SymbolicTensor:
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            missing = len(self.shape) - len(index) + 1
            index = (*index[:at], *[slice(None)] * missing, *index[at + 1 :])
        found, whole = self, 0
        for part in index:
            if isinstance(part, slice):
                found = found.narrow(whole, part)
                whole += 1
            else:
                shape = [size for axis, size in enumerate(found.shape) if axis != whole]
                found = found.narrow(whole, slice(part, part + 1 if part != -1 else None)).reshape(*shape)
        return found

    def narrow(self, axis: int, part: slice) -> SymbolicTensor:
        """A slice of one axis; the ends may be `Dim`s where the axis is one."""
        length = self.shape[axis]
        if part == slice(None):
            return self
        step = 1 if part.step is None else part.step
        start = 0 if part.start is None else part.start
        if isinstance(length, int):
            start, end, step = part.indices(length)
            size: Size = len(range(start, end, step))
            if (start, size, step) == (0, length, 1):
                return self
            stop: Size = -END if end < 0 else end
        else:
            stop, size = _dynamic_slice(length, start, part.stop, step)
        shape = [*self.shape[:axis], size, *self.shape[axis + 1 :]]
        ends = [size_name(self.graph, start), size_name(self.graph, stop)]

        def cut(name: str, at: int) -> str:
            return self.graph.node("Slice", [name, *ends, self.graph.integers(at), self.graph.integers(step)])

        if self._value is None:
            return self.like(planes=cut(self.planes, _FROM_PLANES[len(shape)][axis]), shape=shape)
        return self.like(cut(self.value, axis), shape=shape)


class SymbolicWeight(SymbolicTensor):
    """A weight of the network, by its name. It is stored in the shape and dtype in which it is used."""

    @property
    def value(self) -> str:
        """Its name, which is that of a constant from now on."""
        shape = tuple(known(size) for size in self.shape)
        return self.graph.weight(str(self._value), WeightForm(np.dtype(ms.dtype_to_nptype(self.dtype)).name, shape))

    def reshape(self, *shape: Any) -> SymbolicWeight:
        """As `SymbolicTensor.reshape`."""
        return SymbolicWeight(self.graph, _without_placeholder(self.shape, shape), self.dtype, self._value)

    def astype(self, dtype: Any) -> SymbolicWeight:
        """As `SymbolicTensor.astype`."""
        return SymbolicWeight(self.graph, self.shape, dtype, self._value)


def _dynamic_slice(length: Dim, start: Size, stop: Size | None, step: int) -> tuple[Size, Size]:
    """End and number of elements of a slice along an axis of unknown length; with a step, of even lengths only."""
    if step != 1:
        assert step == 2, "only every second element of an axis of unknown length"
        assert stop is None, "up to its end"
        return END, length // 2
    if stop is None:
        return END, length - start
    if isinstance(stop, int) and stop < 0:
        return stop, length + stop - start
    return stop, stop - start


def _reshaped(graph: GraphBuilder, name: str, shape: Sequence[Size], wanted: Sequence[Size]) -> str:
    """A value with another shape; where only axes of size 1 come or go, nothing needs to be computed."""
    if [size for size in shape if size != 1] == [size for size in wanted if size != 1]:
        ones = [i for i, size in enumerate(shape) if size == 1]
        added = [i for i, size in enumerate(wanted) if size == 1]
        if ones:
            name = graph.node("Squeeze", [name, graph.integers(*ones)])
        return graph.node("Unsqueeze", [name, graph.integers(*added)]) if added else name
    if sum(isinstance(size, Dim) for size in wanted) == 1:
        wanted = [-1 if isinstance(size, Dim) else size for size in wanted]
    return graph.node("Reshape", [name, shape_name(graph, wanted)])


def _without_placeholder(shape: Sequence[Size], wanted: Sequence[Any]) -> tuple[Size, ...]:
    """`wanted` with the size that -1 stands for."""
    places = [i for i, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    if not places:
        return tuple(wanted)
    rest = [size for i, size in enumerate(wanted) if i != places[0]]
    numbers = math.prod(size for size in shape if isinstance(size, int))
    others = math.prod(size for size in rest if isinstance(size, int))
    left = Counter(size for size in shape if isinstance(size, Dim))
    left.subtract(size for size in rest if isinstance(size, Dim))
    assert numbers % others == 0, f"{shape} cannot become {wanted}"
    assert min(left.values(), default=0) >= 0, f"{shape} cannot become {wanted}"
    placeholder: Size = numbers // others
    for size in left.elements():
        placeholder = size * placeholder
    return *wanted[: places[0]], placeholder, *wanted[places[0] + 1 :]


def _same_frames(shape: Sequence[Size], wanted: Sequence[Size]) -> bool:
    """Whether both shapes have the same rows, columns and channels: then planes stay planes."""
    return len(shape) in _TO_PLANES and len(wanted) in _TO_PLANES and tuple(shape[-3:]) == tuple(wanted[-3:])


def _broadcast(first: Sequence[Size], second: Sequence[Size]) -> tuple[Size, ...]:
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    padded = [*[1] * (len(longer) - len(shorter)), *shorter]
    sizes: list[Size] = []
    for one, other in zip(longer, padded, strict=True):
        assert one == other or 1 in (one, other), f"{first} and {second} do not broadcast"
        sizes.append(other if one == 1 else one)
    return tuple(sizes)


def to_array(value: Any, dtype: Any) -> np.ndarray:
    """A constant as an array; floating-point values in MindSpore's `dtype`."""
    array = value.asnumpy() if isinstance(value, ms.Tensor) else np.asarray(value)
    return array.astype(ms.dtype_to_nptype(dtype)) if array.dtype.kind == "f" or array.ndim == 0 else array


def symbolic(graph: GraphBuilder, value: Any, dtype: Any) -> SymbolicTensor:
    """A tensor of the graph: itself, or a constant."""
    if isinstance(value, SymbolicTensor):
        return value
    if isinstance(value, SizeRatio):
        return SymbolicTensor(graph, (), ms.float32, value.name).astype(dtype)
    array = to_array(value, dtype)
    return SymbolicTensor(graph, array.shape, dtype, graph.constant(array))


def concatenate(tensors: Sequence[SymbolicTensor], axis: int) -> SymbolicTensor:
    """Side by side along one axis."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    rank = len(first.shape)
    axis = axis % rank
    length: Size = sum((tensor.shape[axis] for tensor in tensors[1:]), first.shape[axis])
    shape = [*first.shape[:axis], length, *first.shape[axis + 1 :]]
    if rank in _TO_PLANES and sum(tensor.has_planes for tensor in tensors) * 2 > len(tensors):
        at = _FROM_PLANES[rank][axis]
        return first.like(planes=first.graph.node("Concat", [t.planes for t in tensors], axis=at), shape=shape)
    return first.like(first.graph.node("Concat", [t.value for t in tensors], axis=axis), shape=shape)
