# SPDX-License-Identifier: Apache-2.0
"""Flicker of still footage: how much the output changes between frames where the scene does not."""

from __future__ import annotations

import itertools

import numpy as np

from rvrt_cli.data.codecs import h264
from rvrt_cli.data.validation import CRF
from rvrt_cli.metrics import rgb_to_y

STILL_FRAMES = 28  # two windows of 14, so that the step between windows counts
NOISE_SIGMA = 2.0  # levels, of a camera in good light


def still_footage(frame: np.ndarray) -> np.ndarray:
    """(28, h, w, 3) of (h, w, 3), uint8: one frame repeated with Gaussian noise of σ 2, then H.264 at CRF 23.

    The noise is the same for every network.
    """
    noise = np.random.default_rng(0).normal(0, NOISE_SIGMA, (STILL_FRAMES, *frame.shape))
    return h264(np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8), CRF)


def mean_change(frames: np.ndarray) -> float:
    """Mean absolute change of luma between consecutive frames of (T, H, W, 3) uint8, in levels."""
    luma = [rgb_to_y(frame) for frame in frames]
    return float(np.mean([np.abs(after - before).mean() for before, after in itertools.pairwise(luma)]))
