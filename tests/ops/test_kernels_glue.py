# SPDX-License-Identifier: Apache-2.0
"""The kernels as MindSpore operations equal the definitions, forward and backward, in both of MindSpore's modes.

What the kernels compute is compared with float64 in test_kernels_attention.py and test_kernels_layers.py; these tests
cover what passes between MindSpore and the library: shapes, attributes, gradients and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from helpers.comparison import assert_close
from helpers.flow_reference import moved_texture, waves
from helpers.op_cases import (
    CASES,
    CPU_CASES,
    VECTOR,
    N,
    X,
    arguments,
    of_tensors,
    value_and_gradients,
    values_and_gradients,
)
from mindspore import Tensor

from rvrt_cli import ops
from rvrt_cli.model import PRESETS, RVRT, RVRTConfig, initial_weights
from rvrt_cli.model.alignment import align_deformable, align_unguided
from rvrt_cli.model.weight_shapes import deformable_shapes
from rvrt_cli.ops import frame_fusion, kernels, layers
from rvrt_cli.ops.kernels.build import Built
from rvrt_cli.ops.lucas_kanade_flow import lucas_kanade

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.problem()))


# 16 channels and more: with fewer, the layers run one by one
SQUARE = [(20, 20, 3, 3), (20,)]
WIDE_CASES = {
    "conv_chain wide": (layers, [(N, 9, 11, 20), SQUARE * 4], (True,)),
    "conv_chain wide leaky": (layers, [(N, 9, 11, 20), SQUARE * 4], (False,)),
}


@pytest.mark.parametrize("name", ["conv_body bare", "conv_chain wide", "conv_chain wide leaky"])
def test_conv_body_of_amx_equals_its_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op that runs with AMX, here with emulated products: apart from operands rounded to eight bits."""
    monkeypatch.setattr("rvrt_cli.ops.kernels.glue.amx_in_use", lambda: True)
    definitions, shapes, rest = (CPU_CASES | WIDE_CASES)[name]
    values = arguments(name, shapes, rest)
    function = name.split()[0]
    expected = getattr(definitions, function)(*values).asnumpy()
    assert ops.use_kernels(True)
    call, tensors = of_tensors(getattr(ops, function), values)
    library = kernels._opened_library()
    library.rvrt_kernels_bfloat16(1)
    try:
        found = {mode: kernel(*tensors).asnumpy() for mode, kernel in both_modes(call)}
    finally:
        library.rvrt_kernels_bfloat16(0)
    for mode, value in found.items():
        assert value.shape == expected.shape, mode
        assert 1e-4 < np.abs(value - expected).max() / np.abs(expected).max() < 2e-2, mode


@pytest.mark.parametrize("name", ["conv_chain", "conv_chain leaky", "guided_attention"])
def test_op_of_training_equals_its_definition_with_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op that runs where gradients are wanted: elsewhere layers run one by one, or a kernel that keeps nothing."""
    monkeypatch.setattr("rvrt_cli.ops.kernels.glue.gradients_wanted", lambda: True)
    test_kernel_equals_its_definition_with_gradients(name)


@pytest.mark.parametrize("name", [*CASES, *CPU_CASES])
def test_kernel_equals_its_definition_with_gradients(name: str) -> None:
    definitions, shapes, rest = (CASES | CPU_CASES)[name]
    function = name.split()[0]
    values = arguments(name, shapes, rest)
    defined = in_float64(values) if function.startswith("guided_") else values
    expected, expected_gradients = values_and_gradients(getattr(definitions, function), defined)
    assert ops.use_kernels(True)
    call, tensors = of_tensors(getattr(ops, function), values)  # as stages do: jit has no gradients of a tuple
    for mode, kernel in both_modes(call):
        outputs, gradients = values_and_gradients(kernel, tensors)
        assert len(outputs) == len(expected)
        for i, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
            assert_close(output, wanted, 1e-5, f"{name}, {mode}: output {i}")
        assert len(gradients) == len(tensors)
        for i, (gradient, wanted) in enumerate(zip(gradients, expected_gradients, strict=True)):
            assert_close(gradient, wanted, 1e-5, f"{name}, {mode}: gradient of input {i}")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 1, 1, 5), (1, 4, 33, 2)])
def test_fusion_equals_its_definition_without_gradients(shape: tuple) -> None:
    batch, _, height, width = shape
    rng = np.random.default_rng(3)
    flows = 2 * rng.standard_normal((*shape, 2))
    flows[0, 0, 0, :2] = [[3e9, -1e4], [np.inf, 0.5]]  # far outside
    colors = rng.uniform(0.4, 0.7, (batch, height, width, 3)), rng.uniform(0.4, 0.7, (*shape, 3))
    values = [*colors, flows, rng.uniform(0, 1, shape)]
    check_without_gradients(
        frame_fusion.fuse_frames, "fuse_frames", [Tensor(value.astype(np.float32)) for value in values]
    )


@pytest.mark.slow
def test_fusion_of_a_clip_equals_its_definition_without_gradients() -> None:
    """Of moving scenes: between frames without a match, the flow and the fading of samples multiply rounding errors."""
    rows, columns = np.mgrid[:9, :13]
    scenes = [[waves(seed, rows + 0.6 * time, columns - 1.3 * time) for time in range(4)] for seed in (1, 4)]
    clips = (np.array(scenes)[..., None] + [0, 0.1, -0.1]).astype(np.float32)
    # 5e-5, not 1e-5: each iteration of the flow starts from the rounding errors of the previous one
    check_without_gradients(frame_fusion.fuse_clip, "fuse_clip", [Tensor(clips), 1], 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 9, 13), (3, 1, 5), (1, 70, 300)])
def test_flow_equals_its_definition_without_gradients(shape: tuple) -> None:
    views = [Tensor(view) for view in moved_texture(*shape)]
    flow = check_without_gradients(lucas_kanade, "lucas_kanade", views, part=0)
    # 5e-5, not 1e-5: where gradients are strong, it changes by three times a rounding error of the flow
    match = check_without_gradients(lucas_kanade, "lucas_kanade", views, 5e-5, part=1)
    assert np.abs(flow).max() > 0.5
    assert np.ptp(match) > 0.5


def in_float64(values: list) -> list:
    """MindSpore's tanh in float32 errs by up to 1e-4 on a CPU, that in float64 does not."""

    def widened(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.astype(ms.float64)
        return tuple(map(widened, value)) if isinstance(value, tuple) else value

    return [widened(value) for value in values]


def both_modes(function: Callable) -> list[tuple[str, Callable]]:
    return [("pynative", function), ("jit", ms.jit(function))]


def check_without_gradients(
    definition: Callable, name: str, values: list, bound: float = 1e-5, part: int | None = None
) -> np.ndarray:
    """The kernel gives what its definition gives, and no gradient; returns the definition's output, or that part of it."""

    def chosen(function: Callable) -> Callable:
        def one(*arguments: Any) -> Tensor:
            return function(*arguments)[part]

        return function if part is None else one

    expected = chosen(definition)(*values).asnumpy()
    assert ops.use_kernels(True)
    call, tensors = of_tensors(chosen(getattr(ops, name)), values)
    for mode, kernel in both_modes(call):
        output, gradients = value_and_gradients(kernel, tensors)
        assert_close(output, expected, bound, f"{name}, {mode}")
        assert not any(gradient.any() for gradient in gradients)
    return expected


def test_half_precision_runs_on_the_definitions() -> None:
    x, weight, bias = (Tensor(np.random.default_rng(0).standard_normal(s), ms.float16) for s in (X, VECTOR, VECTOR))
    ops.use_kernels(True)
    np.testing.assert_array_equal(
        ops.layer_norm(x, weight, bias).asnumpy(), layers.layer_norm(x, weight, bias).asnumpy()
    )


def test_without_a_library_the_definitions_run_and_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_locate_library", lambda: (None, "CPU kernels are missing"))
    kernels.library.cache_clear()
    try:
        assert ops.use_kernels(True) is False
        assert not ops.kernels_active()
        assert ops.linear is layers.linear
        assert "missing" in str(kernels.problem())
    finally:
        monkeypatch.undo()
        kernels.library.cache_clear()
        assert ops.use_kernels(True)
    assert ops.kernels_active()
    assert ops.linear is not layers.linear


def test_an_installation_without_a_library_says_how_to_install_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "SOURCES", tmp_path)
    monkeypatch.setattr(kernels, "_REPOSITORY", tmp_path)
    library, problem = kernels._locate_library.__wrapped__()
    assert library is None
    assert str(problem).endswith("install g++ and run, in the checkout: pip install --force-reinstall --no-deps .")


def test_kernels_at_a_path_with_a_colon_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / kernels.LIBRARY).write_bytes(b"")
    monkeypatch.setattr(kernels, "SOURCES", tmp_path / "a:b")
    library, problem = kernels._locate_library.__wrapped__()
    assert library is None
    assert "at a path without a colon" in str(problem)


# --- the network

# One branch pair of width 16, and one shape for all tests: MindSpore compiles each stage once per shape
TINY = replace(PRESETS["rvrt-tiny"], widths=(16, 16, 16), depths=(1, 1, 1), fused_neighbors=1)
UNGUIDED = replace(TINY, flow_guided=False, fused_neighbors=0)
LIGHT = replace(
    PRESETS["rvrt-light"],
    passes=2,
    widths=(16, 16, 16),
    groups=(1, 1, 1),
    depths=(1, 2, 1),  # the second layer of a branch shifts its windows
    heads=(2, 2, 2),
    align_ratio=1,
    align_heads=2,
    upsampler_width=8,
    relative_position_bias=True,
)
FRAMES, HEIGHT, WIDTH = 3, 12, 10


@pytest.fixture
def _kernels_again() -> Iterator[None]:
    """Leave the kernels switched on for the tests that follow."""
    yield
    ops.use_kernels(True)


def noisy_weights(config: RVRTConfig) -> dict[str, np.ndarray]:
    """Initial weights with so much noise that every part matters.

    With this seed no leaky ReLU is within rounding of zero, where kernels and definitions may take different slopes: one such
    pixel changes gradients by 5e-4, all the others agree within 3e-6.
    """
    rng = np.random.default_rng(6)
    return {
        name: array + 0.05 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in initial_weights(config).items()
    }


def network(config: RVRTConfig, weights: dict[str, np.ndarray]) -> RVRT:
    cell = RVRT(config)
    cell.load(weights)
    return cell


def clip() -> tuple[Tensor, Tensor]:
    """Noise (1, T, H, W, 3), and a target (1, T, 4H, 4W, 3) for a loss."""
    rng = np.random.default_rng(0)
    low = rng.random((1, FRAMES, HEIGHT, WIDTH, 3), dtype=np.float32)
    return Tensor(low), Tensor(rng.random((1, FRAMES, 4 * HEIGHT, 4 * WIDTH, 3), dtype=np.float32))


def moving_waves() -> Tensor:
    """(1, T, H, W, 3) that optical flow can follow, as it cannot follow noise."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = [0.9 * (columns - 0.5 * t) + 0.5 * rows + phase for t in range(FRAMES) for phase in (0, 1, 2)]
    frames = np.reshape(0.5 + 0.4 * np.sin(waves), (1, FRAMES, 3, HEIGHT, WIDTH))
    return Tensor(np.ascontiguousarray(np.moveaxis(frames, 2, -1), np.float32))


def output_and_gradients(cell: RVRT) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The output for `clip`, and the gradients of its squared error by the parameter's name."""
    low, high = clip()
    parameters = list(cell.get_parameters())

    def loss(low: Tensor) -> tuple[Tensor, Tensor]:
        output = cell(low)
        return ((output - high) ** 2).mean(), output

    with ops.compiled_at_once():  # eager stages have no gradients outside of `ops.differentiable`
        (_, output), gradients = ms.value_and_grad(loss, None, parameters, has_aux=True)(low)
    return output.asnumpy(), {p.name: g.asnumpy() for p, g in zip(parameters, gradients, strict=True)}


@pytest.mark.slow
@pytest.mark.usefixtures("_kernels_again")
def test_network_with_optical_flow_on_kernels_equals_that_on_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definitions uncompiled: that of `lucas_kanade` alone would take ten seconds to compile."""
    low, weights, outputs = moving_waves(), noisy_weights(TINY), []
    for kernels_wanted in (True, False):
        assert ops.use_kernels(kernels_wanted) == kernels_wanted
        if not kernels_wanted:
            monkeypatch.setenv("MS_JIT", "0")
        outputs.append(network(TINY, weights)(low).asnumpy())
    assert_close(*outputs, 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("_kernels_again")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["eager", "compiled"])
@pytest.mark.parametrize("config", [UNGUIDED, LIGHT], ids=["tiny", "light"])
def test_network_on_kernels_equals_the_network_on_definitions(
    config: RVRTConfig, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gradients of all weights. Definitions take long to compile; test_train_learner compiles some too."""
    weights = noisy_weights(config)
    assert ops.use_kernels(True)
    output, gradients = output_and_gradients(network(config, weights))
    ops.use_kernels(False)
    if not compiled:
        monkeypatch.setenv("MS_JIT", "0")
    expected, expected_gradients = output_and_gradients(network(config, weights))
    assert_close(output, expected, 1e-5)
    assert set(gradients) == set(initial_weights(config))
    for name, wanted in expected_gradients.items():
        if np.abs(wanted).max() > 1e-7:  # a key's bias has none
            assert_close(gradients[name], wanted, 1e-4, name)


@pytest.mark.slow
@pytest.mark.usefixtures("_kernels_again")
def test_guided_alignment_on_kernels_equals_that_on_definitions() -> None:
    """With gradients towards features, flows and weights."""
    config = replace(TINY, offset_width=64, flow_guided=True)
    rng = np.random.default_rng(2)
    shapes = [shape for _, shape in deformable_shapes("align", config)]
    weights = [Tensor((rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)) for s in shapes]
    feature, flow = (1, 2, 8, 9, 16), (1, 2, 2, 8, 9, 2)
    inputs = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in (feature, feature, feature, flow)]
    mixture = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in (feature, flow)]

    def weighted(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        aligned, updated = align_deformable(*tensors[:4], (2, 3, 4), 10.0, *tensors[4:])
        return (aligned * mixture[0]).sum() + (updated * mixture[1]).sum(), aligned, updated

    results = []
    for kernels_wanted in (True, False):
        assert ops.use_kernels(kernels_wanted) == kernels_wanted
        gradient = ms.value_and_grad(weighted, tuple(range(4 + len(weights))), has_aux=True)
        (_, aligned, updated), gradients = gradient(*inputs, *weights)
        results.append([aligned.asnumpy(), updated.asnumpy(), *[g.asnumpy() for g in gradients]])
    for i, (value, expected) in enumerate(zip(*results, strict=True)):
        assert_close(value, expected, 1e-5 if i < 2 else 1e-4, f"output {i}" if i < 2 else f"gradient of input {i - 2}")


def test_alignment_without_flow_equals_alignment_with_zero_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_JIT", "0")
    rng = np.random.default_rng(3)
    shapes = [shape for _, shape in deformable_shapes("align", replace(TINY, flow_guided=True))]
    guided = [(rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for s in shapes]
    unguided = [guided[0][:, :-4], *guided[1:]]  # without the channels of the two flows
    assert [weight.shape for weight in unguided] == [shape for _, shape in deformable_shapes("align", UNGUIDED)]
    features = [Tensor(rng.standard_normal((1, 2, 8, 9, 16)).astype(np.float32)) for _ in range(3)]
    flow = Tensor(np.zeros((1, 2, 2, 8, 9, 2), np.float32))
    expected, _ = align_deformable(*features, flow, (2, 3, 4), 10.0, *map(Tensor, guided))
    aligned = align_unguided(*features, (2, 3, 4), 10.0, *map(Tensor, unguided))
    assert_close(aligned.asnumpy(), expected.asnumpy(), 1e-5, "aligned")


@pytest.mark.slow
def test_gradients_of_shared_graphs_agree_with_differences() -> None:
    """Compiled stages serve several branches and clips; each set of weights must get the gradient of all its calls."""
    assert ops.use_kernels(True)
    (low, high), weights = clip(), noisy_weights(LIGHT)
    cell = network(LIGHT, weights)
    _, gradients = output_and_gradients(cell)
    for part in ("feat_extract", "deform_align.forward_1", "backbone.backward_1", "backbone.forward_1"):
        # along the gradient itself, so that the difference stands out of the rounding
        step = {name: g for name, g in gradients.items() if name.startswith(part)}
        length = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in step.values())))
        ends = []
        for sign in (1, -1):
            cell.load({n: w + sign * 0.003 / length * step.get(n, 0 * w) for n, w in weights.items()})
            ends.append(float(((cell(low).asnumpy().astype(np.float64) - high.asnumpy()) ** 2).mean()))
        assert (ends[0] - ends[1]) / 0.006 == pytest.approx(length, rel=0.02), part


@pytest.mark.slow
def test_network_sees_weights_that_change_after_it_was_compiled() -> None:
    assert ops.use_kernels(True)
    low, weights = moving_waves(), noisy_weights(TINY)
    cell = network(TINY, weights)
    with ops.compiled_at_once():
        first = cell(low).asnumpy()
        cell.load({name: 1.1 * array for name, array in weights.items()})
        changed = cell(low).asnumpy()
        assert np.abs(changed - first).max() > 1e-3
        cell.load(weights)
        np.testing.assert_array_equal(cell(low).asnumpy(), first)


def test_missing_kernels_are_one_line_with_the_slowdown_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "SOURCES", tmp_path)
    for checkout, remedy in ((False, "pip install --force-reinstall"), (True, kernels.REBUILD)):
        if checkout:
            (tmp_path / "pyproject.toml").touch()
        monkeypatch.setattr(kernels, "_REPOSITORY", tmp_path)
        monkeypatch.setattr(kernels, "build", lambda folder: Built(None, "no C++ compiler found"))
        library, problem = kernels._locate_library.__wrapped__()
        assert library is None
        assert "ten times slower" in problem
        assert "install g++ and run" in problem
        assert problem.endswith((f"{remedy} --no-deps .", remedy))
        assert "\n" not in problem
