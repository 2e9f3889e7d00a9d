"""Each C++ kernel against its plain MindSpore definition, on the same input, forward and gradient."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.errors import RvrtError

CLIP, EDGE, WIDTH = 2, 32, 144  # frames, LR px, channels: a clip of the published network
_WIDE, _HEADS, _POINTS = 2 * WIDTH, 12, 9  # of its alignment
_WITHOUT_GRADIENT = ("lucas_kanade", "fuse_frames")


def check_kernels(options: BenchOptions) -> None:
    """Refuse --kernels where there are none.

    Raises:
        RvrtError: with the reason.
    """
    from rvrt_cli.device import use_device

    use_device(options.device, options.precision)
    from rvrt_cli.ops import kernels  # brings MindSpore, whose device is set by now

    if kernels.library() is None:
        raise RvrtError(f"--kernels: there are none: {kernels.problem()}")


def measure_kernels(repeat: int) -> list[dict[str, Any]]:
    """Sizes of the published network, one clip of 2 frames of 32×32 px (at twice that the definition of the
    first takes gigabytes); the definitions are compiled, as in the network.

    Returns:
        per kernel "name", and for "forward" and, where there is one, "gradient" (towards all its tensors, with what that
        needs of the forward pass) the median seconds of kernel and definition and the factor between them.
    """
    from rvrt_cli.device import use_device

    use_device("cpu")
    rows = []
    for name, (function, arguments) in _cases().items():
        fused = _time(function, arguments, True, repeat)
        plain = _time(function, arguments, False, repeat)
        row: dict[str, Any] = {"name": name}
        for part, ours, theirs in zip(("forward", "gradient"), fused, plain, strict=True):
            if ours is not None and theirs is not None:
                row[part] = {"kernel_seconds": ours, "definition_seconds": theirs, "factor": theirs / ours}
        rows.append(row)
    return rows


def _cases() -> dict[str, tuple[str, list[Any]]]:
    """What is measured → function of `rvrt_cli.ops`, its arguments; arrays are tensors that get a gradient."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def colors(count: int) -> np.ndarray:
        return rng.uniform(0, 1, (count, EDGE, EDGE, 3)).astype(np.float32)

    image, clip = (CLIP, EDGE, EDGE, WIDTH), (1, CLIP, EDGE, EDGE, WIDTH)
    wide = (1, CLIP, EDGE, EDGE, _WIDE)
    dense = 1 / np.sqrt(WIDTH)
    offsets = (1, CLIP, EDGE, EDGE, CLIP, _HEADS, _POINTS, 2)
    feed = [normal(WIDTH), normal(WIDTH), normal(_WIDE, WIDTH, scale=dense), normal(_WIDE),
            normal(WIDTH, _WIDE, scale=dense), normal(WIDTH)]  # fmt: skip
    return {
        "guided deformable attention": ("deformable_attention", [
            normal(*wide), normal(*wide[:-1], 2 * _WIDE), normal(*offsets, scale=3), _HEADS, (3, 3)]),
        "neighborhood attention": ("neighborhood_attention", [
            normal(*wide), normal(*wide[:-1], 2 * _WIDE), _HEADS, (3, 3)]),
        "window attention": ("window_attention", [
            normal(*clip[:-1], 3 * WIDTH), normal(3 * WIDTH), normal(6, 128, 128), 6, (2, 8, 8), (0, 4, 4)]),
        "warp": ("warp", [normal(*image), normal(*image[:-1], 2, scale=3)]),
        "convolution 3x3": ("conv2d", [normal(*image), normal(WIDTH, WIDTH, 3, 3, scale=dense / 3), normal(WIDTH)]),
        "dense layer": ("linear", [normal(*clip), normal(3 * WIDTH, WIDTH, scale=dense), normal(3 * WIDTH)]),
        "norm and dense layer": ("norm_linear", [
            normal(*clip), normal(WIDTH), normal(WIDTH), normal(3 * WIDTH, WIDTH, scale=dense), normal(3 * WIDTH)]),
        "feed-forward": ("mlp", [normal(*clip), *feed]),
        "layer norm": ("layer_norm", [normal(*clip), normal(WIDTH), normal(WIDTH)]),
        "pixel shuffle": ("pixel_shuffle", [normal(CLIP, 2 * EDGE, 2 * EDGE, 256), 2, "leaky_relu"]),
        "reversal of time": ("reverse_time", [normal(*clip)]),
        "bilinear residual": ("add_upsampled", [normal(CLIP, 4 * EDGE, 4 * EDGE, 3), normal(CLIP, EDGE, EDGE, 3)]),
        "optical flow": ("lucas_kanade", [colors(CLIP), colors(CLIP)]),
        "frames on a finer grid": ("fuse_frames", [
            colors(CLIP), np.stack([colors(CLIP)] * 4, 1), normal(CLIP, 4, EDGE, EDGE, 2)]),
        "Charbonnier loss": ("charbonnier", [normal(CLIP, 4 * EDGE, 4 * EDGE, 3), normal(CLIP, 4 * EDGE, 4 * EDGE, 3)]),
    }  # fmt: skip


def _time(function: str, arguments: list[Any], fused: bool, repeat: int) -> tuple[float, float | None]:
    """Median seconds of the compiled function, and of its gradients towards all its tensors, if it has any."""
    import mindspore as ms

    from rvrt_cli import ops

    tensors = [ms.Tensor(argument) for argument in arguments if isinstance(argument, np.ndarray)]
    rest = [argument for argument in arguments if not isinstance(argument, np.ndarray)]
    ops.use_kernels(fused)
    try:
        operation = getattr(ops, function)
        forward = ms.jit(_called(operation, rest))
        output = forward(*tensors)
        sense = ms.Tensor(np.ones(output.shape, np.float32))
        forward_seconds = _median(lambda: forward(*tensors), repeat)
        if function in _WITHOUT_GRADIENT:
            return forward_seconds, None
        both = ms.jit(_gradients(operation, rest, len(tensors)))
        return forward_seconds, _median(lambda: both(sense, *tensors)[-1], repeat)
    finally:
        ops.use_kernels(True)


def _called(operation: Callable, rest: list[Any]) -> Callable:
    def call(*tensors: Any) -> Any:
        return operation(*tensors, *rest)

    return call


def _gradients(operation: Callable, rest: list[Any], count: int) -> Callable:
    import mindspore as ms

    def weighted(sense: Any, *tensors: Any) -> Any:
        return (operation(*tensors, *rest) * sense).sum()

    return ms.grad(weighted, tuple(range(1, count + 1)))


def _median(call: Callable[[], Any], repeat: int) -> float:
    call().asnumpy()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call().asnumpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
