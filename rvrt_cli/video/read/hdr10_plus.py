# SPDX-License-Identifier: Apache-2.0
"""HDR10+ (SMPTE ST 2094-40) in the bitstream of HEVC and AV1: found in packets, and put into others.

It is a message of ITU-T T.35, byte for byte the same in both: in HEVC a supplemental enhancement information (SEI) message
of a NAL unit before the frame (ITU-T H.265, annex D), in AV1 a metadata OBU (AV1 specification, 5.8). Nothing in it depends
on the size of the frame as long as it describes one window, the whole frame. Source packets are untrusted input.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rvrt_cli.video.read.container import demux_packets
from rvrt_cli.video.read.source import SourceInfo

_CODECS = frozenset(("hevc", "av1"))
# Country (United States), provider (Samsung), its message 1: ST 2094-40, application 4
_HDR10_PLUS = b"\xb5\x00\x3c\x00\x01\x04"
_WINDOWS_BYTE = 7  # after the version; its upper two bits are the number of windows
_SEI_NAL, _SEI_T35, _FIRST_OTHER_NAL = 39, 4, 32  # types of NAL units: from 0 on those of frames, from 32 on others
_OBU_SEQUENCE, _OBU_DELIMITER, _OBU_METADATA, _METADATA_T35 = 1, 2, 5, 4
_TOLERANCE = Fraction(1, 1000)  # s: Matroska's resolution
_REORDERED = 64  # packets between decoding and presentation; HEVC allows 16 frames
_KEPT_FRAMES = 512


def can_keep_hdr10_plus(info: SourceInfo, codec: str) -> bool:
    """Whether the source has such metadata, in a codec that it can be read from, and `codec`, of the target, can hold it."""
    return info.hdr10_plus and {codec, info.stream(info.stream_index).codec} <= _CODECS


def nal_length_bytes(extradata: bytes | None) -> int:
    """Size of the length before each NAL unit, as the header of a container's stream says; 0: start codes (annex B)."""
    if not extradata or len(extradata) < 23 or extradata[:3] in (b"\0\0\1", b"\0\0\0"):
        return 0
    return (extradata[21] & 3) + 1


def find_hdr10_plus(data: bytes, codec: str, length_bytes: int) -> bytes | None:
    """The T.35 message with the HDR10+ metadata of a packet's frame; None where it has none of a single window.

    Args:
        codec: "hevc" or "av1".
        length_bytes: of HEVC, see `nal_length_bytes`.
    """
    messages = _t35_in_hevc(data, length_bytes) if codec == "hevc" else _t35_in_av1(data)
    for message in messages:
        if message.startswith(_HDR10_PLUS) and len(message) > _WINDOWS_BYTE and message[_WINDOWS_BYTE] >> 6 == 1:
            return message
    return None


def with_hdr10_plus(data: bytes, message: bytes, codec: str, length_bytes: int) -> bytes:
    """A packet with the T.35 message before its frame. Arguments as of `find_hdr10_plus`; HEVC with lengths."""
    if codec == "av1":
        payload = bytes([_METADATA_T35]) + message + b"\x80"
        added = bytes([_OBU_METADATA << 3 | 2]) + _leb128(len(payload)) + payload
        at = next(
            (begin for kind, begin, _, _ in _obus(data) if kind not in (_OBU_SEQUENCE, _OBU_DELIMITER)), len(data)
        )
    else:
        size = b"\xff" * (len(message) // 255) + bytes([len(message) % 255])
        unit = bytes([_SEI_NAL << 1, 1]) + _escaped(bytes([_SEI_T35]) + size + message + b"\x80")
        added = len(unit).to_bytes(length_bytes, "big") + unit
        places = _nal_units(data, length_bytes)
        at = next(
            (begin - length_bytes for begin, end in places if _nal_type(data, begin) < _FIRST_OTHER_NAL), len(data)
        )
    return data[:at] + added + data[at:]


def _t35_in_hevc(data: bytes, length_bytes: int) -> Iterator[bytes]:
    for begin, end in _nal_units(data, length_bytes):
        if end - begin > 2 and _nal_type(data, begin) == _SEI_NAL:
            yield from _sei_messages(data[begin + 2 : end].replace(b"\0\0\3", b"\0\0"))


def _nal_type(data: bytes, begin: int) -> int:
    return data[begin] >> 1 & 63


def _nal_units(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each NAL unit."""
    if not length_bytes:
        starts = [match.end() for match in re.finditer(b"\0\0\1", data)]
        for begin, after in itertools.pairwise([*starts, len(data) + 3]):
            if begin < after - 3:
                yield begin, after - 3
        return
    position = 0
    while position + length_bytes < len(data):
        begin = position + length_bytes
        position = begin + int.from_bytes(data[position:begin], "big")
        if begin < position <= len(data):
            yield begin, position


def _sei_messages(payload: bytes) -> Iterator[bytes]:
    """The T.35 messages of a NAL unit."""
    position = 0
    while position + 2 < len(payload):
        numbers = []
        for _ in range(2):  # type and size: 255 means that more follows
            number = 0
            while position < len(payload) and payload[position] == 255:
                number, position = number + 255, position + 1
            if position == len(payload):
                return
            numbers.append(number + payload[position])
            position += 1
        kind, size = numbers
        if kind == _SEI_T35 and position + size <= len(payload):
            yield payload[position : position + size]
        position += size


def _escaped(payload: bytes) -> bytes:
    """With a 3 wherever a start code would appear."""
    return re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def _t35_in_av1(data: bytes) -> Iterator[bytes]:
    for kind, _, begin, end in _obus(data):
        if kind == _OBU_METADATA and data[begin : begin + 1] == bytes([_METADATA_T35]):
            yield data[begin + 1 : end].rstrip(b"\0")[:-1]  # without the trailing bits


def _obus(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(type, where it begins, begin and end of its payload) of each OBU."""
    position = 0
    while position < len(data):
        header = data[position]
        begin = position + 1 + (header >> 2 & 1)
        size = len(data) - begin
        if header & 2:
            size, shift = 0, 0
            while begin < len(data) and shift < 35:
                size |= (data[begin] & 127) << shift
                shift, begin = shift + 7, begin + 1
                if data[begin - 1] < 128:
                    break
        if begin + size > len(data):
            return
        yield header >> 3 & 15, position, begin, begin + size
        position = begin + size


def _leb128(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


class Hdr10PlusTrack:
    """The HDR10+ metadata of a source's frames by their timestamps, read in step with the output.

    Memory does not grow with the length of the source.
    """

    def __init__(self, container: Any, stream_index: int) -> None:
        """`container`: opened for this alone."""
        stream = container.streams[stream_index]
        self._packets = demux_packets(container, stream)
        self._codec = stream.codec_context.codec.canonical_name
        self._length_bytes = nal_length_bytes(stream.codec_context.extradata)
        self._frames: list[tuple[Fraction, bytes | None]] = []  # in order of presentation

    def at(self, time: Fraction) -> bytes | None:
        """The T.35 message of the frame that the source shows at `time` [s, its own clock].

        To be asked in the order of decoding: times may go back by some frames only.
        """
        shown = self._shown_until(time)
        while len(self._frames) - shown < _REORDERED and self._read_packet():
            shown = self._shown_until(time)
        return self._frames[shown - 1][1] if shown else None

    def _shown_until(self, time: Fraction) -> int:
        return bisect_right(self._frames, time + _TOLERANCE, key=lambda frame: frame[0])

    def _read_packet(self) -> bool:
        packet = next((packet for packet in self._packets if packet.size and packet.pts is not None), None)
        if packet is None:
            return False
        time = packet.pts * Fraction(packet.time_base)
        message = find_hdr10_plus(bytes(packet), self._codec, self._length_bytes)
        self._frames.insert(self._shown_until(time - _TOLERANCE), (time, message))
        del self._frames[:-_KEPT_FRAMES]
        return True
