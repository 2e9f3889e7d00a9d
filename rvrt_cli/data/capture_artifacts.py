# SPDX-License-Identifier: Apache-2.0
"""What cameras leave in video before it is compressed: softness, noise, sharpening, and the two fields of interlacing.

T frames, h×w px, of the low resolution. Clips are uint8 RGB (T, h, w, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rvrt_cli.frame import round_levels

DEINTERLACERS = ("comb", "blend", "bob", "adaptive")
_DISPLAY_GAMMA = 2.2  # sensors count light, not levels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
_RGB_OF_CHROMA = np.array([[0, -0.344136, 1.772], [1.402, -0.714136, 0]], np.float32)  # of Cb and of Cr
_SMEAR_RADIUS = 2  # px
_COMB_THRESHOLD = 12.0  # levels of luma: what a motion-adaptive deinterlacer takes for still


@dataclass(frozen=True)
class SensorNoise:
    """Noise of a camera in the dark.

    Attributes:
        shot: variance of the photon noise per unit of light, white being 1.
        read: standard deviation of the readout noise, in the same unit.
        grain: σ of the blur that demosaicing and denoising leave on the noise [px].
        blotch: standard deviation of Cb and Cr in the blotches [levels].
        blotch_size: σ of the blotches [px].
    """

    shot: float
    read: float
    grain: float
    blotch: float
    blotch_size: float


def soften(clip: np.ndarray, sigma: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blur by a Gaussian of `sigma` px, then add white Gaussian noise of standard deviation `noise` levels."""
    pixels = _gaussian_blur(clip.astype(np.float32), sigma, radius=1)  # three taps hold a Gaussian this narrow
    pixels += np.float32(noise) * rng.standard_normal(pixels.shape, np.float32)
    return round_levels(pixels, np.uint8)


def night_noise(clip: np.ndarray, noise: SensorNoise, rng: np.random.Generator) -> np.ndarray:
    """Photon and readout noise (variance shot * light + read²), correlated between pixels, and blotches of chroma."""
    light = (clip.astype(np.float32) / 255) ** np.float32(_DISPLAY_GAMMA)
    light += np.sqrt(noise.shot * light + noise.read**2) * _correlated_noise(clip.shape, noise.grain, rng)
    levels = 255 * np.clip(light, 0, 1) ** np.float32(1 / _DISPLAY_GAMMA)
    levels += noise.blotch * _correlated_noise((*clip.shape[:3], 2), noise.blotch_size, rng) @ _RGB_OF_CHROMA
    return round_levels(levels, np.uint8)


def smear(clip: np.ndarray, noise: float) -> np.ndarray:
    """Denoise as phones do: flatten all texture whose contrast is near `noise` levels, and keep stronger edges.

    A Wiener filter by the mean and variance of 5×5 px.
    """
    pixels = clip.astype(np.float32)
    mean = _box_mean(pixels)
    variance = np.maximum(_box_mean(pixels**2) - mean**2, 0)
    gain = np.maximum(variance - noise**2, 0) / np.maximum(variance, max(noise**2, 1e-6))
    return round_levels(mean + gain * (pixels - mean), np.uint8)


def sharpen(clip: np.ndarray, sigma: float, amount: float) -> np.ndarray:
    """Unsharp mask on luma: add `amount` times what a Gaussian of `sigma` px takes away, which leaves halos at edges."""
    luma = (clip @ _LUMA)[..., None]
    detail = luma - _gaussian_blur(luma, sigma, radius=int(np.ceil(3 * sigma)))
    return round_levels(clip + np.float32(amount) * detail, np.uint8)


def interlace(clip: np.ndarray, deinterlacer: str, parity: int, step: int) -> np.ndarray:
    """Take the rows from `parity` (0 or 1), every second one, from the frame `step` (1 or -1) away, as the other field.

    Then what is left of that after one of `DEINTERLACERS`: "comb" none, "blend" mixes the fields, "bob" interpolates the
    other field from the frame's own, "adaptive" does so where the two differ by over 12 levels of luma.
    """
    other = np.clip(np.arange(len(clip)) + step, 0, len(clip) - 1)
    woven = clip.copy()
    woven[:, parity::2] = clip[other, parity::2]
    if deinterlacer == "comb":
        return woven
    padded = np.pad(woven.astype(np.float32), ((0, 0), (1, 1), (0, 0), (0, 0)), mode="reflect")
    neighbors = (padded[:, :-2] + padded[:, 2:]) / 2  # of each row
    if deinterlacer == "blend":
        return round_levels((neighbors + woven) / 2, np.uint8)
    moves = np.abs((neighbors - woven) @ _LUMA)[:, parity::2] > (_COMB_THRESHOLD if deinterlacer == "adaptive" else -1)
    woven[:, parity::2] = np.where(
        moves[..., None], round_levels(neighbors[:, parity::2], np.uint8), woven[:, parity::2]
    )
    return woven


def _gaussian_blur(pixels: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """float32 (T, h, w, C), blurred by 2 * radius + 1 taps along both sides; edges are repeated."""
    kernel = _gaussian(sigma, radius)
    height, width = pixels.shape[1:3]
    padded = np.pad(pixels, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    rows = kernel[0] * padded[:, radius : radius + height]
    for k in range(1, radius + 1):
        rows += kernel[k] * (padded[:, radius - k : radius - k + height] + padded[:, radius + k : radius + k + height])
    out = kernel[0] * rows[:, :, radius : radius + width]
    for k in range(1, radius + 1):
        out += kernel[k] * (rows[:, :, radius - k : radius - k + width] + rows[:, :, radius + k : radius + k + width])
    return out


def _gaussian(sigma: float, radius: int) -> np.ndarray:
    """The middle and one side of a normalized Gaussian kernel, (radius + 1,) float32."""
    taps = np.exp([-0.5 * k**2 / sigma**2 for k in range(radius + 1)])
    return taps.astype(np.float32) / np.float32(taps[0] + 2 * taps[1:].sum())


def _correlated_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (T, h, w, C) float32 of variance 1, as white noise has it after a Gaussian blur of `sigma` px."""
    radius = int(np.ceil(3 * sigma))
    frames, height, width, channels = shape
    white = rng.standard_normal((frames, height + 2 * radius, width + 2 * radius, channels), np.float32)
    kernel = _gaussian(sigma, radius)
    energy = kernel[0] ** 2 + 2 * (kernel[1:] ** 2).sum()  # along each side
    return _gaussian_blur(white, sigma, radius)[:, radius : radius + height, radius : radius + width] / energy


def _box_mean(pixels: np.ndarray) -> np.ndarray:
    """Means of (T, h, w, C) over 5×5 px; edges are reflected."""
    side = 2 * _SMEAR_RADIUS + 1
    height, width = pixels.shape[1:3]
    border = (_SMEAR_RADIUS, _SMEAR_RADIUS)
    padded = np.pad(pixels, ((0, 0), border, border, (0, 0)), mode="symmetric")
    rows = sum((padded[:, y : y + height] for y in range(1, side)), start=padded[:, :height])
    return sum((rows[:, :, x : x + width] for x in range(1, side)), start=rows[:, :, :width]) / np.float32(side**2)
