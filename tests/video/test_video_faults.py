# SPDX-License-Identifier: Apache-2.0
"""Damaged sources, killed processes, vanishing folders: one clear line, nothing half-written, no process left behind."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from helpers.processes import alive, children, needs_proc
from helpers.video_clips import (
    FAST,
    decoded_times,
    ffmpeg,
    leftovers,
    look,
    make_clip,
    read_all,
    request_for,
    slow_after,
    upscale_clip,
    write_target,
)

import rvrt_cli.video.mux.final_mux
import rvrt_cli.video.mux.transcode
import rvrt_cli.video.write.publish
from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import FFmpeg, video_encoders
from rvrt_cli.video.mux.final_mux import MuxJob, mux
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.encoder import Encoder, RawFormat, encoder_bytes
from rvrt_cli.video.write.publish import publish
from rvrt_cli.video.write.target import OutputRequest
from rvrt_cli.video.write.target_check import check_target

DamagedClip = tuple[Path, int | None, str]  # its path, its frames if known, the warning
LONG = ["-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=8"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(*LONG, *FAST, "-g", "25", tmp_path / "clip.mkv")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = set(children())  # helpers of other tests may live on, such as multiprocessing's resource tracker
    yield
    if Path("/proc/self/task").exists():
        deadline = time.monotonic() + 5
        while set(children()) - before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert set(children()) - before == set()
    assert [t.name for t in threading.enumerate() if t.name in ("reader", "encoder", "ffmpeg-messages")] == []


# Sources


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_video_gives_what_it_has_and_reports_missing_frames(tmp_path: Path, suffix: str) -> None:
    whole, cut, target = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}", tmp_path / "out.mkv"
    make_clip(*LONG, *FAST, "-g", "25", "-movflags", "+faststart", whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    warnings = upscale_clip(cut, target)
    count = len(decoded_times(target))
    assert 60 < count < 180
    with av.open(str(target)) as container:  # the last frame is not extended to the end of the complete film
        shown = float(container.streams.video[0].metadata["DURATION"].rpartition(":")[2])
    assert shown == pytest.approx(float(decoded_times(target)[-1]) + 1 / 25, abs=1e-3)
    with open_reader(probe(cut)) as reader:
        assert len(list(reader)) == count
        assert reader.missing == 200 - count
    assert len(warnings) == 1
    assert f"{200 - count} frames missing" in warnings[0]
    assert "\n" not in warnings[0]


def test_damaged_packets_are_survived_and_reported(tmp_path: Path) -> None:
    whole, source = tmp_path / "whole.mkv", tmp_path / "in.mkv"
    ffmpeg(*LONG, "-c:v", "mjpeg", whole)
    data = bytearray(whole.read_bytes())
    rng = np.random.default_rng(3)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 8):
        data[place : place + 400] = rng.bytes(400)
    source.write_bytes(data)
    with open_reader(probe(source)) as reader:
        frames = list(reader)
    assert len(frames) > 100
    assert len(frames) + reader.missing <= 200
    assert len(reader.warnings) == 1
    assert all(a.pts < b.pts for a, b in itertools.pairwise(frames))


def test_frames_that_change_their_size_midway_are_scaled(tmp_path: Path) -> None:
    for size in ("64x48", "96x80"):
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            f"testsrc2=s={size}:r=25:d=0.4",
            *FAST,
            "-bsf:v",
            "dump_extra",
            tmp_path / f"{size}.h264",
        )
    source = tmp_path / "in.h264"
    source.write_bytes((tmp_path / "64x48.h264").read_bytes() + (tmp_path / "96x80.h264").read_bytes())
    with open_reader(probe(source)) as reader:
        assert [frame.pixels.shape for frame in reader] == [(48, 64, 3)] * 20
    assert reader.warnings == [f"{source}: the frames change their size or format midway; all were scaled to 64x48"]


def with_audio(folder: Path, codec: str = "aac", suffix: str = "ts", seconds: float = 2) -> Path:
    path = folder / f"whole.{suffix}"
    sources = ["-f", "lavfi", "-i", f"testsrc2=s=32x32:r=25:d={seconds}", "-f", "lavfi", "-i", f"sine=d={seconds}"]
    return make_clip(*sources, *FAST, "-pix_fmt", "yuv420p", "-c:a", codec, path)


def twice(folder: Path) -> DamagedClip:
    """Two programs in one file: the timestamps start again."""
    data = with_audio(folder, seconds=0.8).read_bytes()
    (folder / "in.ts").write_bytes(data + data)
    return folder / "in.ts", 40, "non-monotonic timestamps"


def with_equal_timestamps(folder: Path) -> DamagedClip:
    """Several audio packets with one timestamp."""
    whole, path, before = with_audio(folder, suffix="mkv", seconds=0.8), folder / "in.mkv", None
    with av.open(str(whole)) as given, av.open(str(path), "w") as made:
        copies = [made.add_stream_from_template(stream) for stream in given.streams]
        for number, packet in enumerate(p for p in given.demux() if p.size):
            is_audio = packet.stream.type == "audio"
            if is_audio and before is not None and 20 < number < 24:
                packet.pts = packet.dts = before
            before = packet.dts if is_audio else before
            packet.stream = copies[packet.stream_index]
            made.mux(packet)
    return path, 20, "non-monotonic timestamps"


def with_noise(codec: str, warning: str) -> Callable[[Path], DamagedClip]:
    def make(folder: Path) -> DamagedClip:
        data, rng = bytearray(with_audio(folder, codec).read_bytes()), np.random.default_rng(7)
        for place in rng.integers(3000, len(data) - 100, 8):
            data[place : place + 100] = rng.bytes(100)
        (folder / "in.ts").write_bytes(data)
        return folder / "in.ts", None, warning

    return make


DAMAGED_AUDIO: dict[str, Callable[[Path], DamagedClip]] = {
    "two clocks": twice,
    "equal timestamps": with_equal_timestamps,
    "noise in AAC": with_noise("aac", "dropped"),
    "noise in MP2": with_noise("mp2", "non-monotonic timestamps"),
}


@pytest.mark.parametrize("name", slow_after(1, DAMAGED_AUDIO))
def test_damaged_audio_is_kept_as_far_as_possible_and_reported(tmp_path: Path, name: str) -> None:
    source, frames, warning = DAMAGED_AUDIO[name](tmp_path)
    warnings = upscale_clip(source, tmp_path / "out.mp4")
    about_audio = [line for line in warnings if line.startswith(f"{source}: stream 1 (audio, ") and warning in line]
    assert len(about_audio) == sum("stream 1" in line for line in warnings) == 1, warnings
    video, audio = look(tmp_path / "out.mp4")
    assert frames is None or len(video.times) == frames
    assert len(set(audio.times)) == len(audio.times)
    lost = len(look(source)[1].data) - len(audio.data)
    assert (1 <= lost <= 8) if warning == "dropped" else lost == 0
    assert leftovers(tmp_path) == []


def test_audio_after_a_timestamp_reset_follows_what_came_before(tmp_path: Path) -> None:
    source, *_ = twice(tmp_path)
    upscale_clip(source, tmp_path / "out.mp4")
    times = look(tmp_path / "out.mp4")[1].times
    assert times[-1] == pytest.approx(1.62, abs=0.05)
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.03


def test_audio_that_ends_in_an_error_costs_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_audio(tmp_path, suffix="mkv")

    class Breaking:
        def __init__(self, container: Any) -> None:
            self.streams = container.streams
            self.container = container

        def demux(self, chosen: object) -> Iterator[Any]:
            yield from itertools.islice(self.container.demux(chosen), 30)
            raise av.error.InvalidDataError(-1094995529, "Invalid data found when processing input")

    copied = rvrt_cli.video.mux.final_mux.copied_packets
    monkeypatch.setattr(
        rvrt_cli.video.mux.final_mux, "copied_packets", lambda given, *rest: copied(Breaking(given), *rest)
    )
    warnings = upscale_clip(source, tmp_path / "out.mp4")
    why = "Invalid data found when processing input"
    assert warnings == [f"{source}: stream 1 (audio, aac): damaged, ends early ({why})"]
    assert [len(stream.times) for stream in look(tmp_path / "out.mp4")] == [50, 30]


@pytest.mark.parametrize("written", [False, True])
def test_audio_that_ffmpeg_cannot_remux_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    source, target = with_audio(tmp_path, suffix="mp4"), tmp_path / "out.mkv"
    arguments = rvrt_cli.video.mux.transcode.transcode_arguments

    def failing(info: SourceInfo, routes: Sequence[Route]) -> list[str]:
        broken = ["-abort_on", "empty_output", "-f", "lavfi", "-i", "nullsrc=d=0.1", "-map", "1", "-t", "0"]
        return [*arguments(info, routes), *(broken if written else ["-no_such_option"])]

    monkeypatch.setattr(rvrt_cli.video.mux.transcode, "transcode_arguments", failing)
    (warning,) = upscale_clip(source, target)
    assert warning.startswith(f"{source}: stream 1 (audio, aac): damaged")
    assert len(decoded_times(target)) == 50
    assert leftovers(tmp_path) == []


def test_a_killed_decoder_is_an_error_and_not_the_end_of_the_video(clip: Path) -> None:
    with open_reader(probe(clip)) as reader:
        next(reader)
        reader._decoder._ffmpeg.process.kill()
        with pytest.raises(MediaError, match="killed from outside"):
            list(reader)


def test_an_excerpt_beyond_the_end_is_refused(clip: Path) -> None:
    with open_reader(probe(clip), start=60) as reader, pytest.raises(MediaError, match=r"no frame after 60 s"):
        next(reader)


def test_leaving_a_reader_early_is_quick(clip: Path) -> None:
    begin = time.monotonic()
    for taken in (0, 1, 30):
        with open_reader(probe(clip)) as reader:
            for _ in range(taken):
                next(reader)
    assert time.monotonic() - begin < 30  # a hang would take forever
    assert list(reader) == []


def test_the_reader_does_not_run_ahead(clip: Path) -> None:
    """Memory is bounded: the queue of a reader that nobody iterates fills up and stays so."""
    with open_reader(probe(clip)) as reader:
        time.sleep(0.7)
        assert reader._queue.qsize() == reader._queue.maxsize <= 16
        assert len(list(reader)) == 200


@needs_proc
def test_ffmpeg_ends_with_python_even_when_that_is_killed(tmp_path: Path, clip: Path) -> None:
    """After kill -9 nothing cleans up; the pipes break and ffmpeg ends by itself."""
    program = (
        "import sys, time\n"
        "from helpers.video_clips import request_for, write_target\n"
        "from rvrt_cli.video.read.probe import probe\n"
        "from rvrt_cli.video.read.reader import open_reader\n"
        "info = probe(sys.argv[1])\n"
        "def wait(number, writer):\n"
        "    if number == 1:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "write_target(info, request_for(info, sys.argv[2]), open_reader(info), before_frame=wait)\n"
    )
    command = [sys.executable, "-c", program, clip, tmp_path / "out.mp4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        processes = children(process.pid)
        assert len(processes) == 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in processes)
    assert not (tmp_path / "out.mp4").exists()


@needs_proc
def test_an_ffmpeg_without_pipes_ends_too_when_python_is_killed(tmp_path: Path) -> None:
    """AAC of an mp4 reaches Matroska through a side file that another ffmpeg writes."""
    source, slow = tmp_path / "in.mp4", tmp_path / "ffmpeg"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:d=0.2", "-f", "lavfi", "-i", "sine=d=0.2", *FAST, source)
    real = imageio_ffmpeg.get_ffmpeg_exe()
    slow.write_text(f'#!/bin/sh\ncase "$*" in *.side*) echo "$$" > "$0.pid"; exec sleep 60;; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    program = "import sys; from helpers.video_clips import upscale_clip; upscale_clip(sys.argv[1], sys.argv[2])"
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(slow)}
    pid_file = Path(f"{slow}.pid")
    with subprocess.Popen([sys.executable, "-c", program, source, tmp_path / "out.mkv"], env=environment) as process:
        while not (pid_file.exists() and pid_file.read_text().strip()):
            assert process.poll() is None
            time.sleep(0.01)
        helper = int(pid_file.read_text())
        assert alive(helper)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(helper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(helper)


def test_ffmpeg_cannot_block_on_its_log() -> None:
    """A longer log than a pipe holds, and nobody who reads it."""
    ffmpeg_process = FFmpeg(
        ["-f", "lavfi", "-i", "testsrc2=s=16x16:d=80", "-vf", "showinfo", "-f", "null", "-"], level="info"
    )
    assert ffmpeg_process.wait() == 0
    assert len(ffmpeg_process.lines) == 400
    ffmpeg_process.kill()


def test_watched_messages_are_counted_in_a_long_log() -> None:
    """`showinfo` logs a line or two for each of 2000 frames; the watched message is in the first of them."""
    watched = FFmpeg(
        ["-f", "lavfi", "-i", "testsrc2=s=16x16:d=80", "-vf", "showinfo", "-f", "null", "-"],
        level="info",
        watch={"first": r" n: +0 ", "all": r" n: *\d", "none": "no such words"},
    )
    assert watched.wait() == 0
    assert not any(" n:   0 " in line for line in watched.lines)
    assert (watched.seen["first"], watched.seen["all"], watched.seen["none"]) == (1, 2000, 0)
    watched.kill()


def test_a_change_of_size_is_reported_though_many_messages_follow(tmp_path: Path) -> None:
    names = []
    for size in ("64x48", "96x80"):
        names.append(tmp_path / f"{size}.h264")
        video = f"testsrc2=s={size}:r=25:d=0.4"
        ffmpeg("-f", "lavfi", "-i", video, *FAST, "-g", "1", "-bsf:v", "dump_extra", names[-1])
    data = bytearray(names[1].read_bytes())
    whole = bytes(data)
    starts = [
        place for place in range(len(data) - 4) if data[place : place + 3] == b"\0\0\1" and data[place + 3] & 31 == 5
    ]
    for place in starts[1:]:
        data[place + 8 : place + 40] = b"\xff" * 32
    source = tmp_path / "in.h264"
    source.write_bytes(names[0].read_bytes() + whole + bytes(data) * 60)
    with open_reader(probe(source)) as reader:
        list(reader)
        assert len(reader._decoder._ffmpeg.lines) == 400, "the log is shorter than what is kept"
    assert any("change their size" in warning for warning in reader.warnings)


# Targets


def write_and_break(
    target: str | Path, info: SourceInfo, frames: Iterable[Frame], number: int, accident: Callable[[Any], object]
) -> None:
    """Write `frames` to `target`; something happens before frame `number`."""
    request = request_for(info, target, preset=None if str(target).endswith("/") else "ultrafast")
    write_target(info, request, frames, before_frame=lambda n, writer: accident(writer) if n == number else None)


def fail(writer: object) -> None:
    raise RuntimeError("the network has failed")


@pytest.mark.parametrize("codec", ["libtheora", "libvvenc"])
def test_an_encoder_that_loses_frames_or_timestamps_is_detected_in_its_first_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Any
) -> None:
    if codec not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    monkeypatch.setattr("rvrt_cli.video.write.target_check.preflight", lambda *_: None)
    source = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:r=25:d=1", *FAST, source)
    lost = {"libtheora": r"lost \d+ frames", "libvvenc": "lost timestamps"}[codec]
    with pytest.raises(MediaError, match=rf"out\.mkv: the encoder {lost}; choose another --codec"):
        upscale_clip(source, tmp_path / "out.mkv", codec=codec, preset=None)
    assert list(tmp_path.iterdir()) == [source]


def test_an_exception_discards_everything(tmp_path: Path, clip: Path) -> None:
    info, frames = probe(clip), read_all(clip, duration=1.0)
    for target in (tmp_path / "out.mp4", f"{tmp_path}/frames/"):
        with pytest.raises(RuntimeError, match="network"):
            write_and_break(target, info, frames, 20, fail)
        assert sorted(tmp_path.iterdir()) == [clip]


@pytest.mark.parametrize("number", slow_after(1, [40, 0, 199]))
def test_a_killed_encoder_is_one_error(tmp_path: Path, clip: Path, number: int) -> None:
    with open_reader(probe(clip)) as reader, pytest.raises(MediaError, match=r"out\.mp4: cannot be encoded") as error:
        write_and_break(tmp_path / "out.mp4", probe(clip), reader, number, lambda w: w._encoder._ffmpeg.process.kill())
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [clip]


def vanish(folder: Path) -> None:
    """Remove a folder at once: while it is being emptied, a process that writes into it may add a file."""
    moved = folder.with_name("moved")
    folder.rename(moved)
    shutil.rmtree(moved)


def test_a_target_folder_that_vanishes_is_one_error(tmp_path: Path, clip: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    frames = read_all(clip, duration=1)
    with pytest.raises(MediaError, match=r"out\.mp4") as error:
        write_and_break(folder / "out.mp4", probe(clip), frames, 10, lambda w: vanish(folder))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [clip]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system, which only root can mount")
@pytest.mark.parametrize("target", slow_after(1, ["out.mp4", "out.mkv", "frames/"]))
def test_a_full_disk_is_one_error(tmp_path: Path, clip: Path, target: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(MediaError, match="No space left on device") as error:
            upscale_clip(clip, f"{disk}/{target}", scale=2)
        assert "\n" not in str(error.value)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, clip: Path) -> None:
    info, target = probe(clip), tmp_path / "out.mp4"
    frames = read_all(clip, duration=0.1)[:1]
    written = write_target(
        info, request_for(info, target), frames, before_frame=lambda n, writer: target.write_bytes(b"somebody else's")
    )
    assert target.read_bytes() == b"somebody else's"
    assert written.path == tmp_path / "out-2.mp4"
    assert len(decoded_times(written.path)) == 1
    assert leftovers(tmp_path) == []


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_part_that_falls_between_two_frames_is_refused(tmp_path: Path) -> None:
    slow = ["-vf", "setpts=10*N/TB", "-fps_mode", "passthrough", "-frames:v", "3"]
    source = make_clip("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", *slow, *FAST, tmp_path / "in.mkv")
    with pytest.raises(MediaError, match="no frame in the requested part; check --start and --duration"):
        read_all(source, start=4, duration=1)
    assert len(read_all(source, start=4, duration=7)) == 1


def test_a_container_that_cannot_be_written_is_one_error(tmp_path: Path, clip: Path) -> None:
    """Such as on a disk that is gone when all frames are done."""
    part = make_clip(*LONG[:3], "testsrc2=s=320x240:r=25:d=0.2", *FAST, tmp_path / "part.mkv")
    job = MuxJob(info=probe(clip), parts=(part,), output=tmp_path / "gone" / "out.mkv", muxer="matroska")
    with pytest.raises(
        MediaError, match=r"clip\.mkv: the upscaled video cannot be muxed \(No such file or directory\)"
    ):
        mux(job)


def test_targets_on_a_file_system_without_hard_links(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as exFAT; images keep their names there too."""
    monkeypatch.setattr(os, "link", no_links)
    upscale_clip(clip, tmp_path / "out.mp4", duration=0.1)
    (tmp_path / "in").mkdir()
    for name in ("f7.png", "f8.png"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", tmp_path / "in" / name)
    upscale_clip(tmp_path / "in", tmp_path / "frames", images=probe(tmp_path / "in").files)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["f7.png", "f8.png"]
    assert decoded_times(tmp_path / "out.mp4")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("linking", [True, False])
def test_a_target_whose_every_name_is_taken_is_refused(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, linking: bool
) -> None:
    if not linking:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(rvrt_cli.video.write.publish, "_MAX_NAME_SUFFIX", 3)
    info, result = probe(clip), tmp_path / "result.mp4"
    checked = check_target(info, request_for(info, tmp_path / "out.mp4"))
    for name in ("out.mp4", "out-2.mp4"):
        (tmp_path / name).write_text("somebody else's")
    result.write_text("ours")
    assert publish(checked, result) == tmp_path / "out-3.mp4"
    result.write_text("ours")
    with pytest.raises(
        MediaError, match=r"out\.mp4: exists, and so do all names up to out-3\.mp4; choose another name"
    ):
        publish(checked, result)
    assert result.read_text() == "ours"
    assert {path.read_text() for path in tmp_path.glob("out*")} == {"somebody else's", "ours"}


def test_a_target_that_cannot_be_renamed_is_one_error(tmp_path: Path, clip: Path) -> None:
    info, folder = probe(clip), tmp_path / "there"
    folder.mkdir()
    checked = check_target(info, request_for(info, folder / "out.mp4", overwrite=True))
    (tmp_path / "result.mp4").touch()
    folder.rmdir()
    with pytest.raises(MediaError, match=r"out\.mp4: cannot be written \(No such file or directory\)"):
        publish(checked, tmp_path / "result.mp4")


def test_a_folder_that_is_filled_or_cannot_be_replaced_keeps_its_files(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, target, result = probe(clip), tmp_path / "frames", tmp_path / "work" / "images"
    result.mkdir(parents=True)
    (result / "1.png").touch()
    plain, replacing = (
        check_target(info, request_for(info, f"{target}/", overwrite=overwrite)) for overwrite in (False, True)
    )
    target.mkdir()
    (target / "other.txt").write_text("somebody else's")
    with pytest.raises(MediaError, match="frames: was filled by another program meanwhile; choose another folder"):
        publish(plain, result)

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(MediaError, match=r"frames: cannot be written \(Permission denied\)"):
            publish(replacing, result)
    assert (target / "other.txt").read_text() == "somebody else's"
    assert publish(replacing, result) == target
    assert [path.name for path in target.iterdir()] == ["1.png"]
    assert [path.name for path in result.parent.iterdir()] == []


def test_overwriting_replaces_files_and_folders_of_images(tmp_path: Path, clip: Path) -> None:
    for target, count in ((tmp_path / "out.mp4", 3), (tmp_path / "frames", 3)):
        upscale_clip(clip, target, duration=0.4)
        with pytest.raises(MediaError, match="--overwrite"):
            upscale_clip(clip, target, duration=0.12)
        upscale_clip(clip, target, duration=0.12, overwrite=True)
        assert len(read_all(target)) == count
    assert leftovers(tmp_path) == []


def test_a_frame_beyond_2_gib_is_refused_before_the_work(tmp_path: Path, clip: Path) -> None:
    """PyAV truncates packet sizes to 32 bits: the rest of the frame would be lost silently."""
    for target in ("out.mkv", "frames/", "-"):
        request = OutputRequest(target if target == "-" else f"{tmp_path}/{target}", 32768, 21846)
        with pytest.raises(MediaError, match=rf"32768x21846 px has {32768 * 21846 * 3} bytes.*--size") as error:
            check_target(probe(clip), request)
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [clip]


def test_one_image_makes_a_video(tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", source)
    upscale_clip(source, target)
    assert decoded_times(target) == [Fraction(0)]
    assert isinstance(read_all(target)[0], Frame)


@needs_proc
@pytest.mark.parametrize(
    ("pix_fmt", "codec"),
    [
        ("yuv420p", ["libx264"]),
        ("yuv444p", ["libx264"]),
        ("yuv420p10le", ["libx264"]),
        ("yuv420p", ["libx264", "-preset", "ultrafast"]),
        ("yuv420p", ["ffv1"]),
    ],
)
def test_memory_of_the_encoder_matches_the_estimate(tmp_path: Path, pix_fmt: str, codec: Any) -> None:
    """ffmpeg's own peak, once the encoder's lookahead is full."""
    width, height = 640, 360
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    pixels = pixels.repeat(8, 0).repeat(8, 1)
    deep = pix_fmt.endswith("10le")
    pixels = pixels.astype(np.uint16) << 8 if deep else pixels
    output = ["-c:v", *codec, str(tmp_path / "x.mkv")]
    encoder = Encoder("x", RawFormat(width, height, deep), Fraction(1, 25), f"format={pix_fmt}", output)
    try:
        for time_ in range(80):
            encoder.write(Frame(np.roll(pixels, 3 * time_, 1), time_))
        status = Path(f"/proc/{encoder._ffmpeg.process.pid}/status").read_text()
        peak = 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])
    finally:
        encoder.abort()
    planned = encoder_bytes(width, height, pix_fmt, light=codec != ["libx264"])
    assert planned / 3 < peak < 1.1 * planned
