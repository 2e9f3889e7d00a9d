# SPDX-License-Identifier: Apache-2.0
"""Windows: every frame comes out once, in order, with its future beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rvrt_cli.engine.windows import Window, cut_windows
from rvrt_cli.frame import Frame


def marked(lengths: list[int]) -> Iterator[tuple[Frame, bool]]:
    """Frames that carry their number, for scenes of these lengths."""
    number = 0
    for length in lengths:
        for place in range(length):
            yield Frame(np.zeros((1, 1, 3), np.uint8), number), place == 0
            number += 1


def numbers(window: Window) -> list[int]:
    return [frame.pts for frame in window.frames]


scenes = st.lists(st.integers(1, 40), max_size=5)


@given(scenes, st.integers(1, 12), st.integers(0, 6), st.integers(0, 9))
def test_every_frame_comes_out_once_with_its_future(
    lengths: list[int], window: int, lookahead: int, fusion_lookahead: int
) -> None:
    ends = np.cumsum(lengths)
    out = []
    for part in cut_windows(marked(lengths), window, lookahead, fusion_lookahead):
        first = len(out)
        scene_end = int(ends[np.searchsorted(ends, first, side="right")])
        assert part.first == first
        assert part.starts_scene == (first == 0 or first in ends)
        assert part.ends_scene == (first + part.emit == scene_end)
        assert part.emit == (scene_end - first if scene_end - first <= window + lookahead else window)
        assert numbers(part) == list(range(first, min(first + window + lookahead + fusion_lookahead, scene_end)))
        assert part.fusion_lookahead == max(0, len(part.frames) - window - lookahead)
        out += numbers(part)[: part.emit]
    assert out == list(range(sum(lengths)))


@given(scenes, st.integers(0, 6), st.integers(0, 9))
def test_window_0_is_a_whole_scene(lengths: list[int], lookahead: int, fusion_lookahead: int) -> None:
    parts = list(cut_windows(marked(lengths), 0, lookahead, fusion_lookahead))
    assert [part.emit for part in parts] == [len(part.frames) for part in parts] == lengths
    assert all(part.starts_scene and part.ends_scene and not part.fusion_lookahead for part in parts)


def test_the_end_within_the_lookahead_is_taken_whole() -> None:
    assert [part.emit for part in cut_windows(marked([18]), 14, 4)] == [18]
    assert [part.emit for part in cut_windows(marked([19]), 14, 4)] == [14, 5]


def test_the_end_within_what_fusion_sees_changes_no_window() -> None:
    parts = list(cut_windows(marked([23]), 14, 4, 6))
    assert [(part.emit, len(part.frames), part.fusion_lookahead) for part in parts] == [(14, 23, 5), (9, 9, 0)]
    short = list(cut_windows(marked([8]), 2, 2, 6))  # the second window ends there, too
    assert [(part.emit, part.fusion_lookahead) for part in short] == [(2, 4), (2, 2), (4, 0)]


@given(scenes, st.integers(1, 12), st.integers(0, 6), st.integers(0, 9))
def test_no_more_is_read_than_the_window_needs(
    lengths: list[int], window: int, lookahead: int, fusion_lookahead: int
) -> None:
    read = 0

    def frames() -> Iterator[tuple[Frame, bool]]:
        nonlocal read
        for item in marked(lengths):
            read += 1
            yield item

    out = 0
    for part in cut_windows(frames(), window, lookahead, fusion_lookahead):
        assert read <= out + window + lookahead + fusion_lookahead + 1
        out += part.emit


@pytest.mark.parametrize("counts", [(-1, 0), (2, -1), (2, 2, -1)])
def test_negative_numbers_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="negative"):
        list(cut_windows(marked([3]), *counts))
