"""The operations that the network is made of.

Each exists as a definition in plain MindSpore, which runs on every device and differentiates, and most exist as a fused
C++ kernel for float32 on the CPU as well, with the same signature. `use_kernels` chooses, `kernels_active` tells.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import mindspore as ms
from mindspore import Parameter, Tensor
from mindspore.graph import jit_trace

from rvrt_cli.ops import attention, fusion, kernels, layers, lucas_kanade as lucas_kanade_definition, sampling
from rvrt_cli.ops.attention import deformable_attention, neighborhood_attention, window_and_shift, window_attention
from rvrt_cli.ops.fusion import fuse_frames
from rvrt_cli.ops.layers import (
    activate,
    add_enlarged,
    charbonnier,
    conv2d,
    halve,
    layer_norm,
    linear,
    mlp,
    norm_linear,
    pixel_shuffle,
    resize_bilinear,
    reverse_time,
    stack,
)
from rvrt_cli.ops.lucas_kanade import lucas_kanade
from rvrt_cli.ops.sampling import warp

__all__ = [
    "activate",
    "add_enlarged",
    "arguments",
    "charbonnier",
    "compiled",
    "conv2d",
    "deformable_attention",
    "differentiable",
    "fuse_frames",
    "halve",
    "kernels_active",
    "layer_norm",
    "linear",
    "lucas_kanade",
    "mlp",
    "neighborhood_attention",
    "norm_linear",
    "pixel_shuffle",
    "resize_bilinear",
    "reverse_time",
    "stack",
    "use_kernels",
    "warp",
    "window_and_shift",
    "window_attention",
]

_FUSED = {
    attention: ("deformable_attention", "neighborhood_attention", "window_attention"),
    layers: (
        "add_enlarged",
        "charbonnier",
        "conv2d",
        "layer_norm",
        "linear",
        "mlp",
        "norm_linear",
        "pixel_shuffle",
        "reverse_time",
    ),
    lucas_kanade_definition: ("lucas_kanade",),
    fusion: ("fuse_frames",),
    sampling: ("warp",),
}
_active = False
_parameters: Literal["detached", "connected", "themselves"] = "detached"  # as `arguments` hands them on
_kept: list[Callable] = []  # MindSpore knows a graph by the id of its function, which must not become another's


def use_kernels(enabled: bool = True) -> bool:
    """Let the functions of this module run as kernels, or as definitions.

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
    """Whether the functions of this module run as kernels."""
    return _active


def differentiable(function: Callable) -> Callable:
    """`function`, a training step's loss, with gradients towards the parameters that it reads.

    As kernels: one graph with everything that it calls, traced once for every combination of shapes. That takes half the
    time of stages that are compiled one by one, and seconds of compilation for each length of a sequence. As
    definitions, which are made of hundreds of operations, it would take many minutes: there it is stage by stage.
    """

    def plain(*args: Any) -> Any:  # MindSpore traces functions, and methods of cells only
        return function(*args)

    _kept.append(plain)
    graph = ms.jit(plain, capture_mode="trace")

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        global _parameters
        _parameters = "themselves" if _active else "connected"
        try:
            if not _active:
                return plain(*args)
            with _without_lines():
                return graph(*args)
        finally:
            _parameters = "detached"

    return call


@contextlib.contextmanager
def _without_lines() -> Iterator[None]:
    """Keep MindSpore from reading every caller's source line for every operation, which fails where there is none (`-m`)."""
    name = "_get_caller_lines"
    theirs = getattr(jit_trace, name)
    setattr(jit_trace, name, lambda: ([__file__], [1]))
    try:
        yield
    finally:
        setattr(jit_trace, name, theirs)


def arguments(parameters: Iterable[Parameter]) -> list[Tensor]:
    """Parameters as arguments of a compiled stage: plain tensors on the same memory, for each of which it is not compiled
    anew. Within a `differentiable` function gradients lead back to the parameters."""
    if _parameters == "themselves":
        return list(parameters)
    if _parameters == "connected":
        return [ms.ops.reshape(parameter, parameter.shape) for parameter in parameters]
    return [Tensor(parameter) for parameter in parameters]


def compiled(function: Callable) -> Callable:
    """`function` compiled by MindSpore, once for every combination of shapes and for kernels and definitions each.

    Weights are arguments, never parameters of a surrounding cell: MindSpore 2.10 would keep their first values when it
    infers, and would mix up the gradients of calls that share them.
    """
    graphs: dict[bool, Callable] = {}

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if _parameters == "themselves":  # in a graph already, which would take another one for a constant
            return function(*args)
        if _active not in graphs:
            graphs[_active] = ms.jit(function)
        return graphs[_active](*args)

    return call


use_kernels()
