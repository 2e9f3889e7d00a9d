# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels of attention and warping against float64 definitions, through their plain C entry points."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import attention_reference as reference
from helpers.comparison import assert_all_close
from helpers.kernel_calls import Kernels, attributes
from helpers.kernel_checks import (
    check_deformable_attention,
    check_guided_attention,
    check_guided_gradients,
    check_guided_offsets,
    check_neighborhood_attention,
    check_swin_layer,
    check_warp,
    check_warp_clip,
    check_window_attention,
    displacements,
    guided_inputs,
    guided_kept,
    normal,
    swin_inputs,
)
from helpers.layer_reference import GELU, activate


@pytest.mark.parametrize("padding", [0, 1], ids=["zeros", "border"])
@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 1, 1, 5), (3, 12, 5, 33), (1, 33, 17, 36)])
def test_warp(kernels: Kernels, shape: tuple, padding: int) -> None:
    check_warp(kernels, shape, padding)


@pytest.mark.parametrize("shape", [(1, 2, 7, 9, 16), (2, 3, 5, 4, 3), (1, 1, 6, 1, 33), (1, 2, 12, 17, 36)])
def test_warp_clip(cpu_kernels: Kernels, shape: tuple) -> None:
    check_warp_clip(cpu_kernels, shape)


OFFSETS = [  # N, T, H, W, inputs, fields, points of a field
    (1, 2, 6, 5, 64, 2, 108),  # as published: 12 groups of 3x3 points
    (2, 1, 5, 7, 16, 1, 72),  # one frame
    (1, 3, 4, 3, 7, 3, 2),  # fewer offsets than lanes
    (1, 2, 1, 1, 1, 2, 6),
    (1, 2, 11, 13, 24, 2, 14),  # offsets that no vector divides
]


@pytest.mark.parametrize("case", OFFSETS, ids=str)
def test_guided_offsets(cpu_kernels: Kernels, case: tuple) -> None:
    check_guided_offsets(cpu_kernels, case)


GUIDED = [  # N, T, H, W, channels, of query, key and value, of what the offsets are predicted from, heads, groups, kernel
    (1, 2, 9, 34, 16, 32, 16, 2, 4, (3, 3)),  # as in rvrt-tiny: a head for each group
    (1, 2, 5, 10, 36, 96, 8, 4, 4, (3, 3)),  # as published: two heads of 24 channels share a group
    (2, 1, 11, 3, 7, 18, 3, 3, 2, (1, 3)),  # three heads of a group, of a width that no vector divides
    (1, 3, 3, 40, 4, 4, 1, 4, 2, (1, 1)),  # heads of one channel
]


@pytest.mark.parametrize("case", GUIDED, ids=str)
def test_guided_attention(cpu_kernels: Kernels, case: tuple) -> None:
    check_guided_attention(cpu_kernels, case)


@pytest.mark.parametrize("case", [(1, 2, 4, 5, 8, 16, 4, 2, 4, (3, 3)), (2, 1, 3, 4, 6, 8, 3, 2, 8, (1, 3))], ids=str)
def test_gradients_of_guided_attention_agree_with_differences(cpu_kernels: Kernels, case: tuple) -> None:
    """The second case has two groups to a head."""
    check_guided_gradients(cpu_kernels, case)


def test_guided_attention_far_outside_the_frame_gives_what_the_biases_give(cpu_kernels: Kernels) -> None:
    """Keys and values are zero there, whatever the flow is, and no memory outside the clip is read."""
    case = (1, 2, 6, 33, 16, 32, 4, 2, 4, (3, 3))
    inputs = guided_inputs(np.random.default_rng(0), case)
    inputs[4][:] = np.where(inputs[4] > 0, np.float32(1e30), np.float32(-4e9))
    inputs[4][0, 0, :, 0, 0] = np.nan
    aligned, _ = cpu_kernels("guided_attention_forward", *inputs, attributes(2, 3, 3, 4), like=[inputs[0], inputs[4]])
    project_b, w1, b1, w2, b2 = inputs[15:20]
    hidden = activate(project_b.astype(np.float64) @ w1.T + b1, GELU)
    expected = np.broadcast_to(project_b + hidden @ w2.T + b2, aligned.shape)
    assert_all_close([aligned], [expected], "aligned")


def test_guided_offsets_are_bounded_and_exact_far_from_zero(cpu_kernels: Kernels) -> None:
    """tanh within 2e-7 everywhere: MindSpore's own, on a CPU, errs by up to 1e-4."""
    raw = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, 1e30, 0, 1e-30, -1e-7]]).astype(np.float32)
    raw = np.resize(raw, (1, 1, 1, len(raw), 1))
    one, flows = np.ones((4, 1), np.float32), np.zeros((1, 1, 1, 1, raw.size, 2), np.float32)
    shape = (1, 1, 1, raw.size, 1, 2, 2)
    offset, _ = cpu_kernels(
        "guided_offsets_forward", raw, one, one[:, 0] * 0, flows, one[:1, 0], attributes(2), like=[shape, flows]
    )
    expected = np.broadcast_to(np.tanh(raw.astype(np.float64))[..., None, None], shape)
    np.testing.assert_allclose(offset, expected, rtol=0, atol=2e-7)


DEFORMABLE = [  # N, T, H, W, C, heads, G, kernel
    (1, 2, 6, 5, 72, 12, 12, (3, 3)),  # the published proportions: two heads to a group
    (2, 1, 5, 7, 24, 2, 4, (3, 3)),  # one frame
    (1, 3, 6, 3, 20, 2, 4, (3, 5)),
    (1, 2, 1, 1, 12, 3, 6, (3, 3)),
    (1, 2, 9, 9, 16, 1, 4, (2, 2)),  # one head over two groups
    (1, 2, 11, 35, 32, 2, 8, (3, 3)),
    (1, 1, 4, 4, 14, 1, 2, (1, 1)),
    (1, 2, 8, 8, 48, 2, 2, (3, 3)),
    (1, 2, 4, 5, 24, 1, 2, (3, 3)),
]


@pytest.mark.parametrize("case", DEFORMABLE, ids=str)
def test_deformable_attention(kernels: Kernels, case: tuple) -> None:
    check_deformable_attention(kernels, case)


NEIGHBORHOOD = [  # N, T, H, W, C, heads, kernel
    (1, 2, 8, 8, 32, 4, (3, 3)),  # the heads of rvrt-tiny
    (2, 1, 5, 7, 24, 1, (3, 3)),
    (1, 3, 6, 33, 10, 2, (3, 5)),
    (1, 2, 1, 1, 12, 3, (3, 3)),
    pytest.param((1, 2, 20, 300, 8, 1, (3, 3)), marks=pytest.mark.slow),  # several tiles
    (1, 5, 9, 17, 9, 3, (1, 1)),
    pytest.param((1, 2, 7, 130, 5, 5, (2, 4)), marks=pytest.mark.slow),  # an even kernel
    (1, 4, 5, 9, 192, 2, (5, 3)),  # several groups of heads
    (1, 2, 3, 3, 8, 1, (7, 9)),  # a kernel larger than the frame
]


@pytest.mark.parametrize("case", NEIGHBORHOOD, ids=str)
def test_neighborhood_attention(kernels: Kernels, case: tuple) -> None:
    check_neighborhood_attention(kernels, case)


WINDOW = [  # N, D, H, W, C, heads, window, shift
    (1, 2, 10, 16, 144, 6, (2, 8, 8), (1, 4, 4)),  # the published widths
    (1, 2, 16, 16, 16, 2, (2, 8, 8), (0, 4, 4)),
    (2, 1, 9, 7, 24, 1, (1, 4, 4), (0, 2, 1)),
    (1, 3, 5, 6, 10, 2, (2, 3, 3), (1, 1, 1)),
    (1, 2, 3, 4, 48, 2, (2, 8, 8), (1, 4, 4)),  # a window larger than the frame
    (1, 2, 8, 8, 26, 2, (1, 2, 1), (0, 0, 0)),
    (2, 2, 4, 4, 96, 2, (2, 4, 4), (0, 0, 0)),
    (1, 1, 3, 3, 5, 5, (1, 3, 3), (0, 1, 0)),
    (1, 1, 3, 3, 64, 2, (1, 1, 1), (0, 0, 0)),
    (1, 1, 6, 6, 48, 3, (1, 5, 5), (0, 2, 3)),
    (1, 1, 6, 6, 12, 1, (1, 6, 6), (0, 0, 0)),
]


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", WINDOW, ids=str)
def test_window_attention(kernels: Kernels, case: tuple, has_bias: bool) -> None:
    check_window_attention(kernels, case, has_bias)


SWIN = [  # N, D, H, W, C, hidden, heads, window, shift
    (1, 2, 10, 16, 144, 288, 6, (2, 8, 8), (1, 4, 4)),  # the published widths, and a frame that needs padding
    (1, 1, 17, 9, 144, 288, 6, (1, 8, 8), (0, 4, 4)),
    (2, 2, 8, 8, 48, 96, 4, (2, 8, 8), (0, 0, 0)),
    (2, 1, 9, 7, 24, 10, 1, (1, 4, 4), (0, 2, 1)),
    (1, 3, 5, 6, 10, 33, 2, (2, 3, 3), (1, 1, 1)),
    (1, 2, 3, 4, 48, 20, 2, (2, 8, 8), (1, 4, 4)),  # a window larger than the frame
    (1, 1, 3, 3, 8, 9, 2, (1, 1, 1), (0, 0, 0)),
    (1, 2, 6, 6, 130, 65, 5, (2, 6, 6), (0, 3, 3)),  # heads of 26 channels
    (1, 1, 12, 12, 192, 30, 4, (1, 12, 12), (0, 0, 0)),
]


@pytest.mark.parametrize("has_table", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize("case", SWIN, ids=str)
def test_swin_layer(cpu_kernels: Kernels, case: tuple, has_table: bool) -> None:
    check_swin_layer(cpu_kernels, case, has_table)


def test_window_attention_survives_large_scores(kernels: Kernels) -> None:
    """Scores in the thousands do not overflow, and the key with the largest score takes all the weight."""
    generator = np.random.default_rng(0)
    qkv = 40 * normal(generator, 1, 1, 8, 8, 24)
    pad, bias = np.zeros(24, np.float32), np.zeros(1, np.float32)
    (out,) = kernels(
        "window_attention_forward", qkv, pad, bias, attributes(1, 1, 8, 8, 0, 0, 0, 0), like=[(1, 1, 8, 8, 8)]
    )
    tokens = qkv.astype(np.float64).reshape(64, 3, 8)
    best = np.argmax(tokens[:, 0] @ tokens[:, 1].T, 1)
    clear = np.sort(tokens[:, 0] @ tokens[:, 1].T, 1)[:, -2:] @ [-1, 1] > 100
    assert np.isfinite(out).all()
    assert clear.sum() > 40
    np.testing.assert_allclose(out.reshape(64, 8)[clear], tokens[best, 2][clear], rtol=1e-6)


def calls(generator: np.random.Generator) -> list[tuple[str, list[np.ndarray], list[int], list[tuple[int, ...]]]]:
    """Every kernel once, on tensors large enough for several threads: name, inputs, attributes, output shapes."""
    n, t, h, w, c = 1, 2, 24, 40, 24
    q, kv, g = normal(generator, n, t, h, w, c), normal(generator, n, t, h, w, 2 * c), normal(generator, n, t, h, w, c)
    offset, flow = displacements(generator, n, t, h, w, t, 4, 9, 2), displacements(generator, t, h, w, 2)
    x, gx, qkv = normal(generator, t, h, w, c), normal(generator, t, h, w, c), normal(generator, n, t, h, w, 3 * c)
    pad, bias, window = normal(generator, 3 * c), normal(generator, 3, 128, 128), [3, 2, 8, 8, 0, 4, 4, 1]
    swin = swin_inputs(generator, (n, t, h, w, c, 30, 3, (2, 8, 8), (0, 4, 4)), rows=50)
    raw, flows, bound = normal(generator, n, t, h, w, t, 18, 2), normal(generator, n, t, t, h, w, 2), pad[:1]
    offset_w, offset_b = normal(generator, 72, c), normal(generator, 72)
    case = n, t, h, w, c, 32, 16, 2, 4, (3, 3)
    guided, kept = guided_inputs(generator, case), normal(generator, *guided_kept(case))
    of_guided = [part.shape for i, part in enumerate(guided) if i != 5]
    return [
        ("warp_forward", [x, flow], [0], [x.shape]),
        ("warp_backward", [x, flow, gx], [0], [x.shape, flow.shape]),
        ("deformable_attention_forward", [q, kv, offset], [2, 3, 3], [q.shape]),
        ("deformable_attention_backward", [q, kv, offset, g], [2, 3, 3], [q.shape, kv.shape, offset.shape]),
        ("neighborhood_attention_forward", [q, kv], [3, 3, 3], [q.shape]),
        ("neighborhood_attention_backward", [q, kv, g], [3, 3, 3], [q.shape, kv.shape]),
        ("window_attention_forward", [qkv, pad, bias], window, [q.shape]),
        ("window_attention_backward", [qkv, pad, bias, g], window, [qkv.shape, pad.shape, bias.shape]),
        ("swin_layer_forward", swin, window, [q.shape]),
        ("guided_offsets_forward", [q, offset_w, offset_b, flows, bound], [18], [raw.shape, flows.shape]),
        ("guided_offsets_backward", [raw, flows, bound, raw, flows], [18], [raw.shape, flows.shape]),
        ("guided_attention_forward", guided, [2, 3, 3, 4], [q.shape, flows.shape]),
        ("guided_training_forward", guided, [2, 3, 3, 4], [q.shape, flows.shape, kept.shape]),
        ("guided_training_backward", [*guided, kept, q, flows], [2, 3, 3, 4], of_guided),
    ]


def test_threads_agree_and_results_repeat_exactly(library: Kernels) -> None:
    for name, inputs, numbers, shapes in calls(np.random.default_rng(3)):
        results = []
        for threads in (1, 2, 2, 5):
            library.limit(threads=threads)
            results.append(library(name, *inputs, attributes(*numbers), like=shapes))
        library.limit()
        for one, two, again, five in zip(*results, strict=True):
            assert np.array_equal(two, again), f"{name} differs between two runs on two threads"
            names = f"{name}-on-2-threads {name}-on-5-threads"
            assert_all_close([two, five], [one, one], names, floor=1e-3)


def test_wrong_arguments_are_refused(library: Kernels) -> None:
    for name, inputs, numbers, shapes in calls(np.random.default_rng(4)):
        outputs = [np.zeros(s, np.float32) for s in shapes]
        attribute = attributes(*numbers)
        good = [*inputs, attribute, *outputs]
        bad = {
            "a missing output": good[:-1],
            "float64": [good[0].astype(np.float64), *good[1:]],
            "float attributes": [*inputs, attribute.astype(np.float32), *outputs],
            "attributes missing": [*inputs, attribute[:0], *outputs],
            "negative attributes": [*inputs, -np.abs(attribute) - 1, *outputs],
            "another shape": [good[0][..., :-1].copy(), *good[1:]],
            "another output": [*good[:-1], np.zeros((2, 2), np.float32)],
        }
        for what, tensors in bad.items():
            assert library.status(name, tensors, []) != 0, f"{name} accepts {what}"


def test_warping_of_a_clip_is_the_same_on_any_number_of_threads_and_refuses_what_does_not_fit(library: Kernels) -> None:
    generator = np.random.default_rng(8)
    x, flows = normal(generator, 1, 2, 24, 40, 24), displacements(generator, 1, 2, 2, 24, 40, 2)
    results = []
    for threads in (1, 2, 5):
        library.limit(threads=threads)
        out = library("warp_clip_forward", x, flows, like=[(1, 2, 24, 40, 52)])
        results.append(out + library("warp_clip_backward", x, flows, out[0], like=[x, flows]))
    library.limit()
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    out = np.zeros((1, 2, 24, 40, 52), np.float32)
    wrong = [
        ([x, flows], []),
        ([x.astype(np.float64), flows], [out]),
        ([x[0], flows], [out]),
        ([x, flows[:, :, :1].copy()], [out]),
        ([x, flows[..., :1].copy()], [out]),
        ([x[..., :-1].copy(), flows], [out]),
        ([x, flows, attributes(0)], [out]),
        ([x, flows], [out[:, :1].copy()]),
    ]
    for inputs, outputs in wrong:
        assert library.status("warp_clip_forward", inputs, outputs) != 0, [a.shape for a in inputs]
    gradients = [np.zeros_like(x), np.zeros_like(flows)]
    wrong = [([x, flows], gradients), ([x, flows, x], gradients), ([x, flows, out], gradients[::-1])]
    for inputs, outputs in wrong:
        assert library.status("warp_clip_backward", inputs, outputs) != 0, [a.shape for a in inputs]


def test_an_odd_number_of_points_is_refused(library: Kernels) -> None:
    x, weight, flows = np.zeros((1, 1, 2, 2, 4)), np.zeros((6, 4)), np.zeros((1, 1, 1, 2, 2, 2))
    inputs = [a.astype(np.float32) for a in (x, weight, weight[:, 0], flows, np.ones(1))]
    outputs = [np.zeros((1, 1, 2, 2, 1, 3, 2), np.float32), np.zeros_like(inputs[3])]
    assert library.status("guided_offsets_forward", [*inputs, attributes(3)], outputs) != 0


def test_swin_layer_refuses_weights_and_indices_that_do_not_fit(library: Kernels) -> None:
    case = (1, 1, 8, 8, 24, 30, 3, (1, 4, 4), (0, 2, 2))
    inputs, y = swin_inputs(np.random.default_rng(6), case, rows=49), np.zeros((1, 1, 8, 8, 24), np.float32)
    numbers = attributes(3, 1, 4, 4, 0, 2, 2, 1)
    assert library.status("swin_layer_forward", [*inputs, numbers], [y]) == 0
    before = y.copy()
    for place, value in enumerate(inputs):
        shorter = [*inputs[:place], value[..., :-1].copy(), *inputs[place + 1 :]]
        assert library.status("swin_layer_forward", [*shorter, numbers], [y]) != 0, f"input {place} is too short"
    for wrong in (-1, 49):
        inputs[-1][3, 5] = wrong
        assert library.status("swin_layer_forward", [*inputs, numbers], [y]) != 0, f"row {wrong} of the table"
    np.testing.assert_array_equal(y, before)


def flat_guided_offsets(raw: np.ndarray, flows: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, ...]:
    """The reference with its two outputs, and their gradients, in one vector."""
    parts = g[: raw.size].reshape(raw.shape), g[raw.size :].reshape(flows.shape)
    offset, corrected, *gradients = reference.guided_offsets(raw, flows, 7.0, parts)
    return np.concatenate([offset.ravel(), corrected.ravel()]), *gradients


@pytest.mark.parametrize("name", ["warp", "deformable", "neighborhood", "window", "guided offsets"])
def test_gradients_of_the_reference_agree_with_differences(name: str) -> None:
    """Central differences along random directions check the gradients that the kernels are compared with."""
    generator = np.random.default_rng(5)
    q, kv, g = (generator.standard_normal((1, 2, 4, 5, c)) for c in (8, 16, 8))
    offset = displacements(generator, 1, 2, 4, 5, 2, 4, 9, 2).clip(-50, 50).astype(np.float64)
    qkv, pad, bias = (
        generator.standard_normal((1, 2, 4, 5, 24)),
        *(generator.standard_normal(s) for s in (24, (2, 18, 18))),
    )
    raw, flows = generator.standard_normal((1, 2, 4, 5, 2, 6, 2)), generator.standard_normal((1, 2, 2, 4, 5, 2))
    both = generator.standard_normal(raw.size + flows.size)
    inputs, gradient, function = {
        "warp": ([q[0], offset[0, :, :, :, 0, 0, 0]], g[0], lambda *a: reference.warp(*a, border=True)),
        "deformable": ([q, kv, offset], g, lambda *a: reference.deformable_attention(*a, 2, (3, 3))),
        "neighborhood": ([q, kv], g, lambda *a: reference.neighborhood_attention(*a, 2, (3, 3))),
        "window": ([qkv, pad, bias], g, lambda *a: reference.window_attention(*a, 2, (2, 3, 3), (0, 1, 1))),
        "guided offsets": ([raw, flows], both, flat_guided_offsets),
    }[name]
    gradients = function(*inputs, gradient)[1:]
    for i, value in enumerate(inputs):
        direction = 1e-5 * generator.standard_normal(value.shape)
        ends = []
        for sign in (1, -1):
            moved = [*inputs[:i], value + sign * direction, *inputs[i + 1 :]]
            ends.append((function(*moved, gradient)[0] * gradient).sum())
        assert (ends[0] - ends[1]) / 2 == pytest.approx((gradients[i] * direction).sum(), rel=1e-6, abs=1e-12)
