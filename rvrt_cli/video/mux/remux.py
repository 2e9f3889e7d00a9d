"""Sound, subtitles and the like on their way into the output: copied, whatever state their packets are in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from rvrt_cli.video.read.probe import ATTACHED_PIC, SourceInfo, disposition, packets, reason

# What a muxer says of a packet that it does not like, as against a disk that is full
UNFIT = (av.error.InvalidDataError, av.error.ArgumentError, av.error.PatchWelcomeError)
_STRICT = {"mp4", "mov"}  # muxers that want every packet later than the one before; the others no earlier
_LONGEST = 2**31 - 1  # what they take for the length of a packet
_SLIP = Fraction(1, 2)  # s; a packet that is further behind belongs to a clock that has jumped


def add_copy(target: Any, stream: Any) -> Any:
    """A stream of the container `target` like `stream`, whose packets it is to get."""
    copy = target.add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    if stream.type == "audio" and copy.codec_context.layout.name.endswith(" channels"):
        # Where each channel belongs: Matroska, AVI and others do not say it, and others must; so what is usual
        copy.codec_context.layout = f"{copy.codec_context.layout.nb_channels}c"
    return copy


@dataclass
class Passage:
    """One stream on its way into the stream `target` of the output, and what happened to its packets."""

    target: Any
    name: str
    moved: int = 0
    left_out: int = 0
    broken: str = ""
    _last: int | None = None  # decoding time of the packet before, in the target's unit, and how long it is
    _length: int = 1

    def warning(self, info: SourceInfo) -> list[str]:
        """One line if not every packet went through as it is."""
        said = []
        if self.moved:
            one = self.moved == 1
            said.append(
                f"its clock runs backwards, {self.moved} packet{'' if one else 's'} follow{'s' if one else ''} the last "
                "one at once; it may be out of step"
            )
        if self.left_out:
            said.append(f"{self.left_out} damaged packet{'s are' if self.left_out > 1 else ' is'} left out")
        if self.broken:
            said.append(f"it is damaged and ends early ({self.broken})")
        return [f"{info.path}: {self.name}: {'; '.join(said)}"] if said else []

    def place(self, packet: Any, muxer: str) -> Fraction:
        """Give `packet` to the target, later than those before it; its decoding time in seconds."""
        base, own = Fraction(self.target.time_base), Fraction(packet.time_base)
        kind = packet.stream.type
        packet.stream = self.target
        dts = round(packet.dts * own / base)
        first = None if self._last is None else self._last + (muxer in _STRICT and kind != "subtitle")
        if first is not None and dts < first:
            assert self._last is not None
            # As two clips in one file have it: the second one's sound follows the first one's, none of it is lost
            jumped = self._last - dts > _SLIP / base
            dts, late = self._last + self._length if jumped else first, round((packet.pts - packet.dts) * own / base)
            length = round((packet.duration or 0) * own / base)
            packet.time_base, packet.duration = base, length
            packet.pts, packet.dts = dts + max(0, late), dts
            self.moved += 1
        else:
            packet.pts = max(packet.pts, packet.dts)
        if muxer in _STRICT and (packet.duration or 0) * Fraction(packet.time_base) / base > _LONGEST:
            packet.duration = 0  # a picture subtitle that stays until the next one
        self._last = dts
        self._length = max(1, round((packet.duration or 0) * Fraction(packet.time_base) / base))
        return dts * base


def copied_packets(
    container: Any,
    passages: dict[int, Passage],
    muxer: str,
    zero: Fraction,
    window: tuple[Fraction | None, Fraction | None],
    order: int,
) -> Iterator[tuple[Fraction, int, Any, Passage]]:
    """Packets of the streams in `passages`, moved to the output's clock, with their decoding time in seconds.

    Args:
        passages: by the container's index.
        window: (first, end) seconds within which a packet begins.
        order: is passed on.
    """
    coming = packets(container, [container.streams[index] for index in passages])
    while True:
        try:
            packet = next(coming, None)
        except (av.error.FFmpegError, OSError) as error:  # the pictures are whole: sound ends where it does
            for passage in passages.values():
                passage.broken = reason(error)
            return
        if packet is None:
            return
        if not packet.size or packet.stream_index not in passages:
            continue
        if _within(packet, zero, window):
            passage = passages[packet.stream_index]
            yield passage.place(packet, muxer), order, packet, passage


def _within(packet: Any, zero: Fraction, window: tuple[Fraction | None, Fraction | None]) -> bool:
    """Move `packet` to the output's clock; whether it begins there within `window`."""
    base = Fraction(packet.time_base)
    cover = bool(disposition(packet.stream) & ATTACHED_PIC)
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None and not cover:
        return False
    dts = packet.dts if packet.dts is not None else pts
    shift = round(zero / base)
    pts, dts = (0, 0) if pts is None or dts is None or cover else (pts - shift, dts - shift)
    if not cover:
        begin, end = pts * base, (pts + (packet.duration or 0)) * base
        if window[1] is not None and begin >= window[1]:
            return False
        if window[0] is not None and begin < window[0]:
            if packet.stream.type != "subtitle" or end <= 0:
                return False
            packet.duration, pts, dts = round(end / base), 0, 0  # a line that is being shown at the cut
    packet.pts, packet.dts = pts, dts
    return True
