# SPDX-License-Identifier: Apache-2.0
"""Averages of weights files: values, model card, refusals, and the command."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rvrt_cli.cli.weights import weights_group as command
from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.weights import average_weights, find_weights, load_weights, save_weights

SMALL = RVRTConfig(
    widths=(4, 4, 4), groups=(1, 1, 1), depths=(1, 1, 1), heads=(1, 1, 1), align_heads=1, deformable_groups=2
)
CARD = {"name": "small", "trained": True, "degradation": "video", "license": "Apache-2.0", "steps": 7}


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"b.weight": rng.normal(size=(30, 40)).astype(np.float32), "scale": np.float32(rng.normal()).reshape(())}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Weights of three runs."""
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(paths):
        save_weights(path, arrays(seed), SMALL, CARD | {"name": f"run {seed}", "hours": 1.0 + seed})
    return paths


@pytest.mark.parametrize("shares", [None, [1, 1, 2], [0.1, 0.7, 0.3], [1e308, 1e308, 5e307]])
def test_each_weight_is_the_exact_mean_rounded_to_float32(
    tmp_path: Path, runs: list[Path], shares: list[float] | None
) -> None:
    done = average_weights(runs, tmp_path / "out.safetensors", shares)
    found = load_weights(tmp_path / "out.safetensors")
    assert (found.config, found.card) == (done.config, done.card)
    exact = [Fraction(share) for share in shares or [1, 1, 1]]
    for name, array in found.arrays.items():
        assert array.dtype == np.float32
        for values in zip(array.ravel(), *(arrays(seed)[name].ravel() for seed in range(3)), strict=True):
            mean = sum(share * Fraction(float(v)) for share, v in zip(exact, values[1:], strict=True)) / sum(exact)
            assert abs(float(values[0]) - float(mean)) <= np.spacing(np.float32(abs(mean))), name


def test_the_card_says_what_all_say_and_what_was_averaged(tmp_path: Path, runs: list[Path]) -> None:
    card = average_weights(runs[:2], tmp_path / "mean.safetensors", [3, 1]).card
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in runs]
    assert card == {
        "name": "mean",
        "trained": True,
        "degradation": "video",
        "license": "Apache-2.0",
        "averaged": [
            {"name": "run 0", "sha256": digests[0], "share": 0.75},
            {"name": "run 1", "sha256": digests[1], "share": 0.25},
        ],
    }
    save_weights(runs[1], arrays(1), SMALL, CARD | {"license": "MIT", "degradation": "real", "trained": None})
    card = average_weights(runs[:2], tmp_path / "other.safetensors", name="x").card
    assert (card["name"], card["degradation"], card["trained"]) == ("x", "video", None)
    assert "license" not in card


def test_halves_are_averaged_exactly(tmp_path: Path) -> None:
    values = [np.float16(0.1), np.float16(0.7)]
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, value in zip(paths, values, strict=True):
        save_weights(path, arrays(0) | {"scale": np.array(value)}, SMALL, CARD)
    scale = average_weights(paths, tmp_path / "c.safetensors").arrays["scale"]
    assert scale.dtype == np.float32
    assert scale == (np.float64(values[0]) + np.float64(values[1])) / 2


def test_what_has_no_average_is_refused_and_nothing_is_written(tmp_path: Path, runs: list[Path]) -> None:
    target = tmp_path / "out.safetensors"
    wide = tmp_path / "wide.safetensors"
    save_weights(wide, arrays(0), replace(SMALL, carry=0.5), CARD)
    narrow = tmp_path / "narrow.safetensors"
    save_weights(narrow, arrays(0) | {"b.weight": np.zeros((30, 39), np.float32)}, SMALL, CARD)
    for sources, shares, message in (
        (runs[:1], None, "an average needs two or more weights"),
        ([runs[0], wide], None, r"wide.safetensors: another structure than .*0.safetensors \(carry 0.5 instead of"),
        ([runs[0], narrow], None, "b.weight 30×39 instead of 30×40"),
        ([runs[0], tmp_path / "none.safetensors"], None, "no such file"),
        (runs, [1, 1], "--shares 1,1: give 3 positive numbers"),
        (runs, [1, 1, 0], "--shares 1,1,0"),
        (runs, [1, 1, -1], "--shares 1,1,-1"),
        (runs, [1, 1, float("nan")], "--shares 1,1,nan"),
        (runs, [1, 1, float("inf")], "--shares 1,1,inf"),
    ):
        with pytest.raises(WeightsError, match=message):
            average_weights(sources, target, shares)
        assert not target.exists()
    before = runs[2].read_bytes()
    with pytest.raises(WeightsError, match="already exists; give --overwrite"):
        average_weights(runs[:2], runs[2])
    assert runs[2].read_bytes() == before
    average_weights(runs, runs[2], overwrite=True)
    assert load_weights(runs[2]).card["averaged"][2]["sha256"] == hashlib.sha256(before).hexdigest()


def test_the_command_takes_names_and_files(tmp_path: Path) -> None:
    embedded = find_weights("rvrt-tiny")
    tiny, target = load_weights(embedded), tmp_path / "average.safetensors"
    other = tmp_path / "other.safetensors"
    save_weights(other, {name: array * np.float32(0.5) for name, array in tiny.arrays.items()}, tiny.config, tiny.card)
    run = CliRunner().invoke(command, ["average", "rvrt-tiny", str(other), str(target), "--shares", "3,1"])
    assert run.exit_code == 0, run.output
    assert f"{target}: 75 % rvrt-tiny, 25 % {other}" in run.output
    assert f"rvrt upscale --weights {target} SOURCE TARGET" in run.output
    made = load_weights(target)
    for name, array in tiny.arrays.items():
        assert np.array_equal(made.arrays[name], (array.astype(np.float64) * 0.875).astype(np.float32)), name
    info = CliRunner().invoke(command, ["info", str(target), "--json"])
    assert [part["share"] for part in json.loads(info.stdout)["card"]["averaged"]] == [0.75, 0.25]
    for arguments, message in (
        (["average", "rvrt-tiny", str(target)], "an average needs two or more weights"),
        (
            ["average", "rvrt-tiny", str(other), str(tmp_path / "x.safetensors"), "--shares", "1,much"],
            "--shares 1,much",
        ),
        (["average", "nothing", str(other), str(tmp_path / "x.safetensors")], "unknown weights"),
    ):
        run = CliRunner().invoke(command, arguments)
        assert isinstance(run.exception, WeightsError)
        assert message in str(run.exception)
