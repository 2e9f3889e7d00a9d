# SPDX-License-Identifier: Apache-2.0
"""Segments that are encoded one by one become one stream, with every frame at its time and nothing encoded twice."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.video_clips import (
    AUDIO,
    CLOCKS,
    FAST,
    MILLISECOND,
    VIDEO,
    decoded_times,
    make_clip,
    read_all,
    request_for,
    slow_after,
    streams,
)

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.publish import EncodedSegments, assemble, check_part, publish
from rvrt_cli.video.write.target import Target
from rvrt_cli.video.write.target_check import check_target
from rvrt_cli.video.write.writers import SegmentWriter

CUTS = (0, 1, 8, 19)


@dataclass(frozen=True)
class Run:
    """What a run has left in its work folder."""

    info: SourceInfo
    target: Target
    work: Path
    frames: int

    def finish(self, cuts: tuple[int, ...] = CUTS) -> Path:
        segments = EncodedSegments(self.work, cuts, self.frames, Excerpt())
        return publish(self.target, assemble(self.target, self.info, segments).path)


def write_segments(source: Path, target: Path, work: Path, only: Container[int] = CUTS, **options: Any) -> Run:
    """Encode the frames of `source` in segments, those that start with a frame in `only`."""
    work.mkdir(exist_ok=True)
    info, frames = probe(source), read_all(source)
    checked = check_target(info, request_for(info, target, **options))
    with SegmentWriter(checked, info, work, time_base=info.time_base, start=0.0) as writer:
        for begin, end in itertools.pairwise((*CUTS, len(frames))):
            if begin in only:
                with writer.segment(begin):
                    for frame in frames[begin:end]:
                        writer.write(frame)
    return Run(info, checked, work, len(frames))


@pytest.mark.parametrize(
    ("clock", "suffix"),
    slow_after(
        1,
        itertools.product(
            ["variable", "ntsc film", "late start", "variable mkv"],
            [".mp4", ".mov", ".mkv", ".webm"],
        ),
    ),
)
def test_every_frame_keeps_its_time_across_segments(tmp_path: Path, clock: str, suffix: str) -> None:
    arguments, source_suffix = CLOCKS[clock]
    source, target = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    make_clip(*arguments, source)
    preset = "8" if suffix == ".webm" else "veryfast"  # with B-frames
    write_segments(source, target, tmp_path / "work", preset=preset).finish()
    want, got = decoded_times(source), decoded_times(target)
    assert len(got) == len(want)
    tolerance = 0 if suffix in (".mp4", ".mov") else MILLISECOND / 2
    off = [abs(a - b) for a, b in zip(want, got, strict=True)]
    assert max(off) <= tolerance, f"frame {off.index(max(off))} is off by {float(max(off)) * 1000:.3f} ms"


def test_segments_of_two_runs_equal_those_of_one(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    make_clip(*VIDEO, *AUDIO, *CLOCKS["variable"][0][4:], "-c:a", "aac", source)
    whole = write_segments(source, tmp_path / "whole.mp4", tmp_path / "a", preset="veryfast").finish()
    write_segments(source, tmp_path / "parts.mp4", tmp_path / "b", only=(1, 19), preset="veryfast")
    parts = write_segments(source, tmp_path / "parts.mp4", tmp_path / "b", only=(0, 8), preset="veryfast").finish()
    assert whole.read_bytes() == parts.read_bytes()
    assert len(streams(parts, "audio")[0].data) > 40
    with av.open(str(parts)) as container:
        keys = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe]
    assert set(keys) == {decoded_times(source)[cut] for cut in CUTS}


def test_images_of_segments_are_numbered_consecutively(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "frames"
    make_clip(*VIDEO, "-c:v", "libx264", "-qp", "0", source)
    write_segments(source, target, tmp_path / "work", only=(1, 19))
    write_segments(source, target, tmp_path / "work", only=(0, 8)).finish()
    for before, after in zip(read_all(source), read_all(target), strict=True):
        assert np.array_equal(before.pixels, after.pixels)


def write_and_fail(writer: SegmentWriter, frames: list[Frame]) -> None:
    for frame in frames:
        writer.write(frame)
    raise RuntimeError("the network has failed")


def test_a_segment_that_fails_is_discarded_and_the_others_stay(tmp_path: Path) -> None:
    source, target, work = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "work"
    make_clip(*VIDEO, *FAST, source)
    work.mkdir()
    info, frames = probe(source), read_all(source)
    checked = check_target(info, request_for(info, target, preset="ultrafast"))
    with SegmentWriter(checked, info, work, time_base=info.time_base, start=0.0) as writer:
        with writer.segment(0):
            for frame in frames[:8]:
                writer.write(frame)
        with pytest.raises(RuntimeError, match="the network"), writer.segment(8):
            write_and_fail(writer, frames[8:16])
    assert writer.written == 16
    assert [path.name for path in work.iterdir()] == ["00000000.mp4"]
    header = check_part(checked, work, 0, 8, None)
    assert header
    with pytest.raises(ValueError, match="frames are missing"):
        check_part(checked, work, 0, 9, header)
    with pytest.raises(ValueError, match="other settings"):
        check_part(checked, work, 0, 8, b"another header")


def test_a_missing_segment_is_an_error_and_not_a_shorter_target(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    make_clip(*VIDEO, *FAST, source)
    for target, message in ((tmp_path / "out.mp4", "lost 7 frames"), (tmp_path / "out", "23 images were written")):
        run = write_segments(source, target, tmp_path / f"work{target.suffix}", only=(0, 8, 19))
        with pytest.raises(MediaError, match=message):
            run.finish((0, 8, 19))
        assert not target.exists()


def test_segments_of_other_settings_are_not_joined(tmp_path: Path) -> None:
    source, target, work = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "work"
    make_clip(*VIDEO, *FAST, source)
    write_segments(source, target, work, only=(0, 1, 8), preset="ultrafast")
    run = write_segments(source, target, work, only=(19,), preset="slow")
    with pytest.raises(MediaError, match="other settings"):
        run.finish()
