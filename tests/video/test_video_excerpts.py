# SPDX-License-Identifier: Apache-2.0
"""An excerpt (--start) has every frame of that part, wherever the container allows decoding to start."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.video_clips import AUDIO, BFRAMES, ffmpeg, read_all, slow_after

from rvrt_cli.video.read.probe import probe

MPEG2 = ["-c:v", "mpeg2video", "-bf", "2", "-g", "20", "-qscale", "1"]
H264 = [*BFRAMES, "-pix_fmt", "yuv420p", "-g", "20"]

# suffix: (frames/s, how they are encoded); the "long" ones are long enough that ffmpeg seeks
CONTAINERS = {
    "long.mp4": (2, H264),
    "ts": (25, [*MPEG2, "-c:a", "mp2"]),
    "m2ts": (25, [*H264, "-c:a", "aac"]),
    "mpg": (25, [*MPEG2, "-c:a", "mp2"]),
    "h264": (25, H264),
    "m2v": (25, MPEG2),
    "mjpeg": (25, ["-c:v", "mjpeg"]),
    "avi": (25, H264),
    "flv": (25, [*H264, "-c:a", "aac", "-ar", "44100"]),
    "mp4": (25, [*H264, "-c:a", "aac"]),
    "long.mkv": (2, H264),
    "long.avi": (2, H264),
    "long.flv": (2, H264),
    "long.ts": (2, H264),
}


@pytest.mark.parametrize("name", slow_after(2, CONTAINERS))
def test_an_excerpt_has_every_frame_from_its_start_on(tmp_path: Path, name: str) -> None:
    rate, coding = CONTAINERS[name]
    source, seconds = tmp_path / f"in.{name}", 50 / rate
    audio = AUDIO if "-c:a" in coding else []
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:r={rate}:d={seconds}", *audio, *coding, source)
    info, whole = probe(source), read_all(source)
    assert len(whole) == 50
    for start in (0.03, 0.45 * seconds / 2, 0.9 * seconds / 2, 0.97 * seconds):
        begin = info.begin + Fraction(start).limit_denominator(10**6)
        wanted = [frame for frame in whole if frame.pts * info.time_base >= begin]
        got = read_all(source, start=start)
        assert [frame.pts for frame in got] == [frame.pts for frame in wanted], f"from {start} s on"
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(got, wanted, strict=True))
