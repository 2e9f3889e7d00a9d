# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels at random shapes: the checks of test_kernels_attention.py and test_kernels_layers.py.

A failure is reduced by hypothesis to the smallest shape that fails; `RVRT_FUZZ=400 pytest -k any_shape` searches on.
"""

from __future__ import annotations

import pytest
from helpers.fuzzing import searching
from helpers.kernel_calls import Kernels
from helpers.kernel_checks import (
    check_add_upsampled,
    check_convolution,
    check_deformable_attention,
    check_guided_offsets,
    check_layer_norm,
    check_linear,
    check_mlp,
    check_neighborhood_attention,
    check_norm_linear,
    check_pixel_shuffle,
    check_swin_layer,
    check_warp,
    check_warp_clip,
    check_window_attention,
)
from helpers.layer_reference import GELU
from hypothesis import given, strategies as st

EDGE = st.integers(1, 20)
FEW = st.integers(1, 3)
CHANNELS = st.integers(1, 40)
# Errors are measured against the largest value: of few values, all may be sums that nearly cancel, or GELU's far tail, and
# of few channels some are nearly equal, which LayerNorm enlarges. Single values and channels have cases chosen by hand.
ROWS = st.integers(8, 300)
WIDTH = st.integers(8, 50)
NORMED = st.integers(8, 160)
# No kinks: within rounding of zero, float32 and float64 may differ in sign
SMOOTH = st.sampled_from([0, GELU])


@st.composite
def deformable(draw: st.DrawFn) -> tuple:
    """N, T, H, W, C, heads, G, kernel: channels that heads and groups divide."""
    heads, of_keys = draw(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (2, 2), (2, 4), (4, 2), (6, 3)]))
    channels = max(heads, of_keys) * draw(st.integers(1, 9))
    kernel = draw(st.sampled_from([(3, 3), (1, 1), (1, 3), (2, 2), (3, 5), (4, 1)]))
    return draw(FEW), draw(FEW), draw(st.integers(1, 9)), draw(EDGE), channels, heads, 2 * of_keys, kernel


@st.composite
def neighborhood(draw: st.DrawFn) -> tuple:
    """N, T, H, W, C, heads, kernel."""
    heads, size = draw(st.integers(1, 5)), draw(st.integers(1, 17))
    kernel = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return draw(st.integers(1, 2)), draw(FEW), draw(EDGE), draw(st.integers(1, 70)), heads * size, heads, kernel


@st.composite
def windows(draw: st.DrawFn) -> tuple:
    """N, D, H, W, C, heads, window, shift: any size against any window, shifted by less than it."""
    heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 26))
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
    shift = tuple(draw(st.integers(0, edge - 1)) for edge in window)
    return draw(st.integers(1, 2)), draw(FEW), draw(EDGE), draw(EDGE), heads * size, heads, window, shift


@st.composite
def convolutions(draw: st.DrawFn) -> tuple:
    """Batch, height, width, inputs, outputs, kernel height and width, activation."""
    image = draw(st.integers(1, 2)), draw(EDGE), draw(st.integers(1, 90))
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 5), (7, 7), (1, 5), (5, 3)]))
    return *image, draw(CHANNELS), draw(WIDTH), *kernel, draw(st.integers(0, 3))


@st.composite
def winograd_convolutions(draw: st.DrawFn) -> tuple:
    """The same, of shapes for which Winograd's algorithm is chosen: 16 channels and more; 16 tiles of 4x4 px, or 12x12 px."""
    channels = draw(st.integers(16, 50)), draw(st.integers(16, 50))
    if draw(st.booleans()):
        image = draw(st.integers(1, 2)), draw(st.integers(12, 30)), draw(st.integers(12, 80))
        return *image, *channels, 7, 7, draw(st.integers(0, 3))
    batch, down, across = draw(st.sampled_from([(1, 1, 16), (1, 3, 6), (2, 2, 4), (1, 5, 4), (4, 2, 2), (1, 17, 1)]))
    height, width = (4 * tiles - draw(st.integers(0, 3)) for tiles in (down, across))
    return batch, height, width, *channels, 3, 3, draw(st.integers(0, 3))


@searching(6)
@given(shape=st.tuples(FEW, EDGE, EDGE, CHANNELS), padding=st.integers(0, 1))
def test_warp_of_any_shape(kernels: Kernels, shape: tuple, padding: int) -> None:
    check_warp(kernels, shape, padding)


@searching(6)
@given(shape=st.tuples(st.integers(1, 2), FEW, EDGE, EDGE, CHANNELS))
def test_warp_clip_of_any_shape(cpu_kernels: Kernels, shape: tuple) -> None:
    check_warp_clip(cpu_kernels, shape)


@searching(6)
@given(case=st.tuples(st.integers(1, 2), FEW, EDGE, EDGE, CHANNELS, FEW, st.integers(1, 30).map(lambda n: 2 * n)))
def test_guided_offsets_of_any_shape(cpu_kernels: Kernels, case: tuple) -> None:
    check_guided_offsets(cpu_kernels, case)


@searching(6)
@given(case=deformable())
def test_deformable_attention_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_deformable_attention(kernels, case)


@pytest.mark.slow
@searching(6)
@given(case=neighborhood())
def test_neighborhood_attention_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_neighborhood_attention(kernels, case)


@searching(6)
@given(case=windows(), has_bias=st.booleans())
def test_window_attention_of_any_shape(kernels: Kernels, case: tuple, has_bias: bool) -> None:
    check_window_attention(kernels, case, has_bias)


@searching(6)
@given(case=windows(), size=st.integers(8, 26), hidden=WIDTH, has_table=st.booleans())
def test_swin_layer_of_any_shape(cpu_kernels: Kernels, case: tuple, size: int, hidden: int, has_table: bool) -> None:
    n, d, h, w, _, heads, window, shift = case
    check_swin_layer(cpu_kernels, (n, d, h, w, heads * size, hidden, heads, window, shift), has_table)


@pytest.mark.slow
@searching(6)
@given(case=convolutions())
def test_convolution_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_convolution(kernels, case)


@searching(6)
@given(case=winograd_convolutions())
def test_convolution_by_winograd_of_any_shape(cpu_kernels: Kernels, case: tuple) -> None:
    check_convolution(cpu_kernels, case)


@searching(6)
@given(case=st.tuples(ROWS, WIDTH, WIDTH, SMOOTH))
def test_linear_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_linear(kernels, case)


@searching(6)
@given(case=st.tuples(ROWS, NORMED, WIDTH, SMOOTH))
def test_norm_linear_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_norm_linear(kernels, case)


@searching(6)
@given(shape=st.tuples(ROWS, NORMED))
def test_layer_norm_of_any_shape(kernels: Kernels, shape: tuple) -> None:
    check_layer_norm(kernels, shape)


@searching(6)
@given(case=st.tuples(ROWS, NORMED, WIDTH))
def test_mlp_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_mlp(kernels, case)


@searching(6)
@given(case=st.tuples(FEW, EDGE, EDGE, st.integers(1, 20), st.integers(1, 4)))
def test_pixel_shuffle_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_pixel_shuffle(kernels, case)


@searching(6)
@given(case=st.tuples(FEW, EDGE, EDGE, st.integers(1, 9), st.integers(1, 4)))
def test_bilinear_upsampling_of_any_shape(kernels: Kernels, case: tuple) -> None:
    check_add_upsampled(kernels, case)
