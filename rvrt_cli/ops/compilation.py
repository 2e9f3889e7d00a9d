# SPDX-License-Identifier: Apache-2.0
"""Compiled stages of the network, and how they receive its parameters.

The network calls `compiled` stages and passes its parameters through `arguments`. What `arguments` hands on depends on
whether gradients are wanted, and at what grain: see `ParameterPassing`. `differentiable` chooses.
"""

from __future__ import annotations

import contextlib
import functools
import time
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor
from mindspore.graph import jit_trace

from rvrt_cli.ops import compile_cache
from rvrt_cli.ops.backend import active_backend, kernels_active, kernels_run_eagerly
from rvrt_cli.ops.parameter_passing import ParameterPassing, passing

_DETACHED = "detached_tensors"  # attribute of a ParameterTuple
_SIGNATURE = "stage_signature"  # attribute of the tensors in it
# MindSpore identifies a graph by the id of its function. Keeping the functions keeps Python from reusing their ids.
_traced_functions: list[Callable] = []
_caller: ContextVar[Any] = ContextVar("what calls the stages", default=None)
_compiled_stages: list[dict[str, _Stage]] = []  # by backend, of each stage
_PACKAGE = __name__.partition(".")[0]
# Eager calls take about a fifth longer than compiled ones, and compiling takes up to a second: from this time on it pays.
_EAGER_SECONDS = 2.5
_patience: ContextVar[float] = ContextVar("seconds of eager calls before a stage is compiled", default=_EAGER_SECONDS)


def arguments(parameters: ParameterTuple) -> list[Tensor]:
    """Parameters as arguments of a compiled stage.

    A `Parameter` argument would compile the stage anew for each parameter; a tensor shares the compiled stage. Within a
    `differentiable` function gradients lead back to the parameters.

    Values may change in place only (`ops.assign`, not `set_data`): the tensors for inference are made once, which saves
    their creation at each of many calls.
    """
    way = passing.get()
    if way is ParameterPassing.ONE_GRAPH:
        return list(parameters)
    if way is ParameterPassing.PER_STAGE:
        return [ms.ops.reshape(parameter, parameter.shape) for parameter in parameters]
    if not hasattr(parameters, _DETACHED):
        setattr(parameters, _DETACHED, [_detached(parameter) for parameter in parameters])
    return getattr(parameters, _DETACHED)


def _detached(parameter: Parameter) -> Tensor:
    """A tensor on the parameter's memory, which remembers its signature: stages ask for it at every call."""
    tensor = Tensor(parameter)
    setattr(tensor, _SIGNATURE, _tensor_signature(tensor))
    return tensor


def forget_compiled() -> None:
    """Compile every stage anew when it is next called.

    After an error on an accelerator, such as too little memory, MindSpore's graphs are left with outputs of the failed run.
    """
    for stages in _compiled_stages:
        stages.clear()


def function_copy(function: Callable) -> Callable:
    """A function of its own for each graph: MindSpore would find the old graph of the same function."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    _traced_functions.append(copy)
    return copy


def compiled(function: Callable) -> Callable:
    """`function` compiled by MindSpore, once per combination of shapes and per backend.

    Kernels that run as well one by one do so until compiling pays, with the same result: see `_Stage`.

    Weights are arguments, never parameters of a surrounding cell: MindSpore 2.10 would keep their first values in inference
    and mix up the gradients of calls that share them.
    """
    stages: dict[str, _Stage] = {}  # by backend
    _compiled_stages.append(stages)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if _caller.get() is not None:
            return _caller.get()(function, args)
        if passing.get() is ParameterPassing.ONE_GRAPH:  # a graph within a graph would be taken for a constant
            return function(*args)
        name = active_backend()
        if name not in stages:
            stages[name] = _Stage(function, name)
        return stages[name](*args)

    return call


_latest_result: list[Any] = []  # of the graph that was called last


def _run_graph(graph: Callable, args: tuple) -> Any:
    """Call a graph after the previous one has ended.

    MindSpore would wait for that itself, but in a loop that never sleeps: on two cores it took a quarter of the processor
    time from the kernels. A tensor that is asked for its shape lets the thread sleep until the graph has made it.
    """
    for tensor in _latest_result:
        _ = tensor.shape
    _latest_result.clear()
    result = graph(*args)
    _latest_result[:] = [
        part for part in (result if isinstance(result, tuple) else (result,)) if hasattr(part, "shape")
    ]
    return result


class _Stage:
    """A stage on one backend: its graphs, and the time that it has run eagerly."""

    def __init__(self, function: Callable, backend: str) -> None:
        self._function, self._backend = function, backend
        self._graph = ms.jit(function_copy(function))
        self._compiled: set[str] = set()  # signatures
        self._eager_seconds: dict[str, float] = {}  # by signature

    def __call__(self, *args: Any) -> Any:
        eagerly = kernels_run_eagerly() and passing.get() is ParameterPassing.DETACHED
        signature = _signature(args) if eagerly else None
        if signature is None or signature in self._compiled:
            return _run_graph(self._graph, args)
        first, patience = signature not in self._eager_seconds, _patience.get()
        spent = self._eager_seconds.setdefault(signature, 0.0)
        kept = self._kept_graph(signature) if first or spent >= patience else None
        if spent >= patience or (kept is not None and kept.content is not None):
            return self._compile(args, signature, kept)
        start = time.perf_counter()
        result = self._function(*args)
        self._eager_seconds[signature] = spent + time.perf_counter() - start
        return result

    def _kept_graph(self, signature: str) -> compile_cache.KeptGraph | None:
        """What an earlier run has left; None for functions that are more than their source, and so have no name."""
        if self._function.__closure__ or not self._function.__module__.startswith(_PACKAGE):
            return None
        names = self._function.__module__, self._function.__qualname__, self._backend, signature
        return compile_cache.find(" ".join(names))

    def _compile(self, args: tuple, signature: str, kept: compile_cache.KeptGraph | None) -> Any:
        """The result of the first call of a graph."""
        self._compiled.add(signature)
        if kept is None:
            return _run_graph(self._graph, args)
        try:
            return kept.compile(lambda: _run_graph(self._graph, args))
        except (RuntimeError, TypeError, ValueError):
            if kept.content is None:
                raise
            kept.discard()  # it may be the graph's fault
            self._compiled.remove(signature)
            return self._function(*args)


def _signature(args: tuple) -> str | None:
    """What MindSpore compiles a graph for: shapes and types of tensors, values of the rest. None where that is not known."""
    parts = []
    for value in args:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            parts.append(getattr(value, _SIGNATURE, None) or _tensor_signature(value))
        elif _is_graph_constant(value):
            parts.append(repr(value))
        else:
            return None
    return " ".join(parts)


def _tensor_signature(tensor: Tensor) -> str:
    return f"{tensor.shape}{tensor.dtype}"


def _is_graph_constant(value: Any) -> bool:
    """Whether an argument becomes part of the graph, and its `repr` says all of it."""
    if isinstance(value, tuple):
        return all(map(_is_graph_constant, value))
    return value is None or isinstance(value, bool | int | float | str)


@contextlib.contextmanager
def compiled_at_once() -> Iterator[None]:
    """Inside, stages are compiled in their first call, as for measurements."""
    previous = _patience.set(0.0)
    try:
        yield
    finally:
        _patience.reset(previous)


@contextlib.contextmanager
def called_directly() -> Iterator[None]:
    """Inside, stages are plain functions, which are given the parameters themselves."""
    previous = passing.set(ParameterPassing.ONE_GRAPH)
    try:
        yield
    finally:
        passing.reset(previous)


@contextlib.contextmanager
def stages_called_through(caller: Callable[[Callable, tuple], Any]) -> Iterator[None]:
    """Inside, `caller` gets each stage that is called, as a plain function, and its arguments."""
    previous = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(previous)


def differentiable(function: Callable) -> Callable:
    """`function`, the loss of a training step, with gradients with respect to the parameters that it reads.

    With kernels, the function and everything that it calls is traced into one graph, once per combination of shapes. That
    halves the time of stages that are compiled one by one, and costs seconds of compilation for each length of a sequence.
    Definitions consist of hundreds of MindSpore ops and would take many minutes to trace: they run stage by stage.
    """

    def plain(*args: Any) -> Any:  # MindSpore traces functions, and methods of cells only
        return function(*args)

    _traced_functions.append(plain)
    graph = ms.jit(plain, capture_mode="trace")

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        traced = kernels_active()
        previous = passing.set(ParameterPassing.ONE_GRAPH if traced else ParameterPassing.PER_STAGE)
        try:
            if not traced:
                return plain(*args)
            with _cheap_tracing():
                return graph(*args)
        finally:
            passing.reset(previous)

    return call


@contextlib.contextmanager
def _cheap_tracing() -> Iterator[None]:
    """Save what MindSpore's tracing does for a debug log that nobody reads.

    It reads every caller's source line for every op, which fails under `python -m`, and formats the function's arguments and
    results at each call, which takes a hundredth of a training step.
    """
    originals = [(jit_trace, "_get_caller_lines"), (Tensor, "__repr__"), (Tensor, "__str__")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in originals]
    jit_trace._get_caller_lines = lambda: ([__file__], [1])
    Tensor.__repr__ = Tensor.__str__ = object.__repr__
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)
