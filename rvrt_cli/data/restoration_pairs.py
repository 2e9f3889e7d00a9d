# SPDX-License-Identifier: Apache-2.0
"""Degradations that networks for restoration are trained to undo: `noise` and `blur`, at the size of the clip.

T frames, H×W px. Clips are uint8 RGB (T, H, W, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

import numpy as np

from rvrt_cli.data.degradation import add_noise
from rvrt_cli.frame import round_levels, to_pixels
from rvrt_cli.options import MAX_NOISE

VALIDATION_NOISE = 25.0  # levels of 255
VALIDATION_BLUR = 5  # frames that are averaged
LEAST_BLUR, MOST_BLUR = 3, 11  # frames that are averaged in training
_GAMMA = 2.2  # of the camera: shutters average light, not levels (Nah et al. 2017)


def random_noise(clip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`noisy` with a standard deviation that is uniform in 0 to 50 levels, as the published network was trained."""
    return noisy(clip, float(rng.uniform(0, MAX_NOISE)), rng)


def noisy(clip: np.ndarray, levels: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Input and target: (T, H, W, 4) float32, the noisy RGB and the noise level [0 to 1]; and the clip itself."""
    channel = np.full((*clip.shape[:3], 1), levels / 255, np.float32)
    return np.concatenate([add_noise(clip, levels, rng), channel], -1), clip


def random_blur(clip: np.ndarray, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`blurred` from a random odd number of neighbors, as many as `clip` has for `frames` frames."""
    most = min(MOST_BLUR, len(clip) // frames)
    return blurred(clip, int(rng.choice(range(LEAST_BLUR, most + 1, 2))), frames)


def blurred(clip: np.ndarray, averaged: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target, (frames, H, W, 3) uint8: means of `averaged` consecutive frames each, in light, and the middle ones.

    Raises:
        ValueError: the clip has fewer than averaged * frames frames.
    """
    if len(clip) < averaged * frames:
        raise ValueError(f"{len(clip)} frames, for {frames} means of {averaged}")
    groups = clip[: averaged * frames].reshape(frames, averaged, *clip.shape[1:])
    light = ((groups.astype(np.float32) / 255) ** _GAMMA).mean(1)
    return round_levels(255 * light ** (1 / _GAMMA), np.uint8), np.ascontiguousarray(groups[:, averaged // 2])


def validation_pair(clip: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of validation, the same in every run; `kind` is "noise" or "blur"."""
    if kind == "noise":
        return noisy(clip, VALIDATION_NOISE, np.random.default_rng(seed))
    return blurred(clip, VALIDATION_BLUR, max(1, len(clip) // VALIDATION_BLUR))


def input_pixels(low: np.ndarray) -> np.ndarray:
    """The RGB of a network's input as uint8 (T, H, W, 3), to score what restoration starts from."""
    return low if low.dtype == np.uint8 else to_pixels(low[..., :3], np.empty((*low.shape[:3], 3), np.uint8))
