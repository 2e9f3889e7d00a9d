"""Frames into a target that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import file_url
from rvrt_cli.video.mux.final_mux import lost_in
from rvrt_cli.video.read.probe import SourceInfo
from rvrt_cli.video.write.encoder import Encoder
from rvrt_cli.video.write.publish import FRAMES, image_file, join, part_file, publish
from rvrt_cli.video.write.target import Target, check_target

__all__ = ["Writer", "open_writer"]


class Writer:
    """Takes frames, segment by segment; a context manager: leaving it discards the segment that is not ended.

    Without `work` it is one segment in a folder of its own, and `finish` makes the target of it. With `work`, a folder
    that stays, every ended segment is a file there, for `finish.join` to put together.

    Attributes:
        target: what `check_target` decided; its `notes` are worth telling.
        path: where the result is after `finish`.
        written: frames taken so far.
        warnings: what was wrong with the source's other streams and survived, one line each; known after `finish`.
    """

    def __init__(
        self,
        target: Target,
        info: SourceInfo,
        *,
        time_base: Fraction,
        source_mux: bool,
        start: float,
        duration: float | None,
        work: Path | None,
    ) -> None:
        self.target = target
        self.path = target.path
        self.written = 0
        self.warnings: list[str] = []
        self._info, self._base = info, time_base
        self._source_mux = source_mux
        self._start, self._duration = start, duration
        self._zero = info.zero(start) // time_base  # times in the output count from here
        self._encoder: Encoder | None = None
        self._first = 0  # frame of the segment
        self._times: list[int] = []  # of its frames
        self._whole = work is None
        # A hidden neighbor on the same file system: the last step is a mere renaming
        self._work = work or target.path.absolute().parent / f".{target.path.name[:80]}.{secrets.token_hex(4)}.part"
        try:
            if work is None and target.kind != "y4m":
                self._work.mkdir()
            if target.kind == "folder":
                (self._work / FRAMES).mkdir(exist_ok=True)
            if work is None:
                self.begin(0)
        except OSError as error:
            raise MediaError(f"{target.path}: cannot be written ({error.strerror}); choose another place") from error
        except BaseException:
            self.close()
            raise

    def begin(self, first: int) -> None:
        """Start a segment with frame `first` (from 0) of the output.

        Raises:
            MediaError: ffmpeg does not start.
        """
        target, info = self.target, self._info
        self._first, self._times = first, []
        self._encoder = Encoder(
            target.path.name if target.kind != "y4m" else "standard output",
            width=target.width,
            height=target.height,
            deep=info.bit_depth > 8,
            alpha=target.keeps_alpha,
            time_base=self._base if target.kind != "y4m" else 1 / info.frame_rate,
            chain=f"{target.chain},setsar=sar={_aspect(info, target)}:max=65535",
            output=self._output(first),
        )

    def _output(self, first: int) -> list[str]:
        target = self.target
        options = [*target.options, "-pix_fmt", target.pix_fmt]
        if target.kind == "y4m":
            return [*options, "-f", "yuv4mpegpipe", "pipe:1"]
        if target.kind == "folder":
            pattern = file_url(self._work / FRAMES).replace("%", "%%") + "/%06d.png"
            return [*options, "-f", "image2", "-start_number", str(first + 1), pattern]
        part = self._part(first)
        part.unlink(missing_ok=True)  # of a run that was killed
        return [*options, "-avoid_negative_ts", "disabled", "-f", target.muxer, file_url(part)]

    def _part(self, first: int) -> Path:
        return self._work / f"{first:08d}.part"

    def write(self, frame: Frame) -> None:
        """Take one frame; waits while the encoder is behind. `pts` must increase from frame to frame.

        Raises:
            MediaError: the encoder has failed.
            ValueError: the frame has another size or depth than the target.
        """
        assert self._encoder is not None, "no segment has begun"
        pts = frame.pts - self._zero if self.target.kind != "y4m" else self.written
        self._encoder.write(Frame(frame.pixels, pts, frame.alpha))
        self._times.append(pts)
        self.written += 1

    def end(self) -> None:
        """No more frames for this segment: wait until it is complete.

        Raises:
            MediaError: the encoder has failed, or the segment cannot be kept.
        """
        assert self._encoder is not None, "no segment has begun"
        self._encoder.finish()
        try:
            if self.target.kind == "video":
                self._check_times(self._part(self._first))
                keep(self._part(self._first), part_file(self.target, self._work, self._first))
            elif self.target.kind == "folder":
                for number in range(self._first, self._first + self._encoder.written):
                    _reach_disk(image_file(self._work, number))
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({error.strerror}); choose another place") from error
        self._encoder = None

    def _check_times(self, part: Path) -> None:
        lost = lost_in(part, [pts * self._base for pts in self._times])
        if lost:
            raise MediaError(f"{self.path}: the encoder lost {lost}; choose another --codec")

    def finish(self, until: int | None = None) -> None:
        """Without a `work` folder: complete the target and give it its name.

        Args:
            until: when the last frame gives way, as a `pts`; None: after the average time of a frame.

        Raises:
            MediaError: nothing was written, or encoding, muxing or renaming failed; nothing is left behind then.
        """
        assert self._whole
        try:
            if not self.written:
                raise MediaError(f"{self.path}: not a single frame was written")
            self.end()
            if self.target.kind != "y4m":
                result = join(
                    self.target, self._info, self._work, [part_file(self.target, self._work, 0)], self.written,
                    until=until * self._base if until is not None else None, source_mux=self._source_mux,
                    start=self._start, duration=self._duration, warnings=self.warnings,
                )  # fmt: skip
                self.path = publish(self.target, result)
        finally:
            self.close()

    def close(self) -> None:
        """End the encoder and remove what is not to be kept. Safe to call twice."""
        if self._encoder is not None:
            self._encoder.abort()
        with contextlib.suppress(OSError):
            if self._whole and self.target.kind != "y4m":
                shutil.rmtree(self._work, ignore_errors=True)
            elif self._encoder is not None:
                self._part(self._first).unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def keep(part: Path, path: Path) -> None:
    """Give a complete file its name, once it has reached the disk."""
    _reach_disk(part)
    part.replace(path)


def _reach_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _aspect(info: SourceInfo, target: Target) -> str:
    """Sample aspect that keeps the picture's shape; the source's own where sizes only differ by rounding."""
    stretched = info.sample_aspect * Fraction(info.width * target.height, info.height * target.width)
    aspect = info.sample_aspect if abs(stretched / info.sample_aspect - 1) < Fraction(1, 100) else stretched
    aspect = aspect.limit_denominator(10_000)
    return f"{aspect.numerator}/{aspect.denominator}"


def open_writer(
    target: str | Path | Target,
    info: SourceInfo,
    *,
    width: int,
    height: int,
    time_base: Fraction | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    overwrite: bool = False,
    source_mux: bool = True,
    start: float = 0.0,
    duration: float | None = None,
    work: Path | None = None,
) -> Writer:
    """Start writing frames of `width` x `height` px, uint16 if `info.bit_depth` is over 8 and uint8 otherwise.

    Args:
        target: a file, a folder or "-", or what `check_target` has made of it already (its own options hold then).
        time_base: unit of the frames' `pts`, in seconds; the source's unless given.
        codec, crf, preset, pix_fmt, overwrite, source_mux: see `check_target`.
        start, duration: the part of the source that the frames come from, in seconds, as given to `open_reader`; the
            same part of the sound is copied, and the output begins at 0.
        work: an existing folder in which segments are kept, see `Writer`.

    Raises:
        MediaError, OptionError: see `check_target`.
    """
    if not isinstance(target, Target):
        target = check_target(
            info,
            target,
            width=width,
            height=height,
            codec=codec,
            crf=crf,
            preset=preset,
            pix_fmt=pix_fmt,
            overwrite=overwrite,
            source_mux=source_mux,
        )
    base = time_base or info.time_base
    return Writer(target, info, time_base=base, source_mux=source_mux, start=start, duration=duration, work=work)


class SegmentWriter(Writer):
    def __init__(self, target, source, folder, *, time_base, start):
        super().__init__(target, source, time_base=time_base, source_mux=True, start=start, duration=None, work=folder)

    @contextlib.contextmanager
    def segment(self, first):
        self.begin(first)
        try:
            yield
        except BaseException:
            self.close()
            self._encoder = None
            raise
        self.end()


class Y4mWriter(Writer):
    def __init__(self, target, source):
        super().__init__(target, source, time_base=source.time_base, source_mux=True, start=0, duration=None, work=None)

    @contextlib.contextmanager
    def segment(self, first):
        yield
        self.finish()
