# SPDX-License-Identifier: Apache-2.0
"""Layers and their gradients in float64 NumPy, written from the formulas: what the C++ kernels are compared with."""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np

from helpers import attention_reference

SLOPES = {0: 1.0, 1: 0.1, 2: 0.2, 3: 0.0}  # of an activation below zero, by its code in the kernels
LEAKY_01, GELU = 1, 4


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(erf, otypes=[np.float64])(x / sqrt(2)))


def activate(z: np.ndarray, activation: int) -> np.ndarray:
    return z * normal_cdf(z) if activation == GELU else np.where(z > 0, z, SLOPES[activation] * z)


def activation_slope(z: np.ndarray, activation: int) -> np.ndarray:
    if activation == GELU:
        return normal_cdf(z) + z * np.exp(-z * z / 2) / sqrt(2 * pi)
    return np.where(z > 0, 1.0, SLOPES[activation])


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B, H, W, C) with (O, C, kh, kw), zeros around the frame → (B, H, W, O)."""
    kh, kw = weight.shape[-2:]
    height, width = x.shape[1:3]
    around = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    return sum(around[:, i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(kh) for j in range(kw))


def convolve_gradients(x: np.ndarray, weight: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of x, weight and bias for the gradient `g` of the output."""
    kh, kw = weight.shape[-2:]
    height, width = x.shape[1:3]
    around = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    daround, dweight = np.zeros_like(around), np.zeros_like(weight)
    for i in range(kh):
        for j in range(kw):
            daround[:, i : i + height, j : j + width] += g @ weight[:, :, i, j]
            dweight[:, :, i, j] = np.tensordot(g, around[:, i : i + height, j : j + width], ((0, 1, 2), (0, 1, 2)))
    return daround[:, kh // 2 : kh // 2 + height, kw // 2 : kw // 2 + width], dweight, g.sum((0, 1, 2))


def normalize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with mean 0 and variance 1, and what they were scaled by."""
    scale = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) * scale, scale


def normalize_gradients(
    n: np.ndarray, scale: np.ndarray, gamma: np.ndarray, dn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of x, gamma and beta for the gradient `dn` of n * gamma + beta."""
    h = dn * gamma
    dx = scale * (h - h.mean(-1, keepdims=True) - n * (h * n).mean(-1, keepdims=True))
    return dx, (dn * n).sum(0), dn.sum(0)


def swin_layer(
    x: np.ndarray, weights: list[np.ndarray], heads: int, window: tuple[int, int, int], shift: tuple[int, int, int]
) -> np.ndarray:
    """(N, T, H, W, C), the 12 weights of `ops.swin_layer` and position biases (heads, L, L) → (N, T, H, W, C)."""
    norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b, bias = weights
    qkv = (normalize(x)[0] * norm1_g + norm1_b) @ qkv_w.T + qkv_b
    attended = attention_reference.window_attention(qkv, qkv_b, bias, np.zeros_like(x), heads, window, shift)[0]
    x = x + attended @ proj_w.T + proj_b
    hidden = activate((normalize(x)[0] * norm2_g + norm2_b) @ fc1_w.T + fc1_b, GELU)
    return x + hidden @ fc2_w.T + fc2_b
