# SPDX-License-Identifier: Apache-2.0
"""Decides how each of the source's other streams reaches the output: audio, subtitles, attachments, cover art."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import audio_encoders
from rvrt_cli.video.mux.audio_codecs import fallback_encoder, opus_layout
from rvrt_cli.video.mux.languages import stored_language
from rvrt_cli.video.mux.remux import MUXER_REFUSALS, add_stream_copy
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.mux.transcode import check_transcoding
from rvrt_cli.video.read.container import demux_packets, disposition, open_container
from rvrt_cli.video.read.source import ATTACHED_PIC, SourceInfo, StreamInfo

_TEXT_SUBTITLES = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
_TEXT_SUBTITLE_ENCODER = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
# Images that Matroska attaches: MIME type and file suffix by codec
COVER_TYPES = {
    "png": ("image/png", "png"),
    "mjpeg": ("image/jpeg", "jpg"),
    "gif": ("image/gif", "gif"),
    "tiff": ("image/tiff", "tif"),
}
_SAMPLED_PACKETS = 4  # first packets per audio stream, with which the container is tried
_MAX_SAMPLED_BYTES = 64 << 20  # of all packets, in search of them


def plan_streams(info: SourceInfo, muxer: str, target: Path) -> tuple[tuple[Route, ...], tuple[str, ...]]:
    """Routes for all streams of `info` except the upscaled one, and notes on those that are changed or dropped.

    Raises:
        MediaError: the container cannot hold a stream; the message names the stream and a container that can.
    """
    if info.kind != "video" or not info.streams:
        return (), ()
    with open_container(info.path) as container:
        planner = _StreamPlanner(info, muxer, target, _first_audio_packets(container))
        for stream in info.streams:
            if stream.index != info.stream_index:
                planner.plan(stream, container.streams[stream.index])
    planner.note_lost_languages()
    planner.check_transcoding()
    return tuple(planner.routes), tuple(f"{target.name}: {note}" for note in planner.notes)


class _StreamPlanner:
    """Collects routes and notes, stream by stream."""

    def __init__(self, info: SourceInfo, muxer: str, target: Path, samples: dict[int, list[Any]]) -> None:
        self.routes: list[Route] = []
        self.notes: list[str] = []
        self._info, self._muxer, self._target = info, muxer, target
        self._samples = samples  # first packets of each audio stream, by index

    def plan(self, stream: StreamInfo, opened: Any) -> None:
        """Decide about one stream; `opened` is the same stream in PyAV."""
        samples = self._samples.get(stream.index, [])
        if stream.type == "data":
            if stream.metadata.get("handler_name") != "SubtitleHandler" and stream.codec != "bin_data":
                what = "timecode tracks" if "timecode" in stream.metadata else "data streams"
                self.notes.append(f"{stream.name} is dropped: rvrt does not copy {what}")
        elif stream.type == "video" and not stream.cover:
            self.notes.append(f"{stream.name} is dropped: only one video stream is upscaled")
        elif stream.type == "audio" and stream.codec and not opened.codec_context.sample_rate:
            self.notes.append(f"{stream.name} is dropped: it contains no audio")
        elif _fits(opened, self._muxer, samples):
            self.routes.append(self._copy_route(stream, samples))
        elif stream.type == "subtitle" and stream.codec in _TEXT_SUBTITLES:
            codec = _TEXT_SUBTITLE_ENCODER[self._muxer]
            self.routes.append(Route(stream.index, "transcode", codec))
            self.notes.append(f"{stream.name} is converted to {codec}, the text format of {self._target.suffix}")
        elif (
            stream.type == "audio" and stream.codec and fallback_encoder(stream.codec, self._muxer) in audio_encoders()
        ):
            self.routes.append(self._transcode_route(stream, opened.codec_context.layout))
        else:
            raise MediaError(_refusal_message(opened, stream, self._info, self._target, samples))

    def _copy_route(self, stream: StreamInfo, samples: Sequence[Any]) -> Route:
        if stream.cover and self._muxer == "matroska":
            return Route(stream.index, "attach", stream.codec)
        delayed = self._muxer in ("matroska", "webm") and _starts_early(samples, self._info.output_zero())
        return Route(stream.index, "relay" if delayed else "copy")

    def _transcode_route(self, stream: StreamInfo, source_layout: Any) -> Route:
        codec = fallback_encoder(stream.codec, self._muxer)
        layout, complete = opus_layout(source_layout) if codec == "libopus" else ("", True)
        if not complete:
            self.notes.append(f"{stream.name}: {source_layout.name} is downmixed to {layout}; .mkv keeps all channels")
        suffix = self._target.suffix
        why = "rvrt cannot copy it into .mkv" if self._muxer == "matroska" else f"{suffix} cannot hold it"
        self.notes.append(f"{stream.name} is re-encoded to {audio_encoders()[codec]}, since {why}")
        channels = (av.AudioLayout(layout) if layout else source_layout).nb_channels
        return Route(stream.index, "transcode", codec, channels, layout)

    def note_lost_languages(self) -> None:
        kept = {self._info.stream_index, *(route.index for route in self.routes)}
        for stream in self._info.streams:
            if stream.index in kept and stored_language(stream.language, self._muxer) is None:
                self.notes.append(
                    f"stream {stream.index} ({stream.type}) loses its language {stream.language!r}, which "
                    f"{self._target.suffix} cannot store"
                )

    def check_transcoding(self) -> None:
        """Transcode the beginning of each audio stream that has packets near the start."""
        audio = [route for route in self.routes if route.channels and self._samples[route.index]]
        check_transcoding(audio, self._info, self._target)


def _refusal_message(opened: Any, stream: StreamInfo, info: SourceInfo, target: Path, samples: Sequence[Any]) -> str:
    kinds = {"audio": "the audio codec", "subtitle": "the subtitle codec", "video": "the cover image"}
    what = kinds.get(stream.type, "the attachment")
    name = repr(stream.codec or stream.metadata.get("filename", stream.type))
    containers = ((".mkv", "matroska"), (".mov", "mov"), (".mp4", "mp4"))
    fits = [suffix for suffix, muxer in containers if _fits(opened, muxer, samples)]
    remedy = f"choose {' or '.join(fits)}" if fits else "no container can; remove the stream from the source"
    return f"{Path(info.path).name}: {what} {name} is not supported in {target.suffix}; {remedy}"


def _fits(stream: Any, muxer: str, samples: Sequence[Any]) -> bool:
    """Whether a file with only this stream can be written: its header, a packet and its trailer.

    Args:
        samples: its first packets, of which damaged ones decide nothing; without any, the header decides.
    """
    if stream.type == "attachment":
        return muxer == "matroska"
    if disposition(stream) & ATTACHED_PIC:  # the .mov muxer accepts it and drops it
        supported = {"mp4": ("png", "mjpeg"), "matroska": tuple(COVER_TYPES)}
        return stream.codec_context.name in supported.get(muxer, ())
    output = av.open(io.BytesIO(), "w", format=muxer)
    accepted = not samples
    try:
        copy = add_stream_copy(output, stream)
        copy.disposition = disposition(stream)
        output.start_encoding()
        for number, sample in enumerate(samples):
            packet: Any = av.Packet(bytes(sample))
            packet.stream, packet.time_base, packet.is_keyframe = copy, sample.time_base, True
            packet.duration = sample.duration or 1
            packet.pts = packet.dts = number * packet.duration
            with contextlib.suppress(*MUXER_REFUSALS):
                output.mux(packet)
                accepted = True
        output.close()
    except (av.error.FFmpegError, ValueError):
        return False
    finally:
        output.close()  # the second call does nothing
    return accepted


def _first_audio_packets(container: Any) -> dict[int, list[Any]]:
    """The first packets of every audio stream that has some near the start, by stream index."""
    found: dict[int, list[Any]] = {stream.index: [] for stream in container.streams.audio}
    incomplete, read = dict(found), 0
    with contextlib.suppress(av.error.FFmpegError, OSError):  # a damaged stream is reported when it is copied
        for packet in demux_packets(container, list(container.streams)) if incomplete else ():
            read += packet.size
            if packet.size and packet.stream_index in incomplete:
                found[packet.stream_index].append(packet)
                if len(found[packet.stream_index]) == _SAMPLED_PACKETS:
                    del incomplete[packet.stream_index]
            if not incomplete or read > _MAX_SAMPLED_BYTES:
                break
    return found


def _starts_early(samples: Sequence[Any], zero: Fraction) -> bool:
    """Whether audio starts before the output's 0 with its encoder delay, which mp4 hides by an edit list."""
    first = next((packet for packet in samples if packet.pts is not None), None)
    return first is not None and first.pts * first.time_base < zero
