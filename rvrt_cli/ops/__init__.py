"""The operations that the network is made of.

Each exists as a definition in plain MindSpore, which runs on every device and differentiates.
"""

from rvrt_cli.ops.attention import deformable_attention, neighbourhood_attention, window_and_shift, window_attention
from rvrt_cli.ops.layers import conv2d, layer_norm, linear, pixel_shuffle, resize_bilinear
from rvrt_cli.ops.sampling import warp

__all__ = [
    "conv2d",
    "deformable_attention",
    "layer_norm",
    "linear",
    "neighbourhood_attention",
    "pixel_shuffle",
    "resize_bilinear",
    "warp",
    "window_and_shift",
    "window_attention",
]
