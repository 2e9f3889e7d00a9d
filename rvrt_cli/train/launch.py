"""Several ranks: start them with MindSpore's msrun, follow their log, and end all when one ends badly. No MindSpore."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from rvrt_cli.errors import RvrtError
from rvrt_cli.train.checkpoint import checkpoints
from rvrt_cli.train.log import NAME as LOG
from rvrt_cli.train.options import TrainOptions

RANKS, ERRORS, OUTCOME = "ranks", "errors.txt", "outcome.json"  # folder with the ranks' own logs, and files in it
LAUNCHER = "RVRT_LAUNCHER"  # environment: the process that the ranks must not outlive
_POLL = 0.5  # s
_GRACE = 5.0  # s that msrun has to notice that its ranks are gone
_MEETING = 600  # s that ranks wait for each other


def run_ranks(options: TrainOptions, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train with this machine's ranks; arguments and result as `rvrt_cli.train.loop.train`.

    Raises:
        RvrtError: a rank has ended badly; the others are gone too.
    """
    output = Path(options.output)
    folder = output / RANKS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    follow = _Follower(output, report)
    with (folder / "msrun.log").open("wb") as messages:
        process = subprocess.Popen(
            _command(options, folder), cwd=folder, env=_environment(options), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with _forwarding_signals(process.pid):
            _wait(process, follow)
    finally:
        _kill_all(process)
        follow.read()
    return _outcome(output)


def _wait(process: subprocess.Popen, follow: _Follower) -> None:
    """Wait until msrun ends, or until its ranks have been gone for a while: it may wait for a scheduler that waits."""
    started = False
    gone_since: float | None = None
    while process.poll() is None:
        time.sleep(_POLL)
        follow.read()
        alive = bool(_workers(process.pid))
        started = started or alive
        gone_since = None if alive or not started else gone_since or time.monotonic()
        if gone_since is not None and time.monotonic() - gone_since > _GRACE:
            return


@contextmanager
def _forwarding_signals(pid: int) -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C ask the ranks under msrun to stop; a second Ctrl-C interrupts at once."""
    asked = False

    def forward(number: int, _: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        for worker in _workers(pid):
            worker.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(output: Path) -> dict[str, Any]:
    folder = output / RANKS
    if (folder / ERRORS).exists():
        raise RvrtError((folder / ERRORS).read_text(encoding="utf-8").splitlines()[0])
    if not (folder / OUTCOME).exists():
        raise RvrtError(
            f"a rank has died and the others were ended; {folder} has their logs. --resume goes on from the last "
            "checkpoint"
        )
    return json.loads((folder / OUTCOME).read_text(encoding="utf-8"))


def _command(options: TrainOptions, folder: Path) -> list[str]:
    """msrun and its arguments; it adds the interpreter to the worker's path itself."""
    msrun = Path(sys.executable).with_name("msrun")
    host, port = options.master_address or ("127.0.0.1", _free_port())
    command = [str(msrun if msrun.exists() else shutil.which("msrun") or "msrun"),
               f"--worker_num={options.ranks}", f"--local_worker_num={options.ranks_here}", f"--master_addr={host}",
               f"--master_port={port}", f"--log_dir={folder}", "--join=True", f"--cluster_time_out={_MEETING}",
               f"--tail_worker_log={options.ranks}"]  # no such rank: their logs stay in their files  # fmt: skip
    if options.ranks_here < options.ranks:
        command.append(f"--node_rank={options.node}")
    return [*command, str(Path(__file__).with_name("worker.py")), str(folder.parent)]


def _environment(options: TrainOptions) -> dict[str, str]:
    """The cores are shared out, and msrun's `python` is this interpreter."""
    threads = max(1, (options.threads or os.cpu_count() or 1) // options.ranks_here)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(threads), LAUNCHER: str(os.getpid())}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _workers(pid: int) -> list[psutil.Process]:
    """The ranks under msrun, without its scheduler and without the processes that make samples."""
    found = []
    for process in _children(pid):
        try:
            if process.ppid() == pid and process.environ().get("MS_ROLE") == "MS_WORKER":
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _kill_all(process: subprocess.Popen) -> None:
    """End msrun and everything under it."""
    for child in _children(process.pid):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.kill()
    process.wait()


class _Follower:
    """Reports what the first rank appends to the log, from the newest checkpoint on."""

    def __init__(self, output: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._report = output / LOG, report
        saved = checkpoints(output)
        self._after = int(saved[-1].stem) if saved else 0
        self._inode = self._path.stat().st_ino if self._path.exists() else 0  # replaced when the log is cut back
        self._place = 0

    def read(self) -> None:
        """Report the lines that have come since the last call."""
        if not self._path.exists() or self._path.stat().st_ino == self._inode:
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._place += len(line)
                record = json.loads(line)
                if record["step"] > self._after:
                    self._report(record)
