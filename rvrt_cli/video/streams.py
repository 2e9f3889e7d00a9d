"""What happens to a source's sound, subtitles and other streams on their way into a container."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.probe import ATTACHED_PIC, SourceInfo, StreamInfo, disposition, open_container, packets
from rvrt_cli.video.process import FFmpeg, audio_encoders, file_url

_TEXT_SUBTITLES = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
COVER_TYPES = {"png": "image/png", "mjpeg": "image/jpeg"}
_TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
# What sound becomes that a container cannot hold: another lossless codec where it was lossless, if there is one
_SOUND_CODEC = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
_LOSSLESS_SOUND_CODEC = {"mp4": "alac", "mov": "alac", "matroska": "flac"}
_BITS_PER_CHANNEL = 96_000  # 192 kb/s of stereo: transparent in either lossy codec
# Opus takes the channels only in these orders, so not 5.1 with the speakers of AC-3
_ORDERS = {"libopus": "mono|stereo|3.0|quad|5.0|5.1|6.1|7.1"}


# Codes of ISO 639-2 for the same language; Apple's table, as ffmpeg has it, calls Swedish by one of its own
_PAIRS = (
    "alb sqi, arm hye, baq eus, bur mya, chi zho, cze ces, dut nld, fre fra, geo kat, ger deu, gre ell, ice isl, mac mkd, "
    "may msa, per fas, rum ron, slo slk, sve swe, tib bod, wel cym"
)
_SAME_LANGUAGE = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), reversed(pair.split()))}


@dataclass(frozen=True)
class Route:
    """The way of one stream: "copy", "attach", "convert" (by ffmpeg, with the encoder `codec`) or "relay".

    "attach": Matroska keeps cover art as an attached file. "relay" copies through ffmpeg, which knows how Matroska says
    that the first samples of AAC are not to be played.
    """

    index: int
    how: str
    codec: str = ""
    channels: int = 0  # of sound to convert


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
            name = stream.name
            if stream.type == "data":
                if stream.metadata.get("handler_name") != "SubtitleHandler" and stream.codec != "bin_data":
                    what = "timecode tracks" if "timecode" in stream.metadata else "data"
                    notes.append(f"{target.name}: {name} is left out, rvrt copies no {what}")
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
            elif stream.type == "audio" and stream.codec and _sound_codec(stream, muxer) in audio_encoders():
                codec = _sound_codec(stream, muxer)
                routes.append(
                    Route(stream.index, "convert", codec, source.streams[stream.index].codec_context.channels)
                )
                notes.append(
                    f"{target.name}: {name} is re-encoded to {audio_encoders()[codec]}, since {target.suffix} cannot hold it"
                )
            else:
                raise MediaError(_refusal(source.streams[stream.index], stream, info, target))
    kept = {info.stream_index, *(route.index for route in routes)}
    for stream in info.streams:
        if stream.index in kept and kept_language(stream.language, muxer) is None:
            notes.append(
                f"{target.name}: stream {stream.index} ({stream.type}) loses its language {stream.language!r}, which "
                f"{target.suffix} does not know"
            )
    _rehearse([route for route in routes if route.channels], info, target)
    return tuple(routes), tuple(notes)


def _sound_codec(stream: StreamInfo, muxer: str) -> str:
    """The encoder for sound that the container cannot hold as it is."""
    lossless = bool(av.Codec(stream.codec, "r").lossless)
    return (lossless and _LOSSLESS_SOUND_CODEC.get(muxer)) or _SOUND_CODEC[muxer]


@lru_cache(maxsize=256)
def kept_language(language: str, muxer: str) -> str | None:
    """The code under which the container keeps a language, None when it cannot.

    QuickTime knows a hundred languages by number, and ffmpeg each of them by one of its two codes only.
    """
    if muxer != "mov" or language == "und":
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


def moving_arguments(info: SourceInfo, routes: Sequence[Route]) -> list[str]:
    """ffmpeg's arguments from the source to streams in the order of `routes`, converted or relayed."""
    arguments = ["-copyts", "-protocol_whitelist", "file", "-i", file_url(info.path)]
    for position, route in enumerate(routes):
        arguments += ["-map", f"0:{route.index}", f"-c:{position}", route.codec or "copy"]
        if route.channels:
            arguments += [f"-b:{position}", str(route.channels * _BITS_PER_CHANNEL)]
            if route.codec in _ORDERS:
                arguments += [f"-filter:{position}", f"aformat=channel_layouts={_ORDERS[route.codec]}"]
    return arguments


def _rehearse(routes: Sequence[Route], info: SourceInfo, target: Path) -> None:
    """Convert the first moment of sound to nowhere: what fails does so before the work.

    Raises:
        MediaError: it cannot be decoded or encoded.
    """
    if not routes:
        return
    ffmpeg = FFmpeg([*moving_arguments(info, routes), "-t", "0.1", "-f", "null", "-"])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(
                f"{Path(info.path).name}: its sound cannot go into {target.suffix} and cannot be re-encoded for it "
                f"({ffmpeg.last_error()}); choose .mkv"
            )
    finally:
        ffmpeg.kill()


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
        for packet in packets(source, list(waiting.values())) if waiting else ():
            if packet.stream_index in waiting and packet.pts is not None:
                del waiting[packet.stream_index]
                if packet.pts < 0:
                    early.add(packet.stream_index)
            if not waiting or (packet.pos is not None and packet.pos > 64 << 20):
                break
    except (av.error.FFmpegError, OSError):
        pass  # a damaged stream is found out by the copy itself
    return early
