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
from rvrt_cli.video.encoder import Encoder
from rvrt_cli.video.frame import Frame
from rvrt_cli.video.mux import mux
from rvrt_cli.video.probe import SourceInfo
from rvrt_cli.video.process import file_url
from rvrt_cli.video.target import Target, check_target

__all__ = ["Writer", "open_writer"]


class Writer:
    """Takes frames; a context manager: leaving it without `finish` discards everything that was written.

    Attributes:
        target: what `check_target` decided; its `notes` are worth telling.
        path: where the result is after `finish`.
        written: frames taken so far.
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
    ) -> None:
        self.target = target
        self.path = target.path
        self._info = info
        self._source_mux = source_mux
        self._start, self._duration = start, duration
        self._zero = info.zero(start) // time_base  # times in the output count from here
        self._finished = False
        # A hidden neighbour on the same file system: the last step is a mere renaming
        self._work = target.path.absolute().parent / f".{target.path.name[:80]}.{secrets.token_hex(4)}.part"
        if target.kind != "y4m":
            try:
                self._work.mkdir()
            except OSError as error:
                raise MediaError(
                    f"{target.path}: cannot be written ({error.strerror}); choose another place"
                ) from error
        try:
            self._encoder = Encoder(
                target.path.name if target.kind != "y4m" else "standard output",
                width=target.width,
                height=target.height,
                deep=info.bit_depth > 8,
                alpha="a" in target.pix_fmt.removeprefix("gray") and target.kind == "folder",
                time_base=time_base,
                chain=f"{target.chain},setsar=sar={_aspect(info, target)}:max=65535",
                output=self._output(),
            )
        except BaseException:
            shutil.rmtree(self._work, ignore_errors=True)
            raise

    @property
    def written(self) -> int:
        return self._encoder.written

    def _output(self) -> list[str]:
        target = self.target
        options = [*target.options, "-pix_fmt", target.pix_fmt]
        if target.kind == "y4m":
            return [*options, "-f", "yuv4mpegpipe", "pipe:1"]
        if target.kind == "folder":
            pattern = file_url(self._work).replace("%", "%%") + "/%06d.png"
            return [*options, "-f", "image2", "-start_number", "1", pattern]
        return [*options, "-avoid_negative_ts", "disabled", "-f", target.muxer, file_url(self._encoded)]

    @property
    def _encoded(self) -> Path:
        return self._work / "video"

    def write(self, frame: Frame) -> None:
        """Take one frame; waits while the encoder is behind. `pts` must increase from frame to frame.

        Raises:
            MediaError: the encoder has failed.
            ValueError: the frame has another size or depth than the target.
        """
        self._encoder.write(Frame(frame.pixels, frame.pts - self._zero, frame.alpha))

    def finish(self) -> None:
        """Complete the target and give it its name.

        Raises:
            MediaError: nothing was written, or encoding, muxing or renaming failed; nothing is left behind then.
        """
        try:
            if not self.written:
                raise MediaError(f"{self.path}: not a single frame was written")
            self._encoder.finish()
            if self.target.kind == "video":
                self._finish_video()
            elif self.target.kind == "folder":
                self._finish_folder()
            self._finished = True
        finally:
            self.close()

    def _finish_video(self) -> None:
        muxed = self._work / f"muxed{self.path.suffix}"
        packets = mux(
            self._encoded,
            self._info,
            muxed,
            muxer=self.target.muxer,
            routes=self.target.routes,
            source_mux=self._source_mux,
            start=self._start,
            duration=self._duration,
        )
        if packets < self.written:
            raise MediaError(f"{self.path}: the encoder lost {self.written - packets} frames; choose another --codec")
        try:
            if self.target.overwrite:
                os.replace(muxed, self.path)
            else:
                self._name_without_replacing(muxed)
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({error.strerror}); choose another place") from error

    def _name_without_replacing(self, muxed: Path) -> None:
        """Somebody may have made the target while this ran: theirs stays, and this one gets a name beside it."""
        wanted = self.path
        for number in range(2, 100):
            try:
                os.link(muxed, self.path)
                return
            except FileExistsError:
                self.path = wanted.with_stem(f"{wanted.stem}-{number}")
            except OSError:  # no hard links on this file system
                if self.path.exists():
                    self.path = wanted.with_stem(f"{wanted.stem}-{number}")
                    continue
                os.replace(muxed, self.path)
                return

    def _finish_folder(self) -> None:
        old = None
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                if not self.target.overwrite:
                    raise MediaError(f"{self.path}: was filled by someone else meanwhile; choose another folder")
                old = self._work.with_suffix(".old")
                os.rename(self.path, old)
            os.replace(self._work, self.path)
        except OSError as error:
            if old is not None and not self.path.exists():
                os.rename(old, self.path)
            raise MediaError(f"{self.path}: cannot be written ({error.strerror}); choose another place") from error
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """End the encoder and remove what is not finished. Safe to call twice."""
        self._encoder.abort()
        with contextlib.suppress(OSError):
            if self.target.kind != "y4m":
                shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
) -> Writer:
    """Start writing frames of `width` x `height` px, uint16 if `info.bit_depth` is over 8 and uint8 otherwise.

    Args:
        target: a file, a folder or "-", or what `check_target` has made of it already (its own options hold then).
        time_base: unit of the frames' `pts`, in seconds; the source's unless given.
        codec, crf, preset, pix_fmt, overwrite, source_mux: see `check_target`.
        start, duration: the part of the source that the frames come from, in seconds, as given to `open_reader`; the
            same part of the sound is copied, and the output begins at 0.

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
    return Writer(target, info, time_base=base, source_mux=source_mux, start=start, duration=duration)
