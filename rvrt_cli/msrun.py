# SPDX-License-Identifier: Apache-2.0
"""Start the ranks of a run with MindSpore's msrun, or without MindSpore, and stop all when one fails; how a rank joins.

Only `join_ranks` imports MindSpore.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from rvrt_cli.errors import RvrtError, in_one_line
from rvrt_cli.options import parse_address, usable_cores
from rvrt_cli.signals import PR_SET_PDEATHSIG, handle_signals, kill_with_parent

_ERRORS_FILE = "errors.txt"  # in the folder of the ranks' logs
_LAUNCHER_VARIABLE = "RVRT_LAUNCHER"  # process id of msrun, for the ranks
_LOGS_VARIABLE = "RVRT_RANK_LOGS"  # folder of the logs, for the ranks
_ALL_HERE_VARIABLE = "RVRT_ALL_RANKS_HERE"  # how many ranks, if all of them are on this machine; otherwise empty
# Becomes msrun. Its arguments: our process id, in case we die before prctl is called; and the command of msrun.
_MSRUN_BOOTSTRAP = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {signal.SIGKILL:d})\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    f"os.environ[{_LAUNCHER_VARIABLE!r}] = str(os.getpid())\n"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
_RANK_VARIABLE = "RVRT_RANK"  # number of a rank that was started without MindSpore
# In place of msrun. Its arguments: our process id, how many ranks, the script and its argument. Stops all when one fails.
_PLAIN_LAUNCHER = (
    f"import ctypes, os, subprocess, sys, time; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {signal.SIGKILL:d})\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    f"os.environ.update({{{_LAUNCHER_VARIABLE!r}: str(os.getpid()), 'MS_ROLE': 'MS_WORKER'}})\n"
    "start = lambda i: subprocess.Popen([sys.executable, *sys.argv[3:]], "
    f"env={{**os.environ, {_RANK_VARIABLE!r}: str(i)}})\n"
    "ranks = [start(i) for i in range(int(sys.argv[2]))]\n"
    "while None in (codes := [rank.poll() for rank in ranks]):\n"
    "    if any(codes): [rank.terminate() for rank in ranks]\n"
    "    time.sleep(0.2)"
)
_FINISHED = ".finished"  # one such file per rank, in the folder of the ranks' logs
_POLL_INTERVAL = 0.5  # s
_FINISHED_INTERVAL = 0.05  # s
_EXIT_TIMEOUT = 5.0  # s for msrun to end after its ranks, when other machines have some too
_RENDEZVOUS_TIMEOUT = 600  # s that ranks wait for each other


@dataclass(frozen=True)
class RankGroup:
    """The ranks to start.

    Attributes:
        count: ranks over all machines.
        here: ranks on this machine.
        node: number of this machine, from 0.
        master: HOST:PORT of the rendezvous of several machines.
        threads: CPU threads of this machine for its ranks together; 0: all cores.
        mindspore: whether ranks meet through MindSpore; without, all are on this machine and do not communicate.
    """

    count: int
    here: int
    node: int = 0
    master: str | None = None
    threads: int = 0
    mindspore: bool = True


def run_ranks(group: RankGroup, script: Path, argument: Path, logs: Path, poll: Callable[[], None]) -> bool:
    """Run `script` with `argument` in every rank of this machine, until all have ended.

    Args:
        logs: an existing folder for the ranks' own logs.
        poll: called twice a second.

    Returns:
        Whether a signal asked the ranks to stop.

    Raises:
        RvrtError: the first error that a rank reported (`report_failure`).
        KeyboardInterrupt: the second Ctrl-C.
    """
    with (logs / "msrun.log").open("wb") as messages:
        process = subprocess.Popen(
            (_msrun_command if group.mindspore else _plain_command)(group, logs, [str(script), str(argument)]),
            cwd=logs,
            env=_rank_environment(group, logs),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=subprocess.STDOUT,
        )
    try:
        with _forwarding_signals(process.pid) as signals:
            _wait_for_ranks(process, poll, 0.0 if group.here == group.count else _EXIT_TIMEOUT)
    finally:
        _kill_all(process)
        poll()
    if (logs / _ERRORS_FILE).exists():
        raise RvrtError((logs / _ERRORS_FILE).read_text(encoding="utf-8").splitlines()[0])
    return bool(signals)


def _wait_for_ranks(process: subprocess.Popen, poll: Callable[[], None], timeout: float) -> None:
    """Wait until msrun ends, or its ranks ended `timeout` s ago: it may hang on a scheduler that waits for dead ranks."""
    started = False
    gone_since: float | None = None
    while process.poll() is None:
        time.sleep(_POLL_INTERVAL)
        poll()
        alive = bool(_running_ranks(process.pid))
        started = started or alive
        gone_since = None if alive or not started else gone_since or time.monotonic()
        if gone_since is not None and time.monotonic() - gone_since >= timeout:
            return


@contextlib.contextmanager
def _forwarding_signals(pid: int) -> Iterator[list[int]]:
    """Inside, SIGTERM and Ctrl-C ask the ranks under msrun to stop; a second Ctrl-C interrupts at once.

    The list has the signals that arrived.
    """
    arrived: list[int] = []

    def forward(number: int, _: object) -> None:
        if arrived and number == signal.SIGINT:
            raise KeyboardInterrupt
        arrived.append(number)
        for rank in _running_ranks(pid):
            rank.send_signal(signal.SIGTERM)

    with handle_signals(forward):
        yield arrived


def _msrun_command(group: RankGroup, logs: Path, script: list[str]) -> list[str]:
    """msrun and its arguments; it puts the interpreter in front of `script` itself."""
    msrun = Path(sys.executable).with_name("msrun")
    host, port = parse_address(group.master) if group.master is not None else ("127.0.0.1", _free_port())
    return [
        *(sys.executable, "-c", _MSRUN_BOOTSTRAP, str(os.getpid())),
        str(msrun if msrun.exists() else shutil.which("msrun") or "msrun"),
        f"--worker_num={group.count}",
        f"--local_worker_num={group.here}",
        f"--master_addr={host}",
        f"--master_port={port}",
        f"--log_dir={logs}",
        "--join=True",
        f"--cluster_time_out={_RENDEZVOUS_TIMEOUT}",
        f"--tail_worker_log={group.count}",  # no rank has this number: logs go to files only
        *([f"--node_rank={group.node}"] if group.here < group.count else []),
        *script,
    ]


def _plain_command(group: RankGroup, logs: Path, script: list[str]) -> list[str]:
    """The launcher of ranks without MindSpore, whose messages go to the launcher's log."""
    return [sys.executable, "-c", _PLAIN_LAUNCHER, str(os.getpid()), str(group.here), *script]


def _rank_environment(group: RankGroup, logs: Path) -> dict[str, str]:
    """Divide the cores among the ranks, and make this interpreter msrun's `python`."""
    threads = max(1, (group.threads or usable_cores()) // group.here)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    all_here = str(group.count) if group.here == group.count else ""
    settings = {"PATH": path, "OMP_NUM_THREADS": str(threads), _LOGS_VARIABLE: str(logs), _ALL_HERE_VARIABLE: all_here}
    return {**os.environ, **settings}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _running_ranks(pid: int) -> list[psutil.Process]:
    """The ranks under msrun, without its scheduler and the ranks' own child processes."""
    found = []
    for process in _children(pid):
        try:
            if process.ppid() == pid and process.environ().get("MS_ROLE") == "MS_WORKER":
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def _kill_all(process: subprocess.Popen) -> None:
    """Kill msrun and all its descendants."""
    for child in _children(process.pid):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.kill()
    process.wait()


# Called in a rank


def end_with_launcher() -> None:
    """Tie this rank's life to msrun's, which is tied to that of the command that started it."""
    kill_with_parent(int(os.environ[_LAUNCHER_VARIABLE]))


def report_failure(error: RvrtError | OSError) -> None:
    """Pass the error, in one line, to the command that started the ranks."""
    with (Path(os.environ[_LOGS_VARIABLE]) / _ERRORS_FILE).open("a", encoding="utf-8") as file:
        file.write(in_one_line(error) + "\n")


def join_ranks() -> tuple[int, int]:
    """Join the other ranks, and return this one's number and how many there are.

    The device must have been selected before. msrun's scheduler process never returns from here.
    """
    if _RANK_VARIABLE in os.environ:
        return int(os.environ[_RANK_VARIABLE]), int(os.environ[_ALL_HERE_VARIABLE])
    from mindspore.communication import get_group_size, get_rank, init

    init()
    return get_rank(), get_group_size()


def end_rank() -> None:
    """End this process together with the other ranks, the last thing that a rank does after its work succeeded.

    MindSpore's teardown waits about eight seconds for its scheduler. That can be left out when all ranks are on one machine,
    whose command then stops the scheduler. Between machines this returns: the scheduler must know that a rank left in order.
    """
    if not os.environ[_ALL_HERE_VARIABLE]:
        return
    logs = Path(os.environ[_LOGS_VARIABLE])
    (logs / f"{os.getpid()}{_FINISHED}").touch()
    while len(list(logs.glob(f"*{_FINISHED}"))) < int(os.environ[_ALL_HERE_VARIABLE]):
        time.sleep(_FINISHED_INTERVAL)  # the scheduler takes a rank that leaves before the others for dead
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
