# SPDX-License-Identifier: Apache-2.0
"""Frames of an image sequence, with the interface of `VideoDecoder`."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.read.image_files import read_image
from rvrt_cli.video.read.source import SourceInfo

_FRAME_TIME_TOLERANCE = 1e-9  # s: an image number over the frame rate is seldom an exact float


def images_shown(info: SourceInfo, start: float, duration: float | None) -> range:
    """Numbers of the images of a sequence that are shown from `start` for `duration` seconds (None: to the end)."""
    end = float("inf") if duration is None else start + duration
    times = [float(number * info.time_base) + _FRAME_TIME_TOLERANCE for number in range(len(info.files))]
    return range(bisect_left(times, start), bisect_left(times, end))


class ImageDecoder:
    """The images of a sequence, one after the other; frame i is shown at i / fps."""

    def __init__(self, info: SourceInfo, start: float, duration: float | None, alpha: bool) -> None:
        self.info = info
        self._alpha = alpha
        self.warnings: list[str] = []
        self.missing = 0
        self.end_pts: int | None = None
        self._closed = threading.Event()
        self._part = images_shown(info, start, duration)

    def frames(self) -> Iterator[Frame]:
        """The images as frames.

        Raises:
            MediaError: one cannot be read or differs in size from the first, or none lies in the requested part.
        """
        info = self.info
        for number in self._part:
            if self._closed.is_set():
                break
            path = info.files[number]
            pixels, alpha = read_image(path, deep=info.bit_depth > 8)
            if pixels.shape[:2] != (info.height, info.width):
                raise MediaError(
                    f"{path}: {pixels.shape[1]}x{pixels.shape[0]} px, but the first image of the sequence has "
                    f"{info.width}x{info.height}; make the sizes equal or upscale the images separately"
                )
            self.end_pts = number + 1
            yield Frame(pixels, number, alpha if self._alpha else None)
        if not self._part and not self._closed.is_set():
            raise MediaError(f"{info.path}: no image in the requested part; check --start and --duration")

    def close(self) -> None:
        """Stop after the image that is being read."""
        self._closed.set()

    def release(self) -> None:
        """Nothing is held."""
