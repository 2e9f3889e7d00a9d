"""Nothing is lost on the whole way of `rvrt upscale`, in segments that are joined: source against target, by PyAV."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from upscale_runs import Echo
from video_clips import BFRAMES, decoded_times, ffmpeg, leftovers

import rvrt_cli.upscale.job
from rvrt_cli.cli import main

VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]


@pytest.fixture
def upscale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture):
    """The command in this process, with segments of 8 frames and a network of NumPy; what it says, and writes (`out`)."""

    def run(source: Path, target: Path | str, *options: object, status: int = 0) -> str:
        network = Echo(str(tmp_path / "calls"), seconds=0)
        monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: network)
        plan = ["--window", "4", "--lookahead", "2", "--segment", "8"]
        arguments = ["rvrt", "upscale", source, target, *plan, *options]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfdbinary.readouterr()
        run.out, said = captured.out, captured.err.decode()
        assert (end.value.code or 0) == status, said
        (tmp_path / "calls").unlink(missing_ok=True)
        assert leftovers(tmp_path) == []
        return said

    return run


def quick(target: Path) -> list[str]:
    return ["--preset", "8" if target.suffix == ".webm" else "veryfast"]


def picture_end(path: Path) -> Fraction:
    """When the last picture gives way, in s: by the track's length, which in Matroska is a tag."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if "matroska" in container.format.name:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        return (stream.start_time + stream.duration) * stream.time_base


def held(source: Path, target: Path, seconds: Fraction) -> None:
    """Copy `source`, its last picture shown for so long."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        copies = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        packets = [packet for packet in given.demux() if packet.size]
        video = given.streams.video[0]
        last = max((p for p in packets if p.stream_index == video.index), key=lambda p: p.pts)
        last.duration = round(seconds / video.time_base)
        for packet in packets:
            packet.stream = copies[packet.stream_index]
            made.mux(packet)


# name: (frames/s, frames, how long the last one is held in s, else as long as the others)
ENDINGS = {
    "2": (Fraction(2), 6, None),
    "10": (Fraction(10), 10, None),
    "23.976": (Fraction(24000, 1001), 24, None),
    "59.94": (Fraction(60000, 1001), 30, None),
    "120": (Fraction(120), 30, None),
    "held": (Fraction(25), 20, Fraction(2)),
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("2", ".mp4"), ("2", ".webm"), ("10", ".mov"), ("23.976", ".mkv"), ("59.94", ".mp4"), ("59.94", ".mkv"),
     ("120", ".mp4"), ("120", ".webm"), *itertools.product(["held"], [".mp4", ".mov", ".mkv", ".webm"])],
)  # fmt: skip
def test_sound_and_picture_end_together(tmp_path: Path, upscale, name: str, suffix: str) -> None:
    rate, frames, hold = ENDINGS[name]
    end = (frames - 1) / rate + (hold or 1 / rate)
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    made = tmp_path / f"made{suffix}" if hold else source
    pictures = [
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s=32x24:r={rate}:d={float(frames / rate)}",
        "-f",
        "lavfi",
        "-i",
        f"sine=r=48000:d={float(end)}",
    ]
    coded = [*VP9, "-c:a", "libopus"] if suffix == ".webm" else [*BFRAMES, "-c:a", "aac"]
    ffmpeg(*pictures, *coded, made)
    if hold:
        held(made, source, hold)
    upscale(source, target, *quick(target))
    assert abs(picture_end(source) - end) <= Fraction(1, 1000), "the source is not what it should be"
    assert len(decoded_times(target)) == frames
    assert abs(picture_end(target) - end) <= Fraction(1, 1000)
    with av.open(str(target)) as container:
        audio = container.streams.audio[0]
        packets = [packet for packet in container.demux(audio) if packet.size]
        sound = max((packet.pts + packet.duration) * packet.time_base for packet in packets)
    assert abs(sound - picture_end(target)) < max(1 / rate, Fraction(1024, 48000))  # AAC comes in frames of 1024


@pytest.mark.parametrize(("rate", "suffix"), [("24000/1001", ".mp4"), ("10", ".mkv")])
def test_y4m_says_the_frame_rate(tmp_path: Path, upscale, rate: str, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x24:r={rate}:d=1", *BFRAMES, source)
    upscale(source, "-")
    numerator, _, denominator = rate.partition("/")
    header = upscale.out.split(b"\n")[0].split()
    assert f"F{numerator}:{denominator or 1}".encode() in header
