"""PyTorch checkpoints, zip (since 1.6) and legacy format, as NumPy arrays; without PyTorch, without running anything.

What a file claims about its sizes is checked against its bytes before anything is allocated: reading takes memory for
the file and its numbers, whatever is written in it.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rvrt_cli.errors import WeightsError
from rvrt_cli.weights.safe_pickle import Storage, Tensor, read_pickle, shown

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NESTED = ("params_ema", "params", "state_dict")  # where training codes put the weights; averaged ones are preferred
_MOST_BYTES = 1 << 30  # published: 45 MB; with a training state three times as much
_MOST_AXES = 8
_MOST_OVERLAP = 4  # bytes of all tensors over bytes of the file; shared weights are counted each time


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors by name, and its file's SHA-256. bfloat16 comes as float32; arrays may share memory."""

    arrays: dict[str, np.ndarray]
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the named tensors of a PyTorch checkpoint.

    The tensors are the file's outermost dict or what it holds under "params_ema", "params" or "state_dict".

    Raises:
        WeightsError: no such file, no checkpoint, damaged, or asking for anything but tensors.
    """
    data = _read(path)
    if data[:4] == b"PK\x03\x04":
        content, storages = _zip_content(data, path)
    elif data[:1] == b"\x80":
        content, storages = _legacy_content(data, path)
    else:
        raise WeightsError(f"{path}: no PyTorch checkpoint; {_looks_like(data)}")
    tensors = _named_tensors(content, path)
    arrays = {name: _view(tensor, storages, f"{path}: {shown(name)}") for name, tensor in tensors.items()}
    if sum(array.nbytes for array in arrays.values()) > _MOST_OVERLAP * len(data):
        raise WeightsError(f"{path}: claims tensors many times as large as itself; damaged or made to do harm")
    return Checkpoint(arrays, hashlib.sha256(data).hexdigest())


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: no file that could be read; give a .pth file")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise WeightsError(f"{path}: larger than 1 GiB, which no RVRT checkpoint is")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if not data:
        return "the file is empty; download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; download the file itself"
    if data[8:9] == b"{":
        return "it looks like safetensors, which needs no conversion: give it with --weights"
    return "give a .pth file"


def _zip_content(data: bytes, path: Path) -> tuple[object, Callable[[Storage], np.ndarray]]:
    """The unpickled index of a zip checkpoint, and what finds the numbers of a storage in it."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        indices = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    except _ZIP_ERRORS as error:
        raise WeightsError(f"{path}: a damaged or truncated zip ({shown(error)}); download it again") from None
    if len(indices) != 1:
        raise WeightsError(f"{path}: a zip, but no PyTorch checkpoint: it has {len(indices)} data.pkl instead of one")
    folder = indices[0].removesuffix("data.pkl")
    left = len(data)  # entries may overlap, so their sizes have to be added up

    def entry(name: str) -> bytes:
        nonlocal left
        try:
            info = archive.getinfo(folder + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > left:
                raise WeightsError(f"{path}: {shown(info.filename)} is compressed or claims more bytes than there are")
            left -= info.file_size
            content = archive.read(info)
        except KeyError:
            raise WeightsError(f"{path}: has no entry {shown(folder + name)}; incomplete, download it again") from None
        except _ZIP_ERRORS as error:
            raise WeightsError(
                f"{path}: {shown(folder + name)} is damaged ({shown(error)}); download it again"
            ) from None
        if len(content) != info.file_size:
            raise WeightsError(f"{path}: {shown(folder + name)} is cut short; download it again")
        return content

    if f"{folder}byteorder" in archive.namelist() and entry("byteorder").strip() != b"little":
        raise WeightsError(f"{path}: written on a big-endian machine; save it again on a common one")
    content = read_pickle(io.BytesIO(entry("data.pkl")), path)
    known: dict[str, tuple[Storage, np.ndarray]] = {}

    def numbers(storage: Storage) -> np.ndarray:
        if storage.key not in known:
            known[storage.key] = storage, _numbers(entry(f"data/{storage.key}"), storage, path)
        claimed, array = known[storage.key]
        if claimed != storage:
            raise WeightsError(f"{path}: two tensors disagree about storage {shown(storage.key)}; damaged")
        return array

    return content, numbers


# What zipfile raises for damaged bytes. RuntimeError: encrypted; NotImplementedError: unknown compression.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError, EOFError),
    *(OSError, struct.error, zlib.error, OverflowError, MemoryError, IndexError),
)


def _legacy_content(data: bytes, path: Path) -> tuple[object, Callable[[Storage], np.ndarray]]:
    """The index of a legacy checkpoint, and what finds the numbers of a storage in it.

    Five pickles: magic number, protocol, facts about the machine, the object, the keys of the storages. Then, for each
    key, its count of elements (int64) and the elements.
    """
    stream = io.BytesIO(data)
    if read_pickle(stream, path) != _LEGACY_MAGIC or read_pickle(stream, path) != _LEGACY_PROTOCOL:
        raise WeightsError(f"{path}: a pickle, but no PyTorch checkpoint; give a .pth file of weights")
    machine, content, keys = (read_pickle(stream, path) for _ in range(3))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError(f"{path}: written on a big-endian machine; save it again on a common one")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise WeightsError(f"{path}: its list of storages is damaged; download it again")
    wanted = _storages(content)
    found: dict[Storage, np.ndarray] = {}
    for key in keys:
        if key not in wanted:
            raise WeightsError(f"{path}: holds a storage that no tensor uses; damaged, download it again")
        storage = wanted[key]
        count = stream.read(8)
        size = storage.length * _dtype(storage).itemsize
        if len(count) < 8 or int.from_bytes(count, "little") != storage.length or size > len(data) - stream.tell():
            raise WeightsError(f"{path}: storage {shown(key)} is cut short or of another size; download it again")
        found[storage] = _numbers(stream.read(size), storage, path)
    if stream.tell() != len(data):
        raise WeightsError(f"{path}: has bytes behind its end; damaged, download it again")

    def numbers(storage: Storage) -> np.ndarray:
        if storage not in found:
            raise WeightsError(f"{path}: has no storage {shown(storage.key)}; incomplete, download it again")
        return found[storage]

    return content, numbers


def _storages(content: object) -> dict[str, Storage]:
    """Every storage that the unpickled content mentions, by key; a part that occurs often is visited once."""
    found: dict[str, Storage] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Storage):
            found[part.key] = part
        elif isinstance(part, (dict, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, dict) else part)
    return found


def _dtype(storage: Storage) -> np.dtype:
    """How the numbers of a storage lie in the file."""
    return np.dtype("uint16" if storage.dtype == "bfloat16" else storage.dtype).newbyteorder("<")


def _numbers(content: bytes, storage: Storage, path: Path) -> np.ndarray:
    """The elements of a storage, (count,)."""
    if len(content) != storage.length * _dtype(storage).itemsize:
        raise WeightsError(
            f"{path}: storage {shown(storage.key)} claims {storage.length} {storage.dtype}, has {len(content)} bytes; "
            "damaged, download it again"
        )
    numbers = np.frombuffer(content, _dtype(storage))
    if storage.dtype == "bfloat16":  # the upper half of a float32
        return (numbers.astype("<u4") << 16).view("<f4")
    return numbers


def _named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds no table of named tensors; give a checkpoint of the network's state_dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: entry {shown(name)} is no tensor; give a checkpoint of the network's state_dict alone"
            )
    return content


def _view(tensor: Tensor, numbers: Callable[[Storage], np.ndarray], where: str) -> np.ndarray:
    """The array that a tensor describes: a read-only view of its storage, nothing copied."""
    offset, shape, strides = tensor[1:]
    counts = (offset, *shape, *strides) if type(shape) is tuple and type(strides) is tuple else (None,)
    if any(type(count) is not int or count < 0 for count in counts) or len(shape) != len(strides):
        raise WeightsError(f"{where}: its shape or strides are no whole numbers; damaged, download it again")
    if len(shape) > _MOST_AXES or 0 in shape:
        raise WeightsError(f"{where}: is empty or has more than {_MOST_AXES} axes; no weight of an RVRT network")
    flat = numbers(tensor.storage)
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if last >= flat.size or math.prod(shape) > flat.size:
        raise WeightsError(f"{where}: reaches beyond its storage of {flat.size} numbers; damaged, download it again")
    steps = [stride * flat.itemsize if count > 1 else 0 for count, stride in zip(shape, strides, strict=True)]
    return as_strided(flat[offset:], shape, steps, writeable=False)
