# SPDX-License-Identifier: Apache-2.0
"""The engine as a whole, with networks whose answer is known."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.engine_networks import CausalBlockMean, CausalMean, Fake, FusedMean, as_frames, clip
from helpers.fuzzing import searching
from hypothesis import given, strategies as st

from rvrt_cli.engine import NetworkState, Plan, SceneStarted, TileDone, TileShrunk, TileStarted, stream
from rvrt_cli.engine.scenes import DELAY
from rvrt_cli.errors import MediaError, OutOfMemoryError, RvrtError
from rvrt_cli.frame import Frame


class FutureMean(Fake):
    """The mean of a frame and the next four that there are."""

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        return np.stack([frames[:, t : t + 5].mean(1) for t in range(emit)], 1), {}


class Blur(Fake):
    """The mean of 7×7 px, zero beyond the border: receptive field of 3 px."""

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        h, w = frames.shape[2:4]
        padded = np.pad(frames[:, :emit].astype(np.float64), [(0, 0), (0, 0), (3, 3), (3, 3), (0, 0)])
        return sum(padded[:, :, y : y + h, x : x + w] for y in range(7) for x in range(7)) / 49, {}


def run(
    frames: Iterable[np.ndarray],
    network: Fake,
    window: int = 0,
    lookahead: int = 0,
    tile: tuple[int, int] = (10**6, 10**6),
    overlap: int = 16,
    **options: Any,
) -> list[np.ndarray]:
    segments = stream(as_frames(frames), network, Plan(window, lookahead, tile, overlap), **options)
    return [frame.pixels for segment in segments for frame in segment]


def nearest(frame: np.ndarray) -> np.ndarray:
    return frame.repeat(4, 0).repeat(4, 1)


def assert_alike(out: list[np.ndarray], expected: list[np.ndarray], levels: int = 0) -> None:
    assert len(out) == len(expected)
    for number, (a, b) in enumerate(zip(out, expected, strict=True)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        off = np.abs(a.astype(int) - b.astype(int))
        worst = np.unravel_index(off.argmax(), off.shape)
        assert off.max() <= levels, (
            f"frame {number}: {off.max()} levels off at {worst}, {(off > levels).mean():.1%} of all"
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_passes_through_unchanged(dtype: type[np.unsignedinteger]) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    frame = np.stack([levels, levels[::-1], levels[:, ::-1]], 2)
    assert_alike(run([frame], Fake()), [nearest(frame)])
    assert_alike(run([frame], Fake(), tile=(16, 64 if dtype == np.uint16 else 8)), [nearest(frame)])


def test_output_is_clipped_and_rounded_to_the_nearest_level() -> None:
    class Off(Fake):
        def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
            values = np.array([-0.2, 1.3, 99.4 / 255, 99.6 / 255, 100.5 / 255, 1, 0, 254.7 / 255])
            return np.broadcast_to(values[:, None], frames[:, :emit].shape), {}

    out = run([np.zeros((8, 8, 3), np.uint8)], Off())
    assert out[0][0, ::4, 0].tolist() in ([0, 255, 99, 100, half, 255, 0, 255] for half in (100, 101))


@searching(20)
@given(
    st.lists(st.integers(4, 11), max_size=3),
    st.sampled_from([0, 2, 4, 6]),
    st.sampled_from([0, 2, 4]),
    st.tuples(st.sampled_from([16, 24, 40]), st.sampled_from([16, 24, 48])),
    st.integers(0, 12),
    st.booleans(),
)
def test_frames_in_are_frames_out(
    lengths: list[int], window: int, lookahead: int, tile: tuple[int, int], overlap: int, scenes: bool
) -> None:
    frames = clip(lengths, 36, 44)
    out = run(frames, Fake(), window, lookahead, tile, overlap, scenes=scenes)
    assert_alike(out, [nearest(frame) for frame in frames])


@pytest.mark.parametrize("lengths", [[7, 5], [1], [2], [3], []])
def test_window_0_untiled_is_one_call_per_scene_with_all_its_frames(lengths: list[int]) -> None:
    network = Fake()
    run(clip(lengths), network, window=0)
    assert network.calls == [(length, 32, 32, length, False) for length in lengths]


def test_without_scenes_the_whole_clip_is_one_call() -> None:
    network = Fake()
    run(clip([7, 5]), network, window=0, scenes=False)
    assert network.calls == [(12, 32, 32, 12, False)]


def test_the_calls_of_a_windowed_tiled_run() -> None:
    network = Fake()
    run(clip([13], 32, 64), network, window=4, lookahead=2, tile=(32, 40))
    assert network.calls == [
        *[(6, 32, 40, 4, False)] * 2,
        *[(6, 32, 40, 4, True)] * 2,
        *[(5, 32, 40, 5, True)] * 2,  # the end is within the lookahead
    ]


@searching(12)
@given(
    st.lists(st.integers(4, 9), min_size=1, max_size=3),
    st.sampled_from([0, 2, 4]),
    st.sampled_from([0, 2]),
    st.sampled_from([(100, 100), (24, 24), (40, 16)]),
)
def test_state_is_carried_per_tile_and_cleared_at_cuts(
    lengths: list[int], window: int, lookahead: int, tile: tuple[int, int]
) -> None:
    frames = clip(lengths, 40, 48)
    out = run(frames, CausalMean(), window, lookahead, tile)
    assert_alike(out, _causal_means(frames, lengths), levels=1)  # halves may round either way


def test_state_runs_on_over_a_cut_when_scenes_are_disabled() -> None:
    frames = clip([5, 6])
    out = run(frames, CausalMean(), 2, 2, scenes=False)
    assert_alike(out, _causal_means(frames, [11]), levels=1)
    assert np.abs(out[5].astype(int) - nearest(frames[5])).max() > 100


def _causal_means(frames: list[np.ndarray], lengths: list[int]) -> list[np.ndarray]:
    expected, first = [], 0
    for length in lengths:
        scene = np.stack(frames[first : first + length]).astype(float)
        means = np.cumsum(scene, 0) / np.arange(1, length + 1).reshape(-1, 1, 1, 1)
        expected += [nearest(np.rint(mean).astype(np.uint8)) for mean in means]
        first += length
    return expected


@pytest.mark.parametrize("window", [2, 4, 6])
def test_enough_lookahead_makes_windows_equal_to_the_whole_clip(window: int) -> None:
    frames = clip([9, 14])
    whole = run(frames, FutureMean())
    assert_alike(run(frames, FutureMean(), window, 4), whole)
    short = run(frames, FutureMean(), window, 2)
    assert any((a != b).any() for a, b in zip(short, whole, strict=True))


@pytest.mark.parametrize("window", [2, 4, 6])
@pytest.mark.parametrize("tile", [(10**6, 10**6), (32, 24)])
def test_fusion_sees_its_future_past_a_short_lookahead(window: int, tile: tuple[int, int]) -> None:
    """Frames of a size that is padded; scenes that end within the lookahead, within what fusion sees, and beyond."""
    lengths = [9, 8, 13]
    frames = clip(lengths, 36, 44)
    assert_alike(run(frames, FusedMean(), window, 2, tile, overlap=8), run(frames, FusedMean()), levels=1)


def test_only_networks_with_fusion_get_more_than_the_lookahead() -> None:
    frames = clip([9])
    with_fusion, without = FusedMean(), CausalMean()
    for network in (with_fusion, without):
        run(frames, network, 4, 2)
    assert [(call[0], call[3]) for call in with_fusion.calls] == [(8, 4), (5, 5)]
    assert [(call[0], call[3]) for call in without.calls] == [(6, 4), (5, 5)]


@pytest.mark.parametrize("tile", [(48, 48), (80, 32), (40, 64)])
def test_tiling_is_invisible_to_a_network_that_sees_less_than_the_margin(tile: tuple[int, int]) -> None:
    frames = clip([3], 80, 117)
    assert_alike(run(frames, Blur(), tile=tile, overlap=16), run(frames, Blur()), levels=0)


def test_tiles_that_only_abut_would_show() -> None:
    frames = clip([1], 80, 120)
    seams = run(frames, Blur(), tile=(40, 40), overlap=0)[0] != run(frames, Blur())[0]
    assert seams[4 * 37 : 4 * 43].any()  # so the test above can fail
    assert not seams[: 4 * 37, : 4 * 37].any()


def test_tiling_is_invisible_in_floats_too() -> None:
    frames = clip([2], 50, 70, np.uint16)
    assert_alike(run(frames, Fake(), tile=(32, 32), overlap=15), [nearest(frame) for frame in frames])


@pytest.mark.slow
@searching(12)
@given(st.sets(st.integers(0, 25), max_size=4), st.sampled_from([0, 2, 4]))
def test_no_frame_is_lost_when_memory_runs_out_at_any_call(fail_at: set[int], window: int) -> None:
    lengths = [7, 6]
    frames = clip(lengths, 80, 96)
    events = []
    network = CausalMean(fail_at)
    out = run(frames, network, window, 2, tile=(80, 96), on_event=events.append)
    assert_alike(out, _causal_means(frames, lengths), levels=1)
    shrunk = [event for event in events if isinstance(event, TileShrunk)]
    assert len(shrunk) == len([call for call in fail_at if call < network.attempts])
    for event in shrunk:
        assert event.after[0] * event.after[1] <= 0.6 * event.before[0] * event.before[1] or event.after == (32, 32)


def test_smaller_tiles_stay_and_the_window_is_repeated() -> None:
    events = []
    network = CausalMean(fail_at={2})  # the second tile of the second window
    frames = clip([8], 32, 64)
    out = run(frames, network, 4, 0, tile=(32, 40), overlap=8, on_event=events.append)
    assert_alike(out, _causal_means(frames, [8]), levels=1)
    assert [(call[1:3], call[4]) for call in network.calls] == [((32, 40), False)] * 2 + [((32, 32), True)] * 3
    assert events == [
        SceneStarted(0),
        TileStarted(0, 4, 1, 2),
        TileDone(0, 4, 1, 2),
        TileStarted(0, 4, 2, 2),
        TileDone(0, 4, 2, 2),
        TileStarted(4, 4, 1, 2),
        TileShrunk(4, (32, 40), (32, 32)),
        TileStarted(4, 4, 1, 3),
        TileDone(4, 4, 1, 3),
        TileStarted(4, 4, 2, 3),
        TileDone(4, 4, 2, 3),
        TileStarted(4, 4, 3, 3),
        TileDone(4, 4, 3, 3),
    ]


def test_tiles_shrink_until_they_fit() -> None:
    network = Fake(largest=48 * 48)
    frames = clip([5], 120, 200)
    assert_alike(run(frames, network, 2, 2), [nearest(frame) for frame in frames])
    assert all(h * w <= 48 * 48 for _, h, w, _, _ in network.calls)
    assert max(h * w for _, h, w, _, _ in network.calls) > 32 * 32


@pytest.mark.parametrize(("height", "width"), [(100, 60), (16, 24)])
def test_the_smallest_tile_failing_is_the_end(height: int, width: int) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"frame 0, with 6 frames of .* the smallest tile; give a smaller --window"
    ):
        run(clip([9], height, width), Fake(largest=1), 4, 2)


def test_frames_before_the_failure_have_come_out() -> None:
    out = iter(next(stream(as_frames(clip([12])), Fake(fail_at={1}), Plan(4, 0, (32, 32), 16))))
    assert [frame.pixels.shape for _, frame in zip(range(4), out, strict=False)] == [(128, 128, 3)] * 4
    with pytest.raises(OutOfMemoryError, match="at frame 4"):
        next(out)


def test_cuts_are_reported() -> None:
    events = []
    run(clip([6, 4, 5]), Fake(), 2, 0, on_event=events.append)
    assert [event.frame for event in events if isinstance(event, SceneStarted)] == [0, 6, 10]


@pytest.mark.parametrize(("window", "lookahead", "scenes"), [(2, 0, True), (4, 2, True), (6, 4, False), (2, 8, False)])
def test_memory_does_not_grow_with_the_clip(window: int, lookahead: int, scenes: bool) -> None:
    alive, most = weakref.WeakSet(), 0

    class Counted(np.ndarray):
        __hash__ = object.__hash__

    def frames() -> Iterator[Counted]:
        nonlocal most
        for frame in clip([40, 30]):
            counted = frame.view(Counted)
            alive.add(counted)
            most = max(most, len(alive))
            yield counted
            del counted

    shown = weakref.WeakSet()

    class Watched(Fake):
        def answer(self, tile: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
            nonlocal most
            most = max(most, len(alive))
            assert not shown, "frames of the window before are still held"
            return super().answer(tile, state, emit)

    count = 0
    for segment in stream(as_frames(frames()), Watched(), Plan(window, lookahead, (24, 24), 8), scenes=scenes):
        for frame in segment:
            shown.add(frame.pixels.view(Counted))
            count += 1
            del frame
    assert count == 70
    assert window + lookahead < most <= window + lookahead + DELAY * scenes + 3


def test_output_frames_are_freed_one_by_one() -> None:
    out = iter(next(stream(as_frames(clip([8])), Fake(), Plan(8, 0, (24, 24), 8))))
    first = next(out).pixels
    assert first.base is None  # no view that would keep its window's frames
    gone = weakref.ref(first)
    del first
    next(out)
    assert gone() is None


@pytest.mark.parametrize("shape", [(2, 2), (7, 100), (100, 7)])
def test_tiny_frames_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=f"{shape[1]}x{shape[0]} px"):
        run([np.zeros((*shape, 3), np.uint8)], Fake())


def test_the_smallest_frames_pass() -> None:
    frame = clip([1], 8, 8)[0]
    assert_alike(run([frame], Fake()), [nearest(frame)])


def test_a_frame_of_another_size_or_depth_is_refused_by_number() -> None:
    frames = clip([3])
    with pytest.raises(MediaError, match="frame 3 is 20x16 uint8, those before 32x32"):
        run([*frames, np.zeros((16, 20, 3), np.uint8)], Fake())
    with pytest.raises(MediaError, match="frame 3 is 32x32 uint16"):
        run([*frames, frames[0].astype(np.uint16)], Fake())


@pytest.mark.parametrize(
    "frame", [np.zeros((16, 16), np.uint8), np.zeros((16, 16, 4), np.uint8), np.zeros((16, 16, 3))]
)
def test_what_is_no_rgb_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 or uint16"):
        run([frame], Fake())


@pytest.mark.parametrize(("window", "lookahead"), [(3, 2), (4, 1)])
def test_a_plan_that_is_not_of_whole_clips_is_refused_at_once(window: int, lookahead: int) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        stream(as_frames(clip([3])), Fake(), Plan(window, lookahead, (32, 32), 16))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_refused(value: float) -> None:
    class Broken(Fake):
        def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
            return np.where(np.arange(frames.shape[3])[:, None] == 3, value, frames[:, :emit]), {}

    with pytest.raises(RvrtError, match="frame 0 on is not finite; use --precision float32"):
        run(clip([2]), Broken())


def test_a_network_that_returns_another_number_of_frames_is_refused() -> None:
    class Short(Fake):
        def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
            return frames[:, : emit - 1], {}

    with pytest.raises(ValueError, match="expected"):
        run(clip([4]), Short())


def test_timestamps_and_alpha_travel_with_their_frames() -> None:
    rng = np.random.default_rng(1)
    frames = [
        Frame(pixels, 7 * number + number % 3, rng.integers(0, 256, (32, 32), dtype=np.uint8) if number % 2 else None)
        for number, pixels in enumerate(clip([6, 5]))
    ]
    out = [frame for segment in stream(iter(frames), Fake(), Plan(4, 2, (32, 32), 16)) for frame in segment]
    assert [frame.pts for frame in out] == [frame.pts for frame in frames]
    assert all(a.alpha is b.alpha for a, b in zip(out, frames, strict=True))


# --- networks whose features are smaller than the frames


@pytest.mark.parametrize("tile", [(96, 256), (96, 192)])
@pytest.mark.parametrize("fail_at", [(), (2,)])
def test_states_of_reduced_size_are_cut_and_stitched(tile: tuple[int, int], fail_at: tuple[int, ...]) -> None:
    """What each block of 4×4 px gets does not depend on tiles, nor on tiles that are halved between two windows."""
    height, width = 93, 254  # padded to 96×256
    frames = [frame.astype(np.float32) / 255 for frame in clip([6], height, width)]
    network = CausalBlockMean(fail_at)
    out = run(frames, network, 2, 0, tile)
    padded = np.pad(np.stack(frames), [(0, 0), (0, 3), (0, 2), (0, 0)], "reflect")
    blocks = padded.reshape(6, 24, 4, 64, 4, 3).mean((2, 4))
    means = np.cumsum(blocks, 0) / np.arange(1, 7).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(np.stack(out), means.repeat(4, 1).repeat(4, 2)[:, :height, :width], atol=1e-6)
    assert len({call[1:3] for call in network.calls}) == 1 + len(fail_at)


def test_small_frames_are_padded_to_what_a_reduced_network_takes() -> None:
    network = CausalBlockMean()
    [out] = run([np.full((9, 12, 3), 77, np.uint8)], network)
    assert network.calls == [(1, 32, 32, 1, False)]
    np.testing.assert_array_equal(out, np.full((9, 12, 3), 77))


def test_floating_point_frames_are_not_rounded() -> None:
    frame = np.random.default_rng(1).uniform(0, 1, (16, 16, 3)).astype(np.float32)
    [out] = run([frame], Fake())
    np.testing.assert_array_equal(out, frame.repeat(4, 0).repeat(4, 1))
