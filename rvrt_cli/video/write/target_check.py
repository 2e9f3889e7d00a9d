# SPDX-License-Identifier: Apache-2.0
"""From an OutputRequest to a Target: everything that can be refused is refused before any work."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video import color
from rvrt_cli.video.mux.stream_plan import plan_streams
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.destination import check_destination, real_folder
from rvrt_cli.video.write.encoder import RawFormat
from rvrt_cli.video.write.encoder_settings import (
    HDR_OPTIONS,
    choose_encoder,
    choose_pix_fmt,
    encoder_options,
    upload_device,
)
from rvrt_cli.video.write.fidelity_notes import frames_only_notes, precision_notes, y4m_color_notes
from rvrt_cli.video.write.preflight import preflight
from rvrt_cli.video.write.target import MUXERS, OutputRequest, Target

_ALPHA_NOTE = "alpha is dropped; only a folder of PNG keeps it"
_Y4M_PIX_FMT = re.compile(r"yuv(420|422|444)p(9le|10le|12le|14le|16le)?")
_PNG_PIX_FMT = {(False, False): "rgb24", (True, False): "rgb48be", (False, True): "rgba", (True, True): "rgba64be"}
# Five times as fast as the default level (6), and 10 % larger
_PNG_OPTIONS = ("-c:v", "png", "-compression_level", "1", "-pred", "paeth")


def check_target(info: SourceInfo, request: OutputRequest) -> Target:
    """Decide how the upscaled frames of `info` are written, and try it on black frames.

    Raises:
        MediaError: the target exists, is the source, cannot be written, or cannot hold the streams.
        OptionError: an encoder or its option does not exist.
    """
    text = str(request.target)
    if text == "-":
        return _check_y4m(info, request)
    if not text:
        raise MediaError("the target has no name; name a video or a folder, or -")
    path = real_folder(request.target)
    folder = text.endswith(("/", os.sep)) or path.is_dir() or not path.suffix
    if not folder and path.suffix.lower() not in MUXERS:
        known = " ".join(MUXERS)
        raise MediaError(f"{text}: unknown file type {path.suffix!r}; choose one of {known}, or end a folder in /")
    check_destination(info, path, folder, request.overwrite)
    return _check_folder(info, request, path) if folder else _check_video(info, request, path)


def _check_video(info: SourceInfo, request: OutputRequest, path: Path) -> Target:
    muxer = MUXERS[path.suffix.lower()]
    encoder, codec = choose_encoder(request.codec, path)
    pix_fmt = choose_pix_fmt(info, encoder, request.pix_fmt)
    routes, notes = plan_streams(info, muxer, path) if request.copy_streams else ((), ())
    if info.has_alpha:
        notes = (*notes, f"{path.name}: {_ALPHA_NOTE}")
    if (info.mastering or info.light_level) and encoder not in HDR_OPTIONS:
        known = ", ".join(HDR_OPTIONS)
        notes = (*notes, f"{path.name}: HDR10 metadata is dropped by {encoder}; --codec {known} keep it")
    tags = color.output_color(info.color, pix_fmt)
    if codec == "mjpeg":  # JPEG has one matrix and range, whatever the tags say
        tags = replace(tags, matrix="bt470bg", range="pc")
    target = Target(
        kind="video",
        path=path,
        width=request.width,
        height=request.height,
        muxer=muxer,
        encoder=encoder,
        codec=codec,
        pix_fmt=pix_fmt,
        color=tags,
        routes=routes,
        notes=(*notes, *precision_notes(info, pix_fmt, path.name)),
        overwrite=request.overwrite,
        copy_streams=request.copy_streams,
        upload=upload_device(encoder),
    )
    target = replace(target, options=tuple(encoder_options(info, target, request.crf, request.preset)))
    preflight(info, target)
    return target


def _check_folder(info: SourceInfo, request: OutputRequest, path: Path) -> Target:
    deep = info.bit_depth > 8
    keeps_alpha = info.has_alpha and (info.kind == "images" or color.has_alpha(info.pix_fmt))
    RawFormat(request.width, request.height, deep, keeps_alpha).check_size(path.name)
    notes = frames_only_notes(info, path.name, "a folder of PNG", request.copy_streams)
    if info.has_alpha and not keeps_alpha:
        remedy = "set IMAGEIO_FFMPEG_EXE to one with libvpx"
        notes.append(f"{path.name}: alpha is dropped, this ffmpeg cannot decode it; {remedy}")
    pix_fmt = _PNG_PIX_FMT[deep, keeps_alpha]
    return Target(
        kind="folder",
        path=path,
        width=request.width,
        height=request.height,
        muxer="image2",
        encoder="png",
        codec="png",
        pix_fmt=pix_fmt,
        color=color.output_color(info.color, pix_fmt),
        options=_PNG_OPTIONS,
        notes=(*notes, *precision_notes(info, pix_fmt, path.name)),
        overwrite=request.overwrite,
    )


def _check_y4m(info: SourceInfo, request: OutputRequest) -> Target:
    pix_fmt = request.pix_fmt or choose_pix_fmt(info, "wrapped_avframe", None)
    if not _Y4M_PIX_FMT.fullmatch(pix_fmt):
        raise OptionError(
            f"--pix-fmt {pix_fmt}: not supported in y4m; choose yuv420p, yuv422p or yuv444p, or their 10le variants"
        )
    target = Target(
        kind="y4m",
        path=Path("-"),
        width=request.width,
        height=request.height,
        muxer="yuv4mpegpipe",
        encoder="wrapped_avframe",
        codec="rawvideo",
        pix_fmt=pix_fmt,
        color=color.output_color(info.color, pix_fmt),
        options=("-c:v", "wrapped_avframe", "-strict", "-1"),
    )
    RawFormat(request.width, request.height, info.bit_depth > 8).check_size(target.name)
    notes = frames_only_notes(info, target.name, "y4m", request.copy_streams)
    notes += precision_notes(info, pix_fmt, target.name)
    notes += y4m_color_notes(target.color, pix_fmt, request.height, target.name)
    notes += [f"{target.name}: {_ALPHA_NOTE}"] * info.has_alpha
    return replace(target, notes=tuple(notes))
