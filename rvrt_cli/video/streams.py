"""What happens to a source's sound, subtitles and other streams on their way into a container."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.probe import ATTACHED_PIC, SourceInfo, StreamInfo, disposition, open_container

_TEXT_SUBTITLES = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
COVER_TYPES = {"png": "image/png", "mjpeg": "image/jpeg"}
_TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}


@dataclass(frozen=True)
class Route:
    """The way of one stream: "copy", "attach", "convert" (by ffmpeg, to the subtitle `codec`) or "relay".

    "attach": Matroska keeps cover art as an attached file. "relay" copies through ffmpeg, which knows how Matroska says
    that the first samples of AAC are not to be played.
    """

    index: int
    how: str
    codec: str = ""


def plan_streams(info: SourceInfo, muxer: str, target: Path) -> tuple[tuple[Route, ...], tuple[str, ...]]:
    """Routes for all streams of `info` but the upscaled one, and notes about those that are changed or left out.

    Raises:
        MediaError: the container cannot hold a stream; the message names the stream and a container that can.
    """
    if info.kind != "video" or not info.streams:
        return (), ()
    routes, notes = [], []
    with open_container(info.path) as source:
        early = _starts_early(source) if muxer in ("matroska", "webm") else set()
        for stream in info.streams:
            if stream.index == info.stream_index:
                continue
            name = f"stream {stream.index} ({stream.type}{', ' + stream.codec if stream.codec else ''})"
            if stream.type == "data":
                if stream.metadata.get("handler_name") != "SubtitleHandler" and stream.codec != "bin_data":
                    notes.append(f"{target.name}: {name} is left out, no container takes it over")
            elif stream.type == "video" and not stream.cover:
                notes.append(f"{target.name}: {name} is left out, only one video stream is enlarged")
            elif _fits(source.streams[stream.index], muxer):
                if stream.cover and muxer == "matroska":
                    routes.append(Route(stream.index, "attach", stream.codec))
                    continue
                routes.append(Route(stream.index, "relay" if stream.index in early else "copy"))
            elif stream.type == "subtitle" and stream.codec in _TEXT_SUBTITLES:
                routes.append(Route(stream.index, "convert", _TEXT_CODEC[muxer]))
                notes.append(f"{target.name}: {name} becomes {_TEXT_CODEC[muxer]}, the text that {target.suffix} holds")
            else:
                raise MediaError(_refusal(source.streams[stream.index], stream, info, target))
    return tuple(routes), tuple(notes)


def _refusal(stream: Any, described: StreamInfo, info: SourceInfo, target: Path) -> str:
    what = {"audio": "the audio codec", "subtitle": "the subtitle codec", "video": "the cover picture"}.get(
        described.type, "the attachment"
    )
    called = repr(described.codec or described.metadata.get("filename", described.type))
    fits = [
        suffix for suffix, muxer in ((".mkv", "matroska"), (".mov", "mov"), (".mp4", "mp4")) if _fits(stream, muxer)
    ]
    remedy = f"choose {' or '.join(fits)}" if fits else "no container takes it; remove the stream from the source"
    return f"{Path(info.path).name}: {what} {called} cannot go into {target.suffix}; {remedy}"


def _fits(stream: Any, muxer: str) -> bool:
    """Whether a file with this stream alone gets past its header, which is what decides it."""
    if stream.type == "attachment":
        return muxer == "matroska"
    if disposition(stream) & ATTACHED_PIC:  # the .mov writer takes it and drops it
        return muxer in ("mp4", "matroska") and stream.codec_context.name in COVER_TYPES
    output = av.open(io.BytesIO(), "w", format=muxer)
    try:
        copy = output.add_stream_from_template(stream, opaque=True)
        copy.disposition = disposition(stream)
        output.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    finally:
        output.close()
    return True


def _starts_early(source: Any) -> set[int]:
    """Audio streams whose first packet lies before 0: the encoder's run-up, which an mp4 hides by its edit list."""
    waiting = {stream.index: stream for stream in source.streams.audio}
    early: set[int] = set()
    try:
        for packet in source.demux(list(waiting.values())) if waiting else ():
            if packet.stream_index in waiting and packet.pts is not None:
                del waiting[packet.stream_index]
                if packet.pts < 0:
                    early.add(packet.stream_index)
            if not waiting or (packet.pos is not None and packet.pos > 64 << 20):
                break
    except (av.error.FFmpegError, OSError):
        pass  # a damaged stream is found out by the copy itself
    return early
