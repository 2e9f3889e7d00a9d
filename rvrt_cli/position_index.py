# SPDX-License-Identifier: Apache-2.0
"""Relative positions of a window's pixels, as published checkpoints and the attention number them. No MindSpore import."""

from __future__ import annotations

import numpy as np


def relative_position_index(window: tuple[int, int, int]) -> np.ndarray:
    """Row of the bias table for each pair of a window's pixels: (L, L) int32.

    A row stands for the displacement (t, y, x) between the two, counted from -(edge - 1) along each axis.
    """
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in window), indexing="ij"), -1).reshape(-1, 3)
    shift = grid[:, None] - grid[None, :] + np.array(window) - 1
    edges = 2 * np.array(window) - 1
    return ((shift[..., 0] * edges[1] + shift[..., 1]) * edges[2] + shift[..., 2]).astype(np.int32)
