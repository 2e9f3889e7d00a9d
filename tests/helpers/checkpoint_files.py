# SPDX-License-Identifier: Apache-2.0
"""Write PyTorch checkpoints byte by byte, valid and malicious ones, without PyTorch."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rvrt_cli.errors import RvrtError

GOLDEN = Path(__file__).parents[1] / "golden"
STORAGE = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Name(NamedTuple):
    """GLOBAL: a name to import."""

    module: str
    name: str


class Call(NamedTuple):
    """REDUCE: a call of `function`, itself pickled like any other value."""

    function: Any
    arguments: tuple


class Persistent(NamedTuple):
    """BINPERSID: a persistent id."""

    claim: Any


class Raw(NamedTuple):
    """Literal opcodes."""

    code: bytes


ORDERED_DICT = Name("collections", "OrderedDict")


def encode(value: Any) -> bytes:
    """The opcodes (protocol 2) that push `value`."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return encode(value.function) + encode(value.arguments) + b"R"
    if isinstance(value, Persistent):
        return encode(value.claim) + b"Q"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        if 0 <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + struct.pack("<i", len(data)) + data
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(encode(key) + encode(part) for key, part in value.items()) + b"u"
    raise TypeError(type(value))


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def storage(key: str, dtype: str, count: int, legacy: bool = False) -> Persistent:
    claim = ("storage", Name("torch", STORAGE[dtype]), key, "cpu", count)
    return Persistent((*claim, None) if legacy else claim)


def tensor(place: Any, shape: tuple, strides: tuple | None = None, offset: int = 0) -> Call:
    """A tensor in the storage `place`, contiguous by default."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    arguments = (place, offset, shape, strides, False, Call(ORDERED_DICT, ()))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def zip_file(path: Path, content: Any, data: dict[str, bytes], **extra: bytes) -> Path:
    """A zip checkpoint with pickled `content`; `data` holds its storages by key."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content if isinstance(content, bytes) else pickled(content))
        archive.writestr("archive/byteorder", extra.get("byteorder", b"little"))
        for key, numbers in data.items():
            archive.writestr(f"archive/data/{key}", numbers)
        archive.writestr("archive/version", b"3\n")
    return path


def legacy_file(path: Path, content: Any, data: dict[str, tuple[int, bytes]]) -> Path:
    """A legacy checkpoint; `data` holds number of elements and bytes by key."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = io.BytesIO()
    for part in (MAGIC, 1001, machine, content, list(data)):
        out.write(part if isinstance(part, bytes) else pickled(part))
    for count, numbers in data.values():
        out.write(struct.pack("<q", count) + numbers)
    path.write_bytes(out.getvalue())
    return path


def checkpoint(path: Path, arrays: dict[str, np.ndarray], nested: str | None = "params") -> Path:
    """A valid zip checkpoint of `arrays`, with the version notes of a state_dict."""
    entries, data = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        key = str(number)
        entries[name] = tensor(storage(key, str(array.dtype), array.size), array.shape)
        data[key] = np.ascontiguousarray(array).tobytes()
    state = Raw(
        encode(Call(ORDERED_DICT, ())) + encode(entries)[1:] + encode({"_metadata": {"": {"version": 1}}}) + b"b"
    )
    return zip_file(path, {nested: state} if nested else state, data)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of the published x4 state dict, constants and index buffers included."""
    shapes = json.loads((GOLDEN / "checkpoint_parameters.json").read_text())
    return {name: tuple(shape) for name, shape in shapes.items()}


def position_index(frames: int, edge: int) -> np.ndarray:
    """The relative position index of a window as published, computed pair by pair."""
    places = [(t, y, x) for t in range(frames) for y in range(edge) for x in range(edge)]
    side = 2 * edge - 1
    rows = [
        [((t - s + frames - 1) * side + y - v + edge - 1) * side + x - u + edge - 1 for s, v, u in places]
        for t, y, x in places
    ]
    return np.array(rows, np.int64)


def published_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays with the published names and shapes, and the true constants, like a published file."""
    rng = np.random.default_rng(seed)
    indices = {64: position_index(1, 8), 128: position_index(2, 8)}
    arrays = {}
    for name, shape in published_shapes().items():
        if name.endswith("relative_position_index"):
            arrays[name] = indices[shape[0]]
        elif name in ("spynet.mean", "spynet.std"):
            values = (0.485, 0.456, 0.406) if name.endswith("mean") else (0.229, 0.224, 0.225)
            arrays[name] = np.array(values, np.float32).reshape(shape)
        else:
            arrays[name] = rng.standard_normal(shape, np.float32)
    return arrays


@contextmanager
def suppress_clear_errors() -> Iterator[None]:
    """Allow the project's own one-line errors, and nothing else."""
    try:
        yield
    except RvrtError as error:
        if not str(error).isprintable():
            raise AssertionError(f"unprintable message {error!s}") from error
