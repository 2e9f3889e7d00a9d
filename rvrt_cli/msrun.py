"""Several ranks: start them with MindSpore's msrun, and end all when one ends badly; and what a rank does to join.

MindSpore is imported by `join` alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from rvrt_cli.errors import RvrtError, in_one_line
from rvrt_cli.options import parse_address, usable_cores
from rvrt_cli.signals import PR_SET_PDEATHSIG, kill_with_parent

ERRORS = "errors.txt"  # in the folder of the ranks' logs
_LAUNCHER = "RVRT_LAUNCHER"  # environment: msrun's process
_LOGS = "RVRT_RANK_LOGS"  # environment: the folder of the logs
# What becomes msrun: its arguments are our process, in case that has gone before the kernel was told, and the command
_TIED = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {signal.SIGKILL:d})\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    f"os.environ[{_LAUNCHER!r}] = str(os.getpid())\n"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
_POLL = 0.5  # s
_GRACE = 5.0  # s that msrun has to notice that its ranks are gone
_MEETING = 600  # s that ranks wait for each other


@dataclass(frozen=True)
class Group:
    """Which ranks to start: `count` over all machines, `here` of them on this one, which is number `node` from 0.

    `master`: HOST:PORT where several machines meet; `threads`: of this machine's CPU for its ranks, 0 for all.
    """

    count: int
    here: int
    node: int = 0
    master: str | None = None
    threads: int = 0


def run_ranks(group: Group, worker: Path, argument: Path, logs: Path, poll: Callable[[], None]) -> bool:
    """Run the script `worker` with `argument` in every rank of this machine, until all have ended.

    Args:
        logs: an existing folder for the ranks' own logs.
        poll: called twice a second.

    Returns:
        Whether a signal has asked the ranks to stop.

    Raises:
        RvrtError: in the words of a rank that has left some (`failed`).
        KeyboardInterrupt: Ctrl-C for the second time.
    """
    with (logs / "msrun.log").open("wb") as messages:
        process = subprocess.Popen(
            _command(group, worker, argument, logs), cwd=logs, env=_environment(group, logs), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with _forwarding_signals(process.pid) as asked:
            _wait(process, poll)
    finally:
        _kill_all(process)
        poll()
    if (logs / ERRORS).exists():
        raise RvrtError((logs / ERRORS).read_text(encoding="utf-8").splitlines()[0])
    return bool(asked)


def _wait(process: subprocess.Popen, poll: Callable[[], None]) -> None:
    """Wait until msrun ends, or until its ranks have been gone for a while: it may wait for a scheduler that waits."""
    started = False
    gone_since: float | None = None
    while process.poll() is None:
        time.sleep(_POLL)
        poll()
        alive = bool(_workers(process.pid))
        started = started or alive
        gone_since = None if alive or not started else gone_since or time.monotonic()
        if gone_since is not None and time.monotonic() - gone_since > _GRACE:
            return


@contextlib.contextmanager
def _forwarding_signals(pid: int) -> Iterator[list[int]]:
    """Inside, SIGTERM and Ctrl-C ask the ranks under msrun to stop; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        for worker in _workers(pid):
            worker.send_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals are the main thread's
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(group: Group, worker: Path, argument: Path, logs: Path) -> list[str]:
    """msrun and its arguments; it adds the interpreter to the worker's path itself."""
    msrun = Path(sys.executable).with_name("msrun")
    host, port = parse_address(group.master) if group.master is not None else ("127.0.0.1", _free_port())
    command = [sys.executable, "-c", _TIED, str(os.getpid()), str(msrun if msrun.exists() else shutil.which("msrun") or "msrun"),
               f"--worker_num={group.count}", f"--local_worker_num={group.here}", f"--master_addr={host}",
               f"--master_port={port}", f"--log_dir={logs}", "--join=True", f"--cluster_time_out={_MEETING}",
               f"--tail_worker_log={group.count}"]  # no such rank: their logs stay in their files  # fmt: skip
    if group.here < group.count:
        command.append(f"--node_rank={group.node}")
    return [*command, str(worker), str(argument)]


def _environment(group: Group, logs: Path) -> dict[str, str]:
    """The cores are shared out, and msrun's `python` is this interpreter."""
    threads = max(1, (group.threads or usable_cores()) // group.here)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(threads), _LOGS: str(logs)}


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
    """The ranks under msrun, without its scheduler and without the ranks' own helpers."""
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


# In a rank


def end_with_launcher() -> None:
    """From now on this process ends when msrun does, and with it the command that started msrun, however that ends.

    A thread that looks would not do: it never runs while MindSpore's scheduler waits.
    """
    kill_with_parent(int(os.environ[_LAUNCHER]))


def failed(error: RvrtError | OSError) -> None:
    """Leave the error, in one line, for the launcher."""
    with (Path(os.environ[_LOGS]) / ERRORS).open("a", encoding="utf-8") as file:
        file.write(in_one_line(error) + "\n")


def join() -> tuple[int, int]:
    """Meet the other ranks: (this one's number, how many). The process that only arranges the meeting stays in here.

    The device must have been chosen before.
    """
    from mindspore.communication import get_group_size, get_rank, init

    init()
    return get_rank(), get_group_size()
