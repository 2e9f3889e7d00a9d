# SPDX-License-Identifier: Apache-2.0
"""Packets of the encoded segments, as one video stream of the output."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.read.container import open_container, reason
from rvrt_cli.video.read.hdr10_plus import Hdr10PlusTrack, nal_length_bytes, with_hdr10_plus
from rvrt_cli.video.read.source import SourceInfo

_TIMESTAMP_TOLERANCE = Fraction(1, 1000)  # s: Matroska's resolution
_MAX_REORDERING = 64  # packets between decoding and presentation; H.264 and HEVC allow 16 frames


def video_packets(
    parts: Sequence[Path],
    first: Any,
    target: Any,
    info: SourceInfo,
    excerpt: Excerpt,
    metadata: Hdr10PlusTrack | None = None,
) -> Iterator[tuple[Fraction, Any, None]]:
    """(decoding timestamp in s, packet, None) for all packets of all parts.

    Each frame lasts until the next one appears. The encoder, which knows no durations, only guesses them.

    Args:
        first: the first part, opened.
        target: the stream of the output that gets the packets.
        metadata: of the source's frames, to be put into the packets.
    """
    zero = info.output_zero(excerpt.start)
    waiting: deque[Any] = deque()

    def take_first(times: list[int]) -> tuple[Fraction, Any, None]:
        packet = waiting.popleft()
        packet.duration = min((pts for pts in times if pts > packet.pts), default=packet.pts + 1) - packet.pts
        message = metadata.at(zero + packet.pts * packet.time_base) if metadata is not None else None
        if message is not None:
            packet = _with_message(packet, message, first)
        return packet.dts * packet.time_base, packet, None

    for packet in _concatenated_packets(parts, first, target):
        waiting.append(packet)
        if len(waiting) > _MAX_REORDERING:
            yield take_first([packet.pts for packet in waiting])
    if not waiting:
        return
    times = [packet.pts for packet in waiting]
    base, last = waiting[0].time_base, max(times)
    times.append(max(last + 1, round(excerpt.video_end(info, last * base) / base)))
    while waiting:
        yield take_first(times)


def _with_message(packet: Any, message: bytes, container: Any) -> Any:
    """The packet with a T.35 message; `container`: has its codec's header."""
    context = container.streams.video[0].codec_context
    length_bytes = nal_length_bytes(codec_header(container))
    changed: Any = av.Packet(with_hdr10_plus(bytes(packet), message, context.codec.canonical_name, length_bytes))
    changed.stream, changed.time_base, changed.is_keyframe = packet.stream, packet.time_base, packet.is_keyframe
    changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
    return changed


def _concatenated_packets(parts: Sequence[Path], first: Any, target: Any) -> Iterator[Any]:
    """The packets of all parts for the stream `target`, in its time base, which writing the header may have changed."""
    last_dts: int | None = None
    for number, part in enumerate(parts):
        with contextlib.ExitStack() as stack:
            container = first if number == 0 else stack.enter_context(open_container(part))
            if codec_header(container) != codec_header(first):
                raise MediaError(
                    f"{part}: encoded with other settings than the first segment; use --overwrite to start over"
                )
            packets = (p for p in container.demux(container.streams.video[0]) if p.size)
            for packet in _with_decoding_timestamps(packets):
                base = Fraction(target.time_base)
                scale = Fraction(packet.time_base) / base
                pts, dts = round(packet.pts * scale), round(packet.dts * scale)
                dts = dts if last_dts is None else max(dts, last_dts + 1)
                packet.stream = target
                packet.time_base = base
                packet.pts, packet.dts = max(pts, dts), dts
                if packet.duration:
                    packet.duration = round(packet.duration * scale)
                last_dts = dts
                yield packet


def _with_decoding_timestamps(packets: Iterator[Any]) -> Iterator[Any]:
    """The packets, with decoding timestamps where the container has none."""
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


def codec_header(container: Any) -> bytes | None:
    """The codec's global header, which all parts of one video must share: the decoder is set up once."""
    return container.streams.video[0].codec_context.extradata


def find_loss(part: Path, times: Sequence[Fraction]) -> str:
    """What an encoder lost of frames with these timestamps [s], in order: "3 frames", "timestamps", or "" for nothing.

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
    # More packets than frames: some are reference frames that are never shown, and nothing tells which
    changed = not missing and any(abs(a - b) > _TIMESTAMP_TOLERANCE for a, b in zip(found, times, strict=True))
    return "timestamps" if changed else ""
