# SPDX-License-Identifier: Apache-2.0
"""PyTorch checkpoints, zip (since 1.6) and legacy format, as NumPy arrays; without PyTorch, executing nothing.

Checkpoints are untrusted input. Every size that a file claims is checked against its bytes before anything is allocated,
so reading needs memory for the file and its numbers, whatever it claims.
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
from rvrt_cli.weights.safe_pickle import StorageToken, TensorToken, read_pickle, sanitize

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PARALLEL_PREFIX = "module."
_STATE_DICT_KEYS = ("params_ema", "params", "state_dict")  # nested by training code; averaged weights are preferred
_MAX_CHECKPOINT_BYTES = 1 << 30  # published: 45 MB; three times that with a training state
_MAX_AXES = 8
_MAX_EXPANSION = 4  # bytes of all tensors over bytes of the file; shared storages count every time

_StorageReader = Callable[[StorageToken], np.ndarray]  # the elements of a storage, (length,)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors by name, and its file's SHA-256. bfloat16 is read as float32; arrays may share memory."""

    arrays: dict[str, np.ndarray]
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the named tensors of a PyTorch checkpoint.

    The tensors are the outermost dict, or the one that it holds under "params_ema", "params" or "state_dict". The prefix
    "module." that PyTorch's DataParallel puts before all names is removed.

    Raises:
        WeightsError: no such file, not a checkpoint, damaged, or naming anything but tensors.
    """
    data = _read_bytes(path)
    if data[:4] == b"PK\x03\x04":
        content, read_storage = _read_zip_format(data, path)
    elif data[:1] == b"\x80":
        content, read_storage = _read_legacy_format(data, path)
    else:
        raise WeightsError(f"{path}: not a PyTorch checkpoint; {_guess_format(data)}")
    tensors = _named_tensors(content, path)
    arrays = {name: _view(tensor, read_storage, f"{path}: {sanitize(name)}") for name, tensor in tensors.items()}
    if sum(array.nbytes for array in arrays.values()) > _MAX_EXPANSION * len(data):
        raise WeightsError(f"{path}: claims tensors many times as large as the file; damaged or malicious")
    return Checkpoint(arrays, hashlib.sha256(data).hexdigest())


def _read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: not a regular file; give a .pth file")
    try:
        if path.stat().st_size > _MAX_CHECKPOINT_BYTES:
            raise WeightsError(f"{path}: larger than 1 GiB, which no RVRT checkpoint is; give a .pth file of weights")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); check its name and permissions"
        ) from None


def _guess_format(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if not data:
        return "the file is empty; download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; download the file itself"
    if data[8:9] == b"{":
        return "it looks like safetensors, which needs no conversion: give it with --weights"
    return "give a .pth file"


# What zipfile raises for damaged bytes. RuntimeError: encrypted; NotImplementedError: unknown compression.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError, EOFError),
    *(OSError, struct.error, zlib.error, OverflowError, MemoryError, IndexError),
)


def _read_zip_format(data: bytes, path: Path) -> tuple[object, _StorageReader]:
    """The unpickled index of a zip checkpoint, and a reader of its storages."""
    archive = _ZipArchive(data, path)
    byteorder = archive.read("byteorder") if "byteorder" in archive else b"little"
    if byteorder.strip() != b"little":
        raise WeightsError(f"{path}: saved on a big-endian machine; save it again on a little-endian one")
    return read_pickle(io.BytesIO(archive.read("data.pkl")), path), archive.storage


class _ZipArchive:
    """The entries of a zip checkpoint, uncompressed, and no more bytes in total than the file has."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            indices = [name for name in self._zip.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        except _ZIP_ERRORS as error:
            raise WeightsError(f"{path}: a damaged or truncated zip ({sanitize(error)}); download it again") from None
        if len(indices) != 1:
            raise WeightsError(
                f"{path}: a zip, but not a PyTorch checkpoint: it has {len(indices)} data.pkl instead of one; "
                "give a .pth file"
            )
        self._folder = indices[0].removesuffix("data.pkl")
        self._bytes_left = len(data)  # entries may overlap, so that their sizes have to be added up
        self._storages: dict[str, tuple[StorageToken, np.ndarray]] = {}

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._zip.namelist()

    def read(self, name: str) -> bytes:
        """The bytes of an entry."""
        where = f"{self._path}: {sanitize(self._folder + name)}"
        try:
            info = self._zip.getinfo(self._folder + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > self._bytes_left:
                raise WeightsError(f"{where} is compressed or claims more bytes than there are; download it again")
            self._bytes_left -= info.file_size
            content = self._zip.read(info)
        except KeyError:
            raise WeightsError(f"{where}: no entry of this name; incomplete, download it again") from None
        except _ZIP_ERRORS as error:
            raise WeightsError(f"{where} is damaged ({sanitize(error)}); download it again") from None
        if len(content) != info.file_size:
            raise WeightsError(f"{where} is truncated; download it again")
        return content

    def storage(self, storage: StorageToken) -> np.ndarray:
        """The elements of a storage, decoded once."""
        if storage.key not in self._storages:
            elements = _decode_storage(self.read(f"data/{storage.key}"), storage, self._path)
            self._storages[storage.key] = storage, elements
        claimed, elements = self._storages[storage.key]
        if claimed != storage:
            raise WeightsError(
                f"{self._path}: two tensors disagree about storage {sanitize(storage.key)}; damaged, download it again"
            )
        return elements


def _read_legacy_format(data: bytes, path: Path) -> tuple[object, _StorageReader]:
    """The unpickled index of a legacy checkpoint, and a reader of its storages.

    Five pickles: magic number, protocol, facts about the machine, the object, the keys of the storages. Then, for each
    key, the number of elements (int64) and the elements.
    """
    stream = io.BytesIO(data)
    if read_pickle(stream, path) != _LEGACY_MAGIC or read_pickle(stream, path) != _LEGACY_PROTOCOL:
        raise WeightsError(f"{path}: a pickle, but not a PyTorch checkpoint; give a .pth file of weights")
    machine, content, keys = (read_pickle(stream, path) for _ in range(3))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError(f"{path}: saved on a big-endian machine; save it again on a little-endian one")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise WeightsError(f"{path}: its list of storages is damaged; download it again")
    referenced = _referenced_storages(content)
    found: dict[StorageToken, np.ndarray] = {}
    for key in keys:
        if key not in referenced:
            raise WeightsError(f"{path}: holds a storage that no tensor uses; damaged, download it again")
        storage = referenced[key]
        count = stream.read(8)
        size = storage.length * _file_dtype(storage).itemsize
        if len(count) < 8 or int.from_bytes(count, "little") != storage.length or size > len(data) - stream.tell():
            raise WeightsError(f"{path}: storage {sanitize(key)} is truncated or of another size; download it again")
        found[storage] = _decode_storage(stream.read(size), storage, path)
    if stream.tell() != len(data):
        raise WeightsError(f"{path}: has trailing bytes; damaged, download it again")

    def read_storage(storage: StorageToken) -> np.ndarray:
        if storage not in found:
            raise WeightsError(f"{path}: has no storage {sanitize(storage.key)}; incomplete, download it again")
        return found[storage]

    return content, read_storage


def _referenced_storages(content: object) -> dict[str, StorageToken]:
    """Every storage in the unpickled content, by key; objects that occur repeatedly are visited once."""
    found: dict[str, StorageToken] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, StorageToken):
            found[part.key] = part
        elif isinstance(part, (dict, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, dict) else part)
    return found


def _file_dtype(storage: StorageToken) -> np.dtype:
    """Type of the elements as they are stored in the file."""
    return np.dtype("uint16" if storage.dtype == "bfloat16" else storage.dtype).newbyteorder("<")


def _decode_storage(content: bytes, storage: StorageToken, path: Path) -> np.ndarray:
    """The elements of a storage, (length,)."""
    if len(content) != storage.length * _file_dtype(storage).itemsize:
        raise WeightsError(
            f"{path}: storage {sanitize(storage.key)} claims {storage.length} {storage.dtype}, has {len(content)} bytes; "
            "damaged, download it again"
        )
    elements = np.frombuffer(content, _file_dtype(storage))
    if storage.dtype == "bfloat16":  # the upper half of a float32
        return (elements.astype("<u4") << 16).view("<f4")
    return elements


def _named_tensors(content: object, path: Path) -> dict[str, TensorToken]:
    for key in _STATE_DICT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: no dict of named tensors; give a checkpoint of the network's state_dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, TensorToken):
            raise WeightsError(
                f"{path}: entry {sanitize(name)} is not a tensor; give a checkpoint of the network's state_dict alone"
            )
    prefix = _PARALLEL_PREFIX if all(name.startswith(_PARALLEL_PREFIX) for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _view(tensor: TensorToken, read_storage: _StorageReader, where: str) -> np.ndarray:
    """The array of a tensor: a read-only view of its storage, without a copy."""
    offset, shape, strides = tensor[1:]
    counts = (offset, *shape, *strides) if type(shape) is tuple and type(strides) is tuple else (None,)
    if any(type(count) is not int or count < 0 for count in counts) or len(shape) != len(strides):
        raise WeightsError(f"{where}: its shape or strides are not whole numbers; damaged, download it again")
    if len(shape) > _MAX_AXES or 0 in shape:
        raise WeightsError(f"{where}: is empty or has more than {_MAX_AXES} axes, unlike any weight of an RVRT network")
    elements = read_storage(tensor.storage)
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if last >= elements.size or math.prod(shape) > elements.size:
        raise WeightsError(
            f"{where}: reaches beyond its storage of {elements.size} elements; damaged, download it again"
        )
    steps = [stride * elements.itemsize if count > 1 else 0 for count, stride in zip(shape, strides, strict=True)]
    return as_strided(elements[offset:], shape, steps, writeable=False)
