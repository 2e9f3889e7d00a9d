# SPDX-License-Identifier: Apache-2.0
"""The scripts of weights/training, with which parts of the embedded weights were made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.train_runs import make_store
from PIL import Image

import rvrt_cli
from rvrt_cli.weights import find_weights, load_weights

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
