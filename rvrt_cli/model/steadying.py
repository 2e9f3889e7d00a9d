# SPDX-License-Identifier: Apache-2.0
"""Steady output where the input stands still (not in the paper). NumPy only.

What a recurrent network makes of a still scene changes from frame to frame with what it has seen before and sees after, and
lines flicker that bicubic leaves alone. Each output frame is therefore mixed with the one before, by a share that falls
with the change of the input around a pixel: x'(t) = x(t) + s · exp(-(d / σ)²) · (x'(t-1) - x(t)). It is the temporal
recursive filter of video denoising (Dubois and Sabri, "Noise Reduction in Image Sequences Using Motion-Compensated Temporal
Filtering", 1984) without motion compensation, applied to the output and controlled by the input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rvrt_cli.model.config import UPSAMPLING
from rvrt_cli.model.outline import FRAMES_STATE, OUTPUT_STATE

SIGMA = 2 / 255  # change of the input at which the share has fallen to 1/e
_REACH = 2  # LR px around a pixel whose largest change counts: as far as most of what an output pixel depends on
_LEAST = 1e-3  # shares below change nothing that can be seen
_MIXED_ROWS = 8  # LR rows that are mixed at a time


def steady(output: np.ndarray, frames: np.ndarray, state: Mapping[str, np.ndarray] | None, share: float) -> np.ndarray:
    """Mix each output frame with the one before where the input stands still.

    Args:
        output: (N, T, 4H, 4W, 3) float32, C-contiguous; written to.
        frames: (N, ≥T, H, W, 3) float32 in [0, 1], the input.
        state: the network's, after the frame before; None where a scene starts.
        share: s, of the frame before where nothing changes [0 to below 1].

    Returns:
        (N, 1, H, W, 3 * 4²) float32, for the next state: the last output frame, with the 4×4 output px of each input px as
        channels.
    """
    batch, length = output.shape[:2]
    height, width = frames.shape[2:4]
    rows = output.reshape(batch, length, height, UPSAMPLING, width * UPSAMPLING * 3)
    last_output = last_input = None
    if state is not None:
        last_input = state[FRAMES_STATE][:, -1]
        kept = state[OUTPUT_STATE].reshape(batch, height, width, UPSAMPLING, UPSAMPLING, 3).transpose(0, 1, 3, 2, 4, 5)
        last_output = kept.reshape(rows[:, 0].shape)
    for t in range(length):
        if last_output is not None:
            shares = _still_share(frames[:, t] - last_input, share)
            for current, last, weight in zip(rows[:, t], last_output, shares, strict=True):
                if weight.max() > _LEAST:
                    _mix(current, last, weight.repeat(UPSAMPLING * 3, -1))
        last_output, last_input = rows[:, t], frames[:, t]
    final = rows[:, -1].reshape(batch, height, UPSAMPLING, width, UPSAMPLING, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(final).reshape(batch, 1, height, width, 3 * UPSAMPLING**2)


def _mix(current: np.ndarray, last: np.ndarray, weight: np.ndarray) -> None:
    """`current` += weight · (last - current), for (H, 4, W · 12) and weights (H, W · 12); rows that stay in the cache."""
    for first in range(0, len(current), _MIXED_ROWS):
        part = slice(first, first + _MIXED_ROWS)
        difference = last[part] - current[part]
        difference *= weight[part, None]
        current[part] += difference


def _still_share(change: np.ndarray, share: float) -> np.ndarray:
    """Share of the frame before at each pixel, (N, H, W), from the change of the input, (N, H, W, 3)."""
    largest = np.abs(change).max(-1)
    for axis in (1, 2):
        largest = np.maximum.reduce(_shifted(largest, axis, _REACH))
    weight = share * np.exp(-np.square(largest / SIGMA))
    for axis in (1, 2):  # no visible edges between what is held and what is not
        weight = np.mean(_shifted(weight, axis, 1), axis=0)
    return weight.astype(np.float32)


def _shifted(image: np.ndarray, axis: int, reach: int) -> list[np.ndarray]:
    """`image` moved by -`reach` to `reach` px along an axis; its edges are repeated."""
    padding = [(reach, reach) if i == axis else (0, 0) for i in range(image.ndim)]
    padded = np.pad(image, padding, mode="edge")
    length = image.shape[axis]
    return [padded.take(range(start, start + length), axis) for start in range(2 * reach + 1)]
