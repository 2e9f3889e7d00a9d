# SPDX-License-Identifier: Apache-2.0
"""The last steps: finished segments are assembled into one result, which then gets the target's name."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.mux.final_mux import MuxJob, mux
from rvrt_cli.video.mux.video_packets import codec_header
from rvrt_cli.video.read.container import open_container, reason
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.gif import write_gif
from rvrt_cli.video.write.target import Target

_PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum
IMAGE_FOLDER = "frames"  # of a target that holds images, within the folder of the segments
_NAMED_FOLDER = "named"  # the same images under their own names
_MAX_NAME_SUFFIX = 99


@dataclass(frozen=True)
class EncodedSegments:
    """What a SegmentWriter has left in a folder.

    Attributes:
        folder: where it wrote.
        first_frames: number of each segment's first output frame, in order.
        frames: number of frames of all segments.
        excerpt: the part of the source that they show.
    """

    folder: Path
    first_frames: tuple[int, ...]
    frames: int
    excerpt: Excerpt


@dataclass(frozen=True)
class Assembled:
    """The result within the segments' folder, and one line for every stream that could not be copied completely."""

    path: Path
    warnings: list[str]


def part_file(target: Target, folder: Path, first: int) -> Path:
    """File of the segment that starts with output frame `first`; images share one folder."""
    return folder / IMAGE_FOLDER if target.holds_images else folder / f"{first:08d}{target.part_suffix}"


def image_file(target: Target, folder: Path, number: int) -> Path:
    """File of output frame `number` (from 0) of a target that holds images; file names count from 1."""
    return folder / IMAGE_FOLDER / f"{number + 1:06d}{target.part_suffix}"


def check_part(target: Target, folder: Path, first: int, frames: int, header: bytes | None) -> bytes | None:
    """Check that the segment starting with frame `first` has its `frames` frames and matches the others.

    Args:
        header: what this returned for another segment of the target; None for the first one.

    Returns:
        the codec's header, which all segments share.

    Raises:
        ValueError: frames are missing, or it was encoded with other settings.
        MediaError, OSError: it cannot be read.
    """
    if target.holds_images:
        for number in range(first, first + frames):
            with image_file(target, folder, number).open("rb") as file:
                file.seek(-len(_PNG_END), os.SEEK_END)
                if file.read() != _PNG_END and target.part_suffix == ".png":
                    raise ValueError(f"image {number} is truncated")
        return b""
    with open_container(part_file(target, folder, first)) as container:
        try:
            packets = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        except av.error.FFmpegError as error:
            raise ValueError(reason(error)) from error
        found = codec_header(container)
    if packets < frames:
        raise ValueError("frames are missing")
    if header is not None and found != header:
        raise ValueError("encoded with other settings")
    return found


def assemble(target: Target, info: SourceInfo, segments: EncodedSegments) -> Assembled:
    """Make one result of all segments, within their folder.

    Raises:
        MediaError: a frame is missing, or muxing failed.
    """
    folder = segments.folder
    if target.holds_images:
        found = len(os.listdir(folder / IMAGE_FOLDER))
        expected = 1 if target.kind == "image" else len(target.image_names) or segments.frames
        if not found == segments.frames == expected:
            raise MediaError(f"{target.path}: {found} images were written instead of {expected}; run it again")
        if target.kind == "image":
            return Assembled(image_file(target, folder, 0), [])
        return Assembled(_name_images(target, folder) if target.image_names else folder / IMAGE_FOLDER, [])
    job = MuxJob(
        info=info,
        parts=tuple(part_file(target, folder, first) for first in segments.first_frames),
        output=folder / f"muxed{target.part_suffix}",
        muxer=target.muxer,
        routes=target.routes,
        excerpt=segments.excerpt,
        copy_streams=target.copy_streams,
    )
    muxed = mux(job)
    lost = segments.frames - muxed.packets
    if lost > 0:
        raise MediaError(f"{target.path}: the encoder lost {lost} frames; choose another --codec")
    if target.kind == "gif":
        return Assembled(write_gif(job.output, folder / "palette.png", folder / "muxed.gif"), muxed.warnings)
    return Assembled(job.output, muxed.warnings)


def _name_images(target: Target, folder: Path) -> Path:
    """A folder with the images under the names that `target` gives them; the numbered ones stay until it is published."""
    named = folder / _NAMED_FOLDER
    try:
        shutil.rmtree(named, ignore_errors=True)  # of a run that was killed
        named.mkdir()
        for number, name in enumerate(target.image_names):
            image = image_file(target, folder, number)
            try:
                os.link(image, named / name)
            except OSError:  # no hard links on this file system
                shutil.copyfile(image, named / name)
    except OSError as error:
        raise MediaError(f"{target.path}: cannot be written ({error.strerror}); choose another place") from error
    return named


def publish(target: Target, result: Path) -> Path:
    """Rename `result` to the target's name, or to a similar one if another program has taken that meanwhile.

    Returns:
        the path of the published file or folder.

    Raises:
        MediaError: it cannot be renamed.
    """
    try:
        if target.kind == "folder":
            return _publish_folder(target, result)
        if target.overwrite:
            os.replace(result, target.path)
            return target.path
        return _publish_without_replacing(target.path, result)
    except OSError as error:
        raise MediaError(f"{target.path}: cannot be written ({error.strerror}); choose another place") from error


def _publish_without_replacing(wanted: Path, result: Path) -> Path:
    """A file that appeared at `wanted` meanwhile stays, and `result` gets a numbered name beside it."""
    numbered = [wanted.with_stem(f"{wanted.stem}-{number}") for number in range(2, _MAX_NAME_SUFFIX + 1)]
    for path in (wanted, *numbered):
        try:
            os.link(result, path)
            result.unlink()
            return path
        except FileExistsError:
            continue
        except OSError:  # no hard links on this file system
            if not path.exists():
                os.replace(result, path)
                return path
    raise MediaError(f"{wanted}: exists, and so do all names up to {numbered[-1].name}; choose another name")


def _publish_folder(target: Target, result: Path) -> Path:
    path, old = target.path, None
    try:
        if path.is_dir() and any(path.iterdir()):
            if not target.overwrite:
                raise MediaError(f"{path}: was filled by another program meanwhile; choose another folder")
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
