"""Frames of a source, decoded ahead of their use by a thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.video.read import image_files
from rvrt_cli.video.read.decoder import VideoDecoder
from rvrt_cli.video.read.probe import SourceInfo

__all__ = ["Frame", "Reader", "open_reader"]

_AHEAD_BYTES = 64 << 20


class Reader:
    """Iterates once over the frames of a source; a context manager, and leaving it early is quick.

    Attributes:
        time_base: unit of the frames' `pts`, in seconds.
        warnings: what was found wrong and survived, one line each; complete after the last frame.
        missing: frames that should have been there and were not; known after the last frame.
        until: when the last frame gives way, as a `pts`; known after the last frame.
    """

    def __init__(self, info: SourceInfo, decoder: VideoDecoder | ImageDecoder) -> None:
        self.info = info
        self.time_base = info.time_base
        self._decoder = decoder
        sample = 2 if info.bit_depth > 8 else 1
        ahead = max(2, min(16, _AHEAD_BYTES // (info.width * info.height * 3 * sample)))
        self._queue: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=ahead)
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
        return self._decoder.until

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
        """End the decoder and its thread, wherever they are. Safe to call twice."""
        self._stop.set()
        self._decoder.close()
        self._thread.join()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageDecoder:
    """The images of a sequence, one after the other; frame i is shown at i / fps."""

    def __init__(self, info: SourceInfo, start: float, duration: float | None, alpha: bool) -> None:
        self.info = info
        self._alpha = alpha
        self.warnings: list[str] = []
        self.missing = 0
        self.until: int | None = None
        self._closed = threading.Event()
        self._start = start
        self._end = None if duration is None else start + duration

    def frames(self) -> Iterator[Frame]:
        """The images as frames.

        Raises:
            MediaError: one cannot be read, has another size than the first, or none lies in the wanted part.
        """
        info = self.info
        count = 0
        for number, path in enumerate(info.files):
            moment = float(number * info.time_base)
            if self._closed.is_set() or (self._end is not None and moment >= self._end - 1e-9):
                break
            if moment < self._start - 1e-9:
                continue
            pixels, alpha = image_files.read_image(path, deep=info.bit_depth > 8)
            if pixels.shape[:2] != (info.height, info.width):
                raise MediaError(
                    f"{path}: {pixels.shape[1]}x{pixels.shape[0]} px, but the first image of the sequence has "
                    f"{info.width}x{info.height}; make them equal or upscale them apart"
                )
            count += 1
            self.until = number + 1
            yield Frame(pixels, number, alpha if self._alpha else None)
        if not count and not self._closed.is_set():
            raise MediaError(f"{info.path}: no image in the part that was asked for; check --start and --duration")

    def close(self) -> None:
        """Stop after the image that is being read."""
        self._closed.set()

    def release(self) -> None:
        """Nothing is held."""


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
        start: seconds into the source, counted from its container's beginning; frames before it are left out.
        duration: seconds from there on; None: to the end.
        deinterlace: make one progressive frame of every two fields.
        alpha: frames carry the source's alpha, if it has any.

    Raises:
        OptionError: `start` or `duration` is negative.
        MediaError: ffmpeg cannot be started. What goes wrong later is raised by the iteration.
    """
    if start < 0 or (duration is not None and duration <= 0):
        raise OptionError(f"start {start} s, duration {duration} s: give a start of 0 or more and a positive duration")
    if info.kind == "images":
        return Reader(info, ImageDecoder(info, start, duration, alpha))
    return Reader(info, VideoDecoder(info, start, duration, deinterlace, alpha))
