# SPDX-License-Identifier: Apache-2.0
"""One video in several ranks: each decodes it all and computes the scenes that it is the first to claim.

The recurrent state does not reach across a scene cut, so what begins there can be computed by any rank. A claim is a file in
the work folder that only one rank can create; the machines share nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.msrun import RankGroup, join_ranks, run_ranks
from rvrt_cli.options import JobOptions, RestoreOptions, UpscaleOptions
from rvrt_cli.upscale.compute import compute
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.upscale.job import Job, prepare
from rvrt_cli.upscale.progress import Progress, Reporter

_CLAIMS = "claims"  # in the work folder
_TASK = "task.json"  # among the logs
_DONE, _WORKING = ".done", ".working"
_REPORT_INTERVAL = 0.5  # s between a rank's reports
_DONE_INTERVAL = 0.2  # s between looks at whether the other ranks are done
_COMMAND_OPTIONS = {"upscale": UpscaleOptions, "restore": RestoreOptions}  # by command
_TIMES = ("network", "waiting_for_source", "waiting_for_target")


def compute_in_ranks(job: Job, reporter: Reporter, interruption: Interruption) -> None:
    """Have this machine's ranks compute what is missing; see `rvrt_cli.upscale.compute.compute`.

    A signal asks the ranks to finish their windows; `interruption` only tells the caller that they do.

    Raises:
        RvrtError: a rank has failed; the others are gone too.
        KeyboardInterrupt: the ranks were asked to stop.
    """
    workdir, options = job.workdir, job.options
    assert workdir is not None
    first_machine = options.node == 0
    try:
        logs = Path(tempfile.mkdtemp(prefix="rvrt-ranks-"))  # stays if a rank dies
        _write_task(logs / _TASK, job)
    except OSError as error:
        raise RvrtError(
            f"{tempfile.gettempdir()}: the ranks' logs cannot be written there ({error.strerror}); set TMPDIR to a "
            "folder with some room"
        ) from error
    claims = workdir.folder / _CLAIMS
    if first_machine:
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()

    def poll() -> None:
        _gather(claims, reporter.progress)
        reporter.report()

    group = RankGroup(options.ranks, options.ranks_here, options.node, options.master, mindspore=options.uses_mindspore)
    with interruption.after_window():
        stopped = run_ranks(group, Path(__file__).with_name("upscale_rank.py"), logs / _TASK, logs, poll)
    if stopped:
        shutil.rmtree(logs, ignore_errors=True)
        raise KeyboardInterrupt
    all_done = len(list(logs.glob(f"*{_DONE}"))) == options.ranks_here  # of ranks that have seen the others end
    if not all_done and not (first_machine and workdir.complete() is not None):
        raise RvrtError(
            f"{job.target.path}: a rank has died and the others were stopped (their logs are in {logs}); run the same "
            "command again to compute the rest"
        )
    shutil.rmtree(logs, ignore_errors=True)


def _write_task(path: Path, job: Job) -> None:
    """What the ranks, which run in another folder, need to prepare the same job."""
    options, target = job.options, str(job.target.path.absolute())
    if options.weights is not None:
        options = replace(options, weights=os.path.abspath(options.weights))
    values = {
        "source": os.path.abspath(job.source.path),
        "target": target + os.sep if job.target.kind == "folder" else target,
        "command": "restore" if isinstance(options, RestoreOptions) else "upscale",
        "options": asdict(options),
    }
    path.write_text(json.dumps(values), encoding="utf-8")


def _gather(claims: Path, progress: Progress) -> None:
    """Add up what the ranks have reported."""
    reports = []
    for path in claims.glob("*.progress"):
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    if reports:
        progress.frames = progress.kept + sum(values["frames"] for values in reports)
        progress.computed = progress.kept + sum(values["computed"] for values in reports)
        progress.scenes = max(values["scenes"] for values in reports)
        for name in _TIMES:  # of the average rank
            setattr(progress, name, sum(values[name] for values in reports) / len(reports))
        progress.notes = sorted({note for values in reports for note in values["notes"]})


def work_as_rank(task: Path, interruption: Interruption) -> None:
    """Compute a share of what `task` describes, and wait until the other ranks have theirs.

    Raises:
        RvrtError: with the remedy.
        KeyboardInterrupt: an interruption was requested, and every rank of this machine has kept what it had.
    """
    values = json.loads(task.read_text(encoding="utf-8"))
    options: JobOptions = _COMMAND_OPTIONS[values["command"]](**values["options"])
    working = task.with_name(f"{os.getpid()}{_WORKING}")
    try:
        if options.uses_mindspore:
            use_device(options.device, options.precision)
        rank, size = join_ranks()
        working.touch()
        job = prepare(values["source"], values["target"], options, as_rank=True)
        _compute_share(job, rank, size, interruption)
        task.with_name(f"{rank}{_DONE}").touch()
    except KeyboardInterrupt:  # perhaps before this rank has joined: the others may be at work, nevertheless
        working.unlink(missing_ok=True)
        while any(task.parent.glob(f"*{_WORKING}")):
            time.sleep(_DONE_INTERVAL)  # msrun kills the others when one ends
        raise
    finally:
        working.unlink(missing_ok=True)


def _compute_share(job: Job, rank: int, size: int, interruption: Interruption) -> None:
    assert job.workdir is not None
    if job.workdir.manifest() != job.manifest:
        raise MediaError(
            f"{job.target.path}: this rank does not see what the first machine is making; share the folder"
        )
    claims = job.workdir.folder / _CLAIMS
    log = _RankLog(claims, rank)
    reporter = Reporter(Progress(job.frames), log.update)
    compute(job, reporter, interruption, lambda first: _claim(claims / f"{first:08d}"))
    log.write(reporter.progress)
    (claims / f"{rank}{_DONE}").touch()
    while claims.is_dir() and len(list(claims.glob(f"*{_DONE}"))) < size:  # a rank that leaves early counts as dead
        time.sleep(_DONE_INTERVAL)


class _RankLog:
    """A rank's progress, written for the launcher to add up."""

    def __init__(self, claims: Path, rank: int) -> None:
        self._claims, self._rank = claims, rank
        self._written = 0.0

    def update(self, progress: Progress) -> None:
        """Write the progress unless that was done a moment ago."""
        if time.monotonic() - self._written >= _REPORT_INTERVAL:
            self.write(progress)

    def write(self, progress: Progress) -> None:
        """Write the progress."""
        self._written = time.monotonic()
        part = self._claims / f"{self._rank}.part"
        part.write_text(json.dumps(progress.to_dict()), encoding="utf-8")
        part.replace(self._claims / f"{self._rank}.progress")


def _claim(path: Path) -> bool:
    """Whether this rank is the first to ask."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
