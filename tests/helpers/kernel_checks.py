# SPDX-License-Identifier: Apache-2.0
"""One C++ kernel at one shape, forward and backward, against its float64 reference.

Each check takes the library and a case, a tuple of sizes; chosen cases are in test_kernels_attention.py and
test_kernels_layers.py, random ones in test_kernels_shapes.py. Tolerance: 1e-5 of the largest value, the project's bound
for float32 kernels.
"""

from __future__ import annotations

import numpy as np

from helpers import attention_reference
from helpers.comparison import assert_all_close
from helpers.kernel_calls import Kernels, attributes
from helpers.layer_reference import (
    GELU,
    activate,
    activation_slope,
    convolve,
    convolve_gradients,
    normalize,
    normalize_gradients,
    swin_layer,
)

_SMALL = 1e-3  # attention: where all values are smaller than this, errors are measured against it


def normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32)


def random_arrays(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def displacements(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Offsets in 64ths of a pixel, exact in float32, never whole (there the gradient jumps), some far outside."""
    steps = generator.integers(-6 * 64, 6 * 64, shape)
    values = np.where(steps % 64 == 0, steps + 1, steps) / 64
    chosen = generator.random(shape)
    values[chosen < 0.02], values[chosen > 0.98] = 1e9, -3e38
    values[(chosen > 0.5) & (chosen < 0.52)] = 12345.5
    return values.astype(np.float32)


def doubles(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arrays]


# --- sampling and attention


def check_warp(kernels: Kernels, shape: tuple[int, ...], padding: int) -> None:
    """`shape`: (B, H, W, C); `padding`: 0 zeros, 1 border."""
    generator = np.random.default_rng(shape[1])
    x, flow, g = normal(generator, *shape), displacements(generator, *shape[:3], 2), normal(generator, *shape)
    out = kernels("warp_forward", x, flow, attributes(padding), like=[shape])
    gradients = kernels("warp_backward", x, flow, g, attributes(padding), like=[shape, flow.shape])
    expected = attention_reference.warp(*doubles(x, flow, g), bool(padding))
    assert_all_close(out + gradients, expected, "out dx dflow", floor=_SMALL)


def check_warp_clip(kernels: Kernels, shape: tuple[int, ...]) -> None:
    """`shape`: (N, T, H, W, C)."""
    generator, time = np.random.default_rng(shape[2]), shape[1]
    x, flows = normal(generator, *shape), displacements(generator, *shape[:2], time, *shape[2:4], 2)
    out = kernels("warp_clip_forward", x, flows, like=[(*shape[:4], time * (shape[4] + 2))])[0]
    expected = attention_reference.warp_clip(*doubles(x, flows))
    fields = time * shape[4]
    assert_all_close([out[..., :fields]], [expected[..., :fields]], "warped", floor=_SMALL)
    np.testing.assert_array_equal(out[..., fields:], expected[..., fields:])
    g = normal(generator, *out.shape)
    gradients = kernels("warp_clip_backward", x, flows, g, like=[x, flows])
    expected = attention_reference.warp_clip_gradients(*doubles(x, flows, g))
    assert_all_close(gradients, [*expected], "dx dflows", floor=_SMALL)


def check_guided_offsets(kernels: Kernels, case: tuple) -> None:
    """`case`: N, T, H, W, inputs, fields, points of a field."""
    n, t, h, w, inputs, fields, points = case
    generator, outputs, bound = np.random.default_rng(inputs), fields * points * 2, np.array([7], np.float32)
    x, weight = normal(generator, n, t, h, w, inputs), normal(generator, outputs, inputs) / np.float32(inputs**0.5)
    bias, flows = normal(generator, outputs), 3 * normal(generator, n, t, fields, h, w, 2)
    g = normal(generator, n, t, h, w, fields, points, 2), normal(generator, *flows.shape)
    offset, corrected = kernels(
        "guided_offsets_forward", x, weight, bias, flows, bound, attributes(points), like=[g[0], flows]
    )
    raw = (x.astype(np.float64) @ weight.T.astype(np.float64) + bias).reshape(g[0].shape)
    raw32 = raw.astype(np.float32)
    gradients = kernels(
        "guided_offsets_backward",
        *(raw32.reshape(n, t, h, w, outputs), flows, bound, *g, attributes(points)),
        like=[g[0], flows],
    )
    expected = attention_reference.guided_offsets(raw, flows.astype(np.float64), 7.0, (g[0], g[1]))
    assert_all_close([offset, corrected, *gradients], expected, "offset corrected draw dflows")


def check_deformable_attention(kernels: Kernels, case: tuple) -> None:
    """`case`: N, T, H, W, C, heads, G, kernel."""
    n, t, h, w, c, heads, groups, kernel = case
    generator = np.random.default_rng(c)
    q, kv, g = normal(generator, n, t, h, w, c), normal(generator, n, t, h, w, 2 * c), normal(generator, n, t, h, w, c)
    offset = displacements(generator, n, t, h, w, t, groups, kernel[0] * kernel[1], 2)
    numbers = attributes(heads, *kernel)
    out = kernels("deformable_attention_forward", q, kv, offset, numbers, like=[q])
    gradients = kernels("deformable_attention_backward", q, kv, offset, g, numbers, like=[q, kv, offset])
    expected = attention_reference.deformable_attention(*doubles(q, kv, offset, g), heads, kernel)
    assert_all_close(out + gradients, expected, "out dquery dkey_value doffset", floor=_SMALL)


def guided_inputs(generator: np.random.Generator, case: tuple) -> list[np.ndarray]:
    """Inputs of guided_attention_forward but for its attributes; `case`: N, T, H, W, C, A, I, heads, G, kernel."""
    n, t, h, w, c, a, hidden, _, groups, kernel = case
    offsets = 2 * t * groups * kernel[0] * kernel[1]
    sizes = [(offsets, hidden), (a, c), (a, c), (a, c), (c, a), (c + 5, c), (c, c + 5)]
    layers = [
        part
        for shape in sizes
        for part in (normal(generator, *shape) / np.float32(shape[1] ** 0.5), normal(generator, shape[0]))
    ]
    features = [normal(generator, n, t, h, w, c) for _ in range(3)]
    flows = 3 * normal(generator, n, t, t, h, w, 2)
    return [*features, normal(generator, n, t, h, w, hidden), flows, np.array([3], np.float32), *layers]


def guided_reference(inputs: list[np.ndarray], case: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Aligned features and corrected flows: offsets, attention and dense layers in the precision of `inputs`."""
    n, t, h, w, _, a, _, heads, groups, kernel = case
    query, key, value, hidden, flows, bound, *layers = inputs
    dense = lambda x, i: x @ layers[2 * i].T + layers[2 * i + 1]  # noqa: E731
    raw = dense(hidden, 0).reshape(n, t, h, w, t, groups * kernel[0] * kernel[1], 2)
    none = np.zeros_like(raw), np.zeros_like(flows)
    offset, corrected, *_ = attention_reference.guided_offsets(raw, flows, bound[0], none)
    offset = offset.reshape(n, t, h, w, t, groups, -1, 2)
    q, kv = dense(query, 1) * (a // heads) ** -0.5, np.concatenate([dense(key, 2), dense(value, 3)], -1)
    attended = attention_reference.deformable_attention(q, kv, offset, np.zeros_like(q), heads, kernel)[0]
    z = dense(attended, 4)
    return z + dense(activate(dense(z, 5), GELU), 6), corrected


def check_guided_attention(kernels: Kernels, case: tuple) -> None:
    """The kernels of inference and of training against float64; `case` as in `guided_inputs`."""
    inputs = guided_inputs(np.random.default_rng(case[4]), case)
    expected = guided_reference(doubles(*inputs), case)
    numbers, outputs = guided_attributes(case), [(*case[:4], case[4]), inputs[4]]
    found = kernels("guided_attention_forward", *inputs, numbers, like=outputs)
    assert_all_close(found, expected, "aligned corrected", floor=_SMALL)
    found = kernels("guided_training_forward", *inputs, numbers, like=[*outputs, guided_kept(case)])
    assert_all_close(found[:2], expected, "aligned-in-training corrected-in-training", floor=_SMALL)


def guided_attributes(case: tuple) -> np.ndarray:
    """Of the kernels of guided attention; `case` as in `guided_inputs`."""
    return attributes(case[7], *case[9], case[8])


def guided_kept(case: tuple) -> tuple[int, ...]:
    """Shape of what guided_training_forward keeps: offsets, query, key, value, attended, projected and hidden features."""
    n, t, h, w, c, a, _, _, groups, kernel = case
    return 2 * t * groups * kernel[0] * kernel[1] + 4 * a + c + c + 5, n, t, h, w


def check_guided_gradients(kernels: Kernels, case: tuple) -> None:
    """guided_training_backward against differences of the float64 definition along random directions."""
    generator = np.random.default_rng(case[5])
    inputs, numbers = guided_inputs(generator, case), guided_attributes(case)
    outputs = [(*case[:4], case[4]), inputs[4]]
    *_, kept = kernels("guided_training_forward", *inputs, numbers, like=[*outputs, guided_kept(case)])
    dy, dcorrected = normal(generator, *outputs[0]), normal(generator, *inputs[4].shape)
    differentiable = [i for i in range(len(inputs)) if i != 5]  # not the bound
    gradients = kernels(
        "guided_training_backward", *inputs, kept, dy, dcorrected, numbers, like=[inputs[i] for i in differentiable]
    )

    def mixture(moved: int, by: np.ndarray) -> float:
        shifted = doubles(*inputs)
        shifted[moved] = shifted[moved] + by
        aligned, corrected = guided_reference(shifted, case)
        return float((aligned * dy).sum() + (corrected * dcorrected).sum())

    for i, gradient in zip(differentiable, gradients, strict=True):
        direction = normal(generator, *gradient.shape).astype(np.float64)
        expected = (mixture(i, 1e-6 * direction) - mixture(i, -1e-6 * direction)) / 2e-6
        found, scale = float((gradient * direction).sum()), float(np.linalg.norm(gradient) + 1e-3)
        assert abs(found - expected) < 1e-4 * scale, f"gradient of input {i}: {found} along a direction, not {expected}"


def check_neighborhood_attention(kernels: Kernels, case: tuple) -> None:
    """`case`: N, T, H, W, C, heads, kernel."""
    n, t, h, w, c, heads, kernel = case
    generator = np.random.default_rng(w)
    q, kv, g = normal(generator, n, t, h, w, c), normal(generator, n, t, h, w, 2 * c), normal(generator, n, t, h, w, c)
    q *= (c // heads) ** -0.5
    numbers = attributes(heads, *kernel)
    out = kernels("neighborhood_attention_forward", q, kv, numbers, like=[q])
    gradients = kernels("neighborhood_attention_backward", q, kv, g, numbers, like=[q, kv])
    expected = attention_reference.neighborhood_attention(*doubles(q, kv, g), heads, kernel)
    assert_all_close(out + gradients, expected, "out dquery dkey_value", floor=_SMALL)


def check_window_attention(kernels: Kernels, case: tuple, has_bias: bool) -> None:
    """`case`: N, D, H, W, C, heads, window, shift."""
    n, d, h, w, c, heads, window, shift = case
    generator, length = np.random.default_rng(c), int(np.prod(window))
    qkv, pad, g = normal(generator, n, d, h, w, 3 * c), normal(generator, 3 * c), normal(generator, n, d, h, w, c)
    bias = normal(generator, heads, length, length) if has_bias else np.zeros(1, np.float32)
    numbers = attributes(heads, *window, *shift, int(has_bias))
    out = kernels("window_attention_forward", qkv, pad, bias, numbers, like=[g])
    gradients = kernels("window_attention_backward", qkv, pad, bias, g, numbers, like=[qkv, pad, bias])
    expected = list(attention_reference.window_attention(*doubles(qkv, pad, bias, g), heads, window, shift))
    if not has_bias:
        expected[3] = np.zeros(1)
    assert_all_close(out + gradients, expected, "out dqkv dpad dbias", floor=_SMALL)


# --- layers


def check_convolution(kernels: Kernels, case: tuple) -> None:
    """`case`: batch, height, width, inputs, outputs, kernel height and width, activation."""
    batch, height, width, inputs, outputs, kh, kw, activation = case
    image = (batch, height, width)
    x, weight, bias, residual, dy = random_arrays(
        1, (*image, inputs), (outputs, inputs, kh, kw), (outputs,), (*image, outputs), (*image, outputs)
    )
    x64, weight64, bias64, residual64, dy64 = doubles(x, weight, bias, residual, dy)
    z = convolve(x64, weight64) + bias64
    y = kernels("conv2d_forward", x, weight, bias, residual, attributes(activation, 1, 0), like=[dy])[0]
    added = kernels("conv2d_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[dy])[0]
    bare = kernels("conv2d_forward", x, weight, bias[:1], bias[:1], attributes(activation, 0, 0), like=[dy])[0]
    expected = activate(z, activation)
    wanted = [expected, expected + residual64, activate(z - bias64, activation)]
    assert_all_close([y, added, bare], wanted, "y y+residual y_without_bias")
    gradients = kernels("conv2d_backward", x, weight, y, dy, attributes(activation, 1, 0), like=[x, weight, bias])
    g = dy64 * activation_slope(y, activation)  # by the sign of y itself: rounding may have turned it
    wanted = convolve_gradients(x64, weight64, g)
    assert_all_close(gradients, wanted, "dx dweight dbias")
    gradients = kernels("conv2d_backward", x, weight, y, dy, attributes(activation, 0, 0), like=[x, weight, bias])
    assert_all_close(gradients, [np.zeros(x.shape), *wanted[1:]], "no_dx dweight dbias")


def check_strided_convolution(kernels: Kernels, case: tuple) -> None:
    """`case`: batch, height, width, inputs, outputs, kernel height and width, stride, activation."""
    batch, height, width, inputs, outputs, kh, kw, stride, activation = case
    rows, columns = -(-height // stride), -(-width // stride)
    shapes = (batch, height, width, inputs), (outputs, inputs, kh, kw), (outputs,), (batch, rows, columns, outputs)
    x, weight, bias, dy = random_arrays(height + inputs, *shapes)
    numbers = attributes(activation, stride)
    y = kernels("strided_conv2d_forward", x, weight, bias, numbers, like=[dy])[0]
    gradients = kernels("strided_conv2d_backward", x, weight, y, dy, numbers, like=[x, weight, bias])
    x64, weight64, dy64 = doubles(x, weight, dy)
    raw = convolve(x64, weight64)[:, ::stride, ::stride] + bias
    spread = np.zeros((batch, height, width, outputs))  # the gradient of the convolution before pixels are dropped
    spread[:, ::stride, ::stride] = dy64 * activation_slope(y, activation)
    expected = [activate(raw, activation), *convolve_gradients(x64, weight64, spread)]
    assert_all_close([y, *gradients], expected, "y dx dweight dbias")


def check_grouped_convolution(kernels: Kernels, case: tuple) -> None:
    """`case`: batch, height, width, inputs and outputs of a group, groups, kernel edge, activation."""
    batch, height, width, inputs, outputs, groups, edge, activation = case
    frame = batch, height, width
    weights = (groups * outputs, inputs, edge, edge)
    x, weight, bias, dy = random_arrays(
        height + groups, (*frame, groups * inputs), weights, weights[:1], (*frame, groups * outputs)
    )
    y = kernels("grouped_conv2d_forward", x, weight, bias, attributes(activation), like=[dy])[0]
    gradients = kernels("grouped_conv2d_backward", x, weight, y, dy, attributes(activation), like=[x, weight, bias])
    parts = []
    for group in range(groups):
        read, made = slice(group * inputs, (group + 1) * inputs), slice(group * outputs, (group + 1) * outputs)
        x64, weight64, dy64 = doubles(x[..., read], weight[made], dy[..., made])
        raw = convolve(x64, weight64) + bias[made]
        g = dy64 * activation_slope(y[..., made], activation)
        parts.append([activate(raw, activation), *convolve_gradients(x64, weight64, g)])
    axes = (-1, -1, 0, 0)
    expected = [np.concatenate(part, axis) for part, axis in zip(zip(*parts, strict=True), axes, strict=True)]
    assert_all_close([y, *gradients], expected, "y dx dweight dbias")


def check_linear(kernels: Kernels, case: tuple) -> None:
    """`case`: rows, inputs, outputs, activation."""
    rows, inputs, outputs, activation = case
    x, weight, bias, residual, dy = random_arrays(
        3, (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs), (rows, outputs)
    )
    x64, weight64, bias64, residual64, dy64 = doubles(x, weight, bias, residual, dy)
    z = x64 @ weight64.T + bias64
    y = kernels("linear_forward", x, weight, bias, residual, attributes(activation, 1, 1), like=[dy])
    assert_all_close(y, [activate(z, activation) + residual64], "y+residual")
    y = kernels("linear_forward", x, weight, bias[:1], bias[:1], attributes(activation, 0, 0), like=[dy])
    assert_all_close(y, [activate(z - bias64, activation)], "y_without_bias")
    gradients = kernels("linear_backward", x, weight, bias, dy, attributes(activation, 1, 0), like=[x, weight, bias])
    g = dy64 * activation_slope(z, activation)
    assert_all_close(gradients, [g @ weight64, g.T @ x64, g.sum(0)], "dx dweight dbias")


def check_norm_linear(kernels: Kernels, case: tuple) -> None:
    """`case`: rows, inputs, outputs, activation."""
    rows, inputs, outputs, activation = case
    x, gamma, beta, weight, bias, dy = random_arrays(
        4, (rows, inputs), (inputs,), (inputs,), (outputs, inputs), (outputs,), (rows, outputs)
    )
    x = 3 * x + 1
    x64, gamma64, beta64, weight64, bias64, dy64 = doubles(x, gamma, beta, weight, bias, dy)
    n, scale = normalize(x64)
    normed = n * gamma64 + beta64
    z = normed @ weight64.T + bias64
    numbers, weights = attributes(activation, 1), [gamma, beta, weight, bias]
    y = kernels("norm_linear_forward", x, *weights, numbers, like=[dy])
    assert_all_close(y, [activate(z, activation)], "y")
    gradients = kernels("norm_linear_backward", x, *weights, dy, numbers, like=[x, *weights])
    g = dy64 * activation_slope(z, activation)
    expected = [*normalize_gradients(n, scale, gamma64, g @ weight64), g.T @ normed, g.sum(0)]
    assert_all_close(gradients, expected, "dx dgamma dbeta dweight dbias")


def check_layer_norm(kernels: Kernels, shape: tuple[int, int]) -> None:
    """`shape`: rows, channels."""
    x, gamma, beta, dy = random_arrays(5, shape, shape[1:], shape[1:], shape)
    x = 0.5 * x + 4  # far from zero: the variance must not come from a difference of squares
    x64, gamma64, beta64, dy64 = doubles(x, gamma, beta, dy)
    n, scale = normalize(x64)
    y = kernels("layer_norm_forward", x, gamma, beta, like=[x])
    assert_all_close(y, [n * gamma64 + beta64], "y")
    gradients = kernels("layer_norm_backward", x, gamma, dy, like=[x, gamma, beta])
    assert_all_close(gradients, normalize_gradients(n, scale, gamma64, dy64), "dx dgamma dbeta")


def check_mlp(kernels: Kernels, case: tuple[int, int, int]) -> None:
    """`case`: rows, channels, hidden channels."""
    rows, channels, hidden = case
    vector, tokens = (channels,), (rows, channels)
    x, gamma, beta, w1, b1, w2, b2, dy = random_arrays(
        6, tokens, vector, vector, (hidden, channels), (hidden,), (channels, hidden), vector, tokens
    )
    x64, gamma64, beta64, w164, b164, w264, b264, dy64 = doubles(x, gamma, beta, w1, b1, w2, b2, dy)
    n, scale = normalize(x64)
    normed = n * gamma64 + beta64
    z = normed @ w164.T + b164
    h = activate(z, GELU)
    y = kernels("mlp_forward", x, gamma, beta, w1, b1, w2, b2, like=[x])
    assert_all_close(y, [x64 + h @ w264.T + b264], "y")
    gradients = kernels("mlp_backward", x, gamma, beta, w1, b1, w2, dy, like=[x, gamma, beta, w1, b1, w2, b2])
    dz = (dy64 @ w264) * activation_slope(z, GELU)
    dx, dgamma, dbeta = normalize_gradients(n, scale, gamma64, dz @ w164)
    expected = [dy64 + dx, dgamma, dbeta, dz.T @ normed, dz.sum(0), dy64.T @ h, dy64.sum(0)]
    assert_all_close(gradients, expected, "dx dgamma dbeta dw1 db1 dw2 db2")


def swin_inputs(generator: np.random.Generator, case: tuple, rows: int) -> list[np.ndarray]:
    """Inputs of swin_layer_forward without the attributes: those of `check_swin_layer`, a table of `rows` rows."""
    n, d, h, w, c, hidden, heads, window, _ = case
    length = int(np.prod(window))
    shapes = [(3 * c, c), (3 * c,), (c, c), (c,), (c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,)]
    scaled = [normal(generator, *shape) / np.float32(np.sqrt(shape[-1] if len(shape) == 2 else 1)) for shape in shapes]
    table = normal(generator, rows, heads)
    index = generator.integers(0, rows, (length, length)).astype(np.int32)
    return [normal(generator, n, d, h, w, c), normal(generator, c), normal(generator, c), *scaled, table, index]


def check_swin_layer(kernels: Kernels, case: tuple, has_table: bool) -> None:
    """`case`: N, D, H, W, C, hidden channels, heads, window, shift. Its gradient consists of other kernels."""
    heads, window, shift = case[-3:]
    *inputs, table, index = swin_inputs(np.random.default_rng(case[4]), case, rows=50)
    bias = table[index].transpose(2, 0, 1) if has_table else np.zeros((heads, *index.shape))
    if not has_table:
        table, index = table[:1, 0].copy(), index[:1, 0].copy()
    numbers = attributes(heads, *window, *shift, int(has_table))
    y = kernels("swin_layer_forward", *inputs, table, index, numbers, like=[inputs[0]])
    x64, *weights64 = doubles(*inputs)
    expected = swin_layer(x64, [*weights64, bias.astype(np.float64)], heads, window, shift)
    assert_all_close(y, [expected], "y")
    linear_w, linear_b, residual = random_arrays(22, (case[4], case[4]), (case[4],), inputs[0].shape)
    last = linear_w, linear_b, residual, index, numbers
    y = kernels("swin_layer_onto_forward", *inputs, table, *last, like=[inputs[0]])
    assert_all_close(y, [residual + expected @ linear_w.astype(np.float64).T + linear_b], "y")


# --- layout


def check_pixel_shuffle(kernels: Kernels, case: tuple[int, ...]) -> None:
    """`case`: batch, height, width, channels after the shuffle, factor. Values are moved exactly, with a leaky ReLU."""
    batch, height, width, channels, f = case
    large = (batch, height * f, width * f, channels)
    x, dy = random_arrays(7, (batch, height, width, channels * f * f), large)
    moved = x.reshape(batch, height, width, channels, f, f).transpose(0, 1, 4, 2, 5, 3).reshape(large)
    expected = np.where(moved > 0, moved, np.float32(0.1) * moved)
    y = kernels("pixel_shuffle_forward", x, attributes(f, 1), like=[large])[0]
    np.testing.assert_array_equal(y, expected)
    dx = kernels("pixel_shuffle_backward", y, dy, attributes(f, 1), like=[x])[0]
    g = np.where(moved > 0, dy, np.float32(0.1) * dy).reshape(batch, height, f, width, f, channels)
    np.testing.assert_array_equal(dx, g.transpose(0, 1, 3, 5, 2, 4).reshape(x.shape))


def check_add_upsampled(kernels: Kernels, case: tuple[int, ...]) -> None:
    """`case`: batch, height, width, channels, factor."""
    batch, height, width, channels, f = case
    small, add = random_arrays(9, (batch, height, width, channels), (batch, height * f, width * f, channels))

    def matrix(size: int) -> np.ndarray:  # hat functions at half-pixel centers, the edge repeated
        at = np.clip((np.arange(size * f) + 0.5) / f - 0.5, 0, size - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

    expected = add + np.einsum("yh,xw,bhwc->byxc", matrix(height), matrix(width), small.astype(np.float64))
    assert_all_close(kernels("add_upsampled_forward", small, add, like=[add]), [expected], "out")
