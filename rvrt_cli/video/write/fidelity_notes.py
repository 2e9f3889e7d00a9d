"""What a target has no place for: notes for the user, one line each, before the work."""

from __future__ import annotations

import contextlib
import itertools

import av

from rvrt_cli.video import color
from rvrt_cli.video.read.probe import SourceInfo, open_container, packets

_LOOKED_AT = 2000  # pictures, to see whether their times vary
_USUAL_PRIMARIES = {"unknown", "bt709", "bt470bg", "smpte170m"}
_USUAL_TRANSFERS = {"unknown", "bt709", "smpte170m", "bt470bg", "iec61966-2-1"}
_CHROMA_NAMES = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0", (4, 4): "4:1:0"}


def chroma(info: SourceInfo) -> str:
    """Chroma of the output: the source's; 4:2:0, which plays everywhere, for images, GIF and gray."""
    if color.is_rgb(info.pix_fmt):
        return "444" if info.kind == "video" and info.codec != "gif" else "420"
    if color.is_gray(info.pix_fmt):
        return "420"
    step_x, step_y = color.subsampling(info.pix_fmt)
    if step_y > 1 and step_x > 1:
        return "420"
    return "444" if step_x == 1 else "422"


def unread(info: SourceInfo) -> list[str]:
    """Notes about what of a sequence of images no target gets."""
    notes = []
    if info.more_pictures:
        plural = "s are" if info.more_pictures > 1 else " is"
        notes.append(
            f"{info.path}: of each file the first picture is read, {info.more_pictures} more picture{plural} left out; "
            "make a file of each to keep them"
        )
    if info.profile:
        notes.append(
            f"{info.path}: the color profile ({info.profile}) is left out and the colors pass for sRGB; convert the "
            "images to sRGB to keep their look"
        )
    return notes


def coarser(info: SourceInfo, pix_fmt: str, name: str) -> list[str]:
    """Notes about what pictures lose that are stored as `pix_fmt` in the target of this name."""
    notes = []
    remedy = "choose another --codec or --pix-fmt to keep"
    depth = color.bit_depth(pix_fmt)
    if depth < info.bit_depth:
        notes.append(f"{name}: {info.bit_depth} bits become {depth}; {remedy} them")
    if color.is_gray(pix_fmt) and not color.is_gray(info.pix_fmt):
        notes.append(f"{name}: colors are left out; {remedy} them")
    elif not (color.is_gray(pix_fmt) or color.is_gray(info.pix_fmt)) and chroma(info) != "420":
        before, after = color.subsampling(info.pix_fmt), color.subsampling(pix_fmt)
        if after[0] > before[0] or after[1] > before[1]:
            old, new = (_CHROMA_NAMES.get(steps, "{}x{}".format(*steps)) for steps in (before, after))
            notes.append(f"{name}: chroma of {old} becomes {new}; {remedy} it")
    return notes


def unsaid(tags: color.Color, pix_fmt: str, height: int, name: str) -> list[str]:
    """A note about what readers of y4m, which says nothing of colors but the range, will hardly guess right."""
    guess = color.resolve({}, pix_fmt, height)
    words = [tags.matrix] if tags.matrix != guess.matrix else []
    words += [tags.primaries] if tags.primaries not in _USUAL_PRIMARIES else []
    words += [tags.transfer] if tags.transfer not in _USUAL_TRANSFERS else []
    if not words:
        return []
    listed = ", ".join(dict.fromkeys(words))
    return [f"{name}: y4m does not say that the colors are of {listed}; tell it to the program that reads them"]


def without(info: SourceInfo, name: str, holds: str, source_mux: bool) -> list[str]:
    """Notes about what a target has no place for that holds pictures only; `holds`: "..., which holds pictures only"."""
    kinds = {s.type for s in info.streams if s.index != info.stream_index} if source_mux else set()
    words = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachments", "video": "other pictures"}
    lost = [word for kind, word in words.items() if kind in kinds]
    lost += ["chapters"] * bool(info.chapters and source_mux)
    notes = []
    if lost:
        listed = " and ".join([", ".join(lost[:-1]), lost[-1]] if lost[1:] else lost)
        notes.append(
            f"{name}: {listed} {'are' if listed != 'sound' else 'is'} left out, {holds}; a file such as .mkv keeps all"
        )
    if info.kind == "video" and _varies(info):
        notes.append(f"{name}: the frames' times vary and are left out, {holds}; a file such as .mkv keeps them")
    if info.mastering or info.light_level:
        notes.append(f"{name}: HDR's mastering display is left out, {holds}; --codec libx265 into .mkv keeps it")
    return notes


def _varies(info: SourceInfo) -> bool:
    """Whether the first pictures do not come at one rate."""
    times = []
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        for packet in packets(container, container.streams[info.stream_index]):
            if packet.size and packet.pts is not None:
                times.append(packet.pts)
            if len(times) == _LOOKED_AT:
                break
    times = sorted(times)[: None if len(times) < _LOOKED_AT else -64]  # some of the last may be shown after later ones
    steps = sorted(b - a for a, b in itertools.pairwise(times))
    # A container rounds them, by up to a unit either way
    return bool(steps) and steps[-1] - steps[0] > max(2, steps[len(steps) // 2] // 10)
