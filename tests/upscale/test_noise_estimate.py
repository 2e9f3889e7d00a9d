# SPDX-License-Identifier: Apache-2.0
"""The estimate of a source's noise, against noise of known standard deviation."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from rvrt_cli.errors import OptionError
from rvrt_cli.options import RestoreOptions
from rvrt_cli.upscale.noise_estimate import estimate_noise, noise_level, sampled_runs
from rvrt_cli.video.read.probe import probe


def photo(height: int = 180, width: int = 240) -> np.ndarray:
    """(H, W, 3) in [0.2, 0.8]: smooth shades, edges, and a textured quarter."""
    y, x = np.mgrid[:height, :width] / 60
    phases = np.array([0.0, 1.0, 2.0]).reshape(3, 1, 1)  # of the channels
    shades = 0.5 + 0.2 * np.sin(y + phases) * np.cos(1.3 * x)
    shades[:, height // 3 :, width // 2 :] += 0.1
    shades[:, : height // 2, : width // 2] += 0.05 * np.sin(40 * x + 25 * y)[: height // 2, : width // 2]
    return np.moveaxis(shades, 0, -1)


@pytest.mark.parametrize("levels", [2, 10, 25, 50])
def test_the_standard_deviation_of_white_noise_is_found(levels: float) -> None:
    noisy = photo() + np.random.default_rng(levels).normal(0, levels / 255, (180, 240, 3))
    assert 255 * estimate_noise(noisy) == pytest.approx(levels, rel=0.05, abs=0.3)


def test_a_clean_image_has_almost_no_noise() -> None:
    assert 255 * estimate_noise(photo()) < 0.5


def test_tiny_images_are_refused() -> None:
    with pytest.raises(ValueError, match="16 px a side"):
        estimate_noise(np.zeros((15, 99, 3)))


def test_frames_are_sampled_over_the_part_that_is_processed(tmp_path: Path) -> None:
    """Images of which only the second half is noisy."""
    rng = np.random.default_rng(7)
    for number in range(20):
        noisy = photo(64, 80) + rng.normal(0, (number >= 10) * 20 / 255, (64, 80, 3))
        iio.imwrite(tmp_path / f"{number:02d}.png", np.rint(255 * noisy.clip(0, 1)).astype(np.uint8))
    info = probe(tmp_path)
    middle = float(10 / info.frame_rate)
    clean = noise_level(RestoreOptions(sigma="auto", duration=middle), info)
    noisy = noise_level(RestoreOptions(sigma="auto", start=middle), info)
    assert clean is not None
    assert noisy is not None
    assert clean.levels < 1
    assert noisy.levels == pytest.approx(20, rel=0.1)
    assert "estimated from the frames (Chen, Zhu and Heng" in str(noisy)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_images_than_are_sampled_will_do(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(3)
    for number in range(count):
        noisy = photo(64, 80) + rng.normal(0, 20 / 255, (64, 80, 3))
        iio.imwrite(tmp_path / f"{number}.png", np.rint(255 * noisy.clip(0, 1)).astype(np.uint8))
    info = probe(tmp_path)
    found = noise_level(RestoreOptions(sigma="auto"), info)
    assert found is not None
    assert found.levels == pytest.approx(20, rel=0.1)
    runs = list(sampled_runs(info, (0.0, info.duration), 6, 3))
    assert sum(map(len, runs)) == {1: 1, 2: 2, 4: 6}[count]


def test_a_given_level_is_taken_as_it_is(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "1.png", np.zeros((16, 16, 3), np.uint8))
    given = noise_level(RestoreOptions(sigma="12.5"), probe(tmp_path))
    assert str(given) == "standard deviation 12.5 of 255 levels"


@pytest.mark.parametrize("sigma", ["-1", "51", "nan", "loud", ""])
def test_impossible_levels_are_refused(sigma: str) -> None:
    with pytest.raises(OptionError, match="give 0 to 50"):
        RestoreOptions(sigma=sigma)
