# SPDX-License-Identifier: Apache-2.0
"""Guided deformable attention of RVRT (equations 8 to 10) with PyTorch's `grid_sample`, in place of a CUDA extension.

N batch, T frames per clip, C channels, H×W frame size [px], G offset groups, K kernel points. Channels come before pixels,
as in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SampledAttention:
    """A callable with the signature of the published extension.

    Args:
        points_per_call: kernel points that one `grid_sample` fetches. PyTorch is fastest with 1, whose samples stay in the
            cache, OpenVINO with all at once.
    """

    points_per_call: int

    def __call__(self, query: Tensor, key_value: Tensor, offset: Tensor, *kernel_and_heads: int) -> Tensor:
        """Attend to K points of each of the T frames.

        Args:
            query: (N * T, 1, C, H, W), not scaled.
            key_value: (N, T, 2C, H, W), key | value.
            offset: (N * T, T * G * K * 2, H, W) px as (y, x), flow included. Field n of frame b reads frame (n + b) % T.
            kernel_and_heads: kernel height and width [px], stride, padding [px], dilation, heads, G, T.

        Returns:
            (N * T, 1, C, H, W).
        """
        kernel_height, kernel_width, stride, padding, dilation, heads, groups, time = kernel_and_heads
        if (stride, dilation) != (1, 1):
            raise ValueError(f"stride {stride} and dilation {dilation}: only 1 is supported")
        channels, height, width = key_value.shape[2:]
        points = kernel_height * kernel_width
        offset = offset.view(-1, time, groups, points, 2, height, width)
        frames = offset.shape[0]
        query = query.view(frames, heads, -1, 1, height, width)
        query = query * query.shape[2] ** -0.5
        scores, values = [], []
        for field in range(time):
            source = torch.cat([key_value[:, field:], key_value[:, :field]], 1)  # frame b is now (b + field) % T
            source = source.reshape(frames * groups, channels // groups, height, width)
            grid = _sampling_grid(offset[:, field], kernel_width, padding)
            for part in grid.split(self.points_per_call, 1):
                sampled = F.grid_sample(source, part.flatten(1, 2), padding_mode="zeros", align_corners=True)
                sampled = sampled.view(frames, 2, heads, -1, part.shape[1], height, width)
                scores.append((query * sampled[:, 0]).sum(2, keepdim=True))
                values.append(sampled[:, 1])  # (N * T, heads, head width, points per call, H, W)
        weights = torch.cat(scores, 3).softmax(3).split(self.points_per_call, 3)
        attended = sum((weight * value).sum(3) for weight, value in zip(weights, values, strict=True))
        return attended.reshape(frames, 1, channels // 2, height, width)


def _sampling_grid(offset: Tensor, kernel_width: int, padding: int) -> Tensor:
    """The points that `grid_sample` reads, as (x, y) in [-1, 1].

    Args:
        offset: (N * T, G, K, 2, H, W) px as (y, x).

    Returns:
        (N * T * G, K, H, W, 2).
    """
    points, _, height, width = offset.shape[2:]
    point = torch.arange(points).view(points, 1, 1)
    y = offset[:, :, :, 0] + (point // kernel_width - padding + torch.arange(height).view(height, 1))
    x = offset[:, :, :, 1] + (point % kernel_width - padding + torch.arange(width))
    grid = torch.stack((x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1), -1)
    return grid.flatten(0, 1)
