"""What goes wrong while `rvrt upscale` works: one line, no half target, no process left; and the same command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from fuzzing import damaged, searching
from hypothesis import given, strategies as st
from upscale_runs import Echo
from video_clips import decoded_times, ffmpeg, leftovers

import rvrt_cli.upscale.job
from rvrt_cli.cli import main
from rvrt_cli.engine import Carried, Plan
from rvrt_cli.errors import MediaError
from rvrt_cli.upscale.work import Manifest, Segment, Work

FRAMES = 61
OPTIONS = ("--window", "4", "--lookahead", "2", "--segment", "8", "--preset", "ultrafast")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=s=64x48:r=25:end_scale=0.01", "-frames:v", FRAMES, "-c:v", "libx264", path)
    return path


@pytest.fixture
def rvrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run `rvrt upscale` here with a small network; something happens at its call `at`. (status, lines said)."""

    def run(*arguments: object, at: int = -1, accident: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        class Unlucky(Echo):
            calls = 0

            def __call__(self, *given):
                self.calls += 1
                if self.calls == at:
                    accident()
                return super().__call__(*given)

        network = Unlucky(str(tmp_path / "calls"))
        monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: network)
        monkeypatch.setattr(sys, "argv", ["rvrt", "upscale", *map(str, [*OPTIONS, *arguments])])
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
    "decoder": (lambda folder: kill_ffmpeg("pipe:1"), "ended from outside while decoding; run it again"),
    "encoder": (lambda folder: kill_ffmpeg("libx264"), "cannot be encoded"),
    "folder": (remove, "out.mp4"),
    "network": (lambda folder: (_ for _ in ()).throw(MediaError("the network broke; mend it")), "the network broke"),
}


@pytest.mark.parametrize("name", ACCIDENTS)
@pytest.mark.parametrize("at", [2, 8])
def test_an_accident_is_one_line_and_the_same_command_goes_on(
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
        assert os.listdir(folder) == ([".out.mp4.rvrt"] if at == 8 else [])  # nothing is kept of less than a segment
        status, said = rvrt(source, folder / "out.mp4")
        assert status == 0, said
        assert ("going on after" in " ".join(said)) == (at == 8)
        assert os.listdir(folder) == ["out.mp4"]
        assert len(decoded_times(folder / "out.mp4")) == FRAMES


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
        assert "going on after" in " ".join(said)
        assert leftovers(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


NAMES = ["it's \"quoted\" $HOME.mp4", "söme 名前.mp4", "-dash.mp4", "concat:a.mp4|b.mp4", "http:x.mp4", "100%d.mp4", "a\tb.mp4",
         f"{'long' * 55}.mp4"]  # fmt: skip


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
    assert "going on after" in " ".join(said)
    assert os.listdir(tmp_path / "out") == os.listdir(tmp_path / "in") == [name]
    monkeypatch.chdir(tmp_path / "out")
    status, said = rvrt("--", f"../in/{name}", name)
    assert status == 1
    assert "exists already" in said[0]


# What the work folder holds comes from anywhere


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path / "out.mp4")
    (tmp_path / "out.mp4").touch()
    with work.locked():
        about = {"source": {"path": "in.mp4"}, "network": {"sha256": "0"}, "settings": {"--crf": 3}}
        work.start(Manifest(about, Plan(4, 2, (32, 40), 16)))
        states = [{"mean": np.ones((1, 1, 32, 40, 3), np.float32)}, {"mean": np.zeros((1, 1, 32, 40, 3), np.float32)}]
        work.add(Segment(0, 8, True), Carried((32, 40), states))
        work.end(8, 320, ["a note"])
        work.publishing(tmp_path / "muxed.mp4", about, 8)
    return work


def test_what_is_written_is_read(work: Work) -> None:
    manifest = work.manifest()
    assert manifest is not None
    assert manifest.plan == Plan(4, 2, (32, 40), 16)
    assert work.segments() == work.complete() == [Segment(0, 8, True)]
    assert work.ended() == (8, 320, ["a note"])
    carried = work.carried(8)
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
    "00000008.npz": lambda work: work.carried(8),
}


@pytest.mark.parametrize("name", READ)
@searching(150)
@given(data=st.data())
def test_a_damaged_file_is_one_error_and_nothing_worse(work: Work, name: str, data: st.DataObject) -> None:
    path = work.folder / name
    good = path.read_bytes()
    path.write_bytes(data.draw(damaged(good, is_json=path.suffix == ".json")))
    try:
        with contextlib.suppress(MediaError):
            found = READ[name](work)
            if isinstance(found, Manifest):
                assert found.differences(found.about) == []
    finally:
        path.write_bytes(good)


def test_interlaced_sources_are_said_and_deinterlaced_on_demand(tmp_path: Path, rvrt: Callable) -> None:
    source = tmp_path / "in.mp4"
    moving = "testsrc2=s=64x48:r=50:d=1,gblur=2,scroll=h=0.05"
    ffmpeg("-f", "lavfi", "-i", moving, "-vf", "interlace", "-flags", "+ilme+ildct", "-c:v", "libx264", source)
    combed = {}
    for option in ((), ("--deinterlace",)):
        target = tmp_path / f"out{len(option)}.mp4"
        status, said = rvrt(source, target, *option)
        assert status == 0
        wanted = "deinterlaced first" if option else "--deinterlace makes whole ones"
        assert [line for line in said if "the source is interlaced" in line and wanted in line]
        with av.open(str(target)) as container:
            rows = [frame.to_ndarray(format="gray")[2::4].astype(float) for frame in container.decode(video=0)]
        assert len(rows) == 25
        combed[option] = np.mean([np.abs(f[1:-1] - (f[:-2] + f[2:]) / 2).mean() for f in rows])
    assert combed[()] > 1.3 * combed[("--deinterlace",)]
