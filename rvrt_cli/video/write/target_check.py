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
from rvrt_cli.video.read.hdr10_plus import can_keep_hdr10_plus
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.destination import check_destination, real_folder
from rvrt_cli.video.write.encoder import RawFormat
from rvrt_cli.video.write.encoder_quality import lossless_notes
from rvrt_cli.video.write.encoder_settings import (
    HDR_OPTIONS,
    choose_encoder,
    choose_pix_fmt,
    encoder_options,
    upload_device,
)
from rvrt_cli.video.write.fidelity_notes import frames_only_notes, precision_notes, y4m_color_notes
from rvrt_cli.video.write.image_targets import IMAGE_ENCODERS, check_folder, check_gif, check_image
from rvrt_cli.video.write.preflight import preflight
from rvrt_cli.video.write.target import MUXERS, OutputRequest, Target

_ALPHA_NOTE = "alpha is dropped; images (.png) keep it"
_Y4M_PIX_FMT = re.compile(r"yuv(420|422|444)p(9le|10le|12le|14le|16le)?")


def check_target(info: SourceInfo, request: OutputRequest) -> Target:
    """Decide how the upscaled frames of `info` are written, and try it on black frames.

    Raises:
        MediaError: the target exists, is the source, cannot be written, or cannot hold the streams.
        OptionError: an encoder or its option does not exist.
    """
    target = _decide(info, request)
    wishes = [wish for wish in request.encoder_wishes if wish != "--lossless"] if target.kind != "video" else []
    if not wishes:
        return target
    return replace(
        target, notes=(*target.notes, f"{target.name}: {', '.join(wishes)}: for videos, and without effect here")
    )


def _decide(info: SourceInfo, request: OutputRequest) -> Target:
    text = str(request.target)
    if text == "-":
        return _check_y4m(info, request)
    if not text:
        raise MediaError("the target has no name; name a video or a folder, or -")
    path = real_folder(request.target)
    folder = text.endswith(("/", os.sep)) or path.is_dir()
    suffix = path.suffix.lower()
    if not folder and not suffix:
        if len(info.files) <= 1:
            what, example = ("an image", ".png") if info.kind == "images" else ("a video", ".mp4")
            raise MediaError(
                f"{text}: {what}, or a folder of images? name it {text}{example} for {what}, or {text}/ for a folder of PNG"
            )
        folder = True
    if not folder and suffix not in MUXERS and suffix not in IMAGE_ENCODERS and suffix != ".gif":
        known = " ".join([*MUXERS, ".gif", *IMAGE_ENCODERS])
        raise MediaError(f"{text}: unknown file type {path.suffix!r}; choose one of {known}, or end a folder in /")
    if folder:
        target = check_folder(info, request, path)
        check_destination(info, path, request, target.image_names, folder=True)
        return target
    check_destination(info, path, request)
    if suffix in IMAGE_ENCODERS:
        return check_image(info, request, path)
    if suffix == ".gif":
        return check_gif(info, request, path)
    return _check_video(info, request, path)


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
    if info.hdr10_plus and not can_keep_hdr10_plus(info, codec):
        keep = "only that of HEVC and AV1 is carried, into either of them; --codec libx265, libsvtav1 keep it"
        notes = (*notes, f"{path.name}: HDR10+ metadata is dropped, {keep}")
    tags = color.output_color(info.color, pix_fmt)
    if codec == "mjpeg":
        tags = color.jpeg_color(tags)
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
        wishes=request.encoder_wishes,
    )
    target = replace(target, options=tuple(encoder_options(info, target, request)))
    if request.lossless:
        target = replace(target, notes=(*target.notes, *lossless_notes(target)))
    preflight(info, target)
    return target


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
