# SPDX-License-Identifier: Apache-2.0
"""The grid of tiles, its blend weights, and states that move from one grid to another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rvrt_cli.engine.tiles import SMALLEST_TILE, TileGrid, blend_weights, plan_tiles


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    tile = draw(st.integers(1, 200))
    return draw(st.integers(1, 700)), tile, draw(st.integers(0, tile - 1))


@given(axes())
def test_tiles_cover_the_axis_with_equal_lengths_and_the_overlap_asked_for(axis: tuple[int, int, int]) -> None:
    length, tile, overlap = axis
    tiles = plan_tiles(length, tile, overlap)
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    assert {part.stop - part.start for part in tiles} == {min(tile, length)}
    for before, after in pairwise(tiles):
        assert before.start < after.start
        assert before.stop - after.start >= overlap


@given(axes())
def test_no_tile_more_than_the_aligned_stride_needs(axis: tuple[int, int, int]) -> None:
    length, tile, overlap = axis
    stride = tile - overlap if tile - overlap < 8 else (tile - overlap) // 8 * 8
    count, end = 1, tile
    while end < length:  # lay tiles down one after the other
        count, end = count + 1, end + stride
    assert len(plan_tiles(length, tile, overlap)) == count


def test_tiles_begin_on_the_attention_windows_grid_except_the_last() -> None:
    tiles = plan_tiles(853, 192, 16)
    assert [part.start % 8 for part in tiles[:-1]] == [0] * (len(tiles) - 1)
    assert len(tiles) > 4


def test_a_tile_longer_than_the_axis_is_shortened_to_it() -> None:
    assert plan_tiles(50, 64, 16) == [slice(0, 50)]


@pytest.mark.parametrize(("length", "tile", "overlap"), [(10, 8, 8), (10, 8, -1), (0, 8, 0), (10, 0, 0)])
def test_impossible_tiles_are_refused(length: int, tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="px"):
        plan_tiles(length, tile, overlap)


@given(axes(), st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_weights_are_a_partition_of_unity(axis: tuple[int, int, int], scale: int) -> None:
    length, tile, overlap = axis
    overlap = min(overlap, tile // 2)
    tiles = plan_tiles(length, tile, overlap)
    total = np.zeros(length * scale)
    for part, weight in zip(tiles, blend_weights(tiles, overlap, scale), strict=True):
        assert weight.dtype == np.float32
        assert weight.min() >= 0
        total[part.start * scale : part.stop * scale] += weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=2e-7)


@given(axes())
@settings(deadline=None)
def test_weights_change_smoothly_and_leave_out_the_quarter_of_the_overlap_at_an_edge(
    axis: tuple[int, int, int],
) -> None:
    length, tile, overlap = axis
    overlap = min(overlap, tile // 2)
    tiles = plan_tiles(length, tile, overlap)
    weights = blend_weights(tiles, overlap, 4)
    for number, weight in enumerate(weights):
        if overlap >= 4:
            steepest = 1.5 / (4 * overlap / 2)  # of a smoothstep over half the overlap, per output px
            assert np.abs(np.diff(weight)).max() <= steepest + 1e-6
        margin = int(4 * overlap / 4)
        if number > 0:
            assert not weight[:margin].any()
        if number < len(weights) - 1:
            assert not weight[len(weight) - margin :].any()


@given(
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.integers(0, 100),
)
@settings(deadline=None)
def test_smaller_grids_shrink_to_the_smallest_tile(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> None:
    grid = TileGrid(*size, tile, overlap)
    start = grid.tile
    areas = [start[0] * start[1]]
    for smaller in grid.smaller():
        areas.append(smaller.tile[0] * smaller.tile[1])
        grid = smaller
        assert all(edge % 8 == 0 or edge == first for edge, first in zip(smaller.tile, start, strict=True))
    assert areas == sorted(set(areas), reverse=True)
    assert max(grid.tile) <= SMALLEST_TILE
    assert grid.halved() is None


def test_halved_tiles_have_about_half_the_px_and_waste_little() -> None:
    grid = TileGrid(480, 854, (480, 854), 16)
    half = grid.halved()
    assert half.tile == (480, 440)
    assert len(half) == 2
    assert half.halved().tile == (248, 440)


def test_frames_smaller_than_a_tile_are_one_tile() -> None:
    grid = TileGrid(20, 24, (192, 192), 16)
    assert grid.tile == (20, 24)
    assert list(grid) == [(slice(0, 20), slice(0, 24))]
    assert grid.redundancy == 1


def test_a_state_survives_cutting_and_stitching_on_another_grid() -> None:
    rng = np.random.default_rng(1)
    whole = {"a": rng.standard_normal((1, 2, 90, 130, 5), np.float32), "b": rng.random((1, 1, 90, 130, 3), np.float32)}
    coarse, fine = TileGrid(90, 130, (90, 72), 16), TileGrid(90, 130, (40, 48), 16)
    back = fine.stitch(fine.cut(coarse.stitch(coarse.cut(whole))))
    for name, array in whole.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_allclose(back[name], array, rtol=0, atol=2e-6)


def test_stitching_takes_each_place_from_the_tile_that_sees_most_around_it() -> None:
    grid = TileGrid(40, 96, (40, 56), 16)
    states = [{"a": np.full((1, 1, 40, 56, 1), number, np.float16)} for number in range(len(grid))]
    row = grid.stitch(states)["a"][0, 0, 7, :, 0]
    assert row.dtype == np.float16
    join = (grid.columns[1].start + 56) / 2  # the middle of the overlap
    px = np.arange(96) + 0.5
    assert (row[px < join - 4] == 0).all()
    assert (row[px > join + 4] == 1).all()
    assert (np.diff(row) >= 0).all()


def test_a_state_of_another_size_is_refused() -> None:
    grid = TileGrid(40, 100, (40, 56), 16)
    with pytest.raises(ValueError, match="axes 2 and 3"):
        grid.stitch([{"a": np.zeros((1, 1, 10, 14, 1), np.float32)}] * 2)
