# SPDX-License-Identifier: Apache-2.0
"""Each stream beside the video: whether its packets are those of the source, re-encoded ones, or missing."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import av

from rvrt_cli.check.verdict import Finding
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.source import SourceInfo, StreamInfo

_LOST_QUIETLY = {"data"}  # types whose loss is worth a note only: timecodes and the like
_FORGIVEN_PACKETS = 2  # at either end: encoder delay, a truncated last packet
_MAX_SHORTER = 0.1  # s, of re-encoded audio
_EMPTY_SUBTITLE_BYTES = 2  # of a packet that only ends the one before (mov_text)


@dataclass
class StreamPackets:
    """All packets of one stream.

    Attributes:
        hashes: of each packet's payload.
        times: presentation timestamps on the clock of an output, in the packets' order [s]; NaN where there is none.
        key_times: of the keyframes among them.
        end: of the last packet [s].
        digest: of the payloads, one after the other.
        sizes: of the payloads [bytes].
    """

    stream: StreamInfo
    hashes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    key_times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    end: float = float("-inf")
    digest: str = ""

    @property
    def events(self) -> int:
        """Packets that show something, of subtitles."""
        return sum(size > _EMPTY_SUBTITLE_BYTES for size in self.sizes)

    @property
    def length(self) -> float:
        """From the first packet to the end of the last one [s]."""
        known = [seconds for seconds in self.times if not math.isnan(seconds)]
        return self.end - min(known) if known else 0.0


def read_packets(info: SourceInfo, start: float = 0.0) -> dict[int, StreamPackets]:
    """The packets of every stream of a file, by the streams' indices; of image sequences, the frames' timestamps alone."""
    found = {stream.index: StreamPackets(stream) for stream in info.streams}
    if info.kind != "video":
        times = [float(number * info.time_base) - start for number in range(len(info.files))]
        still = StreamInfo(info.stream_index, "video", "", "und", "", 0)
        return {info.stream_index: StreamPackets(still, times=[seconds for seconds in times if seconds >= 0])}
    zero = info.output_zero(start)
    digests = {index: hashlib.sha256() for index in found}
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        for stream in container.streams:
            if stream.type == "attachment" and stream.index in found:
                digests[stream.index].update(stream.data or b"")
        # attachments have no packets, and PyAV cannot demux them
        streams = [stream for stream in container.streams if stream.type != "attachment"]
        for packet in demux_packets(container, streams):
            index = packet.stream_index
            if not packet.size or index not in found:
                continue
            packets, base = found[index], packet.time_base
            packets.times.append(float(packet.pts * base - zero) if packet.pts is not None else float("nan"))
            if packet.is_keyframe:
                packets.key_times.append(packets.times[-1])
            if index != info.stream_index:
                payload = _payload(bytes(packet), packets.stream.codec)
                digests[index].update(payload)
                packets.hashes.append(int.from_bytes(hashlib.blake2b(payload, digest_size=8).digest(), "big"))
                packets.sizes.append(len(payload))
            if packet.pts is not None:
                packets.end = max(packets.end, float((packet.pts + (packet.duration or 0)) * base - zero))
    for index, digest in digests.items():
        found[index].digest = digest.hexdigest()
    return found


def _payload(data: bytes, codec: str) -> bytes:
    """A packet without the ADTS header that AAC has in MPEG-TS and not in other containers."""
    if codec == "aac" and len(data) > 9 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return data


@dataclass(frozen=True)
class StreamMatch:
    """A stream of the source, and what has become of it: its packets in the target, None where there are none."""

    source: StreamPackets
    target: StreamPackets | None

    @cached_property
    def is_copy(self) -> bool:
        """Whether most packets of the target are packets of the source, each distinct one counted once: an encoder makes
        the same packet of silence twice."""
        if self.target is None or not self.target.hashes:
            return False
        return _shared(self.source, self.target) > len({*self.target.hashes}) / 2

    @cached_property
    def copied(self) -> list[tuple[int, int]]:
        """Positions (in the source, in the target) of packets that are bit for bit the same, in order."""
        assert self.target is not None
        places: dict[int, list[int]] = {}
        for place, value in enumerate(self.source.hashes):
            places.setdefault(value, []).append(place)
        found, after = [], -1
        for number, value in enumerate(self.target.hashes):
            known = places.get(value, [])
            next_one = bisect.bisect_right(known, after)  # packets of silence are all the same
            if next_one < len(known):
                after = known[next_one]
                found.append((after, number))
        # Each as late as the next one allows: packets that are missing in silence at the start are missing before it
        for index in range(len(found) - 2, -1, -1):
            number = found[index][1]
            known = places[self.target.hashes[number]]
            found[index] = known[bisect.bisect_left(known, found[index + 1][0]) - 1], number
        return found


def match_streams(
    source: SourceInfo, target: SourceInfo, before: dict[int, StreamPackets], after: dict[int, StreamPackets]
) -> list[StreamMatch]:
    """A partner in the target for each stream of the source beside its video: by content, else by type and order."""
    free = [packets for index, packets in after.items() if index != target.stream_index]
    wanted = [packets for index, packets in before.items() if index != source.stream_index]
    partner: dict[int, StreamPackets] = {}
    for same_content in (True, False):
        for packets in wanted:
            if packets.stream.index in partner:
                continue
            for other in free:
                if _similar(packets, other, same_content):
                    partner[packets.stream.index] = other
                    free.remove(other)
                    break
    return [StreamMatch(packets, partner.get(packets.stream.index)) for packets in wanted]


def _similar(packets: StreamPackets, other: StreamPackets, same_content: bool) -> bool:
    if same_content:
        return packets.digest == other.digest or _shared(packets, other) > len({*other.hashes}) / 2
    kinds = {_kind(packets.stream), _kind(other.stream)}
    return len(kinds) == 1


def _shared(packets: StreamPackets, other: StreamPackets) -> int:
    """Number of distinct packets that both have."""
    return len({*packets.hashes} & {*other.hashes})


def _kind(stream: StreamInfo) -> str:
    return "cover" if stream.cover else stream.type


def packet_findings(matches: list[StreamMatch], *, whole: bool) -> Iterator[Finding]:
    """One finding per stream of the source beside its video.

    Args:
        whole: the target shows the whole source; else missing packets at either end are as they should be.
    """
    for match in matches:
        status, text, values = _judge(match, whole)
        stream = match.source.stream
        values = {"index": stream.index, "type": stream.type, "codec": stream.codec, **values}
        language = f" ({stream.language})" if stream.language not in ("", "und") else ""
        label = f"stream {stream.index}"
        yield Finding(label, status, f"{_kind(stream)} {stream.codec}{language}: {text}", values)  # type: ignore[arg-type]


def _judge(match: StreamMatch, whole: bool) -> tuple[str, str, dict]:
    source, target = match.source, match.target
    kind = _kind(source.stream)
    if target is None:
        quiet = kind in _LOST_QUIETLY or kind == "cover"
        return "note" if quiet else "fail", "missing", {"packets": "missing"}
    if source.digest == target.digest:
        count = len(source.hashes)
        return "ok", f"bit-exact, {count} packets" if count else "bit-exact", {"packets": "bit-exact"}
    if match.is_copy:
        return _judge_copied(match, match.copied, whole)
    if kind in ("cover", "attachment"):
        return "note", "changed", {"packets": "re-encoded"}
    return _judge_reencoded(source, target, whole)


def _judge_copied(match: StreamMatch, copied: list[tuple[int, int]], whole: bool) -> tuple[str, str, dict]:
    """Of a stream whose packets were copied, but not all of them."""
    assert match.target is not None
    count = len(match.source.hashes)
    first, last = copied[0][0], copied[-1][0]
    begin, end, inside = first, count - 1 - last, last - first + 1 - len(copied)
    values = {"packets": "copied", "missing_begin": begin, "missing_end": end, "missing_inside": inside}
    if not whole and not inside:
        return "ok", f"bit-exact, {len(copied)} packets of this part", values
    if inside or max(begin, end) > _FORGIVEN_PACKETS:
        where = [f"{begin} at the start"] * (begin > 0) + [f"{inside} inside"] * (inside > 0)
        where += [f"{end} at the end"] * (end > 0)
        return "fail", f"copied, but {count - len(copied)} of {count} packets missing: {', '.join(where)}", values
    changed = len(match.target.hashes) - len(copied)
    extra = f", {changed} changed" if changed else ""
    return "ok", f"bit-exact but for {count - len(copied)} packets at its ends{extra}", values


def _judge_reencoded(source: StreamPackets, target: StreamPackets, whole: bool) -> tuple[str, str, dict]:
    before, after = source.stream.codec, target.stream.codec
    how = f"re-encoded, {before} to {after}" if before != after else f"re-encoded as {after}"
    if source.stream.type == "subtitle":
        values = {"packets": "re-encoded", "source": source.events, "target": target.events}
        if whole and source.events != target.events:
            return "fail", f"{how}: {target.events} of {source.events} subtitles", values
        return "note", f"converted, {before} to {after}, {target.events} subtitles", values
    shorter = source.length - target.length
    values = {"packets": "re-encoded", "shorter": shorter}
    if whole and shorter > _MAX_SHORTER:
        return "fail", f"{how}, and {shorter:.2f} s shorter", values
    return "note", how, values


def extra_streams(matches: list[StreamMatch], target: SourceInfo) -> str:
    """The streams of the target that the source does not have, as text; empty for none."""
    used = {match.target.stream.index for match in matches if match.target is not None} | {target.stream_index}
    kinds = Counter(_kind(stream) for stream in target.streams if stream.index not in used)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())
