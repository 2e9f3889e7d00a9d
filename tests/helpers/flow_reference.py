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


def waves(seed: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A pattern without a period around 0.5, of waves 5 to 20 px long, at any places: (...) gray."""
    rng = np.random.default_rng(seed)
    turns, lengths, phases = rng.uniform(0, np.pi, 24), rng.uniform(5, 20, 24), rng.uniform(0, 2 * np.pi, 24)
    steps = zip(np.cos(turns) / lengths, np.sin(turns) / lengths, phases, strict=True)
    return 0.5 + 0.04 * sum(np.sin(2 * np.pi * (x * across + y * down) + at) for across, down, at in steps)


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


def gaussian_mean(image: np.ndarray, reach: int, sigma: float, **outside: str) -> np.ndarray:
    """Mean of (H, W) over a window of 2 * reach + 1 px; `outside` says what lies beyond the border, as for `np.pad`."""
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(image, reach, **outside)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (len(taps), len(taps)))
    return np.einsum("yxij,i,j->yx", windows, taps, taps, optimize=True) / taps.sum() ** 2


def lucas_kanade(
    first: np.ndarray, second: np.ndarray, levels: int, iterations: int, trying_levels: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Flow (H, W, 2) px from one frame (H, W, 3) to another, and how well it matches (H, W).

    Pixels try the flows around them on the finest levels.
    """
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
        smooth = [along(along(p, 0, [0.25, 0.5, 0.25]), 1, [0.25, 0.5, 0.25]) for p in pyramid]
        pyramids.append([p - gaussian_mean(p, 8, 4, mode="edge") for p in smooth])
    flow = np.zeros((*pyramids[0][-1].shape, 2))
    for level, a, b in zip(range(levels - 1, -1, -1), *(reversed(p) for p in pyramids), strict=True):
        rows, columns = np.mgrid[: a.shape[0], : a.shape[1]]
        if flow.shape[:2] != a.shape:
            flow = 2 * bilinear(flow, (rows + 0.5) / 2 - 0.5, (columns + 0.5) / 2 - 0.5)
        for _ in range(iterations):
            inside, warped = seen(b, flow)
            gx, gy = (along((a + warped) / 2, axis, [-0.5, 0, 0.5]) for axis in (1, 0))
            products = [gx * gx, gx * gy, gy * gy, gx * (warped - a), gy * (warped - a)]
            sums = [gaussian_mean(inside * product, 8, 4) for product in products]
            matrix = np.stack([sums[0] + 3e-5, sums[1], sums[1], sums[2] + 3e-5], -1).reshape(*a.shape, 2, 2)
            step = np.linalg.solve(matrix, np.stack(sums[3:], -1)[..., None])[..., 0]
            flow = flow - np.clip(step, -1, 1)
        if level < trying_levels:
            flow = mixed_with_flows_around(a, b, flow)
    energy = sum(along(a, axis, [-0.5, 0, 0.5]) ** 2 for axis in (0, 1))
    match = np.exp(-match_error(a, b, flow) / (0.4**2 * gaussian_mean(energy, 2, 1) + 0.015**2))
    return flow[:height, :width], match[:height, :width]


def seen(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the flow leaves in the frame, and the image where it leads."""
    (height, width), (rows, columns) = image.shape, np.mgrid[: image.shape[0], : image.shape[1]]
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    inside = np.clip(np.minimum(x + 1, width - x), 0, 1) * np.clip(np.minimum(y + 1, height - y), 0, 1)
    return inside, bilinear(image, y, x)


def mixed_with_flows_around(a: np.ndarray, b: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean of a pixel's flow and of those 5 px away, each weighted by 1 / (squared difference where it leads + noise)²."""
    rows, columns = np.mgrid[: a.shape[0], : a.shape[1]]
    tried = [clamped(flow, rows + y, columns + x) for y, x in ((0, 0), (-5, 0), (5, 0), (0, -5), (0, 5))]
    weights = [(match_error(a, b, one) + 3e-5) ** -2 for one in tried]
    return np.average(tried, 0, np.broadcast_to(np.stack(weights)[..., None], np.shape(tried)))


def match_error(a: np.ndarray, b: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean squared difference around each pixel of `a` from where the flow leads in `b`; beyond the frame it is 0.02."""
    inside, there = seen(b, flow)
    return gaussian_mean(inside * np.minimum((there - a) ** 2, 0.02) + (1 - inside) * 0.02, 2, 1)


def fuse_frames(frame: np.ndarray, neighbors: np.ndarray, flows: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """(H, W, 3), (K, H, W, 3), (K, H, W, 2) px, (K, H, W) → (H, W, 64)."""
    height, width = frame.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    total, weight = np.zeros((height, width, 4, 4, 3)), np.zeros((height, width, 4, 4))

    def add(value: np.ndarray, y: np.ndarray, x: np.ndarray, trust: np.ndarray) -> None:
        nonlocal total, weight
        near = np.exp(-0.5 * ((PLACES - y[..., None]) / 0.25) ** 2)[..., :, None]
        near = near * np.exp(-0.5 * ((PLACES - x[..., None]) / 0.25) ** 2)[..., None, :] * trust[..., None, None]
        total, weight = total + near[..., None] * value[..., None, None, :], weight + near

    everywhere = np.ones((height, width))
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            add(np.zeros_like(frame), y * everywhere, x * everywhere, everywhere)
    own = weight
    for neighbor, flow, match in zip(neighbors, np.clip(flows, -1e6, 1e6), matches, strict=True):
        for down in (0, 1):
            for right in (0, 1):
                at_x, at_y = np.floor(flow[..., 0]) + right, np.floor(flow[..., 1]) + down
                x, y = at_x - flow[..., 0], at_y - flow[..., 1]
                at_x, at_y = (at_x + columns).astype(int), (at_y + rows).astype(int)
                difference = clamped(neighbor, at_y, at_x) - bicubic(frame, rows + y, columns + x)
                unlike = (difference**2).mean(-1) / 0.1**2
                seen = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
                fading = np.prod([np.interp(np.abs(offset), [15 / 16, 1], [1, 0]) for offset in (y, x)], 0)
                add(difference, y, x, match * np.exp(-0.5 * unlike) * seen * fading)
    estimate = total / weight[..., None] - frame[:, :, None, None]
    for i, y in enumerate(PLACES):
        for j, x in enumerate(PLACES):
            estimate[:, :, i, j] += bicubic(frame, rows + y, columns + x)
    estimate = estimate.transpose(0, 1, 4, 2, 3).reshape(height, width, 48)
    return np.concatenate([estimate, (1 - own / weight).reshape(height, width, 16)], -1)


def bicubic(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Keys' interpolation, a = -0.75, of the 16 pixels around places of (H, W, C), the edge repeated."""
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    return sum(
        clamped(image, top + i, left + j) * (keys(y - top - i) * keys(x - left - j))[..., None]
        for i in range(-1, 3)
        for j in range(-1, 3)
    )


def keys(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys (1981), equation 15 with a free slope."""
    s = np.abs(distance)
    return np.where(s <= 1, (a + 2) * s**3 - (a + 3) * s**2 + 1, np.where(s < 2, a * (s**3 - 5 * s**2 + 8 * s - 4), 0))
