# SPDX-License-Identifier: Apache-2.0
"""The kernels that finish the output against their definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.comparison import assert_within
from helpers.kernel_calls import Kernels

from rvrt_cli.model import finish_output
from rvrt_cli.model.chroma_shrinkage import shrink_chroma
from rvrt_cli.model.outline import FRAMES_STATE, OUTPUT_STATE
from rvrt_cli.model.steadying import steady

SHARE = 0.9
SIZES = [(1, 8, 8), (2, 9, 13), (1, 21, 50), (3, 16, 32)]  # T, H, W


def scene(length: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Input (T, H, W, 3), part of which stands still, and an output (T, 4H, 4W, 3) that is near it."""
    rng = np.random.default_rng(height)
    frames = np.repeat(rng.uniform(0.2, 0.8, (1, height, width, 3)), length, 0)
    frames[:, :, width // 2 :] += rng.normal(0, 0.01, (length, height, width - width // 2, 3))
    output = frames.repeat(4, 1).repeat(4, 2) + rng.normal(0, 0.03, (length, 4 * height, 4 * width, 3))
    return frames.astype(np.float32), output.astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_chroma_shrinkage_matches_its_definition(cpu_kernels: Kernels, size: tuple) -> None:
    frames, raw = scene(*size)
    expected = raw.copy()
    shrink_chroma(expected[None], frames[None])
    assert np.abs(expected - raw).max() > 1e-2
    assert_within(cpu_kernels("shrink_chroma_forward", raw, frames, like=[raw])[0], expected, 2e-6)
    assert cpu_kernels.status("shrink_chroma_forward", [raw, frames], [raw]) == 0  # in place
    assert_within(raw, expected, 2e-6)


def test_without_kernels_the_definitions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos, of which the second call continues the first."""
    frames, raw = (
        np.stack(pair) for pair in zip(scene(4, 9, 13), (part[::-1] for part in scene(4, 9, 13)), strict=True)
    )
    finished = []
    for built in (finish_output.library(), None):
        monkeypatch.setattr(finish_output, "library", lambda built=built: built)
        parts, state = [], None
        for part in (slice(0, 3), slice(3, 4)):
            output = np.empty_like(raw[:, part])
            finish_output.copy_shrunk(raw[:, part], frames[:, part], output)
            last = finish_output.steady_output(output, frames[:, part], state, SHARE)
            state = {FRAMES_STATE: frames[:, part][:, -1:], OUTPUT_STATE: last}
            parts += [output, last]
        finished.append(parts)
    for kernel, definition in zip(*finished, strict=True):
        assert_within(kernel, definition, 4e-6)
    assert np.abs(finished[1][0] - raw[:, :3]).max() > 1e-2


def test_colors_without_structure_stay_finite(cpu_kernels: Kernels) -> None:
    raw, frames = np.zeros((1, 32, 36, 3), np.float32), np.zeros((1, 8, 9, 3), np.float32)
    np.testing.assert_array_equal(cpu_kernels("shrink_chroma_forward", raw, frames, like=[raw])[0], raw)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_steadying_matches_its_definition(cpu_kernels: Kernels, size: tuple, known: bool) -> None:
    length, height, width = size
    frames, raw = scene(length + 1, height, width)
    before, kept = frames[:0], np.empty((0, height, width, 48), np.float32)
    state = None
    if known:
        before, kept = frames[:1], np.random.default_rng(1).uniform(0, 1, (1, height, width, 48)).astype(np.float32)
        state = {FRAMES_STATE: before[None], OUTPUT_STATE: kept[None]}
    frames, raw = frames[1:], raw[1:]
    expected = raw.copy()
    last = steady(expected[None], frames[None], state, SHARE)[0]
    assert (np.abs(expected - raw).max() > 1e-2) == (known or length > 1)
    inputs = [raw, frames, before, kept, np.array([SHARE], np.float32)]
    found = cpu_kernels("steady_forward", *inputs, like=[raw, last])
    assert_within(found[0], expected, 1e-6)
    assert_within(found[1], last, 1e-6)
    assert cpu_kernels.status("steady_forward", inputs, [raw, last]) == 0  # in place
    assert_within(raw, expected, 1e-6)


def test_a_scene_that_moves_everywhere_is_not_mixed(cpu_kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    frames, raw = rng.random((2, 8, 9, 3), np.float32), rng.random((2, 32, 36, 3), np.float32)
    none = np.empty((0, 8, 9, 3), np.float32), np.empty((0, 8, 9, 48), np.float32)
    inputs = [raw, frames, *none, np.array([SHARE], np.float32)]
    np.testing.assert_array_equal(cpu_kernels("steady_forward", *inputs, like=[raw, (1, 8, 9, 48)])[0], raw)


def test_other_shapes_are_refused(cpu_kernels: Kernels) -> None:
    frames, raw = scene(2, 8, 9)
    assert cpu_kernels.status("shrink_chroma_forward", [raw[:1], frames], [raw[:1]]) != 0
