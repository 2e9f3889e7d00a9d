# SPDX-License-Identifier: Apache-2.0
"""An exported network without its weights, and how they are filled in: with neither MindSpore nor the onnx package.

The embedded network's graph is part of the package in this form, so that it runs where MindSpore does not; it serves all
weights of the same configuration.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rvrt_cli.errors import WeightsError

# Field numbers of ONNX's messages (onnx.proto), and its numbers of data types
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_DATA = 1, 2, 8, 9
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_DATA_TYPES = {"float32": 1, "float16": 10}


class WeightForm(NamedTuple):
    """How a graph wants a weight: "float32" or "float16", and its shape, which may be another one than in weights files."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphTemplate:
    """An ONNX model that lacks the values of its weights.

    Attributes:
        weights: by name, what is missing.
        model: the rest, as in a file.
    """

    weights: dict[str, WeightForm]
    model: bytes

    def fill(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
        """The complete ONNX file.

        Protocol buffers make that easy: what is appended to a message is merged into it.

        Args:
            arrays: the network's weights by name.
        """
        initializers = (_tensor(name, form, arrays[name]) for name, form in self.weights.items())
        graph = b"".join(_message(_GRAPH_INITIALIZER, tensor) for tensor in initializers)
        entries = (
            _message(_ENTRY_KEY, key.encode()) + _message(_ENTRY_VALUE, value.encode())
            for key, value in metadata.items()
        )
        return b"".join(
            [self.model, _message(_MODEL_GRAPH, graph), *(_message(_MODEL_METADATA, entry) for entry in entries)]
        )

    def to_file(self, path: Path, about: Mapping[str, object]) -> None:
        """Write a compressed file: a line of JSON with `about` and the weights' forms, then the model."""
        head = json.dumps({"about": about, "weights": self.weights}, sort_keys=True)
        path.write_bytes(lzma.compress(head.encode() + b"\n" + self.model, preset=9))

    @classmethod
    def from_file(cls, path: Path, about: Mapping[str, object]) -> GraphTemplate | None:
        """The template of a file that `to_file` has written for this `about`, or None if that was another one.

        Raises:
            WeightsError: the file is damaged.
        """
        try:
            head, _, model = lzma.decompress(path.read_bytes()).partition(b"\n")
            entries = json.loads(head)
            if entries["about"] != json.loads(json.dumps(about)):
                return None
            forms = {name: WeightForm(dtype, tuple(shape)) for name, (dtype, shape) in entries["weights"].items()}
        except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: damaged ({error}); install rvrt again") from None
        return cls(forms, model)


def _tensor(name: str, form: WeightForm, array: np.ndarray) -> bytes:
    """An ONNX tensor."""
    data = array.astype(np.dtype(form.dtype).newbyteorder("<")).reshape(form.shape).tobytes()
    parts = [_number(_TENSOR_DIMS, size) for size in form.shape]
    parts += [_number(_TENSOR_TYPE, _DATA_TYPES[form.dtype]), _message(_TENSOR_NAME, name.encode())]
    return b"".join([*parts, _message(_TENSOR_DATA, data)])


def _number(field: int, value: int) -> bytes:
    """A field that is a number ≥ 0."""
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    """A field that is a message, a text or bytes."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    *more, last = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in more), last])
