# SPDX-License-Identifier: Apache-2.0
"""PyTorch checkpoints: exact values, no code execution, false sizes, damage of every kind."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoint_files import (
    GOLDEN,
    MAGIC,
    ORDERED_DICT,
    Call,
    Name,
    Persistent,
    Raw,
    checkpoint,
    encode,
    legacy_file,
    pickled,
    storage,
    suppress_clear_errors,
    tensor,
    zip_file,
)
from helpers.fuzzing import searching
from hypothesis import given, strategies as st

from rvrt_cli.errors import WeightsError
from rvrt_cli.weights import read_checkpoint

FOUR = np.arange(4, dtype=np.float32)
STORAGE = storage("0", "float32", 4)
FLOATS = Name("torch", "FloatStorage")


@pytest.mark.parametrize("name", ["checkpoint_zip.pth", "checkpoint_legacy.pth"])
def test_pytorch_files_are_read_exactly(name: str) -> None:
    expected = np.load(GOLDEN / "checkpoint_expected.npz")
    arrays = read_checkpoint(GOLDEN / name).arrays
    assert set(arrays) == set(expected.files)
    for key in expected.files:
        assert arrays[key].shape == expected[key].shape, key
        assert arrays[key].dtype.kind == expected[key].dtype.kind, key
        np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key)


@pytest.mark.parametrize("nested", [None, "params", "params_ema", "state_dict"])
def test_nested_state_dicts_are_found(tmp_path: Path, nested: str | None) -> None:
    path = checkpoint(tmp_path / "a.pth", {"w": FOUR.reshape(2, 2), "n": np.array(7, np.int64)}, nested)
    arrays = read_checkpoint(path).arrays
    np.testing.assert_array_equal(arrays["w"], [[0, 1], [2, 3]])
    assert arrays["n"].shape == ()
    assert arrays["n"] == 7


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    content = {"params": {"w": tensor(STORAGE, (2,))}, "params_ema": {"w": tensor(STORAGE, (2,), offset=2)}}
    path = zip_file(tmp_path / "a.pth", content, {"0": FOUR.tobytes()})
    np.testing.assert_array_equal(read_checkpoint(path).arrays["w"], [2, 3])


def test_parameters_sizes_and_dtypes_are_supported(tmp_path: Path) -> None:
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (tensor(STORAGE, (4,)), True, Call(ORDERED_DICT, ())))
    size = Call(Name("torch", "Size"), ((2, 2),))
    content = {
        "params": {"w": parameter, "v": tensor(STORAGE, size, (2, 1))},
        "dtype": Name("torch", "float32"),
        "epoch": 3,
    }
    arrays = read_checkpoint(zip_file(tmp_path / "a.pth", content, {"0": FOUR.tobytes()})).arrays
    np.testing.assert_array_equal(arrays["w"], FOUR)
    np.testing.assert_array_equal(arrays["v"], FOUR.reshape(2, 2))


# ---- no code execution

TOUCH = "open({!r}, 'w').close()"


def _evil(marker: Path) -> dict[str, tuple[object, str]]:
    """Values that make Python's own unpickler run code, or try to, and what the error must mention."""
    code = TOUCH.format(str(marker))
    command = f"touch {marker}"
    getattr_of = Name("builtins", "getattr")
    system = Call(getattr_of, (Call(Name("builtins", "__import__"), ("os",)), "system"))
    build = Call(Name("torch._utils", "_rebuild_parameter"), ())
    text = encode("os") + encode("system")
    return {
        "os.system": (Call(Name("os", "system"), (command,)), "os.system"),
        "posix.system": (Call(Name("posix", "system"), (command,)), "posix.system"),
        "eval": (Call(Name("builtins", "eval"), (code,)), "builtins.eval"),
        "exec": (Call(Name("builtins", "exec"), (code,)), "builtins.exec"),
        "eval of Python 2": (Call(Name("__builtin__", "eval"), (code,)), "__builtin__.eval"),
        "getattr": (Call(system, (command,)), "builtins.getattr"),
        "dotted": (Call(Name("torch", "os.system"), (command,)), "torch.os.system"),
        "dotted storage": (Call(Name("torch", "FloatStorage.__init__.__globals__"), ()), "torch.FloatStorage.__init__"),
        "partial": (Call(Name("functools", "partial"), (Name("os", "system"), command)), "functools.partial"),
        "subprocess": (Call(Name("subprocess", "Popen"), (["touch", str(marker)],)), "subprocess.Popen"),
        "torch.load": (Call(Name("torch.serialization", "load"), (str(marker),)), "torch.serialization.load"),
        "numpy": (Call(Name("numpy.core.multiarray", "_reconstruct"), ()), "numpy.core.multiarray._reconstruct"),
        "stack global": (Raw(text + b"\x93" + encode((command,)) + b"R"), "os.system"),
        "inst": (Raw(b"(" + encode(command) + b"ios\nsystem\n"), "os.system"),
        "obj": (Raw(b"(" + encode(Name("os", "system")) + encode(command) + b"o"), "os.system"),
        "newobj": (Raw(encode(ORDERED_DICT) + encode(()) + b"\x81"), "NEWOBJ"),
        "newobj_ex": (Raw(encode(Name("os", "system")) + encode((command,)) + b"}\x92"), "os.system"),
        "extension": (Raw(b"\x82\x01"), "EXT1"),
        "text persistent id": (Raw(b"Pstorage\n"), "PERSID"),
        "argument of a dict": (Call(ORDERED_DICT, ([("a", 1)],)), "collections.OrderedDict"),
        "called storage": (Call(Name("torch", "FloatStorage"), (4,)), "torch.FloatStorage"),
        "called dtype": (Call(Name("torch", "float32"), ()), "torch.float32"),
        "called parameter": (build, "torch._utils._rebuild_parameter"),
        "called text": (Call("os.system", (command,)), "other than a named function"),
        "attributes of a name": (Raw(encode(ORDERED_DICT) + encode({"__call__": "x"}) + b"b"), "expected a dict"),
        "attributes of a tensor": (
            Raw(encode(tensor(STORAGE, (4,))) + encode({"__reduce__": "x"}) + b"b"),
            "expected a dict",
        ),
    }


def _places(evil: object) -> dict[str, object]:
    """The malicious value in every place of a checkpoint's index."""
    name, arguments = tensor(STORAGE, (4,))
    return {
        "whole": evil,
        "entry": {"params": {"w": evil}},
        "key": Raw(b"}" + encode(evil) + encode(1) + b"s"),
        "beside": {"params": {"w": tensor(STORAGE, (4,))}, "notes": [({"deep": evil},)]},
        "storage": {"w": Call(name, (evil, *arguments[1:]))},
        "shape": {"w": Call(name, (STORAGE, 0, evil, (1,), False, Call(ORDERED_DICT, ())))},
        "hooks": {"w": Call(name, (*arguments[:5], evil))},
        "persistent id": {"w": Call(name, (Persistent(evil), *arguments[1:]))},
        "storage's class": {"w": Call(name, (Persistent(("storage", evil, "0", "cpu", 4)), *arguments[1:]))},
        "storage's key": {"w": Call(name, (Persistent(("storage", Name("torch", "FloatStorage"), evil, "cpu", 4)), 0))},
        "attributes": Raw(encode(Call(ORDERED_DICT, ())) + encode({"_metadata": evil}) + b"b"),
        "discarded": {"w": Raw(encode((evil, 1)) + encode(tensor(STORAGE, (4,))) + b"\x86")},
    }


@pytest.mark.parametrize("kind", list(_evil(Path("x"))))
def test_malicious_pickles_are_rejected_by_name_and_not_executed(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    evil, name = _evil(marker)[kind]
    modules = set(sys.modules)
    for place, content in _places(evil).items():
        zipped = zip_file(tmp_path / "zip.pth", content, {"0": FOUR.tobytes()})
        legacy = legacy_file(tmp_path / "legacy.pth", content, {"0": (4, FOUR.tobytes())})
        for path in (zipped, legacy):
            with pytest.raises(WeightsError) as caught:
                read_checkpoint(path)
            assert name in str(caught.value), place
            assert str(path) in str(caught.value)
            assert not marker.exists(), place
    for position in range(3):  # the pickles that a legacy file has before and after its content
        parts = [pickled(MAGIC), pickled(1001), pickled({"little_endian": True})]
        parts[position] = pickled(evil)
        (tmp_path / "head.pth").write_bytes(b"".join(parts) + pickled({}) + pickled([]))
        with pytest.raises(WeightsError):
            read_checkpoint(tmp_path / "head.pth")
        assert not marker.exists()
    assert {name.split(".")[0] for name in set(sys.modules) - modules} <= {"encodings"}, "the file imported something"


def test_malicious_pickles_work_with_pythons_unpickler(tmp_path: Path) -> None:
    """Guards the test above: its files are indeed dangerous."""
    import pickle

    for kind in ("os.system", "eval", "getattr", "stack global", "inst", "obj"):
        marker = tmp_path / kind.replace(" ", "_")
        pickle.loads(pickled(_evil(marker)[kind][0]))
        assert marker.exists(), kind


# ---- false claims

BIG = 2**40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": tensor(storage("0", "float32", BIG), (BIG,))}, "claims"),
        ({"w": tensor(storage("0", "float32", 5), (5,))}, "claims"),
        ({"w": tensor(storage("0", "float64", 4), (4,))}, "claims"),
        ({"w": tensor(storage("1", "float32", 4), (4,))}, "no entry"),
        ({"w": tensor(storage("../version", "float32", 4), (4,))}, "no entry"),
        ({"w": tensor(STORAGE, (5,))}, "beyond"),
        ({"w": tensor(STORAGE, (2,), offset=3)}, "beyond"),
        ({"w": tensor(STORAGE, (2, 2), (3, 1))}, "beyond"),
        ({"w": tensor(STORAGE, (BIG, BIG), (0, 0))}, "beyond"),
        ({"w": tensor(STORAGE, (5,), (0,))}, "beyond"),
        ({"w": tensor(STORAGE, (2,), (2**100,))}, "beyond"),
        ({"w": tensor(STORAGE, (2,), offset=2**100)}, "beyond"),
        ({"w": tensor(STORAGE, (-1,), (1,))}, "not whole numbers"),
        ({"w": tensor(STORAGE, (2,), (-1,), 3)}, "not whole numbers"),
        ({"w": tensor(STORAGE, (2,), (1,), True)}, "not whole numbers"),
        ({"w": tensor(STORAGE, (2, 2), (1,))}, "not whole numbers"),
        ({"w": tensor(STORAGE, ("2",), (1,))}, "not whole numbers"),
        ({"w": tensor(STORAGE, [2], (1,))}, "not whole numbers"),
        ({"w": tensor(STORAGE, (0, 2), (2, 1))}, "empty"),
        ({"w": tensor(STORAGE, (1,) * 40, (1,) * 40)}, "axes"),
        ({"w": tensor(STORAGE, (4,)), "v": tensor(storage("0", "float16", 8), (8,))}, "disagree"),
        ({"w": tensor(storage("0", "float32", 1 << 20000), (4,))}, "more than 128 bits"),
        ({"w": tensor(Persistent(("storage", "FloatStorage", "0", "cpu", 4)), (4,))}, "a storage of unknown type"),
        ({"w": tensor(Persistent(("storage", FLOATS, 0, "cpu", 4)), (4,))}, "a storage without key or size"),
        ({"w": tensor(Persistent(("storage", FLOATS, "0", "cpu", -4)), (4,))}, "a storage without key or size"),
        ({"w": tensor(Persistent(("storage", FLOATS, "0", "cpu", 4, "view")), (4,))}, "saved by PyTorch before 0.4"),
        (Raw(b"K\x01K\x02\x93"), "a name that is not text"),
        ({"w": 3}, "not a tensor"),
        ({3: tensor(STORAGE, (4,))}, "not a tensor"),
        ({}, "no dict of named tensors"),
        (3, "no dict of named tensors"),
        (
            Raw(b"K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"}h\x00K\x01s"),
            "neither text nor a number",
        ),  # 2^100 leaves
        (Raw(b"}r\xff\xff\xff\xff"), "no dict of named tensors"),  # makes Python's unpickler allocate 64 GB
        (Raw(b"}" * 400_000), "far too long"),
        (Raw(b"\x8e" + struct.pack("<Q", 2**62)), "damaged"),  # BINBYTES8
        (Raw(b"\x8d" + struct.pack("<Q", 2**62)), "damaged"),  # BINUNICODE8
        (Raw(b"X\xff\xff\xff\xff"), "damaged"),
        (Raw(b"(((("), "damaged"),
        (Raw(b"h\x07"), "damaged"),
        (Raw(b"t"), "damaged"),
        (Raw(b"}(K\x01u"), "damaged"),
        (Raw(b"K\x01K\x02K\x03s"), "damaged"),
        (Raw(b""), "damaged"),
    ],
)
def test_false_claims_are_rejected_without_allocating(tmp_path: Path, content: object, message: str) -> None:
    path = zip_file(tmp_path / "a.pth", content, {"0": FOUR.tobytes()})
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            read_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert peak < 20e6 + 100 * path.stat().st_size


def test_repeated_storages_cannot_multiply_the_file_size(tmp_path: Path) -> None:
    numbers = np.zeros(1 << 18, np.float32)
    place = storage("0", "float32", numbers.size)
    content = {f"w{number}": tensor(place, numbers.shape) for number in range(10)}
    with pytest.raises(WeightsError, match="many times as large"):
        read_checkpoint(zip_file(tmp_path / "a.pth", content, {"0": numbers.tobytes()}))


def test_self_reference_is_rejected(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.pth", Raw(b"}q\x00" + encode("params") + b"h\x00s"), {})
    with pytest.raises(WeightsError, match="not a tensor"):
        read_checkpoint(path)


def test_zip_entries_with_false_sizes_are_rejected(tmp_path: Path) -> None:
    numbers = np.zeros(1 << 20, np.float32)
    honest = checkpoint(tmp_path / "a.pth", {"w": numbers}).read_bytes()
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "archive/data.pkl", pickled({"w": tensor(storage("0", "float32", numbers.size), numbers.shape)})
        )
        archive.writestr("archive/data/0", numbers.tobytes())
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(tmp_path / "bomb.pth")

    entry = b"archive/data/0"
    at = honest.rindex(entry) - 46  # its record in the central directory
    sizes = slice(at + 20, at + 28)
    lying = bytearray(honest)
    lying[sizes] = struct.pack("<II", 0xFFFF0000, 0xFFFF0000)
    (tmp_path / "large.pth").write_bytes(lying)
    with pytest.raises(WeightsError, match="more bytes than there are"):
        read_checkpoint(tmp_path / "large.pth")
    lying[sizes] = struct.pack("<II", 64, 64)
    (tmp_path / "small.pth").write_bytes(lying)
    with pytest.raises(WeightsError, match=r"damaged|truncated|claims"):
        read_checkpoint(tmp_path / "small.pth")
    flipped = bytearray(honest)
    flipped[honest.index(entry) + 1000] ^= 1
    (tmp_path / "flipped.pth").write_bytes(flipped)
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(tmp_path / "flipped.pth")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"0": (5, FOUR.tobytes())},
        {"0": (4, FOUR.tobytes()[:-1])},
        {"0": (4, FOUR.tobytes() + b"x")},
        {"0": (2**62, FOUR.tobytes())},
        {"0": (-1, FOUR.tobytes())},
        {"1": (4, FOUR.tobytes())},
        {"0": (4, FOUR.tobytes()), "1": (4, FOUR.tobytes())},
    ],
)
def test_legacy_storages_with_false_sizes_are_rejected(tmp_path: Path, data: dict[str, tuple[int, bytes]]) -> None:
    content = {"w": tensor(storage("0", "float32", 4, legacy=True), (4,))}
    with pytest.raises(WeightsError, match="download it again"):
        read_checkpoint(legacy_file(tmp_path / "a.pth", content, data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": {"little_endian": False}}, "saved on a big-endian machine"),
        ({"machine": [1]}, "saved on a big-endian machine"),
        ({"keys": ["0", "0"]}, "its list of storages is damaged"),
        ({"keys": [0]}, "its list of storages is damaged"),
        ({"keys": "0"}, "its list of storages is damaged"),
    ],
)
def test_legacy_files_of_other_machines_or_with_damaged_lists_are_rejected(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    content = {"w": tensor(storage("0", "float32", 4, legacy=True), (4,))}
    parts = {"magic": MAGIC, "protocol": 1001, "machine": machine, "content": content, "keys": ["0"]}
    for change, words in (({}, None), (changes, message)):
        data = b"".join(pickled(part) for part in {**parts, **change}.values())
        (tmp_path / "a.pth").write_bytes(data + struct.pack("<q", 4) + FOUR.tobytes())
        if words is None:
            np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.pth").arrays["w"], FOUR)
        else:
            with pytest.raises(WeightsError, match=words):
                read_checkpoint(tmp_path / "a.pth")


def test_a_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse
    with pytest.raises(WeightsError, match="larger than 1 GiB, which no RVRT checkpoint is"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"\x10\0\0\0\0\0\0\0{}              ", "safetensors"),
        (b"RIFF....AVI LIST", "not a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (pickled({"w": [(1.5).hex(), 2]}), "not a PyTorch checkpoint"),
        (b"\x80", "not a PyTorch checkpoint"),
    ],
)
def test_other_files_are_recognized(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_missing_files_folders_and_other_zips_are_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("holiday.jpg", b"x")
    for path in (tmp_path / "none.pth", tmp_path, tmp_path / "a.zip"):
        with pytest.raises(WeightsError, match=r"cannot be read|not a regular file|not a PyTorch checkpoint"):
            read_checkpoint(path)


def test_big_endian_is_rejected(tmp_path: Path) -> None:
    content = {"w": tensor(STORAGE, (4,))}
    with pytest.raises(WeightsError, match="big-endian"):
        read_checkpoint(zip_file(tmp_path / "a.pth", content, {"0": FOUR.tobytes()}, byteorder=b"big"))


# ---- damage

WHOLE = {name: (GOLDEN / f"checkpoint_{name}.pth").read_bytes() for name in ("zip", "legacy")}


@pytest.mark.parametrize("name", list(WHOLE))
def test_truncated_checkpoints_are_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    for length in range(0, len(WHOLE[name]), 7):
        path.write_bytes(WHOLE[name][:length])
        with pytest.raises(WeightsError):
            read_checkpoint(path)


@pytest.mark.slow
@searching(400)
@given(
    st.sampled_from(list(WHOLE)),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
def test_damaged_checkpoints_raise_only_clear_errors(tmp_path: Path, name: str, changes: list, insert: bool) -> None:
    data = bytearray(WHOLE[name])
    for place, patch in changes:
        place %= len(data)
        data[place : place if insert else place + len(patch)] = patch
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with suppress_clear_errors():
        arrays = read_checkpoint(path).arrays
        assert sum(array.nbytes for array in arrays.values()) <= 4 * len(data)


@pytest.mark.slow
@searching(400)
@given(st.lists(st.sampled_from([bytes([code]) for code in range(256)]) | st.binary(max_size=3), max_size=30))
def test_random_pickles_raise_only_clear_errors(tmp_path: Path, codes: list[bytes]) -> None:
    path = zip_file(tmp_path / "a.pth", b"\x80\x02" + encode({"w": tensor(STORAGE, (4,))}) + b"".join(codes) + b".", {})
    with suppress_clear_errors():
        read_checkpoint(path)
