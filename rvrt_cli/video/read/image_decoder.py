# SPDX-License-Identifier: Apache-2.0
"""Frames of an image sequence, with the interface of `VideoDecoder`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.read.image_files import read_image
from rvrt_cli.video.read.source import SourceInfo

_FRAME_TIME_TOLERANCE = 1e-9  # s: an image number over the frame rate is seldom an exact float


class ImageDecoder:
    """The images of a sequence, one after the other; frame i is shown at i / fps."""

    def __init__(self, info: SourceInfo, start: float, duration: float | None, alpha: bool) -> None:
        self.info = info
        self._alpha = alpha
        self.warnings: list[str] = []
        self.missing = 0
        self.end_pts: int | None = None
        self._closed = threading.Event()
        self._start = start
        self._end = None if duration is None else start + duration

    def frames(self) -> Iterator[Frame]:
        """The images as frames.

        Raises:
            MediaError: one cannot be read or differs in size from the first, or none lies in the requested part.
        """
        info = self.info
        count = 0
        for number, path in enumerate(info.files):
            shown_at = float(number * info.time_base)
            if self._closed.is_set() or (self._end is not None and shown_at >= self._end - _FRAME_TIME_TOLERANCE):
                break
            if shown_at < self._start - _FRAME_TIME_TOLERANCE:
                continue
            pixels, alpha = read_image(path, deep=info.bit_depth > 8)
            if pixels.shape[:2] != (info.height, info.width):
                raise MediaError(
                    f"{path}: {pixels.shape[1]}x{pixels.shape[0]} px, but the first image of the sequence has "
                    f"{info.width}x{info.height}; make the sizes equal or upscale the images separately"
                )
            count += 1
            self.end_pts = number + 1
            yield Frame(pixels, number, alpha if self._alpha else None)
        if not count and not self._closed.is_set():
            raise MediaError(f"{info.path}: no image in the requested part; check --start and --duration")

    def close(self) -> None:
        """Stop after the image that is being read."""
        self._closed.set()

    def release(self) -> None:
        """Nothing is held."""
