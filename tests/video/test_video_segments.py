"""Segments that are encoded one by one become one stream, with every frame at its time and nothing encoded twice."""

import av
import numpy as np
import pytest
from helpers.video_clips import PICTURES, SOUND, decoded_times, ffmpeg, read_all, streams
from test_video_fidelity import CLOCKS, MILLISECOND

from rvrt_cli.errors import MediaError
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.write.publish import join, part_file, publish
from rvrt_cli.video.write.writers import open_writer

CUTS = (0, 1, 8, 19)


def write_segments(source, target, work, cuts=CUTS, only=None, **options):
    """Encode the frames of `source` in segments, those in `only` if given; the target as checked."""
    work.mkdir(exist_ok=True)
    info, frames = probe(source), read_all(source)
    with open_writer(target, info, width=info.width, height=info.height, work=work, **options) as writer:
        for begin, end in zip(cuts, (*cuts[1:], len(frames)), strict=True):
            if only is None or begin in only:
                writer.begin(begin)
                for frame in frames[begin:end]:
                    writer.write(frame)
                writer.end()
    return writer.target, info, len(frames)


def finish(checked, info, work, frames, cuts=CUTS):
    parts = [part_file(checked, work, begin) for begin in cuts]
    return publish(checked, join(checked, info, work, parts, frames))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("clock", ["ntsc film", "variable", "late start", "variable mkv"])
def test_every_frame_keeps_its_time_across_segments(tmp_path, clock, suffix):
    arguments, source_suffix = CLOCKS[clock]
    source, target, work = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}", tmp_path / "work"
    ffmpeg(*arguments, source)
    made = write_segments(source, target, work, preset="8" if suffix == ".webm" else "veryfast")  # with B-frames
    finish(*made[:2], work, made[2])
    want, got = decoded_times(source), decoded_times(target)
    assert len(got) == len(want)
    tolerance = 0 if suffix in (".mp4", ".mov") else MILLISECOND / 2
    off = [abs(a - b) for a, b in zip(want, got, strict=True)]
    assert max(off) <= tolerance, f"frame {off.index(max(off))} is off by {float(max(off)) * 1000:.3f} ms"


def test_segments_of_two_runs_are_those_of_one(tmp_path):
    source = tmp_path / "in.mp4"
    ffmpeg(*PICTURES, *SOUND, *CLOCKS["variable"][0][4:], "-c:a", "aac", source)
    whole = write_segments(source, tmp_path / "whole.mp4", tmp_path / "a", preset="veryfast")
    finish(*whole[:2], tmp_path / "a", whole[2])
    write_segments(source, tmp_path / "parts.mp4", tmp_path / "b", only=(1, 19), preset="veryfast")
    parts = write_segments(source, tmp_path / "parts.mp4", tmp_path / "b", only=(0, 8), preset="veryfast")
    finish(*parts[:2], tmp_path / "b", parts[2])
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "parts.mp4").read_bytes()
    assert len(streams(tmp_path / "parts.mp4", "audio")[0].data) > 40
    with av.open(str(tmp_path / "parts.mp4")) as container:
        keys = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe]
    assert set(keys) == {decoded_times(source)[cut] for cut in CUTS}


def test_images_of_segments_are_numbered_through(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "frames"
    ffmpeg(*PICTURES, "-c:v", "libx264", "-qp", "0", source)
    write_segments(source, target, tmp_path / "work", only=(1, 19))
    made = write_segments(source, target, tmp_path / "work", only=(0, 8))
    finish(*made[:2], tmp_path / "work", made[2])
    for before, after in zip(read_all(source), read_all(target), strict=True):
        assert np.array_equal(before.pixels, after.pixels)


def test_a_missing_segment_is_an_error_and_no_shorter_target(tmp_path):
    source = tmp_path / "in.mp4"
    ffmpeg(*PICTURES, "-c:v", "libx264", source)
    for target, message in ((tmp_path / "out.mp4", "lost 7 frames"), (tmp_path / "out", "23 images were written")):
        work = tmp_path / f"work{target.suffix}"
        made = write_segments(source, target, work, only=(0, 8, 19))
        with pytest.raises(MediaError, match=message):
            finish(*made[:2], work, made[2], (0, 8, 19))
        assert not target.exists()


def test_segments_of_other_settings_do_not_join(tmp_path):
    source, target, work = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "work"
    ffmpeg(*PICTURES, "-c:v", "libx264", source)
    write_segments(source, target, work, only=(0, 1, 8), preset="ultrafast")
    made = write_segments(source, target, work, only=(19,), preset="slow")
    with pytest.raises(MediaError, match="other settings"):
        finish(*made[:2], work, made[2])
