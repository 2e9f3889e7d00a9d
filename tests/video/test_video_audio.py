# SPDX-License-Identifier: Apache-2.0
"""Audio and subtitles arrive complete and in sync, whatever the source says about them or leaves unsaid."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_clips import (
    FAST,
    ffmpeg,
    leftovers,
    look,
    make_clip,
    pgs_display_set,
    request_for,
    slow_after,
    streams,
    upscale_clip,
)

import rvrt_cli.video.mux.transcode
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.target_check import check_target

X264 = [*FAST, "-bf", "2", "-g", "20", "-pix_fmt", "yuv420p"]
SECOND = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1"]


# Channels


@pytest.mark.parametrize(
    ("suffix", "encoder", "channels", "wanted"),
    [
        (".mkv", "pcm_s16le", 2, ".mp4"),
        (".avi", "pcm_s16le", 2, ".mp4"),
        (".nut", "pcm_s16le", 2, ".mov"),
        (".mkv", "pcm_s24le", 6, ".mp4"),
        (".mkv", "pcm_s16le", 16, ".mp4"),
    ],
)
def test_audio_with_unnamed_channels_is_copied(
    tmp_path: Path, suffix: str, encoder: str, channels: int, wanted: str
) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{wanted}"
    noise = ["-f", "lavfi", "-i", "anoisesrc=r=48000:d=1"]
    make_clip(*SECOND, *noise, *X264, "-ac", channels, "-c:a", encoder, source)
    assert upscale_clip(source, target) == []
    before, after = streams(source, "audio")[0], streams(target, "audio")[0]
    assert (after.codec, b"".join(after.data)) == (before.codec, b"".join(before.data))


@pytest.mark.parametrize(
    ("layout", "opus"),
    [("2.1", "5.1"), ("3.1", "5.1"), ("4.0", "6.1"), ("5.0(side)", "5.0"), ("5.1(side)", "5.1"), ("7.1(wide)", None)],
)
def test_every_channel_has_a_place_in_opus_or_the_downmix_is_reported(
    tmp_path: Path, layout: str, opus: str | None
) -> None:
    source, target = tmp_path / "in.mov", tmp_path / "out.webm"
    count = av.AudioLayout(layout).nb_channels
    tones = "|".join(f"0.2*sin(2*PI*{300 * (number + 1)}*t)" for number in range(count))
    sound = ["-f", "lavfi", "-i", f"aevalsrc='{tones}':d=1:s=48000:c={layout}"]
    make_clip(*SECOND, *sound, *X264, "-c:a", "pcm_s16le", source)
    notes = upscale_clip(source, target)
    downmixed = f"out.webm: stream 1 (audio, pcm_s16le): {layout} is downmixed to 7.1; .mkv keeps all channels"
    assert (downmixed in notes) == (opus is None)
    with av.open(str(target)) as container:
        assert container.streams.audio[0].layout.name == (opus or "7.1")
        there = container.streams.audio[0].layout.nb_channels
    samples = np.frombuffer(ffmpeg("-i", target, "-map", "0:a", "-f", "f32le", "-"), "<f4").reshape(-1, there)
    spectra = np.abs(np.fft.rfft(samples[9600:38400], axis=0)).T / 28800
    heard = [
        int(spectra[:, round(300 * (number + 1) * 0.6)].max() > (0.05 if opus else 0.005)) for number in range(count)
    ]
    assert heard == [1] * count


# Clocks


def flash(path: Path, *coding: object) -> None:
    """Two seconds: black and silent, then from 1 s on white with a tone."""
    video = "color=black:s=64x48:r=25:d=2,geq=lum='if(gte(T,1),235,16)':cb=128:cr=128"
    tone = "aevalsrc='if(gte(t,1),sin(2*PI*1000*t),0)':s=48000:d=2"
    make_clip("-f", "lavfi", "-i", video, "-f", "lavfi", "-i", tone, *X264, *coding, path)


def flashing(path: Path) -> tuple[float, float]:
    """When the first white frame is shown and when the tone starts, in s."""
    with av.open(str(path)) as container:
        white = next(float(f.time) for f in container.decode(video=0) if f.to_ndarray()[: f.height].mean() > 128)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.nonzero(np.abs(frame.to_ndarray()[0]) > 0.3)[0]
            if len(loud):
                return white, float(frame.time) + loud[0] / frame.sample_rate
    raise AssertionError(f"{path}: no tone")


def across_a_timestamp_wrap(folder: Path) -> Path:
    """MPEG-TS timestamps have 33 bits; ffmpeg makes those before the wrap negative."""
    flash(folder / "whole.mp4", "-c:a", "aac")
    path = folder / "in.ts"
    ffmpeg("-i", folder / "whole.mp4", "-c", "copy", "-muxdelay", 0, "-output_ts_offset", 95442.9, path)
    assert probe(path).begin < 0
    return path


def cut_between_key_frames(folder: Path) -> Path:
    """Half a second of audio lies before the edit list of this file and is not played."""
    flash(folder / "whole.mp4", "-c:a", "aac")
    ffmpeg("-ss", 0.5, "-i", folder / "whole.mp4", "-c", "copy", folder / "in.mp4")
    return folder / "in.mp4"


FLASHES = {
    "wrap": (across_a_timestamp_wrap, {}, 1.021, 1.021),
    "wrap, excerpt": (across_a_timestamp_wrap, {"start": 0.4}, 0.621, 0.621),
    "cut": (cut_between_key_frames, {}, 0.48, 0.5),
    "cut, excerpt": (cut_between_key_frames, {"start": 0.37}, 0.11, 0.13),
}


@pytest.mark.parametrize(("name", "suffix"), slow_after(1, itertools.product(FLASHES, [".mkv", ".webm", ".mp4"])))
def test_audio_is_in_sync_whatever_the_clock(tmp_path: Path, name: str, suffix: str) -> None:
    make: Callable[[Path], Path]
    make, part, white, tone = FLASHES[name]
    target = tmp_path / f"out{suffix}"
    upscale_clip(make(tmp_path), target, **part)
    seen, heard = flashing(target)
    assert seen == pytest.approx(white, abs=1.1e-3)
    assert heard == pytest.approx(tone, abs=3e-3)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_audio_that_starts_late_in_a_transport_stream_is_copied(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / "in.ts", tmp_path / f"out{suffix}"
    video, tone = "testsrc2=s=64x48:r=5:d=10", "sine=r=48000:d=1"
    make_clip("-f", "lavfi", "-i", video, "-itsoffset", 9, "-f", "lavfi", "-i", tone, *X264, "-c:a", "ac3", source)
    assert upscale_clip(source, target) == []
    before, after = look(source), look(target)
    assert after[1].data == before[1].data
    shift = before[0].times[0] - after[0].times[0]
    assert abs(before[1].times[0] - after[1].times[0] - shift) <= 1e-3


# Damage


def drop_stream(source: Path, identifier: int, target: Path) -> None:
    """Copy a transport stream without the packets of one stream."""
    data = source.read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    target.write_bytes(b"".join(p for p in packets if ((p[1] & 31) << 8 | p[2]) != identifier))


@pytest.fixture
def two_audio_streams(tmp_path: Path) -> Path:
    path, tones = tmp_path / "two.ts", ["-f", "lavfi", "-i", "sine=d=1", "-f", "lavfi", "-i", "sine=f=880:d=1"]
    make_clip(*SECOND, *tones, "-map", 0, "-map", 1, "-map", 2, *X264, "-c:a", "mp2", path)
    return path


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_an_audio_stream_without_packets_is_dropped_and_the_other_is_kept(
    tmp_path: Path, two_audio_streams: Path, suffix: str
) -> None:
    source, target = tmp_path / "in.ts", tmp_path / f"out{suffix}"
    drop_stream(two_audio_streams, 0x102, source)
    notes = upscale_clip(source, target)
    assert notes[-1] == f"{target.name}: stream 2 (audio, mp3) is dropped: it contains no audio"
    (audio,) = streams(target, "audio")
    assert audio.times[-1] > 0.9


def test_an_audio_stream_that_ffmpeg_cannot_transcode_is_dropped_and_the_other_is_kept(
    tmp_path: Path, two_audio_streams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = rvrt_cli.video.mux.transcode.transcode_arguments

    def failing(info: SourceInfo, routes: Sequence[Route]) -> list[str]:
        return [*arguments(info, routes), *["-no_such_option"] * any(route.index == 1 for route in routes)]

    target = tmp_path / "out.webm"
    info = probe(two_audio_streams)
    plan = check_target(info, request_for(info, target, preset="8"))
    assert [route.how for route in plan.routes] == ["transcode", "transcode"]
    monkeypatch.setattr(rvrt_cli.video.mux.transcode, "transcode_arguments", failing)
    monkeypatch.setattr("rvrt_cli.video.mux.stream_plan.check_transcoding", lambda *_: None)
    *_, warning = sorted(upscale_clip(two_audio_streams, target), key=lambda line: "dropped" in line)
    assert warning.startswith(f"{two_audio_streams}: stream 1 (audio, mp2): damaged and dropped (ffmpeg: ")
    (audio,) = streams(target, "audio")
    assert audio.codec == "opus"
    assert audio.times[-1] > 0.9
    assert leftovers(tmp_path) == []


def test_packets_that_the_container_rejects_late_cost_no_frame(tmp_path: Path) -> None:
    """The mp4 muxer parses E-AC-3 when it writes a packet, later than it accepts the packet."""
    whole, source, target = tmp_path / "whole.mkv", tmp_path / "in.mkv", tmp_path / "out.mp4"
    make_clip(*SECOND, "-f", "lavfi", "-i", "sine=d=1:r=48000", *X264, "-c:a", "eac3", whole)
    with av.open(str(whole)) as given, av.open(str(source), "w") as made:
        copies = {stream.index: made.add_stream_from_template(stream, opaque=True) for stream in given.streams}
        for number, packet in enumerate(packet for packet in given.demux() if packet.size):
            copy = packet
            if packet.stream.type == "audio" and 20 < number < 30:
                copy = av.Packet(b"\x12" * packet.size)
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.stream = copies[packet.stream_index]
            made.mux(copy)
    (warning,) = upscale_clip(source, target)
    lost = len(look(source)[1].data) - len(look(target)[1].data)
    assert 1 <= lost < 10
    assert warning == f"{source}: stream 1 (audio, eac3): {lost} damaged packet{'s' * (lost > 1)} dropped"
    assert len(look(target)[0].data) == 25


def test_bitmap_subtitles_without_an_end_go_into_mp4(tmp_path: Path) -> None:
    """ffmpeg's encoder of DVD subtitles writes a duration of 2^32 - 1 ms for "until the next one"."""
    (tmp_path / "in.sup").write_bytes(pgs_display_set(0.2, True) + pgs_display_set(0.7, False))
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    ffmpeg(*SECOND, "-i", tmp_path / "in.sup", "-map", 0, "-map", 1, *X264, "-c:s", "dvdsub", source)
    assert upscale_clip(source, target) == []
    before, after = streams(source, "subtitle")[0], streams(target, "subtitle")[0]
    assert (after.codec, after.data, after.times) == (before.codec, before.data, before.times)
