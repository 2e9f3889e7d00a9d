# SPDX-License-Identifier: Apache-2.0
"""The final file: the encoded video and everything else of the source, through PyAV."""

from __future__ import annotations

import contextlib
import heapq
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import FFmpeg, file_url
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.mux.metadata import content_tags, copy_chapters, copy_tags
from rvrt_cli.video.mux.remux import MUXER_REFUSALS, Clock, CopiedStream, add_stream_copy, copied_packets
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.mux.stream_plan import COVER_TYPES
from rvrt_cli.video.mux.transcode import side_file_offset, write_side_files
from rvrt_cli.video.mux.video_packets import video_packets
from rvrt_cli.video.read.container import demux_packets, open_container, reason
from rvrt_cli.video.read.hdr10_plus import Hdr10PlusTrack, can_keep_hdr10_plus
from rvrt_cli.video.read.source import SourceInfo, StreamInfo

_Track = Iterable[tuple[Fraction, Any, CopiedStream | None]]  # decoding timestamp [s], packet, its stream unless video
_ANY_TYPE = "application/octet-stream"
_MP4_TIME_SCALES = range(1000, 1_000_001)
_DEFAULT_TIME_SCALE = 90_000


@dataclass(frozen=True)
class MuxJob:
    """What goes into one output file.

    Attributes:
        info: the source.
        parts: files of the same encoder settings in order of time, with timestamps on the output's clock.
        muxer: ffmpeg's name of the container.
        routes: from `plan_streams`.
        excerpt: the part of the source that `parts` show.
        copy_streams: use `routes`, and copy chapters and metadata.
    """

    info: SourceInfo
    parts: tuple[Path, ...]
    output: Path
    muxer: str
    routes: tuple[Route, ...] = ()
    excerpt: Excerpt = field(default_factory=Excerpt)
    copy_streams: bool = True

    @property
    def clock(self) -> Clock:
        excerpt = self.excerpt
        zero = self.info.output_zero(excerpt.start)
        return Clock(zero, first=Fraction(0) if excerpt.start > 0 else None, end=excerpt.exact_duration)

    @property
    def used_routes(self) -> list[Route]:
        """Routes of this excerpt: one that starts later has no encoder delay, so that its packets are just copied."""
        if not self.copy_streams or self.info.kind != "video":
            return []
        cut = self.excerpt.start > 0
        return [replace(route, how="copy") if cut and route.how == "relay" else route for route in self.routes]

    @property
    def container_options(self) -> dict[str, str]:
        if self.muxer not in ("mp4", "mov"):
            return {}
        # Edit lists count in the movie's time scale: with the video's own, a late first frame stays exactly where it is
        scale = self.info.time_base.denominator
        scale = scale if scale in _MP4_TIME_SCALES else _DEFAULT_TIME_SCALE
        return {"movflags": "+faststart", "movie_timescale": str(scale)}


@dataclass
class MuxResult:
    """Number of video packets written, and one line for every stream that could not be copied completely."""

    packets: int
    warnings: list[str]


def mux(job: MuxJob) -> MuxResult:
    """Write the output of `job`: the encoded video and the streams that its routes name.

    Damaged streams are kept as far as possible and reported.

    Raises:
        MediaError: a file cannot be read or written.
    """
    info = job.info
    try:
        with ExitStack() as stack:
            output = _Output(stack, job)
            output.write()
        _repair_aspect(job)
        warnings = output.report()
        packets = output.packets
        if output.failure is not None:
            with open_container(job.output) as result:  # the muxer may have dropped a video packet that it held back
                packets = sum(packet.size > 0 for packet in result.demux(result.streams.video[0]))
            if packets < output.packets:
                raise output.failure
        return MuxResult(packets, warnings)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"{info.path}: the upscaled video cannot be muxed ({reason(error)}); fix this and run it again"
        ) from error


class _Output:
    """The output file while it is written."""

    def __init__(self, stack: ExitStack, job: MuxJob) -> None:
        self.packets = 0  # of the video
        self.failure: Exception | None = None  # first refusal of the muxer
        self._job = job
        self._unattributed = 0  # refused packets that may be any stream's
        self._side_files, self._warnings = write_side_files(stack, job.info, job.used_routes, job.output, job.muxer)
        self._first = stack.enter_context(open_container(job.parts[0]))
        routes = self._readable_routes()
        self._source = stack.enter_context(open_container(job.info.path)) if routes else None
        self._metadata: Hdr10PlusTrack | None = None
        codec = self._first.streams.video[0].codec_context.codec.canonical_name
        if job.copy_streams and can_keep_hdr10_plus(job.info, codec):
            again = stack.enter_context(open_container(job.info.path))
            self._metadata = Hdr10PlusTrack(again, job.info.stream_index)
        self._opened_side_files = [stack.enter_context(open_container(file.path)) for file in self._side_files]
        self._target = stack.enter_context(
            av.open(file_url(job.output), "w", format=job.muxer, container_options=job.container_options)
        )
        self._video: Any = None
        self._by_index: dict[int, Any] = {}  # streams of the output, by the source's index
        self._copied: dict[int, CopiedStream] = {}
        self._from_side_files: dict[int, CopiedStream] = {}
        self._add_streams(routes)

    def _readable_routes(self) -> dict[int, Route]:
        """Routes by the source's index, without streams that ffmpeg could not read at all."""
        readable = {route.index for file in self._side_files for route in file.routes}
        return {
            route.index: route
            for route in self._job.used_routes
            if route.how in ("copy", "attach") or route.index in readable
        }

    def write(self) -> None:
        """Header, packets and trailer."""
        job = self._job
        clock = job.clock
        if job.copy_streams:
            copy_tags(self._target, job.info, job.muxer, self._by_index)
            copy_chapters(self._target, job.info, clock.zero, clock.end)
        self._target.start_encoding()
        tracks: list[_Track] = [
            video_packets(job.parts, self._first, self._video, job.info, job.excerpt, self._metadata)
        ]
        if self._copied:
            tracks.append(copied_packets(self._source, self._copied, job.muxer, clock))
        for file, opened in zip(self._side_files, self._opened_side_files, strict=True):
            streams = {n: self._from_side_files[route.index] for n, route in enumerate(file.routes)}
            side_clock = clock.ahead(side_file_offset(job.info))
            tracks.append(copied_packets(opened, streams, job.muxer, side_clock))
        self._interleave(tracks)

    def _add_streams(self, routes: dict[int, Route]) -> None:
        """Streams in the source's order; attachments are written at once."""
        info, target = self._job.info, self._target
        side_streams = {
            route.index: stream
            for file, opened in zip(self._side_files, self._opened_side_files, strict=True)
            for route, stream in zip(file.routes, opened.streams, strict=True)
        }
        for index in sorted({*routes, info.stream_index}):
            if index == info.stream_index:
                self._add_video()
                continue
            assert self._source is not None
            route, stream, described = routes[index], self._source.streams[index], info.stream(index)
            if route.how == "attach":
                if not _attach_cover(target, stream, described):
                    self._warnings.append(f"{info.path}: {described.name}: cannot be read and is dropped")
            elif stream.type == "attachment":
                file = target.add_attachment(stream.name or "attachment", stream.mimetype or _ANY_TYPE, stream.data)
                file.metadata.update({**content_tags(described.metadata), **file.metadata})
            else:
                copied, template = (
                    (self._copied, stream) if route.how == "copy" else (self._from_side_files, side_streams[index])
                )
                self._by_index[index] = add_stream_copy(target, template)
                copied[index] = CopiedStream(self._by_index[index], described.name)

    def _add_video(self) -> None:
        info, template = self._job.info, self._first.streams.video[0]
        self._video = self._by_index[info.stream_index] = add_stream_copy(self._target, template)
        self._video.time_base = info.time_base
        self._video.codec_context.framerate = info.frame_rate  # Matroska's default frame duration
        self._video.codec_context.sample_aspect_ratio = template.sample_aspect_ratio
        self._video.codec_context.codec_tag = template.codec_context.codec_tag  # "hvc1": Apple's players reject "hev1"

    def _interleave(self, tracks: list[_Track]) -> None:
        """Write all packets, and the trailer.

        Packets come in decoding order across all streams, so that the muxer holds few of them. It does hold some, and may
        refuse one only when it gets a later one: such a packet cannot be attributed to a stream.
        """
        for _, packet, copied in heapq.merge(*tracks, key=lambda item: item[0]):
            try:
                self._target.mux(packet)
            except MUXER_REFUSALS as error:
                self.failure = self.failure or error
                if copied is not None:
                    copied.dropped += 1
                elif len(tracks) > 1:
                    self._unattributed += 1
                else:
                    raise
            self.packets += copied is None
        try:
            self._target.close()
        except MUXER_REFUSALS as error:
            if len(tracks) == 1:
                raise
            self.failure, self._unattributed = self.failure or error, self._unattributed + 1

    def report(self) -> list[str]:
        """One line for every stream that was not copied completely."""
        info, warnings = self._job.info, self._warnings
        streams = [*self._copied.values(), *self._from_side_files.values()]
        if len(streams) == 1:
            streams[0].dropped += self._unattributed
        elif self._unattributed:
            plural = "s" * (self._unattributed > 1)
            warnings.append(f"{info.path}: audio or subtitles: {self._unattributed} damaged packet{plural} dropped")
        for stream in streams:
            warnings += stream.warnings(info)
        return warnings


def _attach_cover(target: Any, stream: Any, described: StreamInfo) -> bool:
    """Attach a cover image as a file; whether there is one."""
    mime_type, suffix = COVER_TYPES[described.codec]
    image = None
    with contextlib.suppress(av.error.FFmpegError, OSError):
        image = next((packet for packet in demux_packets(stream.container, stream) if packet.size), None)
        stream.container.seek(0)
    if image is not None:
        used = {other.metadata.get("filename") for other in target.streams}
        names = (f"cover{number}.{suffix}" for number in ("", *range(2, 1000)))
        name = described.metadata.get("filename") or next(name for name in names if name not in used)
        file = target.add_attachment(name, mime_type, bytes(image))
        file.metadata.update({**content_tags(described.metadata), **file.metadata})
    return image is not None


def _repair_aspect(job: MuxJob) -> None:
    """Remux the output with ffmpeg where the sample aspect is not in the bitstream and PyAV cannot set it (Matroska)."""
    info, output = job.info, job.output
    with open_container(job.parts[0]) as first, open_container(output) as written:
        old, new = first.streams.video[0], written.streams.video[0]
        wanted = old.sample_aspect_ratio or Fraction(1)
        if abs((new.sample_aspect_ratio or 1) / wanted - 1) < Fraction(1, 100):  # Matroska rounds to whole px
            return
        shape = wanted * Fraction(old.codec_context.width, old.codec_context.height)
    repaired = output.with_name(f".rvrt-{secrets.token_hex(6)}.side")
    copied = ["-map", "0", "-c", "copy", "-aspect:v:0", f"{shape.numerator}:{shape.denominator}"]
    source = ["-copyts", "-protocol_whitelist", "file", "-i", file_url(output)]
    ffmpeg = FFmpeg([*source, *copied, "-avoid_negative_ts", "disabled", "-f", job.muxer, file_url(repaired)])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(f"{info.path}: the upscaled video cannot be muxed: {ffmpeg.last_error()}; run it again")
        repaired.replace(output)
    finally:
        ffmpeg.kill()
        repaired.unlink(missing_ok=True)
