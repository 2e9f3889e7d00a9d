# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale` in separate processes that can be killed, with a small NumPy network in place of the real one.

    upscale_runs.py LOG SECONDS MOMENT[,MOMENT...] ARGUMENT...

LOG gets a line with the number of frames for every network call, each of which takes SECONDS; LOG.peak has the peak
memory [bytes]. MOMENT is where the process kills itself: the name of a function in MOMENTS, "before" or "after" it, and at
which of its calls, or of the items it yields: "keep:after:2"; or "never". With several moments the same command is run once
for each, in a process of its own, and prints a line with the status of each on standard output.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

# where each function is looked up by its caller
MOMENTS = {
    "start": ("rvrt_cli.upscale.workdir", "Workdir.start"),
    "keep": ("rvrt_cli.video.write.writers", "store_part"),
    "record": ("rvrt_cli.upscale.workdir", "Workdir.record"),
    "states": ("rvrt_cli.upscale.workdir", "_write_states"),
    "end": ("rvrt_cli.upscale.workdir", "Workdir.record_end"),
    "mux": ("rvrt_cli.video.mux.final_mux", "video_packets"),
    "decode": ("rvrt_cli.video.read.decoder", "VideoDecoder._decode"),
    "network": ("__main__", "Echo.__call__"),
    "encode": ("rvrt_cli.video.write.encoder", "Encoder._packet"),
    "publishing": ("rvrt_cli.upscale.workdir", "Workdir.record_publishing"),
    "publish": ("rvrt_cli.upscale.run", "publish"),
    "remove": ("rvrt_cli.upscale.workdir", "_remove"),
}
PREFLIGHT_CALLS = {"encode": 22, "mux": 20}  # before the work


class Echo:
    """Each frame, blended with a mean of all before it in its scene: wrong as soon as a state is lost or mixed up."""

    scale, reduction, clip_size, notes = 4, 1, 2, ()

    class device:
        kind, precision = "cpu", "float32"
        free_bytes = staticmethod(lambda: None)

    def __init__(self, log: str, seconds: float = 0.01) -> None:
        self.log, self.seconds, self.card = log, seconds, {"name": "echo"}

    def __call__(
        self, frames: np.ndarray, state: dict[str, np.ndarray] | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        time.sleep(self.seconds)
        mean = np.zeros_like(frames[:, 0]) if state is None else state["mean"][:, 0]
        out = []
        for number in range(emit):
            mean = 0.75 * mean + 0.25 * frames[:, number]
            out.append((0.5 * frames[:, number] + 0.5 * mean).repeat(4, 1).repeat(4, 2))
        with open(self.log, "a") as log:
            log.write(f"{emit}\n")
        return np.stack(out, 1), {"mean": mean[:, None]}

    def fusion_lookahead(self, lookahead: int) -> int:
        return 0

    def memory(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {"mean": (1, 1, height, width, 3)}


def as_word(argument: object) -> str:
    """An argument as a user writes it: a folder, which is a path without a suffix here, ends in /."""
    return f"{argument}{os.sep}" if isinstance(argument, Path) and not argument.suffix else str(argument)


def start(
    folder: Path, *arguments: object, moment: str = "never", log: str = "calls", seconds: float = 0.03
) -> subprocess.Popen:
    """`rvrt upscale` with the network above, its working directory and its log in `folder`."""
    command = [sys.executable, __file__, str(folder / log), str(seconds), moment, "upscale", *map(as_word, arguments)]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What the command prints on standard error; it must exit with `status`."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


def complete(folder: Path, *arguments: object, status: int = 0, log: str = "calls") -> str:
    """`finish(start(...))` in this process, where neither a signal nor the memory matters: imports and preflights are done."""
    import pytest

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        _take_echo(folder / log, 0.0, patch.setattr)
        patch.setattr(sys, "argv", ["rvrt", "upscale", *map(as_word, arguments)])
        from rvrt_cli.cli import main as rvrt

        with pytest.raises(SystemExit) as end:
            rvrt()
    assert (end.value.code or 0) == status, said.getvalue()
    assert "Traceback" not in said.getvalue()
    return said.getvalue()


def peak_of_all(process: subprocess.Popen) -> int:
    """Bytes that the command and the ffmpegs under it hold at most; returns when it has ended.

    The sum of three peaks as the kernel keeps them (VmHWM), so that it does not matter when one looks or whether they
    come at one time: of the command, of what decodes and of what encodes. Pages that they share count for each.
    """
    peaks: dict[str, int] = {}
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(OSError, psutil.Error):
                    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{one.pid}/status").read_text())
                    (pipe,) = {"pipe:0", "pipe:1"} & set(one.cmdline()) or {""}
                    peaks[pipe] = max(peaks.get(pipe, 0), 1024 * int(found[1]) if found else 0)
        time.sleep(0.02)
    assert len(peaks) == 3
    return sum(peaks.values())


def computed(folder: Path, log: str = "calls") -> int:
    """Frames that have gone through the network, in all runs together."""
    path = folder / log
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def assert_same(target: Path, whole: dict[str, Path]) -> None:
    """Every packet of every stream, or every image, is that of the uninterrupted target; nothing else is left."""
    from helpers.video_clips import leftovers, look

    expected = whole[target.suffix]
    if expected.is_dir():
        names = sorted(path.name for path in expected.iterdir())
        assert sorted(path.name for path in target.iterdir()) == names
        different = [name for name in names if (target / name).read_bytes() != (expected / name).read_bytes()]
        assert not different
    else:
        for ours, theirs in zip(look(target), look(expected), strict=True):
            different = [number for number, (a, b) in enumerate(zip(ours.data, theirs.data, strict=True)) if a != b]
            assert not different, f"{ours.type}: packets differ"
            assert ours.times == theirs.times
    assert leftovers(target.parent) == []


def _kill_at(moment: str) -> None:
    import importlib

    name, when, count = moment.split(":")
    module, path = MOMENTS[name]
    owner = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, attribute)
    left = int(count) + PREFLIGHT_CALLS.get(name, 0)

    def pass_by(at: str) -> None:
        nonlocal left
        left -= at == "before"
        if left == 0 and at == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(*arguments: object, **options: object) -> object:
        pass_by("before")
        result = function(*arguments, **options)
        pass_by("after")
        return result

    def killing_between(*arguments: object, **options: object) -> Iterator[object]:
        for item in function(*arguments, **options):
            pass_by("before")
            yield item
            pass_by("after")

    setattr(owner, attribute, killing_between if inspect.isgeneratorfunction(function) else killing)


def _take_echo(log: Path, seconds: float, replace: Callable[[object, str, object], None]) -> None:
    """Put the network above in the place of the real one."""
    import rvrt_cli.upscale.job
    import rvrt_cli.upscale.job_queue

    for load in ("load_network", "outline_network"):
        replace(rvrt_cli.upscale.job, load, lambda *_: Echo(str(log), seconds))
    replace(rvrt_cli.upscale.job_queue, "estimate_seconds", lambda job: None)


def main() -> None:
    log, seconds, moment = sys.argv[1:4]
    sys.argv = ["rvrt", *sys.argv[4:]]
    from rvrt_cli.bench.machine import peak_rss_bytes
    from rvrt_cli.cli import main as rvrt

    _take_echo(Path(log), float(seconds), setattr)
    *others, moment = moment.split(",")
    for other in others:
        child = os.fork()
        if not child:
            moment = other
            break
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    if moment != "never":
        _kill_at(moment)
    try:
        rvrt()
    finally:
        Path(f"{log}.peak").write_text(str(peak_rss_bytes()))


if __name__ == "__main__":
    main()
