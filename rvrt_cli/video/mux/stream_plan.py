"""What happens to a source's sound, subtitles and other streams on their way into a container."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import audio_encoders
from rvrt_cli.video.mux.remux import UNFIT, add_copy
from rvrt_cli.video.mux.transcode import Route, rehearse
from rvrt_cli.video.read.probe import ATTACHED_PIC, SourceInfo, StreamInfo, disposition, open_container, packets

_TEXT_SUBTITLES = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
# Pictures that Matroska attaches, and the ending of their files
COVER_TYPES = {
    "png": ("image/png", "png"), "mjpeg": ("image/jpeg", "jpg"), "gif": ("image/gif", "gif"), "tiff": ("image/tiff", "tif")
}  # fmt: skip
_TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
# What sound becomes that a container cannot hold: another lossless codec where it was lossless, if there is one.
# Matroska holds nearly all, under names of its own or of Windows; PyAV copies the former only, so nothing may be lost
_SOUND_CODEC = {"mp4": "aac", "mov": "aac", "matroska": "flac", "webm": "libopus"}
_LOSSLESS_SOUND_CODEC = {"mp4": "alac", "mov": "alac"}
# Opus takes channels only so, and not the 5.1 of AC-3, whose speakers are at the sides
_OPUS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
_TRIED = 4  # packets of a stream
_NEAR = 64 << 20  # bytes of packets

# Codes of ISO 639-2 for the same language; Apple's table, as ffmpeg has it, calls Swedish by one of its own
_PAIRS = (
    "alb sqi, arm hye, baq eus, bur mya, chi zho, cze ces, dut nld, fre fra, geo kat, ger deu, gre ell, ice isl, mac mkd, "
    "may msa, per fas, rum ron, slo slk, sve swe, tib bod, wel cym"
)
_SAME_LANGUAGE = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), reversed(pair.split()))}


def plan_streams(info: SourceInfo, muxer: str, target: Path) -> tuple[tuple[Route, ...], tuple[str, ...]]:
    """Routes for all streams of `info` but the upscaled one, and notes about those that are changed or left out.

    Raises:
        MediaError: the container cannot hold a stream; the message names the stream and a container that can.
    """
    if info.kind != "video" or not info.streams:
        return (), ()
    routes, notes = [], []
    with open_container(info.path) as source:
        beginnings = _beginnings(source)
        for stream in info.streams:
            if stream.index == info.stream_index:
                continue
            name, given = stream.name, source.streams[stream.index]
            beginning = beginnings.get(stream.index, [])
            if stream.type == "data":
                if stream.metadata.get("handler_name") != "SubtitleHandler" and stream.codec != "bin_data":
                    what = "timecode tracks" if "timecode" in stream.metadata else "data"
                    notes.append(f"{target.name}: {name} is left out, rvrt copies no {what}")
            elif stream.type == "video" and not stream.cover:
                notes.append(f"{target.name}: {name} is left out, only one video stream is enlarged")
            elif stream.type == "audio" and stream.codec and not given.codec_context.sample_rate:
                notes.append(f"{target.name}: {name} is left out, no sound can be found in it")
            elif _fits(given, muxer, beginning):
                if stream.cover and muxer == "matroska":
                    routes.append(Route(stream.index, "attach", stream.codec))
                    continue
                early = muxer in ("matroska", "webm") and _starts_early(beginning, info.zero())
                routes.append(Route(stream.index, "relay" if early else "copy"))
            elif stream.type == "subtitle" and stream.codec in _TEXT_SUBTITLES:
                routes.append(Route(stream.index, "convert", _TEXT_CODEC[muxer]))
                notes.append(f"{target.name}: {name} becomes {_TEXT_CODEC[muxer]}, the text that {target.suffix} holds")
            elif stream.type == "audio" and stream.codec and _sound_codec(stream, muxer) in audio_encoders():
                codec, given_layout = _sound_codec(stream, muxer), given.codec_context.layout
                layout, whole = _opus_layout(given_layout) if codec == "libopus" else ("", True)
                if not whole:
                    notes.append(
                        f"{target.name}: {name} has {given_layout.name}, which are mixed into {layout}; .mkv keeps them"
                    )
                channels = av.AudioLayout(layout).nb_channels if layout else given_layout.nb_channels
                routes.append(Route(stream.index, "convert", codec, channels, layout))
                why = "rvrt cannot copy it into .mkv" if muxer == "matroska" else f"{target.suffix} cannot hold it"
                notes.append(f"{target.name}: {name} is re-encoded to {audio_encoders()[codec]}, since {why}")
            else:
                raise MediaError(_refusal(given, stream, info, target, beginning))
    kept = {info.stream_index, *(route.index for route in routes)}
    for stream in info.streams:
        if stream.index in kept and kept_language(stream.language, muxer) is None:
            notes.append(
                f"{target.name}: stream {stream.index} ({stream.type}) loses its language {stream.language!r}, which "
                f"{target.suffix} does not know"
            )
    rehearse([route for route in routes if route.channels and beginnings[route.index]], info, target)
    return tuple(routes), tuple(notes)


def _sound_codec(stream: StreamInfo, muxer: str) -> str:
    """The encoder for sound that the container cannot hold as it is."""
    lossless = bool(av.Codec(stream.codec, "r").lossless)
    return (lossless and _LOSSLESS_SOUND_CODEC.get(muxer)) or _SOUND_CODEC[muxer]


def _opus_layout(layout: Any) -> tuple[str, bool]:
    """(the smallest layout of Opus that has a place for every channel of `layout`, whether there is one)."""
    if layout.name.endswith(" channels"):  # without names: what is usual for as many
        layout = av.AudioLayout(f"{layout.nb_channels}c")
    channels = {channel.name for channel in layout.channels}
    behind = {channel.replace("S", "B") if channel in ("SL", "SR") else channel for channel in channels}
    for name in _OPUS_LAYOUTS:
        there = {channel.name for channel in av.AudioLayout(name).channels}
        if channels <= there or (len(behind) == len(channels) and behind <= there):
            return name, True
    return _OPUS_LAYOUTS[-1], False


@lru_cache(maxsize=256)
def kept_language(language: str, muxer: str) -> str | None:
    """The code under which the container keeps a language, None when it cannot.

    QuickTime knows a hundred languages by number, and ffmpeg each of them by one of its two codes only; mp4 knows all
    codes of three letters.
    """
    if muxer not in ("mov", "mp4") or language == "und":
        return language
    for code in (language, _SAME_LANGUAGE.get(language)):
        made = io.BytesIO()
        with av.open(made, "w", format=muxer) as output:
            stream: Any = output.add_stream("pcm_s16le", rate=8000, layout="mono")
            stream.metadata["language"] = code or "und"
            packet: Any = av.Packet(b"\0\0")  # a track without one is left out
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 8000), 0, 0
            output.mux(packet)
        made.seek(0)
        with av.open(made) as written:
            if code and written.streams[0].metadata.get("language") == code:
                return code
    return None


def _refusal(
    stream: Any, described: StreamInfo, info: SourceInfo, target: Path, beginning: Sequence[Any]
) -> str:  # fmt: skip
    what = {"audio": "the audio codec", "subtitle": "the subtitle codec", "video": "the cover picture"}.get(
        described.type, "the attachment"
    )
    called = repr(described.codec or described.metadata.get("filename", described.type))
    known = ((".mkv", "matroska"), (".mov", "mov"), (".mp4", "mp4"))
    fits = [suffix for suffix, muxer in known if _fits(stream, muxer, beginning)]
    remedy = f"choose {' or '.join(fits)}" if fits else "no container takes it; remove the stream from the source"
    return f"{Path(info.path).name}: {what} {called} cannot go into {target.suffix}; {remedy}"


def _fits(stream: Any, muxer: str, beginning: Sequence[Any]) -> bool:
    """Whether a file with this stream alone can be made: its header, a packet and its end, which decide it.

    Args:
        beginning: its first packets, of which damaged ones decide nothing; none: the header is enough.
    """
    if stream.type == "attachment":
        return muxer == "matroska"
    if disposition(stream) & ATTACHED_PIC:  # the .mov writer takes it and drops it
        known = {"mp4": ("png", "mjpeg"), "matroska": tuple(COVER_TYPES)}
        return stream.codec_context.name in known.get(muxer, ())
    output = av.open(io.BytesIO(), "w", format=muxer)
    taken = not beginning
    try:
        copy = add_copy(output, stream)
        copy.disposition = disposition(stream)
        output.start_encoding()
        for number, packet in enumerate(beginning):
            tried: Any = av.Packet(bytes(packet))
            tried.stream, tried.time_base, tried.is_keyframe = copy, packet.time_base, True
            tried.duration = packet.duration or 1
            tried.pts = tried.dts = number * tried.duration
            with contextlib.suppress(*UNFIT):
                output.mux(tried)
                taken = True
        output.close()
    except (av.error.FFmpegError, ValueError):
        return False
    finally:
        output.close()  # at the second time it does nothing
    return taken


def _beginnings(source: Any) -> dict[int, list[Any]]:
    """The first packets of every sound, as far as they come soon."""
    found: dict[int, list[Any]] = {stream.index: [] for stream in source.streams.audio}
    waiting, read = dict(found), 0
    with contextlib.suppress(av.error.FFmpegError, OSError):  # a damaged stream is found out by the copy itself
        for packet in packets(source, list(source.streams)) if waiting else ():
            read += packet.size
            if packet.size and packet.stream_index in waiting:
                found[packet.stream_index].append(packet)
                if len(found[packet.stream_index]) == _TRIED:
                    del waiting[packet.stream_index]
            if not waiting or read > _NEAR:
                break
    return found


def _starts_early(packets: Sequence[Any], zero: Fraction) -> bool:
    """Whether sound begins before the output's 0: the encoder's run-up, which an mp4 hides by its edit list."""
    first = next((packet for packet in packets if packet.pts is not None), None)
    return first is not None and first.pts * first.time_base < zero
