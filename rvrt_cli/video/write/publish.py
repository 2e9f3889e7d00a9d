"""The last two steps: finished segments become one result, and the result gets the target's name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.mux.final_mux import Header, mux, part_header
from rvrt_cli.video.read.probe import SourceInfo, open_container, reason
from rvrt_cli.video.write.target import Target

_PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum
FRAMES = "frames"  # folder of the images of a folder target, within the work folder


def part_file(target: Target, work: Path, first: int) -> Path:
    """Where the segment that begins with frame `first` is encoded to; images lie in one folder."""
    return work / FRAMES if target.kind == "folder" else work / f"{first:08d}{target.path.suffix}"


def image_file(work: Path, number: int) -> Path:
    """Where frame `number` (from 0) of a folder target is encoded to; images are counted from 1."""
    return work / FRAMES / f"{number + 1:06d}.png"


def check_part(target: Target, work: Path, first: int, frames: int, header: Header | None) -> Header:
    """Look whether the segment that begins with frame `first` has its `frames` frames, and goes with the others.

    Args:
        header: what this has returned for another segment of the target.

    Raises:
        ValueError: it has not, or was encoded with other settings.
        MediaError, OSError: it cannot be read.
    """
    if target.kind == "folder":
        for number in range(first, first + frames):
            with image_file(work, number).open("rb") as file:
                file.seek(-len(_PNG_END), os.SEEK_END)
                if file.read() != _PNG_END:
                    raise ValueError(f"image {number} is cut")
        return b""
    with open_container(part_file(target, work, first)) as container:
        try:
            packets = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        except av.error.FFmpegError as error:
            raise ValueError(reason(error)) from error
        found = part_header(container)
    if packets < frames:
        raise ValueError("frames are missing")
    if header is not None and found != header:
        raise ValueError("encoded with other settings")
    return found


def join(
    target: Target,
    info: SourceInfo,
    work: Path,
    parts: Sequence[Path],
    frames: int,
    *,
    until: Fraction | None = None,
    source_mux: bool = True,
    start: float = 0.0,
    duration: float | None = None,
    warnings: list[str] | None = None,
) -> Path:
    """Make the result, within `work`, of the encoded `parts` in order, which hold `frames` frames together.

    Args:
        until: when the last frame gives way, in seconds on the source's clock, if known.
        source_mux, start, duration, warnings: see `rvrt_cli.video.mux.mux`.

    Raises:
        MediaError: a frame is missing, or muxing failed.
    """
    if target.kind == "folder":
        there = len(os.listdir(work / FRAMES))
        if there != frames:
            raise MediaError(f"{target.path}: {there} images were written in place of {frames}; run it again")
        return work / FRAMES
    muxed = work / f"muxed{target.path.suffix}"
    packets = mux(
        parts, info, muxed, muxer=target.muxer, routes=target.routes, until=until, source_mux=source_mux,
        start=start, duration=duration, warnings=warnings,
    )  # fmt: skip
    if packets < frames:
        raise MediaError(f"{target.path}: the encoder lost {frames - packets} frames; choose another --codec")
    return muxed


def publish(target: Target, result: Path) -> Path:
    """Give `result` the target's name, and return it: another one where somebody has made the target meanwhile.

    Raises:
        MediaError: it cannot be renamed.
    """
    try:
        if target.kind == "folder":
            return _publish_folder(target, result)
        if target.overwrite:
            os.replace(result, target.path)
            return target.path
        return _name_without_replacing(target.path, result)
    except OSError as error:
        raise MediaError(f"{target.path}: cannot be written ({error.strerror}); choose another place") from error


def _name_without_replacing(wanted: Path, result: Path) -> Path:
    """Somebody may have made the target while this ran: theirs stays, and this one gets a name beside it."""
    path = wanted
    for number in range(2, 100):
        try:
            os.link(result, path)
            result.unlink()
            return path
        except FileExistsError:
            path = wanted.with_stem(f"{wanted.stem}-{number}")
        except OSError:  # no hard links on this file system
            if path.exists():
                path = wanted.with_stem(f"{wanted.stem}-{number}")
                continue
            os.replace(result, path)
            return path
    raise MediaError(f"{wanted}: exists, and so do its neighbors up to {path.name}; choose another name")


def _publish_folder(target: Target, result: Path) -> Path:
    path, old = target.path, None
    try:
        if path.is_dir() and any(path.iterdir()):
            if not target.overwrite:
                raise MediaError(f"{path}: was filled by someone else meanwhile; choose another folder")
            old = result.parent / "old"
            os.rename(path, old)
        os.replace(result, path)
    except OSError:
        if old is not None and not path.exists():
            os.rename(old, path)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return path
