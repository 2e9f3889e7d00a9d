# SPDX-License-Identifier: Apache-2.0
"""The ops that the network is made of: attention, warping, layers, optical flow, loss.

`layers`, `sampling`, `attention`, `lucas_kanade_flow` and `frame_fusion` define every op in plain MindSpore: that runs on
every device and has gradients. `kernels` holds the same ops as C++ kernels for float32. `backend` has one table per backend
and selects one; `compilation` compiles stages of the network that use it.

Call ops as attributes of this package (`ops.conv2d(...)`): importing an op by name would pin one backend. A few of
MindSpore's own (`concat`, `zeros`, …) are here too, so that everything the network calls can be replaced in one place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mindspore.ops import concat, full_like, split, tanh, zeros, zeros_like

from rvrt_cli.ops import backend
from rvrt_cli.ops.attention import (
    attend_at_offsets,
    deformable_attention,
    guided_attention,
    guided_offsets,
    neighborhood_attention,
    swap_xy,
    swin_layer,
    swin_layer_onto,
    window_and_shift,
    window_attention,
)
from rvrt_cli.ops.backend import active_backend, kernels_active, kernels_run_eagerly
from rvrt_cli.ops.compilation import (
    arguments,
    called_directly,
    compiled,
    compiled_at_once,
    differentiable,
    forget_compiled,
    stages_called_through,
)
from rvrt_cli.ops.frame_fusion import fuse_clip, fuse_frames
from rvrt_cli.ops.layers import (
    activate,
    add_upsampled,
    charbonnier,
    conv2d,
    conv_body,
    conv_chain,
    convolve_onto,
    halve,
    layer_norm,
    linear,
    linear_pair,
    mlp,
    norm_linear,
    pixel_shuffle,
    project_mlp,
    quarter,
    resize_bilinear,
    reverse_time,
    roll,
    stack,
)
from rvrt_cli.ops.lucas_kanade_flow import lucas_kanade
from rvrt_cli.ops.sampling import warp, warp_clip

__all__ = [
    "activate",
    "active_backend",
    "add_upsampled",
    "arguments",
    "attend_at_offsets",
    "called_directly",
    "charbonnier",
    "compiled",
    "compiled_at_once",
    "concat",
    "conv2d",
    "conv_body",
    "conv_chain",
    "convolve_onto",
    "deformable_attention",
    "differentiable",
    "forget_compiled",
    "full_like",
    "fuse_clip",
    "fuse_frames",
    "guided_attention",
    "guided_offsets",
    "halve",
    "kernels_active",
    "kernels_run_eagerly",
    "layer_norm",
    "linear",
    "linear_pair",
    "lucas_kanade",
    "mlp",
    "neighborhood_attention",
    "norm_linear",
    "pixel_shuffle",
    "project_mlp",
    "quarter",
    "resize_bilinear",
    "reverse_time",
    "roll",
    "split",
    "stack",
    "stages_called_through",
    "swap_xy",
    "swin_layer",
    "swin_layer_onto",
    "tanh",
    "use_kernels",
    "used_for_tracing",
    "warp",
    "warp_clip",
    "window_and_shift",
    "window_attention",
    "zeros",
    "zeros_like",
]


def use_kernels(enabled: bool = True) -> bool:
    """Run the ops of this package as the device's kernels, or as definitions. Importing the package enables kernels.

    Returns:
        whether kernels run from now on: False where the device has none, or `kernels.problem()` says why they are missing.
    """
    # MindSpore's parser looks names up in the module's __dict__ while it compiles: it ignores a module's __getattr__, and a
    # function that looked the op up at each call would become part of every graph.
    globals().update(backend.select(enabled))
    return kernels_active()


@contextlib.contextmanager
def used_for_tracing(table: dict[str, Callable]) -> Iterator[None]:
    """Inside, the network calls the functions of `table` in place of this package's, and stages are not compiled."""
    before = {name: globals()[name] for name in table}
    globals().update(table)
    try:
        with called_directly():
            yield
    finally:
        globals().update(before)


use_kernels()
