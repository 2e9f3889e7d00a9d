# SPDX-License-Identifier: Apache-2.0
"""Remuxing: packets of audio, subtitles and cover art copied into the output, whatever the state of their timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from rvrt_cli.video.read.container import demux_packets, disposition, reason
from rvrt_cli.video.read.source import ATTACHED_PIC, SourceInfo

# What a muxer raises for a packet that it does not accept, as opposed to a full disk
MUXER_REFUSALS = (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError)
# Muxers that need every packet to come later than the one before; others only need it not to come earlier
_STRICTLY_MONOTONIC_MUXERS = {"mp4", "mov"}
_MAX_PACKET_DURATION = 2**31 - 1  # that they accept, in units of the time base
_TIMESTAMP_JUMP = Fraction(1, 2)  # s: a packet further back than this follows a reset of the clock


def add_stream_copy(target: Any, stream: Any) -> Any:
    """A stream of the container `target` with the parameters of `stream`, for packets of it."""
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    if stream.type == "audio" and copy.codec_context.layout.name.endswith(" channels"):
        # Matroska, AVI and others may leave the channels unnamed, and others must name them: the default layout
        copy.codec_context.layout = f"{copy.codec_context.layout.nb_channels}c"
    return copy


@dataclass(frozen=True)
class Clock:
    """From the source's clock to the output's, and the part that is kept; all in seconds.

    Attributes:
        zero: timestamp that becomes 0.
        first, end: on the output's clock; packets outside [first, end) are dropped. None: no limit.
    """

    zero: Fraction
    first: Fraction | None = None
    end: Fraction | None = None

    def ahead(self, seconds: int) -> Clock:
        """The same for a file whose timestamps are `seconds` ahead of the source's."""
        return Clock(self.zero + seconds, self.first, self.end)


@dataclass
class CopiedStream:
    """One stream that is copied into the stream `target` of the output, and what happened to its packets."""

    target: Any
    name: str
    retimed: int = 0
    dropped: int = 0
    error: str = ""  # that ended it early
    _last_dts: int | None = None  # in units of the target's time base
    _last_duration: int = 1

    def warnings(self, info: SourceInfo) -> list[str]:
        """One line if not every packet was copied unchanged."""
        problems = []
        if self.retimed:
            plural = "s" * (self.retimed > 1)
            problems.append(
                f"non-monotonic timestamps: {self.retimed} packet{plural} moved directly after the previous one; it may be "
                "out of sync"
            )
        if self.dropped:
            problems.append(f"{self.dropped} damaged packet{'s' * (self.dropped > 1)} dropped")
        if self.error:
            problems.append(f"damaged, ends early ({self.error})")
        return [f"{info.path}: {self.name}: {'; '.join(problems)}"] if problems else []

    def retarget(self, packet: Any, muxer: str) -> Fraction:
        """Assign `packet` to the target, after the packets before it; its decoding timestamp in seconds."""
        base, own = Fraction(self.target.time_base), Fraction(packet.time_base)
        kind = packet.stream.type
        strict = muxer in _STRICTLY_MONOTONIC_MUXERS
        packet.stream = self.target
        dts = round(packet.dts * own / base)
        earliest = None if self._last_dts is None else self._last_dts + (strict and kind != "subtitle")
        if earliest is not None and dts < earliest:
            assert self._last_dts is not None
            # Two programs in one file: the audio of the second follows that of the first, nothing is dropped
            jumped = self._last_dts - dts > _TIMESTAMP_JUMP / base
            dts = self._last_dts + self._last_duration if jumped else earliest
            delay = round((packet.pts - packet.dts) * own / base)
            packet.duration = round((packet.duration or 0) * own / base)
            packet.time_base = base
            packet.pts, packet.dts = dts + max(0, delay), dts
            self.retimed += 1
        else:
            packet.pts = max(packet.pts, packet.dts)
        duration = (packet.duration or 0) * Fraction(packet.time_base) / base
        if strict and duration > _MAX_PACKET_DURATION:
            packet.duration = duration = 0  # a bitmap subtitle that stays until the next one
        self._last_dts = dts
        self._last_duration = max(1, round(duration))
        return dts * base


def copied_packets(
    container: Any, streams: dict[int, CopiedStream], muxer: str, clock: Clock
) -> Iterator[tuple[Fraction, Any, CopiedStream]]:
    """(decoding timestamp in s, packet, its stream) for all packets of `streams`, on the output's clock.

    Args:
        streams: by the container's index.
    """
    demuxed = demux_packets(container, [container.streams[index] for index in streams])
    while True:
        try:
            packet = next(demuxed, None)
        except (av.error.FFmpegError, OSError) as error:  # the video is complete: only the audio ends here
            for stream in streams.values():
                stream.error = reason(error)
            return
        if packet is None:
            return
        if packet.size and packet.stream_index in streams and _shift_packet(packet, clock):
            stream = streams[packet.stream_index]
            yield stream.retarget(packet, muxer), packet, stream


def _shift_packet(packet: Any, clock: Clock) -> bool:
    """Move `packet` to the output's clock; whether it starts within the part that is kept."""
    base = Fraction(packet.time_base)
    if disposition(packet.stream) & ATTACHED_PIC:
        packet.pts = packet.dts = 0
        return True
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None:
        return False
    dts = packet.dts if packet.dts is not None else pts
    shift = round(clock.zero / base)
    pts, dts = pts - shift, dts - shift
    begin, end = pts * base, (pts + (packet.duration or 0)) * base
    if clock.end is not None and begin >= clock.end:
        return False
    if clock.first is not None and begin < clock.first:
        if packet.stream.type != "subtitle" or end <= 0:
            return False
        packet.duration, pts, dts = round(end / base), 0, 0  # a subtitle that is on screen at the cut
    packet.pts, packet.dts = pts, dts
    return True
