# SPDX-License-Identifier: Apache-2.0
"""What a source is: its streams, the size and meaning of its frames, its clock. Found out once, before any work."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video import color
from rvrt_cli.video.color import ColorDescription
from rvrt_cli.video.ffmpeg import has_decoder
from rvrt_cli.video.read import image_files, side_data, y4m_header
from rvrt_cli.video.read.container import demux_packets, disposition, has_free_clock, open_container, reason
from rvrt_cli.video.read.source import ATTACHED_PIC, SourceInfo, StreamInfo

DEFAULT_FPS = Fraction(24)
_FALLBACK_RATE = Fraction(25)
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's native decoders ignore the alpha of WebM
_AVI_PLACEHOLDER_FRAMES = 1 << 30  # frame count that ffmpeg writes into an AVI header until it knows better
_DEPENDENT = 0x80000  # disposition flag of a stream that is shown together with others only, as a tile of an image is
_AVINDEX_DISCARD_FRAME = 2  # libavformat: an index entry that an edit list hides


def probe(source: str | Path, *, fps: Fraction | None = None) -> SourceInfo:
    """Describe `source`: a file, a folder or pattern of images, or "-" for y4m on standard input.

    Args:
        fps: frames/s of an image sequence; 24 by default. Other sources have their own clock.

    Raises:
        MediaError: it is missing, is not a video, has no frames, or its first frame cannot be decoded.
    """
    text = str(source)
    if text == "-":
        return _probe_y4m()
    if not text:  # such as an unset shell variable; the current folder is "."
        raise MediaError("the source has no name; name a video, a folder or pattern of images, or -")
    path = Path(source)
    if path.is_dir():
        return _probe_images(text, image_files.list_images(path), fps)
    if not os.path.lexists(path) and image_files.is_pattern(text):
        return _probe_images(text, image_files.list_images(source), fps)
    if not path.exists():
        raise MediaError(f"{text}: no such file or folder")
    if not path.is_file():
        raise MediaError(f"{text}: not a regular file; for a pipe, send y4m to standard input and name the source -")
    if path.suffix.lower() not in image_files.SUFFIXES:
        return _probe_video(path)
    header = image_files.read_image_header(path)
    if header.extra_images and header.format == "WEBP":
        raise MediaError(f"{text}: animated WebP cannot be read; convert it to .apng or to a folder of images")
    return _probe_video(path) if header.extra_images and header.format == "PNG" else _probe_images(text, [path], fps)


def _probe_video(path: Path) -> SourceInfo:
    with open_container(path) as container:
        stream = _choose_video_stream(path, container)
        # Everything that decoding may change is read first
        streams = tuple(_describe_stream(s) for s in container.streams)
        count, exact = _count_frames(container, stream)
        end = _stream_end(stream)
        begin = Fraction(container.start_time or 0, 1_000_000)
        frame = _decode_first_frame(path, container, stream)
        pix_fmt, has_alpha, decoder = _pixel_format(frame, stream)
        rate = _frame_rate(container, stream)
        start_time = (stream.start_time if stream.start_time is not None else frame.pts or 0) * stream.time_base
        duration: float | None = container.duration / 1e6 if container.duration else None
        if end is not None and end > start_time:
            duration = float(end - start_time)
        if count is None and duration:
            count = max(1, round(duration * rate))
        rotation, upright = side_data.orientation(frame)
        swapped = "transpose" in upright
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        return SourceInfo(
            kind="video",
            path=str(path),
            width=frame.height if swapped else frame.width,
            height=frame.width if swapped else frame.height,
            bit_depth=color.bit_depth(pix_fmt),
            pix_fmt=pix_fmt,
            has_alpha=has_alpha,
            interlaced=bool(frame.interlaced_frame),
            frame_rate=rate,
            time_base=Fraction(stream.time_base),
            color=color.resolve_color(side_data.color_codes(frame), pix_fmt, frame.height),
            start_time=start_time,
            begin=begin,
            duration=duration,
            end=end,
            frame_count=count,
            exact_count=exact,
            sample_aspect=(1 / aspect if swapped else aspect) if aspect > 0 else Fraction(1),
            rotation=rotation,
            upright=upright,
            free_clock=has_free_clock(container),
            format=container.format.name,
            codec=stream.codec_context.name,
            decoder=decoder,
            stream_index=stream.index,
            streams=streams,
            chapters=tuple(dict(chapter) for chapter in container.chapters()),
            metadata=dict(container.metadata),
            mastering=side_data.mastering_display(frame),
            light_level=side_data.light_level(frame),
            hdr10_plus=side_data.has_hdr10_plus(frame),
            dolby_vision=side_data.dolby_vision_profile(frame),
            base_view=side_data.is_view(frame),
        )


def _choose_video_stream(path: Path, container: Any) -> Any:
    """The stream to upscale: the default one, else the largest, else the first."""
    videos = [s for s in container.streams.video if not disposition(s) & ATTACHED_PIC]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams at all"
        raise MediaError(f"{path}: no video in this file, but {kinds}; name a file with video")
    known = [s for s in videos if s.codec_context is not None]
    if not known:
        raise MediaError(f"{path}: ffmpeg does not know its video codec; the file may be damaged")
    if disposition(max(known, key=_area)) & _DEPENDENT:  # there may be a thumbnail beside them
        tiles = sum(bool(disposition(s) & _DEPENDENT) for s in known)
        raise MediaError(
            f"{path}: an image in {tiles} tiles, as phones write HEIC, of which only one would be read; convert it to "
            "PNG first, with ffmpeg 7.1 or later for instance"
        )
    return max(known, key=lambda s: (disposition(s) & 1, _area(s), -s.index))


def _area(stream: Any) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _describe_stream(stream: Any) -> StreamInfo:
    metadata = dict(stream.metadata)
    context = getattr(stream, "codec_context", None)
    return StreamInfo(
        index=stream.index,
        type=stream.type,
        codec=context.codec.canonical_name if context is not None else "",
        language=metadata.get("language", "und"),
        title=metadata.get("title", ""),
        disposition=disposition(stream),
        metadata=metadata,
    )


def _decode_first_frame(path: Path, container: Any, stream: Any) -> Any:
    """The first frame that decodes; damaged packets before it are skipped."""
    stream.thread_type = "SLICE"  # frame threads would read far ahead for this one frame
    last: Exception | None = None
    try:
        for packet in demux_packets(container, stream):
            try:
                frames = packet.decode()
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                last = error
                continue
            if frames:
                return frames[0]
    except (av.error.FFmpegError, OSError) as error:
        last = error
    why = f" ({reason(last)})" if last else ""
    raise MediaError(f"{path}: none of its frames can be decoded{why}; the file is damaged or empty")


def _pixel_format(frame: Any, stream: Any) -> tuple[str, bool, str]:
    """(pixel format, whether the video has alpha, decoder that delivers it or "" for the default)."""
    pix_fmt = frame.format.name
    has_alpha = color.has_alpha(pix_fmt) or stream.metadata.get("alpha_mode") == "1"
    decoder = _ALPHA_DECODERS.get(stream.codec_context.name, "")
    if has_alpha and pix_fmt == "yuv420p" and has_decoder(decoder):
        return "yuva420p", has_alpha, decoder
    return pix_fmt, has_alpha, ""


def _frame_rate(container: Any, stream: Any) -> Fraction:
    """Average frame rate.

    A stream whose frames start later than ffmpeg probes has no average, and ffmpeg guesses one frame per clock tick.
    """
    rates = (stream.average_rate, stream.codec_context.framerate, stream.guessed_rate, stream.base_rate, _FALLBACK_RATE)
    trusted = rates[2:] if _counts_ticks(container) else rates
    return Fraction(next(rate for rate in trusted if rate))


def _count_frames(container: Any, stream: Any) -> tuple[int | None, bool]:
    """(number of frames, whether it is exact). The index of an mp4 says which samples an edit list hides."""
    announced, entries = stream.frames, stream.index_entries
    if "mp4" in container.format.name.split(",") and announced and len(entries) >= announced:
        return sum(not entry.flags & _AVINDEX_DISCARD_FRAME for entry in entries), True
    if _counts_ticks(container):
        return None, False
    if container.format.name != "avi":
        return announced or None, False
    if not 0 < announced < _AVI_PLACEHOLDER_FRAMES:
        return None, False
    # AVI counts frame periods: one that repeats the frame before has an empty chunk, which is not in the index
    filled = sum(entry.size > 0 for entry in entries)
    indexed = 1 + round(entries[-1].timestamp * stream.time_base * stream.average_rate) if filled else 0
    return filled + max(0, announced - indexed), True  # the difference is missing from a truncated file


def _counts_ticks(container: Any) -> bool:
    """Whether ffmpeg mistakes clock ticks for frames, as in raw DV: 2002 times too many."""
    return container.format.name == "dv"


def _stream_end(stream: Any) -> Fraction | None:
    """End of the stream's last frame, in seconds on its clock; None when the stream does not state it."""
    if stream.duration and stream.frames < _AVI_PLACEHOLDER_FRAMES:
        return ((stream.start_time or 0) + stream.duration) * Fraction(stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska's statistics, which count from 0
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,12})?)", tag)
    return int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3]) if match else None


def _probe_images(source: str, files: list[Path], fps: Fraction | None) -> SourceInfo:
    with open_container(files[0], image_files.png_without_exif(files[0])) as container:
        if not container.streams.video:
            raise MediaError(f"{files[0]}: this image cannot be read; remove or replace it")
        pix_fmt = _decode_first_frame(files[0], container, container.streams.video[0]).format.name
    headers = [image_files.read_image_header(path) for path in files]
    depth = max(color.bit_depth(pix_fmt), *(header.bits for header in headers))
    pixels, alpha = image_files.read_image(files[0], deep=depth > 8)
    rate = fps or DEFAULT_FPS
    return SourceInfo(
        kind="images",
        path=source,
        width=pixels.shape[1],
        height=pixels.shape[0],
        bit_depth=depth,
        pix_fmt=pix_fmt,
        has_alpha=alpha is not None or any(header.alpha for header in headers),
        interlaced=False,
        frame_rate=rate,
        time_base=1 / rate,
        color=ColorDescription(matrix="gbr", range="pc"),
        duration=float(len(files) / rate),
        frame_count=len(files),
        exact_count=True,
        format="images",
        files=tuple(files),
        extra_images=sum(header.extra_images for header in headers),
        icc_profile=next((header.icc_profile for header in headers if header.icc_profile), ""),
    )


def _probe_y4m() -> SourceInfo:
    descriptor = y4m_header.stdin_descriptor()
    if os.isatty(descriptor):
        raise MediaError("-: standard input is a terminal; pipe a y4m stream into it")
    header = y4m_header.read_header(descriptor)
    ranges = {"tv": 1, "pc": 2}
    codes = {"range": ranges[header.range]} if header.range else {}
    return SourceInfo(
        kind="y4m",
        path="-",
        width=header.width,
        height=header.height,
        bit_depth=color.bit_depth(header.pix_fmt),
        pix_fmt=header.pix_fmt,
        has_alpha=False,
        interlaced=header.interlaced,
        frame_rate=header.rate,
        time_base=1 / header.rate,
        color=color.resolve_color(codes, header.pix_fmt, header.height),
        sample_aspect=header.sample_aspect,
        format="yuv4mpegpipe",
        codec="rawvideo",
        header=header.raw,
    )
