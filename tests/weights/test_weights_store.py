"""Our weights files: round trip, equal bytes, strict names, and where weights are looked for."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers.checkpoint_files import suppress_clear_errors
from helpers.fuzzing import searching
from hypothesis import given, strategies as st

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.weights import (
    cache_folder,
    catalog,
    check_names,
    list_weights,
    load_weights,
    read_about,
    resolve,
    save_weights,
)
from rvrt_cli.weights.weights_file import check_size

SMALL = RVRTConfig(
    widths=(4, 4, 4), groups=(1, 1, 1), depths=(1, 1, 1), heads=(1, 1, 1), align_heads=1, deformable_groups=2
)
CARD = {
    "name": "small",
    "trained": True,
    "degradation": "bi",
    "license": "Apache-2.0",
    "scores": {"Vid4": [27.5, 0.83]},
}
ARRAYS = {
    "b.weight": np.arange(1000, dtype=np.float32).reshape(10, 100).T,  # not contiguous
    "a.bias": np.linspace(0, 1, 7).astype(np.float16),
    "scale": np.array(2.5, np.float32),
}


@pytest.fixture
def saved(tmp_path) -> Path:
    save_weights(tmp_path / "small.safetensors", ARRAYS, SMALL, CARD)
    return tmp_path / "small.safetensors"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty cache and an empty folder of embedded weights."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "embedded_folder", lambda: tmp_path / "embedded")
    return tmp_path / "embedded", tmp_path / "cache"


def test_round_trip_is_exact(saved):
    weights = load_weights(saved)
    assert weights.config == SMALL
    assert weights.card == CARD
    assert set(weights.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert weights.arrays[name].dtype == array.dtype
        assert weights.arrays[name].shape == array.shape
        np.testing.assert_array_equal(weights.arrays[name], array)
    assert read_about(saved) == (SMALL, CARD, 1008)


def test_other_tools_read_the_arrays(saved):
    np.testing.assert_array_equal(safetensors.numpy.load_file(saved)["b.weight"], ARRAYS["b.weight"])


def test_equal_input_gives_equal_bytes_in_every_process(saved, tmp_path):
    code = f"""
import sys, numpy as np
sys.path[:0] = {[str(Path(__file__).parents[k]) for k in (0, 1)]!r}
from test_weights_store import ARRAYS, CARD, SMALL
from rvrt_cli.weights import save_weights
from pathlib import Path
save_weights(Path(sys.argv[1]), dict(reversed(ARRAYS.items())), SMALL, dict(reversed(CARD.items())))
"""
    again = tmp_path / "again.safetensors"
    subprocess.run([sys.executable, "-c", code, str(again)], check=True)
    assert again.read_bytes() == saved.read_bytes()


def test_failed_writing_leaves_the_old_file_and_no_litter(saved, monkeypatch):
    before = saved.read_bytes()
    with pytest.raises(WeightsError, match="int64"):
        save_weights(saved, {"n": np.arange(3)}, SMALL, CARD)
    monkeypatch.setattr("os.replace", _raise)
    with pytest.raises(WeightsError, match="No space left"):
        save_weights(saved, ARRAYS, SMALL, CARD)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def _raise(*_):
    raise OSError(28, "No space left on device")


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(tmp_path / "file" / "a.safetensors", ARRAYS, SMALL, CARD)


@pytest.mark.parametrize("card", [{}, {**CARD, "trained": "yes"}, {**CARD, "degradation": "jpeg"}, {**CARD, "name": 3}])
def test_a_card_must_say_what_commands_rely_on(tmp_path, card):
    with pytest.raises(WeightsError, match="model card"):
        save_weights(tmp_path / "a.safetensors", ARRAYS, SMALL, card)


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _about(**changes: object) -> dict:
    about = {"config": SMALL.to_dict(), "card": CARD}
    return {"__metadata__": {"rvrt": json.dumps({**about, **changes})}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "says nothing of an rvrt network"),
        ({"__metadata__": {"format": "pt"}}, "says nothing of an rvrt network"),
        ({"__metadata__": {"rvrt": "{"}}, "says nothing of an rvrt network"),
        ({"__metadata__": {"rvrt": "[" * 100_000}}, "says nothing of an rvrt network"),
        ({"__metadata__": {"rvrt": "[]"}}, "says nothing of an rvrt network"),
        ({"__metadata__": {"rvrt": '{"config": {}}'}}, "says nothing of an rvrt network"),
        (_about(config=[1]), "configuration"),
        (_about(config={"widths": [10**30] * 3}), "widths"),
        (_about(config={"widths": "144"}), "widths"),
        (_about(config={"color": 3}), "unknown entries"),
        (_about(config={**SMALL.to_dict(), "widths": [4096] * 3}), "far larger network"),
        (_about(card=3), "model card"),
        (_about(card={**CARD, "trained": 1}), "model card"),
        (b"\xff\xfe", "no weights file"),
        (b"{", "no weights file"),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "no weights file"),  # truncated
        ({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, "no weights file"),
        ({**_about(), "w": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}}, "float32 or float16"),
    ],
)
def test_foreign_and_damaged_files_are_one_clear_error(tmp_path, header, message):
    path = _file(tmp_path / "a.safetensors", header)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04" + bytes(50), struct.pack("<Q", 2**63) + b"{}"])
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="rvrt weights convert"):
        load_weights(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "none.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    save_weights(path, ARRAYS, SMALL, CARD)
    return path.read_bytes()


@searching(400)
@given(
    st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=8)), max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 1500),
)
def test_damaged_bytes_never_raise_anything_else(tmp_path, whole, changes, insert, length):
    data = bytearray(whole)
    for place, patch in changes:
        data[place : place if insert else place + len(patch)] = patch
    path = tmp_path / "a.safetensors"
    path.write_bytes(data[:length])
    for read in (load_weights, read_about):
        with suppress_clear_errors():
            read(path)


# ---- names


def test_matching_names_pass_and_every_mismatch_is_listed():
    expected = {"a": (2, 3), "b": (4,), "c": ()}
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4), "c": np.zeros(())}
    check_names(arrays, expected, "here")
    wrong = {"a": np.zeros((3, 2)), "c": np.zeros(()), "x\n\x1b[31m": np.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        check_names(wrong, expected, "here.safetensors")
    text = str(caught.value)
    assert text.startswith("here.safetensors: ")
    assert "1 missing (b)" in text
    assert "1 unexpected (x??[31m)" in text
    assert "1 of another shape (a 3×2 instead of 2×3)" in text


def test_a_long_list_of_mismatches_is_counted_and_shortened():
    with pytest.raises(WeightsError, match=r"504 missing \(w0, w1, w2, w3 and 500 more\)") as caught:
        check_names({}, {f"w{number}": (1,) for number in range(504)}, "here")
    assert len(str(caught.value)) < 200


# ---- places


def test_embedded_comes_before_cached_and_a_file_before_both(folders, tmp_path):
    embedded, cache = folders
    save_weights(cache / "small.safetensors", ARRAYS, SMALL, CARD)
    assert resolve("small") == cache / "small.safetensors"
    save_weights(embedded / "small.safetensors", ARRAYS, SMALL, CARD)
    assert resolve("small") == embedded / "small.safetensors"
    assert resolve("small", cache / "small.safetensors") == cache / "small.safetensors"
    with pytest.raises(WeightsError, match="no such file"):
        resolve("small", tmp_path / "none.safetensors")


def test_published_names_point_to_the_cached_file(folders):
    _, cache = folders
    for name in ("rvrt", "rvrt-bi-reds", "001_RVRT_videosr_bi_REDS_30frames", "001_RVRT_videosr_bi_REDS_30frames.pth"):
        with pytest.raises(WeightsError, match="rvrt weights pull rvrt-bi-reds"):
            resolve(name)
    save_weights(cache / "rvrt-bi-reds.safetensors", ARRAYS, SMALL, CARD)
    assert resolve("rvrt") == resolve("001_RVRT_videosr_bi_REDS_30frames.pth") == cache / "rvrt-bi-reds.safetensors"


@pytest.mark.parametrize("name", ["../small", "/etc/small", "", ".", "a\nb", "rvrt-huge", None])
def test_unknown_names_and_paths_are_refused_with_what_there_is(folders, name):
    save_weights(folders[1].parent / "small.safetensors", ARRAYS, SMALL, CARD)
    with pytest.raises(
        WeightsError, match=r"there are rvrt-bi-reds, rvrt-bi-vimeo, rvrt-bd-vimeo.*rvrt weights pull"
    ) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_light_has_no_published_weights(folders):
    with pytest.raises(WeightsError, match="nobody has published"):
        resolve("rvrt-light")


def test_list_tells_embedded_cached_damaged_and_available_apart(folders):
    embedded, cache = folders
    save_weights(embedded / "tiny.safetensors", ARRAYS, SMALL, {**CARD, "trained": False, "degradation": "none"})
    save_weights(cache / "rvrt-bd-vimeo.safetensors", ARRAYS, SMALL, {**CARD, "degradation": "bd"})
    (cache / "worse.safetensors").write_bytes(b"x")
    found = {entry.name: entry for entry in list_weights()}
    assert {name: entry.state for name, entry in found.items()} == {
        "tiny": "embedded",
        "rvrt-bd-vimeo": "cached",
        "worse": "damaged",
        "rvrt-bi-reds": "available",
        "rvrt-bi-vimeo": "available",
    }
    assert (found["tiny"].trained, found["tiny"].degradation) == (False, "none")
    assert (found["rvrt-bi-reds"].trained, found["rvrt-bi-reds"].degradation) == (True, "bi")
    assert "non-commercial" in found["rvrt-bi-reds"].license


def test_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("RVRT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "rvrt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rvrt"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "rvrt" / "cache"
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize("passes", [1, 2, 3, 4])
@pytest.mark.parametrize("bodies", list(itertools.product(("attention", "convolution"), repeat=3)), ids="-".join)
def test_no_network_is_taken_for_a_far_larger_one(passes, bodies):
    from rvrt_cli.model import parameter_shapes

    config = replace(SMALL, passes=passes, bodies=bodies, widths=(16, 16, 16), groups=(1, 2, 1), depths=(3, 2, 3),
                     mlp_ratio=16, alignment="neighborhood", upsampler_width=0)  # fmt: skip
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    check_size(arrays, config, "made")
    with pytest.raises(WeightsError, match="far larger"):
        check_size(arrays, replace(config, widths=(64, 64, 64)), "made")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    save_weights(tmp_path / "a.safetensors", ARRAYS | {"scale": np.array(value, np.float32)}, SMALL, CARD)
    with pytest.raises(WeightsError, match="scale is not finite"):
        load_weights(tmp_path / "a.safetensors")


def test_presets_travel_through_a_file(tmp_path):
    for config in PRESETS.values():
        big = {"w": np.zeros(4_000_000, np.float16)}
        save_weights(tmp_path / "a.safetensors", big, config, CARD)
        assert load_weights(tmp_path / "a.safetensors").config == config
