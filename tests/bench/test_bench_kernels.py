# SPDX-License-Identifier: Apache-2.0
"""What the rates of kernels are made of: every kernel has a case, operations and bytes are right, no call is left out."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rvrt_cli.bench import kernel_speed
from rvrt_cli.bench.kernel_cases import CaseSizes, kernel_cases
from rvrt_cli.bench.kernel_cost import kernel_bytes, kernel_flops
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.model.cost import count_flops
from rvrt_cli.ops.backend import DEFINITIONS

_COUNTER = """
static int calls;
extern "C" int calls_so_far() { return calls; }
extern "C" int counted(int, void **params, int *, long **, const char **, void *, void *) {
  ++calls;
  static_cast<float *>(params[1])[0] = static_cast<float *>(params[0])[0];
  return 0;
}
"""


def test_every_kernel_has_a_case_with_a_name_of_its_own() -> None:
    cases = kernel_cases(CaseSizes(edge=8, width=12, tiny_height=8, tiny_width=8))
    assert {case.function for case in cases} == set(DEFINITIONS)
    assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize(("start", "calls"), [(0.0, 2.0), (1.5, 0.5), (1.9, 0.2), (3.0, 0.2)])
def test_the_start_of_a_graph_does_not_count_unless_it_hides_the_calls(start: float, calls: float) -> None:
    """On a busy machine the start alone may take longer than a graph with calls did at another moment."""
    assert kernel_speed._without_start([9.0, 2.0, 1.0], start) == pytest.approx(calls)


@pytest.mark.slow
def test_a_part_has_the_same_cases_with_fewer_pixels() -> None:
    """Fewer neighbors too, which the other cases do not have."""
    sizes = CaseSizes()
    assert (sizes.neighbors, sizes.part().neighbors) == (16, 2)
    whole = kernel_cases(replace(sizes, neighbors=2))
    part = kernel_cases(sizes.part())
    for large, small in zip(whole, part, strict=True):
        assert (large.name, large.settings) == (small.name, small.settings)
        assert math.prod(small.shapes[0]) * 16 == pytest.approx(math.prod(large.shapes[0]), rel=0.03)


@pytest.mark.parametrize(
    ("function", "shapes", "settings", "flops"),
    [
        ("conv2d", [(1, 4, 5, 2), (3, 2, 3, 3), (3,)], [], 2 * (4 * 5) * 3 * (2 * 9)),
        (
            "conv2d",
            [(1, 4, 5, 2), (1, 4, 5, 1), (3, 3, 3, 3), (3,)],
            [],
            2 * (4 * 5) * 3 * ((2 + 1) * 9),
        ),  # two sources
        ("convolve_onto", [(1, 2, 4, 5, 3), (1, 2, 4, 5, 2), (3, 2, 3, 3)], [], 2 * (2 * 4 * 5) * 3 * (2 * 9)),
        ("project_mlp", [(1, 4, 5, 6), (3, 6), (3,), (8, 3), (8,), (3, 8)], [], 2 * (4 * 5) * (3 * 6 + 2 * 8 * 3)),
        ("linear_pair", [(4, 5, 6), (4, 5, 2), (3, 6), (3,), (3, 2), (3,)], [], 2 * (4 * 5) * 3 * (6 + 2)),
        (
            "attend_at_offsets",  # query, value and key of 6 channels, attention of 8 to 9 points in each of 2 frames
            [(1, 2, 4, 5, 6)] * 3
            + [(1, 2, 4, 5, 36), *[(8, 6), (8,)] * 3, (6, 8), (6,), (12, 6), (12,), (6, 12), (6,)],
            [(2, 3, 10.0)],
            2 * (2 * 4 * 5) * (4 * 6 * 8 + 2 * 6 * 12 + 2 * 2 * 9 * 8),
        ),
        ("conv_chain", [(1, 4, 5, 3), *[(3, 3, 3, 3), (3,)] * 2], [True], 2 * 2 * (4 * 5) * 3 * (3 * 9)),
        (
            "conv_body",
            [*[(1, 1, 4, 5, 3)] * 2, (3, 6, 3, 3), (3,), *[(3, 3, 3, 3), (3,)] * 2],
            [1.0, False],
            2 * (4 * 5) * 3 * (6 * 9 + 2 * 3 * 9),
        ),
        ("linear", [(2, 7, 10), (4, 10), (4,)], [], 2 * (2 * 7) * 10 * 4),
        ("linear", [(2, 7, 6), (2, 7, 4), (4, 10), (4,)], [], 2 * (2 * 7) * 10 * 4),
        ("guided_offsets", [(1, 2, 3, 3, 5), (144, 5), (144,), (1, 2, 2, 3, 3, 2)], [(4, 9), 10.0], 2 * 18 * 144 * 5),
        (
            "guided_attention",  # offsets, query, key, value, projection, feed-forward, and 9 points in each of 2 frames
            [
                *[(1, 2, 3, 3, 4)] * 3,
                *[(1, 2, 3, 3, 5), (1, 2, 2, 3, 3, 2), (144, 5), (144,), *[(8, 4), (8,)] * 3],
                *[(4, 8), (4,), (9, 4), (9,), (4, 9), (4,)],
            ],
            [(2, 3, 4), 10.0],
            2 * 18 * (144 * 5 + 3 * 8 * 4 + 4 * 8 + 2 * 9 * 4) + 2 * 2 * 18 * (2 * 9) * 8,
        ),
        ("norm_linear", [(2, 7, 10), (10,), (10,), (4, 10), (4,)], [], 2 * (2 * 7) * 10 * 4),
        ("mlp", [(6, 10), (10,), (10,), (20, 10), (20,), (10, 20), (10,)], [], 2 * 6 * (200 + 200)),
        # 2 frames of 8×8 px in windows of 128: two products, of 128 positions by 128 by 12 channels
        ("window_attention", [(1, 2, 8, 8, 36), (36,)], [3, (2, 8, 8), (0, 0, 0)], 2 * 2 * 128 * 128 * 12),
        # each of 2·3·3 pixels attends to 9 points in each of 2 frames with 12 channels
        ("neighborhood_attention", [(1, 2, 3, 3, 12), (1, 2, 3, 3, 24)], [4, (3, 3)], 2 * 2 * 18 * (2 * 9) * 12),
        ("deformable_attention", [(1, 2, 3, 3, 12), (1, 2, 3, 3, 24)], [4, (3, 3)], 2 * 2 * 18 * (2 * 9) * 12),
        ("warp", [(1, 4, 4, 2), (1, 4, 4, 2)], [], None),
        ("warp_clip", [(1, 2, 4, 4, 3), (1, 2, 2, 4, 4, 2)], [], None),
        ("lucas_kanade", [(1, 4, 4, 3), (1, 4, 4, 3)], [], None),
    ],
)
def test_operations(function: str, shapes: list, settings: list, flops: int | None) -> None:
    assert kernel_flops(function, shapes, settings) == flops


@pytest.mark.parametrize("window", [(2, 8, 8), (2, 16, 8)])
@pytest.mark.parametrize("table", [[(675, 3)], []])
def test_a_swin_layer_counts_as_its_parts(window: tuple, table: list) -> None:
    """In windows of at most the frame's 8x8 px."""
    x, norm = (1, 2, 8, 8, 12), [(12,), (12,)]
    qkv, square, up, down = [(36, 12), (36,)], [(12, 12), (12,)], [(24, 12), (24,)], [(12, 24), (12,)]
    parts = [
        kernel_flops("norm_linear", [x, *norm, *qkv], []),
        kernel_flops("window_attention", [(1, 2, 8, 8, 36), (36,)], [3, (2, 8, 8), (0, 0, 0)]),
        kernel_flops("linear", [x, *square], []),
        kernel_flops("mlp", [x, *norm, *up, *down], []),
    ]
    weights = [*norm, *qkv, *square, *norm, *up, *down, *table]
    assert kernel_flops("swin_layer", [x, *weights], [3, window, True]) == sum(part or 0 for part in parts)
    parts.append(kernel_flops("linear", [x, *square], []))
    assert kernel_flops("swin_layer_onto", [x, x, *weights, *square], [3, window, True]) == sum(
        part or 0 for part in parts
    )


def test_attention_counts_as_in_the_cost_of_the_network() -> None:
    """The attention of the published network on one clip is that of its 12 Swin layers; a second clip is aligned too."""
    config, edge = RVRTConfig(), 64
    windows = lambda span: kernel_flops(  # noqa: E731
        "window_attention", [(1, 2, edge, edge, 3 * 144)], [6, (span, 8, 8), (0, 4, 4)]
    )
    one = count_flops(config, 2, edge, edge).attention
    assert one == pytest.approx(2 * windows(1) + 16 * windows(2) + 2 * windows(1))
    aligned = kernel_flops("deformable_attention", [(1, 2, edge, edge, 288), (1, 2, edge, edge, 576)], [12, (3, 3)])
    assert count_flops(config, 4, edge, edge).attention == pytest.approx(2 * one + 4 * aligned)


def test_dense_layers_have_as_many_operations_as_ones_sum_up_to() -> None:
    x, weight = np.ones((5, 7)), np.ones((3, 7))
    assert kernel_flops("linear", [x.shape, weight.shape, (3,)], []) == 2 * (x @ weight.T).sum()


def test_bytes_are_those_of_all_tensors() -> None:
    x, gamma = (1, 2, 4, 4, 6), (6,)
    assert kernel_bytes("layer_norm", [x, gamma, gamma, x]) == 4 * (192 + 6 + 6 + 192)
    assert kernel_bytes("pixel_shuffle", [(1, 2, 2, 8), (1, 4, 4, 2)]) == 4 * 64
    assert kernel_bytes("conv2d", [(1, 4, 4, 2), (2, 2, 3, 3), (2,), (1, 4, 4, 2)]) is None


@pytest.mark.slow
@pytest.mark.parametrize(("model", "others"), [("rvrt", {(144, 144, 3, 3)}), ("rvrt-tiny", set())])
def test_convolutions_are_those_of_the_networks(model: str, others: set) -> None:
    from rvrt_cli.model.initialization import parameter_shapes

    shapes = {(*shape[:2], *shape[-2:]) for shape in parameter_shapes(PRESETS[model]).values() if len(shape) > 2}
    cases = {case.shapes[-2] for case in kernel_cases(CaseSizes()) if case.name.startswith(f"{model}: convolution")}
    assert len(cases) >= 4
    assert cases - shapes == others


def test_a_graph_makes_every_call(tmp_path: Path) -> None:
    """MindSpore would make one of equal calls, and the rates would be several times too high."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    from rvrt_cli.device import use_device

    use_device("cpu")
    import mindspore as ms

    (tmp_path / "counter.cc").write_text(_COUNTER)
    library = tmp_path / "counter.so"
    subprocess.run([compiler, "-shared", "-fPIC", str(tmp_path / "counter.cc"), "-o", str(library)], check=True)
    operation = ms.ops.Custom(f"{library}:counted", lambda x: x, lambda x: x, func_type="aot")

    def call(first: ms.Tensor, counted: ms.Tensor) -> ms.Tensor:
        return first + operation(counted)  # as a gradient may depend on one tensor only

    graph = ms.jit(kernel_speed._repeated(call, 5))
    mark, x = ms.Tensor(np.zeros(1, np.float32)), ms.Tensor(np.ones(4, np.float32))
    for runs in (1, 2):
        graph(mark, x, x).asnumpy()
        assert ctypes.CDLL(str(library)).calls_so_far() == 5 * runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Swin layer",
        "rvrt: guided offsets, 64 to 432",
        "rvrt-tiny: convolution 3x3, 3x32 to 32",
        "rvrt-tiny: guided attention with its layers",
    ],
)
def test_gradients_are_taken_towards_every_tensor(name: str) -> None:
    """Tensors in a tuple and several outputs included; a gradient of zeros would mean that its kernel was left out."""
    from rvrt_cli.device import use_device

    use_device("cpu")
    import mindspore as ms

    sizes = CaseSizes(edge=8, width=12, tiny_height=8, tiny_width=8)
    (case,) = [case for case in kernel_cases(sizes) if case.name == name]
    operation, shapes = kernel_speed._of_tensors(case), kernel_speed._output_shapes(case)
    tensors, ones = map(ms.Tensor, case.tensors), [ms.Tensor(np.ones(shape, np.float32)) for shape in shapes]
    _, gradients = ms.jit(kernel_speed._with_gradients(operation, len(ones)))(*tensors, *ones)
    assert [gradient.shape for gradient in gradients] == case.shapes
    assert all(np.abs(gradient.asnumpy()).max() > 1e-6 for gradient in gradients)


def test_every_case_can_be_called() -> None:
    from rvrt_cli.device import use_device

    use_device("cpu")
    for case in kernel_cases(CaseSizes(edge=8, width=48, tiny_height=16, tiny_width=16)):
        assert all(math.prod(shape) > 0 for shape in kernel_speed._output_shapes(case)), case.name


@pytest.mark.slow
def test_the_arrays_of_a_tuple_are_tensors_of_one_argument() -> None:
    cases = {case.function: case for case in kernel_cases(CaseSizes(edge=8))}
    swin, alignment = cases["swin_layer"], cases["guided_attention"]
    assert (len(swin.tensors), swin.spans) == (14, ((0, 1, False), (1, 14, True)))
    assert swin.settings == [PRESETS["rvrt"].heads[1], (2, 8, 8), True]
    assert alignment.spans == ((0, 4, True), (4, 5, False), (5, 19, True))
