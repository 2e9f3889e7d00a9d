# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels of layers, layout and loss against float64 definitions, forward and every gradient.

Tolerance: 1e-5 of the largest value, the project's bound for float32 kernels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.comparison import assert_all_close
from helpers.kernel_calls import Kernels, attributes
from helpers.kernel_checks import (
    check_add_upsampled,
    check_convolution,
    check_layer_norm,
    check_linear,
    check_mlp,
    check_norm_linear,
    check_pixel_shuffle,
    doubles,
    random_arrays,
)
from helpers.layer_reference import GELU, LEAKY_01, activate, activation_slope, convolve, convolve_gradients
from helpers.video_clips import read_all

from rvrt_cli.ops.kernels.build import build
from rvrt_cli.weights import embedded_folder, load_weights

MEDIA = Path(__file__).parents[1] / "media"
LANES = (4, 8, 16)  # of a vector, by ISAS
_ONLY_ASK = -2  # argument of rvrt_kernels_isa


def scalars(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Convolution: batch, height, width, inputs, outputs, kernel height and width, activation

CONVOLUTIONS = [
    (1, 1, 1, 1, 1, 3, 3, 0),  # one pixel, one channel
    (2, 5, 7, 3, 5, 3, 3, 1),
    (2, 9, 75, 20, 33, 3, 3, 3),  # two tiles across, a vector and a bit
    (1, 8, 8, 32, 32, 3, 3, 2),
    (1, 37, 8, 49, 48, 3, 3, 0),  # tiles down
    (1, 20, 100, 16, 2, 7, 7, 0),  # few outputs
    (1, 9, 90, 24, 3, 3, 3, 1),  # few outputs, two tiles across
    (1, 11, 13, 8, 32, 7, 7, 3),
    (1, 6, 6, 5, 4, 1, 1, 1),
    (1, 12, 9, 3, 64, 5, 5, 0),
    (1, 6, 10, 4, 6, 1, 5, 2),
    (2, 2, 3, 144, 144, 3, 3, 0),  # kernel larger than the image's half
]
# The same, for Winograd's algorithm: 3x3, from 16 tiles of 4x4 pixels on, as many channels as the widest vector has lanes
WINOGRAD = [
    (1, 17, 19, 16, 16, 3, 3, 0),
    (2, 21, 30, 20, 33, 3, 3, 1),  # channels that no vector divides
    (1, 4, 64, 32, 48, 3, 3, 2),  # one row of tiles, all at the edge
    (1, 3, 67, 18, 17, 3, 3, 3),  # one row of parts of tiles
    (1, 66, 2, 24, 40, 3, 3, 1),
    (16, 1, 1, 16, 19, 3, 3, 0),  # images of one pixel
    (1, 16, 16, 200, 35, 3, 3, 3),  # two chunks of input channels
    (1, 13, 17, 35, 200, 3, 3, 2),  # two chunks of those of the gradient
    (1, 14, 18, 390, 16, 3, 3, 1),
]
# 7x7, from 12x12 px on
WIDE_WINOGRAD = [
    (1, 12, 12, 16, 16, 7, 7, 0),
    (2, 13, 29, 20, 33, 7, 7, 1),  # channels that no vector divides
    (1, 14, 76, 32, 17, 7, 7, 2),  # two strips of tiles
    (1, 61, 12, 18, 48, 7, 7, 3),  # bands of several blocks
    (3, 25, 20, 64, 32, 7, 7, 3),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(kernels: Kernels, case: tuple) -> None:
    check_convolution(kernels, case)


@pytest.mark.parametrize("case", WINOGRAD + WIDE_WINOGRAD, ids=str)
def test_convolution_by_winograd(cpu_kernels: Kernels, case: tuple) -> None:
    check_convolution(cpu_kernels, case)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 4, 8), (2, 3, 9, 10, 17, 18)], ids=["direct", "Winograd"])
def test_convolution_of_a_clip_with_weights_of_a_conv3d(kernels: Kernels, shape: tuple) -> None:
    batch, time, height, width, inputs, outputs = shape
    x, dy = random_arrays(2, shape[:5], (*shape[:4], outputs))
    weight, bias = random_arrays(3, (outputs, inputs, 1, 3, 3), (outputs,))
    y = kernels("conv2d_forward", x, weight, bias, bias, attributes(0, 1, 0), like=[dy])[0]
    gradients = kernels("conv2d_backward", x, weight, y, dy, attributes(0, 1, 0), like=[x, weight, bias])
    x64, weight64, dy64 = doubles(x, weight[:, :, 0], dy)
    frames = batch * time, height, width
    expected = [convolve(x64.reshape(*frames, inputs), weight64) + bias]
    expected += convolve_gradients(x64.reshape(*frames, inputs), weight64, dy64.reshape(*frames, outputs))
    assert_all_close([y, *gradients], expected, "y dx dweight dbias")


def convolve_directly(kernels: Kernels, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """By the direct algorithm: Winograd's is for as many outputs as a vector has lanes, so here one fewer at a time."""
    few = LANES[kernels.library.rvrt_kernels_isa(_ONLY_ASK)] - 1
    parts = [np.ascontiguousarray(weight[i : i + few]) for i in range(0, len(weight), few)]
    none, numbers = np.zeros(1, np.float32), attributes(0, 0, 0)
    return np.concatenate(
        [
            kernels("conv2d_forward", x, part, none, none, numbers, like=[(*x.shape[:3], len(part))])[0]
            for part in parts
        ],
        -1,
    )


@pytest.mark.parametrize("case", WINOGRAD + WIDE_WINOGRAD, ids=str)
def test_the_cases_of_winograd_reach_it(cpu_kernels: Kernels, case: tuple) -> None:
    """It rounds otherwise than the direct algorithm: the two equal in all bits would be one and the same."""
    batch, height, width, inputs, outputs, kh, kw = case[:7]
    x, weight = random_arrays(15, (batch, height, width, inputs), (outputs, inputs, kh, kw))
    none, like = np.zeros(1, np.float32), [(batch, height, width, outputs)]
    y = cpu_kernels("conv2d_forward", x, weight, none, none, attributes(0, 0, 0), like=like)[0]
    direct = convolve_directly(cpu_kernels, x, weight)
    assert_all_close([y], [direct.astype(np.float64)], "y")
    assert not np.array_equal(y, direct)


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, list[np.ndarray]]:
    """Features of the embedded network for two frames, and the weights of convolutions by which it goes on from there."""
    arrays = load_weights(embedded_folder() / "rvrt-tiny.safetensors").arrays
    frames = [frame.pixels[40:80, 60:112] for frame in read_all(MEDIA / "city.mp4", duration=0.1)[:2]]
    x = np.stack(frames).astype(np.float64) / 255
    layer = "feat_extract.main"
    x = convolve(x, arrays[f"{layer}.1.weight"][:, :, 0]) + arrays[f"{layer}.1.bias"]
    blocks = [f"{layer}.5.{i}.conv{j}" for i in range(4) for j in (1, 2)]
    inner = convolve(x, arrays[f"{blocks[0]}.weight"][:, :, 0]) + arrays[f"{blocks[0]}.bias"]
    weights = [np.ascontiguousarray(arrays[f"{name}.weight"][:, :, 0]) for name in blocks]
    return np.maximum(inner, 0.1 * inner).astype(np.float32), weights


def test_winograd_is_nearly_as_exact_as_the_direct_algorithm(
    cpu_kernels: Kernels, features: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    """On features of the network: there differences of neighboring pixels cancel, as they do not in noise."""
    x, weights = features
    errors = {"Winograd": 0.0, "direct": 0.0}
    for weight in weights:
        none = np.zeros(1, np.float32)
        y = cpu_kernels(
            "conv2d_forward", x, weight, none, none, attributes(0, 0, 0), like=[(*x.shape[:3], len(weight))]
        )
        expected = convolve(*doubles(x, weight))
        for name, value in (("Winograd", y[0]), ("direct", convolve_directly(cpu_kernels, x, weight))):
            errors[name] += np.mean((value - expected) ** 2)
    assert 0 < errors["direct"] < errors["Winograd"], "the two take the same path"
    assert np.sqrt(errors["Winograd"]) <= 3 * np.sqrt(errors["direct"])


@pytest.mark.parametrize("case", WIDE_WINOGRAD, ids=str)
def test_winograd_7x7_is_nearly_as_exact_as_the_direct_algorithm(cpu_kernels: Kernels, case: tuple) -> None:
    """On noise, where it is less exact than on images."""
    batch, height, width, inputs, outputs, kh, kw, _ = case
    x, weight = random_arrays(16, (batch, height, width, inputs), (outputs, inputs, kh, kw))
    none, like = np.zeros(1, np.float32), [(batch, height, width, outputs)]
    y = cpu_kernels("conv2d_forward", x, weight, none, none, attributes(0, 0, 0), like=like)[0]
    expected, direct = convolve(*doubles(x, weight)), convolve_directly(cpu_kernels, x, weight)
    error, of_direct = (np.sqrt(np.mean((value - expected) ** 2)) for value in (y, direct))
    assert 0 < of_direct < error <= 3 * of_direct


# Dense layers: rows, inputs, outputs, activation

DENSE = [
    (1, 1, 1, 0),
    (7, 5, 3, 4),
    (100, 32, 64, 4),
    (333, 37, 50, 1),
    (97, 144, 288, 4),
    (200, 48, 144, 0),
    (64, 96, 32, 3),
]


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_linear(kernels: Kernels, case: tuple) -> None:
    check_linear(kernels, case)


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_norm_linear(kernels: Kernels, case: tuple) -> None:
    check_norm_linear(kernels, case)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (101, 32), (64, 100), (250, 144)], ids=str)
def test_layer_norm(kernels: Kernels, shape: tuple) -> None:
    check_layer_norm(kernels, shape)


@pytest.mark.parametrize("case", [(1, 1, 1), (9, 5, 7), (333, 32, 64), (100, 144, 288), (50, 33, 100)], ids=str)
def test_mlp(kernels: Kernels, case: tuple) -> None:
    check_mlp(kernels, case)


@pytest.mark.parametrize("case", [(1, 1, 1, 1), (9, 5, 7, 3), (333, 64, 32, 64), (50, 33, 100, 20)], ids=str)
def test_projection_and_mlp(cpu_kernels: Kernels, case: tuple) -> None:
    rows, inputs, channels, hidden = case
    x, proj_w, proj_b = random_arrays(21, (rows, inputs), (channels, inputs), (channels,))
    w1, b1, w2, b2 = random_arrays(22, (hidden, channels), (hidden,), (channels, hidden), (channels,))
    z = x.astype(np.float64) @ proj_w.T + proj_b
    expected = z + activate(z @ w1.T + b1, GELU) @ w2.T + b2
    y = cpu_kernels("project_mlp_forward", x, proj_w, proj_b, w1, b1, w2, b2, like=[(rows, channels)])
    assert_all_close(y, [expected], "y")


@pytest.mark.parametrize(
    "case", [(1, 1, 1, 1, 1), (9, 5, 7, 3, 2), (333, 32, 32, 32, 32), (50, 33, 100, 20, 45)], ids=str
)
def test_pair_of_dense_layers(cpu_kernels: Kernels, case: tuple) -> None:
    rows, inputs0, outputs0, inputs1, outputs1 = case
    x0, w0, b0 = random_arrays(23, (rows, inputs0), (outputs0, inputs0), (outputs0,))
    x1, w1, b1 = random_arrays(24, (rows, inputs1), (outputs1, inputs1), (outputs1,))
    y = cpu_kernels("linear_pair_forward", x0, w0, b0, x1, w1, b1, like=[(rows, outputs0 + outputs1)])
    expected = [x0.astype(np.float64) @ w0.T + b0, x1.astype(np.float64) @ w1.T + b1]
    assert_all_close(y, [np.concatenate(expected, -1)], "y")


def chain_reference(x: np.ndarray, weights: list[np.ndarray], residual: bool, dy: np.ndarray) -> list[np.ndarray]:
    """Output, features between the layers, and gradients of x and the weights, of a chain of 3x3 convolutions."""
    kernels, biases = weights[::2], weights[1::2]
    inputs, before = [x], []
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        before.append(convolve(inputs[i], kernel) + bias)
        ends = residual and i % 2 == 1
        inputs.append(inputs[i - 1] + before[i] if ends else activate(before[i], LEAKY_01))
    gradients = [np.zeros_like(one) for one in inputs[:-1]] + [dy]
    found: list[np.ndarray] = []
    for i in reversed(range(len(kernels))):
        ends = residual and i % 2 == 1
        g = gradients[i + 1] * (1 if ends else activation_slope(before[i], LEAKY_01))
        dx, dweight, dbias = convolve_gradients(inputs[i], kernels[i], g)
        gradients[i] += dx
        if ends:
            gradients[i - 1] += gradients[i + 1]
        found = [dweight, dbias, *found]
    return [inputs[-1], np.stack(inputs[1:-1]), gradients[0], *found]


# batch, height, width, channels, layers, whether they are residual blocks; the last two by Winograd's algorithm
@pytest.mark.parametrize(
    "case", [(1, 4, 5, 3, 2, 1), (2, 3, 7, 5, 3, 0), (2, 17, 18, 32, 4, 1), (3, 16, 19, 16, 4, 0)], ids=str
)
def test_conv_chain(cpu_kernels: Kernels, case: tuple) -> None:
    batch, height, width, channels, layers, residual = case
    x, dy = random_arrays(27, *[(batch, height, width, channels)] * 2)
    weights = random_arrays(28, *[(channels, channels, 3, 3), (channels,)] * layers)
    weights = [one / channels for one in weights]
    kept = (layers - 1, *x.shape)
    y, between = cpu_kernels("conv_chain_forward", x, *weights, attributes(residual), like=[x, kept])
    gradients = cpu_kernels(
        "conv_chain_backward", x, *weights[::2], y, between, dy, attributes(residual), like=[x, *weights]
    )
    x64, dy64, *weights64 = doubles(x, dy, *weights)
    expected = chain_reference(x64, weights64, bool(residual), dy64)
    names = "y between dx " + " ".join(f"dweight{i} dbias{i}" for i in range(layers))
    assert_all_close([y, between, *gradients], expected, names)


@pytest.mark.parametrize("place", range(6))
def test_conv_chain_refuses_tensors_that_do_not_fit(library: Kernels, place: int) -> None:
    x, kernel, vector = np.zeros((3, 3, 6), np.float32), np.zeros((6, 6, 3, 3), np.float32), np.zeros(6, np.float32)
    inputs, kept = [x, kernel, vector, kernel, vector, attributes(1)], np.zeros((1, 3, 3, 6), np.float32)
    assert library.status("conv_chain_forward", inputs, [x.copy(), kept]) == 0
    assert library.status("conv_chain_forward", [*inputs[:-1], attributes(2)], [x.copy(), kept]) != 0
    shorter = [np.ascontiguousarray(one[:-1]) if i == place else one for i, one in enumerate(inputs)]
    assert library.status("conv_chain_forward", shorter, [x.copy(), kept]) != 0, f"input {place} is too short"
    backward = [x, kernel, kernel, x, kept, x, attributes(1)]
    outputs = [x.copy(), kernel.copy(), vector.copy(), kernel.copy(), vector.copy()]
    assert library.status("conv_chain_backward", backward, outputs) == 0
    shorter = [np.ascontiguousarray(one[:-1]) if i == place else one for i, one in enumerate(backward)]
    assert library.status("conv_chain_backward", shorter, outputs) != 0, f"input {place} of the gradient is too short"


@pytest.mark.parametrize("place", range(1, 6))
def test_layers_refuse_tensors_that_do_not_fit(library: Kernels, place: int) -> None:
    vector, matrix = np.zeros(6, np.float32), np.zeros((6, 6), np.float32)
    rows = np.zeros((9, 6), np.float32)
    calls = {
        "project_mlp_forward": [rows, matrix, vector, matrix, vector, matrix, vector],
        "linear_pair_forward": [rows, matrix, vector, rows, matrix, vector],
    }
    for name, inputs in calls.items():
        y = np.zeros((9, 12) if name == "linear_pair_forward" else inputs[0].shape, np.float32)
        assert library.status(name, inputs, [y]) == 0
        if place < len(inputs):
            shorter = [np.ascontiguousarray(one[:-1]) if i == place else one for i, one in enumerate(inputs)]
            assert library.status(name, shorter, [y]) != 0, f"{name}: input {place} is too short"


def test_gelu_far_from_zero_is_the_identity_or_zero(kernels: Kernels) -> None:
    x = np.array([[-1e4], [-40], [-5.3], [-1e-6], [0], [1e-6], [3], [5.4], [1e4]], np.float32)
    one = np.ones((1, 1), np.float32)
    y = kernels("linear_forward", x, one, x[:1], x[:1], attributes(GELU, 0, 0), like=[x])[0]
    expected = activate(x.astype(np.float64), GELU)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    dx = kernels("linear_backward", x, one, x[:1], np.ones_like(x), attributes(GELU, 0, 0), like=[x, one, (1,)])[0]
    np.testing.assert_allclose(dx, activation_slope(x.astype(np.float64), GELU), rtol=1e-5, atol=2e-6)


# Layout


@pytest.mark.parametrize("case", [(2, 3, 5, 64, 2), (1, 4, 4, 7, 2), (1, 2, 3, 5, 3), (1, 1, 1, 1, 4)], ids=str)
def test_pixel_shuffle_moves_values_exactly(kernels: Kernels, case: tuple) -> None:
    check_pixel_shuffle(kernels, case)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (3, 2, 7), (1, 1, 1, 1), (0, 2, 3, 4)], ids=str)
def test_reversal_of_time_is_exact(kernels: Kernels, shape: tuple) -> None:
    x = random_arrays(9, shape)[0]
    np.testing.assert_array_equal(kernels("reverse_time_forward", x, like=[x])[0], x[:, ::-1])


@pytest.mark.parametrize(
    "case", [(2, 3, 5, 3, 4), (1, 1, 1, 3, 4), (1, 6, 4, 1, 3), (1, 2, 7, 5, 2), (1, 3, 3, 3, 1)], ids=str
)
def test_bilinear_upsampling_is_added(kernels: Kernels, case: tuple) -> None:
    check_add_upsampled(kernels, case)


# Loss


@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, 4097)], ids=str)
def test_charbonnier(kernels: Kernels, shape: tuple) -> None:
    x, y = random_arrays(10, shape, shape)
    y.flat[0] = x.flat[0]
    difference = x.astype(np.float64) - y
    root = np.sqrt(difference**2 + 1e-6)
    assert_all_close(kernels("charbonnier_forward", x, y, scalars(1e-6), like=[(1,)]), [root.mean()], "loss")
    dx = kernels("charbonnier_backward", x, y, scalars(1e-6), scalars(2), like=[x])
    assert_all_close(dx, [2 * difference / root / x.size], "dx")


# Threads, and invalid calls


def everything(kernels: Kernels) -> list[np.ndarray]:
    """The outputs of every kernel, on tensors large enough for several threads."""
    image, x, gamma, w1, w2, weight = random_arrays(
        12, (2, 19, 21, 24), (500, 24), (24,), (48, 24), (24, 48), (20, 24, 3, 3)
    )
    b1, target = w1[:, 0].copy(), x[::-1].copy()
    z, large, clip = random_arrays(14, (500, 48), (2, 57, 63, 24), (2, 3, 8, 9, 5))
    y = kernels("conv2d_forward", image, weight, gamma[:20], gamma, attributes(1, 1, 0), like=[(2, 19, 21, 20)])
    packed = (2, 19, 21, 9 * 24)
    small = np.ascontiguousarray(weight[..., :1])  # too small a kernel for Winograd's algorithm
    square = np.concatenate([weight, weight[:4]]) / 24
    chain = kernels(
        "conv_chain_forward", image, square, gamma, square, gamma, attributes(1), like=[image, (1, *image.shape)]
    )
    return [
        *chain,
        *kernels(
            "conv_chain_backward",
            *[image, square, square, *chain, image, attributes(1)],
            like=[image, square, gamma, square, gamma],
        ),
        *y,
        *kernels("conv2d_backward", image, weight, y[0], y[0], attributes(1, 1, 0), like=[image, weight, (20,)]),
        *kernels("conv2d_forward", image, small, gamma[:20], gamma, attributes(1, 1, 0), like=[y[0]]),
        *kernels("conv2d_backward", image, small, y[0], y[0], attributes(1, 1, 0), like=[image, small, (20,)]),
        *kernels("norm_linear_forward", x, gamma, gamma, w1, b1, attributes(GELU, 1), like=[z]),
        *kernels(
            "norm_linear_backward", x, gamma, gamma, w1, b1, z, attributes(GELU, 1), like=[x, gamma, gamma, w1, b1]
        ),
        *kernels("mlp_forward", x, gamma, gamma, w1, b1, w2, gamma, like=[x]),
        *kernels("mlp_backward", x, gamma, gamma, w1, b1, w2, target, like=[x, gamma, gamma, w1, b1, w2, gamma]),
        *kernels("linear_forward", x, w1, b1, z, attributes(GELU, 1, 1), like=[z]),
        *kernels("project_mlp_forward", z, w2, gamma, w1, b1, w2, gamma, like=[x]),
        *kernels("linear_pair_forward", x, w1, b1, z, w2, gamma, like=[(500, 72)]),
        *kernels("linear_backward", x, w1, b1, x @ w1.T, attributes(GELU, 1, 0), like=[x, w1, b1]),
        *kernels("layer_norm_forward", x, gamma, gamma, like=[x]),
        *kernels("layer_norm_backward", x, gamma, target, like=[x, gamma, gamma]),
        *kernels("pixel_shuffle_forward", np.resize(image, packed), attributes(3, 1), like=[large]),
        *kernels("pixel_shuffle_backward", large, large, attributes(3, 1), like=[packed]),
        *kernels("reverse_time_forward", clip, like=[clip]),
        *kernels("add_upsampled_forward", image, large, like=[large]),
        *kernels("charbonnier_forward", x, target, scalars(1e-6), like=[(1,)]),
        *kernels("charbonnier_backward", x, target, scalars(1e-6), scalars(2), like=[x]),
    ]


def test_results_repeat_and_do_not_depend_on_the_number_of_threads(library: Kernels) -> None:
    results: dict[int, list[np.ndarray]] = {}
    try:
        for threads in (1, 2, 3, 5):
            library.limit(threads=threads)
            results[threads] = everything(library)
            for a, b in zip(results[threads], everything(library), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        library.limit()
    for threads in (2, 3, 5):
        names = " ".join(str(i) for i in range(len(results[1])))
        assert_all_close(results[threads], [a.astype(np.float64) for a in results[1]], names, tolerance=1e-6)


def test_calls_with_wrong_shapes_are_refused_and_write_nothing(library: Kernels) -> None:
    x, weight, y = random_arrays(13, (1, 4, 4, 3), (5, 3, 3, 3), (1, 4, 4, 5))
    bias, flags = np.zeros(5, np.float32), attributes(0, 1, 0)
    wrong = [
        ([x, weight, bias, bias], [y]),  # no attributes
        ([x.astype(np.float64), weight, bias, bias, flags], [y]),
        ([x, weight[:, :2], bias, bias, flags], [y]),
        ([x, weight[:, :, :2], bias, bias, flags], [y]),  # even kernel
        ([x, weight, bias[:4], bias, flags], [y]),
        ([x, weight, bias, bias, attributes(0, 1, 1)], [y]),  # the residual has another size
        ([x, weight, bias, bias, attributes(9, 1, 0)], [y]),
        ([x, weight, bias, bias, flags], [y[:, :3].copy()]),
    ]
    before = y.copy()
    for inputs, outputs in wrong:
        assert library.status("conv2d_forward", inputs, outputs) != 0, [a.shape for a in inputs]
    np.testing.assert_array_equal(y, before)
    assert library.status("conv2d_forward", [x, weight, bias, bias, flags], [y]) == 0


def test_without_a_compiler_build_gives_a_reason_instead_of_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    library, note = build(tmp_path / "a")
    assert library is None
    assert "/bin/false" in note
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    library, note = build(tmp_path / "b")
    assert library is None
    assert "no C++ compiler" in note
    assert not list(tmp_path.rglob("*.so"))
