# SPDX-License-Identifier: Apache-2.0
"""Segments: a video computed in pieces, by several runs or ranks, equals the video computed at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from helpers.engine_networks import CausalMean, FusedMean, as_frames, clip
from helpers.fuzzing import searching
from hypothesis import given, strategies as st

from rvrt_cli.engine import Carried, Plan, Segment, SegmentPlan, stream
from rvrt_cli.engine.segments import group_scenes
from rvrt_cli.engine.windows import Window
from rvrt_cli.frame import Frame


def windows(lengths: list[int], emit: int) -> Iterator[Window]:
    """Windows of `emit` frames, the last one of a scene shorter, for scenes of these lengths."""
    first = 0
    for length in lengths:
        for place in range(0, length, emit):
            count = min(emit, length - place)
            ends = place + count == length
            yield Window([Frame(np.zeros((1, 1, 3), np.uint8), 0)] * count, count, first, place == 0, ends)
            first += count


@given(st.lists(st.integers(1, 50), max_size=6), st.integers(1, 9), st.integers(1, 40))
def test_groups_are_whole_scenes_and_end_when_they_are_long_enough(
    lengths: list[int], emit: int, scene_group: int
) -> None:
    total, groups = 0, [0]
    for window, starts, ends in group_scenes(windows(lengths, emit), scene_group):
        assert window.first == total
        total += window.emit
        assert starts == (groups[-1] == 0)
        assert not starts or window.starts_scene
        groups[-1] += window.emit
        if ends:
            assert groups[-1] >= scene_group
            groups.append(0)
        else:
            assert groups[-1] < scene_group or not window.ends_scene
    assert total == sum(lengths) == sum(groups)
    assert {0, *itertools.accumulate(groups)} <= {0, *itertools.accumulate(lengths)}


LENGTHS = [9, 2, 13]
FRAMES = clip(LENGTHS, 32, 48)
PLAN = SegmentPlan(full=lambda first, after: after - first >= 4, scene_group=2)


def pieces(
    wanted: Callable[[int], bool],
    kept: dict[int, Carried],
    fail_at: Iterable[int] = (),
    tile: tuple[int, int] = (32, 32),
    network: type[CausalMean] = CausalMean,
) -> tuple[dict[int, np.ndarray], list[Segment]]:
    """Frames by number and finished segments of one run; `kept` has the states that earlier runs have left."""
    frames, done = {}, []
    plan = replace(PLAN, wanted=lambda first, starts_group: wanted(first), carried=lambda first: kept[first])
    for segment in stream(as_frames(FRAMES), network(fail_at), Plan(4, 2, tile, 16), segments=plan):
        assert (segment.frames, segment.carried) == (0, None)
        for number, frame in enumerate(segment, segment.first):
            assert frame.pts == number
            frames[number] = frame.pixels
        done.append(segment)
    return frames, done


def carried(segments: list[Segment]) -> dict[int, Carried]:
    """What segments leave, by the first frame after them."""
    return {segment.first + segment.frames: segment.carried for segment in segments if segment.carried}


WHOLE, SEGMENTS = pieces(lambda first: True, {})
CARRIED = carried(SEGMENTS)
FUSED, FUSED_SEGMENTS = pieces(lambda first: True, {}, network=FusedMean)


def test_the_clip_has_segments_of_both_kinds() -> None:
    assert [(segment.first, segment.frames, segment.starts_scene) for segment in SEGMENTS] == [
        (0, 4, True),
        (4, 5, False),
        (9, 2, True),
        (11, 4, True),
        (15, 4, False),
        (19, 5, False),
    ]
    assert sorted(CARRIED) == [4, 15, 19]


@searching(15)
@given(st.sets(st.sampled_from([segment.first for segment in SEGMENTS])))
def test_any_choice_of_segments_gives_the_same_frames(chosen: set[int]) -> None:
    frames, done = pieces(chosen.__contains__, CARRIED)
    assert [segment.first for segment in done] == sorted(chosen)
    expected = {n for s in SEGMENTS if s.first in chosen for n in range(s.first, s.first + s.frames)}
    assert set(frames) == expected
    for number, pixels in frames.items():
        assert np.array_equal(pixels, WHOLE[number]), f"frame {number} of a run that computes {sorted(chosen)}"


@searching(15)
@given(st.sets(st.sampled_from([segment.first for segment in SEGMENTS])))
def test_fusion_sees_frames_of_segments_that_others_compute(chosen: set[int]) -> None:
    assert [segment.first for segment in FUSED_SEGMENTS] == [segment.first for segment in SEGMENTS]
    frames, _ = pieces(chosen.__contains__, carried(FUSED_SEGMENTS), network=FusedMean)
    for number, pixels in frames.items():
        assert np.array_equal(pixels, FUSED[number]), f"frame {number} of a run that computes {sorted(chosen)}"


def test_smaller_tiles_are_carried_with_their_states() -> None:
    """Memory runs out in the first segment; a later run goes on with the tiles that fitted."""
    whole, _ = pieces(lambda first: True, {}, fail_at={0}, tile=(32, 48))
    frames, done = pieces(lambda first: first < 4, {}, fail_at={0}, tile=(32, 48))
    assert done[0].carried.tile == (32, 32)
    rest, _ = pieces(lambda first: first == 4, {4: done[0].carried}, tile=(32, 48))
    assert sorted([*frames, *rest]) == list(range(9))
    assert all(np.array_equal(pixels, whole[number]) for number, pixels in {**frames, **rest}.items())


def test_kept_states_are_cut_to_the_tiles_of_a_run_with_less_memory() -> None:
    whole, segments = pieces(lambda first: True, {}, tile=(32, 48))
    assert segments[0].carried.tile == (32, 48)
    rest, done = pieces(lambda first: first == 4, {4: segments[0].carried})
    assert sorted(rest) == list(range(4, 9))
    assert done[0].starts_scene is False
    for number, pixels in rest.items():  # a mean of each px: tiles only round differently
        difference = np.abs(pixels.astype(int) - whole[number]).max()
        assert difference <= 1, f"frame {number}: off by {difference} levels"


def test_a_segment_ends_before_the_next_window_is_read() -> None:
    """What is finished counts at once, however long the source takes."""
    read = 0

    def counted() -> Iterator[Frame]:
        nonlocal read
        for frame in as_frames(clip([60], 32, 32)):
            read += 1
            yield frame

    plan = SegmentPlan(full=lambda first, after: True)
    segments = stream(counted(), CausalMean(), Plan(4, 2, (32, 32), 16), segments=plan, scenes=False)
    first = next(segments)
    assert len(list(first)) == 4
    assert first.carried is not None
    assert read == 4 + 2 + 1  # a window, its lookahead, and the frame which shows that the scene goes on


def test_a_group_of_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        list(group_scenes(windows([3], 2), 0))


def test_a_segment_that_is_not_iterated_leaves_the_same_state() -> None:
    left = list(stream(as_frames(FRAMES), CausalMean(), Plan(4, 2, (32, 32), 16), segments=PLAN))
    assert [(segment.first, segment.frames) for segment in left] == [(s.first, s.frames) for s in SEGMENTS]
    for ours, theirs in zip(left, SEGMENTS, strict=True):
        assert (ours.carried is None) == (theirs.carried is None)
        for a, b in zip(
            ours.carried.states if ours.carried else [], theirs.carried.states if theirs.carried else [], strict=True
        ):
            assert all(np.array_equal(a[name], b[name]) for name in b)
