# SPDX-License-Identifier: Apache-2.0
"""Which crops are worth training on: those with detail, and a few of the others."""

from __future__ import annotations

import numpy as np

from rvrt_cli.metrics import rgb_to_y

MIN_DETAIL = 3.0  # levels of luma; crops below are nearly flat
FLAT_SHARE = 0.1  # share of the nearly flat or static crops that is kept all the same
CROP_DRAWS = 4  # random crops tried until one is worth keeping; the last is taken as it is


def detail(crop: np.ndarray) -> float:
    """RMS [levels of luma] around the means of 4×4 blocks of (H, W, 3) uint8: about what reducing by 4 loses."""
    height, width = (side // 4 for side in crop.shape[:2])
    blocks = rgb_to_y(crop[: 4 * height, : 4 * width]).reshape(height, 4, width, 4)
    return float(np.sqrt(np.mean((blocks - blocks.mean((1, 3), keepdims=True)) ** 2)))


def worth_keeping(crop: np.ndarray, rng: np.random.Generator) -> bool:
    """True for a crop with detail, and for one in ten of the others."""
    return bool(rng.random() < FLAT_SHARE) or detail(crop) >= MIN_DETAIL
