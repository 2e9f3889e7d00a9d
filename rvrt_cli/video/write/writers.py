# SPDX-License-Identifier: Apache-2.0
"""Writers of frames: SegmentWriter for files and PNG folders, Y4mWriter for standard output.

Both are used the same way, the second with a single segment:

    with writer:
        with writer.segment(first):
            writer.write(frame)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import file_url
from rvrt_cli.video.mux.video_packets import find_loss
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.encoder import Encoder, RawFormat
from rvrt_cli.video.write.publish import IMAGE_FOLDER, image_file, part_file
from rvrt_cli.video.write.target import Target

_MAX_ASPECT_TERM = 10_000  # of numerator and denominator


class _FrameWriter:
    """What both writers share: one encoder per segment, discarded on errors.

    Attributes:
        target: as decided by `check_target`.
        written: frames accepted so far.
    """

    def __init__(self, target: Target, source: SourceInfo, time_base: Fraction) -> None:
        self.target = target
        self.written = 0
        self._source, self._time_base = source, time_base
        self._encoder: Encoder | None = None
        self._first = 0  # frame of the open segment
        self._timestamps: list[int] = []  # of its frames, on the output's clock

    @contextlib.contextmanager
    def segment(self, first: int) -> Iterator[None]:
        """Encode the frames written inside as the segment that starts with output frame `first` (from 0).

        On leaving, the segment is completed and checked; on an exception it is discarded.

        Raises:
            MediaError: ffmpeg does not start or fails, no frame was written, or the segment cannot be stored.
        """
        self._first, self._timestamps = first, []
        target, source = self.target, self._source
        self._encoder = Encoder(
            target.name,
            RawFormat(target.width, target.height, deep=source.bit_depth > 8, alpha=target.keeps_alpha),
            self._time_base,
            filters=f"{target.filter_chain},setsar=sar={_sample_aspect(source, target)}:max=65535",
            output=[*target.options, "-pix_fmt", target.upload or target.pix_fmt, *self._output(first)],
        )
        try:
            yield
            if not self._encoder.written:
                raise MediaError(f"{target.path}: no frame was written; check --start and --duration")
            self._encoder.finish()
            self._complete(first)
        finally:
            self.close()

    def write(self, frame: Frame) -> None:
        """Queue one frame; waits while the encoder is behind. `pts` must increase from frame to frame.

        Raises:
            MediaError: the encoder has failed.
            ValueError: the frame has another size or depth than the target.
        """
        assert self._encoder is not None, "no segment is open"
        pts = self._output_pts(frame)
        self._encoder.write(replace(frame, pts=pts))
        self._timestamps.append(pts)
        self.written += 1

    def _output_pts(self, frame: Frame) -> int:
        raise NotImplementedError

    def _output(self, first: int) -> list[str]:
        """ffmpeg's arguments for format and file."""
        raise NotImplementedError

    def _complete(self, first: int) -> None:
        """Check and store the segment, whose encoder has finished."""

    def close(self) -> None:
        """Stop the encoder of a segment that is open, if any. Safe to call twice."""
        if self._encoder is not None:
            self._encoder.abort()
            self._encoder = None

    def __enter__(self) -> _FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SegmentWriter(_FrameWriter):
    """Writes segments of a video or PNG folder as files in a folder, from which `assemble` makes the result."""

    def __init__(self, target: Target, source: SourceInfo, folder: Path, *, time_base: Fraction, start: float) -> None:
        """Prepare an existing folder.

        Args:
            folder: on the target's file system, since the result is renamed in the end.
            time_base: unit of the frames' `pts`, in seconds.
            start: seconds into the source, as given to `open_reader`; the output's timestamps count from there.

        Raises:
            MediaError: the folder cannot be written.
        """
        super().__init__(target, source, time_base)
        self._folder = folder
        self._zero = source.output_zero(start) // time_base
        if target.holds_images:
            with self._storing():
                (folder / IMAGE_FOLDER).mkdir(exist_ok=True)

    def _output_pts(self, frame: Frame) -> int:
        return frame.pts - self._zero

    def _output(self, first: int) -> list[str]:
        if self.target.holds_images:
            pattern = file_url(self._folder / IMAGE_FOLDER).replace("%", "%%") + f"/%06d{self.target.part_suffix}"
            return ["-f", "image2", "-start_number", str(first + 1), pattern]
        part = self._unfinished_part(first)
        part.unlink(missing_ok=True)  # of a run that was killed
        return ["-avoid_negative_ts", "disabled", "-f", self.target.muxer, file_url(part)]

    def _unfinished_part(self, first: int) -> Path:
        return self._folder / f"{first:08d}.part"

    def _complete(self, first: int) -> None:
        with self._storing():
            if self.target.holds_images:
                for number in range(first, first + len(self._timestamps)):
                    _sync_to_disk(image_file(self.target, self._folder, number))
                return
            part = self._unfinished_part(first)
            lost = find_loss(part, [pts * self._time_base for pts in self._timestamps])
            if lost:
                raise MediaError(f"{self.target.path}: the encoder lost {lost}; choose another --codec")
            store_part(part, part_file(self.target, self._folder, first))

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self.target.path
            raise MediaError(f"{path}: cannot be written ({error.strerror}); choose another place") from error

    def close(self) -> None:
        """Discard a segment that is open, if any. Safe to call twice."""
        is_open = self._encoder is not None
        super().close()
        if is_open and not self.target.holds_images:
            with contextlib.suppress(OSError):
                self._unfinished_part(self._first).unlink(missing_ok=True)


class Y4mWriter(_FrameWriter):
    """Writes y4m to standard output; its frames come at a constant rate, whatever their timestamps."""

    def __init__(self, target: Target, source: SourceInfo) -> None:
        super().__init__(target, source, 1 / source.frame_rate)

    def _output_pts(self, frame: Frame) -> int:
        return self.written

    def _output(self, first: int) -> list[str]:
        return ["-f", "yuv4mpegpipe", "pipe:1"]


def store_part(part: Path, path: Path) -> None:
    """Give a complete part its final name, once it is on the disk."""
    _sync_to_disk(part)
    part.replace(path)


def _sync_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sample_aspect(info: SourceInfo, target: Target) -> str:
    """Sample aspect ratio that preserves the display aspect; the source's own where sizes differ only by rounding."""
    stretched = info.sample_aspect * Fraction(info.width * target.height, info.height * target.width)
    aspect = info.sample_aspect if abs(stretched / info.sample_aspect - 1) < Fraction(1, 100) else stretched
    aspect = aspect.limit_denominator(_MAX_ASPECT_TERM)
    return f"{aspect.numerator}/{aspect.denominator}"
