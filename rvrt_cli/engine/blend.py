"""Pixels to the network's numbers and back, and tiles to frames."""

from __future__ import annotations

import numpy as np

from rvrt_cli.engine.tiles import TileGrid

_ROWS = 32  # converted at a time, so that they stay in the processor's cache


def to_network(frames: list[np.ndarray], rows: slice, columns: slice) -> np.ndarray:
    """One tile of frames (H, W, 3), uint8 or uint16, as (1, T, 3, h, w) float32 in [0, 1]."""
    shape = (1, len(frames), 3, rows.stop - rows.start, columns.stop - columns.start)
    tile = np.empty(shape, np.float32)
    for number, frame in enumerate(frames):
        top = np.iinfo(frame.dtype).max
        np.divide(frame[rows, columns].transpose(2, 0, 1), top, out=tile[0, number], dtype=np.float32)
    return tile


def to_pixels(values: np.ndarray, pixels: np.ndarray) -> None:
    """Write (3, h, w) float values into integer `pixels` (h, w, 3): clipped to [0, 1], rounded to the nearest level.

    Exact halves go to the even level (`np.rint`), so that rounding adds no bias.
    """
    top = np.iinfo(pixels.dtype).max
    for start in range(0, values.shape[1], _ROWS):
        levels = np.clip(values[:, start : start + _ROWS], 0, 1)
        levels *= top
        whole = np.rint(levels, out=levels).astype(pixels.dtype)
        for channel in range(3):  # three times faster than one transposed copy
            pixels[start : start + _ROWS, :, channel] = whole[channel]


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
        self._strip = np.zeros((frames, 3, scale * grid.tile[0], size[1]), np.float32) if len(grid) > 1 else None

    def add(self, output: np.ndarray) -> None:
        """Blend in the next tile: (frames, 3, scale*h, scale*w) float32."""
        row, column = divmod(self._tiles, len(self._columns))
        self._tiles += 1
        if self._strip is None:
            self._write(output, 0)
            return
        weight = self._row_weights[row][:, None] * self._column_weights[column]
        place = self._strip[..., self._columns[column]]
        for here, values in zip(place, output, strict=True):  # frame by frame: the product is not held for all
            here += weight * values
        if column == len(self._columns) - 1:
            self._finish(row)

    def _finish(self, row: int) -> None:
        """Turn what only rows up to `row` cover into pixels, and move the rest of the strip up for the next row."""
        assert self._strip is not None
        start = self._rows[row].start
        done = (self._rows[row + 1].start if row + 1 < len(self._rows) else self._rows[row].stop) - start
        self._write(self._strip[:, :, :done], start)
        for strip in self._strip:
            strip[:, :-done] = strip[:, done:].copy()
            strip[:, -done:] = 0

    def _write(self, values: np.ndarray, start: int) -> None:
        for frame, frame_values in zip(self.frames, values, strict=True):
            to_pixels(frame_values, frame[start : start + frame_values.shape[1]])
