# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels of layers, loss and optimizer against float64 definitions, forward and every gradient.

Tolerance: 1e-5 of the largest value, the project's bound for float32 kernels.
"""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
import pytest
from helpers.kernel_calls import Kernels, attributes

from rvrt_cli.ops.kernels.build import build

SLOPES = {0: 1.0, 1: 0.1, 2: 0.2, 3: 0.0}
GELU = 4


def scalars(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def random(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def doubles(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


def assert_close(got: list[np.ndarray], expected: list[np.ndarray], names: str, tolerance: float = 1e-5) -> None:
    for name, g, e in zip(names.split(), got, expected, strict=True):
        e = np.asarray(e, np.float64).reshape(g.shape)
        error = np.abs(g - e)
        worst = np.unravel_index(np.argmax(error), error.shape)
        scale = max(np.abs(e).max(), 1e-30)
        assert error.max() <= tolerance * scale, (
            f"{name}: {g[worst]} instead of {e[worst]} at {worst}; largest {error.max() / scale:.1e} of {scale:.3g},"
            f" {np.mean(~(error <= tolerance * scale)):.1%} of values beyond {tolerance}"
        )


# Definitions


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(erf, otypes=[np.float64])(x / sqrt(2)))


def activate(z, activation):
    return z * normal_cdf(z) if activation == GELU else np.where(z > 0, z, SLOPES[activation] * z)


def activation_slope(z, activation):
    if activation == GELU:
        return normal_cdf(z) + z * np.exp(-z * z / 2) / sqrt(2 * pi)
    return np.where(z > 0, 1.0, SLOPES[activation])


def convolve(x, weight):
    kh, kw = weight.shape[-2:]
    height, width = x.shape[1:3]
    around = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    return sum(around[:, i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(kh) for j in range(kw))


def convolve_gradients(x, weight, g):
    kh, kw = weight.shape[-2:]
    height, width = x.shape[1:3]
    around = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    daround, dweight = np.zeros_like(around), np.zeros_like(weight)
    for i in range(kh):
        for j in range(kw):
            daround[:, i : i + height, j : j + width] += g @ weight[:, :, i, j]
            dweight[:, :, i, j] = np.tensordot(g, around[:, i : i + height, j : j + width], ((0, 1, 2), (0, 1, 2)))
    return daround[:, kh // 2 : kh // 2 + height, kw // 2 : kw // 2 + width], dweight, g.sum((0, 1, 2))


def normalize(x):
    scale = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) * scale, scale


def normalize_gradients(n, scale, gamma, dn):
    h = dn * gamma
    dx = scale * (h - h.mean(-1, keepdims=True) - n * (h * n).mean(-1, keepdims=True))
    return dx, (dn * n).sum(0), dn.sum(0)


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


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_matches_its_definition(kernels, case):
    batch, height, width, inputs, outputs, kh, kw, activation = case
    image = (batch, height, width)
    x, weight, bias, residual, dy = random(
        1, (*image, inputs), (outputs, inputs, kh, kw), (outputs,), (*image, outputs), (*image, outputs)
    )
    x64, weight64, bias64, residual64, dy64 = doubles(x, weight, bias, residual, dy)
    z = convolve(x64, weight64) + bias64
    y = kernels("conv2d_forward", x, weight, bias, residual, attributes(activation, 1, 0), like=[dy])[0]
    added = kernels("conv2d_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[dy])[0]
    bare = kernels("conv2d_forward", x, weight, bias[:1], bias[:1], attributes(activation, 0, 0), like=[dy])[0]
    expected = activate(z, activation)
    assert_close(
        [y, added, bare], [expected, expected + residual64, activate(z - bias64, activation)], "y y+r without_bias"
    )
    gradients = kernels("conv2d_backward", x, weight, y, dy, attributes(activation, 1, 0), like=[x, weight, bias])
    g = dy64 * activation_slope(y, activation)  # by the sign of y itself: rounding may have turned it
    assert_close(gradients, list(convolve_gradients(x64, weight64, g)), "dx dweight dbias")
    gradients = kernels("conv2d_backward", x, weight, y, dy, attributes(activation, 0, 0), like=[x, weight, bias])
    assert_close(gradients, [np.zeros(x.shape), *convolve_gradients(x64, weight64, g)[1:]], "no_dx dweight dbias")


def test_convolution_takes_the_frames_of_a_clip_and_a_kernel_without_time(kernels):
    x, weight, bias = random(2, (2, 3, 5, 6, 4), (8, 4, 1, 3, 3), (8,))
    y = kernels("conv2d_forward", x, weight, bias, bias, attributes(0, 1, 0), like=[(2, 3, 5, 6, 8)])[0]
    expected = convolve(*doubles(x.reshape(6, 5, 6, 4), weight[:, :, 0])) + bias
    assert_close([y], [expected], "y")


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
def test_linear_matches_its_definition(kernels, case):
    rows, inputs, outputs, activation = case
    x, weight, bias, residual, dy = random(
        3, (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs), (rows, outputs)
    )
    x64, weight64, bias64, residual64, dy64 = doubles(x, weight, bias, residual, dy)
    z = x64 @ weight64.T + bias64
    y = kernels("linear_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[dy])
    assert_close(y, [activate(z, activation) + residual64], "y")
    y = kernels("linear_forward", x, weight, bias[:1], bias[:1], attributes(activation, 0, 0), like=[dy])
    assert_close(y, [activate(z - bias64, activation)], "without_bias")
    gradients = kernels("linear_backward", x, weight, bias, dy, attributes(activation, 1, 0), like=[x, weight, bias])
    g = dy64 * activation_slope(z, activation)
    assert_close(gradients, [g @ weight64, g.T @ x64, g.sum(0)], "dx dweight dbias")


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_norm_linear_matches_its_definition(kernels, case):
    rows, inputs, outputs, activation = case
    x, gamma, beta, weight, bias, dy = random(
        4, (rows, inputs), (inputs,), (inputs,), (outputs, inputs), (outputs,), (rows, outputs)
    )
    x = 3 * x + 1
    x64, gamma64, beta64, weight64, bias64, dy64 = doubles(x, gamma, beta, weight, bias, dy)
    n, scale = normalize(x64)
    normal = n * gamma64 + beta64
    z = normal @ weight64.T + bias64
    y = kernels("norm_linear_forward", x, gamma, beta, weight, bias, attributes(activation, 1), like=[dy])
    assert_close(y, [activate(z, activation)], "y")
    gradients = kernels(
        "norm_linear_backward",
        x,
        gamma,
        beta,
        weight,
        bias,
        dy,
        attributes(activation, 1),
        like=[x, gamma, beta, weight, bias],
    )
    g = dy64 * activation_slope(z, activation)
    expected = [*normalize_gradients(n, scale, gamma64, g @ weight64), g.T @ normal, g.sum(0)]
    assert_close(gradients, expected, "dx dgamma dbeta dweight dbias")


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (101, 32), (64, 100), (250, 144)], ids=str)
def test_layer_norm_matches_its_definition(kernels, shape):
    x, gamma, beta, dy = random(5, shape, shape[1:], shape[1:], shape)
    x = 0.5 * x + 4  # far from zero: the variance must not come from a difference of squares
    x64, gamma64, beta64, dy64 = doubles(x, gamma, beta, dy)
    n, scale = normalize(x64)
    y = kernels("layer_norm_forward", x, gamma, beta, like=[x])
    assert_close(y, [n * gamma64 + beta64], "y")
    gradients = kernels("layer_norm_backward", x, gamma, dy, like=[x, gamma, beta])
    assert_close(gradients, list(normalize_gradients(n, scale, gamma64, dy64)), "dx dgamma dbeta")


@pytest.mark.parametrize("case", [(1, 1, 1), (9, 5, 7), (333, 32, 64), (100, 144, 288), (50, 33, 100)], ids=str)
def test_mlp_matches_its_definition(kernels, case):
    rows, channels, hidden = case
    x, gamma, beta, w1, b1, w2, b2, dy = random(
        6,
        (rows, channels),
        (channels,),
        (channels,),
        (hidden, channels),
        (hidden,),
        (channels, hidden),
        (channels,),
        (rows, channels),
    )
    x64, gamma64, beta64, w164, b164, w264, b264, dy64 = doubles(x, gamma, beta, w1, b1, w2, b2, dy)
    n, scale = normalize(x64)
    normal = n * gamma64 + beta64
    z = normal @ w164.T + b164
    h = activate(z, GELU)
    y = kernels("mlp_forward", x, gamma, beta, w1, b1, w2, b2, like=[x])
    assert_close(y, [x64 + h @ w264.T + b264], "y")
    got = kernels("mlp_backward", x, gamma, beta, w1, b1, w2, dy, like=[x, gamma, beta, w1, b1, w2, b2])
    dz = (dy64 @ w264) * activation_slope(z, GELU)
    dx, dgamma, dbeta = normalize_gradients(n, scale, gamma64, dz @ w164)
    expected = [dy64 + dx, dgamma, dbeta, dz.T @ normal, dz.sum(0), dy64.T @ h, dy64.sum(0)]
    assert_close(got, expected, "dx dgamma dbeta dw1 db1 dw2 db2")


def test_gelu_far_from_zero_is_the_identity_or_nothing(kernels):
    x = np.array([[-1e4], [-40], [-5.3], [-1e-6], [0], [1e-6], [3], [5.4], [1e4]], np.float32)
    one = np.ones((1, 1), np.float32)
    y = kernels("linear_forward", x, one, x[:1], x[:1], attributes(GELU, 0, 0), like=[x])[0]
    expected = activate(x.astype(np.float64), GELU)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    dx = kernels("linear_backward", x, one, x[:1], np.ones_like(x), attributes(GELU, 0, 0), like=[x, one, (1,)])[0]
    np.testing.assert_allclose(dx, activation_slope(x.astype(np.float64), GELU), rtol=1e-5, atol=2e-6)


# Layout


@pytest.mark.parametrize("case", [(2, 3, 5, 64, 2), (1, 4, 4, 7, 2), (1, 2, 3, 5, 3), (1, 1, 1, 1, 4)], ids=str)
def test_pixel_shuffle_moves_values_exactly(kernels, case):
    batch, height, width, channels, f = case
    large = (batch, height * f, width * f, channels)
    x, dy = random(7, (batch, height, width, channels * f * f), large)
    moved = x.reshape(batch, height, width, channels, f, f).transpose(0, 1, 4, 2, 5, 3).reshape(large)
    expected = np.where(moved > 0, moved, np.float32(0.1) * moved)
    y = kernels("pixel_shuffle_forward", x, attributes(f, 1), like=[large])[0]
    np.testing.assert_array_equal(y, expected)
    dx = kernels("pixel_shuffle_backward", y, dy, attributes(f, 1), like=[x])[0]
    g = np.where(moved > 0, dy, np.float32(0.1) * dy).reshape(batch, height, f, width, f, channels)
    np.testing.assert_array_equal(dx, g.transpose(0, 1, 3, 5, 2, 4).reshape(x.shape))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (3, 2, 7), (1, 1, 1, 1), (0, 2, 3, 4)], ids=str)
def test_reversal_of_time_is_exact(kernels, shape):
    x = random(9, shape)[0]
    np.testing.assert_array_equal(kernels("reverse_time_forward", x, like=[x])[0], x[:, ::-1])


@pytest.mark.parametrize(
    "case", [(2, 3, 5, 3, 4), (1, 1, 1, 3, 4), (1, 6, 4, 1, 3), (1, 2, 7, 5, 2), (1, 3, 3, 3, 1)], ids=str
)
def test_bilinear_enlargement_is_added(kernels, case):
    batch, height, width, channels, f = case
    small, add = random(9, (batch, height, width, channels), (batch, height * f, width * f, channels))

    def matrix(size: int) -> np.ndarray:  # hat functions at half-pixel centers, the edge repeated
        at = np.clip((np.arange(size * f) + 0.5) / f - 0.5, 0, size - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

    expected = add + np.einsum("yh,xw,bhwc->byxc", matrix(height), matrix(width), small.astype(np.float64))
    assert_close(kernels("add_upsampled_forward", small, add, like=[add]), [expected], "out")


# Loss and optimizer


@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, 4097)], ids=str)
def test_charbonnier_matches_its_definition(kernels, shape):
    x, y = random(10, shape, shape)
    y.flat[0] = x.flat[0]
    difference = x.astype(np.float64) - y
    root = np.sqrt(difference**2 + 1e-6)
    assert_close(kernels("charbonnier_forward", x, y, scalars(1e-6), like=[(1,)]), [root.mean()], "loss")
    dx = kernels("charbonnier_backward", x, y, scalars(1e-6), scalars(2), like=[x])
    assert_close(dx, [2 * difference / root / x.size], "dx")


# Threads, and calls that make no sense


def everything(kernels: Kernels) -> list[np.ndarray]:
    image, x, gamma, w1, w2, weight = random(12, (2, 19, 21, 24), (500, 24), (24,), (48, 24), (24, 48), (20, 24, 3, 3))
    b1, target = w1[:, 0].copy(), x[::-1].copy()
    z, large, clip = random(14, (500, 48), (2, 57, 63, 24), (2, 3, 8, 9, 5))
    y = kernels("conv2d_forward", image, weight, gamma[:20], gamma, attributes(1, 1, 0), like=[(2, 19, 21, 20)])
    packed = (2, 19, 21, 9 * 24)
    return [
        *y,
        *kernels("conv2d_backward", image, weight, y[0], y[0], attributes(1, 1, 0), like=[image, weight, (20,)]),
        *kernels("norm_linear_forward", x, gamma, gamma, w1, b1, attributes(GELU, 1), like=[z]),
        *kernels(
            "norm_linear_backward", x, gamma, gamma, w1, b1, z, attributes(GELU, 1), like=[x, gamma, gamma, w1, b1]
        ),
        *kernels("mlp_forward", x, gamma, gamma, w1, b1, w2, gamma, like=[x]),
        *kernels("mlp_backward", x, gamma, gamma, w1, b1, w2, target, like=[x, gamma, gamma, w1, b1, w2, gamma]),
        *kernels("linear_forward", x, w1, b1, z, attributes(GELU, 1, 1), like=[z]),
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


def test_results_repeat_and_do_not_depend_on_the_threads(library):
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
        assert_close(results[threads], [a.astype(np.float64) for a in results[1]], names, tolerance=1e-6)


def test_calls_that_do_not_fit_are_refused_and_write_nothing(library):
    x, weight, y = random(13, (1, 4, 4, 3), (5, 3, 3, 3), (1, 4, 4, 5))
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


def test_no_compiler_gives_a_reason_instead_of_a_library(tmp_path, monkeypatch):
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
