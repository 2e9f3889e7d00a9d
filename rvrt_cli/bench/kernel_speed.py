# SPDX-License-Identifier: Apache-2.0
"""Rate of each C++ kernel, and its time beside that of its plain MindSpore definition on the same input.

The time is that of the kernel inside a compiled graph, as the network runs it: a graph holds several calls, one after the
other, so that MindSpore's own time for starting a graph (about 0.4 ms) is shared among them.
"""

from __future__ import annotations

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
_KERNEL_CALLS, _DEFINITION_CALLS = 8, 2  # in a graph


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
        repeat: timed graphs of a kernel; of a definition there is one.
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
    rows = []
    for case, part in zip(kernel_cases(CASE_SIZES), kernel_cases(CASE_SIZES.part()), strict=True):
        row = {"name": case.name, **_measure_rate(case, repeat, gemm_gflops), "part": _compare(part, repeat)}
        rows.append(row)
    return rows


def _measure_rate(case: KernelCase, repeat: int, gemm_gflops: float) -> dict[str, Any]:
    outputs = _output_shapes(case)
    flops = kernel_flops(case.function, case.shapes, case.settings)
    moved = kernel_bytes(case.function, [*case.shapes, *outputs])
    in_gradient = 1 if case.function in WEIGHT_GRADIENTS_ONLY else GRADIENT_PRODUCTS
    products = {"forward": 1, "with_gradient": 1 + in_gradient}  # over those of the forward pass
    passes = {"forward": 1, "with_gradient": 2}  # over the memory
    row: dict[str, Any] = {"shape": list(case.shapes[0]), "gflop": None if flops is None else flops / 1e9}
    for part, seconds in _call_seconds_by_part(case, outputs, _KERNEL_CALLS, repeat).items():
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

    outputs = _output_shapes(case)
    kernel = _call_seconds_by_part(case, outputs, _KERNEL_CALLS, repeat)
    ops.use_kernels(False)
    try:
        definition = _call_seconds_by_part(case, outputs, _DEFINITION_CALLS, 1)
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


def _call_seconds_by_part(case: KernelCase, outputs: list[Shape], calls: int, repeat: int) -> dict[str, float]:
    """Seconds of one of `calls` in a compiled graph: "forward", and "with_gradient" if there is one."""
    import mindspore as ms

    tensors, mark = [ms.Tensor(array) for array in case.tensors], ms.Tensor(np.zeros(1, np.float32))
    operation = _of_tensors(case)
    forward = ms.jit(_repeated(operation, calls))
    seconds = {"forward": _time_graph(lambda: forward(mark, *tensors), repeat) / calls}
    if case.has_gradient:
        ones = [ms.Tensor(np.ones(shape, np.float32)) for shape in outputs]
        trained = ms.jit(_repeated(_with_gradients(operation, len(ones)), calls))
        seconds["with_gradient"] = _time_graph(lambda: trained(mark, *tensors, *ones), repeat) / calls
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
        done = operation(*tensors)
        for _ in range(calls - 1):
            done = operation(*[msops.depend(x, done) for x in tensors])
        return msops.depend(mark, done) + 1

    return call


def _time_graph(graph: Callable[[], Any], repeat: int) -> float:
    """Median of `repeat` runs after one that warms up [s]."""
    graph().asnumpy()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        graph().asnumpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
