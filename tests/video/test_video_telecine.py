# SPDX-License-Identifier: Apache-2.0
"""Inverse telecine: the film in telecined video, at its own rate and in sync with its audio."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_clips import (
    FAST,
    MILLISECOND,
    decoded_times,
    make_clip,
    read_all,
    request_for,
    streams,
    write_target,
)

from rvrt_cli.errors import OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.telecine import inverse_telecined


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds of film: 48 frames, all different, at 24000/1001 frames/s."""
    pattern = ["-f", "lavfi", "-i", "testsrc=s=320x180:r=24000/1001", "-frames:v", "48", "-pix_fmt", "yuv420p"]
    return make_clip(*pattern, "-c:v", "ffv1", tmp_path / "film.mkv")


def telecine(film: Path, target: Path, *options: object, first_field: str = "top") -> Path:
    """The film as interlaced video of 60 frames at 30000/1001 frames/s."""
    audio = ["-f", "lavfi", "-i", "sine=f=440:d=2.5:r=48000", "-shortest"]
    filters = ["-vf", f"telecine=first_field={first_field}:pattern=23", "-field_order", first_field[0] * 2]
    return make_clip("-i", film, *audio, *filters, "-c:a", "flac", *options, target)


@pytest.mark.parametrize(
    ("suffix", "first_field", "options"),
    [
        (".mkv", "top", ["-c:v", "ffv1"]),
        (".mkv", "bottom", ["-c:v", "ffv1"]),
        (".mp4", "top", ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "1", "-flags", "+ilme+ildct"]),
    ],
)
def test_inverse_telecine_restores_the_film(
    tmp_path: Path, film: Path, suffix: str, first_field: str, options: list[str]
) -> None:
    source = telecine(film, tmp_path / f"telecined{suffix}", *options, first_field=first_field)
    info = inverse_telecined(probe(source))
    assert (probe(source).frame_rate, info.frame_rate) == (Fraction(30000, 1001), Fraction(24000, 1001))
    with open_reader(info) as reader:
        frames = list(reader)
    assert reader.warnings == []
    truth = read_all(film)
    assert len(frames) == len(truth) == info.frame_count == 48
    times = [frame.pts * info.time_base for frame in frames]
    assert times == [number * Fraction(1001, 24000) for number in range(48)]
    errors = [np.abs(a.pixels.astype(int) - b.pixels).max() for a, b in zip(frames, truth, strict=True)]
    assert max(errors) <= 16, errors  # of 255
    if "ffv1" in options:
        whole = {frame.pixels.tobytes() for frame in truth}
        woven = sum(frame.pixels.tobytes() not in whole for frame in read_all(source))
        assert woven == 24, "two of every five frames of the source have fields of two frames of the film"
    assert abs(reader.end_pts * info.time_base - Fraction(2002, 1000)) < 2 * MILLISECOND


def test_inverse_telecined_video_keeps_audio_in_sync(tmp_path: Path, film: Path) -> None:
    """With a gap of half a second in the source, and a beginning at 0.5 s."""
    source = tmp_path / "gap.mkv"
    late = ["-vf", "telecine,setpts=PTS+(0.5+0.5005*gte(N\\,30))/TB", "-copyts", "-fps_mode", "passthrough"]
    make_clip("-i", film, *late, "-c:v", "ffv1", source)
    info = inverse_telecined(probe(source))
    with open_reader(info) as reader:
        frames = list(reader)
    times = [float(frame.pts * info.time_base) for frame in frames]
    truth = read_all(film)
    first, after = (_closest(frames, truth[number]) for number in (0, 40))
    assert times[first] == pytest.approx(0.5, abs=2e-3)
    assert times[after] == pytest.approx(0.5 + 0.5005 + 40 * 1001 / 24000, abs=0.03), "the gap is kept, within a frame"


def _closest(frames: list[Frame], wanted: Frame) -> int:
    errors = [np.abs(frame.pixels.astype(int) - wanted.pixels).mean() for frame in frames]
    return int(np.argmin(errors))


def test_inverse_telecine_of_an_excerpt_and_into_a_file(tmp_path: Path, film: Path) -> None:
    source, target = telecine(film, tmp_path / "in.mkv", "-c:v", "ffv1"), tmp_path / "out.mkv"
    info = inverse_telecined(probe(source))
    with open_reader(info) as reader:
        write_target(info, request_for(info, target), reader)
    assert len(decoded_times(target)) == 48
    after = decoded_times(target)
    assert all(abs(time - number * Fraction(1001, 24000)) <= MILLISECOND for number, time in enumerate(after))
    [audio], [before] = streams(target, "audio"), streams(source, "audio")
    assert audio.data == before.data
    with av.open(str(target)) as container:
        assert abs(container.streams.video[0].average_rate - Fraction(24000, 1001)) < Fraction(1, 100)
    with open_reader(info, start=1.0, duration=0.5) as reader:
        times = [float(frame.pts * info.time_base) for frame in reader]
    assert 1 <= times[0] < 1.05
    assert len(times) == 12


def test_inverse_telecine_of_what_is_not_telecined_is_refused(tmp_path: Path) -> None:
    source = make_clip("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2", *FAST, tmp_path / "in.mp4")
    with pytest.raises(
        OptionError, match=r"--ivtc: .*in.mp4 has 25 frames/s, and telecined film has 29.97; omit --ivtc"
    ):
        inverse_telecined(probe(source))


def test_frames_that_are_missing_from_telecined_video_are_reported(tmp_path: Path, film: Path) -> None:
    source = telecine(film, tmp_path / "in.mp4", *FAST, "-movflags", "+faststart")
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    with open_reader(inverse_telecined(probe(source))) as reader:
        frames = list(reader)
    assert reader.missing > 5
    assert len(frames) < 45
    assert any("missing" in line for line in reader.warnings)
