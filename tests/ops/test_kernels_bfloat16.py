# SPDX-License-Identifier: Apache-2.0
"""Products of operands rounded to bfloat16, in plain code and by the processor, against float64 products of such operands.

Rounding is the only difference from float32: so the tolerance is that of float32 kernels, 1e-5 of the largest value, where
the reference rounds the same operands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.attention_reference import window_attention
from helpers.comparison import assert_all_close, assert_close
from helpers.kernel_calls import ISAS, Kernels, attributes
from helpers.kernel_checks import guided_inputs, random_arrays, swin_inputs
from helpers.layer_reference import GELU, activate, convolve

FLOAT32, EMULATED, AVX512_BF16, AMX, EMULATED_PAIRS, BEST = 0, 1, 2, 3, 4, -1  # arguments of rvrt_kernels_bfloat16
NAMES = {
    EMULATED: "emulated",
    AVX512_BF16: "AVX512-BF16",
    AMX: "AMX",
    EMULATED_PAIRS: "emulated pairs",  # as AVX512-BF16 without AMX
}
PAIRS = (AVX512_BF16, EMULATED_PAIRS)  # convolutions 3x3 by Winograd's algorithm
VARIANTS = [(isa, level) for level in (EMULATED, EMULATED_PAIRS) for isa in ISAS]
VARIANTS += [("avx512", AVX512_BF16), ("avx512", AMX)]


def variant_name(variant: tuple) -> str:
    return f"{variant[0]}-{NAMES[variant[1]]}"


def parameters(variants: list[tuple]) -> list:
    """Plain code is the same however wide the other kernels' vectors are: where these are shorter, the tests are slow ones."""
    return [
        variant if variant[0] == "avx512" else pytest.param(variant, marks=pytest.mark.slow) for variant in variants
    ]


only_pairs = pytest.mark.parametrize(
    "half", parameters([variant for variant in VARIANTS if variant[1] in PAIRS]), ids=variant_name, indirect=True
)


def choose(kernels: Kernels, level: int) -> int:
    return kernels.library.rvrt_kernels_bfloat16(level)


@pytest.fixture
def float32_again(library: Kernels) -> Iterator[None]:
    """Whatever a test chooses, those that follow compute in float32, on the best instruction set."""
    yield
    choose(library, FLOAT32)
    library.limit()


@pytest.fixture(params=parameters(VARIANTS), ids=variant_name)
def half(library: Kernels, request: pytest.FixtureRequest, float32_again: None) -> Kernels:
    """The library with operands rounded to bfloat16, on two threads."""
    isa, level = request.param
    if not library.limit(ISAS.index(isa), threads=2):
        pytest.skip(f"this processor has no {isa}")
    if choose(library, level) != level:
        pytest.skip(f"this processor has no {NAMES[level]}")
    return library


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 values to the nearest bfloat16, ties to even: half of the last place is added, less one if that is even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isnan(x), np.float32(np.nan), nearest.astype(np.uint32).view(np.float32)).astype(np.float64)


# Value, and the bfloat16 that is nearest: seven bits follow the leading one
ROUNDING = [
    (1.0, 1.0),
    (1 + 2**-8, 1.0),  # a tie, to even
    (1 + 3 * 2**-8, 1 + 2**-6),  # a tie, to even
    (1 + 2**-8 + 2**-20, 1 + 2**-7),
    (1 + 2**-8 - 2**-20, 1.0),
    (-1 - 2**-8, -1.0),
    (-1 - 3 * 2**-8, -1 - 2**-6),
    (2 - 2**-9, 2.0),  # carries into the exponent
    (3.4e38, np.inf),  # beyond the largest bfloat16
    (-3.4e38, -np.inf),
    (2.0**-126, 2.0**-126),  # the smallest normal number
    (np.inf, np.inf),
    (-np.inf, -np.inf),
    (np.nan, np.nan),
    (0.0, 0.0),
    (-0.0, 0.0),  # a sum of products: -0 + 0
]
VALUES, NEAREST = (np.array(column) for column in zip(*ROUNDING, strict=True))


def test_the_reference_rounds_to_nearest_even() -> None:
    np.testing.assert_array_equal(rounded(VALUES.astype(np.float32)), NEAREST)


@pytest.mark.parametrize("place", [0, 17, 39])
def test_features_and_weights_are_rounded_to_nearest_even(half: Kernels, place: int) -> None:
    """Each value is the only one in its row, among whole vectors or in what is left of them, and multiplied by one."""
    values = np.zeros((len(VALUES), 40), np.float32)
    values[:, place] = VALUES
    ones, none = np.ones((20, 40), np.float32), np.zeros(1, np.float32)
    with np.errstate(invalid="ignore"):
        y = half("linear_forward", values, ones, none, none, attributes(0, 0, 0), like=[(len(VALUES), 20)])[0]
        np.testing.assert_array_equal(y, np.repeat(NEAREST[:, None], 20, 1))
        y = half("linear_forward", ones, values, none, none, attributes(0, 0, 0), like=[(20, len(VALUES))])[0]
        np.testing.assert_array_equal(y, np.repeat(NEAREST[None], 20, 0))


# Batch, height, width, inputs, outputs, kernel height and width, activation; none for Winograd's algorithm
CONVOLUTIONS = [
    (1, 5, 7, 11, 16, 3, 3, 1),  # a row of the kernel barely fills a tile of operands
    (2, 9, 70, 20, 33, 5, 5, 3),  # two tiles across, a panel and a bit
    (1, 12, 13, 40, 45, 3, 3, 2),
    (1, 8, 8, 144, 72, 3, 3, 0),
    (1, 6, 6, 64, 16, 1, 1, 1),
    (1, 37, 8, 33, 20, 1, 5, 0),
    (1, 3, 3, 8, 16, 7, 7, 0),  # a kernel larger than the image
    (1, 1, 1, 32, 16, 1, 1, 0),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(half: Kernels, case: tuple) -> None:
    batch, height, width, inputs, outputs, kh, kw, activation = case
    image = batch, height, width
    x, residual = random_arrays(1, (*image, inputs), (*image, outputs))
    weight, bias = random_arrays(2, (outputs, inputs, kh, kw), (outputs,))
    z = convolve(rounded(x), rounded(weight))
    y = half("conv2d_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[residual])[0]
    bare = half("conv2d_forward", x, weight, bias, residual, attributes(activation, 0, 0), like=[residual])[0]
    expected = [activate(z + bias.astype(np.float64), activation) + residual, activate(z, activation)]
    assert_all_close([y, bare], expected, "y y_without_bias")
    parts = [np.ascontiguousarray(part) for part in np.array_split(x, 3, -1)]
    again = half("conv2d_forward", *parts, weight, bias, residual, attributes(activation, 1, 1), like=[residual])[0]
    np.testing.assert_array_equal(again, y, err_msg="of three tensors side by side")


# Frames (N, T, H, W), channels of each source, of the output, layers; the first merges the sources if there are several
BODIES = [
    ((1, 2, 17, 30), (32, 32, 32), 32, 5),
    ((1, 1, 3, 110), (20, 33), 45, 3),  # panels and a bit
    ((1, 1, 2, 200), (32,), 32, 16),  # wider than the cache holds: cut into columns
    ((1, 1, 120, 4), (16, 16), 16, 9),  # cut into rows
    ((1, 1, 1, 1), (33,), 33, 2),
    ((2, 1, 2, 9), (24, 16), 16, 17),  # more layers than rows
]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("case", BODIES, ids=str)
def test_conv_body_is_the_sequence_of_its_convolutions(
    half: Kernels, request: pytest.FixtureRequest, case: tuple, residual: bool
) -> None:
    """To the last bit: the same products in the same order, and what lies between is rounded at the same place."""
    level = request.node.callspec.params["half"][1]
    frames, widths, channels, count = case
    merges, onto = len(widths) > 1, widths[-1] == channels
    count += residual and (count - merges) % 2  # whole blocks
    sources, weights = random_arrays(20, *[(*frames, width) for width in widths]), []
    for i in range(count):
        inputs = sum(widths) if merges and i == 0 else channels
        weight, bias = random_arrays(30 + i, (channels, inputs, 3, 3), (channels,))
        weights += [weight / np.float32(3 * np.sqrt(inputs)), bias]
    scale = np.array([0.75], np.float32)
    if level in PAIRS:  # where single layers are Winograd's
        choose(half, EMULATED)
    expected = sequence_of_layers(half, [*sources[:-1], scale * sources[-1]], weights, merges, residual)
    if onto:
        expected = expected + scale * sources[-1]
    choose(half, level)
    numbers = attributes(len(sources), int(merges), int(residual), int(onto))
    results = []
    for threads in (1, 2, 3, 5):
        half.library.rvrt_kernels_threads(threads)
        results += half("conv_body_forward", *sources, *weights, scale, numbers, like=[expected])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    if level != AVX512_BF16 and not onto:
        np.testing.assert_array_equal(results[0], expected)
        return
    # The sum with the last source may be fused with its product; sums in another order round some features to the next bfloat16.
    assert_close(results[0], expected.astype(np.float64), 1e-6 if level != AVX512_BF16 else 1e-2)
    assert np.median(np.abs(results[0] - expected)) <= 1e-6 * np.abs(expected).max()


def sequence_of_layers(half: Kernels, x: list, weights: list, merges: bool, residual: bool) -> np.ndarray:
    """The layers one by one, as conv2d_forward computes them."""

    def layer(inputs: list, place: int, activation: int, add: np.ndarray | None = None) -> np.ndarray:
        weight, bias = weights[2 * place : 2 * place + 2]
        numbers = attributes(activation, 1, int(add is not None))
        added = bias if add is None else add
        y: np.ndarray = half(
            "conv2d_forward", *inputs, weight, bias, added, numbers, like=[(*x[0].shape[:-1], len(bias))]
        )[0]
        return y

    y = layer(x, 0, 0) if merges else x[0]
    for place in range(int(merges), len(weights) // 2, 1 + int(residual)):
        hidden = layer([y], place, 1)
        y = layer([hidden], place + 1, 0, y) if residual else hidden
    return y


@pytest.mark.parametrize("place", range(6))
def test_conv_body_refuses_tensors_that_do_not_fit(library: Kernels, float32_again: None, place: int) -> None:
    x, square, row = np.zeros((5, 4, 20), np.float32), np.zeros((20, 20, 3, 3), np.float32), np.zeros(20, np.float32)
    both, one = np.zeros((20, 40, 3, 3), np.float32), np.ones(1, np.float32)
    inputs, good = [x, x, both, row, square, row, square, row, one], attributes(2, 1, 1, 1)
    assert library.status("conv_body_forward", [*inputs, good], [x.copy()]) != 0, "operands are float32"
    choose(library, EMULATED)
    assert library.status("conv_body_forward", [*inputs, good], [x.copy()]) == 0
    shorter = [np.ascontiguousarray(value[:-1]) if i == place else value for i, value in enumerate(inputs)]
    assert library.status("conv_body_forward", [*shorter, good], [x.copy()]) != 0, f"input {place} is too short"
    assert library.status("conv_body_forward", [*inputs, good], [x[:-1].copy()]) != 0, "the output is too short"
    wrong = list(good)
    wrong[place % 4] = 3
    assert library.status("conv_body_forward", [*inputs, attributes(*wrong)], [x.copy()]) != 0, f"attributes {wrong}"
    assert library.status("conv_body_forward", [*inputs[:6], one, good], [x.copy()]) != 0, "half a residual block"


# Few inputs, few outputs; and one that gains, by Winograd's algorithm or directly
UNCHANGED = [(1, 8, 8, 3, 32, 3), (1, 8, 8, 64, 12, 3), (1, 13, 20, 32, 16, 7)]


@pytest.mark.parametrize("case", UNCHANGED, ids=str)
def test_convolutions_that_gain_nothing_stay_float32(
    half: Kernels, request: pytest.FixtureRequest, case: tuple
) -> None:
    batch, height, width, inputs, outputs, edge = case
    x, weight = random_arrays(3, (batch, height, width, inputs), (outputs, inputs, edge, edge))
    none, like = np.zeros(1, np.float32), [(batch, height, width, outputs)]
    results = []
    for level in (request.node.callspec.params["half"][1], FLOAT32):
        choose(half, level)
        results.append(half("conv2d_forward", x, weight, none, none, attributes(0, 0, 0), like=like)[0])
    assert np.array_equal(*results) == (edge == 3)


def interpolation(outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices A (6, outputs), G (6, taps), B (6, 6) of the kernels' points and infinity: A and G evaluate polynomials at the
    points, and B follows from y = Aᵀ ((G g) · (B d)) being the convolution."""
    points = np.array([0, 5 / 8, -5 / 8, 3 / 2, -3 / 2])
    scale = [1 / np.prod(point - np.delete(points, i)) for i, point in enumerate(points)]
    a = np.vstack((points[:, None] ** np.arange(outputs), np.eye(outputs)[-1]))
    g = np.vstack((points[:, None] ** np.arange(taps) * np.array(scale)[:, None], np.eye(taps)[-1]))
    products = np.einsum("py,pk->ykp", a, g).reshape(-1, 6)
    shifts = np.array([np.eye(6)[y + k] for y in range(outputs) for k in range(taps)])
    b = np.linalg.lstsq(products, shifts, rcond=None)[0]
    np.testing.assert_allclose(products @ b, shifts, atol=1e-12)
    return a, b, g


def winograd_of_rounded(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Winograd's convolution in float64, but for what is multiplied, which is rounded to bfloat16."""
    a, b, g = interpolation(4, 3)
    batch, height, width, _ = x.shape
    y = np.empty((batch, height + -height % 4, width + -width % 4, len(weight)))
    around = np.pad(x.astype(np.float64), ((0, 0), (1, 1 + -height % 4), (1, 1 + -width % 4), (0, 0)))
    u = rounded(np.einsum("ij,ocjk,lk->iloc", g, weight.astype(np.float64), g))
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            v = rounded(np.einsum("ij,njkc,lk->ilnc", b, around[:, top : top + 6, left : left + 6], b))
            y[:, top : top + 4, left : left + 4] = np.einsum("iy,ilno,lx->nyxo", a, v @ u.transpose(0, 1, 3, 2), a)
    return y[:, :height, :width]


def wide_winograd_of_rounded(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same of a 7x7 convolution, whose kernel is cut into four of 4x4 taps, for tiles of 3x3 pixels."""
    a, b, g = interpolation(3, 4)
    batch, height, width, _ = x.shape
    down, right = -height % 3, -width % 3
    y = np.empty((batch, height + down, width + right, len(weight)))
    around = np.pad(x.astype(np.float64), ((0, 0), (3, 3 + down), (3, 3 + right), (0, 0)))
    # Taps 0 to 3, and a zero before taps 4 to 6
    parts = np.zeros((2, 2, *weight.shape[:2], 4, 4))
    for i, rows in enumerate((slice(0, 4), slice(4, 7))):
        for j, columns in enumerate((slice(0, 4), slice(4, 7))):
            parts[i, j, :, :, i:, j:] = weight[:, :, rows, columns]
    u = rounded(np.einsum("ij,deocjk,lk->deilco", g, parts, g))
    for top in range(0, height, 3):
        for left in range(0, width, 3):
            m = np.zeros((6, 6, batch, len(weight)))
            for i in range(2):
                for j in range(2):
                    patch = around[:, top + 3 * i : top + 3 * i + 6, left + 3 * j : left + 3 * j + 6]
                    m += rounded(np.einsum("ij,njkc,lk->ilnc", b, patch, b)) @ u[i, j]
            y[:, top : top + 3, left : left + 3] = np.einsum("iy,ilno,lx->nyxo", a, m, a)
    return y[:, :height, :width]


# Batch, height, width, inputs side by side, outputs, width of the kernel, activation
WINOGRAD = [
    (1, 16, 16, (16,), 16, 3, 0),
    (2, 17, 18, (32,), 24, 3, 1),  # parts of tiles on both edges
    (1, 1, 61, (20, 13), 33, 3, 2),  # one row; an odd number of inputs, a vector and a bit of outputs
    (1, 61, 2, (17,), 70, 3, 3),
    (1, 19, 14, (144, 3, 16), 48, 3, 1),
    (1, 14, 15, (389,), 16, 3, 0),  # more inputs than are multiplied at a time, in odd parts
    (1, 13, 14, (16,), 20, 7, 0),
    (2, 12, 23, (35,), 33, 7, 1),  # parts of tiles on both edges; an odd number of inputs, vectors and a bit
]


@only_pairs
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd_convolution(half: Kernels, case: tuple) -> None:
    """Pairs are multiplied in Winograd's domain. Where float32 and float64 round a product's operand to different neighbors,
    sums differ by a rounding of bfloat16; the error against the exact convolution is five times that of direct products."""
    batch, height, width, widths, outputs, size, activation = case
    image = batch, height, width
    *sources, residual = random_arrays(12, *[(*image, channels) for channels in widths], (*image, outputs))
    weight, bias = random_arrays(13, (outputs, sum(widths), size, size), (outputs,))
    x = np.concatenate(sources, -1)
    z = winograd_of_rounded(x, weight) if size == 3 else wide_winograd_of_rounded(x, weight)
    exact = convolve(x.astype(np.float64), weight.astype(np.float64))
    bare = half("conv2d_forward", *sources, weight, bias, residual, attributes(0, 0, 0), like=[residual])[0]
    y = half("conv2d_forward", *sources, weight, bias, residual, attributes(activation, 1, 1), like=[residual])[0]
    assert_close(bare, z, 5e-3)
    assert np.median(np.abs(bare - z)) <= 1e-6 * np.abs(z).max()
    assert 4e-3 < np.sqrt(np.mean((bare - exact) ** 2) / np.mean(exact**2)) < 1.6e-2
    wanted = activate(bare + bias.astype(np.float64), activation) + residual
    assert_close(y, wanted, 1e-6)


@only_pairs
def test_winograd_convolution_in_groups(half: Kernels) -> None:
    x, weight, bias = random_arrays(14, (1, 17, 18, 57), (60, 19, 3, 3), (60,))
    y = half("grouped_conv2d_forward", x, weight, bias, attributes(1), like=[(1, 17, 18, 60)])[0]
    for group in range(3):
        channels, outputs = slice(19 * group, 19 * group + 19), slice(20 * group, 20 * group + 20)
        part = np.ascontiguousarray(x[..., channels])
        layer = part, weight[outputs].copy(), bias[outputs].copy(), bias, attributes(1, 1, 0)
        alone = half("conv2d_forward", *layer, like=[(1, 17, 18, 20)])[0]
        np.testing.assert_array_equal(y[..., outputs], alone)


# Rows, inputs, outputs, activation
DENSE = [(1, 1, 1, 0), (7, 5, 3, GELU), (100, 32, 64, GELU), (333, 37, 50, 1), (97, 144, 288, 0), (17, 200, 33, 3)]


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_linear(half: Kernels, case: tuple) -> None:
    rows, inputs, outputs, activation = case
    x, weight, bias, residual = random_arrays(4, (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    z = rounded(x) @ rounded(weight).T
    y = half("linear_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[residual])[0]
    bare = half("linear_forward", x, weight, bias, residual, attributes(activation, 0, 0), like=[residual])[0]
    expected = [activate(z + bias.astype(np.float64), activation) + residual, activate(z, activation)]
    assert_all_close([y, bare], expected, "y y_without_bias", floor=1e-3)


@pytest.mark.parametrize("case", [(50, 33, 40), (100, 144, 288), (9, 5, 7)], ids=str)
def test_norm_linear_and_mlp(half: Kernels, case: tuple) -> None:
    """Their operands are what LayerNorm and GELU give in float32, rounded: the kernels of these alone give the same."""
    rows, channels, hidden = case
    x, gamma, beta, w1, b1 = random_arrays(5, (rows, channels), (channels,), (channels,), (hidden, channels), (hidden,))
    w2, b2 = random_arrays(6, (channels, hidden), (channels,))
    normed = half("layer_norm_forward", x, gamma, beta, like=[x])[0]
    h = half("norm_linear_forward", x, gamma, beta, w1, b1, attributes(GELU, 1), like=[(rows, hidden)])[0]
    y = half("mlp_forward", x, gamma, beta, w1, b1, w2, b2, like=[x])[0]
    wanted = activate(rounded(normed) @ rounded(w1).T + b1.astype(np.float64), GELU)
    assert_all_close([h, y], [wanted, x + rounded(h) @ rounded(w2).T + b2.astype(np.float64)], "hidden y")


@pytest.mark.parametrize("case", [(50, 33, 40, 20), (192, 32, 32, 64)], ids=str)
def test_projection_and_mlp_and_pairs_are_the_sequences_of_their_layers(half: Kernels, case: tuple) -> None:
    rows, inputs, channels, hidden = case
    x, proj_w, proj_b = random_arrays(22, (rows, inputs), (channels, inputs), (channels,))
    w1, b1, w2, b2 = random_arrays(23, (hidden, channels), (hidden,), (channels, hidden), (channels,))
    z = half("linear_forward", x, proj_w, proj_b, proj_b, attributes(0, 1, 0), like=[(rows, channels)])[0]
    h = half("linear_forward", z, w1, b1, b1, attributes(GELU, 1, 0), like=[(rows, hidden)])[0]
    expected = half("linear_forward", h, w2, b2, z, attributes(0, 1, 1), like=[z])[0]
    y = half("project_mlp_forward", x, proj_w, proj_b, w1, b1, w2, b2, like=[z])[0]
    np.testing.assert_array_equal(y, expected)
    pair = half("linear_pair_forward", x, proj_w, proj_b, h, w2, b2, like=[(rows, 2 * channels)])[0]
    beside = half("linear_forward", h, w2, b2, b2, attributes(0, 1, 0), like=[z])[0]
    np.testing.assert_array_equal(pair, np.concatenate((z, beside), -1))


def test_guided_attention_is_the_sequence_of_its_parts(half: Kernels) -> None:
    n, t, h, w, _, wide, heads, groups = case = (1, 2, 5, 33, 16, 32, 2, 4)
    inputs = guided_inputs(np.random.default_rng(1), (*case[:6], 8, heads, groups, (3, 3)))
    query, key, value, hidden, flows, bound, last_w, last_b, q_w, q_b, k_w, k_b, v_w, v_b, *output = inputs
    numbers = attributes(heads, 3, 3, groups)
    aligned, corrected = half("guided_attention_forward", *inputs, numbers, like=[query, flows])
    scale, plain = np.float32((wide // heads) ** -0.5), attributes(0, 1, 0)
    q = half("linear_forward", query, scale * q_w, scale * q_b, q_b, plain, like=[(n, t, h, w, wide)])[0]
    kv = half("linear_pair_forward", key, k_w, k_b, value, v_w, v_b, like=[(n, t, h, w, 2 * wide)])[0]
    like = [(n, t, h, w, t, groups, 9, 2), flows]
    points = attributes(9 * groups)
    offset, guide = half("guided_offsets_forward", hidden, last_w, last_b, flows, bound, points, like=like)
    attended = half("deformable_attention_forward", q, kv, offset, attributes(heads, 3, 3), like=[q])[0]
    expected = half("project_mlp_forward", attended, *output, like=[query])[0]
    assert_all_close(
        [aligned, corrected], [expected.astype(np.float64), guide.astype(np.float64)], "aligned corrected", floor=1e-3
    )


# N, D, H, W, C, hidden channels, heads, window, shift; windows of an odd number of tokens, heads of odd width
SWIN_LAYERS = [
    (1, 2, 9, 10, 48, 70, 4, (2, 4, 4), (0, 2, 2)),
    (1, 1, 7, 10, 28, 40, 2, (1, 3, 3), (0, 1, 1)),
    (1, 1, 7, 10, 30, 40, 2, (1, 3, 3), (0, 1, 1)),
]


@pytest.mark.parametrize("case", SWIN_LAYERS, ids=str)
def test_swin_layer_is_the_sequence_of_its_parts(half: Kernels, case: tuple, request: pytest.FixtureRequest) -> None:
    """Attention sums in another order within the layer, so that a few operands round to the neighboring bfloat16.

    Where pairs of channels are multiplied, attention's operands are rounded too; alone, its kernel keeps float32.
    """
    *_, channels, _, heads, window, shift = case
    inputs = swin_inputs(np.random.default_rng(7), case, rows=50)
    x, g1, beta1, qkv_w, qkv_b, proj_w, proj_b, g2, beta2, w1, b1, w2, b2, table, index = inputs
    numbers, wide = attributes(heads, *window, *shift, 1), (*x.shape[:4], 3 * channels)
    y = half("swin_layer_forward", *inputs, numbers, like=[x])[0]
    qkv = half("norm_linear_forward", x, g1, beta1, qkv_w, qkv_b, attributes(0, 1), like=[wide])[0]
    bias = np.ascontiguousarray(table[index].transpose(2, 0, 1))
    if request.node.callspec.params["half"][1] in PAIRS and channels // heads % 2 == 0:
        doubles = [a.astype(np.float64) for a in (qkv, qkv_b, bias, np.zeros_like(x))]
        attended = window_attention(*doubles, heads, window, shift, rounded)[0].astype(np.float32)
    else:
        attended = half("window_attention_forward", qkv, qkv_b, bias, numbers, like=[x])[0]
    z = half("linear_forward", attended, proj_w, proj_b, x, attributes(0, 1, 1), like=[x])[0]
    expected = half("mlp_forward", z, g2, beta2, w1, b1, w2, b2, like=[x])[0]
    assert_close(y, expected.astype(np.float64), 1e-3)
    choose(half, FLOAT32)
    exact = half("swin_layer_forward", *inputs, numbers, like=[x])[0]
    assert 1e-4 < np.abs(y - exact).max() / np.abs(exact).max() < 2e-2


def forwards(kernels: Kernels) -> list[np.ndarray]:
    """Outputs on tensors large enough for several threads; the last is of a convolution that may be Winograd's."""
    x, w1, b1, w2, image, weight, features, square = random_arrays(
        8, (700, 40), (70, 40), (70,), (40, 70), (2, 19, 70, 12), (40, 12, 5, 5), (2, 19, 70, 20), (40, 20, 3, 3)
    )
    row, swin = b1[:40].copy(), (1, 2, 16, 24, 24, 30, 3, (2, 8, 8), (0, 4, 4))
    inputs = swin_inputs(np.random.default_rng(9), swin, rows=50)
    return [
        *kernels("linear_forward", x, w1, b1, b1, attributes(1, 1, 0), like=[(700, 70)]),
        *kernels("norm_linear_forward", x, row, row, w1, b1, attributes(GELU, 1), like=[(700, 70)]),
        *kernels("mlp_forward", x, row, row, w1, b1, w2, row, like=[x]),
        *kernels("conv2d_forward", image, weight, row, row, attributes(1, 1, 0), like=[(2, 19, 70, 40)]),
        *kernels("swin_layer_forward", *inputs, attributes(3, 2, 8, 8, 0, 4, 4, 1), like=[inputs[0]]),
        *kernels("conv2d_forward", features, square, row, row, attributes(1, 1, 0), like=[(2, 19, 70, 40)]),
    ]


def backwards(kernels: Kernels) -> list[np.ndarray]:
    x, w1, b1, w2, dz = random_arrays(10, (300, 40), (70, 40), (70,), (40, 70), (300, 70))
    image, weight, dy = random_arrays(11, (1, 9, 20, 40), (32, 40, 5, 5), (1, 9, 20, 32))
    row, rest = b1[:40].copy(), [x, b1[:40], b1[:40], w1, b1]
    return [
        *kernels("linear_backward", x, w1, b1, dz, attributes(GELU, 1, 0), like=[x, w1, b1]),
        *kernels("norm_linear_backward", x, row, row, w1, b1, dz, attributes(GELU, 1), like=rest),
        *kernels("mlp_backward", x, row, row, w1, b1, w2, x, like=[*rest, w2, row]),
        *kernels("conv2d_backward", image, weight, dy, dy, attributes(1, 1, 0), like=[image, weight, (32,)]),
    ]


def test_gradients_stay_float32(half: Kernels) -> None:
    of_half = backwards(half)
    choose(half, FLOAT32)
    for value, wanted in zip(of_half, backwards(half), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_results_do_not_depend_on_the_number_of_threads(half: Kernels) -> None:
    results = []
    for threads in (1, 2, 5):
        half.library.rvrt_kernels_threads(threads)
        results.append(forwards(half))
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("level", [AVX512_BF16, AMX], ids=lambda level: NAMES[level])
def test_all_ways_to_multiply_agree(library: Kernels, float32_again: None, level: int) -> None:
    """In float32 sums of the same operands; those of `mlp`, the Swin layer and Winograd's convolution depend on sums before them.
    Only the latter two differ between pairs and tiles of operands."""
    if choose(library, level) != level:
        pytest.skip(f"this processor has no {NAMES[level]}")
    found = forwards(library)
    for other in (EMULATED, EMULATED_PAIRS):
        choose(library, other)
        wanted = forwards(library)
        alike = (level in PAIRS) == (other in PAIRS)
        for ours, expected in zip(found if alike else found[:-2], wanted if alike else wanted[:-2], strict=True):
            assert_close(ours, expected.astype(np.float64), 1e-3)
            assert np.median(np.abs(ours - expected)) <= 1e-6 * np.abs(expected).max()


def test_the_level_in_use_is_returned_and_is_one_that_the_processor_has(library: Kernels, float32_again: None) -> None:
    best = choose(library, BEST)
    assert best in (FLOAT32, AVX512_BF16, AMX)
    for level in (EMULATED, EMULATED_PAIRS, FLOAT32):
        assert choose(library, level) == level
    assert choose(library, AMX) == best
    assert choose(library, AVX512_BF16) == min(best, AVX512_BF16)
    library.limit(ISAS.index("portable"))
    assert choose(library, BEST) == FLOAT32, "what the processor has lies beyond RVRT_ISA"
    assert choose(library, AMX) == FLOAT32
