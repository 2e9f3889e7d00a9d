# SPDX-License-Identifier: Apache-2.0
"""Pixels as integers and as floats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rvrt_cli.frame import round_levels, to_float, to_pixels

DEPTHS = [np.uint8, np.uint16]


@pytest.mark.parametrize("dtype", DEPTHS)
def test_every_level_survives_the_way_to_floats_and_back(dtype: type) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16)
    values = to_float(levels)
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == (0, 1)
    assert np.array_equal(to_pixels(values, np.empty_like(levels)), levels)


def test_floats_go_into_the_array_given() -> None:
    out = np.empty((4, 4), np.float32)
    assert to_float(np.full((4, 4), 51, np.uint8), out) is out
    assert np.all(out == np.float32(0.2))


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_pixels_are_rounded_to_the_nearest_level_and_clipped(dtype: type, rows: int) -> None:
    top = np.iinfo(dtype).max
    values = np.random.default_rng(rows).uniform(-0.2, 1.2, (rows, 5, 3)).astype(np.float32)
    out = to_pixels(values, np.empty(values.shape, dtype))
    for value, level in zip(values.ravel().tolist(), out.ravel().tolist(), strict=True):
        exact = min(Fraction(1), max(Fraction(0), Fraction(value))) * top
        # the product is a float32, which has 24 bits
        assert abs(level - exact) <= Fraction(1, 2) + Fraction(top, 2**23), f"{value} became {level} of {top}"


def test_exact_halves_go_to_the_even_level() -> None:
    halves = np.array([0.5, 1.5, 2.5, 254.5, 255.5, -0.5], np.float32)
    assert round_levels(halves, np.uint8).tolist() == [0, 2, 2, 254, 255, 0]
    assert round_levels(halves, np.uint16).tolist() == [0, 2, 2, 254, 256, 0]
