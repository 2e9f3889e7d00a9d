# SPDX-License-Identifier: Apache-2.0
"""The definitions in `rvrt_cli.ops` against loops over single pixels in float64; gradients against differences.

N batch, T frames per clip, H×W frame size [px], C channels, G offset groups, K kernel points; channels last.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from helpers.comparison import assert_close

from rvrt_cli import ops
from rvrt_cli.ops import attention, frame_fusion, layers, sampling

_TRACED_PARTS = ("alignment", "blocks", "network_parts", "optical_flow", "rvrt", "spynet")
FLOAT32, FLOAT64 = 1e-5, 1e-8  # of the largest value; in float64 MindSpore's Python numbers still are float32


def normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


def displacements(seed: int, shape: tuple[int, ...], reach: int = 4) -> np.ndarray:
    """Up to `reach` px, with a fraction of 0.1 to 0.9: at whole pixels the gradient jumps."""
    generator = np.random.default_rng(seed)
    return generator.integers(-reach, reach, shape) + generator.uniform(0.1, 0.9, shape)


def close(ours: np.ndarray, expected: np.ndarray, tolerance: float, name: str = "output") -> None:
    assert_close(ours, expected, tolerance, name, floor=1e-3)


def tensors(arguments: Iterable, dtype: type) -> list:
    return [ms.Tensor(a.astype(dtype)) if isinstance(a, np.ndarray) else a for a in arguments]


def check(function: Callable, expected: np.ndarray, *arguments: Any) -> None:
    """`function` gives `expected`, in float64 and in float32."""
    close(function(*tensors(arguments, np.float64)).asnumpy(), expected, FLOAT64, "float64")
    close(function(*tensors(arguments, np.float32)).asnumpy(), expected, FLOAT32, "float32")


# --- the loops


def sample(frame: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear value of `frame` (H, W, C) at row y, column x; zero outside."""
    value = np.zeros(frame.shape[2])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < frame.shape[0] and 0 <= column < frame.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * frame[row, column]
    return value


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray, extra=0.0) -> np.ndarray:
    """One query (d,) over keys and values (points, d)."""
    scores = np.exp(keys @ query + extra)
    return scores @ values / scores.sum()


def loop_warp(x, flow, border=False) -> np.ndarray:
    out = np.zeros_like(x)
    for b, i, j in np.ndindex(*x.shape[:3]):
        at_x, at_y = j + flow[b, i, j, 0], i + flow[b, i, j, 1]
        if border:
            at_x, at_y = min(max(at_x, 0), x.shape[2] - 1), min(max(at_y, 0), x.shape[1] - 1)
        out[b, i, j] = sample(x[b], at_y, at_x)
    return out


def loop_window(qkv, pad, bias, heads, window, shift) -> np.ndarray:
    """Every pixel looks for the pixels that share its window, after the whole frame has moved by `shift`."""
    size, channels = qkv.shape[1:4], qkv.shape[4] // 3
    padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
    tokens = np.zeros((len(qkv), *padded, 3 * channels)) + pad
    tokens[:, : size[0], : size[1], : size[2]] = qkv
    width = channels // heads
    places = {}
    for p in np.ndindex(*padded):
        moved = [(a - s) % n for a, s, n in zip(p, shift, padded, strict=True)]
        which = tuple(m // w for m, w in zip(moved, window, strict=True))
        wrapped = tuple(a < s for a, s in zip(p, shift, strict=True))  # wrapped around
        places.setdefault(which, []).append((tuple(m % w for m, w in zip(moved, window, strict=True)), p, wrapped))
    out = np.zeros((len(qkv), *padded, channels))
    for n, members in itertools.product(range(len(qkv)), places.values()):
        members = sorted(members)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            query, key, value = (
                np.stack([tokens[(n, *p)][start:][part] for _, p, _ in members])
                for start in (0, channels, 2 * channels)
            )
            for i, (_, p, wrapped) in enumerate(members):
                extra = np.array([0.0 if other == wrapped else -100.0 for _, _, other in members])
                if bias is not None:
                    extra = extra + bias[head, i]
                out[(n, *p)][part] = attend(query[i] / math.sqrt(width), key, value, extra)
    return out[:, : size[0], : size[1], : size[2]]


def loop_deformable(query, key_value, offset, heads, kernel) -> np.ndarray:
    clips, frames, height, width, channels = query.shape
    groups, points = offset.shape[5:7]
    share = 2 * channels // groups
    out = np.zeros_like(query)
    for n, b, i, j in np.ndindex(clips, frames, height, width):
        samples = np.zeros((frames * points, 2 * channels))
        for f, group, k in np.ndindex(frames, groups, points):
            y = i + k // kernel[1] - kernel[0] // 2 + offset[n, b, i, j, f, group, k, 0]
            x = j + k % kernel[1] - kernel[1] // 2 + offset[n, b, i, j, f, group, k, 1]
            part = slice(group * share, (group + 1) * share)
            samples[f * points + k, part] = sample(key_value[n, (f + b) % frames][..., part], y, x)
        for head in np.split(np.arange(channels), heads):
            out[n, b, i, j, head] = attend(query[n, b, i, j, head], samples[:, head], samples[:, channels + head])
    return out


def loop_neighborhood(query, key_value, heads, kernel) -> np.ndarray:
    clips, frames, height, width, channels = query.shape
    out = np.zeros_like(query)
    for n, b, i, j in np.ndindex(clips, frames, height, width):
        samples = np.stack(
            [
                sample(key_value[n, f], i + y - kernel[0] // 2, j + x - kernel[1] // 2)
                for f, y, x in np.ndindex(frames, *kernel)
            ]
        )
        for head in np.split(np.arange(channels), heads):
            out[n, b, i, j, head] = attend(query[n, b, i, j, head], samples[:, head], samples[:, channels + head])
    return out


# --- sampling


@pytest.mark.parametrize("border", [False, True], ids=["zeros", "border"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 2), (1, 1, 6, 1)], ids=str)
def test_warp(shape: tuple, border: bool) -> None:
    (x,) = normal(1, shape)
    flow = displacements(2, (*shape[:3], 2), 3)
    flow.flat[:4] = 0, 2, -1e4, 3e5  # whole pixels, and far outside
    check(sampling.warp, loop_warp(x, flow, border), x, flow, border)


@pytest.mark.parametrize("border", [False, True], ids=["zeros", "border"])
@pytest.mark.parametrize("far", [1e9, -3e38, np.inf, -np.inf])
def test_warp_by_a_huge_flow(far: float, border: bool) -> None:
    """A wild flow from a network must neither crash nor spread: one pixel is lost, the others stay."""
    (x,) = normal(3, (1, 3, 4, 2))
    flow = np.zeros((1, 3, 4, 2))
    flow[0, 1, 2] = far
    expected = x.copy()
    expected[0, 1, 2] = (x[0, -1, -1] if far > 0 else x[0, 0, 0]) if border else 0
    ours = sampling.warp(ms.Tensor(x.astype(np.float32)), ms.Tensor(flow.astype(np.float32)), border).asnumpy()
    close(ours, expected, FLOAT32)


def test_float16_keeps_positions_in_wide_frames() -> None:
    """Positions are float32: float16 counts in halves from 512 px on, in wholes from 1024."""
    (x,) = normal(4, (1, 2, 1900, 1))
    x = x.astype(np.float16)
    flow = np.full((1, 2, 1900, 2), 0.25, np.float16)
    ours = sampling.warp(ms.Tensor(x), ms.Tensor(flow)).asnumpy()
    assert ours.dtype == np.float16
    close(ours.astype(float), loop_warp(x.astype(float), flow.astype(float), False), 2e-3)
    query, (key_value,) = x, normal(5, (1, 1, 1, 1500, 2))
    query, key_value = query[:, None, :1, :1500], key_value.astype(np.float16)
    offset = np.full((1, 1, 1, 1500, 1, 2, 9, 2), 0.25, np.float16)
    ours = attention.deformable_attention(
        ms.Tensor(query), ms.Tensor(key_value), ms.Tensor(offset), 1, (3, 3)
    ).asnumpy()
    expected = loop_deformable(*(a.astype(float) for a in (query, key_value, offset)), 1, (3, 3))
    close(ours.astype(float), expected, 5e-3)


# --- attention

WINDOWS = [  # size (T, H, W), window, whether the layer is shifted, heads, batch
    ((2, 8, 12), (2, 4, 4), False, 2, 1),
    ((2, 8, 12), (2, 4, 4), True, 2, 2),
    ((2, 7, 9), (2, 4, 4), True, 1, 1),  # padding
    ((1, 5, 6), (1, 4, 4), False, 3, 1),
    ((2, 3, 9), (2, 4, 4), True, 2, 1),  # one axis shorter than its window: whole, not shifted
    ((2, 3, 2), (2, 4, 4), True, 2, 1),  # all of them
    ((3, 4, 5), (2, 2, 3), True, 1, 1),  # shifted and padded in time too
]


@pytest.mark.parametrize("case", WINDOWS, ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "plain"])
def test_window_attention(case: tuple, biased: bool) -> None:
    size, window, shifted, heads, batch = case
    fitted, shift = attention.window_and_shift(size, window, shifted)
    assert fitted == tuple(min(pair) for pair in zip(size, window, strict=True))
    assert shift == tuple(w // 2 if shifted and n > w else 0 for n, w in zip(size, window, strict=True))
    channels, length = 4 * heads, math.prod(fitted)
    qkv, pad, bias = normal(4, (batch, *size, 3 * channels), (3 * channels,), (heads, length, length))
    arguments = qkv, pad, bias if biased else None, heads, fitted, shift
    check(attention.window_attention, loop_window(*arguments), *arguments)


DEFORMABLE = [  # N, T, H, W, C, heads, G, kernel
    (1, 2, 4, 5, 12, 6, 6, (3, 3)),  # as published: two heads to a group of keys
    (2, 2, 3, 3, 8, 2, 8, (3, 3)),  # two groups to a head
    (1, 1, 4, 3, 4, 2, 2, (3, 3)),  # a clip of one frame
    (1, 3, 2, 3, 6, 1, 2, (1, 3)),
    (1, 2, 1, 1, 4, 2, 4, (3, 3)),
]


@pytest.mark.parametrize("case", DEFORMABLE, ids=str)
def test_deformable_attention(case: tuple) -> None:
    n, t, h, w, c, heads, groups, kernel = case
    query, key_value = normal(5, (n, t, h, w, c), (n, t, h, w, 2 * c))
    offset = displacements(6, (n, t, h, w, t, groups, kernel[0] * kernel[1], 2))
    offset.flat[:3] = 0, -2e4, 1e5
    arguments = query, key_value, offset, heads, kernel
    check(attention.deformable_attention, loop_deformable(*arguments), *arguments)


def test_deformable_attention_without_offsets_is_neighborhood_attention() -> None:
    """Both take zero for a sample outside the frame, and its score 0 takes part in the softmax."""
    query, key_value = (ms.Tensor(x) for x in normal(7, (2, 2, 4, 5, 8), (2, 2, 4, 5, 16)))
    offset = ms.Tensor(np.zeros((2, 2, 4, 5, 2, 4, 9, 2)))
    ours = attention.deformable_attention(query, key_value, offset, 2, (3, 3)).asnumpy()
    close(ours, attention.neighborhood_attention(query, key_value, 2, (3, 3)).asnumpy(), FLOAT64)


@pytest.mark.parametrize(
    "case", [(1, 2, 4, 5, 8, 2, (3, 3)), (2, 1, 3, 4, 4, 1, (3, 5)), (1, 3, 1, 2, 6, 3, (1, 1))], ids=str
)
def test_neighborhood_attention(case: tuple) -> None:
    n, t, h, w, c, heads, kernel = case
    arguments = *normal(8, (n, t, h, w, c), (n, t, h, w, 2 * c)), heads, kernel
    check(attention.neighborhood_attention, loop_neighborhood(*arguments), *arguments)


# --- layers


@pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (1, 1), (5, 3)], ids=str)
@pytest.mark.parametrize("rank", [4, 5])
def test_conv2d(kernel: tuple[int, int], rank: int) -> None:
    x, weight, bias, residual = normal(9, (2, 5, 4, 3), (4, 3, *kernel), (4,), (2, 5, 4, 4))
    expected = np.zeros_like(residual) + bias
    for b, i, j, o in np.ndindex(*expected.shape):
        for u, v in np.ndindex(*kernel):
            row, column = i + u - kernel[0] // 2, j + v - kernel[1] // 2
            if 0 <= row < 5 and 0 <= column < 4:
                expected[b, i, j, o] += x[b, row, column] @ weight[o, :, u, v]
    weight = weight if rank == 4 else weight[:, :, None]
    x, weight, bias, added = tensors([x, weight, bias, residual], np.float32)
    close(layers.conv2d(x, weight, bias).asnumpy(), expected, FLOAT32)
    activated = np.maximum(expected, 0.1 * expected) + residual
    close(layers.conv2d(x, weight, bias, "leaky_relu", added).asnumpy(), activated, FLOAT32, "activation, residual")


def loop_norm(x, gamma, beta) -> np.ndarray:
    rows = [
        (row - row.mean()) / math.sqrt(np.mean((row - row.mean()) ** 2) + 1e-5) for row in x.reshape(-1, len(gamma))
    ]
    return np.stack(rows).reshape(x.shape) * gamma + beta


def loop_gelu(x) -> np.ndarray:
    return np.vectorize(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))))(x)


def test_activations() -> None:
    x = np.linspace(-6, 6, 241)
    expected = {
        "gelu": loop_gelu(x),
        "relu": np.where(x > 0, x, 0),
        "leaky_relu": np.where(x > 0, x, 0.1 * x),
        "none": x,
    }
    for name, y in expected.items():
        close(layers.activate(ms.Tensor(x), name).asnumpy(), y, FLOAT64, name)
        close(layers.activate(ms.Tensor(x.astype(np.float32)), name).asnumpy(), y, 1e-6, name)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (5, 33), (1, 1)], ids=str)
def test_layer_norm(shape: tuple) -> None:
    x, gamma, beta = normal(10, shape, shape[-1:], shape[-1:])
    x = 0.3 * x + 5  # far from zero: the variance must not come from a difference of squares
    x = x.astype(np.float32).astype(float)
    check(layers.layer_norm, loop_norm(x, gamma, beta), x, gamma, beta)


def test_layer_norm_of_equal_float16_values_has_a_gradient() -> None:
    x = ms.Tensor(np.full((2, 8), 3, np.float16))
    ones, steps = ms.Tensor(np.ones(8, np.float16)), ms.Tensor(np.linspace(-1, 1, 8).astype(np.float16))
    gradient = ms.grad(lambda x: (layers.layer_norm(x, ones, ones) * steps).sum())(x).asnumpy()
    expected = np.broadcast_to(steps.asnumpy() / np.sqrt(1e-5), (2, 8))
    close(gradient.astype(float), expected.astype(float), 2e-3)


def test_dense_layers() -> None:
    x, gamma, beta, w1, b1, w2, b2 = normal(11, (2, 3, 5), (5,), (5,), (7, 5), (7,), (5, 7), (5,))
    y = np.einsum("...i,oi->...o", x, w1) + b1
    check(layers.linear, y, x, w1, b1)
    check(layers.linear, loop_gelu(y), x, w1, b1, "gelu")
    check(layers.linear, np.maximum(y, 0) + 2 * y, x, w1, b1, "relu", 2 * y)
    normed = np.einsum("...i,oi->...o", loop_norm(x, gamma, beta), w1) + b1
    check(layers.norm_linear, normed, x, gamma, beta, w1, b1)
    fed = x + np.einsum("...i,oi->...o", loop_gelu(normed), w2) + b2
    check(layers.mlp, fed, x, gamma, beta, w1, b1, w2, b2)
    plain = x + np.einsum("...i,oi->...o", loop_gelu(y), w2) + b2
    check(layers.mlp, plain, x, None, None, w1, b1, w2, b2)


def test_reverse_time() -> None:
    (x,) = normal(13, (2, 3, 4, 5))
    check(layers.reverse_time, x[:, ::-1], x)


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle(factor: int) -> None:
    (x,) = normal(12, (2, 3, 4, 2 * factor**2))
    expected = np.zeros((2, 3 * factor, 4 * factor, 2))
    for b, i, j, c in np.ndindex(*expected.shape):
        channel = c * factor**2 + i % factor * factor + j % factor
        expected[b, i, j, c] = x[b, i // factor, j // factor, channel]
    check(layers.pixel_shuffle, expected, x, factor)


def loop_resize(x, height, width, align_corners=False) -> np.ndarray:
    def place(index: int, small: int, large: int) -> float:
        if align_corners:
            return index * (small - 1) / max(large - 1, 1)
        return min(max((index + 0.5) * small / large - 0.5, 0), small - 1)

    out = np.zeros((len(x), height, width, x.shape[3]))
    for b, i, j in np.ndindex(*out.shape[:3]):
        out[b, i, j] = sample(x[b], place(i, x.shape[1], height), place(j, x.shape[2], width))
    return out


@pytest.mark.parametrize("align_corners", [False, True], ids=["half_pixel", "corners"])
@pytest.mark.parametrize(
    "sizes", [((3, 5), (12, 20)), ((9, 13), (32, 32)), ((32, 32), (9, 13)), ((1, 1), (2, 2))], ids=str
)
def test_resize_bilinear(sizes: tuple, align_corners: bool) -> None:
    (x,) = normal(13, (2, *sizes[0], 3))
    resized = layers.resize_bilinear(ms.Tensor(x.astype(np.float32)), *sizes[1], align_corners)
    close(resized.asnumpy(), loop_resize(x, *sizes[1], align_corners), FLOAT32)


def test_bilinear_upsampling_and_its_gradient() -> None:
    small, x = normal(14, (2, 3, 4, 2), (2, 12, 16, 2))
    small32, x32 = (ms.Tensor(a.astype(np.float32)) for a in (small, x))
    close(layers.add_upsampled(x32, small32).asnumpy(), x + loop_resize(small, 12, 16), FLOAT32)
    # the operation E is linear in `small`, so its gradient E' satisfies <E s, x> = <s, E' x> for every s: unit vectors
    expected = np.zeros_like(small)
    for place in np.ndindex(*small.shape):
        unit = np.zeros_like(small)
        unit[place] = 1
        expected[place] = np.sum(loop_resize(unit, 12, 16) * x)
    close(layers.upsampling_gradient(x32, 3, 4).asnumpy(), expected, FLOAT32, "gradient")


def test_charbonnier() -> None:
    x, y = normal(15, (2, 3, 4), (2, 3, 4))
    y[0] = x[0]  # the loss's floor, ε
    expected = np.mean(np.sqrt((x - y) ** 2 + 1e-9))
    check(layers.charbonnier, expected, x, y)


# --- gradients

DIFFERENTIABLE = {  # module, function, inputs (batch 1, where they have a batch), attributes
    "warp": (sampling, "warp", [*normal(20, (1, 4, 5, 2)), displacements(21, (1, 4, 5, 2), 2)], [False]),
    "warp_border": (sampling, "warp", [*normal(20, (1, 4, 5, 2)), displacements(21, (1, 4, 5, 2), 2)], [True]),
    "warp_clip": (
        sampling,
        "warp_clip",
        [*normal(27, (1, 2, 3, 4, 2)), displacements(28, (1, 2, 2, 3, 4, 2), 2)],
        [],
    ),
    "window": (
        attention,
        "window_attention",
        normal(22, (1, 2, 3, 4, 12), (12,), (2, 4, 4)),
        [2, (2, 2, 1), (0, 1, 0)],
    ),
    "deformable": (
        attention,
        "deformable_attention",
        [*normal(23, (1, 2, 2, 3, 4), (1, 2, 2, 3, 8)), displacements(24, (1, 2, 2, 3, 2, 2, 3, 2), 2)],
        [2, (1, 3)],
    ),
    "neighborhood": (
        attention,
        "neighborhood_attention",
        normal(25, (1, 2, 3, 3, 4), (1, 2, 3, 3, 8)),
        [2, (3, 3)],
    ),
}


def output_and_gradients(function: Callable, arguments: list, dtype: type, compiled: bool = False) -> list[np.ndarray]:
    """The output, and the gradient towards every array of a weighted sum of it."""
    inputs = tensors(arguments, dtype)
    (weight,) = normal(26, function(*inputs).shape)
    factor = ms.Tensor(weight.astype(dtype))

    def loss(*inputs: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        output = function(*inputs)
        return (output * factor).sum(), output

    places = tuple(i for i, argument in enumerate(arguments) if isinstance(argument, np.ndarray))
    both = ms.value_and_grad(loss, places, has_aux=True)
    (_, output), gradients = (ms.jit(both) if compiled else both)(*inputs)
    return [output.asnumpy(), *(gradient.asnumpy() for gradient in gradients)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_central_differences(name: str) -> None:
    """In float64, for every single element of every input; many inputs at a time, one to a batch item."""
    module, function, arrays, attributes = DIFFERENTIABLE[name]
    function = getattr(module, function)
    output, *gradients = output_and_gradients(function, [*arrays, *attributes], np.float64)
    (weight,) = normal(26, output.shape)
    step = 1e-6
    for index, ours in enumerate(gradients):
        array = arrays[index]
        moves = step * np.eye(array.size).reshape(array.size, *array.shape)
        moved = np.concatenate([array + moves, array - moves])
        if array.shape[0] == 1:
            inputs = [np.repeat(a, len(moved), 0) if a.shape[0] == 1 else a for a in arrays]
            inputs[index] = moved.reshape(-1, *array.shape[1:])
            values = function(*tensors(inputs, np.float64), *attributes).asnumpy()
        else:  # no batch axis
            varied = [[*arrays[:index], m, *arrays[index + 1 :]] for m in moved]
            values = [function(*tensors(inputs, np.float64), *attributes).asnumpy() for inputs in varied]
        losses = (np.reshape(values, (len(moved), -1)) * weight.ravel()).sum(1)
        expected = (losses[: array.size] - losses[array.size :]) / (2 * step)
        close(ours, expected.reshape(array.shape), 1e-7, f"input {index}")


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jit_gives_the_same_as_pynative(name: str) -> None:
    module, function, arrays, attributes = DIFFERENTIABLE[name]
    arguments = [*arrays, *attributes]
    plain = output_and_gradients(getattr(module, function), arguments, np.float32)
    compiled = output_and_gradients(getattr(module, function), arguments, np.float32, compiled=True)
    for index, (ours, expected) in enumerate(zip(compiled, plain, strict=True)):
        close(ours, expected, 2e-6, f"gradient of input {index - 1}" if index else "output")


# --- fusion


def regression(frame: np.ndarray, neighbors: np.ndarray, flows: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """`frame_fusion.fuse_frames` a place and a sample at a time: (B, H, W, 64)."""
    batch, height, width, _ = frame.shape
    out = np.zeros((batch, height, width, 64))
    for b, row, column, i, j in itertools.product(range(batch), range(height), range(width), range(4), range(4)):
        place = np.array([(i + 0.5) / 4 - 0.5, (j + 0.5) / 4 - 0.5])  # (y, x) px from the pixel's center
        frame_at = functools.partial(cubic_sample, frame[b], row, column)
        values, weights = [], []

        def add(value: np.ndarray, at: np.ndarray, trust: float) -> None:
            weights.append(trust * math.exp(-((at - place) ** 2).sum() / (2 * 0.25**2)))  # noqa: B023
            values.append(value)  # noqa: B023

        for y, x in itertools.product((-1, 0, 1), repeat=2):
            add(
                frame_at(y, x) - frame[b, np.clip(row + y, 0, height - 1), np.clip(column + x, 0, width - 1)], [y, x], 1
            )
        own = sum(weights)
        for neighbor, flow, match in zip(neighbors[b], flows[b], matches[b], strict=True):
            to_x, to_y = flow[row, column]
            for y, x in itertools.product(
                (math.floor(to_y), math.floor(to_y) + 1), (math.floor(to_x), math.floor(to_x) + 1)
            ):
                if not (0 <= row + y < height and 0 <= column + x < width):
                    continue
                at = np.array([y - to_y, x - to_x])
                difference = neighbor[row + y, column + x] - frame_at(*at)
                fading = np.prod(np.interp(np.abs(at), [15 / 16, 1], [1, 0]))
                add(difference, at, match[row, column] * fading * math.exp(-(difference**2).mean() / (2 * 0.1**2)))
        estimate = frame_at(*place) + np.average(values, axis=0, weights=weights) - frame[b, row, column]
        out[b, row, column, [4 * i + j, 16 + 4 * i + j, 32 + 4 * i + j]] = estimate
        out[b, row, column, 48 + 4 * i + j] = 1 - own / sum(weights)
    return out


def cubic_sample(frame: np.ndarray, row: int, column: int, down: float, right: float) -> np.ndarray:
    """Keys' interpolation of (H, W, 3) with a slope of -0.75, the edge repeated, in its form with matrices: (3,)."""
    padded = np.pad(frame, ((2, 2), (2, 2), (0, 0)), "edge")

    def weights(at: float) -> tuple[int, np.ndarray]:
        whole = math.floor(at)
        powers = (at - whole) ** np.arange(4)
        matrix = np.array([[0, 1, 0, 0], [-0.75, 0, 0.75, 0], [1.5, -2.25, 1.5, -0.75], [-0.75, 1.25, -1.25, 0.75]])
        return whole + 1, powers @ matrix

    (top, along), (left, across) = weights(down), weights(right)
    corner = padded[row + top : row + top + 4, column + left : column + left + 4]
    return np.einsum("i,j,ijc->c", along[: len(corner)], across[: corner.shape[1]], corner)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "neighbors", "height", "width"), [(2, 3, 5, 4), (1, 1, 1, 6), (1, 4, 3, 1)])
def test_fusion_is_a_regression_over_all_samples(batch: int, neighbors: int, height: int, width: int) -> None:
    rng = np.random.default_rng(7)
    frame = rng.uniform(0.4, 0.7, (batch, height, width, 3))
    around = rng.uniform(0.4, 0.7, (batch, neighbors, height, width, 3))
    flows = displacements(8, (batch, neighbors, height, width, 2), reach=2)
    matches = rng.uniform(0, 1, (batch, neighbors, height, width))
    expected = regression(frame, around, flows, matches)
    close(frame_fusion.fuse_frames(*tensors((frame, around, flows, matches), np.float32)).asnumpy(), expected, 2e-5)


@pytest.mark.slow
def test_the_definition_of_fusion_compiles() -> None:
    """As it does on an NPU, where there is no kernel."""
    rng = np.random.default_rng(9)
    shapes = (1, 7, 6, 3), (1, 2, 7, 6, 3), (1, 2, 7, 6, 2), (1, 2, 7, 6)
    values = tensors([rng.uniform(0.4, 0.7, shape) for shape in shapes], np.float32)
    plain = frame_fusion.fuse_frames(*values).asnumpy()
    close(ms.jit(frame_fusion.fuse_frames)(*values).asnumpy(), plain.astype(np.float64), 2e-6)


@pytest.mark.slow
def test_fusion_recovers_values_between_pixels() -> None:
    """What a neighbor sees 0.375 px to the left of each pixel is the leftmost of its four places."""
    at = np.arange(12)

    def wave(x: np.ndarray) -> np.ndarray:
        return 0.5 + 0.04 * np.sin(2.6 * x)  # turns within less than two and a half pixels

    frame = np.tile(wave(at)[None, None, :, None], (1, 1, 1, 3))
    aside = np.tile(wave(at - 0.375)[None, None, None, :, None], (1, 1, 1, 1, 3))
    flows = np.zeros((1, 1, 1, 12, 2))
    flows[..., 0] = 0.375
    values = tensors((frame, aside, flows, np.ones((1, 1, 1, 12))), np.float32)
    fused = frame_fusion.fuse_frames(*values).asnumpy()[0, 0, 2:-2, 4]  # row 1, column 0
    truth = (wave(at - 0.375) - wave(at))[2:-2]
    assert np.abs(fused - truth).mean() < 0.25 * np.abs(truth).mean()


@pytest.mark.slow
def test_fusion_ignores_a_neighbor_that_shows_something_else() -> None:
    frame = np.full((1, 4, 4, 3), 0.1)
    around, flows = np.full((1, 2, 4, 4, 3), 0.9), np.zeros((1, 2, 4, 4, 2))
    values = tensors((frame, around, flows, np.ones((1, 2, 4, 4))), np.float32)
    assert np.abs(frame_fusion.fuse_frames(*values).asnumpy()).max() < 1e-5


def test_definitions_hold_nothing_that_ascend_refuses() -> None:
    """Graph mode with static shapes on Ascend: no `arange` of MindSpore's, nothing that reads a tensor's values."""
    package = Path(ops.__file__).parents[1]
    traced = [*package.glob("ops/*.py"), *(package / "model" / f"{name}.py" for name in _TRACED_PARTS)]
    for path in traced:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                assert (owner, node.func.attr) not in {("ops", "arange"), ("msops", "arange")}, path.name
                assert node.func.attr not in ("asnumpy", "item", "nonzero", "unique"), f"{path.name}:{node.lineno}"
