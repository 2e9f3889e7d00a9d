# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an op runs: one table per backend, same names and signatures in each.

To add a backend, write its table beside `kernels.glue.FUSED_OPS` and list it in `KERNELS` under MindSpore's device target.
A table of kernels may lack ops; their definitions run instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mindspore as ms

from rvrt_cli.ops import attention, frame_fusion, kernels, layers, lucas_kanade_flow, sampling
from rvrt_cli.ops.kernels import cuda

OpTable = dict[str, Callable]

DEFINITIONS: OpTable = {
    "add_upsampled": layers.add_upsampled,
    "attend_at_offsets": attention.attend_at_offsets,
    "charbonnier": layers.charbonnier,
    "conv2d": layers.conv2d,
    "conv_body": layers.conv_body,
    "conv_chain": layers.conv_chain,
    "convolve_onto": layers.convolve_onto,
    "deformable_attention": attention.deformable_attention,
    "fuse_clip": frame_fusion.fuse_clip,
    "fuse_frames": frame_fusion.fuse_frames,
    "guided_attention": attention.guided_attention,
    "guided_offsets": attention.guided_offsets,
    "layer_norm": layers.layer_norm,
    "linear": layers.linear,
    "linear_pair": layers.linear_pair,
    "lucas_kanade": lucas_kanade_flow.lucas_kanade,
    "mlp": layers.mlp,
    "neighborhood_attention": attention.neighborhood_attention,
    "norm_linear": layers.norm_linear,
    "pixel_shuffle": layers.pixel_shuffle,
    "project_mlp": layers.project_mlp,
    "reverse_time": layers.reverse_time,
    "swin_layer": attention.swin_layer,
    "swin_layer_onto": attention.swin_layer_onto,
    "warp": sampling.warp,
    "warp_clip": sampling.warp_clip,
    "window_attention": attention.window_attention,
}


class Kernels(NamedTuple):
    """Kernels of one device.

    Attributes:
        name: of the backend.
        load: its table, or None where its library is missing.
        eager: called one by one they give the same result as compiled, nearly as fast.
    """

    name: str
    load: Callable[[], OpTable | None]
    eager: bool


def _load_cpu_kernels() -> OpTable | None:
    return None if kernels.library() is None else _fused_ops()


def _load_cuda_kernels() -> OpTable | None:
    return _fused_ops() if cuda.load(kernels.library(), ms.get_context("device_id")) else None


def _fused_ops() -> OpTable:
    from rvrt_cli.ops.kernels.glue import FUSED_OPS  # importing it opens the library

    return FUSED_OPS


# By MindSpore's device target
KERNELS = {
    "CPU": Kernels("CPU kernels", _load_cpu_kernels, eager=True),
    "GPU": Kernels("CUDA kernels", _load_cuda_kernels, eager=False),
}
DEFINITIONS_NAME = "definitions"

_active_name = DEFINITIONS_NAME


def select(enabled: bool) -> OpTable:
    """Make the device's kernels the active backend, or the definitions where it has none or `enabled` is False.

    Returns:
        the implementation of every op of `DEFINITIONS`.
    """
    global _active_name
    _active_name = DEFINITIONS_NAME
    of_device = KERNELS.get(ms.get_context("device_target")) if enabled else None
    table = of_device.load() if of_device else None
    if of_device is None or table is None:
        return DEFINITIONS
    _active_name = of_device.name
    return DEFINITIONS | table


def active_backend() -> str:
    """Name of the backend that runs: "definitions", or for example "CPU kernels", or "CPU kernels, AMX" in bfloat16."""
    return f"{_active_name}, AMX" if kernels_active() and kernels.amx_in_use() else _active_name


def kernels_active() -> bool:
    """Whether ops run as kernels."""
    return _active_name != DEFINITIONS_NAME


def kernels_run_eagerly() -> bool:
    """Whether the active backend need not be compiled."""
    return any(one.eager for one in KERNELS.values() if one.name == _active_name)
