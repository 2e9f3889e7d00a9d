# SPDX-License-Identifier: Apache-2.0
"""Audio and subtitles that pass through ffmpeg: transcoded, or remuxed for the sake of their encoder delay."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, EIO, ENOSPC, EROFS
from pathlib import Path

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import FFmpeg, file_url
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.read.container import DEEP_PROBE_OPTIONS, open_container
from rvrt_cli.video.read.source import SourceInfo

_BITS_PER_CHANNEL = 96_000  # 192 kb/s for stereo: transparent with either lossy codec
_DISK_ERRORS = (ENOSPC, EDQUOT, EIO, EFBIG, EROFS)  # not the source's fault
_TRIAL_FRAMES = 5  # of audio


@dataclass(frozen=True)
class SideFile:
    """A temporary file with the streams of `routes`, in this order."""

    path: Path
    routes: tuple[Route, ...]


def side_file_offset(info: SourceInfo) -> int:
    """Seconds by which timestamps in a side file exceed the source's: muxers shift what would start before 0."""
    return max(0, math.ceil(-info.output_zero()))


def transcode_arguments(info: SourceInfo, routes: Sequence[Route]) -> list[str]:
    """ffmpeg's arguments from the source to transcoded or remuxed streams in the order of `routes`."""
    deep = itertools.chain.from_iterable((f"-{name}", value) for name, value in DEEP_PROBE_OPTIONS.items())
    probing = deep if info.free_clock else ()
    arguments = ["-copyts", *probing, "-protocol_whitelist", "file", "-i", file_url(info.path)]
    for position, route in enumerate(routes):
        arguments += ["-map", f"0:{route.index}", f"-c:{position}", route.codec or "copy"]
        if route.channels:
            arguments += [f"-b:{position}", str(route.channels * _BITS_PER_CHANNEL)]
            if route.layout:
                arguments += [f"-filter:{position}", f"aformat=channel_layouts={route.layout}"]
    return [*arguments, "-output_ts_offset", str(side_file_offset(info))]


def check_transcoding(routes: Sequence[Route], info: SourceInfo, target: Path) -> None:
    """Transcode the first audio frames and discard them, so that failures show before any work.

    Raises:
        MediaError: the audio cannot be decoded or encoded.
    """
    if not routes:
        return
    limits = [word for position in range(len(routes)) for word in (f"-frames:{position}", str(_TRIAL_FRAMES))]
    ffmpeg = FFmpeg([*transcode_arguments(info, routes), *limits, "-f", "null", "-"])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(
                f"{Path(info.path).name}: its audio is not supported in {target.suffix} and cannot be re-encoded for it "
                f"({ffmpeg.last_error()}); choose .mkv"
            )
    finally:
        ffmpeg.kill()


def write_side_files(
    stack: ExitStack, info: SourceInfo, routes: Sequence[Route], output: Path, muxer: str
) -> tuple[list[SideFile], list[str]]:
    """Run the streams that need it through ffmpeg: (files beside `output`, which `stack` deletes, and warnings).

    All go into one file, unless a stream is too damaged for ffmpeg: then each gets its own, to keep the others intact. A
    stream that cannot be read at all is in none of them.
    """
    through_ffmpeg = tuple(r for r in sorted(routes, key=lambda r: r.index) if r.how in ("transcode", "relay"))
    if not through_ffmpeg:
        return [], []
    writer = _SideFileWriter(stack, info, output.parent, muxer)
    together, error = writer.write(through_ffmpeg)
    if not error:
        return [together], []
    files, warnings = [], []
    for route in through_ffmpeg:
        file, why = writer.write((route,)) if len(through_ffmpeg) > 1 else (together, error)
        readable = _has_streams(file.path, 1)
        if readable:
            files.append(file)
        if why:
            outcome = "damaged, kept as far as it can be read" if readable else "damaged and dropped"
            warnings.append(f"{info.path}: {info.stream(route.index).name}: {outcome} (ffmpeg: {why})")
    return files, warnings


@dataclass(frozen=True)
class _SideFileWriter:
    stack: ExitStack
    info: SourceInfo
    folder: Path
    muxer: str

    def write(self, routes: tuple[Route, ...]) -> tuple[SideFile, str]:
        """(file with the streams of `routes`, ffmpeg's error if it is incomplete)."""
        info = self.info
        path = self.folder / f".rvrt-{secrets.token_hex(6)}.side"
        self.stack.callback(path.unlink, missing_ok=True)
        output = ["-map_chapters", "-1", "-f", self.muxer, file_url(path)]
        ffmpeg = FFmpeg([*transcode_arguments(info, routes), *output])
        try:
            status = ffmpeg.wait()
        finally:
            ffmpeg.kill()
        file = SideFile(path, routes)
        if status == 0:
            return file, "" if _has_streams(path, len(routes)) else "nothing in it can be read"
        why = ffmpeg.last_error()
        disk_error = any(os.strerror(code) in line for code in _DISK_ERRORS for line in ffmpeg.lines)
        if status < 0 or status == 255 or disk_error:
            names = ", ".join(info.stream(route.index).name for route in routes)
            raise MediaError(f"{info.path}: {names} cannot be copied: {why}; run it again")
        return file, why


def _has_streams(path: Path, count: int) -> bool:
    """Whether ffmpeg wrote a readable file with this number of streams."""
    with contextlib.suppress(MediaError), open_container(path) as container:
        return len(container.streams) == count
    return False
