# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale SOURCE... --output-dir FOLDER` with a network of NumPy: what is done, skipped, reported and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import upscale_runs
from helpers.commands import refusal, rvrt
from helpers.upscale_runs import Echo
from helpers.video_clips import decoded_times, ffmpeg, make_clip

import rvrt_cli.upscale.job
import rvrt_cli.upscale.job_queue
from rvrt_cli.check import run_check
from rvrt_cli.check.verdict import CheckReport, Finding
from rvrt_cli.cli import run_queue
from rvrt_cli.errors import MediaError
from rvrt_cli.upscale.finished_files import RECORD_NAME

FAST = ["-c:v", "libx264", "-preset", "ultrafast"]
PLAN = ("--window", "4", "--lookahead", "0", "--segment", "0", "--preset", "ultrafast")


def write_clip(path: Path, frames: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_clip("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", "-frames:v", frames, *FAST, path)


class Counted(Echo):
    """A network that counts how often it is loaded, and the frames that it makes."""

    loaded = 0


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The network of all jobs; the working directory is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    made = Counted(str(tmp_path / "calls"), seconds=0)

    def load(*_: object) -> Counted:
        made.loaded += 1
        return made

    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", load)
    monkeypatch.setattr(rvrt_cli.upscale.job, "outline_network", lambda *_: made)
    monkeypatch.setattr(rvrt_cli.upscale.job_queue, "estimate_seconds", lambda job: 90.0)
    return made


@pytest.fixture
def upscale(
    network: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[str, str]]:
    """The command: what it prints on both streams; `frames` counts those that the network made in it."""

    def run(*words: object, status: int = 0) -> tuple[str, str]:
        before = upscale_runs.computed(tmp_path)
        capsys.readouterr()
        done = rvrt(monkeypatch, "upscale", *map(str, words), *PLAN)
        shown, said = capsys.readouterr()
        assert done == status, said
        run.frames = upscale_runs.computed(tmp_path) - before
        return shown, said

    return run


def events_of(shown: str) -> list[dict]:
    return [json.loads(line) for line in shown.splitlines()]


def test_a_folder_with_a_broken_file_is_done_but_for_that(upscale: Callable, network: Counted) -> None:
    for name in ("a.mp4", "c.mkv", "below/d.mp4"):
        write_clip(Path("holiday") / name)
    Path("holiday/b.mp4").write_bytes(b"not a video" * 100)
    shown, said = upscale("holiday/", "--output-dir", "new/out", "--suffix", "-x4", "--recursive", status=1)
    assert sorted(path.name for path in Path("new/out").iterdir()) == [RECORD_NAME, "a-x4.mp4", "below", "c-x4.mkv"]
    for target in ("a-x4.mp4", "c-x4.mkv", "below/d-x4.mp4"):
        assert len(decoded_times(Path("new/out") / target)) == 4
    assert network.loaded == 1
    assert said.count("rvrt: holiday/b.mp4: ") == 1
    assert "4 files: 3 new, 1 failed; about 4 min 30 s" in said
    assert "4/4 new/out/below/d-x4.mp4: 4 frames, 128x96 px, in" in said
    assert "4 files: 3 done, 1 failed, in" in shown
    rows = [line.split()[-1] for line in shown.splitlines()[1:5]]
    assert rows == ["done", "failed", "done", "done"]


def test_the_same_command_continues(upscale: Callable) -> None:
    for name in "abc":
        write_clip(Path(f"{name}.mp4"))
    Path("b.mp4").rename("hidden")
    words = ("a.mp4", "b.mp4", "c.mp4", "--output-dir", "out/")
    _, said = upscale(*words, status=1)
    assert upscale.frames == 8
    assert said.count("b.mp4: no such file") == 1
    Path("hidden").rename("b.mp4")
    shown, _ = upscale(*words)
    assert upscale.frames == 4
    assert "3 files: 1 done, 2 finished earlier" in shown
    Path("out/c.mp4").unlink()
    upscale(*words, "--overwrite")
    assert upscale.frames == 4, "finished targets are not made again, missing ones are"
    os.utime("a.mp4", ns=(1, 1))
    assert "out/a.mp4: made of an earlier version of this source; --overwrite" in upscale(*words, status=1)[1]
    upscale(*words, "--overwrite")
    assert upscale.frames == 4


def test_other_options_than_those_of_finished_targets_stop_it_before_any_work(
    upscale: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in "ab":
        write_clip(Path(f"{name}.mp4"))
    upscale("a.mp4", "--output-dir", "out")
    words = ("upscale", "a.mp4", "b.mp4", "--output-dir", "out", *PLAN, "--crf", "30")
    said = refusal(monkeypatch, capsys, *words)
    assert "out: targets in it were made with other options (--crf); give the same to continue, --skip-existing" in said
    assert not Path("out/b.mp4").exists()
    upscale("a.mp4", "b.mp4", "--output-dir", "out", "--crf", "30", "--skip-existing")
    assert upscale.frames == 4
    upscale("a.mp4", "b.mp4", "--output-dir", "out", "--crf", "30", "--overwrite")
    assert upscale.frames == 4


def test_a_target_of_unknown_origin_is_kept(upscale: Callable) -> None:
    for name in "ab":
        write_clip(Path(f"{name}.mp4"))
    Path("out").mkdir()
    Path("out/a.mp4").write_bytes(b"precious")
    words = ("a.mp4", "b.mp4", "--output-dir", "out")
    _, said = upscale(*words, status=1)
    assert "out/a.mp4: exists, and is no work of this queue; --skip-existing or --overwrite" in said
    shown, _ = upscale(*words, "--skip-existing")
    assert "1 finished earlier, 1 skipped" in shown
    assert Path("out/a.mp4").read_bytes() == b"precious"
    upscale(*words, "--overwrite")
    assert len(decoded_times(Path("out/a.mp4"))) == 4


def test_sequences_and_images_keep_their_kind(upscale: Callable) -> None:
    Path("shots").mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", "3", "shots/f%d.png")
    words = ("shots/", "shots/f2.png", "--output-dir", "out", "--suffix", "-x4")
    upscale(*words)
    assert sorted(os.listdir("out/shots-x4")) == ["f1.png", "f2.png", "f3.png"]
    assert Path("out/f2-x4.png").is_file()
    upscale(*words)
    assert upscale.frames == 0


def test_events_name_their_file(upscale: Callable) -> None:
    write_clip(Path("a.mp4"))
    Path("b.mp4").write_bytes(b"no video")
    shown, said = upscale("a.mp4", "b.mp4", "--output-dir", "out", "--json", status=1)
    events = events_of(shown)
    queue, *middle, summary = events
    assert [entry["state"] for entry in queue["files"]] == ["new", "failed"]
    assert queue["files"][0] == {
        "file": 1,
        "source": "a.mp4",
        "target": "out/a.mp4",
        "state": "new",
        "text": "",
        "frames": 4,
        "kept": 0,
        "source_size": [32, 24],
        "size": [128, 96],
        "seconds": 90.0,
        "notes": [],
    }
    assert {(event["file"], event["source"]) for event in middle} == {(1, "a.mp4")}
    kinds = [event["event"] for event in middle]
    assert (kinds[0], kinds[-1], set(kinds)) == ("begin", "end", {"begin", "progress", "end"})
    assert middle[-1]["queue_seconds_left"] == 0
    assert (summary["event"], summary["done"], summary["failed"], summary["failures"]) == ("summary", 1, 1, 1)
    assert [entry["state"] for entry in summary["files"]] == ["done", "failed"]
    assert said.startswith("rvrt: b.mp4: not a video")


def test_a_dry_run_prints_the_plan_and_writes_nothing(upscale: Callable) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-f", "lavfi", "-i", "sine", "-t", "0.2", *FAST, "a.mkv")
    Path("b.mp4").write_bytes(b"no video")
    words = ("a.mkv", "b.mp4", "--output-dir", "new/out", "--dry-run")
    shown, said = upscale(*words, status=1)
    assert sorted(os.listdir()) == ["a.mkv", "b.mp4"]
    lines = shown.splitlines()
    assert lines[0].split() == ["file", "target", "size", "frames", "time", "plan"]
    assert lines[1].split() == ["a.mkv", "new/out/a.mkv", "128x96", "5", "1", "min", "30", "s", "new"]
    assert lines[-1].startswith("2 files: 1 new, 1 failed; about 1 min 30 s")
    assert said.count("rvrt: b.mp4: not a video") == 1
    shown, _ = upscale(*words, "--json", status=1)
    plan, queue = events_of(shown)
    assert (plan["event"], plan["file"], plan["frames"], queue["event"]) == ("plan", 1, 5, "queue")


def test_notes_are_shown_with_their_file_and_shared_ones_once(upscale: Callable) -> None:
    interlaced = ["-vf", "interlace", "-flags", "+ilme+ildct", "-c:v", "libx264"]
    for name in "ab":
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=50:d=0.2", *interlaced, f"{name}.mp4")
    _, said = upscale("a.mp4", "b.mp4", "--output-dir", "out", "--dry-run")
    assert "note: 2 files: the source is interlaced" in said
    _, said = upscale("a.mp4", "b.mp4", "--output-dir", "out")
    assert [f"note: {name}.mp4: the source is interlaced" in said for name in "ab"] == [True, True]
    assert said.count("network: ") == 1


def test_options_that_fit_no_source_are_refused_in_one_line(
    network: Counted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_clip(Path("a.mp4"))
    write_clip(Path("b/a.mp4"))
    words = ("upscale", "a.mp4", "--output-dir", "out")
    assert "--fps 30: for images only" in refusal(monkeypatch, capsys, *words, "--fps", "30")
    assert "no such video encoder" in refusal(monkeypatch, capsys, *words, "--codec", "nocodec")
    assert "rvrt weights" in refusal(monkeypatch, capsys, *words, "--model", "nothing-like-it")
    assert "have the same target" in refusal(monkeypatch, capsys, *words[:2], "b", "--output-dir", "out")
    assert "--recursive: for several sources; give --output-dir" in refusal(
        monkeypatch, capsys, "upscale", "a.mp4", "out.mp4", "--recursive"
    )
    assert sorted(os.listdir()) == ["a.mp4", "b"]


def test_a_fault_in_one_job_leaves_the_others_alone(
    upscale: Callable, network: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_clip(Path(f"{name}.mp4"))
    calls = []

    def fails(frames: np.ndarray, *arguments: object, **options: object) -> object:
        calls.append(frames)
        if len(calls) == 1:
            raise ZeroDivisionError("in the network")
        if len(calls) == 2:
            raise MediaError("b.mp4: damaged at its end; repair it")
        return Echo.__call__(network, frames, *arguments, **options)

    monkeypatch.setattr(Counted, "__call__", lambda self, *given, **options: fails(*given, **options))
    shown, said = upscale("a.mp4", "b.mp4", "c.mp4", "--output-dir", "out", status=2)
    assert "rvrt: a.mp4: unexpected ZeroDivisionError: in the network; run it alone with --debug, and report it" in said
    assert "rvrt: b.mp4: damaged at its end" in said
    assert "Traceback" not in said
    assert "3 files: 1 done, 2 failed" in shown
    assert sorted(path.name for path in Path("out").iterdir()) == [RECORD_NAME, "c.mp4"]


def test_a_full_disk_ends_the_queue(upscale: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write_clip(Path(f"{name}.mp4"))

    def full(*_: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "out/.a.mp4.rvrt")

    monkeypatch.setattr(Counted, "__call__", full)
    monkeypatch.setattr(run_queue, "_LEAST_FREE_BYTES", 1 << 62)
    shown, said = upscale("a.mp4", "b.mp4", "--output-dir", "out", status=2)
    assert said.count("No space left on device") == 1
    assert "are left on this disk; free some space, and run the same command to continue" in said
    assert "2 files: 1 new, 1 failed" in shown


def test_the_exit_status_is_at_most_125(upscale: Callable) -> None:
    upscale(*(f"{number}.mp4" for number in range(130)), "--output-dir", "out", "--quiet", status=125)


def test_check_is_part_of_being_finished(upscale: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write_clip(Path(f"{name}.mp4"))
    verdicts = {"out/a.mp4": "fail", "out/b.mp4": "ok"}
    checked = []

    def check(source: str, target: str, options: object) -> CheckReport:
        checked.append(target)
        return CheckReport(source, target, (Finding("frames", verdicts[target], "as they are"),))

    monkeypatch.setattr(run_check, "check_target_against_source", check)
    words = ("a.mp4", "b.mp4", "--output-dir", "out", "--check")
    shown, said = upscale(*words, status=1)
    assert "rvrt: out/a.mp4: does not pass the check: frames: as they are" in said
    assert "2 files: 1 done, 1 failed" in shown
    verdicts["out/a.mp4"] = "note"
    shown, said = upscale(*words)
    assert "out/a.mp4: frames: as they are" in said
    assert (upscale.frames, checked) == (0, ["out/a.mp4", "out/b.mp4", "out/a.mp4"])
    assert "2 files: 1 done, 1 finished earlier" in shown


def test_a_check_is_an_event(upscale: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(Path("a.mp4"))
    write_clip(Path("b.mp4"))
    found = CheckReport("a.mp4", "out/a.mp4", (Finding("frames", "ok", "as they are"),))
    monkeypatch.setattr(run_check, "check_target_against_source", lambda *_: found)
    shown, _ = upscale("a.mp4", "b.mp4", "--output-dir", "out", "--check", "--json")
    events = [event for event in events_of(shown) if event["event"] == "check"]
    assert [(event["file"], event["passed"]) for event in events] == [(1, True), (2, True)]
    assert events[0]["findings"][0]["text"] == "as they are"
    shown, _ = upscale("a.mp4", "b.mp4", "--output-dir", "out", "--check", "--ivtc", "--json", status=1)
    [event] = events_of(shown)
    assert event["event"] == "error"
    assert "--ivtc" in event["text"]


def test_a_fault_shows_where_it_happened_with_debug(upscale: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "a very long name, of which the middle is left out in the beginning of the line"):
        write_clip(Path(f"{name}.mp4"))

    def fails(*_: object, **options: object) -> object:
        raise ZeroDivisionError("in the network")

    monkeypatch.setattr(Counted, "__call__", fails)
    _, said = upscale("a.mp4", "a very long name*.mp4", "--output-dir", "out", "--debug", status=2)
    assert said.count("Traceback") == 2
    assert "raise ZeroDivisionError" in said


def test_a_target_of_another_program_and_warnings_are_told(
    upscale: Callable, network: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that appears under the target's name during the work stays, and is not taken for ours in the next run."""
    write_clip(Path("a.mp4"), frames=8)
    whole = write_clip(Path("b.mkv"), frames=20).read_bytes()
    Path("b.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    calls = []

    def call(frames: np.ndarray, *arguments: object, **options: object) -> object:
        if not calls:
            Path("out/a.mp4").write_text("somebody else's")
        calls.append(frames)
        return Echo.__call__(network, frames, *arguments, **options)

    monkeypatch.setattr(Counted, "__call__", lambda self, *given, **options: call(*given, **options))
    _, said = upscale("a.mp4", "b.mkv", "--output-dir", "out", "--quiet")
    assert Path("out/a.mp4").read_text() == "somebody else's"
    assert len(decoded_times(Path("out/a-2.mp4"))) == 8
    assert "rvrt: warning: b.mkv" in said


@pytest.mark.slow
def test_ctrl_c_stops_the_queue_and_the_same_command_continues(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    sources = [write_clip(folder / f"{name}.mp4", frames=20) for name in "abc"]
    words = (folder, "--output-dir", f"{tmp_path}/out", *PLAN, "--json")
    process = upscale_runs.start(tmp_path, *words, seconds=0.2)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["file"] == 2 and event["frames"] >= 4:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    last = events_of(out)[-1]
    assert (last["event"], last["file"]) == ("interrupted", 2)
    assert 4 <= last["kept"] < 20
    said = f"interrupted in file 2 of 3, {sources[1]}, after {last['frames']} of 20 frames, {last['kept']} of them kept"
    assert said in err
    assert "; 1 file finished. Run the same command to continue" in err
    assert not (tmp_path / "out" / "c.mp4").exists()
    process = upscale_runs.start(tmp_path, *words, seconds=0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    queue, *_, summary = events_of(out)
    assert [entry["state"] for entry in queue["files"]] == ["finished", "resumes", "new"]
    assert queue["files"][1]["kept"] == last["kept"]
    assert [entry["state"] for entry in summary["files"]] == ["finished", "done", "done"]
    assert upscale_runs.computed(tmp_path) == 60
    assert sorted(os.listdir(tmp_path / "out")) == [RECORD_NAME, "a.mp4", "b.mp4", "c.mp4"]


@pytest.mark.slow
def test_a_killed_queue_continues(tmp_path: Path) -> None:
    """Before and after a target gets its name, after it is recorded, and in the middle of the next job."""
    for name in "ab":
        write_clip(tmp_path / "in" / f"{name}.mp4", frames=12)
    words = (tmp_path / "in", "--output-dir", f"{tmp_path}/out", *PLAN)
    moments = "publishing:after:1,publish:after:1,remove:before:1,record:after:1"
    process = upscale_runs.start(tmp_path, *words, moment=f"{moments},never", seconds=0)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[:4] == [str(-signal.SIGKILL.value)] * 4
    assert "2 files: 1 done, 1 finished earlier" in out
    assert upscale_runs.computed(tmp_path) == 24
    assert sorted(os.listdir(tmp_path / "out")) == [RECORD_NAME, "a.mp4", "b.mp4"]


@pytest.mark.slow
def test_one_network_serves_sizes_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network: two sizes, and an image of one of them."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("a.mp4", "32x24"), ("b.mkv", "40x32"), ("c.png", "32x24")):
        encoder = () if name == "c.png" else FAST
        ffmpeg(
            "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", "1" if name == "c.png" else "4", *encoder, name
        )
    assert (
        rvrt(monkeypatch, "upscale", "a.mp4", "b.mkv", "c.png", "--output-dir", "out", "--quiet", "--window", "4") == 0
    )
    assert len(decoded_times(Path("out/a.mp4"))) == len(decoded_times(Path("out/b.mkv"))) == 4
    assert Path("out/c.png").is_file()


def test_restore_has_queues_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert "use rvrt upscale" in refusal(
        monkeypatch, capsys, "restore", "a.mp4", "--output-dir", "out", "--model", "rvrt-tiny"
    )
