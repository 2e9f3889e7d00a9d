# SPDX-License-Identifier: Apache-2.0
"""Steady output where the input stands still."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_networks import BARE

from rvrt_cli.errors import WeightsError
from rvrt_cli.model import RVRTConfig
from rvrt_cli.model.outline import FRAMES_STATE, OUTPUT_STATE
from rvrt_cli.model.steadying import SIGMA, steady

SHARE = 0.8


def outputs(frames: int, height: int = 12, width: int = 16, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 1, (batch, frames, 4 * height, 4 * width, 3)).astype(np.float32)


def still(frames: int, height: int = 12, width: int = 16, batch: int = 1) -> np.ndarray:
    frame = np.random.default_rng(4).uniform(0, 1, (batch, 1, height, width, 3)).astype(np.float32)
    return np.repeat(frame, frames, 1)


def test_still_input_gives_a_moving_average() -> None:
    """x'(T) = s^T x(0) + (1 - s) Σ s^(T-k) x(k), in float64."""
    given, found = outputs(6), outputs(6)
    steady(found, still(6), None, SHARE)
    for t in range(6):
        expected = SHARE**t * given[:, 0].astype(np.float64)
        for k in range(1, t + 1):
            expected += (1 - SHARE) * SHARE ** (t - k) * given[:, k]
        np.testing.assert_allclose(found[:, t], expected, atol=1e-6)


def test_what_moves_is_left_alone() -> None:
    frames = still(3)
    frames[:, 1] = (frames[:, 1] + 0.5) % 1  # far beyond sigma, everywhere
    found = outputs(3)
    steady(found, frames, None, SHARE)
    np.testing.assert_array_equal(found, outputs(3))


def test_the_share_falls_with_the_change() -> None:
    """A change by sigma in every pixel leaves s / e of the frame before."""
    frames = np.full((1, 2, 12, 16, 3), 0.5, np.float32)
    frames[:, 1] += SIGMA
    given, found = outputs(2), outputs(2)
    steady(found, frames, None, SHARE)
    weight = SHARE / np.e
    np.testing.assert_allclose(found[:, 1], weight * given[:, 0] + (1 - weight) * given[:, 1], atol=1e-5)


def test_a_change_counts_around_it_and_no_farther() -> None:
    frames = still(2)
    frames[:, 1, 6, 8] = 1 - frames[:, 1, 6, 8] + 0.3  # one pixel
    given, found = outputs(2), outputs(2)
    steady(found, frames, None, SHARE)
    held = SHARE * given[0, 0] + (1 - SHARE) * given[0, 1]
    near = np.zeros((12, 16), bool)
    near[3:10, 5:12] = True  # 2 px around it, and 1 px of transition
    near = near.repeat(4, 0).repeat(4, 1)
    np.testing.assert_allclose(found[0, 1][~near], held[~near], atol=1e-6)
    np.testing.assert_array_equal(found[0, 1, 24:28, 32:36], given[0, 1, 24:28, 32:36])


def test_parts_of_a_sequence_equal_the_whole() -> None:
    """Bit for bit, with a batch of two."""
    frames = still(5, batch=2) + np.linspace(0, 0.01, 5, dtype=np.float32)[:, None, None, None]
    whole = outputs(5, batch=2)
    steady(whole, frames, None, SHARE)
    parts = [outputs(5, batch=2)[:, part].copy() for part in (slice(0, 2), slice(2, 5))]
    kept = steady(parts[0], frames, None, SHARE)
    assert kept.shape == (2, 1, 12, 16, 48)
    steady(parts[1], frames[:, 2:], {FRAMES_STATE: frames[:, 1:2], OUTPUT_STATE: kept}, SHARE)
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize(
    "entries",
    [
        {"steadying": 1},
        {"steadying": -0.1},
        {"steadying": "much"},
        {"steadying": 0.5, "scale": 1},
        {"lead_in": -1},
        {"lead_in": 17},
    ],
)
def test_values_out_of_range_are_refused(entries: dict) -> None:
    with pytest.raises(WeightsError, match=r"steadying|lead_in"):
        RVRTConfig.from_dict({**BARE.to_dict(), **entries})
