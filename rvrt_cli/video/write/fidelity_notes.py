# SPDX-License-Identifier: Apache-2.0
"""Notes on what a target cannot keep, one line each, before any work."""

from __future__ import annotations

import contextlib
import itertools

import av

from rvrt_cli.video import color
from rvrt_cli.video.color import ColorDescription
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.source import SourceInfo

_CHECKED_FRAMES = 2000  # whose timestamps show whether the frame rate varies
_REORDERING_MARGIN = 64  # of the last of them, some are shown after frames that were not read
# What readers of untagged video assume, or what looks the same
_COMMON_PRIMARIES = {"unknown", "bt709", "bt470bg", "smpte170m"}
_COMMON_TRANSFERS = {"unknown", "bt709", "smpte170m", "bt470bg", "iec61966-2-1"}
_CHROMA_NAMES = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0", (4, 4): "4:1:0"}


def output_chroma(info: SourceInfo) -> str:
    """Chroma subsampling of the output: the source's; 4:2:0, which plays everywhere, for images, GIF and gray."""
    if color.is_rgb(info.pix_fmt):
        return "444" if info.kind == "video" and info.codec != "gif" else "420"
    if color.is_gray(info.pix_fmt):
        return "420"
    step_x, step_y = color.subsampling(info.pix_fmt)
    if step_y > 1 and step_x > 1:
        return "420"
    return "444" if step_x == 1 else "422"


def unread(info: SourceInfo) -> list[str]:
    """Notes on what is not read of the source, whatever the target."""
    notes = []
    if info.base_view:
        notes.append(f"{info.path}: a stereo video; its base view is upscaled, and the other view is dropped")
    if info.dolby_vision is not None:
        notes.append(f"{info.path}: {_dolby_vision_note(info)}")
    if info.extra_images:
        count = f"{info.extra_images} more image{'s are' if info.extra_images > 1 else ' is'}"
        notes.append(
            f"{info.path}: only the first image of each file is read, {count} dropped; save each as a file to keep them"
        )
    if info.icc_profile:
        notes.append(
            f"{info.path}: the color profile ({info.icc_profile}) is dropped and the colors are taken for sRGB; convert "
            "the images to sRGB to preserve their look"
        )
    return notes


def _dolby_vision_note(info: SourceInfo) -> str:
    profile = info.dolby_vision
    if profile == 5:  # its frames are in a color space of its own (IPT), which nothing but the metadata describes
        return (
            "Dolby Vision profile 5: its metadata is dropped, without which players show wrong colors; convert it to HDR10 "
            "first, with ffmpeg's filter libplacebo for instance"
        )
    name = f"Dolby Vision profile {profile}" if profile and info.codec == "hevc" else "Dolby Vision"
    layer = "base layer" if profile in (4, 7) else "frames"
    return f"{name}: its metadata is dropped, and its {layer} upscaled as tagged, which plays as plain HDR or SDR"


def precision_notes(info: SourceInfo, pix_fmt: str, name: str) -> list[str]:
    """Notes on the bit depth, colors and chroma that are lost in `pix_fmt`; `name`: of the target."""
    notes = []
    remedy = "choose another --codec or --pix-fmt to keep"
    depth = color.bit_depth(pix_fmt)
    if depth < info.bit_depth:
        notes.append(f"{name}: {info.bit_depth} bits are reduced to {depth}; {remedy} them")
    if color.is_gray(pix_fmt) and not color.is_gray(info.pix_fmt):
        notes.append(f"{name}: colors are dropped; {remedy} them")
    elif not (color.is_gray(pix_fmt) or color.is_gray(info.pix_fmt)) and output_chroma(info) != "420":
        before, after = color.subsampling(info.pix_fmt), color.subsampling(pix_fmt)
        if after[0] > before[0] or after[1] > before[1]:
            old, new = (_CHROMA_NAMES.get(steps, "{}x{}".format(*steps)) for steps in (before, after))
            notes.append(f"{name}: chroma is reduced from {old} to {new}; {remedy} it")
    return notes


def y4m_color_notes(tags: ColorDescription, pix_fmt: str, height: int, name: str) -> list[str]:
    """A note on color tags that readers of y4m, which carries only the range, are unlikely to guess."""
    guess = color.resolve_color({}, pix_fmt, height)
    values = [tags.matrix] if tags.matrix != guess.matrix else []
    values += [tags.primaries] if tags.primaries not in _COMMON_PRIMARIES else []
    values += [tags.transfer] if tags.transfer not in _COMMON_TRANSFERS else []
    if not values:
        return []
    listed = ", ".join(dict.fromkeys(values))
    return [f"{name}: y4m carries no color tags; set {listed} in the program that reads it"]


def frames_only_notes(info: SourceInfo, name: str, format_name: str, copy_streams: bool) -> list[str]:
    """Notes on what is lost in a target that holds frames only; `format_name`: of such a target."""
    why = f"{format_name} holds frames only"
    kinds = {s.type for s in info.streams if s.index != info.stream_index} if copy_streams else set()
    words = {"audio": "audio", "subtitle": "subtitles", "attachment": "attachments", "video": "other video streams"}
    lost = [word for kind, word in words.items() if kind in kinds]
    lost += ["chapters"] * bool(info.chapters and copy_streams)
    notes = []
    if lost:
        listed = " and ".join([", ".join(lost[:-1]), lost[-1]] if lost[1:] else lost)
        verb = "is" if listed == "audio" else "are"
        notes.append(f"{name}: {listed} {verb} dropped, {why}; a container such as .mkv keeps everything")
    if info.kind == "video" and _has_variable_rate(info):
        notes.append(f"{name}: the variable frame rate is lost, {why}; a container such as .mkv keeps the timestamps")
    if info.hdr_metadata:
        notes.append(f"{name}: {info.hdr_metadata} metadata is dropped, {why}; --codec libx265 into .mkv keeps it")
    return notes


def _has_variable_rate(info: SourceInfo) -> bool:
    """Whether the first frames are unevenly spaced."""
    timestamps = []
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        for packet in demux_packets(container, container.streams[info.stream_index]):
            if packet.size and packet.pts is not None:
                timestamps.append(packet.pts)
            if len(timestamps) == _CHECKED_FRAMES:
                break
    timestamps.sort()
    if len(timestamps) == _CHECKED_FRAMES:
        del timestamps[-_REORDERING_MARGIN:]
    steps = sorted(b - a for a, b in itertools.pairwise(timestamps))
    # A container rounds timestamps, by up to a unit either way
    return bool(steps) and steps[-1] - steps[0] > max(2, steps[len(steps) // 2] // 10)
