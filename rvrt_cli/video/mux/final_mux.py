"""The final file: the encoded pictures, and everything else of the source beside them, through PyAV."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import FFmpeg, file_url
from rvrt_cli.video.mux.remux import UNFIT, Passage, add_copy, copied_packets
from rvrt_cli.video.mux.stream_plan import COVER_TYPES, kept_language
from rvrt_cli.video.mux.transcode import Route, lift, side_files
from rvrt_cli.video.read.probe import SourceInfo, StreamInfo, open_container, packets, reason

# What describes the old file and not the film
_STALE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate", "timecode"}
_STALE_PREFIXES = ("bps", "number_of_", "_statistics_", "duration-")
Header = bytes | None
_Item = tuple[Fraction, int, Any, Passage | None]  # decoding time [s], rank among those of one time, packet, its stream
_ANY_TYPE = "application/octet-stream"
_ROUNDING = Fraction(1, 1000)  # s, of the times in a container; Matroska's
_LONGEST_REORDERING = 64  # packets between decoding and showing; H.264 and HEVC allow 16 pictures


def mux(
    encoded: Path | Sequence[Path],
    info: SourceInfo,
    output: Path,
    *,
    muxer: str,
    routes: Sequence[Route] = (),
    until: Fraction | None = None,
    source_mux: bool = True,
    start: float = 0.0,
    duration: float | None = None,
    warnings: list[str] | None = None,
) -> int:
    """Write `output`: the video of `encoded` and the streams of `info` that `routes` name, nothing re-encoded.

    Args:
        encoded: one file, or several of the same encoder settings in order of time; times on the output's clock.
        muxer: ffmpeg's name of the container.
        routes: from `streams.plan_streams`; without `source_mux` neither they nor chapters and metadata are used.
        until: when the last picture gives way, in seconds on the source's clock; None: after the average time of one.
        start, duration: the part of the source, in seconds, that `encoded` shows; 0 and None: all of it.
        warnings: gets one line for every other stream that is damaged, of which everything goes along that can.

    Returns:
        The number of video packets written.

    Raises:
        MediaError: a file cannot be read or written.
    """
    parts = [encoded] if isinstance(encoded, Path) else list(encoded)
    routes = routes if source_mux and info.kind == "video" else ()
    if start > 0:  # the run-up is cut away
        routes = [replace(route, how="copy") if route.how == "relay" else route for route in routes]
    options = {}
    if muxer in ("mp4", "mov"):
        # Edit lists count in the movie's time scale: in the video's own, a late first picture stays exactly where it is
        scale = info.time_base.denominator
        options = {"movflags": "+faststart", "movie_timescale": str(scale if 1000 <= scale <= 1_000_000 else 90_000)}
    zero = info.zero(start)
    end = Fraction(duration).limit_denominator(10**6) if duration is not None else None
    window = (Fraction(0) if start > 0 else None, end)
    warnings = [] if warnings is None else warnings

    def ending(last: Fraction) -> Fraction:
        return until - zero if until is not None and until - zero > last else last + 1 / info.frame_rate

    try:
        with contextlib.ExitStack() as stack:
            sides, routes = side_files(stack, info, routes, muxer, output.parent, warnings)
            first = stack.enter_context(open_container(parts[0]))
            source = stack.enter_context(open_container(info.path)) if routes else None
            moved = [(stack.enter_context(open_container(path)), there) for path, there in sides]
            beside = {r.index: s for side, there in moved for r, s in zip(there, side.streams, strict=True)}
            target = stack.enter_context(av.open(file_url(output), "w", format=muxer, container_options=options))
            made = _add_streams(target, first, info, routes, source, beside, warnings)
            if source_mux:
                _describe(target, info, muxer, made.by_origin, zero, end)
            target.start_encoding()
            tracks: list[Iterable[_Item]] = [_video_packets(parts, first, made.video, ending)]
            if made.copied:
                tracks.append(copied_packets(source, made.copied, muxer, zero, window, 1))
            for side, there in moved:
                ways = {beside[route.index].index: made.relayed[route.index] for route in there}
                tracks.append(copied_packets(side, ways, muxer, zero + lift(info), window, 2))
            written, astray, failure = _interleave(target, tracks)
        _keep_aspect(info, parts[0], output, muxer)
        passages = [*made.copied.values(), *made.relayed.values()]
        if len(passages) == 1:
            passages[0].left_out, astray = passages[0].left_out + astray, 0
        elif astray:
            plural = "packets are" if astray > 1 else "packet is"
            warnings.append(f"{info.path}: sound or subtitles: {astray} damaged {plural} left out")
        for passage in passages:
            warnings += passage.warning(info)
        if failure is None:
            return written
        with open_container(output) as result:  # the muxer may have dropped a picture that was waiting
            found = sum(packet.size > 0 for packet in result.demux(result.streams.video[0]))
        if found < written:
            raise failure
        return found
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"{info.path}: the enlarged video cannot be put together ({reason(error)}); mend that and run it again"
        ) from error


def _interleave(target: Any, tracks: list[Iterable[_Item]]) -> tuple[int, int, Exception | None]:
    """Write all packets, and the end of the file: (packets of the video, of what is damaged, the muxer's first words).

    In the order of decoding across all streams, so that the muxer never holds more than a moment of them; yet it does
    hold some, and says of a packet that it does not like what it is only when it gets a later one. Packets that it has
    refused when it got them itself are counted by their passage, and not here.
    """
    written = astray = 0
    failure: Exception | None = None
    for _, _, packet, passage in heapq.merge(*tracks, key=lambda item: item[:2]):
        try:
            target.mux(packet)
        except UNFIT as error:
            failure = failure or error
            if passage is not None:
                passage.left_out += 1
            elif len(tracks) > 1:
                astray += 1
            else:
                raise
        written += passage is None
    try:
        target.close()
    except UNFIT as error:
        if len(tracks) == 1:
            raise
        failure, astray = failure or error, astray + 1
    return written, astray, failure


def _keep_aspect(info: SourceInfo, encoded: Path, output: Path, muxer: str) -> None:
    """Copy `output` anew where its pictures' shape is neither in their bitstream nor, as with Matroska, set by PyAV."""
    with open_container(encoded) as first, open_container(output) as written:
        old, new = first.streams.video[0], written.streams.video[0]
        wanted = old.sample_aspect_ratio or Fraction(1)
        if abs((new.sample_aspect_ratio or 1) / wanted - 1) < Fraction(1, 100):  # Matroska rounds to whole px
            return
        shape = wanted * Fraction(old.codec_context.width, old.codec_context.height)
    remade = output.with_name(f".rvrt-{secrets.token_hex(6)}.side")
    copied = ["-map", "0", "-c", "copy", "-aspect:v:0", f"{shape.numerator}:{shape.denominator}"]
    source = ["-copyts", "-protocol_whitelist", "file", "-i", file_url(output)]
    ffmpeg = FFmpeg([*source, *copied, "-avoid_negative_ts", "disabled", "-f", muxer, file_url(remade)])
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(
                f"{info.path}: the enlarged video cannot be put together: {ffmpeg.last_error()}; run it again"
            )
        remade.replace(output)
    finally:
        ffmpeg.kill()
        remade.unlink(missing_ok=True)


@dataclass
class _Made:
    """The output's streams: the video, those copied and those relayed from side files, by the source's index."""

    video: Any = None
    copied: dict[int, Passage] = field(default_factory=dict)
    relayed: dict[int, Passage] = field(default_factory=dict)
    by_origin: dict[int, Any] = field(default_factory=dict)  # all of them


def _add_streams(
    target: Any, first: Any, info: SourceInfo, routes: Sequence[Route], source: Any, beside: dict[int, Any],
    warnings: list[str],
) -> _Made:  # fmt: skip
    """Streams in the source's order; attachments are written at once. `beside`: those of side files."""
    made = _Made()
    ways = {route.index: route for route in routes}
    for index in sorted({*ways, info.stream_index}):
        if index == info.stream_index:
            made.video = made.by_origin[index] = add_copy(target, first.streams.video[0])
            made.video.time_base = info.time_base
            made.video.codec_context.framerate = info.frame_rate  # Matroska says how long a picture is by it
            made.video.codec_context.sample_aspect_ratio = first.streams.video[0].sample_aspect_ratio
            continue
        stream = source.streams[index]
        if ways[index].how == "attach":
            if not _attach_cover(target, stream, info.stream(index)):
                warnings.append(f"{info.path}: {info.stream(index).name}: it cannot be read and is left out")
        elif stream.type == "attachment":
            file = target.add_attachment(stream.name or "attachment", stream.mimetype or _ANY_TYPE, stream.data)
            file.metadata.update({**_fresh(info.stream(index).metadata), **file.metadata})
        elif ways[index].how == "copy":
            made.by_origin[index] = add_copy(target, stream)
            made.copied[index] = Passage(made.by_origin[index], info.stream(index).name)
        else:
            made.by_origin[index] = add_copy(target, beside[index])
            made.relayed[index] = Passage(made.by_origin[index], info.stream(index).name)
    return made


def _attach_cover(target: Any, stream: Any, described: StreamInfo) -> bool:
    """Whether there is a picture to attach."""
    kind, suffix = COVER_TYPES[described.codec]
    picture = None
    with contextlib.suppress(av.error.FFmpegError, OSError):
        picture = next((packet for packet in packets(stream.container, stream) if packet.size), None)
        stream.container.seek(0)
    if picture is not None:
        others = {other.metadata.get("filename") for other in target.streams}
        names = (f"cover{number}.{suffix}" for number in ("", *range(2, 1000)))
        name = described.metadata.get("filename") or next(name for name in names if name not in others)
        file = target.add_attachment(name, kind, bytes(picture))
        file.metadata.update({**_fresh(described.metadata), **file.metadata})
    return picture is not None


def _describe(
    target: Any, info: SourceInfo, muxer: str, streams: dict[int, Any], zero: Fraction, last: Fraction | None
) -> None:
    """Metadata, dispositions and chapters of the source."""
    target.metadata.update(_fresh(info.metadata))
    for described in info.streams:
        if described.index in streams:
            metadata = _fresh(described.metadata)
            if "name" in metadata:  # what the reader of mp4 calls the title that its writer takes
                metadata.setdefault("title", metadata.pop("name"))
            if "language" in metadata:
                metadata["language"] = kept_language(described.language, muxer) or "und"
            streams[described.index].metadata.update(metadata)
            streams[described.index].disposition = described.disposition
    chapters = []
    for number, chapter in enumerate(info.chapters):
        base = Fraction(chapter["time_base"])
        begin, end = chapter["start"] * base - zero, chapter["end"] * base - zero
        if last is not None:
            end = min(end, last)
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


def _video_packets(
    parts: list[Path], first: Any, target: Any, ending: Callable[[Fraction], Fraction]
) -> Iterator[_Item]:
    """The packets of all parts, each picture shown until the next one comes: the encoder, which gets no ends, guesses.

    Args:
        ending: given the time of the last picture, when it gives way, both in seconds.
    """
    waiting: deque[Any] = deque()

    def leave() -> _Item:
        packet = waiting.popleft()
        packet.duration = min((pts for pts in times if pts > packet.pts), default=packet.pts + 1) - packet.pts
        return packet.dts * packet.time_base, 0, packet, None

    for packet in _renumbered(parts, first, target):
        waiting.append(packet)
        if len(waiting) > _LONGEST_REORDERING:
            times = [packet.pts for packet in waiting]
            yield leave()
    if waiting:
        base = waiting[0].time_base
        times = [packet.pts for packet in waiting]
        last = max(times)
        times.append(max(last + 1, round(ending(last * base) / base)))
    while waiting:
        yield leave()


def _renumbered(parts: list[Path], first: Any, target: Any) -> Iterator[Any]:
    """The packets of all parts for the stream `target`, in its unit of time, which the header may have changed."""
    last: int | None = None
    for number, part in enumerate(parts):
        with contextlib.ExitStack() as stack:
            container = first if number == 0 else stack.enter_context(open_container(part))
            if part_header(container) != part_header(first):
                raise MediaError(
                    f"{part}: encoded with other settings than the first segment; --overwrite starts afresh"
                )
            packets = (p for p in container.demux(container.streams.video[0]) if p.size)
            for packet in _with_decoding_times(packets):
                base = Fraction(target.time_base)
                scale = Fraction(packet.time_base) / base
                pts, dts = round(packet.pts * scale), round(packet.dts * scale)
                dts = dts if last is None else max(dts, last + 1)
                packet.stream = target
                packet.time_base = base
                packet.pts, packet.dts = max(pts, dts), dts
                if packet.duration:
                    packet.duration = round(packet.duration * scale)
                last = dts
                yield packet


def part_header(container: Any) -> Header:
    """What all parts of one video have in common: the decoder is set up by it once."""
    return container.streams.video[0].codec_context.extradata


def lost_in(part: Path, times: Sequence[Fraction]) -> str:
    """What an encoder has lost of the pictures of these `times`, in s and in order: frames, or their times; "" if nothing.

    Raises:
        MediaError: `part` cannot be read.
    """
    with open_container(part) as container:
        try:
            packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        except av.error.FFmpegError as error:
            raise MediaError(f"{part}: cannot be read ({reason(error)}); run it again") from error
        found = sorted(packet.pts * packet.time_base for packet in packets if packet.pts is not None)
    missing = len(times) - len(found)
    if missing > 0:
        return f"{missing} frames"
    # More of them than pictures: some are only looked back to, and nobody knows which
    changed = not missing and any(abs(a - b) > _ROUNDING for a, b in zip(found, times, strict=True))
    return "the pictures' times" if changed else ""


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
