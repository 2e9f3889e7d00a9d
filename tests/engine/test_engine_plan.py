# SPDX-License-Identifier: Apache-2.0
"""The memory plan: what it promises fits, and it falls back in the right order."""

from __future__ import annotations

from typing import NoReturn

import pytest
from helpers.fuzzing import searching
from hypothesis import assume, given, strategies as st

from rvrt_cli.device import MemoryBudget
from rvrt_cli.engine import Plan, WindowOptions, Workload, make_plan
from rvrt_cli.engine.plan import DEFAULT_WINDOW, GOOD_WINDOW, SEAM_COST
from rvrt_cli.engine.tiles import TileGrid
from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError

GIB = 2**30


class Sized:
    """A network of which only the size is known: 50 MB of weights, 4 kB per px and frame, 400 B of state per px."""

    scale, reduction, clip_size = 4, 1, 2

    def __call__(self, frames: object, state: object, emit: int) -> NoReturn:
        raise NotImplementedError

    def fusion_lookahead(self, lookahead: int) -> int:
        return 0

    def memory(self, frames: int, height: int, width: int) -> int:
        return 50_000_000 + 4000 * frames * height * width

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {"features": (1, 2, height, width, 50)}


def planned(
    free: int,
    width: int = 854,
    height: int = 480,
    network: Sized | None = None,
    host_free: int | None = None,
    **options: int | None,
) -> Plan:
    """A plan for `free` bytes: of one memory for all, or of a device beside `host_free` bytes of main memory."""
    budget = MemoryBudget(free) if host_free is None else MemoryBudget(host_free, free)
    asked = {name: options.pop(name) for name in ("window", "tile", "overlap", "lookahead") if name in options}
    return make_plan(network or Sized(), Workload(width, height, **options), WindowOptions(**asked), budget)


def test_plenty_of_memory_means_untiled_and_the_default_window() -> None:
    made = planned(1000 * GIB)
    assert (made.window, made.lookahead, made.tile, made.tiles) == (DEFAULT_WINDOW, 2, (480, 854), 1)


def test_the_network_gets_what_it_says_and_frames_and_states_are_counted() -> None:
    made = planned(1000 * GIB)
    assert made.device_bytes == Sized().memory(16, 480, 854)
    output = 16 * 3 * 16 * 480 * 854
    assert output < made.host_bytes - 2 * 400 * 480 * 854 < 2 * output
    # float32 of the one row of tiles that is blended comes on top
    tiled = planned(1000 * GIB, tile=256)
    assert tiled.tiles == 8
    assert tiled.host_bytes > made.host_bytes + 4 * 16 * 3 * 16 * 256 * 854 * 0.9
    assert planned(1000 * GIB, pixel_bytes=2).host_bytes > made.host_bytes + output


def test_frames_that_only_fusion_sees_are_read_and_not_upscaled() -> None:
    class Fusing(Sized):
        def fusion_lookahead(self, lookahead: int) -> int:
            return 8 - lookahead

    source = 3 * 480 * 854
    for count, read in ((None, 6), (100, 6), (19, 3), (16, 0)):
        made, fusing = (planned(1000 * GIB, network=network(), frame_count=count) for network in (Sized, Fusing))
        assert (fusing.window, fusing.device_bytes) == (made.window, made.device_bytes)
        assert fusing.host_bytes - made.host_bytes == read * source


def test_states_are_counted_twice_as_a_window_may_have_to_be_repeated() -> None:
    class Stateless(Sized):
        def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
            return {}

    made = planned(1000 * GIB, tile=256)
    without = planned(1000 * GIB, network=Stateless(), tile=256)
    assert made.host_bytes - without.host_bytes == 2 * made.tiles * 400 * 256 * 256


@searching(20)
@given(
    st.integers(24, 34).map(lambda power: 2**power),
    st.integers(8, 2000),
    st.integers(8, 2000),
    st.integers(0, 64),
    st.integers(0, 9),
    st.sampled_from([None, 1, 15, 400]),
)
def test_a_plan_fits_the_memory_and_says_what_the_engine_will_do(
    free: int, width: int, height: int, overlap: int, lookahead: int, count: int | None
) -> None:
    try:
        made = planned(free, width, height, overlap=overlap, lookahead=lookahead, frame_count=count)
    except OutOfMemoryError:
        assume(False)
    assert made.device_bytes + made.host_bytes <= free
    assert made.window % 2 == 0
    assert 0 < made.window <= DEFAULT_WINDOW
    assert made.lookahead == lookahead + lookahead % 2
    assert made.tiles == len(TileGrid(height, width, made.tile, made.overlap))
    frames = min(made.window + made.lookahead, count or 10**6)
    assert made.device_bytes == Sized().memory(frames, *made.tile)


def test_more_memory_never_means_more_computing() -> None:
    def cost(made: Plan) -> float:
        grid = TileGrid(480, 854, made.tile, made.overlap)
        return (made.window + made.lookahead) / made.window * grid.redundancy * (SEAM_COST if made.tiles > 1 else 1)

    plans = [planned(eighths * GIB // 8) for eighths in range(8, 400, 7)]
    costs = [cost(made) for made in plans if made.window >= GOOD_WINDOW]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > 5


def test_a_somewhat_shorter_window_comes_before_tiles_and_tiles_before_a_very_short_one() -> None:
    untiled = planned(1000 * GIB)
    a_little_less = planned(untiled.device_bytes + untiled.host_bytes - 1)
    assert a_little_less.tiles == 1
    assert GOOD_WINDOW <= a_little_less.window < DEFAULT_WINDOW
    little = planned(2 * GIB)
    assert little.tiles > 1
    assert little.window >= GOOD_WINDOW


def test_the_window_falls_below_a_good_one_only_when_no_tile_fits() -> None:
    free = 16 * GIB
    while planned(free, 1920, 1080).window >= GOOD_WINDOW:
        free = free * 9 // 10
    for tile in range(32, 1921, 8):
        with pytest.raises(OutOfMemoryError):
            planned(free * 9 // 10, 1920, 1080, window=GOOD_WINDOW, tile=tile)


def test_what_the_user_fixes_is_kept() -> None:
    made = planned(8 * GIB, window=9, tile=100, lookahead=3, overlap=20)
    assert (made.window, made.lookahead, made.tile, made.overlap) == (10, 4, (96, 96), 20)
    assert planned(8 * GIB, window=4).window == 4
    assert planned(8 * GIB, tile=64).tile == (64, 64)
    assert planned(1000 * GIB, tile=0).tile == (480, 854)
    assert planned(1000 * GIB, tile=480).tile == (480, 480)
    assert planned(1000 * GIB, 100, 50, tile=96).tile == (50, 96)


def test_the_whole_clip_is_judged_by_its_length() -> None:
    assert planned(20 * GIB, 160, 120, window=0, frame_count=40).window == 0
    assert planned(20 * GIB, 160, 120, window=0, frame_count=40).device_bytes == Sized().memory(40, 120, 160)
    assert planned(20 * GIB, 160, 120, window=0, frame_count=400).tiles > 1
    with pytest.raises(OutOfMemoryError, match="a --window such as 14 instead of the whole clip"):
        planned(20 * GIB, 160, 120, window=0, frame_count=40000)


def test_a_device_with_its_own_memory_leaves_frames_to_the_host() -> None:
    shared = planned(3 * GIB)
    apart = planned(3 * GIB, host_free=64 * GIB)
    assert apart.tile[0] * apart.tile[1] * apart.window > shared.tile[0] * shared.tile[1] * shared.window
    assert apart.device_bytes <= 3 * GIB < apart.device_bytes + apart.host_bytes
    with pytest.raises(OutOfMemoryError, match="main memory"):
        planned(3 * GIB, host_free=GIB // 16)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({}, "more --memory"),
        ({"window": 14}, "a smaller --window"),
        ({"tile": 256}, "another --tile"),
        ({"tile": 0}, "a --tile instead of untiled frames"),
        ({"lookahead": 8}, "a smaller --lookahead"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_remedy(options: dict[str, int], remedy: str) -> None:
    with pytest.raises(OutOfMemoryError, match=remedy) as caught:
        planned(100_000_000, **options)
    assert "\n" not in str(caught.value)
    assert "0.09 GiB may be used" in str(caught.value)


def test_no_remedy_is_offered_that_does_not_help() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        planned(50_000_000, lookahead=0)
    assert "smaller" not in str(caught.value)


def test_tiny_frames_are_refused() -> None:
    with pytest.raises(MediaError, match="2x2 px"):
        planned(GIB, 2, 2)


@pytest.mark.parametrize("option", ["window", "tile", "overlap", "lookahead"])
def test_negative_options_are_refused(option: str) -> None:
    with pytest.raises(OptionError, match=f"--{option} -1"):
        planned(GIB, **{option: -1})
