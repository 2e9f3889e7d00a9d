# SPDX-License-Identifier: Apache-2.0
"""Numeric comparisons that explain a failure: the largest error, where it is, and how the errors are spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def assert_within(ours: np.ndarray, expected: np.ndarray, bound: float, name: str = "output") -> None:
    """No value is farther than `bound` from the expected one."""
    assert ours.shape == expected.shape, f"{name}: shape {ours.shape}, expected {expected.shape}"
    error = np.abs(ours.astype(np.float64) - expected)
    good = error <= bound  # NaN is not
    if not good.all():
        worst = np.unravel_index(np.where(np.isnan(error), np.inf, error).argmax(), error.shape)
        raise AssertionError(
            f"{name}: {ours[worst]:.7g} instead of {expected[worst]:.7g} at {tuple(map(int, worst))} of {error.shape}: "
            f"error {error[worst]:.2e}, allowed {bound:.1e}; {np.mean(~good):.2%} of the values are beyond it, "
            f"median {np.median(error):.1e}, 99 %: {np.percentile(error, 99):.1e}"
        )


def assert_close(
    ours: np.ndarray, expected: np.ndarray, tolerance: float, name: str = "output", floor: float = 1e-30
) -> None:
    """No value is farther than `tolerance` times the largest expected value (at least `floor`) from the expected one."""
    largest = max(np.abs(expected).max(initial=0), floor)
    assert_within(ours, expected, tolerance * largest, f"{name} (largest value {largest:.3g})")


def assert_all_close(
    ours: Sequence[np.ndarray], expected: Sequence, names: str, tolerance: float = 1e-5, floor: float = 1e-30
) -> None:
    """`assert_close` of several results, named in one string; an expected value may lack axes of size 1."""
    for name, value, wanted in zip(names.split(), ours, expected, strict=True):
        assert_close(value, np.asarray(wanted, np.float64).reshape(value.shape), tolerance, name, floor)


def assert_equals_levels(ours: np.ndarray, vectors: np.lib.npyio.NpzFile, name: str, tolerance: float) -> None:
    """`assert_within` for vectors that are stored as uint16 levels: lowest + step * level. Their rounding is our loss."""
    lowest, step = vectors[f"{name}/scale"]
    assert step / 2 < 3e-5
    assert_within(ours, lowest + step * vectors[name].astype(np.float64), tolerance - step / 2)
