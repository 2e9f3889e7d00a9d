"""Sound and subtitles that go through ffmpeg on their way into the output: what is converted, or has a run-up to keep."""

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
from rvrt_cli.video.read.probe import LOOKING_FAR, SourceInfo, open_container

_BITS_PER_CHANNEL = 96_000  # 192 kb/s of stereo: transparent in either lossy codec
_DISK = (ENOSPC, EDQUOT, EIO, EFBIG, EROFS)  # no fault of the source's
_REHEARSED = 5  # frames of sound


@dataclass(frozen=True)
class Route:
    """The way of one stream: "copy", "attach", "convert" (by ffmpeg, with the encoder `codec`) or "relay".

    "attach": Matroska keeps cover art as an attached file. "relay" copies through ffmpeg, which knows how Matroska says
    that the first samples of AAC are not to be played.
    """

    index: int
    how: str
    codec: str = ""
    channels: int = 0  # of sound to convert
    layout: str = ""  # ffmpeg's name of what they become, where the encoder does not take all


def lift(info: SourceInfo) -> int:
    """Whole seconds by which a side file's clock is ahead of the source's: muxers shift what would begin before 0."""
    return max(0, math.ceil(-info.zero()))


def moving_arguments(info: SourceInfo, routes: Sequence[Route]) -> list[str]:
    """ffmpeg's arguments from the source to streams in the order of `routes`, converted or relayed."""
    far = itertools.chain.from_iterable((f"-{name}", value) for name, value in LOOKING_FAR.items())
    arguments = ["-copyts", *(far if info.free_clock else ()), "-protocol_whitelist", "file", "-i", file_url(info.path)]
    for position, route in enumerate(routes):
        arguments += ["-map", f"0:{route.index}", f"-c:{position}", route.codec or "copy"]
        if route.channels:
            arguments += [f"-b:{position}", str(route.channels * _BITS_PER_CHANNEL)]
            if route.layout:
                arguments += [f"-filter:{position}", f"aformat=channel_layouts={route.layout}"]
    return [*arguments, "-output_ts_offset", str(lift(info))]


def rehearse(routes: Sequence[Route], info: SourceInfo, target: Path) -> None:
    """Convert the first moment of sound to nowhere: what fails does so before the work.

    Raises:
        MediaError: it cannot be decoded or encoded.
    """
    if not routes:
        return
    brief = [word for position in range(len(routes)) for word in (f"-frames:{position}", str(_REHEARSED))]
    ffmpeg = FFmpeg([*moving_arguments(info, routes), *brief, "-f", "null", "-"])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(
                f"{Path(info.path).name}: its sound cannot go into {target.suffix} and cannot be re-encoded for it "
                f"({ffmpeg.last_error()}); choose .mkv"
            )
    finally:
        ffmpeg.kill()


def side_files(
    stack: ExitStack, info: SourceInfo, routes: Sequence[Route], muxer: str, folder: Path, warnings: list[str]
) -> tuple[list[tuple[Path, list[Route]]], Sequence[Route]]:
    """(temporary files in `folder` with the streams that have to go through ffmpeg, routes that can be gone).

    It is one file, unless a stream is too damaged for ffmpeg: then one for each of them, so that the others are whole.
    """
    moved = [route for route in sorted(routes, key=lambda route: route.index) if route.how in ("convert", "relay")]
    if not moved:
        return [], routes
    path, why = _side_file(stack, info, moved, muxer, folder)
    if not why:
        return [(path, moved)], routes
    files, lost = [], []
    for route in moved:
        path, why = _side_file(stack, info, [route], muxer, folder) if len(moved) > 1 else (path, why)
        if _holds(path, 1):
            files.append((path, [route]))
            said = f"damaged, what could be read of it goes along (ffmpeg: {why})"
        else:
            lost.append(route)
            said = f"damaged and left out (ffmpeg: {why})"
        if why:
            warnings.append(f"{info.path}: {info.stream(route.index).name}: {said}")
    return files, [route for route in routes if route not in lost]


def _side_file(
    stack: ExitStack, info: SourceInfo, routes: Sequence[Route], muxer: str, folder: Path
) -> tuple[Path, str]:
    """(the file with the streams of `routes`, ffmpeg's words if it is not whole)."""
    path = folder / f".rvrt-{secrets.token_hex(6)}.side"
    stack.callback(path.unlink, missing_ok=True)
    ffmpeg = FFmpeg([*moving_arguments(info, routes), "-map_chapters", "-1", "-f", muxer, file_url(path)])
    try:
        status = ffmpeg.wait()
    finally:
        ffmpeg.kill()
    if status == 0:
        return path, "" if _holds(path, len(routes)) else "nothing in it can be read"
    why = ffmpeg.last_error()
    if status < 0 or status == 255 or any(os.strerror(code) in line for code in _DISK for line in ffmpeg.lines):
        names = ", ".join(info.stream(route.index).name for route in routes)
        raise MediaError(f"{info.path}: {names} cannot be copied: {why}; run it again")
    return path, why


def _holds(path: Path, streams: int) -> bool:
    """Whether ffmpeg has got as far as to write a file with as many streams."""
    with contextlib.suppress(MediaError), open_container(path) as container:
        return len(container.streams) == streams
    return False
