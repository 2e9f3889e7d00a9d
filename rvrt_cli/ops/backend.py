# SPDX-License-Identifier: Apache-2.0
"""Which implementation of each operation runs, and how a stage of the network is compiled and differentiated.

`DEFINITIONS` is the table of the plain MindSpore definitions, which run on every device. A device with kernels of its own has a
table of those operations that it replaces; `KERNELS` says where each is.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor
from mindspore.graph import jit_trace

from rvrt_cli.ops import kernels
from rvrt_cli.ops.attention import deformable_attention, neighborhood_attention, window_attention
from rvrt_cli.ops.fusion import fuse_frames
from rvrt_cli.ops.layers import (
    add_upsampled,
    charbonnier,
    conv2d,
    layer_norm,
    linear,
    mlp,
    norm_linear,
    pixel_shuffle,
    reverse_time,
)
from rvrt_cli.ops.lucas_kanade import lucas_kanade
from rvrt_cli.ops.sampling import warp

Table = dict[str, Callable]

DEFINITIONS: Table = {
    "add_upsampled": add_upsampled,
    "charbonnier": charbonnier,
    "conv2d": conv2d,
    "deformable_attention": deformable_attention,
    "fuse_frames": fuse_frames,
    "layer_norm": layer_norm,
    "linear": linear,
    "lucas_kanade": lucas_kanade,
    "mlp": mlp,
    "neighborhood_attention": neighborhood_attention,
    "norm_linear": norm_linear,
    "pixel_shuffle": pixel_shuffle,
    "reverse_time": reverse_time,
    "warp": warp,
    "window_attention": window_attention,
}


def _cpu_kernels() -> Table | None:
    """The C++ kernels, or None where the library is missing; `kernels.problem` says why."""
    if kernels.library() is None:
        return None
    from rvrt_cli.ops.kernels.glue import CPU_KERNELS  # loads the library

    return CPU_KERNELS


KERNELS: dict[str, Callable[[], Table | None]] = {"CPU": _cpu_kernels}  # by MindSpore's name of the device


class Differentiation(Enum):
    """How gradients are taken, which decides what a stage is given as its weights."""

    NONE = "plain tensors on the parameters' memory: one graph serves all"
    BY_STAGE = "tensors that an operation connects to the parameters"
    TRACED = "the parameters themselves; stages are inlined into the one graph that is being traced"


class _Runtime:
    """What runs at present. One instance; only `use_kernels` and `differentiable` change it."""

    table: Table = DEFINITIONS
    differentiation = Differentiation.NONE

    @property
    def kernels(self) -> bool:
        return self.table is not DEFINITIONS

    @contextlib.contextmanager
    def differentiating(self, how: Differentiation) -> Iterator[None]:
        self.differentiation = how
        try:
            yield
        finally:
            self.differentiation = Differentiation.NONE


_runtime = _Runtime()
_traced_functions: list[Callable] = []  # MindSpore knows a graph by the id of its function, which must not be reused


def use_kernels(enabled: bool = True) -> bool:
    """Let the operations of `rvrt_cli.ops` run as the device's kernels, or as definitions.

    On import it is as if called with True.

    Returns:
        whether kernels run from now on; `kernels.problem` says what is missing on a CPU.
    """
    find = KERNELS.get(ms.get_context("device_target"))
    table = find() if enabled and find is not None else None
    _runtime.table = DEFINITIONS if table is None else table
    # MindSpore looks `ops.conv2d` up in the module's own dictionary when it compiles; __getattr__ would not be asked, and a
    # function that chooses at each call would end up in every graph.
    vars(sys.modules["rvrt_cli.ops"]).update({**DEFINITIONS, **_runtime.table})
    return _runtime.kernels


def kernels_active() -> bool:
    """Whether operations run as kernels."""
    return _runtime.kernels


def compiled(function: Callable) -> Callable:
    """`function`, a stage of the network, compiled by MindSpore: once per combination of shapes and per table.

    Weights are arguments, never parameters of a surrounding cell: MindSpore 2.10 would keep their first values in inference,
    and would mix up the gradients of calls that share them.
    """
    graphs: dict[bool, Callable] = {}

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if _runtime.differentiation is Differentiation.TRACED:  # a graph within a graph would be taken for a constant
            return function(*args)
        if _runtime.kernels not in graphs:
            graphs[_runtime.kernels] = ms.jit(function)
        return graphs[_runtime.kernels](*args)

    return call


def differentiable(function: Callable) -> Callable:
    """`function`, a training step's loss, with gradients towards the parameters that it reads.

    With kernels it is one graph with everything that it calls, traced once per combination of shapes. That takes half the
    time of stages that are compiled one by one, and seconds of compilation for each sequence length. With definitions, which
    consist of hundreds of operations, tracing would take many minutes: there each stage is compiled by itself.
    """

    def plain(*args: Any) -> Any:  # MindSpore traces functions, and methods of cells only
        return function(*args)

    _traced_functions.append(plain)
    graph = ms.jit(plain, capture_mode="trace")

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not _runtime.kernels:
            with _runtime.differentiating(Differentiation.BY_STAGE):
                return plain(*args)
        with _runtime.differentiating(Differentiation.TRACED), _without_caller_lines():
            return graph(*args)

    return call


def arguments(parameters: Iterable[Parameter]) -> list[Tensor]:
    """Parameters as the weights of a compiled stage, which is compiled once for all of the same shapes.

    Inside a `differentiable` function gradients lead back to the parameters.
    """
    if _runtime.differentiation is Differentiation.TRACED:
        return list(parameters)
    if _runtime.differentiation is Differentiation.BY_STAGE:
        return [ms.ops.reshape(parameter, parameter.shape) for parameter in parameters]
    return [Tensor(parameter) for parameter in parameters]


@contextlib.contextmanager
def _without_caller_lines() -> Iterator[None]:
    """Keep MindSpore's tracing from reading every caller's source line, which fails where there is none (`python -m`)."""
    name = "_get_caller_lines"
    original = getattr(jit_trace, name)
    setattr(jit_trace, name, lambda: ([__file__], [1]))
    try:
        yield
    finally:
        setattr(jit_trace, name, original)
