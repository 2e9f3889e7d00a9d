# SPDX-License-Identifier: Apache-2.0
"""Pixels to the network's floats and back, and tiles to frames.

T frames, H×W frame size [px], h×w tile size [px]; channels last, 3 of RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rvrt_cli.engine.tiles import TileGrid
from rvrt_cli.frame import to_float, to_pixels


def cut_tile(frames: Sequence[np.ndarray], rows: slice, columns: slice) -> np.ndarray:
    """One tile of frames (H, W, 3), uint8, uint16 or float32, as (1, T, h, w, 3) float32 in [0, 1]."""
    tile = np.empty((1, len(frames), rows.stop - rows.start, columns.stop - columns.start, 3), np.float32)
    for frame, out in zip(frames, tile[0], strict=True):
        to_float(frame[rows, columns], out)
    return tile


class Canvas:
    """The output frames of one window, filled tile by tile in the grid's order.

    Only one row of tiles is held in float32; what no further tile touches turns into pixels at once.
    """

    def __init__(self, grid: TileGrid, frames: int, scale: int, dtype: np.dtype) -> None:
        size = (scale * grid.height, scale * grid.width, 3)
        self.frames = [np.empty(size, dtype) for _ in range(frames)]  # one array each: a frame that is written is freed
        self._rows = [slice(scale * row.start, scale * row.stop) for row in grid.rows]
        self._columns = [slice(scale * column.start, scale * column.stop) for column in grid.columns]
        self._row_weights, self._column_weights = grid.weights(scale)
        self._tiles = 0  # added so far
        # rows of pixels and channels as one axis: NumPy is slow on an innermost axis of three
        self._strip = np.zeros((frames, scale * grid.tile[0], 3 * size[1]), np.float32) if len(grid) > 1 else None

    def add(self, output: np.ndarray) -> None:
        """Blend in the next tile: (frames, scale*h, scale*w, 3) float32."""
        row, column = divmod(self._tiles, len(self._columns))
        self._tiles += 1
        if self._strip is None:
            self._write(output, 0)
            return
        weight = self._row_weights[row][:, None] * np.repeat(self._column_weights[column], 3)
        columns = self._columns[column]
        place = self._strip[:, :, 3 * columns.start : 3 * columns.stop]
        for here, values in zip(place, output, strict=True):  # frame by frame: the product is not held for all
            here += weight * values.reshape(weight.shape)
        if column == len(self._columns) - 1:
            self._finish_row(row)

    def _finish_row(self, row: int) -> None:
        """Turn what only rows up to `row` cover into pixels, and move the rest of the strip up for the next row."""
        assert self._strip is not None
        start = self._rows[row].start
        done = (self._rows[row + 1].start if row + 1 < len(self._rows) else self._rows[row].stop) - start
        self._write(self._strip[:, :done].reshape(len(self.frames), done, -1, 3), start)
        for strip in self._strip:
            strip[:-done] = strip[done:].copy()
            strip[-done:] = 0

    def _write(self, values: np.ndarray, start: int) -> None:
        for frame, rows in zip(self.frames, values, strict=True):
            to_pixels(rows, frame[start : start + len(rows)])
