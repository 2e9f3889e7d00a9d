# SPDX-License-Identifier: Apache-2.0
"""The messages of an ONNX file (onnx.proto) as bytes, so that exporting needs no package beside NumPy.

Protocol buffers: a message is a sequence of fields, each a number that says which one and how it is encoded, then its content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

_INTEGER, _BYTES, _FLOAT = 0, 2, 5  # how a field is encoded
_MODEL_IR_VERSION, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 1, 2, 7, 8, 14
_OPSET_VERSION = 2
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_DESCRIPTION, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 10, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_KIND, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TYPE = 1, 20
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXT, _ATTRIBUTE_INTEGERS = 2, 3, 4, 8
_FLOAT_TYPE, _INTEGER_TYPE, _TEXT_TYPE, _INTEGERS_TYPE = 1, 2, 3, 7  # of an attribute
_TENSOR_SIZE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_DATA = 1, 2, 8, 9
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _ELEMENT_TYPE, _ELEMENT_SHAPE = 1, 2, 1, 1, 2
_SHAPE_AXIS, _AXIS_SIZE, _AXIS_NAME = 1, 1, 2
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


class DataType(IntEnum):
    """ONNX's numbers of data types; the names are NumPy's in upper case."""

    FLOAT32 = 1
    INT32 = 6
    INT64 = 7
    BOOL = 9
    FLOAT16 = 10


class Node(NamedTuple):
    """A call of an ONNX operator.

    Attributes:
        kind: the operator.
        inputs, outputs: names of values; "" is an optional input that is missing.
        attributes: numbers, texts and sequences of whole numbers.
        name: of the node, or "".
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str = ""


def model(graph: bytes, opset: int, ir_version: int) -> bytes:
    """A model, whose file may go on with `graph_part` and `metadata`: what is appended to a message is merged into it."""
    return b"".join(
        [
            _integer(_MODEL_IR_VERSION, ir_version),
            _string(_MODEL_PRODUCER, "rvrt"),
            graph_part(graph),
            _message(_MODEL_OPSET, _integer(_OPSET_VERSION, opset)),
        ]
    )


def graph_part(graph: bytes) -> bytes:
    """A graph, or what is merged into it, as a part of a model."""
    return _message(_MODEL_GRAPH, graph)


def metadata(entries: Mapping[str, str]) -> bytes:
    """Metadata as a part of a model."""
    pairs = (_string(_ENTRY_KEY, key) + _string(_ENTRY_VALUE, value) for key, value in entries.items())
    return b"".join(_message(_MODEL_METADATA, pair) for pair in pairs)


def graph(nodes: Iterable[Node], inputs: Iterable[bytes], outputs: Iterable[bytes], description: str) -> bytes:
    """Nodes in the order in which they run; inputs and outputs as `value` gives them."""
    return b"".join(
        [
            _string(_GRAPH_NAME, "rvrt"),
            _string(_GRAPH_DESCRIPTION, description),
            *(_message(_GRAPH_NODE, _node(node)) for node in nodes),
            *(_message(_GRAPH_INPUT, value) for value in inputs),
            *(_message(_GRAPH_OUTPUT, value) for value in outputs),
        ]
    )


def value(name: str, shape: Sequence[int | str]) -> bytes:
    """A float32 input or output; a dimension may have a name in place of a size."""
    axes = (_string(_AXIS_NAME, size) if isinstance(size, str) else _integer(_AXIS_SIZE, size) for size in shape)
    tensor = _message(_ELEMENT_SHAPE, b"".join(_message(_SHAPE_AXIS, axis) for axis in axes))
    tensor = _integer(_ELEMENT_TYPE, DataType.FLOAT32) + tensor
    return _string(_VALUE_NAME, name) + _message(_VALUE_TYPE, _message(_TYPE_TENSOR, tensor))


def constant(name: str, array: np.ndarray) -> bytes:
    """A constant as a part of a graph."""
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    sizes = b"".join(_integer(_TENSOR_SIZE, size) for size in array.shape)
    kind = _integer(_TENSOR_TYPE, DataType[array.dtype.name.upper()])
    return _message(
        _GRAPH_INITIALIZER, b"".join([sizes, kind, _string(_TENSOR_NAME, name), _message(_TENSOR_DATA, data)])
    )


def _node(node: Node) -> bytes:
    return b"".join(
        [
            *(_string(_NODE_INPUT, name) for name in node.inputs),
            *(_string(_NODE_OUTPUT, name) for name in node.outputs),
            _string(_NODE_NAME, node.name) if node.name else b"",
            _string(_NODE_KIND, node.kind),
            *(_message(_NODE_ATTRIBUTE, _attribute(*entry)) for entry in sorted(node.attributes.items())),
        ]
    )


def _attribute(name: str, content: Any) -> bytes:
    if isinstance(content, str):
        kind, field = _TEXT_TYPE, _string(_ATTRIBUTE_TEXT, content)
    elif isinstance(content, float):
        kind, field = _FLOAT_TYPE, _varint(_ATTRIBUTE_FLOAT << 3 | _FLOAT) + struct.pack("<f", content)
    elif isinstance(content, int):
        kind, field = _INTEGER_TYPE, _integer(_ATTRIBUTE_INTEGER, content)
    else:
        kind, field = _INTEGERS_TYPE, b"".join(_integer(_ATTRIBUTE_INTEGERS, number) for number in content)
    return _string(_ATTRIBUTE_NAME, name) + field + _integer(_ATTRIBUTE_TYPE, kind)


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3 | _INTEGER) + _varint(number)


def _string(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, content: bytes) -> bytes:
    """A field that is a message, a text or bytes."""
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow. Negative numbers have 64 bits."""
    if 0 <= number < 0x80:
        return bytes([number])
    number &= (1 << 64) - 1
    *more, last = [number >> shift & 0x7F for shift in range(0, number.bit_length(), 7)]
    return bytes([*(group | 0x80 for group in more), last])
