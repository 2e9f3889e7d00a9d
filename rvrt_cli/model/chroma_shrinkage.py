# SPDX-License-Identifier: Apache-2.0
"""Chroma detail only where the input gives reason for it (not in the paper). NumPy only.

A small network learns luma first, and leaves a noise of half a level in Cb and Cr: in nearly gray or smooth colors that is
more than bicubic upscaling errs. What the network adds to bicubic chroma is therefore multiplied by a gain from 0 to 1, as
in Wiener shrinkage (Lee, "Digital Image Enhancement and Noise Filtering by Use of Local Statistics", 1980). Its reasons,
from mean squares around each input pixel:

- The input has fine chroma detail E: the gain is E / (E + τ).
- The input's chroma is coarser than pictures are, as after 4:2:0 subsampling and compression (E far below V, the detail of
  the next scale), and the network adds more than is left there (R above E): the network restores what was lost.

τ and the other constants were chosen on training clips and the validation clips of weights/README.md: the mildest for which
no channel of the latter falls below bicubic. Luma is not changed.
"""

from __future__ import annotations

import functools

import numpy as np

from rvrt_cli.cubic_kernel import MATLAB_SLOPE, keys_kernel
from rvrt_cli.model.config import UPSAMPLING

# ITU-R BT.601, levels from RGB in [0, 1]
_TO_CBCR = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float32)
_TO_YCBCR = np.vstack([[[65.481, 128.553, 24.966]], _TO_CBCR])
_FROM_CBCR = np.linalg.inv(_TO_YCBCR)[:, 1:].T.astype(np.float32)  # at constant luma
_NOISE = 10.0  # τ, mean square of fine detail at which half of the network's chroma is kept [levels²]
_COARSE = 0.4  # E / V at which fine detail counts as missing
_ROUNDING = 0.05  # added to mean squares, below which 8-bit rounding is all there is [levels²]
_PRODUCT_WIDTH = 32  # input px that are upscaled by one matrix product
_TAPS = 2  # input px on either side that bicubic interpolation takes


def shrink_chroma(output: np.ndarray, frames: np.ndarray) -> None:
    """Shrink the difference of the output's Cb and Cr to bicubic upscaling where the input gives no reason for it.

    Args:
        output: (N, T, 4H, 4W, 3) float32 RGB, C-contiguous; written to.
        frames: (N, ≥T, H, W, 3) float32 in [0, 1], the input.
    """
    for video, source in zip(output, frames, strict=True):
        for frame, low in zip(video, source, strict=False):
            _shrink_frame(frame, low)


def _shrink_frame(frame: np.ndarray, low: np.ndarray) -> None:
    height, width, _ = low.shape
    chroma = low @ _TO_CBCR.T
    added = _per_pixel(frame, _TO_CBCR.T)
    added -= _bicubic(chroma)
    cells = added.reshape(height, UPSAMPLING, width * UPSAMPLING * 2)  # a row holds those of one input row, four times
    power = np.square(cells).sum(1).reshape(height, width, UPSAMPLING, 2).sum(2) / np.float32(UPSAMPLING**2)
    removed = 1 - _gain(chroma, _box(power, 2))
    cells *= np.repeat(removed[:, :, None], UPSAMPLING, 2).reshape(height, 1, -1)
    frame -= _per_pixel(added, _FROM_CBCR)


def _per_pixel(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(4H, 4W, D) from (4H, 4W, C) by a matrix (C, D), 16 px at once: BLAS is slow with few columns."""
    at_once = np.kron(np.eye(UPSAMPLING**2, dtype=np.float32), matrix)
    return (image.reshape(-1, len(at_once)) @ at_once).reshape(*image.shape[:2], -1)


def _gain(chroma: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Gain from 0 to 1 of what the network adds, from the input's chroma and the mean squares of what is added, (H, W, 2)."""
    smooth = _box(chroma, 1)
    fine = _box(np.square(chroma - smooth), 2)
    coarse = _box(np.square(smooth - _box(smooth, 2)), 2)
    missing = coarse**4 / (coarse**4 + (fine / _COARSE + _ROUNDING) ** 4)
    restored = added / (added + 2 * fine + 2 * _ROUNDING)
    return 1 - _NOISE / (fine + _NOISE) * (1 - missing * restored)


def _box(image: np.ndarray, reach: int) -> np.ndarray:
    """Means over (2 · reach + 1)² px of (H, W, C); the edges are repeated."""
    height, width, _ = image.shape
    size = 2 * reach + 1
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = padded[:height].copy()
    for i in range(1, size):
        rows += padded[i : i + height]
    means = rows[:, :width].copy()
    for i in range(1, size):
        means += rows[:, i : i + width]
    means /= np.float32(size**2)
    return means


def _bicubic(image: np.ndarray) -> np.ndarray:
    """(4H, 4W, C) from (H, W, C), by bicubic interpolation; the edges are repeated."""
    height, width, channels = image.shape
    rows = _bicubic_rows(image.reshape(height, width * channels), _kernel(1))
    columns = rows.reshape(height * UPSAMPLING, width, channels)
    padded = np.pad(columns, ((0, 0), (_TAPS, _TAPS), (0, 0)), mode="edge").reshape(len(columns), -1)
    result = np.empty((len(columns), width * UPSAMPLING * channels), np.float32)
    kernel = _kernel(channels)
    for first in range(0, width, _PRODUCT_WIDTH):
        count = min(_PRODUCT_WIDTH, width - first)
        given = padded[:, first * channels : (first + count + 2 * _TAPS) * channels]
        used = kernel[: given.shape[1], : count * UPSAMPLING * channels]
        np.matmul(given, used, out=result[:, first * UPSAMPLING * channels :][:, : used.shape[1]])
    return result.reshape(height * UPSAMPLING, width * UPSAMPLING, channels)


def _bicubic_rows(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(4H, K) from (H, K)."""
    height = len(image)
    padded = np.pad(image, ((_TAPS, _TAPS), (0, 0)), mode="edge")
    result = np.empty((height * UPSAMPLING, image.shape[1]), np.float32)
    for first in range(0, height, _PRODUCT_WIDTH):
        count = min(_PRODUCT_WIDTH, height - first)
        given = padded[first : first + count + 2 * _TAPS]
        used = kernel[: len(given), : count * UPSAMPLING]
        np.matmul(used.T, given, out=result[first * UPSAMPLING : (first + count) * UPSAMPLING])
    return result


@functools.cache
def _kernel(channels: int) -> np.ndarray:
    """Weights of `_PRODUCT_WIDTH` px and `_TAPS` more on either side, times channels, for each output value of the block."""
    output = (np.arange(_PRODUCT_WIDTH * UPSAMPLING) + 0.5) / UPSAMPLING - 0.5 + _TAPS
    distance = output - np.arange(_PRODUCT_WIDTH + 2 * _TAPS)[:, None]
    return np.kron(keys_kernel(distance, MATLAB_SLOPE), np.eye(channels)).astype(np.float32)
