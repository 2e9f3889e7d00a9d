# SPDX-License-Identifier: Apache-2.0
"""A video with both halves: the source enlarged by bicubic on the left, the upscaled one on the right."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import FFmpeg, file_url
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo

_SUFFIXES = (".mp4", ".mkv", ".mov")
_QUALITY = ["-c:v", "libx264", "-crf", "17", "-preset", "medium", "-pix_fmt", "yuv420p"]


def write_side_by_side(before: str | Path, after: str | Path, target: Path, *, overwrite: bool = False) -> None:
    """Write both videos beside each other, with the sound of `after`, as H.264.

    Raises:
        MediaError: the target exists or is no .mp4, .mkv or .mov, one of the videos cannot be read, or ffmpeg fails.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise MediaError(f"{target}: choose one of {' '.join(_SUFFIXES)}")
    if target.exists() and not overwrite:
        raise MediaError(f"{target}: exists; choose another name, or --overwrite")
    first, second = probe(before), probe(after)
    for info in (first, second):
        if info.kind != "video":
            raise MediaError(f"{info.path}: only videos are put side by side; name a video")
    size = f"{second.width // 2 * 2}:{second.height // 2 * 2}"
    graph = (
        f"[0:{first.stream_index}]scale={size}:flags=bicubic+accurate_rnd,setsar=1[a];"
        f"[1:{second.stream_index}]scale={size}:flags=bicubic+accurate_rnd,setsar=1[b];[a][b]hstack=shortest=1"
    )
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    sources = [word for info in (first, second) for word in _input(info)]
    program = FFmpeg([*sources, "-lavfi", graph, "-map", "1:a?", "-c:a", "copy", *_QUALITY, "-y", file_url(part)])
    try:
        if program.wait():
            raise MediaError(f"{target}: cannot be written: {program.last_error()}")
        part.replace(target)
    finally:
        program.kill()
        with contextlib.suppress(OSError):
            part.unlink()


def _input(info: SourceInfo) -> list[str]:
    return ["-protocol_whitelist", "file", "-i", file_url(info.path)]
