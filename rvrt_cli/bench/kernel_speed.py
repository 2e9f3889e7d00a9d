# SPDX-License-Identifier: Apache-2.0
"""Rate of each C++ kernel, and its time beside that of its plain MindSpore definition on the same input.

The time is that of the kernel inside a compiled graph, as the network runs it, without MindSpore's own for starting a graph
(0.1 to 0.5 ms). A graph holds several calls of a kernel, one after the other: the kernels' threads wait awake for the next one
only where it follows at once (`workers.cc`), and after a pause the thread that calls computes most of a short one alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.kernel_cases import CaseSizes, KernelCase, kernel_cases
from rvrt_cli.bench.kernel_cost import GRADIENT_PRODUCTS, WEIGHT_GRADIENTS_ONLY, Shape, kernel_bytes, kernel_flops
from rvrt_cli.errors import RvrtError

CASE_SIZES = CaseSizes()
_MOST_CALLS = 8  # of a kernel in a graph
_GRAPH_SECONDS = 0.06  # that the calls in a graph shall take at least
_TIMED_SECONDS = 0.02  # that the timed runs of a graph take at least, all together
_START_RUNS = 20  # of a graph without the call
_LEAST_CALLS_SHARE = (
    0.1  # of a graph's time that its calls take; what is left of shorter ones would be noise of either time
)
_LARGE_DEFINITIONS = ("attend_at_offsets", "deformable_attention", "guided_attention", "neighborhood_attention")


def check_kernels(options: BenchOptions) -> None:
    """Refuse --kernels where there are none.

    Raises:
        RvrtError: with the reason.
    """
    from rvrt_cli.device import use_device

    use_device(options.device, options.precision)
    from rvrt_cli.ops import kernels  # brings MindSpore, whose device is set by now

    if kernels.library() is None:
        raise RvrtError(f"--kernels: the C++ kernels are missing: {kernels.problem()}")


def measure_kernels(repeat: int, gemm_gflops: float) -> list[dict[str, Any]]:
    """Time every kernel, and on a part of the frame its definition too, compiled as in the network.

    Args:
        repeat: timed runs of a kernel's graph, of a definition's one; more where they are short.
        gemm_gflops: rate of the matrix product with which the kernels' are compared [GFLOP/s].

    Returns:
        for every kernel "name", "shape" (of its first tensor), "gflop" (of the forward pass, None where nothing is counted,
        see `kernel_flops`), "forward" and, where there is a gradient, "with_gradient" (forward pass and gradients of all
        tensors), and "part". "forward" and "with_gradient" have "seconds", "gflops", "efficiency" (gflops over
        `gemm_gflops`), and "gb_per_second" of kernels that only move memory (see `kernel_bytes`), None where it is another
        kind of kernel. "part" has its own "shape", and "forward" and "with_gradient" with "kernel_seconds",
        "definition_seconds" and their "factor".
    """
    from rvrt_cli.device import use_device

    use_device("cpu")
    import mindspore as ms

    rows = []
    for case, part in zip(kernel_cases(CASE_SIZES), kernel_cases(CASE_SIZES.part()), strict=True):
        row = {"name": case.name, **_measure_rate(case, repeat, gemm_gflops), "part": _compare(part, repeat)}
        rows.append(row)
        if case.function in _LARGE_DEFINITIONS:
            ms.ms_memory_recycle()  # or their graphs take 10 GB together; it takes time, and later graphs take longer to compile
    return rows


def _measure_rate(case: KernelCase, repeat: int, gemm_gflops: float) -> dict[str, Any]:
    outputs = _output_shapes(case)
    flops = kernel_flops(case.function, case.shapes, case.settings)
    moved = kernel_bytes(case.function, [*case.shapes, *outputs])
    in_gradient = 1 if case.function in WEIGHT_GRADIENTS_ONLY else GRADIENT_PRODUCTS
    products = {"forward": 1, "with_gradient": 1 + in_gradient}  # over those of the forward pass
    passes = {"forward": 1, "with_gradient": 2}  # over the memory
    row: dict[str, Any] = {"shape": list(case.shapes[0]), "gflop": None if flops is None else flops / 1e9}
    for part, seconds in _call_seconds_by_part(case, outputs, _start_seconds(case), repeat, _calls_for(case)).items():
        gflops = None if flops is None else products[part] * flops / seconds / 1e9
        row[part] = {
            "seconds": seconds,
            "gflops": gflops,
            "efficiency": None if gflops is None else gflops / gemm_gflops,
            "gb_per_second": None if moved is None else passes[part] * moved / seconds / 1e9,
        }
    return row


def _compare(case: KernelCase, repeat: int) -> dict[str, Any]:
    from rvrt_cli import ops

    outputs, start = _output_shapes(case), _start_seconds(case)
    kernel = _call_seconds_by_part(case, outputs, start, repeat, _calls_for(case))
    ops.use_kernels(False)
    try:
        definition = _call_seconds_by_part(case, outputs, start, 1)
    finally:
        ops.use_kernels(True)
    row: dict[str, Any] = {"shape": list(case.shapes[0])}
    for part, seconds in kernel.items():
        row[part] = {
            "kernel_seconds": seconds,
            "definition_seconds": definition[part],
            "factor": definition[part] / seconds,
        }
    return row


def _output_shapes(case: KernelCase) -> list[Shape]:
    import mindspore as ms

    found = _of_tensors(case)(*map(ms.Tensor, case.tensors))
    return [tuple(output.shape) for output in (found if isinstance(found, tuple) else (found,))]


def _calls_for(case: KernelCase) -> int:
    """Calls in a graph that take `_GRAPH_SECONDS`, up to `_MOST_CALLS`, by the time of one without a graph."""
    import mindspore as ms

    operation, tensors = _of_tensors(case), [ms.Tensor(array) for array in case.tensors]
    ms.runtime.synchronize()
    start = time.perf_counter()
    operation(*tensors)
    ms.runtime.synchronize()
    return min(_MOST_CALLS, math.ceil(_GRAPH_SECONDS / (time.perf_counter() - start)))


def _start_seconds(case: KernelCase) -> float:
    """Of a graph without a call: the shortest, so that what is left of a short call is never too little."""
    import mindspore as ms

    graph = _Graph(_repeated(_of_tensors(case), 0), list(map(ms.Tensor, case.tensors)))
    return min(graph.seconds() for _ in range(_START_RUNS))


def _without_start(seconds: list[float], start: float) -> float:
    """What the calls in a graph took, of the times of its runs and of a graph without calls: at least `_LEAST_CALLS_SHARE`."""
    whole = statistics.median(seconds)
    return max(whole - start, _LEAST_CALLS_SHARE * whole)


def _call_seconds_by_part(
    case: KernelCase, outputs: list[Shape], start: float, repeat: int, calls: int = 1
) -> dict[str, float]:
    """Seconds of one of `calls` in a compiled graph: "forward", and "with_gradient" if there is one.

    Args:
        start: seconds that a graph takes without them.
        repeat: timed runs, or more where they take less than `_TIMED_SECONDS` together.
    """
    import mindspore as ms

    tensors, operation = [ms.Tensor(array) for array in case.tensors], _of_tensors(case)

    def call_seconds(function: Callable, arguments: list[Any], calls: int) -> float:
        graph = _Graph(_repeated(function, calls), arguments)
        seconds: list[float] = []
        while len(seconds) < repeat or sum(seconds) < _TIMED_SECONDS:
            seconds.append(graph.seconds())
        return _without_start(seconds, start) / calls

    seconds = {"forward": call_seconds(operation, tensors, calls)}
    if case.has_gradient:
        ones = [ms.Tensor(np.ones(shape, np.float32)) for shape in outputs]
        trained = _with_gradients(operation, len(ones))
        seconds["with_gradient"] = call_seconds(trained, [*tensors, *ones], calls)
    return seconds


def _of_tensors(case: KernelCase) -> Callable:
    """The case's function, of all its tensors as arguments of their own: MindSpore has no gradients of tuples."""
    from rvrt_cli import ops

    operation, spans, settings = getattr(ops, case.function), case.spans, case.settings

    def of_tensors(*tensors: Any) -> Any:
        arguments: tuple = ()
        for begin, end, is_tuple in spans:
            part = tensors[begin:end]
            arguments = arguments + ((part,) if is_tuple else part)  # MindSpore compiles no (*arguments, ...)
        return operation(*arguments, *settings)

    return of_tensors


def _with_gradients(operation: Callable, outputs: int) -> Callable:
    """Of tensors and the gradients of `outputs` outputs: the outputs, and the gradients of the tensors."""
    from mindspore import ops as msops

    gradients = msops.GradOperation(get_all=True, sens_param=True)(operation)

    def call(*values: Any) -> Any:
        tensors, sensitivities = values[:-outputs], values[-outputs:]
        given = sensitivities[0] if outputs == 1 else sensitivities
        return operation(*tensors), gradients(*tensors, given)

    return call


def _repeated(operation: Callable, calls: int) -> Callable:
    """`operation` of the same tensors, `calls` times one after the other; the result is its first argument.

    Every tensor depends on the call before, or MindSpore would make one call of them all, or one gradient where that does
    not depend on the first tensor. The outputs stay where they are: fetching them would take longer than some kernels.
    """
    from mindspore import ops as msops

    def call(mark: Any, *tensors: Any) -> Any:
        done: Any = tensors
        for _ in range(calls):
            done = operation(*[msops.depend(x, done) for x in tensors])
        return msops.depend(mark, done) + 1

    return call


class _Graph:
    """A compiled function of `_repeated`, with its tensors; it has run once, to warm up."""

    def __init__(self, function: Callable, tensors: list[Any]) -> None:
        import mindspore as ms

        self._graph, self._arguments = ms.jit(function), [ms.Tensor(np.zeros(1, np.float32)), *tensors]
        self.seconds()

    def seconds(self) -> float:
        """Of one run."""
        start = time.perf_counter()
        self._graph(*self._arguments).asnumpy()
        return time.perf_counter() - start
