# SPDX-License-Identifier: Apache-2.0
"""`rvrt restore` on the real command line, with small networks; what it shares with `rvrt upscale` is tested there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from golden.named_weights import named_array
from helpers.commands import refusal, rvrt
from helpers.video_clips import ffmpeg, leftovers, look

from rvrt_cli.errors import OptionError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.upscale import load_network
from rvrt_cli.video.read.probe import probe
from rvrt_cli.weights import save_weights

DEBLUR = replace(
    PRESETS["rvrt-tiny"],
    scale=1,
    fused_neighbors=0,
    steadying=0,
    chroma_shrinkage=False,
    widths=(8, 8, 8),
    depths=(1, 1, 1),
    conv_groups=(1, 2, 2, 2, 2, 2),
)
DENOISE = replace(DEBLUR, noise_input=True)


def write_network(path: Path, config: RVRTConfig, degradation: str) -> Path:
    arrays = {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}
    arrays["conv_last.weight"] *= 0.05  # the output is the input and a little
    save_weights(path, arrays, config, {"name": path.stem, "trained": True, "degradation": degradation})
    return path


@pytest.fixture(scope="module")
def deblur(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("weights") / "deblur.safetensors", DEBLUR, "blur")


@pytest.fixture(scope="module")
def denoise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("weights") / "denoise.safetensors", DENOISE, "noise")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of 46×38 px, which is no multiple of four, with audio."""
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    video = ["-f", "lavfi", "-i", "testsrc2=s=46x38:r=25", "-f", "lavfi", "-i", "sine=d=0.24"]
    ffmpeg(*video, "-frames:v", "6", "-c:v", "libx264", "-preset", "ultrafast", "-qp", "5", "-c:a", "flac", path)
    return path


@pytest.mark.slow
def test_a_video_comes_out_at_its_own_size(
    clip: Path, deblur: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "out.mkv"
    assert rvrt(monkeypatch, "restore", clip, target, "--weights", deblur, "--crf", "5", "--window", "4") == 0
    assert "target: " + str(target) + ", 46x38 px" in capsys.readouterr().err
    assert [stream.type for stream in look(target)] == [stream.type for stream in look(clip)] == ["video", "audio"]
    before, after = iio.imread(clip, plugin="pyav"), iio.imread(target, plugin="pyav")
    assert before.shape == after.shape == (6, 38, 46, 3)
    change = np.abs(before.astype(int) - after)
    assert 0.1 < change.mean() < 20
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_the_noise_level_reaches_the_network_and_is_printed(
    clip: Path, denoise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    frames = {}
    for sigma in ("0", "50", "auto"):
        target = tmp_path / sigma
        words = ["restore", clip, f"{target}/", "--weights", denoise, "--sigma", sigma, "--json"]
        assert rvrt(monkeypatch, *words) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        [noise] = [event["noise"] for event in events if event["event"] == "begin"]
        frames[sigma] = np.stack([iio.imread(path) for path in sorted(target.iterdir())])
        assert 0 < noise < 50 if sigma == "auto" else noise == float(sigma)
    assert np.abs(frames["0"].astype(int) - frames["50"]).max() >= 2
    assert (
        rvrt(monkeypatch, "restore", clip, tmp_path / "x.mkv", "--weights", denoise, "--sigma", "25", "--dry-run") == 0
    )
    assert "noise: standard deviation 25 of 255 levels" in capsys.readouterr().err


def test_networks_and_options_that_do_not_fit_are_refused_in_one_line(
    clip: Path,
    deblur: Path,
    denoise: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def said(command: str, *words: object) -> str:
        return refusal(monkeypatch, capsys, command, clip, tmp_path / "out.mkv", *words)

    assert "upscales 4 times; use rvrt upscale" in said("restore", "--model", "rvrt-tiny")
    assert "use rvrt restore" in said("upscale", "--weights", deblur)
    assert "needs the noise level; give --sigma" in said("restore", "--weights", denoise)
    assert "deblur does not denoise; omit --sigma" in said("restore", "--weights", deblur, "--sigma", "25")
    assert "--sigma 99: give 0 to 50" in said("restore", "--weights", denoise, "--sigma", "99")
    assert "rvrt weights pull rvrt-deblur-gopro" in said("restore")
    stream = ["restore", "-", tmp_path / "out.mkv", "--weights", denoise, "--sigma", "auto"]
    monkeypatch.setattr("rvrt_cli.upscale.job.probe", lambda source, fps: replace(probe(clip), kind="y4m"))
    assert "a stream cannot be read twice; give a number" in refusal(monkeypatch, capsys, *stream)
    assert not (tmp_path / "out.mkv").exists()


def test_a_loaded_network_asks_for_its_noise_level(denoise: Path, deblur: Path) -> None:
    frames = np.zeros((1, 2, 32, 32, 3), np.float32)
    with pytest.raises(OptionError, match="give --sigma"):
        load_network(weights=denoise)(frames, None, 2)
    with pytest.raises(OptionError, match="takes no noise level"):
        load_network(weights=deblur, noise=0.1)
