"""Read the pickle inside a PyTorch checkpoint without executing anything.

A pickle is a program for a small stack machine, and Python's own machine calls what the program names. This one knows
only the instructions that a checkpoint of tensors needs, builds plain lists, dicts and tuples, and stands tokens in for
tensors. Nothing named in the file is ever imported or called. pickle.Unpickler with a strict `find_class` would not do:
its BUILD sets attributes of allowed objects, one LONG_BINPUT makes it allocate gigabytes, and nested tuples as keys
hash for ever.
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rvrt_cli.errors import WeightsError

STORAGES = {  # PyTorch's storage class → NumPy's name of the numbers in it
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
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_SIZE = "torch.Size"
_KNOWN = {
    *(_ORDERED_DICT, _TENSOR, _PARAMETER, _SIZE),
    *(f"torch.{name}" for name in (*STORAGES, *_DTYPES)),
}
_MOST_STEPS = 300_000  # the published checkpoints take 25 000


class Storage(NamedTuple):
    """A run of numbers kept elsewhere in the file."""

    dtype: str  # a value of STORAGES
    key: str
    length: int  # elements


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements. The entries are the file's claims, still unchecked."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


class _Name(NamedTuple):
    """Something that the file names; inert."""

    full: str


_MARK = object()  # where a list of stack items begins


class _Damaged(Exception):
    """The instructions make no sense; `read_pickle` says so with the place."""


def shown(text: object, most: int = 80) -> str:
    """Text out of a file, short and printable on every terminal."""
    plain = str(text).encode("ascii", "backslashreplace").decode()
    plain = "".join(letter if letter.isprintable() else "?" for letter in plain)
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def read_pickle(stream: io.BytesIO, where: object) -> Any:
    """The object of the next pickle in `stream`, which is left behind its end; tensors are `Tensor`s.

    Dicts, ordered or not, become dicts; attributes of ordered dicts (version notes of PyTorch) are dropped.

    Args:
        where: the file's name, for messages.
    Raises:
        WeightsError: the pickle is damaged, or names anything but what tensors are made of.
    """
    machine = _Machine(where)
    try:
        with warnings.catch_warnings():  # odd escapes in a text of Python 2
            warnings.simplefilter("ignore")
            for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if step >= _MOST_STEPS:
                    raise WeightsError(f"{where}: its index is far too long for a checkpoint; damaged or foreign")
                machine.step(opcode.name, argument)
        return machine.pop()
    except (_Damaged, ValueError, TypeError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise WeightsError(
            f"{where}: no PyTorch checkpoint, or a damaged one ({shown(error)}); download it again"
        ) from None


class _Machine:
    """The stack, the memo, and one method per kind of instruction."""

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
                f"{self.where}: its index uses the pickle instruction {shown(what)}, which tensors do not need; refused"
            )
        self.steps[opcode](argument)

    def pop(self) -> Any:
        return self.pop_many(1)[0]

    def pop_many(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise _Damaged("the index takes more than it holds")
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise _Damaged("a list without a beginning")

    def integer(self, value: int) -> None:
        if value.bit_length() > 128:  # printing or multiplying it could take for ever
            raise _Damaged("a number without end")
        self.stack.append(value)

    def strings(self, count: int) -> Iterator[str]:
        for item in self.pop_many(count):
            if not isinstance(item, str):
                raise _Damaged("a name that is no text")
            yield item

    def top(self, kind: type) -> Any:
        """The last item, which must be a `kind`."""
        item = self.pop()
        if type(item) is not kind:
            raise _Damaged(f"no {kind.__name__} where one is filled")
        self.stack.append(item)
        return item

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise _Damaged("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes, type(None))):  # others could take for ever to hash
                raise _Damaged("a key that is neither text nor number")
            target[key] = value

    def remember(self, place: int) -> None:
        self.memo[place] = self.pop()
        self.stack.append(self.memo[place])

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise _Damaged("a reference to nothing")
        self.stack.append(self.memo[place])

    def name(self, full: str) -> None:
        if full not in _KNOWN:
            raise WeightsError(
                f"{self.where}: names {shown(full)}, which no checkpoint of plain tensors needs; refused, nothing run. "
                "If you trust the file, load it in PyTorch and save its state_dict alone"
            )
        self.stack.append(_Name(full))

    def reduce(self) -> None:
        function, arguments = self.pop_many(2)
        if type(function) is not _Name or type(arguments) is not tuple:
            raise _Damaged("a call of something that is no name")
        if function.full == _ORDERED_DICT and arguments == ():
            self.stack.append({})
        elif function.full == _TENSOR and len(arguments) in (6, 7) and type(arguments[0]) is Storage:
            self.stack.append(Tensor(*arguments[:4]))  # the rest: requires_grad, hooks, metadata
        elif arguments and (function.full, type(arguments[0])) in ((_PARAMETER, Tensor), (_SIZE, tuple)):
            self.stack.append(arguments[0])
        else:
            raise WeightsError(
                f"{self.where}: calls {shown(function.full)} in an unknown way; refused, nothing was run"
            )

    def build(self) -> None:
        self.pop()  # attributes, such as the version notes of a state_dict: not needed
        self.top(dict)

    def storage(self, claim: Any) -> Storage:
        """What a persistent id stands for: ("storage", class, key, location, count[, None])."""
        if type(claim) is not tuple or len(claim) not in (5, 6) or claim[0] != "storage":
            raise _Damaged("a reference to no storage")
        kind, key, _, count = claim[1:5]
        if type(kind) is not _Name or kind.full.removeprefix("torch.") not in STORAGES:
            raise _Damaged("a storage of no known kind")
        if type(key) is not str or type(count) is not int or count < 0:
            raise _Damaged("a storage without a key or a size")
        if len(claim) == 6 and claim[5] is not None:
            raise WeightsError(f"{self.where}: saved by a PyTorch before 0.4; load it in a newer one and save it again")
        return Storage(STORAGES[kind.full.removeprefix("torch.")], key, count)
