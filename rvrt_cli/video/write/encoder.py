"""Frames into an ffmpeg process of its own, fed by a thread with a bounded queue, each with its time.

The mirror of `decoder`: PyAV writes raw RGB in NUT into ffmpeg's standard input.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.options import usable_cores
from rvrt_cli.video.ffmpeg import FFmpeg

_AHEAD_BYTES = 128 << 20
_FFMPEG_BYTES = 100 << 20  # whatever the pictures
_LARGEST_PICTURE = 2**31 - 1 - 64  # bytes: of a packet, without the room that ffmpeg wants after it
_PACKED = {(False, False): "rgb24", (True, False): "rgb48le", (False, True): "rgba", (True, True): "rgba64le"}


def encoder_bytes(width: int, height: int, pix_fmt: str, *, light: bool = False, cores: int | None = None) -> int:
    """Main memory that an encoding ffmpeg takes at most, most of it for the pictures that the encoder looks ahead to.

    Measured with libx264 at its default preset, on 720p and 1080p: 255 bytes for every px of 8-bit 4:2:0 with 3 threads,
    316 with 12, 401 with 24 (it takes one and a half for each core); 421 for 10 bits, 409 for 4:4:4. VP9, HEVC and AV1
    take up to 244; `light` ones, which look at one picture at a time (ProRes, FFV1, the preset ultrafast), 105 to 136.
    """
    cores = usable_cores() if cores is None else cores
    sample_bytes = av.VideoFormat(pix_fmt, width, height).padded_bits_per_pixel / 8  # of one px
    pixel_bytes = (234 + 10.5 * cores) * (0.35 + 0.65 * sample_bytes / 1.5)
    return int(width * height * pixel_bytes * (0.55 if light else 1)) + _FFMPEG_BYTES


class Encoder:
    """One ffmpeg that encodes frames of one size and depth.

    Errors of ffmpeg and of the thread surface at the next `write`, or at `finish`.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int,
        height: int,
        deep: bool,
        alpha: bool,
        time_base: Fraction,
        chain: str,
        output: list[str],
    ) -> None:
        """Start ffmpeg.

        Args:
            name: the target, for messages.
            width, height: of every frame, in px.
            deep: frames are uint16, else uint8.
            alpha: frames are written with alpha, opaque where they have none.
            time_base: unit of the times that `write` gets, in seconds.
            chain: filters from packed RGB to what the encoder takes.
            output: ffmpeg's arguments from the encoder to the output file.

        Raises:
            MediaError: ffmpeg does not start, or a picture is larger than it takes.
        """
        size = width * height * (4 if alpha else 3) * (2 if deep else 1)
        if size > _LARGEST_PICTURE:  # PyAV would cut it short without a word
            raise MediaError(
                f"{name}: a picture of {width}x{height} px has {size} bytes, and ffmpeg takes less than 2 GiB; choose a "
                "smaller --size or --scale"
            )
        self.name = name
        self.written = 0
        self._shape = (height, width, 3)
        self._dtype = np.dtype("<u2") if deep else np.dtype(np.uint8)
        self._alpha = alpha
        base = f"{time_base.numerator}/{time_base.denominator}"
        source = ["-copyts", "-probesize", "32", "-analyzeduration", "0", "-f", "nut", "-i", "pipe:0", "-map", "0:v:0"]
        times = ["-fps_mode", "passthrough", "-enc_time_base", base]
        self._ffmpeg = FFmpeg([*source, "-vf", chain, *times, *output], stdin=True)
        pipe = self._ffmpeg.process.stdin
        assert pipe is not None
        try:
            self._nut = av.open(f"pipe:{pipe.fileno()}", "w", format="nut")
            stream: Any = self._nut.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, _PACKED[deep, alpha]
            stream.time_base = stream.codec_context.time_base = time_base
        except BaseException:
            self._ffmpeg.kill()
            raise
        self._stream, self._base = stream, time_base
        ahead = max(2, min(16, _AHEAD_BYTES // (width * height * 3 * self._dtype.itemsize)))
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Queue one frame; its `pts` must be later than the last one's and not below 0.

        Raises:
            MediaError: ffmpeg has failed.
            ValueError: the frame does not have the promised size or depth.
        """
        if frame.pixels.shape != self._shape or frame.pixels.dtype != self._dtype:
            raise ValueError(
                f"frame of {frame.pixels.shape} {frame.pixels.dtype}, but the target takes {self._shape} {self._dtype}"
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
        """End ffmpeg now. Safe to call twice and after `finish`."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._ffmpeg.process.kill()
        self._thread.join()
        # Before the pipe: PyAV would write its trailer to whatever file has got the pipe's number by then
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self._nut.close()
        self._ffmpeg.kill()

    @property
    def lines(self) -> list[str]:
        """What ffmpeg has said so far."""
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
        if self._alpha:
            alpha = frame.alpha
            if alpha is None:
                alpha = np.full(pixels.shape[:2], np.iinfo(self._dtype).max, self._dtype)
            pixels = np.dstack([pixels, alpha])
        packet: Any = av.Packet(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
        packet.stream = self._stream
        packet.time_base = self._base
        packet.pts = packet.dts = frame.pts
        packet.is_keyframe = True
        return packet

    def _put(self, item: Frame | None) -> None:
        while True:
            if self._error is not None:
                self._fail()
            if self._stop.is_set():
                raise MediaError(f"{self.name}: writing was already ended")
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _fail(self) -> None:
        """Raise what went wrong: ffmpeg's own words when it has ended, else the thread's exception."""
        error = self._error
        if isinstance(error, (av.error.FFmpegError, OSError)) or error is None:
            self.abort()
            raise MediaError(f"{self.name}: cannot be encoded: {self._ffmpeg.last_error()}") from error
        self.abort()
        raise error
