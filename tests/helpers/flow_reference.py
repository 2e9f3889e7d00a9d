# SPDX-License-Identifier: Apache-2.0
"""Optical flow and the fusion of neighboring frames in float64 NumPy, written from the formulas; frames to try them on."""

from __future__ import annotations

import numpy as np

PLACES = (np.arange(4) + 0.5) / 4 - 0.5  # px: output pixels within one input pixel, from its center


def moved_texture(batch: int, height: int, width: int) -> list[np.ndarray]:
    """Two views (B, H, W, 3) of one texture; in the second it has moved by a few pixels."""
    texture = np.random.default_rng(5).standard_normal((batch, height + 8, width + 8, 3))
    for axis in (1, 2):
        texture = sum(np.roll(texture, by, axis) for by in (-2, -1, 0, 1, 2))
    texture = (0.5 + 0.2 * texture / texture.std()).astype(np.float32)
    return [texture[:, 3:-5, 4:-4].copy(), texture[:, 5:-3, 3:-5].copy()]


def clamped(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pixels of (H, W, …); the border repeats."""
    return image[np.clip(y, 0, len(image) - 1), np.clip(x, 0, image.shape[1] - 1)]


def bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(H, W, …) between its pixels; the border repeats."""
    y, x = np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    extra = (...,) + (None,) * (image.ndim - 2)
    v, u = (y - top)[extra], (x - left)[extra]
    upper = (1 - u) * clamped(image, top, left) + u * clamped(image, top, left + 1)
    return (1 - v) * upper + v * ((1 - u) * clamped(image, top + 1, left) + u * clamped(image, top + 1, left + 1))


def along(image: np.ndarray, axis: int, taps: list[float]) -> np.ndarray:
    """Correlation with three taps along one axis; the border repeats."""
    padded = np.pad(image, [(int(a == axis),) * 2 for a in range(2)], mode="edge")
    return sum(tap * np.take(padded, np.arange(image.shape[axis]) + i, axis) for i, tap in enumerate(taps))


def lucas_kanade(first: np.ndarray, second: np.ndarray, levels: int, iterations: int) -> np.ndarray:
    """Flow (H, W, 2) px from one frame (H, W, 3) to another."""
    height, width = first.shape[:2]
    pyramids = []
    for frame in (first, second):
        luma = np.pad(
            frame @ [0.299, 0.587, 0.114], [(0, -n % 2 ** (levels - 1)) for n in (height, width)], mode="edge"
        )
        pyramid = [luma]
        for _ in range(levels - 1):
            h, w = pyramid[-1].shape
            pyramid.append(pyramid[-1].reshape(h // 2, 2, w // 2, 2).mean((1, 3)))
        pyramids.append([along(along(p, 0, [0.25, 0.5, 0.25]), 1, [0.25, 0.5, 0.25]) for p in pyramid])
    taps = np.exp(-0.5 * (np.arange(-8, 9) / 4) ** 2)
    taps /= taps.sum()
    flow = np.zeros((*pyramids[0][-1].shape, 2))
    for a, b in zip(*(reversed(p) for p in pyramids), strict=True):
        rows, columns = np.mgrid[: a.shape[0], : a.shape[1]]
        if flow.shape[:2] != a.shape:
            flow = 2 * bilinear(flow, (rows + 0.5) / 2 - 0.5, (columns + 0.5) / 2 - 0.5)
        for _ in range(iterations):
            x, y = columns + flow[..., 0], rows + flow[..., 1]
            inside = np.clip(np.minimum(x + 1, a.shape[1] - x), 0, 1) * np.clip(np.minimum(y + 1, a.shape[0] - y), 0, 1)
            warped = bilinear(b, y, x)
            gx, gy = (along((a + warped) / 2, axis, [-0.5, 0, 0.5]) for axis in (1, 0))
            products = [gx * gx, gx * gy, gy * gy, gx * (warped - a), gy * (warped - a)]
            sums = []
            for product in products:
                padded = np.pad(inside * product, 8)
                padded = sum(tap * padded[i : i + a.shape[0]] for i, tap in enumerate(taps))
                sums.append(sum(tap * padded[:, i : i + a.shape[1]] for i, tap in enumerate(taps)))
            matrix = np.stack([sums[0] + 1e-4, sums[1], sums[1], sums[2] + 1e-4], -1).reshape(*a.shape, 2, 2)
            step = np.linalg.solve(matrix, np.stack(sums[3:], -1)[..., None])[..., 0]
            flow = flow - np.clip(step, -1, 1)
    return flow[:height, :width]


def fuse_frames(frame: np.ndarray, neighbors: np.ndarray, flows: np.ndarray) -> np.ndarray:
    """(H, W, 3), (K, H, W, 3), (K, H, W, 2) px → (H, W, 64)."""
    height, width = frame.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    total, weight = np.zeros((height, width, 4, 4, 3)), np.zeros((height, width, 4, 4))

    def add(sample: np.ndarray, y: np.ndarray, x: np.ndarray, trust: np.ndarray) -> None:
        nonlocal total, weight
        near = np.exp(-0.5 * ((PLACES - y[..., None]) / 0.2) ** 2)[..., :, None]
        near = near * np.exp(-0.5 * ((PLACES - x[..., None]) / 0.2) ** 2)[..., None, :] * trust[..., None, None]
        total, weight = total + near[..., None] * sample[..., None, None, :], weight + near

    everywhere = np.ones((height, width))
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            add(clamped(frame, rows + y, columns + x), y * everywhere, x * everywhere, everywhere)
    own = weight
    for neighbor, flow in zip(neighbors, np.clip(flows, -1e6, 1e6), strict=True):
        for down in (0, 1):
            for right in (0, 1):
                at_x, at_y = np.floor(flow[..., 0]) + right, np.floor(flow[..., 1]) + down
                x, y = at_x - flow[..., 0], at_y - flow[..., 1]
                at_x, at_y = (at_x + columns).astype(int), (at_y + rows).astype(int)
                sample = clamped(neighbor, at_y, at_x)
                unlike = ((sample - bilinear(frame, rows + y, columns + x)) ** 2).mean(-1) / 0.1**2
                seen = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
                fading = np.prod([np.interp(np.abs(offset), [15 / 16, 1], [1, 0]) for offset in (y, x)], 0)
                add(sample, y, x, np.exp(-0.5 * unlike) * seen * fading)
    estimate = total / weight[..., None] - frame[:, :, None, None]
    estimate = estimate.transpose(0, 1, 4, 2, 3).reshape(height, width, 48)
    return np.concatenate([estimate, (1 - own / weight).reshape(height, width, 16)], -1)
