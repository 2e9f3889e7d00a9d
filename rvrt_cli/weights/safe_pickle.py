# SPDX-License-Identifier: Apache-2.0
"""Read the pickle inside a PyTorch checkpoint without executing anything.

A pickle is a program for a small stack machine, and Python's own unpickler calls whatever the program names. This machine
supports only the instructions that a checkpoint of tensors needs, builds plain lists, dicts and tuples, and represents
tensors by tokens. Nothing named in the file is ever imported or called. pickle.Unpickler with a strict `find_class` is
not enough: its BUILD sets attributes of allowed objects, one LONG_BINPUT makes it allocate gigabytes, and nested tuples
as keys take exponential time to hash.
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rvrt_cli.errors import WeightsError

_STORAGE_DTYPES = {  # PyTorch storage class → dtype of its elements
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_TORCH_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_TORCH_SIZE = "torch.Size"
_KNOWN_NAMES = {
    *(_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, _TORCH_SIZE),
    *(f"torch.{name}" for name in (*_STORAGE_DTYPES, *_TORCH_DTYPES)),
}
_MAX_STEPS = 300_000  # the published checkpoints take 25 000


class StorageToken(NamedTuple):
    """A run of elements stored elsewhere in the file."""

    dtype: str  # one of the values of _STORAGE_DTYPES
    key: str
    length: int  # elements


class TensorToken(NamedTuple):
    """A view of a storage; offset and strides in elements. The fields are the file's claims, not yet validated."""

    storage: StorageToken
    offset: Any
    shape: Any
    strides: Any


class _GlobalName(NamedTuple):
    """A global that the file names; never imported."""

    full: str


_MARK = object()  # on the stack: start of a group of items


class _InvalidPickle(Exception):
    """Invalid instructions; `read_pickle` turns it into an error that names the file."""


def sanitize(text: object, max_length: int = 80) -> str:
    """Untrusted text as printable ASCII of bounded length."""
    plain = str(text).encode("ascii", "backslashreplace").decode()
    plain = "".join(letter if letter.isprintable() else "?" for letter in plain)
    return plain if len(plain) <= max_length else plain[: max_length - 3] + "..."


def read_pickle(stream: io.BytesIO, where: object) -> Any:
    """Read the next pickle of `stream`, up to its end; tensors come as `TensorToken`s.

    Dicts, ordered or not, become dicts; attributes of ordered dicts (PyTorch's version notes) are dropped.

    Args:
        where: the file's name, for messages.
    Raises:
        WeightsError: the pickle is damaged, or names something that checkpoints of tensors do not need.
    """
    machine = _Machine(where)
    try:
        with warnings.catch_warnings():  # invalid escapes in a Python 2 string
            warnings.simplefilter("ignore")
            for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if step >= _MAX_STEPS:
                    raise WeightsError(f"{where}: its index is far too long for a checkpoint; damaged or malicious")
                machine.step(opcode.name, argument)
        return machine.pop()
    except (_InvalidPickle, ValueError, TypeError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise WeightsError(
            f"{where}: not a PyTorch checkpoint, or a damaged one ({sanitize(error)}); download it again"
        ) from None


class _Machine:
    """Stack, memo, and one method per kind of instruction."""

    def __init__(self, where: object) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(
                (
                    *("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
                    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
                ),
                self.stack.append,
            ),
            **dict.fromkeys(("LONG1", "LONG4"), self.integer),
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "MARK": lambda _: self.stack.append(_MARK),
            "TUPLE": lambda _: self.stack.append(tuple(self.pop_to_mark())),
            "TUPLE1": lambda _: self.stack.append((self.pop(),)),
            "TUPLE2": lambda _: self.stack.append(tuple(self.pop_many(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self.pop_many(3))),
            "APPEND": lambda _: self.extend([self.pop()]),
            "APPENDS": lambda _: self.extend(self.pop_to_mark()),
            "SETITEM": lambda _: self.update(self.pop_many(2)),
            "SETITEMS": lambda _: self.update(self.pop_to_mark()),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self.remember),
            "MEMOIZE": lambda _: self.remember(len(self.memo)),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), self.recall),
            "GLOBAL": lambda argument: self.name(argument.replace(" ", ".", 1)),
            "STACK_GLOBAL": lambda _: self.name(".".join(self.strings(2))),
            "REDUCE": lambda _: self.reduce(),
            "BUILD": lambda _: self.build(),
            "BINPERSID": lambda _: self.stack.append(self.storage(self.pop())),
        }

    def step(self, opcode: str, argument: Any) -> None:
        if opcode not in self.steps:
            what = f"{opcode} {argument.replace(' ', '.', 1)}" if isinstance(argument, str) else opcode
            raise WeightsError(
                f"{self.where}: its index uses the pickle instruction {sanitize(what)}, which tensors do not need; "
                "rejected, nothing was executed"
            )
        self.steps[opcode](argument)

    def pop(self) -> Any:
        return self.pop_many(1)[0]

    def pop_many(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise _InvalidPickle("stack underflow")
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise _InvalidPickle("no MARK on the stack")

    def integer(self, value: int) -> None:
        if value.bit_length() > 128:  # longer ones could take forever to print or multiply
            raise _InvalidPickle("an integer of more than 128 bits")
        self.stack.append(value)

    def strings(self, count: int) -> Iterator[str]:
        for item in self.pop_many(count):
            if not isinstance(item, str):
                raise _InvalidPickle("a name that is not text")
            yield item

    def top(self, kind: type) -> Any:
        """The top of the stack, which must be a `kind`."""
        item = self.pop()
        if type(item) is not kind:
            raise _InvalidPickle(f"expected a {kind.__name__}, found a {type(item).__name__}")
        self.stack.append(item)
        return item

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise _InvalidPickle("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes, type(None))):  # nested tuples could take forever to hash
                raise _InvalidPickle("a key that is neither text nor a number")
            target[key] = value

    def remember(self, place: int) -> None:
        self.memo[place] = self.pop()
        self.stack.append(self.memo[place])

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise _InvalidPickle("a reference to an empty memo entry")
        self.stack.append(self.memo[place])

    def name(self, full: str) -> None:
        if full not in _KNOWN_NAMES:
            raise WeightsError(
                f"{self.where}: names {sanitize(full)}, which checkpoints of plain tensors do not need; "
                "rejected, nothing was executed. "
                "If you trust the file, load it in PyTorch and save only its state_dict"
            )
        self.stack.append(_GlobalName(full))

    def reduce(self) -> None:
        function, arguments = self.pop_many(2)
        if type(function) is not _GlobalName or type(arguments) is not tuple:
            raise _InvalidPickle("a call of something other than a named function")
        if function.full == _ORDERED_DICT and arguments == ():
            self.stack.append({})
        elif function.full == _REBUILD_TENSOR and len(arguments) in (6, 7) and type(arguments[0]) is StorageToken:
            self.stack.append(TensorToken(*arguments[:4]))  # the rest: requires_grad, hooks, metadata
        elif arguments and (function.full, type(arguments[0])) in (
            (_REBUILD_PARAMETER, TensorToken),
            (_TORCH_SIZE, tuple),
        ):
            self.stack.append(arguments[0])
        else:
            raise WeightsError(
                f"{self.where}: calls {sanitize(function.full)} with unsupported arguments; "
                "rejected, nothing was executed"
            )

    def build(self) -> None:
        self.pop()  # attributes such as the version notes of a state_dict: dropped
        self.top(dict)

    def storage(self, claim: Any) -> StorageToken:
        """The storage of a persistent id: ("storage", class, key, location, count[, None])."""
        if type(claim) is not tuple or len(claim) not in (5, 6) or claim[0] != "storage":
            raise _InvalidPickle("a persistent id that is not a storage")
        kind, key, _, count = claim[1:5]
        if type(kind) is not _GlobalName or kind.full.removeprefix("torch.") not in _STORAGE_DTYPES:
            raise _InvalidPickle("a storage of unknown type")
        if type(key) is not str or type(count) is not int or count < 0:
            raise _InvalidPickle("a storage without key or size")
        if len(claim) == 6 and claim[5] is not None:
            raise WeightsError(
                f"{self.where}: saved by PyTorch before 0.4; load it in a newer version and save it again"
            )
        return StorageToken(_STORAGE_DTYPES[kind.full.removeprefix("torch.")], key, count)
