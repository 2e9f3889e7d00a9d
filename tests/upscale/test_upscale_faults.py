# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while `rvrt upscale` works: one line, no half-written target, no process left; and the same command resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from helpers.fuzzing import damaged, little_memory, searching
from helpers.upscale_runs import Echo, as_word
from helpers.video_clips import decoded_times, ffmpeg, leftovers
from hypothesis import given, strategies as st

import rvrt_cli.upscale.distribute
import rvrt_cli.upscale.job
from rvrt_cli.cli import main
from rvrt_cli.engine import Carried, Plan
from rvrt_cli.errors import MediaError
from rvrt_cli.msrun import RankGroup
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import Progress, prepare, upscale_video
from rvrt_cli.upscale.compute import compute
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.upscale.progress import Reporter
from rvrt_cli.upscale.workdir import RunManifest, SegmentRecord, SourceEnd, Workdir

FRAMES = 61
OPTIONS = ("--window", "8", "--lookahead", "2", "--segment", "0", "--preset", "ultrafast")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=s=64x48:r=25:end_scale=0.01", "-frames:v", FRAMES, "-c:v", "libx264", path)
    return path


@pytest.fixture
def rvrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run `rvrt upscale` here with a small network. (status, lines said).

    Something happens at the network's call `at`, or at 0 when it is loaded.
    """

    def run(*arguments: object, at: int = -1, accident: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        class Unlucky(Echo):
            calls = 0

            def __call__(self, *given: Any, **options: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
                self.calls += 1
                if self.calls == at:
                    accident()
                return super().__call__(*given, **options)

        network = Unlucky(str(tmp_path / "calls"))

        def load(*_: object) -> Unlucky:
            if at == 0:
                accident()
            return network

        monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", load)
        monkeypatch.setattr(sys, "argv", ["rvrt", "upscale", *map(as_word, [*OPTIONS, *arguments])])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err.strip().splitlines()

    return run


def kill_ffmpeg(word: str) -> None:
    """Kill the ffmpeg processes of this one that have `word` among their arguments."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    found = [child for child in running if word in child.cmdline()]
    assert found
    for child in found:
        child.kill()


def remove(folder: Path) -> None:
    while folder.exists():  # somebody is writing there
        shutil.rmtree(folder, ignore_errors=True)


ACCIDENTS = {
    "decoder": (lambda folder: kill_ffmpeg("pipe:1"), "killed from outside while decoding; run it again"),
    "encoder": (lambda folder: kill_ffmpeg("libx264"), "cannot be encoded"),
    "folder": (remove, "out.mp4"),
    "network": (lambda folder: (_ for _ in ()).throw(MediaError("the network broke; mend it")), "the network broke"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCIDENTS)
@pytest.mark.parametrize("at", [1, 4])
def test_an_accident_is_one_line_and_the_same_command_resumes(
    tmp_path: Path, rvrt: Callable, clip: Path, name: str, at: int
) -> None:
    accident, message = ACCIDENTS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    source = clip
    if name == "decoder":  # long enough that the decoder cannot be done already
        source = tmp_path / "long.mkv"
        ffmpeg("-stream_loop", "60", "-i", clip, "-c", "copy", source)
    before = set(psutil.Process().children())  # other tests' helpers, such as multiprocessing's resource tracker
    status, said = rvrt(source, folder / "out.mp4", at=at, accident=lambda: accident(folder))
    assert status == 1
    assert said[-1].startswith("rvrt: ")
    assert message in said[-1]
    assert not [line for line in said if "Traceback" in line]
    assert set(psutil.Process().children()) == before
    if name == "folder":
        assert not folder.exists()
        return
    if name != "decoder":  # of which some frames were read ahead
        assert os.listdir(folder) == ([".out.mp4.rvrt"] if at == 4 else [])  # nothing is kept of less than a segment
        status, said = rvrt(source, folder / "out.mp4")
        assert status == 0, said
        assert ("resuming after" in " ".join(said)) == (at == 4)
        assert os.listdir(folder) == ["out.mp4"]
        assert len(decoded_times(folder / "out.mp4")) == FRAMES


@pytest.mark.slow
def test_a_run_resumes_with_less_memory_in_smaller_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path
) -> None:
    monkeypatch.setattr(Echo, "memory", lambda self, frames, height, width: 10_000 * frames * height * width)
    target = tmp_path / "out.mkv"
    broken = MediaError("enough; stop")
    assert rvrt(clip, target, "--memory", "2G", at=3, accident=lambda: (_ for _ in ()).throw(broken))[0] == 1
    status, said = rvrt(clip, target, "--memory", "350M")
    assert status == 0, said
    assert any("tiles of 64x48 px are now " in line for line in said), said
    assert any("resuming after 16 of 61 frames" in line for line in said)
    assert len(decoded_times(target)) == FRAMES
    assert leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system, which only root can mount")
@pytest.mark.parametrize("target", ["out.mp4", "frames/"])
def test_a_full_disk_keeps_what_is_done(tmp_path: Path, rvrt: Callable, clip: Path, target: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "320k" if target == "out.mp4" else "700k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        options = ("--crf", "1") if target == "out.mp4" else ()
        status, said = rvrt(clip, f"{disk}/{target}", *options)
        assert status == 1
        assert "No space left on device" in said[-1], said
        assert [path.name[-5:] for path in disk.iterdir()] == [".rvrt"]
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        status, said = rvrt(clip, f"{disk}/{target}", *options)
        assert status == 0, said
        assert "resuming after" in " ".join(said)
        assert leftovers(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_source_that_vanishes_is_one_line(tmp_path: Path, rvrt: Callable, clip: Path) -> None:
    source = Path(shutil.copy(clip, tmp_path / "in.mkv"))
    status, said = rvrt(source, tmp_path / "out.mkv", at=0, accident=source.unlink)
    assert (status, len(said)) == (1, 1)
    assert said[0].startswith(f"rvrt: {source}: No such file or directory; check")
    assert os.listdir(tmp_path) == []


def test_a_start_beyond_the_end_is_refused_before_the_network_is_loaded(
    tmp_path: Path, rvrt: Callable, clip: Path
) -> None:
    loaded: list[bool] = []
    status, said = rvrt(clip, tmp_path / "out.mkv", "--start", 3, at=0, accident=lambda: loaded.append(True))
    assert (status, len(said), loaded) == (1, 1, [])
    assert "--start 3 is beyond the end of the source, which lasts 2.44 s; lower --start" in said[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_name_longer_than_names_can_be_is_one_line(tmp_path: Path, rvrt: Callable, clip: Path, which: str) -> None:
    long = tmp_path / f"{'x' * 300}.mkv"
    status, said = rvrt(*((long, tmp_path / "out.mkv") if which == "source" else (clip, long)))
    assert (status, said) == (
        1,
        [f"rvrt: {long}: File name too long; check names, permissions and disks, and run it again"],
    )
    assert os.listdir(tmp_path) == []


def truncated(folder: Path) -> Path:
    whole, source = folder / "whole.mkv", folder / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", "-frames:v", 50, "-c:v", "libx264", "-g", "5", whole)
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    return source


def damaged_packets(folder: Path) -> Path:
    whole, source = folder / "whole.mkv", folder / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", "-frames:v", 50, "-c:v", "mjpeg", whole)
    data, rng = bytearray(whole.read_bytes()), np.random.default_rng(3)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 8):
        data[place : place + 400] = rng.bytes(400)
    source.write_bytes(data)
    return source


def changing(*parts: tuple[str, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source = folder / "in.h264"
        for size, pix_fmt in parts:
            part = folder / "part.h264"
            ffmpeg(
                "-f",
                "lavfi",
                "-i",
                f"testsrc2=s={size}:r=25",
                "-frames:v",
                25,
                "-pix_fmt",
                pix_fmt,
                "-c:v",
                "libx264",
                "-bsf:v",
                "dump_extra",
                part,
            )
            with source.open("ab") as file:
                file.write(part.read_bytes())
        return source

    return make


def of_two_clocks(folder: Path) -> Path:
    sources = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", "-f", "lavfi", "-i", "sine"]
    ffmpeg(*sources, "-t", "0.8", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", folder / "part.ts")
    (folder / "in.ts").write_bytes(2 * (folder / "part.ts").read_bytes())
    return folder / "in.ts"


# how the source is made, how many frames come out at least and at most, and what is said
SOURCES = {
    "truncated": (truncated, (20, 40), "frames missing, the file is truncated or damaged"),
    "damaged packets": (damaged_packets, (25, 50), "damaged"),
    "another size": (changing(("64x48", "yuv420p"), ("96x80", "yuv420p")), (50, 50), "all were scaled to 64x48"),
    "two clocks": (of_two_clocks, (40, 40), "stream 1 (audio, aac): non-monotonic timestamps"),
    "another format": (changing(("64x48", "yuv420p"), ("64x48", "yuv444p10le")), (50, 50), "size or format midway"),
}


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_a_survivable_defect_of_the_source_is_one_warning(
    tmp_path: Path, rvrt: Callable, name: str, quiet: bool
) -> None:
    make, (least, most), warning = SOURCES[name]
    source = make(tmp_path)
    before = set(psutil.Process().children())
    status, said = rvrt(source, tmp_path / "out.mp4", *(["-q"] if quiet else []))
    assert status == 0, said
    assert least <= len(decoded_times(tmp_path / "out.mp4")) <= most
    warnings = [line for line in said if line.startswith("rvrt: warning: ") and str(source) in line and warning in line]
    assert len(warnings) == 1, said
    assert not quiet or all(line.startswith("rvrt: warning: ") for line in said)
    assert leftovers(tmp_path) == []
    assert set(psutil.Process().children()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path: Path, rvrt: Callable) -> None:
    (tmp_path / "in").mkdir(mode=0)
    status, said = rvrt(tmp_path / "in", tmp_path / "out.mkv")
    assert (status, len(said)) == (1, 1)
    assert f"{tmp_path / 'in'}: Permission denied" in said[0]


def test_another_machine_does_not_wait_for_one_that_only_has_to_assemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MediaError("not today; try again")

    with monkeypatch.context() as broken:
        broken.setattr(importlib.import_module("rvrt_cli.upscale.run"), "assemble", fail)
        assert rvrt(clip, tmp_path / "out.mkv")[0] == 1
    monkeypatch.setattr(rvrt_cli.upscale.distribute, "run_ranks", fail)
    group = ("--ranks", 2, "--local-ranks", 1, "--master", "127.0.0.1:9999")
    for changed_option, status in (((), 0), (("--crf", 3), 1)):  # with which machine 0 would start afresh
        ended, said = rvrt(clip, tmp_path / "out.mkv", *group, "--node", 1, *changed_option)
        assert ended == status, said
    assert rvrt(clip, tmp_path / "out.mkv", *group)[0] == 0
    assert len(decoded_times(tmp_path / "out.mkv")) == FRAMES


def test_ranks_know_that_the_target_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path
) -> None:
    """What two ranks do, one after the other in this process: they prepare what the command has, and share it out."""
    taken: set[int] = set()

    def take(first: int) -> bool:
        return first not in taken and not taken.add(first)

    def run_here(group: RankGroup, worker: Path, task: Path, logs: Path, poll: Callable[[], None]) -> bool:
        values = json.loads(task.read_text())
        for _ in range(group.here):
            job = prepare(values["source"], values["target"], UpscaleOptions(**values["options"]), as_rank=True)
            assert job.workdir is not None
            assert job.workdir.manifest() == job.manifest
            compute(job, Reporter(Progress(job.frames), lambda progress: poll()), Interruption(), take)
        return False

    monkeypatch.setattr(rvrt_cli.upscale.distribute, "run_ranks", run_here)
    monkeypatch.setattr(rvrt_cli.upscale.job, "with_useful_ranks", lambda info, options: options)  # it has one scene
    status, said = rvrt(clip, f"{tmp_path / 'frames'}/", "--ranks", 2)
    assert status == 0, said
    assert taken == {0}
    assert sorted(os.listdir(tmp_path / "frames")) == [f"{number:06d}.png" for number in range(1, FRAMES + 1)]


def test_no_room_for_the_ranks_logs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path
) -> None:
    monkeypatch.setattr(rvrt_cli.upscale.job, "with_useful_ranks", lambda info, options: options)  # it has one scene
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    status, said = rvrt(clip, tmp_path / "out.mkv", "--ranks", 2)
    assert status == 1
    assert f"{tmp_path / 'gone'}: the ranks' logs cannot be written there" in said[-1]
    assert "TMPDIR" in said[-1]
    assert os.listdir(tmp_path) == []


def test_an_absurd_y4m_header_is_refused_before_anything_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable
) -> None:
    read, write = os.pipe()
    with open(read) as standard_input, little_memory(50 << 20):
        os.write(write, b"YUV4MPEG2 W16384 H16384 F25:1 C444\n")
        os.close(write)
        monkeypatch.setattr(sys, "stdin", standard_input)
        status, said = rvrt("-", tmp_path / "out.mp4", "--memory", "32G")
    assert (status, len(said)) == (1, 1)
    assert "the y4m header asks for 16384x16384 px" in said[0]
    assert "32.0 GiB may be used" in said[0]


NAMES = [
    'it\'s "quoted" $HOME.mp4',
    "söme 名前.mp4",
    "-dash.mp4",
    "concat:a.mp4|b.mp4",
    "http:x.mp4",
    "100%d.mp4",
    "a\tb.mp4",
    f"{'long' * 55}.mp4",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    shutil.copyfile(clip, tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    broken = MediaError("enough; stop")
    for accident_at in (8, -1):
        status, said = rvrt(
            "--", name, f"../out/{name}", at=accident_at, accident=lambda: (_ for _ in ()).throw(broken)
        )
        assert (status, len(decoded_times(tmp_path / "out" / name)) if status == 0 else 0) == (
            (1, 0) if accident_at == 8 else (0, FRAMES)
        ), said
    assert "resuming after" in " ".join(said)
    assert os.listdir(tmp_path / "out") == os.listdir(tmp_path / "in") == [name]
    monkeypatch.chdir(tmp_path / "out")
    status, said = rvrt("--", f"../in/{name}", name)
    assert status == 1
    assert "exists already" in said[0]


def test_a_link_to_a_folder_stays_and_the_folder_is_filled(tmp_path: Path, rvrt: Callable, clip: Path) -> None:
    real, link = tmp_path / "elsewhere" / "frames", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    for overwrite in ((), ("--overwrite",)):
        status, said = rvrt(clip, f"{link}/", "--duration", "0.3", *overwrite)
        assert status == 0, said
        assert link.is_symlink()
        assert len(list(real.iterdir())) == 8
    assert leftovers(tmp_path) == leftovers(real.parent) == []


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path, rvrt: Callable, clip: Path) -> None:
    source, target = tmp_path / "a\x1b[31m\nb.mkv", tmp_path / "c\x1b[2J\x9b1m.mp4"
    shutil.copyfile(clip, source)
    for status in (0, 1):  # the second time it exists already
        ended, said = rvrt(source, target)
        assert ended == status
        assert all(line.isprintable() for line in said), said
        assert any("c\\x1b[2J\\x9b1m.mp4" in line for line in said)
        assert status or any("a\\x1b[31m\\nb.mkv" in line for line in said)


# What the work folder holds is untrusted input


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def replace(path: Path, *options: str) -> None:
    """Another video in place of `path`, made of it."""
    made = path.with_name("made.mkv")
    ffmpeg("-i", path, *options, made)
    made.replace(path)


def changed(**values: object) -> Callable[[Path], None]:
    """Put `values` into a JSON file, into its "plan" if it has one."""

    def change(path: Path) -> None:
        content = json.loads(path.read_text())
        content.get("plan", content).update(values)
        path.write_text(json.dumps(content))

    return change


DAMAGES = {  # how, to which file of the work folder, and how the error calls it
    "a cut record": (cut, "00000000.json", ""),
    "segments that overlap": (changed(frames=9), "00000000.json", "00000008.json"),
    "a cut segment": (cut, "00000000.mkv", ""),
    "a segment of too few frames": (lambda path: replace(path, "-c", "copy", "-frames:v", "7"), "00000000.mkv", ""),
    "a segment of other settings": (lambda path: replace(path, "-c:v", "libx264", "-refs", "5"), "00000008.mkv", ""),
    "a lost segment": (Path.unlink, "00000008.mkv", ""),
    "a cut state": (cut, "00000016.zip", ""),
    "a lost state": (Path.unlink, "00000016.zip", ""),
    "a cut image": (cut, "frames/000003.png", "frames"),
    "a lost image": (Path.unlink, "frames/000003.png", "frames"),
    "a window of half clips": (changed(window=3), "manifest.json", ""),
    "a window of a million frames": (changed(window=1_000_000), "manifest.json", ""),
    "another lookahead": (changed(lookahead=0), "manifest.json", ""),
    "a tile beyond the frame": (changed(tile=[48, 65]), "manifest.json", ""),
    "a tile of a pixel": (changed(tile=[1, 1]), "manifest.json", ""),
    "another end": (changed(frames=3.5), "end.json", ""),
}


@pytest.fixture(scope="module")
def interrupted_runs() -> dict[str, Path]:
    """Work folders that a test has left interrupted, by the target's name; they are the same for all tests."""
    return {}


@pytest.fixture
def interrupted(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    rvrt: Callable,
    clip: Path,
    interrupted_runs: dict[str, Path],
) -> Callable[[str], Path]:
    """Run into an accident after two segments; the work folder of the target of this name."""

    def run(name: str, *options: object) -> Path:
        stop = MediaError("enough; stop")
        work = tmp_path / f".{name}.rvrt"
        if name in interrupted_runs and not options:
            shutil.copytree(interrupted_runs[name], work)
            return work
        status, _ = rvrt(clip, tmp_path / name, *options, at=3, accident=lambda: (_ for _ in ()).throw(stop))
        assert status == 1
        assert [path.name for path in sorted(work.glob("0*.[jz]*"))] == [
            "00000000.json",
            "00000008.json",
            "00000016.zip",
        ]
        if not options:
            interrupted_runs[name] = tmp_path_factory.mktemp("interrupted") / name
            shutil.copytree(work, interrupted_runs[name])
        return work

    return run


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_segments_are_an_error_in_one_line(
    tmp_path: Path, rvrt: Callable, clip: Path, interrupted: Callable, damage: str
) -> None:
    spoil, name, called = DAMAGES[damage]
    target = tmp_path / ("out" if called == "frames" else "out.mkv")
    work = interrupted(target.name)
    if name == "end.json":
        (work / name).write_text('{"frames": 61, "end_pts": null, "warnings": []}')
    spoil(work / name)
    status, said = rvrt(clip, target)
    assert (status, said) == (1, [f"rvrt: {work / (called or name)}: missing or damaged; --overwrite restarts the job"])
    assert not target.exists()
    status, said = rvrt(clip, target, "--overwrite")
    assert status == 0, said
    assert "restarting: " in " ".join(said)
    assert leftovers(tmp_path) == []
    assert (len(list(target.iterdir())) if target.is_dir() else len(decoded_times(target))) == FRAMES


@pytest.mark.slow
def test_records_that_do_not_fit_the_source_are_discarded(
    tmp_path: Path, rvrt: Callable, clip: Path, interrupted: Callable
) -> None:
    changed(frames=7, carries=False)(interrupted("out.mkv") / "00000000.json")
    status, said = rvrt(clip, tmp_path / "out.mkv")
    assert status == 1
    assert "do not fit the source; run the same command to restart" in said[-1]
    status, said = rvrt(clip, tmp_path / "out.mkv")
    assert status == 0, said
    assert len(decoded_times(tmp_path / "out.mkv")) == FRAMES


def test_a_stream_does_not_discard_finished_segments_of_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, interrupted: Callable
) -> None:
    data = b"YUV4MPEG2 W64 H48 F25:1\n" + 2 * (b"FRAME\n" + bytes(64 * 48 * 3 // 2))
    work = interrupted("out.mkv")
    before = sorted(os.listdir(work))

    def stream(target: str, *options: str) -> tuple[int, list[str]]:
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        with open(read) as standard_input:
            monkeypatch.setattr(sys, "stdin", standard_input)
            return rvrt("-", tmp_path / target, *options)

    status, said = stream("out.mkv")
    assert (status, len(said)) == (1, 1)
    assert "the source, " in said[0]
    assert "changed since an interrupted run, which had 16 frames done" in said[0]
    assert sorted(os.listdir(work)) == before
    status, said = stream("out.mkv", "--overwrite")
    assert status == 0, said
    assert "restarting: " in " ".join(said)
    assert len(decoded_times(tmp_path / "out.mkv")) == 2
    assert leftovers(tmp_path) == []
    manifest = interrupted("other.mkv") / "manifest.json"  # as a stream leaves it that is killed, which is of no use
    content = json.loads(manifest.read_text())
    content["about"]["source"] = {}
    manifest.write_text(json.dumps(content))
    status, said = stream("other.mkv")
    assert status == 0, said
    assert leftovers(tmp_path) == []


def test_another_network_or_ffmpeg_restarts_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rvrt: Callable, clip: Path, interrupted: Callable
) -> None:
    for name in ("one", "copy", "other"):
        (tmp_path / name).write_bytes(b"2" if name == "other" else b"1")
    monkeypatch.setattr("rvrt_cli.upscale.job.check_purpose", lambda options: None)  # these are no weights
    interrupted("out.mkv", "--weights", tmp_path / "one")
    status, said = rvrt(clip, tmp_path / "out.mkv", "--weights", tmp_path / "other")
    assert (status, len(said)) == (1, 1)
    assert "the network changed since an interrupted run, which had 16 frames done" in said[0]

    ffmpeg_exe = imageio_ffmpeg.get_ffmpeg_exe()
    newer = tmp_path / "ffmpeg"
    newer.write_text(
        f'#!/bin/sh\nfor last; do :; done\n[ "$last" = -version ] && echo ffmpeg version N-1 && exit\n'
        f'exec "{ffmpeg_exe}" "$@"\n'
    )
    newer.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(newer))
    status, said = rvrt(clip, tmp_path / "out.mkv", "--weights", tmp_path / "copy")
    assert (status, len(said)) == (1, 1)
    assert "the version of ffmpeg changed" in said[0]
    assert "--overwrite" in said[0]
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    status, said = rvrt(clip, tmp_path / "out.mkv", "--weights", tmp_path / "copy")
    assert status == 0, said
    assert "resuming after 16 of" in " ".join(said)


@pytest.fixture
def work(tmp_path: Path) -> Workdir:
    work = Workdir(tmp_path / "out.mp4")
    (tmp_path / "out.mp4").touch()
    with work.locked():
        about = {"source": {"path": "in.mp4"}, "network": {"sha256": "0"}, "settings": {"--crf": 3}}
        work.start(RunManifest(about, Plan(4, 2, (32, 40), 16)))
        states = [{"mean": np.ones((1, 1, 32, 40, 3), np.float32)}, {"mean": np.zeros((1, 1, 32, 40, 3), np.float32)}]
        work.record(SimpleNamespace(first=0, frames=8, starts_scene=True, carried=Carried((32, 40), states)))
        work.record_end(SourceEnd(8, 320, ("a note",)))
        work.record_publishing(tmp_path / "muxed.mp4", about, 8)
    return work


def two_tiles(tile: tuple[int, int]) -> list[dict[str, tuple[int, ...]]]:
    return [{"mean": (1, 1, *tile, 3)}] * 2


def test_what_is_written_is_read(work: Workdir) -> None:
    manifest = work.manifest()
    assert manifest is not None
    assert manifest.plan == Plan(4, 2, (32, 40), 16)
    assert work.segments() == work.complete() == [SegmentRecord(0, 8, True, True)]
    assert work.source_end() == SourceEnd(8, 320, ("a note",))
    carried = work.carried(8, two_tiles)
    assert carried.tile == (32, 40)
    assert [float(state["mean"].mean()) for state in carried.states] == [1, 0]
    published = work.published()
    assert published is not None
    assert (published.about, published.frames) == (manifest.about, 8)


READ = {
    "manifest.json": lambda work: work.manifest(),
    "00000000.json": lambda work: work.complete(),
    "end.json": lambda work: work.complete(),
    "publish.json": lambda work: work.published(),
    "00000008.zip": lambda work: work.carried(8, two_tiles),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
@searching(60)
@given(data=st.data())
def test_a_damaged_file_is_one_error_and_nothing_worse(work: Workdir, name: str, data: st.DataObject) -> None:
    path = work.folder / name
    good = path.read_bytes()
    path.write_bytes(data.draw(damaged(good, is_json=path.suffix == ".json")))
    try:
        with contextlib.suppress(MediaError):
            found = READ[name](work)
            if isinstance(found, RunManifest):
                assert found.differences(found.about) == []
    finally:
        path.write_bytes(good)


def test_ranks_may_note_the_end_at_one_time(work: Workdir) -> None:
    with ThreadPoolExecutor(8) as ranks:
        for noted in [ranks.submit(work.record_end, SourceEnd(8, 320, ("a note",))) for _ in range(200)]:
            noted.result()
    assert work.source_end() == SourceEnd(8, 320, ("a note",))
    assert not list(work.folder.glob("*.part"))


def test_a_work_folder_that_has_become_a_file_is_one_error(work: Workdir) -> None:
    remove(work.folder)
    work.folder.touch()  # not even what was begun can be removed
    with pytest.raises(MediaError, match=r"cannot be written \(Not a directory\); fix that"):
        work.record_end(SourceEnd(8, None))


def test_nobody_begins_in_a_folder_that_is_being_removed(work: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command tries to begin after every file that goes."""
    unlink = Path.unlink
    refused = []

    def unlink_and_try(path: Path, **options: bool) -> None:
        unlink(path, **options)
        if path.name != "lock":
            with pytest.raises(MediaError, match="another rvrt is working on it"), Workdir(work.target).locked():
                pass
            refused.append(path.name)

    with work.locked():
        monkeypatch.setattr(Path, "unlink", unlink_and_try)
        work.remove()
    assert refused[-1] == "publish.json"
    assert len(refused) == 5
    assert not work.folder.exists()


def zipped(path: Path, method: int = zipfile.ZIP_STORED, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("_", "/"), data)


def with_number(path: Path, field: int, value: int) -> None:
    """Another 16-bit number at an offset of every entry of a zip's directory."""
    data = bytearray(path.read_bytes())
    for at in (found.start() for found in re.finditer(b"PK\x01\x02", data)):
        data[at + field : at + field + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


STATE = 4 * 32 * 40 * 3  # bytes
STATES = {
    "no states": lambda path: zipped(path, tile=b"[32, 40]"),
    "states of other names": lambda path: zipped(
        path, tile=b"[32, 40]", **{"0_sum": bytes(STATE), "1_sum": bytes(STATE)}
    ),
    "a state of a few numbers": lambda path: zipped(path, tile=b"[32, 40]", **{"0_mean": b"12", "1_mean": b"12"}),
    "tiles of other sizes": lambda path: zipped(path, tile=b"[1000000000000, 40]"),
    "no tile": lambda path: zipped(path, tile=b"null"),
    "a tile that is no text": lambda path: zipped(path, tile=b"\xff" * 50),
    "a large tile": lambda path: zipped(path, tile=b" " * (200 << 20), method=zipfile.ZIP_DEFLATED),
    "states that unpack": lambda path: zipped(
        path, zipfile.ZIP_DEFLATED, tile=b"[32, 40]", **{"0_mean": bytes(STATE), "1_mean": bytes(STATE)}
    ),
    "encryption": lambda path: with_number(path, 8, 1),
    "an unknown method": lambda path: with_number(path, 10, 99),
    "an unknown version": lambda path: with_number(path, 6, 99),
    "a text": lambda path: path.write_text("nothing"),
}


@pytest.mark.parametrize("name", STATES)
def test_states_have_the_shapes_that_the_network_dictates_or_are_refused(work: Workdir, name: str) -> None:
    STATES[name](work.folder / "00000008.zip")
    with little_memory(50 << 20), pytest.raises(MediaError, match=r"00000008\.zip: missing or damaged; --overwrite"):
        work.carried(8, two_tiles)


@pytest.mark.slow
@searching(6)
@given(data=st.data())
def test_a_damaged_work_folder_ends_in_one_line_or_in_the_whole_video(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, clip: Path, data: st.DataObject
) -> None:
    """Through the command's own way, with --overwrite at the end, which must always do."""
    folder = tmp_path_factory.mktemp("damaged")
    network = Echo(str(folder / "calls"), 0)
    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: network)
    options = UpscaleOptions(window=8, segment=0, preset="ultrafast", duration=1)

    class Enough(MediaError):
        pass

    def stop(progress: Progress) -> None:
        if progress.frames == 19:
            raise Enough

    with pytest.raises(Enough):
        upscale_video(clip, folder / "out.mkv", options, stop)
    path = data.draw(st.sampled_from(sorted(folder.glob(".out.mkv.rvrt/[0m]*[jz]*"))))
    path.write_bytes(data.draw(damaged(path.read_bytes(), is_json=path.suffix == ".json")))
    for given_options in (options, dataclasses.replace(options, overwrite=True)):
        with little_memory(100 << 20), contextlib.suppress(MediaError):
            upscale_video(clip, folder / "out.mkv", given_options)
            break
    assert leftovers(folder) == []
    assert len(decoded_times(folder / "out.mkv")) == 25


def test_interlaced_sources_are_reported_and_deinterlaced_on_request(tmp_path: Path, rvrt: Callable) -> None:
    source = tmp_path / "in.mp4"
    moving = "testsrc2=s=64x48:r=50:d=1,gblur=2,scroll=h=0.05"
    ffmpeg("-f", "lavfi", "-i", moving, "-vf", "interlace", "-flags", "+ilme+ildct", "-c:v", "libx264", source)
    combed = {}
    for option in ((), ("--deinterlace",)):
        target = tmp_path / f"out{len(option)}.mp4"
        status, said = rvrt(source, target, *option)
        assert status == 0
        wanted = "deinterlaced first" if option else "--deinterlace makes progressive ones"
        assert [line for line in said if "the source is interlaced" in line and wanted in line]
        with av.open(str(target)) as container:
            rows = [frame.to_ndarray(format="gray")[2::4].astype(float) for frame in container.decode(video=0)]
        assert len(rows) == 25
        combed[option] = np.mean([np.abs(f[1:-1] - (f[:-2] + f[2:]) / 2).mean() for f in rows])
    assert combed[()] > 1.3 * combed[("--deinterlace",)]
