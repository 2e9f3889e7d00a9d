# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and the Y channel, after the field's protocols (MATLAB's `rgb2ycbcr` and `ssim`, valid windows only).

Images are (H, W, 3) or (H, W), levels 0…255. Scores are computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Luma (..., H, W) in 16…235, float64 and unrounded, of RGB (..., H, W, 3).

    ITU-R BT.601 as MATLAB's `rgb2ycbcr`: (65.481 R + 128.553 G + 24.966 B) / 255 + 16. Floating point pixels, levels
    0…255, are first rounded to whole levels and clipped, as the field does by going through uint8.
    """
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image), 0, 255)
    return image @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def rgb_to_cbcr(image: np.ndarray) -> np.ndarray:
    """Chroma, Cb and Cr (..., H, W, 2) in 16…240, of RGB (..., H, W, 3); otherwise as `rgb_to_y`."""
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image), 0, 255)
    return image @ (np.array([[-37.797, 112.0], [-74.203, -93.786], [112.0, -18.214]]) / 255) + 128


def chroma_error(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean squared errors of Cb and Cr (2,) over all frames of two RGB clips (T, H, W, 3), in squared levels."""
    errors = [
        np.mean((rgb_to_cbcr(frame) - rgb_to_cbcr(target)) ** 2, (0, 1))
        for frame, target in zip(frames, reference, strict=True)
    ]
    return np.mean(errors, 0)


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio [dB] for a peak of 255, over all pixels and channels; infinite for equal images.

    Raises:
        ValueError: the shapes differ.
    """
    image, reference = _pair(image, reference)
    error = np.mean((image - reference) ** 2)
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004): 11×11 Gaussian of σ 1.5, K = (0.01, 0.03), mean over the valid region.

    Channels are scored alone and averaged. The weighted (not the sample) covariance is used, as in MATLAB's.

    Raises:
        ValueError: the shapes differ, or a side is under 11 px.
    """
    image, reference = _pair(image, reference)
    if min(image.shape[:2]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs {_SSIM_WINDOW} px a side, not {image.shape[0]}×{image.shape[1]} px")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _window_mean(image), _window_mean(reference)
    variance_a = _window_mean(image**2) - mean_a**2
    variance_b = _window_mean(reference**2) - mean_b**2
    covariance = _window_mean(image * reference) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float(np.mean(luminance * structure))


def clip_means(scores: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], float]:
    """Means per clip, and their mean: every clip counts the same however long it is (Vid4, UDM10, REDS4).

    Raises:
        ValueError: no clips, or a clip without frames.
    """
    if not scores or not all(len(frames) for frames in scores.values()):
        raise ValueError("every clip needs at least one frame's score")
    clips = {name: float(np.mean(frames)) for name, frames in scores.items()}
    return clips, float(np.mean(list(clips.values())))


def _pair(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if image.shape != reference.shape:
        raise ValueError(f"cannot compare shapes {image.shape} and {reference.shape}")
    return image.astype(np.float64), reference.astype(np.float64)


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean over each 11×11 window that lies inside (H, W[, C])."""
    offset = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    kernel = np.exp(-(offset**2) / (2 * _SSIM_SIGMA**2))
    kernel /= kernel.sum()
    height, width = (side - _SSIM_WINDOW + 1 for side in image.shape[:2])
    rows = sum(weight * image[k : k + height] for k, weight in enumerate(kernel))
    return np.asarray(sum(weight * rows[:, k : k + width] for k, weight in enumerate(kernel)))
