# SPDX-License-Identifier: Apache-2.0
"""The protocols for deblurring and denoising: layouts, noise, scores, and networks that do not fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import RepeatNetwork, textured_clip, write_frames

import rvrt_cli.bench.resume_log
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import Dataset
from rvrt_cli.bench.published_figures import published_quality
from rvrt_cli.bench.quality import fitting_network, measure_quality
from rvrt_cli.bench.restoration_sets import open_restoration_set
from rvrt_cli.errors import OptionError
from rvrt_cli.model.config import PRESETS

LAYOUTS = {
    "gopro": ("test/{}/blur", "test/{}/sharp"),
    "dvd": ("quantitative_datasets/{}/input", "quantitative_datasets/{}/GT"),
    "gopro as published": ("test_GT_blurred/{}", "test_GT/{}"),
}


class SharpeningNetwork(RepeatNetwork):
    """A network at scale 1 that returns its input plus `add`, and records the noise that it is told."""

    config = replace(PRESETS["rvrt-tiny"], scale=1, fused_neighbors=0, steadying=0, chroma_shrinkage=False)
    scale, reduction = 1, 4
    noise: float | None = None

    def __call__(
        self, frames: np.ndarray, state: dict | None, emit: int, mirrored: bool = False, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, dict]:
        self.seen.append((frames.copy(), emit, mirrored))
        return frames[:, :emit] + self.add, {}

    def with_noise(self, noise: float) -> SharpeningNetwork:
        self.noise = noise
        return self


class NoiseNetwork(SharpeningNetwork):
    config = replace(SharpeningNetwork.config, noise_input=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rvrt_cli.bench.resume_log, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(rvrt_cli.bench.resume_log, "file_sha256", lambda *_: "")


def options(protocol: str, folder: Path, **values: object) -> BenchOptions:
    return BenchOptions(protocol=protocol, data=str(folder), **values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blurred_frames_are_paired_with_sharp_ones(tmp_path: Path, layout: str) -> None:
    protocol, (blurred, sharp) = layout.split()[0], LAYOUTS[layout]
    for index, name in enumerate(("b", "a")):
        frames = textured_clip(index, 3, 36, 44)
        write_frames(tmp_path / sharp.format(name), frames)
        write_frames(tmp_path / blurred.format(name), [np.roll(frame, 1, 1) for frame in frames])
    dataset = open_restoration_set(protocol, tmp_path, 50)
    assert [entry.name for entry in dataset.entries] == ["a", "b"]
    assert (dataset.degradation, dataset.channel, dataset.scale, dataset.noise) == ("blur", "rgb", 1, None)
    [pair] = dataset.entries[0].load()
    np.testing.assert_array_equal(pair.high, np.stack(textured_clip(1, 3, 36, 44)))
    np.testing.assert_array_equal(pair.low, np.roll(pair.high, 1, 2))


def test_noise_is_gaussian_unclipped_and_the_same_in_every_run(tmp_path: Path) -> None:
    frames = [np.full((64, 80, 3), level, np.uint8) for level in (0, 128, 255)]
    write_frames(tmp_path / "one", frames)
    dataset = open_restoration_set("davis", tmp_path, 30)
    [pair], [again] = dataset.entries[0].load(), dataset.entries[0].load()
    np.testing.assert_array_equal(pair.low, again.low)
    noise = 255 * pair.low - pair.high
    assert pair.low.dtype == np.float32
    assert pair.low.min() < 0 < 1 < pair.low.max()
    assert noise.std() == pytest.approx(30, rel=0.02)
    assert abs(noise.mean()) < 0.5
    assert abs(np.corrcoef(noise[0, :, :, 0].ravel(), noise[1, :, :, 0].ravel())[0, 1]) < 0.05


def test_scores_are_those_of_the_network_and_of_its_input(tmp_path: Path) -> None:
    """A network that adds one level to frames that are two levels off: 48.13 dB against 42.11 dB, on RGB."""
    frames = [frame.clip(0, 200) for frame in textured_clip(3, 4, 36, 44)]
    write_frames(tmp_path / "clip" / "sharp", frames)
    write_frames(tmp_path / "clip" / "blur", [frame - 2 for frame in frames])
    dataset = open_restoration_set("gopro", tmp_path, 50)
    result = measure_quality(options("gopro", tmp_path), dataset, SharpeningNetwork(1 / 255, "blur"))
    assert result["psnr_rgb"] == pytest.approx(20 * math.log10(255))
    assert result["input_psnr_rgb"] == pytest.approx(20 * math.log10(255 / 2))
    assert (result["baseline"], result["bicubic_psnr_rgb"]) == ("input", None)
    assert any("11 clips" in note for note in result["notes"])


def test_the_noise_level_is_told_to_the_network(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip", textured_clip(3, 4, 36, 44))
    network = NoiseNetwork(0.0, "noise")
    result = measure_quality(options("set8", tmp_path, sigma=20), open_restoration_set("set8", tmp_path, 20), network)
    assert network.noise == pytest.approx(20 / 255)
    assert result["noise"] == 20
    assert result["psnr_rgb"] == pytest.approx(result["input_psnr_rgb"])
    assert result["psnr_rgb"] == pytest.approx(20 * math.log10(255 / 20), abs=0.2)
    assert result["published"] == []  # of Set8, none was checked against the paper


def test_published_figures_are_those_of_the_noise_level() -> None:
    assert [entry["psnr"] for entry in published_quality("davis", "noise", 30)] == [36.57]
    assert published_quality("davis", "noise", 15) == []
    assert [(entry["psnr"], entry["ssim"]) for entry in published_quality("gopro", "blur")] == [(34.92, 0.9738)]
    assert [(entry["psnr"], entry["ssim"]) for entry in published_quality("dvd", "blur")] == [(34.30, 0.9655)]


def test_networks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    blurred = Dataset("gopro", "blur", "rgb", False, "", "", (), 0)
    with pytest.raises(OptionError, match="rvrt-deblur-gopro"):
        fitting_network(RepeatNetwork(), blurred)
    with pytest.raises(OptionError, match="upscales 4 times"):
        fitting_network(SharpeningNetwork(), replace(blurred, protocol="vid4", degradation="bi"))
    with pytest.raises(OptionError, match="choose set8 or davis"):
        fitting_network(NoiseNetwork(), blurred)


@pytest.mark.parametrize("protocol", ["gopro", "dvd", "set8", "davis"])
def test_other_folders_are_refused(tmp_path: Path, protocol: str) -> None:
    (tmp_path / "clip").mkdir()
    with pytest.raises(OptionError, match=f"not the test set {protocol}; expected clips"):
        open_restoration_set(protocol, tmp_path, 50)
    with pytest.raises(OptionError, match="--data"):
        open_restoration_set(protocol, tmp_path / "none", 50)


def test_sharp_frames_of_another_number_are_refused(tmp_path: Path) -> None:
    frames = textured_clip(3, 4, 36, 44)
    write_frames(tmp_path / "clip" / "sharp", frames)
    write_frames(tmp_path / "clip" / "blur", frames[:3])
    with pytest.raises(OptionError, match="expected as many of the same size"):
        list(open_restoration_set("gopro", tmp_path, 50).entries[0].load())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"protocol": "gopro", "sigma": 20.0}, "with --protocol set8 or davis"),
        ({"protocol": "davis", "sigma": 60.0}, "give 1 to 50"),
        ({"protocol": "davis", "degradation": "bi"}, "has its own"),
        ({"protocol": None, "sigma": 20.0}, "measures quality"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        BenchOptions(data=None if values["protocol"] is None else "folder", **values)
