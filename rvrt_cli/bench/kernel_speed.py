# SPDX-License-Identifier: Apache-2.0
"""Time of each C++ kernel and of its plain MindSpore definition, on the same input, forward and gradient."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.errors import RvrtError

# Sizes of the published network: a clip of 2 frames of 32×32 LR px (at twice that size the definition of deformable
# attention takes gigabytes), 144 channels, and twice as many in the alignment
_CASE_FRAMES, _CASE_EDGE, _CASE_WIDTH = 2, 32, 144
_ALIGN_HEADS, _KERNEL_POINTS = 12, 9


@dataclass(frozen=True)
class KernelCase:
    """A function of `rvrt_cli.ops` and its arguments; arrays become tensors, towards which the gradient is taken."""

    name: str
    function: str
    arguments: list[Any]
    has_gradient: bool = True


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


def measure_kernels(repeat: int) -> list[dict[str, Any]]:
    """Time every kernel and its definition, which is compiled as in the network.

    Returns:
        for every kernel "name", and for "forward" and, where there is one, "gradient" (towards all its tensors, with the
        part of the forward pass that it needs) the median seconds of kernel and definition and the factor between them.
    """
    from rvrt_cli.device import use_device

    use_device("cpu")
    rows = []
    for case in kernel_cases():
        kernel = _median_seconds(case, use_kernels=True, repeat=repeat)
        definition = _median_seconds(case, use_kernels=False, repeat=repeat)
        row: dict[str, Any] = {"name": case.name}
        for part, seconds in kernel.items():
            row[part] = {
                "kernel_seconds": seconds,
                "definition_seconds": definition[part],
                "factor": definition[part] / seconds,
            }
        rows.append(row)
    return rows


def kernel_cases(edge: int = _CASE_EDGE, width: int = _CASE_WIDTH) -> list[KernelCase]:
    """Every kernel with random input: `edge` px, `width` channels."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def colors(*shape: int) -> np.ndarray:
        return rng.uniform(0, 1, (*shape, edge, edge, 3)).astype(np.float32)

    wide, triple = 2 * width, 3 * width
    plane = (_CASE_FRAMES, edge, edge)
    image, clip = (*plane, width), (1, *plane, width)
    query, key_value = (1, *plane, wide), (1, *plane, 2 * wide)
    offsets = (1, *plane, _CASE_FRAMES, _ALIGN_HEADS, _KERNEL_POINTS, 2)
    upscaled = (_CASE_FRAMES, 4 * edge, 4 * edge, 3)
    weight_scale = 1 / np.sqrt(width)  # keeps the magnitude of what a dense layer gets
    to_triple = [normal(triple, width, scale=weight_scale), normal(triple)]
    norm = [normal(width), normal(width)]
    hidden = [normal(wide, width, scale=weight_scale), normal(wide)]
    output = [normal(width, wide, scale=weight_scale), normal(width)]
    window_bias, conv_weight = normal(6, 128, 128), normal(width, width, 3, 3, scale=weight_scale / 3)
    attention = [normal(*query), normal(*key_value)]
    fusion = [colors(_CASE_FRAMES), colors(_CASE_FRAMES, 4), normal(_CASE_FRAMES, 4, edge, edge, 2)]
    return [
        KernelCase(
            "guided deformable attention",
            "deformable_attention",
            [*attention, normal(*offsets, scale=3), _ALIGN_HEADS, (3, 3)],
        ),
        KernelCase("neighborhood attention", "neighborhood_attention", [*attention, _ALIGN_HEADS, (3, 3)]),
        KernelCase(
            "window attention",
            "window_attention",
            [normal(1, *plane, triple), normal(triple), window_bias, 6, (2, 8, 8), (0, 4, 4)],
        ),
        KernelCase("warp", "warp", [normal(*image), normal(*plane, 2, scale=3)]),
        KernelCase("convolution 3x3", "conv2d", [normal(*image), conv_weight, normal(width)]),
        KernelCase("dense layer", "linear", [normal(*clip), *to_triple]),
        KernelCase("norm and dense layer", "norm_linear", [normal(*clip), *norm, *to_triple]),
        KernelCase("feed-forward", "mlp", [normal(*clip), *norm, *hidden, *output]),
        KernelCase("layer norm", "layer_norm", [normal(*clip), *norm]),
        KernelCase("pixel shuffle", "pixel_shuffle", [normal(_CASE_FRAMES, 2 * edge, 2 * edge, 256), 2, "leaky_relu"]),
        KernelCase("time reversal", "reverse_time", [normal(*clip)]),
        KernelCase("bilinear residual", "add_upsampled", [normal(*upscaled), normal(*plane, 3)]),
        KernelCase("optical flow", "lucas_kanade", [colors(_CASE_FRAMES), colors(_CASE_FRAMES)], has_gradient=False),
        KernelCase("frame fusion", "fuse_frames", fusion, has_gradient=False),
        KernelCase("Charbonnier loss", "charbonnier", [normal(*upscaled), normal(*upscaled)]),
    ]


def _median_seconds(case: KernelCase, use_kernels: bool, repeat: int) -> dict[str, float]:
    """Of the compiled function ("forward"), and of its gradients ("gradient") if it has any."""
    import mindspore as ms

    from rvrt_cli import ops

    tensors = [ms.Tensor(argument) for argument in case.arguments if isinstance(argument, np.ndarray)]
    settings = [argument for argument in case.arguments if not isinstance(argument, np.ndarray)]
    ops.use_kernels(use_kernels)
    try:
        operation = getattr(ops, case.function)
        forward = ms.jit(_with_settings(operation, settings))
        output = forward(*tensors)
        seconds = {"forward": _time_calls(lambda: forward(*tensors), repeat)}
        if case.has_gradient:
            sensitivity = ms.Tensor(np.ones(output.shape, np.float32))
            gradients = ms.jit(_gradients(operation, settings, len(tensors)))
            seconds["gradient"] = _time_calls(lambda: gradients(sensitivity, *tensors)[-1], repeat)
        return seconds
    finally:
        ops.use_kernels(True)


def _with_settings(operation: Callable, settings: list[Any]) -> Callable:
    def call(*tensors: Any) -> Any:
        return operation(*tensors, *settings)

    return call


def _gradients(operation: Callable, settings: list[Any], count: int) -> Callable:
    import mindspore as ms

    def weighted_sum(sensitivity: Any, *tensors: Any) -> Any:
        return (operation(*tensors, *settings) * sensitivity).sum()

    return ms.grad(weighted_sum, tuple(range(1, count + 1)))


def _time_calls(call: Callable[[], Any], repeat: int) -> float:
    """Median of `repeat` calls after one that warms up [s]."""
    call().asnumpy()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call().asnumpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
