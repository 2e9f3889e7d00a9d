# SPDX-License-Identifier: Apache-2.0
"""Chroma detail only where the input gives reason for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rvrt_cli.data.resize import imresize
from rvrt_cli.errors import WeightsError
from rvrt_cli.model.chroma_shrinkage import shrink_chroma
from rvrt_cli.model.config import PRESETS

HEIGHT, WIDTH = 40, 56
Y_OF_RGB = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601
CBCR_OF_RGB = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255


def picture(seed: int = 3, coarseness: int = 8) -> np.ndarray:
    """(4H, 4W, 3) RGB levels from 64 to 192, with structure of `coarseness` px."""
    noise = np.random.default_rng(seed).uniform(64, 192, (4 * HEIGHT // coarseness, 4 * WIDTH // coarseness, 3))
    return np.clip(imresize(noise, float(coarseness)), 0, 255)


def shrunk(output: np.ndarray, low: np.ndarray) -> np.ndarray:
    """One frame through `shrink_chroma`, in levels."""
    video = np.ascontiguousarray(output[None, None] / 255, np.float32)
    shrink_chroma(video, np.asarray(low[None, None] / 255, np.float32))
    return video[0, 0].astype(np.float64) * 255


def interior(image: np.ndarray) -> np.ndarray:
    """Without the px near the edges, where MATLAB's bicubic mirrors and ours repeats."""
    return image[16:-16, 16:-16]


def added_chroma(output: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Difference in Cb and Cr to bicubic upscaling, by the resizing that golden values of MATLAB test."""
    return interior((output - imresize(low, 4.0)) @ CBCR_OF_RGB.T)


def share_kept(output: np.ndarray, low: np.ndarray) -> float:
    """Share of the added chroma that is left, by least squares."""
    added = added_chroma(output, low)
    return float(np.sum(added_chroma(shrunk(output, low), low) * added) / np.sum(added**2))


def test_luma_is_unchanged() -> None:
    low, output = (
        imresize(picture(), 0.25),
        picture() + np.random.default_rng(5).normal(0, 4, (4 * HEIGHT, 4 * WIDTH, 3)),
    )
    np.testing.assert_allclose(shrunk(output, low) @ Y_OF_RGB, output @ Y_OF_RGB, atol=2e-3)


@pytest.mark.parametrize("colors", ["gray", "one color"])
def test_gray_and_smooth_colors_keep_bicubic_chroma(colors: str) -> None:
    truth = np.full((4 * HEIGHT, 4 * WIDTH, 3), [150.0, 90.0, 60.0])
    if colors == "gray":
        truth = np.repeat(picture(coarseness=4)[..., :1], 3, -1)
    low = imresize(truth, 0.25)
    noisy = truth + np.random.default_rng(5).normal(0, 1, truth.shape)
    assert np.std(added_chroma(shrunk(noisy, low), low)) < np.std(added_chroma(noisy, low)) / 3


def test_fine_colors_keep_what_the_network_adds() -> None:
    truth = picture(coarseness=4)
    low = imresize(truth, 0.25)
    assert share_kept(truth, low) > 0.85


def test_what_subsampling_took_away_is_restored() -> None:
    """Chroma coarser than luma, as after 4:2:0 and compression, and a network that knows better."""
    truth = picture(coarseness=16)
    low = imresize(imresize(truth, 1 / 16), 4.0)
    assert share_kept(truth, low) > 0.5


def test_pixels_far_away_do_not_matter() -> None:
    low, output = imresize(picture(), 0.25), picture(4)
    whole = shrunk(output, low)
    part = shrunk(np.ascontiguousarray(output[:, : 4 * 40]), low[:, :40])
    np.testing.assert_allclose(whole[:, : 4 * 34], part[:, : 4 * 34], atol=2e-3)


def test_each_frame_of_each_video_is_for_itself() -> None:
    lows = np.stack([imresize(picture(seed), 0.25) for seed in range(6)]).reshape(2, 3, HEIGHT, WIDTH, 3) / 255
    outputs = np.stack([picture(seed + 10) for seed in range(4)]).reshape(2, 2, 4 * HEIGHT, 4 * WIDTH, 3) / 255
    found = outputs.astype(np.float32)
    shrink_chroma(found, lows.astype(np.float32))
    for n, t in np.ndindex(2, 2):
        np.testing.assert_array_equal(
            found[n, t] * np.float32(255), shrunk(outputs[n, t] * 255, lows[n, t] * 255).astype(np.float32)
        )


@pytest.mark.parametrize(
    "change", [{"chroma_shrinkage": 1}, {"chroma_shrinkage": "yes"}, {"scale": 1, "steadying": 0, "fused_neighbors": 0}]
)
def test_configurations_are_checked(change: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="chroma_shrinkage"):
        replace(PRESETS["rvrt-tiny"], **change)  # type: ignore[arg-type]
