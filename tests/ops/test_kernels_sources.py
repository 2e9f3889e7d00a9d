# SPDX-License-Identifier: Apache-2.0
"""Convolutions and dense layers of several tensors whose channels lie side by side: what one concatenated tensor gives."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.comparison import assert_all_close
from helpers.kernel_calls import Kernels, attributes
from helpers.kernel_checks import doubles, random_arrays
from helpers.layer_reference import activate, convolve

CHANNELS = [(5, 7), (1, 16, 30), (8, 8, 8, 8), (17, 1, 3, 2, 33)]


def split(x: np.ndarray, channels: tuple[int, ...]) -> list[np.ndarray]:
    return [np.ascontiguousarray(part) for part in np.split(x, np.cumsum(channels)[:-1], -1)]


@pytest.mark.parametrize("activation", [0, 1, 4])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_linear_of_several_tensors(cpu_kernels: Kernels, channels: tuple[int, ...], activation: int) -> None:
    inputs, outputs = sum(channels), 21
    x, residual = random_arrays(1, (3, 50, inputs), (3, 50, outputs))
    weight, bias = random_arrays(2, (outputs, inputs), (outputs,))
    for has_residual in (0, 1):
        rest = [weight, bias, residual, attributes(activation, 1, has_residual)]
        expected = cpu_kernels("linear_forward", x, *rest, like=[residual])
        np.testing.assert_array_equal(
            cpu_kernels("linear_forward", *split(x, channels), *rest, like=[residual]), expected
        )


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_direct_convolution_of_several_tensors(
    cpu_kernels: Kernels, channels: tuple[int, ...], kernel: tuple[int, int]
) -> None:
    """Two tiles across; in all bits, as the direct algorithm copies the tensors side by side first."""
    inputs, outputs, image = sum(channels), 3, (2, 5, 75)
    x, residual = random_arrays(3, (*image, inputs), (*image, outputs))
    weight, bias = random_arrays(4, (outputs, inputs, *kernel), (outputs,))
    for has_residual in (0, 1):
        rest = [weight, bias, residual, attributes(1, 1, has_residual)]
        expected = cpu_kernels("conv2d_forward", x, *rest, like=[residual])
        np.testing.assert_array_equal(
            cpu_kernels("conv2d_forward", *split(x, channels), *rest, like=[residual]), expected
        )


@pytest.mark.parametrize("channels", [(16, 16), (20, 1, 19), (48, 3, 200, 16), (2, 2, 2, 2, 8)], ids=str)
def test_convolution_by_winograd_of_several_tensors(cpu_kernels: Kernels, channels: tuple[int, ...]) -> None:
    """Its sums begin anew with each tensor, so that the last bits differ from those of one tensor."""
    inputs, outputs, image = sum(channels), 35, (2, 13, 18)
    x, residual = random_arrays(5, (*image, inputs), (*image, outputs))
    weight, bias = random_arrays(6, (outputs, inputs, 3, 3), (outputs,))
    expected = activate(convolve(*doubles(x, weight)) + bias, 2)
    for has_residual in (0, 1):
        rest = [weight, bias, residual, attributes(2, 1, has_residual)]
        ours = cpu_kernels("conv2d_forward", *split(x, channels), *rest, like=[residual])
        assert_all_close(ours, [expected + has_residual * residual], "y")


@pytest.mark.parametrize("activation", [0, 1, 4])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_gradients_of_linear_of_several_tensors(
    cpu_kernels: Kernels, channels: tuple[int, ...], activation: int
) -> None:
    inputs, outputs = sum(channels), 21
    x, dy = random_arrays(10, (3, 50, inputs), (3, 50, outputs))
    weight, bias = random_arrays(11, (outputs, inputs), (outputs,))
    rest = [weight, bias, dy, attributes(activation, 1, 0)]
    dx, *expected = cpu_kernels("linear_backward", x, *rest, like=[x, weight, bias])
    parts = split(x, channels)
    ours = cpu_kernels("linear_backward", *parts, *rest, like=[*parts, weight, bias])
    for found, wanted in zip(ours, [*split(dx, channels), *expected], strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("needs_dx", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "outputs", "channels"),
    [((5, 5), 3, (5, 7)), ((3, 3), 3, (17, 1, 3, 2, 33)), ((3, 3), 35, (16, 16)), ((3, 3), 35, (20, 1, 19, 200))],
    ids=str,
)
def test_gradients_of_convolution_of_several_tensors(
    cpu_kernels: Kernels, kernel: tuple[int, int], outputs: int, channels: tuple[int, ...], needs_dx: int
) -> None:
    """In all bits those of one tensor, directly and by Winograd's algorithm."""
    inputs, image = sum(channels), (2, 13, 18)
    x, y, dy = random_arrays(12, (*image, inputs), (*image, outputs), (*image, outputs))
    weight, bias = random_arrays(13, (outputs, inputs, *kernel), (outputs,))
    rest = [weight, y, dy, attributes(1, needs_dx, 0)]
    dx, *expected = cpu_kernels("conv2d_backward", x, *rest, like=[x, weight, bias])
    parts = split(x, channels)
    ours = cpu_kernels("conv2d_backward", *parts, *rest, like=[*parts, weight, bias])
    for found, wanted in zip(ours, [*split(dx, channels), *expected], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_gradients_of_tensors_that_do_not_fit_are_refused(library: Kernels) -> None:
    a, b, y = random_arrays(14, (1, 4, 6, 3), (1, 4, 6, 5), (1, 4, 6, 7))
    bias, flags = np.zeros(7, np.float32), attributes(0, 1, 0)
    weights = {"conv2d_backward": random_arrays(15, (7, 8, 3, 3))[0], "linear_backward": random_arrays(16, (7, 8))[0]}
    for name, weight in weights.items():
        read = y if name == "conv2d_backward" else bias
        for what, inputs, outputs in (
            ("gradients in another order", [a, b], [b, a]),
            ("a missing gradient", [a, b], [a]),
            ("fewer channels than the weight's", [a, a], [a, a]),
            ("six tensors", [a[..., :1].copy()] * 6, [a[..., :1].copy()] * 6),
        ):
            tensors = [*inputs, weight, read, y, flags]
            assert library.status(name, tensors, [*outputs, weight, bias]) != 0, f"{name} accepts {what}"
        made = [np.zeros_like(value) for value in (a, b, weight, bias)]
        assert library.status(name, [a, b, weight, read, y, flags], made) == 0


def test_tensors_that_do_not_fit_are_refused_and_nothing_is_written(library: Kernels) -> None:
    a, b, y = random_arrays(7, (1, 4, 6, 3), (1, 4, 6, 5), (1, 4, 6, 7))
    bias, flags = np.zeros(7, np.float32), attributes(0, 1, 0)
    weights = {"conv2d_forward": random_arrays(8, (7, 8, 3, 3))[0], "linear_forward": random_arrays(9, (7, 8))[0]}
    for name, weight in weights.items():
        one, before = np.ascontiguousarray(weight[:, :6]), y.copy()
        wrong = {
            "six tensors": ([a[..., :1].copy()] * 6, one),
            "no tensor": ([], weight),
            "fewer channels than the weight's": ([a, a], weight),
            "more channels than the weight's": ([a, b, b], weight),
            "a smaller image": ([a, b[:, :3].copy()], weight),
            "another batch": ([a, np.concatenate([b, b])], weight),
            "another rank": ([a, b[0]], weight),
            "a tensor without channels": ([a, b, b[..., :0].copy()], weight),
            "float64": ([a, b.astype(np.float64)], weight),
        }
        for what, (sources, matrix) in wrong.items():
            inputs = [*sources, matrix, bias, bias, flags]
            assert library.status(name, inputs, [y]) != 0, f"{name} accepts {what}"
        np.testing.assert_array_equal(y, before)
        assert library.status(name, [a, b, weight, bias, bias, flags], [y]) == 0
