# SPDX-License-Identifier: Apache-2.0
"""Where neither MindSpore nor onnx can be imported: networks are converted, exported and run all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from helpers.checkpoint_files import checkpoint, position_index
from helpers.exported_networks import CARD, NETWORKS, WITHOUT_MINDSPORE, weights_of, write_export

from rvrt_cli.model import RVRTConfig
from rvrt_cli.weights import save_weights


def run_without_mindspore(*words: str | Path) -> str:
    """Output of `rvrt` with these words."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_MINDSPORE, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def frames(tmp_path: Path) -> list[np.ndarray]:
    """Two frames of 16×12 px, in the folder "in"."""
    (tmp_path / "in").mkdir()
    y, x = np.mgrid[:12, :16]
    for t in range(2):
        gray = (127 + 100 * np.sin(0.5 * x + 0.3 * y - t)).astype(np.uint8)
        iio.imwrite(tmp_path / "in" / f"{t}.png", np.stack([gray] * 3, -1))
    return read_frames(tmp_path / "in")


def read_frames(folder: Path) -> list[np.ndarray]:
    return [iio.imread(path).astype(float) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("name", ["guided", "plain", "kanade"])
def test_the_same_model_is_exported(name: str, tmp_path: Path) -> None:
    """Byte for byte: with MindSpore's types and cells, and with what stands in for them."""
    weights = tmp_path / "network.safetensors"
    save_weights(weights, weights_of(NETWORKS[name]), NETWORKS[name], CARD)
    run_without_mindspore("export", tmp_path / "without.onnx", "--weights", weights, "--frames", 4, "--lookahead", 2)
    write_export(tmp_path / "with.onnx", NETWORKS[name], 4, 2)
    assert (tmp_path / "without.onnx").read_bytes() == (tmp_path / "with.onnx").read_bytes()


@pytest.mark.slow
def test_embedded_network_without_options(
    frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but source and target given."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    said = run_without_mindspore("upscale", f"{tmp_path}/in/", f"{tmp_path}/out/")
    assert "MindSpore is not installed: the network runs in ONNX Runtime" in said
    for frame, source in zip(read_frames(tmp_path / "out"), frames, strict=True):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.reshape(12, 4, 16, 4, 3).mean((1, 3)) - source).mean() < 4


@pytest.mark.slow
def test_published_checkpoint_is_converted_and_run(
    frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the published structure, narrower: zeros in all weights leave the bilinear residual."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    config = RVRTConfig(widths=(36, 36, 36))
    arrays = {name: np.zeros_like(array) for name, array in weights_of(config).items()}
    arrays["feat_extract.main.5.0.residual_group.blocks.0.attn.relative_position_index"] = position_index(1, 8)
    checkpoint(tmp_path / "published.pth", arrays)
    run_without_mindspore("weights", "convert", tmp_path / "published.pth", tmp_path / "network.safetensors")
    words = ["--weights", tmp_path / "network.safetensors", "--window", 2, "--lookahead", 0]
    run_without_mindspore("upscale", f"{tmp_path}/in/", f"{tmp_path}/out/", *words)
    upscaled = read_frames(tmp_path / "out")
    assert len(upscaled) == 2
    for frame, source in zip(upscaled, frames, strict=True):
        middle = source[2:-2, 2:-2]
        bilinear = (9 * source[1:-3, 1:-3] + 15 * (source[1:-3, 2:-2] + source[2:-2, 1:-3]) + 25 * middle) / 64
        assert np.abs(frame[8:-8:4, 8:-8:4] - bilinear).max() <= 0.51
