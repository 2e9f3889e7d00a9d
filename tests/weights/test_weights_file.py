# SPDX-License-Identifier: Apache-2.0
"""Weights files: round trip, equal bytes, strict names, and the folders where weights are found."""

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
from rvrt_cli.files import cache_folder, config_folder
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.weights import (
    catalog,
    check_names,
    find_weights,
    list_weights,
    load_weights,
    read_about,
    save_weights,
)
from rvrt_cli.weights.weights_file import check_plausible_size

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
Folders = tuple[Path, Path]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_weights(tmp_path / "small.safetensors", ARRAYS, SMALL, CARD)
    return tmp_path / "small.safetensors"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """The folders of embedded and cached weights, both empty."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "embedded_folder", lambda: tmp_path / "embedded")
    return tmp_path / "embedded", tmp_path / "cache"


def test_round_trip_is_exact(saved: Path) -> None:
    weights = load_weights(saved)
    assert weights.config == SMALL
    assert weights.card == CARD
    assert set(weights.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert weights.arrays[name].dtype == array.dtype
        assert weights.arrays[name].shape == array.shape
        np.testing.assert_array_equal(weights.arrays[name], array)
    assert read_about(saved) == (SMALL, CARD, 1008)


def test_other_tools_read_the_arrays(saved: Path) -> None:
    np.testing.assert_array_equal(safetensors.numpy.load_file(saved)["b.weight"], ARRAYS["b.weight"])


def test_equal_input_gives_equal_bytes_in_every_process(saved: Path, tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np
sys.path[:0] = {[str(Path(__file__).parents[k]) for k in (0, 1)]!r}
from test_weights_file import ARRAYS, CARD, SMALL
from rvrt_cli.weights import save_weights
from pathlib import Path
save_weights(Path(sys.argv[1]), dict(reversed(ARRAYS.items())), SMALL, dict(reversed(CARD.items())))
"""
    again = tmp_path / "again.safetensors"
    subprocess.run([sys.executable, "-c", code, str(again)], check=True)
    assert again.read_bytes() == saved.read_bytes()


def test_failed_write_keeps_the_old_file_and_leaves_no_partial_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    with pytest.raises(WeightsError, match="int64"):
        save_weights(saved, {"n": np.arange(3)}, SMALL, CARD)
    monkeypatch.setattr("os.replace", _raise)
    with pytest.raises(WeightsError, match="No space left"):
        save_weights(saved, ARRAYS, SMALL, CARD)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def _raise(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_unwritable_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(tmp_path / "file" / "a.safetensors", ARRAYS, SMALL, CARD)


@pytest.mark.parametrize("card", [{}, {**CARD, "trained": "yes"}, {**CARD, "degradation": "jpeg"}, {**CARD, "name": 3}])
def test_card_must_have_the_entries_that_commands_rely_on(tmp_path: Path, card: dict) -> None:
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
        ({}, "without an rvrt network configuration"),
        ({"__metadata__": {"format": "pt"}}, "without an rvrt network configuration"),
        ({"__metadata__": {"rvrt": "{"}}, "without an rvrt network configuration"),
        ({"__metadata__": {"rvrt": "[" * 100_000}}, "without an rvrt network configuration"),
        ({"__metadata__": {"rvrt": "[]"}}, "without an rvrt network configuration"),
        ({"__metadata__": {"rvrt": '{"config": {}}'}}, "without an rvrt network configuration"),
        (_about(config=[1]), "configuration"),
        (_about(config={"widths": [10**30] * 3}), "widths"),
        (_about(config={"widths": "144"}), "widths"),
        (_about(config={"color": 3}), "unknown entries"),
        (_about(config={**SMALL.to_dict(), "widths": [4096] * 3}), "far larger network"),
        (_about(card=3), "model card"),
        (_about(card={**CARD, "trained": 1}), "model card"),
        (b"\xff\xfe", "not a weights file"),
        (b"{", "not a weights file"),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "not a weights file"),  # truncated
        ({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, "not a weights file"),
        ({**_about(), "w": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}}, "float32 or float16"),
    ],
)
def test_malformed_headers_are_one_clear_error(tmp_path: Path, header: object, message: str) -> None:
    path = _file(tmp_path / "a.safetensors", header)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04" + bytes(50), struct.pack("<Q", 2**63) + b"{}"])
def test_other_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="rvrt weights convert"):
        load_weights(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "none.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    save_weights(path, ARRAYS, SMALL, CARD)
    return path.read_bytes()


@pytest.mark.slow
@searching(400)
@given(
    st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=8)), max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 1500),
)
def test_damaged_weights_files_raise_only_clear_errors(
    tmp_path: Path, whole: bytes, changes: list, insert: bool, length: int | None
) -> None:
    data = bytearray(whole)
    for place, patch in changes:
        data[place : place if insert else place + len(patch)] = patch
    path = tmp_path / "a.safetensors"
    path.write_bytes(data[:length])
    for read in (load_weights, read_about):
        with suppress_clear_errors():
            read(path)


# ---- names


def test_matching_names_pass_and_mismatches_are_listed() -> None:
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
    assert "1 with mismatched shape (a 3×2 instead of 2×3)" in text


def test_long_lists_of_mismatches_are_shortened() -> None:
    with pytest.raises(WeightsError, match=r"504 missing \(w0, w1, w2, w3 and 500 more\)") as caught:
        check_names({}, {f"w{number}": (1,) for number in range(504)}, "here")
    assert len(str(caught.value)) < 200


# ---- folders


def test_file_overrides_embedded_and_embedded_overrides_cached(folders: Folders, tmp_path: Path) -> None:
    embedded, cache = folders
    save_weights(cache / "small.safetensors", ARRAYS, SMALL, CARD)
    assert find_weights("small") == cache / "small.safetensors"
    save_weights(embedded / "small.safetensors", ARRAYS, SMALL, CARD)
    assert find_weights("small") == embedded / "small.safetensors"
    assert find_weights("small", cache / "small.safetensors") == cache / "small.safetensors"
    with pytest.raises(WeightsError, match="no such file"):
        find_weights("small", tmp_path / "none.safetensors")


def test_published_names_point_to_the_cached_file(folders: Folders) -> None:
    _, cache = folders
    for name in ("rvrt", "rvrt-bi-reds", "001_RVRT_videosr_bi_REDS_30frames", "001_RVRT_videosr_bi_REDS_30frames.pth"):
        with pytest.raises(WeightsError, match="rvrt weights pull rvrt-bi-reds"):
            find_weights(name)
    save_weights(cache / "rvrt-bi-reds.safetensors", ARRAYS, SMALL, CARD)
    assert (
        find_weights("rvrt")
        == find_weights("001_RVRT_videosr_bi_REDS_30frames.pth")
        == cache / "rvrt-bi-reds.safetensors"
    )


@pytest.mark.parametrize("name", ["../small", "/etc/small", "", ".", "a\nb", "rvrt-huge", None])
def test_unknown_names_and_paths_are_rejected_with_a_list(folders: Folders, name: str | None) -> None:
    save_weights(folders[1].parent / "small.safetensors", ARRAYS, SMALL, CARD)
    with pytest.raises(
        WeightsError, match=r"choose one of rvrt-bi-reds, rvrt-bi-vimeo, rvrt-bd-vimeo.*rvrt weights pull"
    ) as caught:
        find_weights(name)
    assert "\n" not in str(caught.value)


def test_light_has_no_published_weights(folders: Folders) -> None:
    with pytest.raises(WeightsError, match="no published weights"):
        find_weights("rvrt-light")


def test_list_shows_embedded_cached_damaged_and_available_weights(folders: Folders) -> None:
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
        "rvrt-deblur-dvd": "available",
        "rvrt-deblur-gopro": "available",
        "rvrt-denoise-davis": "available",
    }
    assert (found["tiny"].trained, found["tiny"].degradation) == (False, "none")
    assert (found["rvrt-bi-reds"].trained, found["rvrt-bi-reds"].degradation) == (True, "bi")
    assert "non-commercial" in found["rvrt-bi-reds"].license


def test_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_configuration_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setattr("sys.platform", "linux")
    assert config_folder() == tmp_path / ".config" / "rvrt"
    monkeypatch.setattr("sys.platform", "darwin")
    assert config_folder() == tmp_path / "Library" / "Application Support" / "rvrt"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert config_folder() == tmp_path / "roaming" / "rvrt"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config_folder() == tmp_path / "xdg" / "rvrt"


@pytest.mark.parametrize("passes", [1, 2, 3, 4])
@pytest.mark.parametrize("bodies", list(itertools.product(("attention", "convolution"), repeat=3)), ids="-".join)
def test_plausible_size_accepts_every_network_and_rejects_larger_ones(
    passes: int, bodies: tuple[str, str, str]
) -> None:
    from rvrt_cli.model import parameter_shapes

    sizes = {"widths": (16, 16, 16), "groups": (1, 2, 1), "depths": (3, 2, 3), "mlp_ratio": 16, "upsampler_width": 0}
    config = replace(SMALL, passes=passes, bodies=bodies, alignment="neighborhood", **sizes)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    check_plausible_size(arrays, config, "made")
    with pytest.raises(WeightsError, match="far larger"):
        check_plausible_size(arrays, replace(config, widths=(64, 64, 64)), "made")


def test_files_of_version_0_1_are_read_with_their_new_names(tmp_path: Path) -> None:
    """Version 0.1 wrote "licence" in the card and "fused_neighbours" in the configuration."""
    old_card = {"licence" if key == "license" else key: value for key, value in CARD.items()}
    old_config = {("fused_neighbours" if key == "fused_neighbors" else key): v for key, v in SMALL.to_dict().items()}
    path = _file(tmp_path / "old.safetensors", _about(card=old_card, config=old_config))
    assert read_about(path)[:2] == (SMALL, CARD)
    new_card = _about(card={**CARD, "licence": "another"})
    assert read_about(_file(path, new_card)).card == CARD


def test_embedded_weights_load_with_their_license() -> None:
    weights = load_weights(find_weights("rvrt-tiny"))
    assert weights.config == PRESETS["rvrt-tiny"]
    assert weights.card["license"] == "Apache-2.0"
    assert "licence" not in weights.card
    assert sum(array.size for array in weights.arrays.values()) == 467_296


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_rejected(tmp_path: Path, value: float) -> None:
    save_weights(tmp_path / "a.safetensors", ARRAYS | {"scale": np.array(value, np.float32)}, SMALL, CARD)
    with pytest.raises(WeightsError, match="scale is not finite"):
        load_weights(tmp_path / "a.safetensors")


def test_presets_survive_a_round_trip(tmp_path: Path) -> None:
    for config in PRESETS.values():
        big = {"w": np.zeros(6_000_000, np.float16)}
        save_weights(tmp_path / "a.safetensors", big, config, CARD)
        assert load_weights(tmp_path / "a.safetensors").config == config
