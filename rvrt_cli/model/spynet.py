"""SpyNet, the optical flow that guides the alignment (Ranjan and Black, CVPR 2017; six levels, as in BasicVSR)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.layers import Conv

LEVELS = 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB; constants in published checkpoints
WIDTHS = (8, 32, 64, 32, 16, 2)


class FlowLevel(nn.Cell):
    """Five 7x7 convolutions that correct the flow at one level of the pyramid."""

    def __init__(self, name: str):
        super().__init__(auto_prefix=False)
        self.convs = nn.CellList(
            [
                Conv(f"{name}.basic_module.{2 * i}", WIDTHS[i], WIDTHS[i + 1], 7, "relu" if i < 4 else "none", rank=4)
                for i in range(5)
            ],
            auto_prefix=False,
        )

    def construct(self, x: Tensor) -> Tensor:
        """(B, H, W, 8): reference, warped neighbour, flow → (B, H, W, 2) px."""
        for conv in self.convs:
            x = conv(x)
        return x


class SpyNet(nn.Cell):
    """Optical flow between pairs of frames."""

    def __init__(self, name: str = "spynet"):
        super().__init__(auto_prefix=False)
        self.levels = nn.CellList([FlowLevel(f"{name}.basic_module.{i}") for i in range(LEVELS)], auto_prefix=False)
        self.mean, self.std = Tensor(np.array(MEAN, np.float32)), Tensor(np.array(STD, np.float32))

    def construct(self, reference: Tensor, neighbour: Tensor) -> Tensor:
        """Where each pixel of `reference` lies in `neighbour`.

        Args:
            reference, neighbour: (B, H, W, 3) RGB in [0, 1].

        Returns:
            (B, H, W, 2) px, as (x, y).
        """
        height, width = reference.shape[1:3]
        step = 2 ** (LEVELS - 1)
        even = (-(-height // step) * step, -(-width // step) * step)
        pyramid = [((reference - self.mean) / self.std, (neighbour - self.mean) / self.std)]
        if even != (height, width):
            pyramid = [(ops.resize_bilinear(pyramid[0][0], *even), ops.resize_bilinear(pyramid[0][1], *even))]
        for _ in range(LEVELS - 1):
            pyramid.append((halve(pyramid[-1][0]), halve(pyramid[-1][1])))

        flow = msops.zeros((*pyramid[-1][0].shape[:3], 2), reference.dtype)
        for i in range(LEVELS):
            reference, neighbour = pyramid[LEVELS - 1 - i]
            if i > 0:
                flow = 2 * ops.resize_bilinear(flow, *reference.shape[1:3], align_corners=True)
            guess = msops.concat((reference, ops.warp(neighbour, flow, border=True), flow), -1)
            flow = flow + self.levels[i](guess)
        if even != (height, width):
            flow = ops.resize_bilinear(flow, height, width)
            flow = msops.stack((flow[..., 0] * (width / even[1]), flow[..., 1] * (height / even[0])), -1)
        return flow


def halve(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B, H/2, W/2, C), mean of 2x2 pixels; H and W even."""
    x = 0.5 * (x[:, 0::2] + x[:, 1::2])
    return 0.5 * (x[:, :, 0::2] + x[:, :, 1::2])
