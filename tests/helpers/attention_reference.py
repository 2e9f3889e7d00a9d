# SPDX-License-Identifier: Apache-2.0
"""Attention and warping as their formulas say, in NumPy and float64: what the C++ kernels are held against.

Axes: N batch, T frames per clip, H×W feature size, C channels, G offset groups, K kernel points; channels last. Every
function returns its output and, for the gradient `g` of that output, the gradients of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Softmax attention of `q` (..., i, d) over `k`, `v` (..., j, d); gradients of q, k, v, scores."""
    return attend_scores(q @ np.swapaxes(k, -1, -2), q, k, v, g)


def attend_scores(
    scores: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    a = e / e.sum(-1, keepdims=True)
    da = g @ np.swapaxes(v, -1, -2)
    ds = a * (da - (a * da).sum(-1, keepdims=True))
    return a @ v, ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(a, -1, -2) @ g, ds


def bilinear(
    frame: np.ndarray, y: np.ndarray, x: np.ndarray, border: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Sample `frame` (H, W, C) at `y`, `x`: value, its derivatives by y and x, corners (row, column, weight)."""
    height, width, _ = frame.shape
    moves_y = moves_x = np.ones(np.shape(y))
    if border:
        moves_y, moves_x = (y >= 0) & (y <= height - 1), (x >= 0) & (x <= width - 1)
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y), np.floor(x)
    value = by_y = by_x = 0
    corners = []
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + down, left + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            row, column = (np.clip(a, 0, n - 1).astype(int) for a, n in ((row, height), (column, width)))
            wy, wx = (np.where(far, part, 1 - part) for far, part in ((down, y - top), (right, x - left)))
            pixel = np.where(inside[..., None], frame[row, column], 0)
            value = value + (wy * wx)[..., None] * pixel
            by_y = by_y + ((2 * down - 1) * wx * moves_y)[..., None] * pixel
            by_x = by_x + ((2 * right - 1) * wy * moves_x)[..., None] * pixel
            corners.append((row, column, np.where(inside, wy * wx, 0)))
    return value, by_y, by_x, corners


def warp(x: np.ndarray, flow: np.ndarray, g: np.ndarray, border: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`x` (B, H, W, C) at (column + flow_x, row + flow_y), and the gradients of x and flow."""
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]]
    out, dx, dflow = np.zeros_like(x), np.zeros_like(x), np.zeros_like(flow)
    for b in range(len(x)):
        out[b], by_y, by_x, corners = bilinear(x[b], rows + flow[b, ..., 1], columns + flow[b, ..., 0], border)
        dflow[b] = np.stack([(g[b] * by_x).sum(-1), (g[b] * by_y).sum(-1)], -1)
        for row, column, weight in corners:
            np.add.at(dx[b], (row, column), weight[..., None] * g[b])
    return out, dx, dflow


def warp_clip(x: np.ndarray, flows: np.ndarray) -> np.ndarray:
    """`x` (N, T, H, W, C), flows (N, T, T, H, W, 2): what each field leads to, then the fields (N, T, H, W, T * (C + 2))."""
    time = x.shape[1]
    warped = [
        np.stack([warp(x[:, (n + b) % time], flows[:, b, n], x[:, 0], border=False)[0] for b in range(time)], 1)
        for n in range(time)
    ]
    return np.concatenate([*warped, *np.moveaxis(flows, 2, 0)], -1)


def warp_clip_gradients(x: np.ndarray, flows: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of x and flows for the gradient `g` of the output of `warp_clip`."""
    time, channels = x.shape[1], x.shape[4]
    dx, dflows = np.zeros_like(x), np.moveaxis(g[..., time * channels :].reshape(*g.shape[:-1], time, 2), 4, 2).copy()
    for n in range(time):
        for b in range(time):
            warped = g[:, b, ..., n * channels : (n + 1) * channels]
            _, dframe, dfield = warp(x[:, (n + b) % time], flows[:, b, n], warped, border=False)
            dx[:, (n + b) % time] += dframe
            dflows[:, b, n] += dfield
    return dx, dflows


def guided_offsets(
    raw: np.ndarray, flows: np.ndarray, max_offset: float, g: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Offsets and corrected flows, and the gradients of `raw` and the flows for theirs.

    raw (N, T, H, W, F, P, 2) as (y, x), before the bound; flows (N, T, F, H, W, 2) as (x, y).
    """

    def of_pixels(field: np.ndarray) -> np.ndarray:  # (N, T, F, H, W, 2) as (x, y) -> (N, T, H, W, F, 2) as (y, x)
        return np.moveaxis(field, 2, 4)[..., ::-1]

    def of_fields(pixels: np.ndarray) -> np.ndarray:
        return np.moveaxis(pixels[..., ::-1], 4, 2)

    bounded = np.tanh(raw)
    offset = max_offset * bounded + of_pixels(flows)[..., None, :]
    total = g[0] + of_pixels(g[1])[..., None, :] / raw.shape[5]
    return offset, of_fields(offset.mean(5)), max_offset * (1 - bounded**2) * total, of_fields(total.sum(5))


def deformable_attention(
    q: np.ndarray, kv: np.ndarray, offset: np.ndarray, g: np.ndarray, heads: int, kernel: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Guided deformable attention: q (N, T, H, W, C), kv (N, T, H, W, 2C), offset (N, T, H, W, T, G, K, 2) as y, x."""
    n_clips, n_frames, height, width, channels = q.shape
    groups, points = offset.shape[5:7]
    rows, columns = np.mgrid[:height, :width]
    out, dq, dkv, doffset = np.zeros_like(q), np.zeros_like(q), np.zeros_like(kv), np.zeros_like(offset)
    fields = [(t, g_, k) for t in range(n_frames) for g_ in range(groups) for k in range(points)]

    # (..., C) -> (..., heads, 1, C / heads), or samples first -> (..., heads, samples, C / heads)
    def split(a: np.ndarray) -> np.ndarray:
        a = a.reshape(*a.shape[:-1], heads, channels // heads)
        return np.moveaxis(a, 0, -2) if a.ndim == 5 else a[..., None, :]

    for n in range(n_clips):
        for b in range(n_frames):
            samples = np.zeros((3, n_frames * points, height, width, 2 * channels))  # values, derivatives by y and x
            corners = {}
            for t, group, k in fields:
                part = slice(group * 2 * channels // groups, (group + 1) * 2 * channels // groups)
                y = rows + k // kernel[1] - kernel[0] // 2 + offset[n, b, :, :, t, group, k, 0]
                x = columns + k % kernel[1] - kernel[1] // 2 + offset[n, b, :, :, t, group, k, 1]
                sampled = bilinear(kv[n, (t + b) % n_frames][..., part], y, x)
                samples[:, t * points + k, ..., part] = sampled[:3]
                corners[t, group, k] = sampled[3]
            keys, values = split(samples[0, ..., :channels]), split(samples[0, ..., channels:])
            result, dquery, dkeys, dvalues, _ = attend(split(q[n, b]), keys, values, split(g[n, b]))
            out[n, b], dq[n, b] = result.reshape(out[n, b].shape), dquery.reshape(out[n, b].shape)
            gathered = [np.moveaxis(d, -2, 0).reshape(-1, height, width, channels) for d in (dkeys, dvalues)]
            dsamples = np.concatenate(gathered, -1)
            for t, group, k in fields:
                part = slice(group * 2 * channels // groups, (group + 1) * 2 * channels // groups)
                d = dsamples[t * points + k][..., part]
                for axis in (0, 1):
                    doffset[n, b, :, :, t, group, k, axis] = (d * samples[1 + axis, t * points + k][..., part]).sum(-1)
                for row, column, weight in corners[t, group, k]:
                    np.add.at(dkv[n, (t + b) % n_frames][..., part], (row, column), weight[..., None] * d)
    return out, dq, dkv, doffset


def neighborhood_attention(
    q: np.ndarray, kv: np.ndarray, g: np.ndarray, heads: int, kernel: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each query's keys are the kernel's neighbors of its position in every frame, zero outside."""
    _, n_frames, height, width, channels = q.shape
    up, left = kernel[0] // 2, kernel[1] // 2
    pad = ((0, 0), (0, 0), (up, kernel[0] - 1 - up), (left, kernel[1] - 1 - left), (0, 0))
    padded = np.pad(kv, pad)
    window = [
        (slice(None), f, slice(y, y + height), slice(x, x + width))
        for f in range(n_frames)
        for y in range(kernel[0])
        for x in range(kernel[1])
    ]
    near = np.stack([padded[w] for w in window], 3)  # (N, H, W, keys, 2C)

    def split(a: np.ndarray) -> np.ndarray:  # (N, H, W, i, C) -> (N, H, W, heads, i, C / heads)
        return np.moveaxis(a.reshape(*a.shape[:-1], heads, channels // heads), -3, -2)

    def join(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, -2, -3).reshape(*a.shape[:3], -1, channels)

    queries, gradient = (split(np.moveaxis(a, 1, 3)) for a in (q, g))
    out, dq, dk, dv, _ = attend(queries, split(near[..., :channels]), split(near[..., channels:]), gradient)
    dnear, dpadded = np.concatenate([join(dk), join(dv)], -1), np.zeros_like(padded)
    for i, w in enumerate(window):
        dpadded[w] += dnear[:, :, :, i]
    inner = dpadded[:, :, up : up + height, left : left + width]
    return np.moveaxis(join(out), 3, 1), np.moveaxis(join(dq), 3, 1), inner


def window_attention(
    qkv: np.ndarray,
    pad: np.ndarray,
    bias: np.ndarray,
    g: np.ndarray,
    heads: int,
    window: tuple[int, int, int],
    shift: tuple[int, int, int],
    operand: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shifted-window attention of Swin: pad to windows, roll, partition, mask by -100, attend, and all the way back.

    Args:
        operand: what becomes of an operand of a product in the forward pass; queries are multiplied by log2(e) beforehand.
    """
    size, channels = qkv.shape[1:4], qkv.shape[-1] // 3
    padded = tuple(-(-n // w) * w for n, w in zip(size, window, strict=True))
    count = [n // w for n, w in zip(padded, window, strict=True)]
    inside = (slice(None), *(slice(n) for n in size))
    length = int(np.prod(window))

    def partition(a: np.ndarray) -> np.ndarray:  # (N, D, H, W, C) -> (windows, L, C)
        a = np.roll(a, [-s for s in shift], (1, 2, 3))
        a = a.reshape(len(a), *(n for pair in zip(count, window, strict=True) for n in pair), -1)
        return a.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, length, a.shape[-1])

    def restore(a: np.ndarray) -> np.ndarray:
        a = a.reshape(-1, *count, *window, a.shape[-1]).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return np.roll(a.reshape(len(a), *padded, -1), shift, (1, 2, 3))

    def split(a: np.ndarray) -> np.ndarray:  # (windows, L, C) -> (windows, heads, L, C / heads)
        return a.reshape(len(a), length, heads, -1).transpose(0, 2, 1, 3)

    def join(a: np.ndarray) -> np.ndarray:
        return a.transpose(0, 2, 1, 3).reshape(len(a), length, channels)

    region = np.zeros((1, *padded, 1))
    for axis, (n, w, s) in enumerate(zip(padded, window, shift, strict=True)):
        part = np.arange(n)
        label = np.where(part < n - w, 0, np.where(part < n - s, 1, 2)) if s else np.zeros(n)
        region = region * 3 + label.reshape([-1 if a == axis + 1 else 1 for a in range(5)])
    region = np.roll(region, shift, (1, 2, 3))  # `partition` rolls it back
    label = partition(np.broadcast_to(region, (len(qkv), *padded, 1)))[..., 0]
    mask = np.where(label[:, :, None] != label[:, None, :], -100.0, 0.0)[:, None]

    tokens = np.broadcast_to(pad, (len(qkv), *padded, 3 * channels)).copy()
    tokens[inside] = qkv
    gradient = np.zeros((len(qkv), *padded, channels))
    gradient[inside] = g
    q, k, v = (split(a) for a in np.split(partition(tokens), 3, -1))
    scale = (channels // heads) ** -0.5
    scores = operand(scale / np.log(2) * q) @ np.swapaxes(operand(k), -1, -2) * np.log(2) + bias + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = operand(weights) @ operand(v) / weights.sum(-1, keepdims=True)
    _, dq, dk, dv, ds = attend_scores(scores, scale * q, k, v, split(partition(gradient)))
    dtokens = restore(np.concatenate([join(scale * dq), join(dk), join(dv)], -1))
    dqkv = dtokens[inside].copy()
    dtokens[inside] = 0
    return restore(join(out))[inside], dqkv, dtokens.sum((0, 1, 2, 3)), ds.sum(0)
