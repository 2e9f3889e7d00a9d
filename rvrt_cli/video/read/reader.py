# SPDX-License-Identifier: Apache-2.0
"""Frames of a source, decoded ahead of their use by a thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType

from rvrt_cli.errors import OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.video.read.decoder import VideoDecoder
from rvrt_cli.video.read.image_decoder import ImageDecoder
from rvrt_cli.video.read.source import SourceInfo

_READ_AHEAD_BYTES = 64 << 20
_MAX_QUEUED = 16


def queue_length(budget_bytes: int, frame_bytes: int) -> int:
    """Frames that a queue may hold: 2 to 16, as many as fit into `budget_bytes`."""
    return max(2, min(_MAX_QUEUED, budget_bytes // frame_bytes))


class Reader:
    """Iterates once over the frames of a source; a context manager that can be left early, quickly.

    Attributes:
        time_base: unit of the frames' `pts`, in seconds.
        warnings: damage that was survived, one line each; complete after the last frame.
        missing: frames that should be there and could not be read; known after the last frame.
        end_pts: end of the last frame, in units of `time_base`; known after the last frame.
    """

    def __init__(self, info: SourceInfo, decoder: VideoDecoder | ImageDecoder) -> None:
        self.info = info
        self.time_base = info.time_base
        self._decoder = decoder
        frame_bytes = info.width * info.height * 3 * (2 if info.bit_depth > 8 else 1)
        self._queue: queue.Queue[Frame | BaseException | None] = queue.Queue(
            maxsize=queue_length(_READ_AHEAD_BYTES, frame_bytes)
        )
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    @property
    def warnings(self) -> list[str]:
        return self._decoder.warnings

    @property
    def missing(self) -> int:
        return self._decoder.missing

    @property
    def end_pts(self) -> int | None:
        return self._decoder.end_pts

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for frame in self._decoder.frames():
                if not self._put(frame):
                    break
        except BaseException as error:
            last = error
        self._decoder.release()
        self._put(last)

    def _put(self, item: Frame | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._ended or self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, Frame):
            return item
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """Stop the decoder and its thread, whatever they are doing. Safe to call twice."""
        self._stop.set()
        self._decoder.close()
        self._thread.join()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_reader(
    info: SourceInfo,
    *,
    start: float = 0.0,
    duration: float | None = None,
    deinterlace: bool = False,
    alpha: bool = True,
) -> Reader:
    """Start reading the frames of `info`.

    Args:
        start: seconds into the source, counted from its container's beginning; earlier frames are skipped.
        duration: seconds from there on; None: to the end.
        deinterlace: combine every two fields into one progressive frame.
        alpha: deliver the source's alpha with the frames, if it has any.

    Raises:
        OptionError: `start` is negative or `duration` is not positive.
        MediaError: ffmpeg cannot be started. Later errors are raised by the iteration.
    """
    if start < 0 or (duration is not None and duration <= 0):
        raise OptionError(f"start {start} s, duration {duration} s: give a start of 0 or more and a positive duration")
    if info.kind == "images":
        return Reader(info, ImageDecoder(info, start, duration, alpha))
    return Reader(info, VideoDecoder(info, start, duration, deinterlace, alpha))
