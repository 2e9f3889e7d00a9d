# SPDX-License-Identifier: Apache-2.0
"""One ffmpeg process that encodes frames with their timestamps, fed by a thread with a bounded queue.

The mirror image of `rvrt_cli.video.read.decoder`: PyAV writes raw RGB in NUT into ffmpeg's standard input.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.options import usable_cores
from rvrt_cli.video.ffmpeg import FFmpeg
from rvrt_cli.video.read.reader import queue_length

_WRITE_QUEUE_BYTES = 128 << 20
_FFMPEG_BYTES = 100 << 20  # whatever the size of the frames
_MAX_PACKET_BYTES = 2**31 - 1 - 64  # int32, less the padding that ffmpeg appends
_PACKED_PIX_FMT = {(False, False): "rgb24", (True, False): "rgb48le", (False, True): "rgba", (True, True): "rgba64le"}


def encoder_bytes(width: int, height: int, pix_fmt: str, *, light: bool = False, cores: int | None = None) -> int:
    """Upper bound of the main memory of an encoding ffmpeg, most of it for the encoder's lookahead.

    Measured with libx264 at its default preset, on 720p and 1080p: 255 bytes per px of 8-bit 4:2:0 with 3 threads, 316
    with 12, 401 with 24 (it starts one and a half per core); 421 at 10 bits, 409 for 4:4:4. VP9, HEVC and AV1 take up to
    244; `light` encoders, without lookahead (ProRes, FFV1, the preset ultrafast), 105 to 136.
    """
    cores = usable_cores() if cores is None else cores
    bytes_per_px = av.VideoFormat(pix_fmt, width, height).padded_bits_per_pixel / 8
    lookahead_bytes_per_px = (234 + 10.5 * cores) * (0.35 + 0.65 * bytes_per_px / 1.5)
    return int(width * height * lookahead_bytes_per_px * (0.55 if light else 1)) + _FFMPEG_BYTES


@dataclass(frozen=True)
class RawFormat:
    """Frames on their way into ffmpeg: size in px; `deep`: uint16, else uint8; `alpha`: RGBA, else RGB."""

    width: int
    height: int
    deep: bool = False
    alpha: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2") if self.deep else np.dtype(np.uint8)

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * (4 if self.alpha else 3) * self.dtype.itemsize

    @property
    def pix_fmt(self) -> str:
        return _PACKED_PIX_FMT[self.deep, self.alpha]

    def check_size(self, name: str) -> None:
        """Refuse frames that are larger than ffmpeg's packets; PyAV would truncate them silently.

        Raises:
            MediaError: with the target's `name`.
        """
        if self.frame_bytes > _MAX_PACKET_BYTES:
            raise MediaError(
                f"{name}: a frame of {self.width}x{self.height} px has {self.frame_bytes} bytes, and ffmpeg accepts less "
                "than 2 GiB; choose a smaller --size or --scale"
            )


class Encoder:
    """One ffmpeg that encodes frames of one format.

    Errors of ffmpeg and of the feeding thread surface at the next `write`, or at `finish`.
    """

    def __init__(self, name: str, raw: RawFormat, time_base: Fraction, filters: str, output: list[str]) -> None:
        """Start ffmpeg.

        Args:
            name: the target, for messages.
            raw: of every frame; with alpha, frames that have none are opaque.
            time_base: unit of the frames' `pts`, in seconds.
            filters: from packed RGB to what the encoder accepts.
            output: ffmpeg's arguments from the encoder to the output file.

        Raises:
            MediaError: ffmpeg does not start, or a frame is larger than it accepts.
        """
        raw.check_size(name)
        self.name = name
        self.written = 0
        self._raw, self._time_base = raw, time_base
        base = f"{time_base.numerator}/{time_base.denominator}"
        source = ["-copyts", "-probesize", "32", "-analyzeduration", "0", "-f", "nut", "-i", "pipe:0", "-map", "0:v:0"]
        timing = ["-fps_mode", "passthrough", "-enc_time_base", base]
        self._ffmpeg = FFmpeg([*source, "-vf", filters, *timing, *output], stdin=True)
        pipe = self._ffmpeg.process.stdin
        assert pipe is not None
        try:
            self._nut = av.open(f"pipe:{pipe.fileno()}", "w", format="nut")
            stream: Any = self._nut.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = raw.width, raw.height, raw.pix_fmt
            stream.time_base = stream.codec_context.time_base = time_base
        except BaseException:
            self._ffmpeg.kill()
            raise
        self._stream = stream
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=queue_length(_WRITE_QUEUE_BYTES, raw.frame_bytes))
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Queue one frame; its `pts` must be 0 or more, and increase from frame to frame.

        Raises:
            MediaError: ffmpeg has failed.
            ValueError: the frame has another size or depth than `raw`.
        """
        shape, dtype = (self._raw.height, self._raw.width, 3), self._raw.dtype
        if frame.pixels.shape != shape or frame.pixels.dtype != dtype:
            raise ValueError(
                f"frame of {frame.pixels.shape} {frame.pixels.dtype}, but the target needs {shape} {dtype}"
            )
        self._put(frame)
        self.written += 1

    def finish(self) -> None:
        """Wait until everything is encoded and the output is complete.

        Raises:
            MediaError: ffmpeg has failed.
        """
        self._put(None)
        self._thread.join()
        if self._error is not None:
            self._fail()
        pipe = self._ffmpeg.process.stdin
        assert pipe is not None
        try:
            self._nut.close()
            pipe.close()
        except (av.error.FFmpegError, OSError) as error:
            self._error = error
            self._fail()
        if self._ffmpeg.wait() != 0:
            self._fail()
        self._ffmpeg.kill()  # it has ended; this closes its pipes

    def abort(self) -> None:
        """Kill ffmpeg. Safe to call twice and after `finish`."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._ffmpeg.process.kill()
        self._thread.join()
        # Before the pipe is closed: PyAV would write its trailer to whatever file has the pipe's descriptor by then
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._nut.close()
        self._ffmpeg.kill()

    @property
    def lines(self) -> list[str]:
        """ffmpeg's log so far."""
        return list(self._ffmpeg.lines)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    frame = self._queue.get(timeout=0.1)
                except queue.Empty:
                    if self._ffmpeg.process.poll() is not None:
                        raise BrokenPipeError("ffmpeg has ended") from None
                    continue
                if frame is None:
                    return
                self._nut.mux(self._packet(frame))
        except BaseException as error:
            self._error = error

    def _packet(self, frame: Frame) -> Any:
        pixels = frame.pixels
        if self._raw.alpha:
            alpha = frame.alpha
            if alpha is None:
                alpha = np.full(pixels.shape[:2], np.iinfo(self._raw.dtype).max, self._raw.dtype)
            pixels = np.dstack([pixels, alpha])
        packet: Any = av.Packet(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
        packet.stream = self._stream
        packet.time_base = self._time_base
        packet.pts = packet.dts = frame.pts
        packet.is_keyframe = True
        return packet

    def _put(self, item: Frame | None) -> None:
        while True:
            if self._error is not None:
                self._fail()
            if self._stop.is_set():
                raise MediaError(f"{self.name}: the encoder was stopped; run it again")
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _fail(self) -> None:
        """Raise what went wrong: ffmpeg's own message when it has ended, else the thread's exception."""
        error = self._error
        if isinstance(error, (av.error.FFmpegError, OSError)) or error is None:
            self.abort()
            raise MediaError(f"{self.name}: cannot be encoded: {self._ffmpeg.last_error()}") from error
        self.abort()
        raise error
