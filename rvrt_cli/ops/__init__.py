"""The operations that the network is made of.

Each exists as a definition in plain MindSpore, which runs on every device and differentiates, and most exist as a fused
C++ kernel for float32 on the CPU as well, with the same signature. `use_kernels` chooses, `kernels_active` tells.
"""

from __future__ import annotations

import mindspore as ms

from rvrt_cli.ops import attention, kernels, layers, sampling
from rvrt_cli.ops.attention import deformable_attention, neighbourhood_attention, window_and_shift, window_attention
from rvrt_cli.ops.layers import (
    activate,
    add_enlarged,
    charbonnier,
    conv2d,
    layer_norm,
    linear,
    mlp,
    norm_linear,
    pixel_shuffle,
    resize_bilinear,
)
from rvrt_cli.ops.sampling import warp

__all__ = [
    "activate",
    "add_enlarged",
    "charbonnier",
    "conv2d",
    "deformable_attention",
    "kernels_active",
    "layer_norm",
    "linear",
    "mlp",
    "neighbourhood_attention",
    "norm_linear",
    "pixel_shuffle",
    "resize_bilinear",
    "use_kernels",
    "warp",
    "window_and_shift",
    "window_attention",
]

_FUSED = {
    attention: ("deformable_attention", "neighbourhood_attention", "window_attention"),
    layers: ("add_enlarged", "charbonnier", "conv2d", "layer_norm", "linear", "mlp", "norm_linear", "pixel_shuffle"),
    sampling: ("warp",),
}
_active = False


def use_kernels(enabled: bool = True) -> bool:
    """Let the functions of this module run as kernels, or as definitions; for networks that are built afterwards.

    On import it is as if called with True. Kernels need the CPU as the device and a compiled library;
    `kernels.problem` says what is wrong with that.

    Returns:
        whether kernels run from now on.
    """
    global _active
    _active = enabled and ms.get_context("device_target") == "CPU" and kernels.library() is not None
    if _active:
        from rvrt_cli.ops.kernels import glue
    # Names are exchanged, not tested in each call: a compiled graph would carry the tests.
    for definitions, names in _FUSED.items():
        for name in names:
            globals()[name] = getattr(glue if _active else definitions, name)
    return _active


def kernels_active() -> bool:
    """Whether networks that are built now run on kernels."""
    return _active


use_kernels()
