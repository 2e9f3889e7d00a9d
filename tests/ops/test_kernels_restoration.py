# SPDX-License-Identifier: Apache-2.0
"""Strided and grouped convolutions: kernels against float64, and the ops with gradients against their definitions."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from helpers.comparison import assert_all_close
from helpers.kernel_calls import Kernels
from helpers.kernel_checks import check_grouped_convolution, check_strided_convolution, random_arrays

from rvrt_cli import ops
from rvrt_cli.ops import layers

# batch, height, width, inputs, outputs, kernel height and width, stride, activation
STRIDED = [
    (1, 1, 1, 1, 1, 3, 3, 2, 0),
    (2, 8, 10, 3, 5, 3, 3, 2, 1),
    (1, 7, 9, 4, 33, 3, 3, 2, 3),  # odd sides
    (2, 6, 131, 20, 17, 3, 3, 2, 1),  # two blocks across
    (1, 9, 11, 6, 8, 5, 3, 3, 0),
    (1, 10, 8, 5, 4, 3, 5, 4, 1),
    (1, 5, 6, 9, 7, 1, 1, 2, 0),
]
# batch, height, width, inputs and outputs of a group, groups, kernel edge, activation
GROUPED = [
    (1, 5, 7, 3, 5, 2, 3, 1),
    (2, 17, 19, 16, 16, 3, 3, 0),  # by Winograd's algorithm, from here on
    (1, 16, 20, 20, 24, 8, 3, 1),
    (1, 12, 20, 210, 32, 2, 3, 3),  # two chunks of input channels
    (1, 13, 17, 33, 19, 3, 3, 0),  # channels that no vector divides
    (1, 9, 8, 4, 6, 4, 5, 0),
    (1, 6, 7, 8, 3, 2, 1, 1),
]


@pytest.mark.parametrize("case", STRIDED, ids=str)
def test_strided_convolution(cpu_kernels: Kernels, case: tuple) -> None:
    check_strided_convolution(cpu_kernels, case)


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_grouped_convolution(cpu_kernels: Kernels, case: tuple) -> None:
    check_grouped_convolution(cpu_kernels, case)


@pytest.mark.parametrize(("stride", "groups", "sources"), [(2, 1, 1), (1, 3, 1), (1, 3, 2), (2, 2, 1), (5, 1, 1)])
def test_ops_agree_with_their_definitions(stride: int, groups: int, sources: int) -> None:
    """Gradients included; with a stride and groups, or a large stride, the definition itself runs."""
    inputs, outputs = 12, 18
    features = random_arrays(stride, *[(2, 10, 12, inputs)] * sources)
    weight, bias, dy = random_arrays(
        9, (outputs, sources * inputs // groups, 3, 3), (outputs,), (2, -(-10 // stride), -(-12 // stride), outputs)
    )

    def run(function: object) -> list[np.ndarray]:
        def weighted(weight: ms.Tensor, bias: ms.Tensor, *x: ms.Tensor) -> ms.Tensor:
            y = function(x if sources > 1 else x[0], weight, bias, "leaky_relu", None, stride)
            return (y * ms.Tensor(dy)).sum()

        tensors = [ms.Tensor(array) for array in (weight, bias, *features)]
        value, gradients = ms.value_and_grad(weighted, tuple(range(len(tensors))))(*tensors)
        return [value.asnumpy(), *(gradient.asnumpy() for gradient in gradients)]

    names = "value dweight dbias " + " ".join(f"dx{k}" for k in range(sources))
    assert_all_close(run(ops.conv2d), run(layers.conv2d), names, 2e-5)
