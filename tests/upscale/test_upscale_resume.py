# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, interrupted or broken resumes, and its result equals that of an uninterrupted run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers.processes import alive, children, needs_proc
from helpers.upscale_runs import MOMENTS, assert_same, complete, computed, finish, peak_of_all, start
from helpers.video_clips import decoded_times, ffmpeg, leftovers, streams

FRAMES, LARGEST = 61, 10  # of the clip; and of a window with what is left of its scene, at most
OPTIONS = ("--window", "8", "--lookahead", "2", "--segment", "0")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 frames in two scenes with audio, at a variable frame rate."""
    path = tmp_path_factory.mktemp("source") / "a clip's näme.mkv"
    scenes = "[0:v]trim=end_frame=35[a];[1:v]trim=end_frame=26[b];[a][b]concat,setpts='PTS+0.013*gt(N,20)/TB'[v]"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=48x32:r=25",
        "-f",
        "lavfi",
        "-i",
        "mandelbrot=s=48x32:r=25:end_scale=0.01",
        "-f",
        "lavfi",
        "-i",
        "sine=d=2.4",
        "-filter_complex",
        scenes,
        "-map",
        "[v]",
        "-map",
        "2:a",
        "-fps_mode",
        "passthrough",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv444p",
        "-qp",
        "10",
        "-c:a",
        "flac",
        path,
    )
    return path


@pytest.fixture(scope="module")
def whole(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The targets of runs that nothing interrupts, by suffix."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("out.mkv", "out"):
        complete(folder, clip, folder / name, *OPTIONS)
    assert computed(folder) == 2 * FRAMES
    assert leftovers(folder) == []
    assert len(decoded_times(folder / "out.mkv")) == FRAMES
    return {".mkv": folder / "out.mkv", "": folder / "out"}


@pytest.mark.slow
def test_the_uninterrupted_result_is_whole(clip: Path, whole: dict[str, Path]) -> None:
    before, after = decoded_times(clip), decoded_times(whole[".mkv"])
    assert max(abs(float(a - b)) for a, b in zip(before, after, strict=True)) < 1e-3
    assert streams(whole[".mkv"], "audio")[0].data == streams(clip, "audio")[0].data
    assert len(list(whole[""].iterdir())) == FRAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "start:after:1",
        "states:after:2",
        "keep:before:2",
        "keep:after:3",
        "end:after:1",
        "mux:before:2",
        "publishing:after:1",
        "publish:after:1",
        "remove:after:8",
    ],
)
def test_killed_at_every_step(tmp_path: Path, clip: Path, whole: dict[str, Path], moment: str) -> None:
    target = tmp_path / "out.mkv"
    killed = start(tmp_path, clip, target, *OPTIONS, moment=moment)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, f"{MOMENTS[moment.split(':')[0]]} was not reached"
    published = moment.startswith(("publish:", "remove"))
    assert target.exists() == published
    complete(tmp_path, clip, target, *OPTIONS)
    assert_same(target, whole)
    assert computed(tmp_path) <= FRAMES + LARGEST


@pytest.mark.slow
def test_killed_twenty_times_in_decoding_network_encoding_and_muxing(
    tmp_path: Path, clip: Path, whole: dict[str, Path]
) -> None:
    """Three videos; the moments are drawn by seeds, early enough that every one of them comes."""
    kills: Counter[str] = Counter()
    for seed in range(3):
        rng, target, log = random.Random(seed), tmp_path / f"out{seed}.mkv", f"calls{seed}"
        moments = [("decode", rng.randint(1, 36)) for _ in range(2)]
        moments += [("network", rng.randint(1, 2)) for _ in range(2)]
        moments += [("encode", rng.randint(1, 5)) for _ in range(2)]
        rng.shuffle(moments)
        moments += [("mux", rng.randint(1, FRAMES)) for _ in range(2)]
        text = ",".join([*(f"{name}:before:{count}" for name, count in moments), "never"])
        process = start(tmp_path, clip, target, *OPTIONS, moment=text, log=log, seconds=0)
        statuses, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert statuses.split() == [str(-signal.SIGKILL)] * len(moments), said
        kills.update(name for name, _ in moments)
        assert (
            computed(tmp_path, log) <= FRAMES + (len(moments) - 2) * LARGEST
        )  # nothing is computed for those in muxing
        assert_same(target, whole)
    assert sum(kills.values()) >= 20
    assert min(kills[name] for name in ("decode", "network", "encode", "mux")) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "seed"), [(".mkv", 1), ("", 2)])
def test_killed_again_and_again_at_random_moments(
    tmp_path: Path, clip: Path, whole: dict[str, Path], suffix: str, seed: int
) -> None:
    target, rng, kills = tmp_path / f"out{suffix}", random.Random(seed), 0
    for _ in range(4):
        frames = computed(tmp_path) + rng.randrange(20)
        process = start(tmp_path, clip, target, *OPTIONS, seconds=0.1)
        while process.poll() is None and computed(tmp_path) <= frames:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        if process.poll() is not None:
            break
        helpers = children(process.pid)
        process.kill()
        process.communicate()
        kills += 1
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in helpers) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(alive(pid) for pid in helpers), "ffmpeg outlives the command"
    assert kills > 1
    if leftovers(tmp_path):
        complete(tmp_path, clip, target, *OPTIONS)
    assert_same(target, whole)
    assert computed(tmp_path) <= FRAMES + kills * LARGEST


def run_until(process, folder: Path, segments: int) -> Path:
    """Wait until so many segments are complete; the work folder."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for work in folder.glob(".*.rvrt"):
            if len([path for path in work.glob("*.json") if path.stem.isdecimal()]) >= segments:
                return work
        time.sleep(0.005)
    raise AssertionError(f"ended too early: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ""])
def test_ctrl_c_keeps_finished_segments_and_says_how_to_resume(
    tmp_path: Path, clip: Path, whole: dict[str, Path], suffix: str
) -> None:
    target = tmp_path / f"out{suffix}"
    process = start(tmp_path, clip, target, *OPTIONS)
    run_until(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    said = finish(process, 130)
    assert "the same command to resume after the" in said.splitlines()[-1]
    assert not target.exists()
    assert not list(tmp_path.glob(".*.rvrt/*.part"))
    before = computed(tmp_path)
    said = complete(tmp_path, clip, target, *OPTIONS)
    assert f"of {FRAMES} frames" in said
    assert_same(target, whole)
    assert before < computed(tmp_path) <= FRAMES + LARGEST


@pytest.mark.slow
def test_changed_settings_or_source_restart_only_when_told(tmp_path: Path, clip: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    shutil.copyfile(clip, source)
    process = start(tmp_path, source, target, *OPTIONS)
    work = run_until(process, tmp_path, 2)
    process.kill()
    process.communicate()

    def refused(*options: object) -> str:
        lines = complete(tmp_path, source, target, *OPTIONS, *options, status=1).splitlines()
        assert len(lines) == 1, lines
        assert "--overwrite" in lines[0]
        return lines[0]

    assert "--crf" in refused("--crf", "30")
    assert "--encoder-option, the encoder's options changed" in refused("--encoder-option", "g=24")
    os.utime(source, ns=(1, 1))
    assert "the source changed" in refused()
    (work / "manifest.json").write_text('{"format": 1}')
    assert "manifest.json: missing or damaged" in refused()
    said = complete(tmp_path, source, target, *OPTIONS, "--overwrite")
    assert "restarting: " in said
    assert leftovers(tmp_path) == []
    assert len(decoded_times(target)) == FRAMES
    assert "exists already" in complete(tmp_path, source, target, *OPTIONS, status=1)


@pytest.mark.slow
def test_overwrite_resumes_too_and_replaces_at_the_end(tmp_path: Path, clip: Path, whole: dict[str, Path]) -> None:
    target = tmp_path / "out.mkv"
    target.write_bytes(b"old")
    process = start(tmp_path, clip, target, *OPTIONS, "--overwrite")
    run_until(process, tmp_path, 2)
    process.kill()
    process.communicate()
    assert target.read_bytes() == b"old"
    assert "resuming after" in complete(tmp_path, clip, target, *OPTIONS, "--overwrite")
    assert_same(target, whole)
    assert computed(tmp_path) <= FRAMES + LARGEST


@pytest.mark.slow
def test_a_second_command_on_the_same_target_is_refused(tmp_path: Path, clip: Path, whole: dict[str, Path]) -> None:
    target = tmp_path / "out.mkv"
    process = start(tmp_path, clip, target, *OPTIONS, seconds=0.5)
    run_until(process, tmp_path, 1)
    said = complete(tmp_path, clip, target, *OPTIONS, "--overwrite", log="second", status=1)
    assert said == f"rvrt: {target}: another rvrt is working on it; wait for it, or choose another target\n"
    finish(process)
    assert_same(target, whole)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("long", [800, pytest.param(4000, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_length_of_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    """Neither that of the command nor, together with it, that of the ffmpegs which decode and encode.

    Each is run twice: what grows does so each time, while chance on a busy machine does not repeat. Frames are mapped and
    unmapped one by one: holes in glibc's heap made peaks differ by 8 MB from run to run.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(64 << 10))
    alone, together = [], []
    for run, frames in enumerate((200, 200, long, long)):
        source, log = tmp_path / f"{frames}-{run}.mkv", f"calls{run}"
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=64x48:r=25",
            "-f",
            "lavfi",
            "-i",
            "sine=r=48000",
            "-t",
            frames / 25,
            "-c:v",
            "libx264",
            "-c:a",
            "aac",
            source,
        )
        process = start(tmp_path, source, tmp_path / f"out{run}.mkv", "--preset", "ultrafast", log=log, seconds=0)
        together.append(peak_of_all(process))
        finish(process)
        assert computed(tmp_path, log) == frames
        alone.append(int((tmp_path / f"{log}.peak").read_text()))
    assert min(alone[2:]) < 1.05 * max(alone[:2]), f"peaks of 200 and {long} frames: {alone} bytes"
    assert min(together[2:]) < 1.05 * max(together[:2]), (
        f"peaks of 200 and {long} frames with all processes: {together} bytes"
    )
