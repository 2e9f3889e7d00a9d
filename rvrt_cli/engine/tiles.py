# SPDX-License-Identifier: Apache-2.0
"""Cut frames into a fixed grid of overlapping tiles, and the weights that blend the tiles into frames again.

Along each axis, the join between one tile and the next is a smooth step from 0 to 1 in the middle of their overlap; a
tile's weight is the step at its beginning minus the step at its end. The weights therefore sum to 1 by construction,
whatever the overlaps, and one accumulator suffices: nothing is divided by a sum of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from rvrt_cli.engine.network_protocol import NetworkState

ALIGN = 8  # px, the network's attention window: tiles that begin on multiples of it partition like the whole frame
SMALLEST_TILE = 32  # px
_HALVED_SHARE = 0.6  # of the px: half, and the overlap that two halves share
RAMP_SHARE = 0.5  # of the overlap is blended; the px nearer to a tile's edge, where padding shows most, are not used


def check_tile(tile: tuple[int, int], frame: tuple[int, int], reduction: int = 1) -> None:
    """Refuse a tile (h, w) that is larger than the padded frame (h, w), smaller than tiles ever get, or no whole features.

    Raises:
        ValueError: such a tile.
    """
    for edge, side in zip(tile, frame, strict=True):
        if not min(SMALLEST_TILE * reduction, side) <= edge <= side or edge % reduction:
            raise ValueError(f"a tile's edge of {edge} px on a side of {side} px")


def plan_tiles(length: int, tile: int, overlap: int, reduction: int = 1) -> list[slice]:
    """Cover [0, length) px with equal tiles that share at least `overlap` px.

    The fewest tiles that do, evenly spread, beginning on multiples of 8 px of the features (the last one excepted, which
    ends with the axis) unless tiles advance by less than that. A tile longer than the axis is shortened to it.

    Args:
        reduction: px per px of the features; all lengths are multiples of it.

    Raises:
        ValueError: `overlap` is outside [0, tile), or `length` or `tile` is not positive.
    """
    if length < 1 or tile < 1:
        raise ValueError(f"a tile of {tile} px on an axis of {length} px: both must be positive")
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} px is outside [0, {tile})")
    if tile >= length:
        return [slice(0, length)]
    align = reduction * (ALIGN if tile - overlap >= ALIGN * reduction else 1)
    longest_step = (tile - overlap) // align * align
    steps = -(-(length - tile) // longest_step)
    starts = [-(-i * (length - tile) // (steps * align)) * align for i in range(steps)]
    return [slice(start, start + tile) for start in [*starts, length - tile]]


def blend_weights(tiles: list[slice], overlap: int, scale: int = 1) -> list[np.ndarray]:
    """Weights of each tile's px along one axis; over the tiles that share a px they sum to 1.

    Args:
        tiles: as `plan_tiles` returns them.
        overlap: px that neighbors share at least; half of it is blended (`RAMP_SHARE`), in the middle of the overlap.
        scale: output px per px of `tiles`.

    Returns:
        One float32 array of `scale` × the tile's length per tile, values in [0, 1].
    """
    px = (np.arange(tiles[-1].stop * scale) + 0.5) / scale  # pixel centers
    ramp = max(RAMP_SHARE * overlap, 1 / scale)  # of no width: a change from one px to the next
    joins = [(after.start + before.stop) / 2 for before, after in pairwise(tiles)]
    rise = [np.clip((px - join) / ramp + 0.5, 0, 1) for join in joins]
    steps = [np.ones_like(px), *(x * x * (3 - 2 * x) for x in rise), np.zeros_like(px)]  # smoothstep
    return [
        (steps[i] - steps[i + 1])[tile.start * scale : tile.stop * scale].astype(np.float32)
        for i, tile in enumerate(tiles)
    ]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a frame of height × width LR px, row by row from the top left.

    `tile` (h, w) px is shortened to the frame; `overlap` px is what is asked for, at most half a tile's edge is used. Height,
    width and tile are multiples of `reduction`, LR px per px of the state.
    """

    height: int
    width: int
    tile: tuple[int, int]
    overlap: int
    reduction: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", (min(self.tile[0], self.height), min(self.tile[1], self.width)))

    @cached_property
    def rows(self) -> list[slice]:
        return plan_tiles(self.height, self.tile[0], self._overlap(0), self.reduction)

    @cached_property
    def columns(self) -> list[slice]:
        return plan_tiles(self.width, self.tile[1], self._overlap(1), self.reduction)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        return ((row, column) for row in self.rows for column in self.columns)

    @property
    def redundancy(self) -> float:
        """Px computed per px of the frame."""
        return len(self) * self.tile[0] * self.tile[1] / (self.height * self.width)

    def weights(self, scale: int = 1) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Blend weights of the rows and of the columns; a tile's weight is the product of its two."""
        return (
            blend_weights(self.rows, self._overlap(0), scale),
            blend_weights(self.columns, self._overlap(1), scale),
        )

    def smaller(self) -> Iterator[TileGrid]:
        """Ever smaller tiles for the same frame: the longer edge shrinks first, down to `SMALLEST_TILE` px of the features."""
        grid, smallest = self, SMALLEST_TILE * self.reduction
        while True:
            h, w = grid.tile
            if w >= h and w > smallest:
                tile = h, _next_edge(grid.columns, self.overlap, self.reduction)
            elif h > smallest:
                tile = _next_edge(grid.rows, self.overlap, self.reduction), w
            else:
                return
            grid = replace(self, tile=tile)
            yield grid

    def halved(self) -> TileGrid | None:
        """The first grid whose tiles have about half the px; None where tiles are the smallest already."""
        halved = None
        for halved in self.smaller():
            if halved.tile[0] * halved.tile[1] <= _HALVED_SHARE * self.tile[0] * self.tile[1]:
                break
        return halved

    def cut(self, state: NetworkState) -> list[NetworkState]:
        """The state of each tile from that of the whole frame."""
        return [
            {name: array[:, :, row, column].copy() for name, array in state.items()}
            for row, column in self._of_features()
        ]

    def stitch(self, states: list[NetworkState]) -> NetworkState:
        """The state of the whole frame from those of the tiles, blended as the output is.

        Raises:
            ValueError: an array's axes 2 and 3 are not the tile.
        """
        whole: NetworkState = {}
        grid = self._of_features()
        rows, columns = grid.weights()
        weights = [row[:, None, None] * column[:, None] for row in rows for column in columns]  # (h, w, 1) each
        for name, first in states[0].items():
            if first.shape[2:4] != grid.tile:
                raise ValueError(f"state {name!r} is {first.shape}, its axes 2 and 3 should be the tile, {grid.tile}")
            blend = np.zeros((*first.shape[:2], grid.height, grid.width, *first.shape[4:]), np.float32)
            for state, weight, (row, column) in zip(states, weights, grid, strict=True):
                blend[:, :, row, column] += weight * state[name]
            whole[name] = blend.astype(first.dtype, copy=False)
        return whole

    def _of_features(self) -> TileGrid:
        """The same tiles, in px of the state."""
        by = self.reduction
        tile = self.tile[0] // by, self.tile[1] // by
        return TileGrid(self.height // by, self.width // by, tile, -(-self.overlap // by))

    def _overlap(self, axis: int) -> int:
        by = self.reduction
        return min(-(-self.overlap // by), self.tile[axis] // by // 2) * by


def _next_edge(tiles: list[slice], overlap: int, reduction: int) -> int:
    """The longest edge below that of `tiles`, a multiple of 8 px of the features, that tiles the axis without waste."""
    length, edge, align = tiles[-1].stop, tiles[0].stop, ALIGN * reduction
    overlap = min(overlap, edge // 2)
    count = len(tiles)
    shorter = edge
    while shorter >= edge:
        count += 1
        shorter = -(-(length + (count - 1) * overlap) // (count * align)) * align
    return max(shorter, min(SMALLEST_TILE * reduction, edge))
