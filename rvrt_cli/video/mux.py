"""The final file: the encoded pictures, and everything else of the source beside them, through PyAV."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.probe import ATTACHED_PIC, SourceInfo, disposition, open_container, reason
from rvrt_cli.video.process import FFmpeg, file_url
from rvrt_cli.video.streams import COVER_TYPES, Route

# What describes the old file and not the film
_STALE = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "rotate",
    "timecode",
    "creation_time",
}
_STALE_PREFIXES = ("bps", "number_of_", "_statistics_", "duration-")


def mux(
    encoded: Path | Sequence[Path],
    info: SourceInfo,
    output: Path,
    *,
    muxer: str,
    routes: Sequence[Route] = (),
    source_mux: bool = True,
    start: float = 0.0,
    duration: float | None = None,
) -> int:
    """Write `output`: the video of `encoded` and the streams of `info` that `routes` name, nothing re-encoded.

    Args:
        encoded: one file, or several of the same encoder settings in order of time; times on the output's clock.
        muxer: ffmpeg's name of the container.
        routes: from `streams.plan_streams`; without `source_mux` neither they nor chapters and metadata are used.
        start, duration: the part of the source, in seconds, that `encoded` shows; 0 and None: all of it.

    Returns:
        The number of video packets written.

    Raises:
        MediaError: a file cannot be read or written.
    """
    parts = [encoded] if isinstance(encoded, Path) else list(encoded)
    routes = routes if source_mux and info.kind == "video" else ()
    try:
        with contextlib.ExitStack() as stack:
            side = _side_file(stack, info, routes, muxer, output.parent)
            return _mux(stack, parts, info, output, muxer, routes, side, source_mux, start, duration)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{output.name}: cannot be written ({reason(error)})") from error


def _mux(
    stack: contextlib.ExitStack,
    parts: list[Path],
    info: SourceInfo,
    output: Path,
    muxer: str,
    routes: Sequence[Route],
    side: Path | None,
    source_mux: bool,
    start: float,
    duration: float | None,
) -> int:
    zero = info.zero(start)
    options = {}
    if muxer in ("mp4", "mov"):
        # Edit lists count in the movie's time scale: in the video's own, a late first picture stays exactly where it is
        scale = info.time_base.denominator
        options = {"movflags": "+faststart", "movie_timescale": str(scale if 1000 <= scale <= 1_000_000 else 90_000)}
    first = stack.enter_context(open_container(parts[0]))
    target = stack.enter_context(av.open(file_url(output), "w", format=muxer, container_options=options))
    source = stack.enter_context(open_container(info.path)) if routes else None
    beside = stack.enter_context(open_container(side)) if side else None

    template = first.streams.video[0]
    copies: list[tuple[Any, dict[int, Any]]] = []
    from_source: dict[int, Any] = {}
    from_side: dict[int, Any] = {}
    relayed = iter(beside.streams if beside else ())
    by_index = {route.index: route for route in routes}
    video = None
    for index in sorted({*by_index, info.stream_index}):
        if index == info.stream_index:
            video = target.add_stream_from_template(template, opaque=True)
            video.time_base = info.time_base
        elif by_index[index].how == "attach":
            assert source is not None
            _attach_cover(target, source.streams[index], by_index[index].codec)
        elif by_index[index].how == "copy":
            assert source is not None
            _add(target, source.streams[index], index, from_source)
        else:
            stream = next(relayed)
            _add(target, stream, stream.index, from_side)
    assert video is not None
    if source_mux:
        _describe(target, info, {info.stream_index: video} | _described(from_source, from_side, routes), zero, duration)
    target.start_encoding()

    if source is not None and from_source:
        copies.append((source, from_source))
    if beside is not None:
        copies.append((beside, from_side))
    window = (Fraction(0), Fraction(duration).limit_denominator(10**6) if duration is not None else None)
    tracks: list[Iterable[tuple[Fraction, int, Any]]] = [_video_packets(parts, first, video)]
    for number, (container, streams) in enumerate(copies, 1):
        tracks.append(_copied_packets(container, streams, zero, window if start > 0 or duration else None, number))
    written = 0
    for _, order, packet in heapq.merge(*tracks, key=lambda item: item[:2]):
        target.mux(packet)
        written += order == 0
    return written


def _add(target: Any, stream: Any, index: int, copies: dict[int, Any]) -> None:
    if stream.type == "attachment":
        target.add_attachment(stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data)
        return
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    copies[index] = copy


def _attach_cover(target: Any, stream: Any, codec: str) -> None:
    suffix = "png" if codec == "png" else "jpg"
    picture = next(packet for packet in stream.container.demux(stream) if packet.size)
    target.add_attachment(f"cover.{suffix}", COVER_TYPES[codec], bytes(picture))
    stream.container.seek(0)


def _described(from_source: dict[int, Any], from_side: dict[int, Any], routes: Sequence[Route]) -> dict[int, Any]:
    """The output's streams by the index of the source's stream that they come from."""
    moved = [route.index for route in routes if route.how in ("convert", "relay")]
    return from_source | {moved[position]: stream for position, stream in enumerate(from_side.values())}


def _describe(target: Any, info: SourceInfo, streams: dict[int, Any], zero: Fraction, duration: float | None) -> None:
    """Metadata, dispositions and chapters of the source."""
    target.metadata.update(_fresh(info.metadata))
    for described in info.streams:
        if described.index in streams:
            streams[described.index].metadata.update(_fresh(described.metadata))
            streams[described.index].disposition = described.disposition
    chapters = []
    for number, chapter in enumerate(info.chapters):
        base = Fraction(chapter["time_base"])
        begin, end = chapter["start"] * base - zero, chapter["end"] * base - zero
        if duration is not None:
            end = min(end, Fraction(duration).limit_denominator(10**6))
        if end > max(begin, 0):
            times = {"start": max(0, round(begin * 1000)), "end": round(end * 1000), "time_base": Fraction(1, 1000)}
            chapters.append({"id": number, **times, "metadata": dict(chapter["metadata"])})
    if chapters:
        target.set_chapters(chapters)


def _fresh(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _STALE and not key.lower().startswith(_STALE_PREFIXES)
    }


def _video_packets(parts: list[Path], first: Any, target: Any) -> Iterator[tuple[Fraction, int, Any]]:
    """The packets of all parts with increasing decoding times, which some containers leave out at the start."""
    last: int | None = None
    for number, part in enumerate(parts):
        with contextlib.ExitStack() as stack:
            container = first if number == 0 else stack.enter_context(open_container(part))
            packets = (p for p in container.demux(container.streams.video[0]) if p.size)
            for packet in _with_decoding_times(packets):
                # In the stream's own unit, which the muxer may have changed when it wrote the header
                base = target.time_base
                scale = Fraction(packet.time_base) / base
                pts, dts = round(packet.pts * scale), round(packet.dts * scale)
                dts = dts if last is None else max(dts, last + 1)
                packet.stream = target
                packet.time_base = base
                packet.pts, packet.dts = max(pts, dts), dts
                if packet.duration:
                    packet.duration = round(packet.duration * scale)
                last = dts
                yield dts * base, 0, packet


def _with_decoding_times(packets: Iterator[Any]) -> Iterator[Any]:
    waiting = []
    for packet in packets:
        if packet.dts is None:
            waiting.append(packet)
            continue
        for distance, early in enumerate(reversed(waiting), 1):
            early.dts = packet.dts - distance
        yield from waiting
        waiting = []
        yield packet
        break
    else:
        for position, packet in enumerate(waiting):
            packet.dts = min(p.pts for p in waiting) - len(waiting) + position
        yield from waiting
    for packet in itertools.chain(packets):
        if packet.dts is None:
            packet.dts = packet.pts
        yield packet


def _copied_packets(
    container: Any,
    streams: dict[int, Any],
    zero: Fraction,
    window: tuple[Fraction, Fraction | None] | None,
    order: int,
) -> Iterator[tuple[Fraction, int, Any]]:
    """Packets of `streams`, moved to the output's clock; of a part of the source, those that begin within it."""
    chosen = [container.streams[index] for index in streams]
    for packet in container.demux(chosen):
        if not packet.size or packet.stream_index not in streams:
            continue
        base = Fraction(packet.time_base)
        kind = packet.stream.type
        cover = bool(disposition(packet.stream) & ATTACHED_PIC)
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None and not cover:
            continue
        dts = packet.dts if packet.dts is not None else pts
        shift = round(zero / base)
        pts, dts = (0, 0) if pts is None or dts is None or cover else (pts - shift, dts - shift)
        if window is not None and not cover:
            begin, end = pts * base, (pts + (packet.duration or 0)) * base
            if window[1] is not None and begin >= window[1]:
                continue
            if begin < 0:
                if kind != "subtitle" or end <= 0:
                    continue
                packet.duration, pts, dts = round(end / base), 0, 0  # a line that is being shown at the cut
        packet.pts, packet.dts = pts, dts
        packet.stream = streams[packet.stream_index]
        yield dts * base, order, packet


def _side_file(
    stack: contextlib.ExitStack, info: SourceInfo, routes: Sequence[Route], muxer: str, folder: Path
) -> Path | None:
    """A temporary file beside the output with the streams that have to go through ffmpeg; None when there is none."""
    moved = [route for route in sorted(routes, key=lambda route: route.index) if route.how in ("convert", "relay")]
    if not moved:
        return None
    path = folder / f".rvrt-{secrets.token_hex(6)}.side"
    stack.callback(path.unlink, missing_ok=True)
    arguments = ["-copyts", "-protocol_whitelist", "file", "-i", file_url(info.path)]
    codecs: list[str] = []
    for position, route in enumerate(moved):
        arguments += ["-map", f"0:{route.index}"]
        codecs += [f"-c:{position}", route.codec or "copy"]
    ffmpeg = FFmpeg([*arguments, *codecs, "-map_chapters", "-1", "-f", muxer, file_url(path)])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(f"{info.path}: sound or subtitles cannot be copied: {ffmpeg.last_error()}")
    finally:
        ffmpeg.kill()
    return path
