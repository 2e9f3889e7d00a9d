# SPDX-License-Identifier: Apache-2.0
"""The scripts of weights/training, with which parts of the embedded weights were made."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.train_runs import make_store
from PIL import Image

import rvrt_cli
from rvrt_cli.files import tomllib
from rvrt_cli.weights import find_weights, load_weights, save_weights

SCRIPTS = Path(__file__).parents[2] / "weights" / "training"
LUMA = np.array([0.299, 0.587, 0.114])
pytestmark = pytest.mark.slow


def run_script(name: str, *arguments: object) -> None:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_chroma_fit_changes_chroma_alone(tmp_path: Path) -> None:
    store, output = make_store(tmp_path / "clips", frames=6, size=144), tmp_path / "fitted.safetensors"
    run_script("fit_chroma.py", find_weights("rvrt-tiny"), store, output, "--count", 6)
    before, after = load_weights(find_weights("rvrt-tiny")), load_weights(output)
    assert after.config == before.config
    changed = {name for name, array in after.arrays.items() if not np.array_equal(array, before.arrays[name])}
    assert changed == {"conv_last.weight", "conv_last.fused.weight", "conv_last.bias"}
    frames = np.random.default_rng(0).random((1, 4, 24, 32, 3), np.float32)
    shown = [
        np.asarray(rvrt_cli.load_network("rvrt-tiny", weights=path, device="cpu")(frames, None, emit=4)[0], np.float64)
        for path in (find_weights("rvrt-tiny"), output)
    ]
    change = shown[1] - shown[0]
    luma = np.abs(change @ LUMA).max()
    assert luma < 1e-4, f"luma changes by up to {luma:.1e}: more than weights of up to 5 in float32 explain"
    assert np.abs(change).max() > 100 * luma, "nothing was fitted"


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="fontconfig lists the fonts")
def test_pictures_of_text_are_drawn_the_same_again(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(photos / "a.png")
    for folder in ("one", "two"):
        run_script("text_pictures.py", photos, tmp_path / folder, 1)
    one, two = (np.asarray(Image.open(tmp_path / folder / "text__00.png")) for folder in ("one", "two"))
    assert one.shape == (2400, 3200, 3)
    assert np.array_equal(one, two)
    steps = np.abs(np.diff(one.astype(int), axis=1)).max(2)
    assert 0.005 < np.mean(steps > 60) < 0.5, "letters have strong edges"


def test_a_release_replaces_weights_and_training_state(tmp_path: Path) -> None:
    own = SCRIPTS.parent
    weights, folder, run = tmp_path / "weights/rvrt-tiny.safetensors", tmp_path / "weights/rvrt-tiny", tmp_path / "run"
    shutil.copytree(own / "rvrt-tiny", folder)
    shutil.copy(own / "rvrt-tiny.safetensors", weights)
    make_run(run)
    fitted = tmp_path / "fitted.safetensors"
    loaded = load_weights(weights)
    arrays = {name: 2 * array for name, array in loaded.arrays.items()}
    save_weights(fitted, arrays, loaded.config, loaded.card | {"name": "another"})
    scores = "--hours", 20.5, "--steps", 7, "--clean", 2.125, "--h264", 1.5
    run_script("release.py", fitted, run, "--repository", tmp_path, *scores)

    released = load_weights(weights)
    assert all(np.array_equal(array, arrays[name]) for name, array in released.arrays.items())
    assert released.card == loaded.card | {"hours": 20.5, "steps": 7, "scores": {"gain": {"clean": 2.125, "h264": 1.5}}}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000602.safetensors"]
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert steps == [1, 301, 500, 601]
    assert tomllib.loads((folder / "recipe.toml").read_text("utf-8")) == {"data": "", "output": "", "steps": 602}
    with (folder / "releases.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if 19 < float(row["hours"]) < 22]
    assert [row["hours"] for row in rows] == ["19.8", "20.5", "21.8"]
    assert rows[1] == {"hours": "20.5", "clean": "2.125", "h264": "1.5"}


def make_run(run: Path) -> None:
    """What a run of 602 steps leaves, of which one was validated."""
    (run / "checkpoints").mkdir(parents=True)
    for step in (400, 602):
        (run / f"checkpoints/{step:08}.safetensors").write_bytes(b"state")
    records = [{"step": step, "loss": -30.0} for step in range(1, 603) if step != 500]
    records.insert(499, {"step": 500, "gain": {"clean": 2.0}})
    (run / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    recipe = 'data = "clips"\noutput = "run"\ninit = "start.safetensors"\nval = "val"\nsteps = 602\n'
    (run / "recipe.toml").write_text(recipe, "utf-8")
