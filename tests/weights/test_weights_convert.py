# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the published layout become weights files; others are rejected with a list of mismatches."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.checkpoint_files import (
    checkpoint,
    encode,
    position_index,
    published_arrays,
    published_shapes,
    tensor,
    zip_file,
)

from rvrt_cli import model
from rvrt_cli.cli.weights import weights_group as command
from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.weights import convert_checkpoint, load_weights
from rvrt_cli.weights.weights_file import TRAINED_DEGRADATIONS

Arrays = dict[str, np.ndarray]
NARROW = RVRTConfig(widths=(36, 36, 36))
BLOCK = "residual_group.blocks.0"


@pytest.fixture(scope="module")
def published() -> Arrays:
    return published_arrays()


@pytest.fixture(scope="module")
def narrow_arrays() -> Arrays:
    """A network of a quarter of the published width, quick to write, with some of its constants."""
    rng = np.random.default_rng(2)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in model.parameter_shapes(NARROW).items()}
    arrays["spynet.mean"] = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
    arrays["spynet.std"] = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
    arrays[f"feat_extract.main.5.0.{BLOCK}.attn.relative_position_index"] = position_index(1, 8)
    arrays[f"backbone.forward_2.main.5.1.{BLOCK}.attn.relative_position_index"] = position_index(2, 8)
    return arrays


@pytest.fixture
def narrow(narrow_arrays: Arrays) -> Arrays:
    return dict(narrow_arrays)


def _rejection(tmp_path: Path, arrays: Arrays, message: str) -> str:
    """The error message for a checkpoint of `arrays`; checks that nothing was written."""
    target = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=message) as caught:
        convert_checkpoint(checkpoint(tmp_path / "in.pth", arrays), target)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_helper_makes_the_published_layout(published: Arrays) -> None:
    """Guards the tests below: 504 entries, 10 782 295 weights without constants and index buffers."""
    assert {name: array.shape for name, array in published.items()} == published_shapes()
    constants = ("spynet.mean", "spynet.std")
    weights = [array.size for name, array in published.items() if name not in constants and "index" not in name]
    assert len(published) == 504
    assert sum(weights) == 10_782_295


@pytest.mark.slow
def test_published_checkpoint_converts_exactly(tmp_path: Path, published: Arrays) -> None:
    source = checkpoint(tmp_path / "003_RVRT_videosr_bd_Vimeo_14frames.pth", published)
    target = tmp_path / "deeper" / "out.safetensors"
    convert_checkpoint(source, target)
    weights = load_weights(target)
    dropped = {name for name in published if "relative_position_index" in name} | {"spynet.mean", "spynet.std"}
    assert set(weights.arrays) == set(published) - dropped
    for name, array in weights.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, published[name], err_msg=name)
    assert weights.config == PRESETS["rvrt"]
    assert weights.card["name"] == "rvrt-bd-vimeo"
    assert weights.card["trained"] is True
    assert weights.card["degradation"] == "bd"
    assert "non-commercial" in weights.card["license"]
    assert weights.card["source"] == source.name
    assert weights.card["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_width_is_inferred_and_card_entries_can_be_given(tmp_path: Path, narrow: Arrays) -> None:
    source = checkpoint(tmp_path / "mine.pth", narrow, nested=None)
    weights = convert_checkpoint(source, tmp_path / "out.safetensors", {"degradation": "video", "data": "my films"})
    assert weights.config == NARROW
    assert (weights.card["name"], weights.card["degradation"], weights.card["data"]) == ("mine", "video", "my films")
    assert "unknown" in weights.card["license"]
    assert load_weights(tmp_path / "out.safetensors").card == weights.card


def test_weights_of_unknown_training_do_not_claim_any(tmp_path: Path, narrow: Arrays) -> None:
    target = tmp_path / "out.safetensors"
    cards = [None, {"degradation": "video"}, {"data": "my films"}]
    for card, trained in zip(cards, (None, True, True), strict=True):
        source = checkpoint(tmp_path / "mine.pth", narrow)
        assert convert_checkpoint(source, target, card, overwrite=True).card["trained"] is trained
    initial = {
        name: np.ones_like(array)
        if re.search(r"norm\d\.weight", name)
        else np.zeros_like(array)
        if re.search(r"norm\d\.bias", name)
        else array
        for name, array in narrow.items()
    }
    for name in ("mine.pth", "003_RVRT_videosr_bd_Vimeo_14frames.pth"):  # as PyTorch makes a network
        source = checkpoint(tmp_path / name, initial)
        assert convert_checkpoint(source, target, {"degradation": "bi"}, overwrite=True).card["trained"] is False
    assert load_weights(target).card["trained"] is False


def test_the_prefix_of_parallel_training_is_removed(tmp_path: Path, narrow: Arrays) -> None:
    plain = convert_checkpoint(checkpoint(tmp_path / "a.pth", narrow), tmp_path / "a.safetensors")
    prefixed = {f"module.{name}": array for name, array in narrow.items()}
    found = convert_checkpoint(checkpoint(tmp_path / "b.pth", prefixed), tmp_path / "b.safetensors")
    assert found.arrays.keys() == plain.arrays.keys()
    assert all(np.array_equal(found.arrays[name], array) for name, array in plain.arrays.items())
    del prefixed["module.conv_last.weight"]
    _rejection(tmp_path, prefixed | {"conv_last.weight": narrow["conv_last.weight"]}, "not an RVRT network")


def test_half_precision_becomes_single(tmp_path: Path, narrow: Arrays) -> None:
    halves = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in narrow.items()}
    weights = convert_checkpoint(checkpoint(tmp_path / "in.pth", halves), tmp_path / "out.safetensors")
    np.testing.assert_array_equal(weights.arrays["conv_last.weight"], halves["conv_last.weight"].astype(np.float32))
    assert weights.arrays["conv_last.weight"].dtype == np.float32


def test_sizes_are_inferred_from_names_and_shapes(tmp_path: Path) -> None:
    config = RVRTConfig(widths=(24, 24, 24), groups=(1, 1, 2), depths=(1, 3, 2), heads=(2, 3, 4), upsampler_width=16)
    arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
    assert convert_checkpoint(checkpoint(tmp_path / "in.pth", arrays), tmp_path / "out.safetensors").config == config


def test_light_is_recognized_by_the_absence_of_spynet(tmp_path: Path) -> None:
    config = RVRTConfig(widths=(24, 24, 24), alignment="neighborhood", relative_position_bias=False)
    arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
    assert convert_checkpoint(checkpoint(tmp_path / "in.pth", arrays), tmp_path / "out.safetensors").config == config


def test_missing_unexpected_and_mismatched_names_are_listed(tmp_path: Path, narrow: Arrays) -> None:
    del narrow["backbone.forward_1.main.5.1.linear.bias"]
    narrow["feat_extract.main.5.0.extra"] = np.zeros(3, np.float32)
    narrow["conv_last.bias"] = np.zeros(4, np.float32)
    text = _rejection(tmp_path, narrow, "weights of a different network")
    assert "1 missing (backbone.forward_1.main.5.1.linear.bias)" in text
    assert "1 unexpected (feat_extract.main.5.0.extra)" in text
    assert "1 with mismatched shape (conv_last.bias 4 instead of 3)" in text


@pytest.mark.parametrize("lost", ["feat_extract.main.1.weight", "conv_before_upsampler.0.weight", "spynet."])
def test_missing_arrays_that_give_the_sizes_are_listed(tmp_path: Path, narrow: Arrays, lost: str) -> None:
    arrays = {name: array for name, array in narrow.items() if not name.startswith(lost)}
    text = _rejection(tmp_path, arrays, "weights of a different network")
    assert f"1 missing ({lost})" in text or "unexpected" in text


@pytest.mark.parametrize("preset", ["rvrt-deblur", "rvrt-denoise"])
def test_restoration_is_recognized_by_its_shallow_extraction(tmp_path: Path, preset: str) -> None:
    config = replace(PRESETS[preset], widths=(24, 24, 24), depths=(1, 2, 1), upsampler_width=16)
    arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
    assert (
        convert_checkpoint(checkpoint(tmp_path / "whole.pth", arrays), tmp_path / "whole.safetensors").config == config
    )
    del arrays["feat_extract.1.weight"]
    assert "missing (feat_extract.1.weight)" in _rejection(tmp_path, arrays, "weights of a different network")


@pytest.mark.parametrize("name", ["feat_extract.3.weight", "backbone.forward_2.main.1.weight"])
def test_wrong_shapes_of_restoration_are_listed(tmp_path: Path, name: str) -> None:
    config = replace(PRESETS["rvrt-denoise"], widths=(24, 24, 24))
    arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
    arrays[name] = np.ones((24, 7, 1, 3, 3), np.float32)  # no divisor of the channels
    assert f"({name} 24×7×1×3×3 instead of" in _rejection(tmp_path, arrays, "weights of a different network")


def test_other_networks_are_rejected(tmp_path: Path) -> None:
    text = _rejection(tmp_path, {"conv_first.weight": np.zeros((3, 3), np.float32)}, "not an RVRT network")
    assert "conv_first.weight" in text


def test_absurd_widths_are_rejected_before_a_network_is_built(tmp_path: Path) -> None:
    arrays = {f"{part}.main.1.weight": np.zeros((4080, 1), np.float32) for part in ("feat_extract", "reconstruction")}
    arrays["backbone.backward_1.main.1.weight"] = np.zeros((4080, 1), np.float32)
    _rejection(tmp_path, arrays | {"spynet.x": np.zeros(1, np.float32)}, "far larger network")


@pytest.mark.parametrize("where", ["spynet.mean", "spynet.std", "feat_extract", "backbone"])
def test_constants_must_equal_those_of_the_network(tmp_path: Path, narrow: Arrays, where: str) -> None:
    name = next(name for name in narrow if name.startswith(where) and (where[0] == "s" or "index" in name))
    narrow[name] = narrow[name] + 1
    text = _rejection(tmp_path, narrow, "differs from the network's constant")
    assert name[:60] in text
    narrow[name] = narrow[name][..., :2]
    _rejection(tmp_path, narrow, "differs from the network's constant")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_rejected(tmp_path: Path, narrow: Arrays, value: float) -> None:
    narrow["conv_last.bias"] = np.array([0, value, 0], np.float32)
    assert "conv_last.bias" in _rejection(tmp_path, narrow, "finite")


def test_integer_weights_are_rejected(tmp_path: Path, narrow: Arrays) -> None:
    narrow["conv_last.bias"] = np.array([0, 1, 0], np.int64)
    assert "conv_last.bias" in _rejection(tmp_path, narrow, "finite")


def test_existing_target_is_replaced_only_on_request(tmp_path: Path, narrow: Arrays) -> None:
    source = checkpoint(tmp_path / "in.pth", narrow)
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    with pytest.raises(WeightsError, match="--overwrite"):
        convert_checkpoint(source, target)
    assert target.read_text() == "precious"
    convert_checkpoint(source, target, overwrite=True)
    assert load_weights(target).config == NARROW
    before = source.read_bytes()
    with pytest.raises(WeightsError, match="same file"):
        convert_checkpoint(source, source, overwrite=True)
    assert source.read_bytes() == before


# ---- the commands


def test_convert_and_info_commands(tmp_path: Path, narrow: Arrays) -> None:
    source, target = checkpoint(tmp_path / "in.pth", narrow), tmp_path / "out.safetensors"
    run = CliRunner().invoke(command, ["convert", str(source), str(target), "--degradation", "bi", "--name", "[red]x"])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(command, ["info", str(target), "--json"])
    facts = json.loads(run.stdout)
    assert facts["card"]["degradation"] == "bi"
    assert facts["config"]["widths"] == [36, 36, 36]
    assert facts["parameters"] == sum(np.prod(shape) for shape in model.parameter_shapes(NARROW).values())
    convert_checkpoint(source, tmp_path / "unknown.safetensors")
    shown = CliRunner().invoke(command, ["info", str(tmp_path / "unknown.safetensors")]).output
    assert re.search(r"trained +unknown", shown)
    text = CliRunner().invoke(command, ["info", str(target)]).output
    assert "36, 36, 36" in text
    assert "[red]x" in text, "text out of a file must not be taken for markup"
    run = CliRunner().invoke(command, ["convert", str(source), str(target)])
    assert isinstance(run.exception, WeightsError)


def test_convert_command_offers_every_degradation() -> None:
    option = next(option for option in command.commands["convert"].params if option.name == "degradation")
    assert tuple(option.type.choices) == TRAINED_DEGRADATIONS


def test_convert_command_rejects_code(tmp_path: Path) -> None:
    evil = encode({"w": tensor(0, (1,))}).replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n")
    source = zip_file(tmp_path / "in.pth", b"\x80\x02" + evil + b".", {})
    run = CliRunner().invoke(command, ["convert", str(source), str(tmp_path / "out.safetensors")])
    assert isinstance(run.exception, WeightsError)
    assert "os.system" in str(run.exception)


def test_list_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path))
    (tmp_path / "broken[bold].safetensors").write_bytes(b"x")
    entries = {entry["name"]: entry for entry in json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)}
    assert entries["rvrt-bd-vimeo"]["state"] == "available"
    assert entries["broken[bold]"]["state"] == "damaged"
    run = CliRunner().invoke(command, ["list"])
    assert run.exit_code == 0
    for word in ("rvrt-bi-reds", "rvrt-bi-vimeo", "rvrt-bd-vimeo", "non-commercial", "broken[bold]", str(tmp_path)):
        assert word in run.output
