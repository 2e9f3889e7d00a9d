# SPDX-License-Identifier: Apache-2.0
"""HDR10+ metadata from frame to frame, as ffmpeg and PyAV read it; and what is said of Dolby Vision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.fuzzing import searching
from helpers.video_clips import decoded_times, ffmpeg, make_clip, request_for, streams, upscale_clip
from hypothesis import example, given, strategies as st

from rvrt_cli.check.run_check import check_target_against_source
from rvrt_cli.video.ffmpeg import video_encoders
from rvrt_cli.video.read.hdr10_plus import find_hdr10_plus, nal_length_bytes, with_hdr10_plus
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.write.fidelity_notes import unread
from rvrt_cli.video.write.target_check import check_target

FRAMES = 20
PQ = "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"]


def packed(*fields: tuple[int, int]) -> bytes:
    """(value, bits) each, the upper bit first."""
    text = "".join(f"{value:0{bits}b}" for value, bits in fields)
    return int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8), "big")


def hdr10_plus(number: int, windows: int = 1) -> bytes:
    """A message of ST 2094-40 (CTA-861-G, annex S) whose values tell frame `number`."""
    percentiles = [field for index in range(9) for field in ((10 * index, 7), (100 * number + index, 17))]
    return packed(
        *((0xB5, 8), (0x3C, 16), (1, 16), (4, 8), (1, 8)),  # country, provider, its code, application, its version
        *((windows, 2), (1000, 27), (0, 1)),  # luminance of the display [cd/m²]; no actual peak luminance
        *((1000 + number, 17), (2000 + number, 17), (0, 17), (50 * number, 17)),  # maxscl of R, G, B; average maxRGB
        *((9, 4), *percentiles, (5, 10), (0, 1)),  # distribution; bright pixels; no mastering peak luminance
        *(
            (1, 1),
            (100, 12),
            (200, 12),
            (9, 4),
            *((100 * index, 10) for index in range(9)),
            (0, 1),
        ),  # knee, Bézier curve
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of HDR10+ in HEVC with B-frames."""
    folder = tmp_path_factory.mktemp("hdr")
    plain = folder / "plain.mkv"
    pattern = ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d={FRAMES / 25}"]
    ffmpeg(*pattern, *X265, "-x265-params", f"{PQ}:bframes=3", plain)
    return rewritten(plain, folder / "in.mkv")


def rewritten(plain: Path, target: Path) -> Path:
    """The same video with a message in every packet."""
    with av.open(str(plain)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        length_bytes = nal_length_bytes(stream.codec_context.extradata)
        for packet in before.demux(stream):
            if packet.size:
                number = round(packet.pts * packet.time_base * 25)
                changed = av.Packet(with_hdr10_plus(bytes(packet), hdr10_plus(number), "hevc", length_bytes))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.stream, changed.is_keyframe = copy, packet.is_keyframe
                after.mux(changed)
    return target


def frame_numbers(path: Path) -> list[int | None]:
    """What the metadata of each decoded frame says: its number; None without any.

    AVDynamicHDRPlus: country, version and number of windows, then per window the corners (6 numbers, some bytes), maxscl...
    The first ratio with the denominator 100000 that is not 0 is that of red.
    """
    found: list[int | None] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            data = [bytes(item) for item in frame.side_data if item.type.name == "DYNAMIC_HDR_PLUS"]
            if not data:
                found.append(None)
                continue
            numbers = np.frombuffer(data[0][: len(data[0]) // 4 * 4], np.int32)
            first = next(at for at in range(len(numbers) - 1) if numbers[at + 1] == 100_000 and numbers[at] >= 1000)
            found.append(int(numbers[first]) - 1000)
    return found


def test_the_messages_of_these_tests_are_what_ffmpeg_reads(source: Path) -> None:
    info = probe(source)
    assert info.hdr10_plus
    assert info.hdr_metadata == "HDR10+"
    assert info.dolby_vision is None
    assert frame_numbers(source) == list(range(FRAMES))


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", ".mkv"), ("libx265", ".mp4"), ("libsvtav1", ".mp4")])
def test_every_frame_keeps_its_hdr10_plus_metadata(tmp_path: Path, source: Path, codec: str, suffix: str) -> None:
    if codec not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    target, preset = tmp_path / f"out{suffix}", {"libsvtav1": "11"}.get(codec, "ultrafast")
    lines = upscale_clip(source, target, codec=codec, scale=2, preset=preset, encoder_options={"g": "12"})
    assert lines == []
    assert frame_numbers(target) == list(range(FRAMES))
    assert len(decoded_times(target)) == FRAMES
    assert len(streams(target, "video")[0].times) == FRAMES


def test_hdr10_plus_passes_from_av1_to_hevc(tmp_path: Path, source: Path) -> None:
    if "libsvtav1" not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    between, target = tmp_path / "between.mkv", tmp_path / "out.mp4"
    upscale_clip(source, between, codec="libsvtav1", preset="11")
    assert probe(between).hdr10_plus
    upscale_clip(between, target, codec="libx265")
    assert frame_numbers(target) == list(range(FRAMES))


def test_an_excerpt_has_the_metadata_of_its_frames(tmp_path: Path, source: Path) -> None:
    upscale_clip(source, tmp_path / "out.mkv", codec="libx265", start=0.2, duration=0.32)
    assert frame_numbers(tmp_path / "out.mkv") == list(range(5, 13))


@pytest.mark.parametrize("target", ["out.mp4", "out.webm", "frames/"])
def test_what_cannot_hold_hdr10_plus_says_so(tmp_path: Path, source: Path, target: str) -> None:
    info = probe(source)
    notes = check_target(info, request_for(info, f"{tmp_path}/{target}")).notes
    [note] = [note for note in notes if "HDR10+" in note]
    assert "HDR10+ metadata is dropped" in note
    assert "--codec libx265" in note


@pytest.mark.slow
def test_a_check_finds_lost_hdr10_plus_metadata(tmp_path: Path, source: Path) -> None:
    """A stream copy keeps it, and ffmpeg's libx265 drops it."""
    for name, encoder, words in (
        ("copy", ["-c", "copy"], "HDR10+ metadata kept"),
        ("new", X265, "HDR10+ metadata missing"),
    ):
        target = tmp_path / f"{name}.mkv"
        ffmpeg("-i", source, *encoder, *(["-x265-params", PQ] if encoder is X265 else []), target)
        [found] = [finding for finding in check_target_against_source(source, target).findings if finding.name == "hdr"]
        assert (found.status, found.text) == ("ok" if name == "copy" else "fail", words)


def test_metadata_of_several_windows_is_left_out() -> None:
    """It gives their places in px of the source."""
    unit = b"\x02\x01frame"
    packet = len(unit).to_bytes(4, "big") + unit
    for windows, found in ((1, True), (2, False)):
        message = hdr10_plus(3, windows)
        changed = with_hdr10_plus(packet, message, "hevc", 4)
        assert changed.endswith(packet)
        assert find_hdr10_plus(changed, "hevc", 4) == (message if found else None)


def test_a_transport_stream_keeps_its_hdr10_plus_metadata(tmp_path: Path, source: Path) -> None:
    """Its NAL units have start codes in place of lengths."""
    ffmpeg("-i", source, "-c", "copy", tmp_path / "in.ts")
    upscale_clip(tmp_path / "in.ts", tmp_path / "out.mkv", codec="libx265")
    assert frame_numbers(tmp_path / "out.mkv") == list(range(FRAMES))


def test_a_message_is_found_behind_others() -> None:
    """Type and size are sums of bytes, of which 255 says that another one follows."""
    message = hdr10_plus(3)
    long, t35 = b"\xff\x2d\xff\x05" + bytes(260), bytes([4, len(message)]) + message
    for head, found in ((long, True), (b"\x04\x7f", False), (b"", True)):
        unit = b"\x4e\x01" + head + t35 + b"\x80"
        unit = unit.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\0", b"\0\0\3\0")
        for length_bytes, start in ((4, len(unit).to_bytes(4, "big")), (0, b"\0\0\0\1")):
            assert find_hdr10_plus(start + unit, "hevc", length_bytes) == (message if found else None)


@searching(200)
@example(b"\0\0\0\x06\x4e\x01\x04\xff\xff\xff", "hevc", 4)
@example(b"\0\0\1\0\0\1", "hevc", 0)
@given(st.binary(max_size=80), st.sampled_from(["hevc", "av1"]), st.sampled_from([0, 1, 2, 4]))
def test_any_packet_is_read_and_keeps_its_bytes(data: bytes, codec: str, length_bytes: int) -> None:
    find_hdr10_plus(data, codec, length_bytes)
    if codec == "hevc" and length_bytes < 4:  # written with lengths that suffice
        return
    changed = with_hdr10_plus(data, hdr10_plus(1), codec, 4)
    assert len(changed) > len(data)
    assert any(changed[:at] + changed[len(changed) - len(data) + at :] == data for at in range(len(data) + 1))


@searching(100)
@example(bytes(120))
@example(b"\0\1" * 140)
@given(st.binary(min_size=1, max_size=300))
def test_a_message_survives_whatever_bytes_it_has(tail: bytes) -> None:
    """Start codes are escaped in HEVC; sizes of more than 127 and 255 bytes."""
    message = hdr10_plus(0)[:8] + tail
    for codec, packet in (("hevc", b"\0\0\0\3\x02\x01x"), ("av1", b"\x12\0\x32\x01x")):
        changed = with_hdr10_plus(packet, message, codec, 4)
        assert find_hdr10_plus(changed, codec, 4) == message
        if codec == "hevc":
            assert b"\0\0\1" not in changed[4:-7]


# Dolby Vision


def with_rpu(plain: Path, target: Path, *, profile: int) -> Path:
    """The same video with a reference processing unit (ETSI TS 103 572) that changes nothing after each frame."""
    unit = b"\x7c\x01" + _escaped(_rpu(profile))
    with av.open(str(plain)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        for packet in before.demux(stream):
            if packet.size:
                changed = av.Packet(bytes(packet) + len(unit).to_bytes(4, "big") + unit)
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.stream, changed.is_keyframe = copy, packet.is_keyframe
                after.mux(changed)
    return target


def _escaped(data: bytes) -> bytes:
    out = bytearray()
    for byte in data:
        if out[-2:] == b"\0\0" and byte <= 3:
            out.append(3)
        out.append(byte)
    return bytes(out)


def _ue(value: int) -> tuple[int, int]:
    """An unsigned Exp-Golomb code as (value, bits)."""
    return value + 1, 2 * (value + 1).bit_length() - 1


def _rpu(profile: int) -> bytes:
    body = packed(*_rpu_fields(profile))
    crc = 0xFFFFFFFF
    for byte in body:  # CRC-32/MPEG-2
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return b"\x19" + body + crc.to_bytes(4, "big") + b"\x80\x80"  # its own end, and that of the NAL unit


def _rpu_fields(profile: int) -> Iterator[tuple[int, int]]:
    yield from ((2, 6), (18, 11), (profile == 8, 4), (0, 4), (1, 1))  # type, format, profile, level, sequence info
    yield from ((0, 1), (0, 2), _ue(23), (1, 2), (profile == 5, 1))  # ... coefficients, full range
    yield from (_ue(2), _ue(2), _ue(4), (0, 1), (0, 3), (0, 1), (1, 1))  # depths; no spatial resampling, no residual
    yield from ((1, 1), (0, 1))  # display metadata; no previous RPU
    yield from (_ue(0), _ue(0), _ue(0))  # RPU id, mapping color space and chroma format
    for _ in range(3):
        yield from (_ue(0), (0, 10), (1023, 10))  # two pivots
    yield from (_ue(0), _ue(0))  # one partition
    for _ in range(3):  # a polynomial of order 1: 0 + 1 x
        yield from (_ue(0), _ue(0), (0, 1), _ue(0), (0, 23), _ue(1), (0, 23))
    yield from (_ue(0), _ue(0), _ue(0))  # ids of the display metadata, scene refresh
    yield from ((number, 16) for number in (9574, 0, 13802, 9574, 65000, 60000, 9574, 17610, 0))  # YCC to RGB
    yield from ((number, 32) for number in (16777216, 134217728, 134217728))
    yield from ((number, 16) for number in (7222, 8771, 390, 2654, 12430, 1300, 0, 422, 15962))  # RGB to LMS
    yield from ((65535, 16), (0, 16), (0, 16), (0, 32), (12, 5), (0, 2), (0, 2), (1, 2))  # EOTF, depth, color space
    yield from ((7, 12), (3079, 12), (42, 10), _ue(0))  # peak levels; no extension blocks


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (8, "Dolby Vision profile 8: its metadata is dropped, and its frames upscaled as tagged"),
        (5, "Dolby Vision profile 5: its metadata is dropped, without which players show wrong colors; convert it"),
    ],
)
def test_dolby_vision_is_said_to_be_dropped(tmp_path: Path, profile: int, words: str) -> None:
    plain = tmp_path / "plain.mkv"
    make_clip("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2", *X265, "-x265-params", PQ, plain)
    info = probe(with_rpu(plain, tmp_path / "in.mkv", profile=profile))
    assert info.dolby_vision == profile
    [note] = unread(info)
    assert words in note
    assert unread(probe(plain)) == []
    found = check_target_against_source(tmp_path / "in.mkv", plain).findings
    assert [(item.status, item.text) for item in found if item.name == "hdr"] == [
        ("note", "Dolby Vision metadata missing")
    ]
