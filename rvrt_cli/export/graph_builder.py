# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph under construction: nodes, constants, weights, and sizes that are known only when the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rvrt_cli.export import onnx_messages
from rvrt_cli.export.graph_template import GraphTemplate, WeightForm
from rvrt_cli.export.onnx_messages import DataType, Node

OPSET = 17  # the first with LayerNormalization; GridSample needs 16. Runtimes from 2022 on read it
_IR_VERSION = 8  # of ONNX files with this opset


class GraphBuilder:
    """Nodes in the order in which they run. A node that exists already is not made twice.

    The values of weights are no part of it: they are filled in when a file is written.
    """

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._constants: dict[tuple, tuple[str, np.ndarray]] = {}
        self._weights: dict[str, WeightForm] = {}
        self._known: dict[tuple, list[str]] = {}
        self._inputs: list[bytes] = []
        self._outputs: dict[str, bytes] = {}

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Name of the output of an ONNX operator, or a list of names if there are several."""
        key = (kind, tuple(inputs), outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            # Short names: a window has up to 25 000 nodes, and half of a small network's file would be names.
            number = f"{len(self._nodes):x}"
            names = [number] if outputs == 1 else [f"{number}.{i}" for i in range(outputs)]
            self._nodes.append(Node(kind, tuple(inputs), tuple(names), attributes))
            self._known[key] = names
        names = self._known[key]
        return names[0] if outputs == 1 else names

    def constant(self, array: np.ndarray) -> str:
        """Name of a constant; the same values are stored once."""
        array = np.asarray(array, order="C")  # `ascontiguousarray` would give a scalar an axis
        content = array.dtype.name, array.shape, array.tobytes()
        return self._constants.setdefault(content, (f"w{len(self._constants):x}", array))[0]

    def weight(self, name: str, form: WeightForm) -> str:
        """Name of a weight of the network: its own."""
        assert self._weights.setdefault(name, form) == form, f"{name} is used in two forms"
        return name

    def integers(self, *values: int) -> str:
        """Name of a constant (n,) int64: axes, sizes, indices."""
        return self.constant(np.array(values, np.int64))

    def add_input(self, name: str, shape: Sequence[int | str]) -> None:
        """A float32 input; a dimension may have a name in place of a size."""
        self._inputs.append(onnx_messages.value(name, shape))

    def add_output(self, name: str, value: str, shape: Sequence[int | str]) -> None:
        """Make the float32 value an output."""
        self._nodes.append(Node("Identity", (value,), (name,), {}, name))
        self._outputs[name] = onnx_messages.value(name, shape)

    def template(self, description: str) -> GraphTemplate:
        """The finished model, without nodes and constants that no output depends on."""
        nodes = self._needed_nodes()
        used = {name for node in nodes for name in node.inputs}
        graph = onnx_messages.graph(nodes, self._inputs, self._outputs.values(), description)
        constants = [onnx_messages.constant(*entry) for entry in self._constants.values() if entry[0] in used]
        forms = {name: form for name, form in self._weights.items() if name in used}
        return GraphTemplate(forms, onnx_messages.model(b"".join([graph, *constants]), OPSET, _IR_VERSION))

    def _needed_nodes(self) -> list[Node]:
        wanted = set(self._outputs)
        kept = []
        for node in reversed(self._nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        return kept[::-1]


class Dim:
    """A size along one axis that is known only when the model runs, and whole-number arithmetic with it.

    Attributes:
        name: of its value in the graph, (1,) int64.
        formula: how it is computed from the inputs' sizes. Equal formulas are equal sizes; different ones are taken for
            different sizes, so the network's shortcuts for special sizes are not part of the graph.
    """

    def __init__(self, graph: GraphBuilder, name: str, formula: str):
        self.graph, self.name, self.formula = graph, name, formula

    def __repr__(self) -> str:
        return self.formula

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and other.formula == self.formula

    def __hash__(self) -> int:
        return hash(self.formula)

    def _of(self, kind: str, sign: str, other: int | Dim, swapped: bool = False) -> Dim:
        """`self` and `other` through an ONNX operator."""
        names, formulas = [self.name, size_name(self.graph, other)], [self.formula, str(other)]
        if swapped:
            names, formulas = names[::-1], formulas[::-1]
        return Dim(self.graph, self.graph.node(kind, names), f"({sign.join(formulas)})")

    def __add__(self, other: int | Dim) -> Dim:
        return self if other == 0 else self._of("Add", "+", other)

    __radd__ = __add__

    def __sub__(self, other: int | Dim) -> Dim:
        return self if other == 0 else self._of("Sub", "-", other)

    def __rsub__(self, other: int | Dim) -> Dim:
        return self._of("Sub", "-", other, swapped=True)

    def __mul__(self, other: int | Dim) -> Dim:
        return self if other == 1 else self._of("Mul", "*", other)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __truediv__(self, other: Dim) -> SizeRatio:
        cast = [self.graph.node("Cast", [dim.name], to=DataType.FLOAT32) for dim in (self, other)]
        ratio = self.graph.node("Div", cast)
        return SizeRatio(self.graph.node("Squeeze", [ratio]))

    def __mod__(self, other: int | Dim) -> Dim:
        return self._of("Mod", "%", other)  # of whole numbers: with the sign of the divisor, as in Python

    def __floordiv__(self, other: int | Dim) -> Dim:
        if other == 1:
            return self
        return (self - self % other)._of("Div", "//", other)  # exact: ONNX's own rounds towards zero


@dataclass(frozen=True)
class SizeRatio:
    """Ratio of two sizes; `name` of its value in the graph, a scalar in float32."""

    name: str


Size = int | Dim


def known(size: Size) -> int:
    """A size that does not depend on the frame: of frames, channels, groups."""
    assert isinstance(size, int), f"{size} is known only when the model runs"
    return size


def size_name(graph: GraphBuilder, size: Size) -> str:
    """Name of a size as (1,) int64."""
    return size.name if isinstance(size, Dim) else graph.integers(size)


def shape_name(graph: GraphBuilder, shape: Sequence[Size]) -> str:
    """Name of a shape as (rank,) int64."""
    if all(isinstance(size, int) for size in shape):
        return graph.integers(*shape)  # type: ignore[arg-type]
    return graph.node("Concat", [size_name(graph, size) for size in shape], axis=0)
