# SPDX-License-Identifier: Apache-2.0
"""Scenes distributed over ranks: the result is that of one rank, and what dead or interrupted ones leave is finished later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.upscale_runs import assert_same
from helpers.video_clips import ffmpeg, leftovers

from rvrt_cli.cli import main
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.model import RVRTConfig
from rvrt_cli.msrun import RankGroup, run_ranks
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import distribute
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.weights import save_weights

OPTIONS = ("--window", "12", "--lookahead", "2", "--segment", "0", "--device", "cpu", "--preset", "ultrafast")
FRAMES = 144


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 48 frames."""
    path = tmp_path_factory.mktemp("source") / "in.mkv"
    views = ("testsrc2", "mandelbrot=end_scale=0.01", "rgbtestsrc")
    inputs = [x for view in views for x in ("-f", "lavfi", "-i", f"{view}{':' if '=' in view else '='}s=32x24:r=25")]
    cuts = "".join(f"[{n}:v]trim=end_frame=48,format=yuv444p[v{n}];" for n in range(3))
    graph = f"{cuts}[v0][v1][v2]concat=n=3[v]"
    ffmpeg(*inputs, "-filter_complex", graph, "-map", "[v]", "-c:v", "libx264", "-qp", "10", path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two branches that compiles in a few seconds."""
    config = RVRTConfig(
        passes=2,
        bodies=("convolution",) * 3,
        widths=(8, 8, 8),
        groups=(1, 1, 1),
        depths=(1, 1, 1),
        heads=(1, 1, 1),
        alignment="neighborhood",
        align_ratio=1,
        align_heads=1,
        relative_position_bias=False,
        upsampler_width=0,
    )
    from rvrt_cli.model import initial_weights

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, initial_weights(config), config, {"name": "small", "trained": False, "degradation": "none"})
    return path


def start(folder: Path, weights: Path, *arguments: object) -> subprocess.Popen:
    code = "from rvrt_cli.cli import main; main()"
    command = [sys.executable, "-c", code, "upscale", *map(str, arguments), "--weights", str(weights), *OPTIONS]
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(command, cwd=folder, text=True, env=environment, stderr=subprocess.PIPE)


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The ranks; what one of them has just forked has its command line too, until it becomes another program."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.environ().get("MS_ROLE") == "MS_WORKER" and "upscale_rank.py" in " ".join(child.cmdline()):
                found[child.pid] = child, child.ppid()
        except psutil.Error:
            continue
    return [child for child, parent in found.values() if parent not in found]


def everybody_when(process: subprocess.Popen, folder: Path, pattern: str, count: int) -> list[psutil.Process]:
    """Wait until there are so many such files; all processes under the command."""
    deadline = time.monotonic() + 200
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"there is never a {pattern}"
        time.sleep(0.02)
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(everybody: list[psutil.Process]) -> None:
    psutil.wait_procs(everybody, timeout=20)
    assert not [child for child in everybody if child.is_running()], "a rank outlives the command"


@pytest.mark.slow
def test_killed_and_interrupted_and_two_machines_finish_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path, weights: Path
) -> None:
    target, work = tmp_path / "out.mkv", tmp_path / ".out.mkv.rvrt"

    # A rank dies
    process = start(tmp_path, weights, clip, target, "--ranks", "2")
    everybody = everybody_when(process, work, "0*.json", 1)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    ranks[0].suspend()  # otherwise it might finish the video before msrun notices
    ranks[1].kill()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1, said
    assert "a rank has died" in said.splitlines()[-1]
    assert "same command" in said.splitlines()[-1]
    assert not target.exists()
    assert_gone(everybody)

    # The command itself is killed, when both ranks have begun
    shutil.rmtree(work / "claims")
    process = start(tmp_path, weights, clip, target, "--ranks", "2")
    everybody = everybody_when(process, work / "claims", "0*", 2)
    assert len(ranks_of(process)) == 2
    process.kill()
    process.communicate()
    assert_gone(everybody)

    # Ctrl-C
    process = start(tmp_path, weights, clip, target, "--ranks", "2")
    everybody = everybody_when(process, work, "0*.json", len(list(work.glob("0*.json"))) + 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Run the same command to resume after the" in said.splitlines()[-1]
    assert not target.exists()
    assert_gone(everybody)
    kept = sum(json.loads(path.read_text())["frames"] for path in work.glob("0*.json"))

    # Two machines, which are this one
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = ("--ranks", "2", "--local-ranks", "1", "--master", f"127.0.0.1:{port}")
    machines = [start(tmp_path, weights, clip, target, *group, "--node", str(node)) for node in range(2)]
    said, said_by_other = (machine.communicate(timeout=200)[1] for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], said + said_by_other
    assert f"resuming after {kept} of {FRAMES} frames" in said
    assert "this machine's part is done" in said_by_other
    assert leftovers(tmp_path) == []

    single = tmp_path / "single.mkv"
    monkeypatch.setattr(
        sys, "argv", ["rvrt", "upscale", str(clip), str(single), "-q", "--weights", str(weights), *OPTIONS]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert_same(target, {".mkv": single})


def test_a_rank_that_has_not_joined_waits_for_those_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """msrun kills the others when one ends, in the middle of the window that they were asked to finish."""
    task, other = tmp_path / "task.json", tmp_path / "1.working"
    task.write_text(json.dumps({"source": "in.mkv", "target": "out.mkv", "command": "upscale", "options": {}}))
    looks: list[bool] = []

    def stop_soon(seconds: float) -> None:
        looks.append(other.exists())
        if len(looks) == 3:
            other.unlink()

    def interrupted() -> tuple[int, int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(distribute, "join_ranks", interrupted)
    monkeypatch.setattr(distribute, "use_device", lambda *_: None)
    monkeypatch.setattr(time, "sleep", stop_soon)
    for at_work in (True, False):
        if at_work:
            other.touch()
        with pytest.raises(KeyboardInterrupt):
            distribute.work_as_rank(task, Interruption())
        assert looks == [True] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["task.json"]


# A rank without MindSpore: its number is told, and the second one fails if the argument says so, once the first has written
PLAIN_RANK = """
import sys
import time
from pathlib import Path
from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import end_rank, end_with_launcher, join_ranks, report_failure
end_with_launcher()
rank, size = join_ranks()
folder = Path(sys.argv[1])
(folder / str(rank)).write_text(str(size))
if rank == 1 and folder.name == "failing":
    first, patience = folder / "0", time.monotonic() + 60
    while time.monotonic() < patience and not (first.exists() and first.read_text()):
        time.sleep(0.05)
    report_failure(RvrtError("disk full;\\ntry another"))
    sys.exit(1)
end_rank()
"""


@pytest.mark.parametrize("name", ["working", "failing"])
def test_ranks_without_mindspore_end_together(tmp_path: Path, name: str) -> None:
    script, logs, folder = tmp_path / "rank.py", tmp_path / "logs", tmp_path / name
    script.write_text(PLAIN_RANK)
    logs.mkdir()
    folder.mkdir()
    polls: list[int] = []
    group = RankGroup(2, 2, threads=2, mindspore=False)
    if name == "failing":
        with pytest.raises(RvrtError, match=r"^disk full; try another$"):
            run_ranks(group, script, folder, logs, lambda: polls.append(1))
    else:
        assert not run_ranks(group, script, folder, logs, lambda: polls.append(1))
        assert len(list(logs.glob("*.finished"))) == 2
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"0": "2", "1": "2"}
    assert polls
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"ranks": 0},
        {"ranks": 2, "local_ranks": 3},
        {"ranks": 2, "local_ranks": -1},
        {"ranks": 2, "node": -1},
        {"ranks": 2, "local_ranks": 1, "master": "host"},
        {"segment": -1},
    ],
)
def test_impossible_ranks_and_segments_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(OptionError, match="--" + list(bad)[-1].replace("_", "-")):
        UpscaleOptions(**bad)
