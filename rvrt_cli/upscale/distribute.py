"""One video in several ranks: each decodes it all and computes the scenes that it is the first to claim.

The network's memory does not reach across a scene cut, so what begins there can be computed by anybody. A claim is a
file in the work folder that only one rank can create; the machines share nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rvrt_cli.device import use_device
from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.msrun import RankGroup, join_ranks, run_ranks
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale.job import Job, prepare
from rvrt_cli.upscale.run import Progress, compute

_CLAIMS = "claims"  # in the work folder
_TASK = "task.json"  # among the logs
_DONE = ".done"
_REPORT = 0.5  # s between a rank's reports
_POLL = 0.2  # s


def compute_in_ranks(job: Job, progress: Progress, report: Callable[[], None]) -> None:
    """Have this machine's ranks compute what is missing; arguments as `rvrt_cli.upscale.run.compute`.

    Raises:
        RvrtError: a rank has ended badly; the others are gone too.
        KeyboardInterrupt: the ranks were asked to stop.
    """
    work, options = job.work, job.options
    assert work is not None
    first = options.node == 0
    try:
        logs = Path(tempfile.mkdtemp(prefix="rvrt-ranks-"))  # stays if a rank dies
        _write_task(logs / _TASK, job)
    except OSError as error:
        raise RvrtError(
            f"{tempfile.gettempdir()}: the ranks' logs cannot be written there ({error.strerror}); set TMPDIR to a "
            "folder with some room"
        ) from error
    claims = work.folder / _CLAIMS
    if first:
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()

    def poll() -> None:
        _gather(claims, progress)
        report()

    group = RankGroup(options.ranks, options.ranks_here, options.node, options.master)
    if run_ranks(group, Path(__file__).with_name("upscale_rank.py"), logs / _TASK, logs, poll):
        shutil.rmtree(logs, ignore_errors=True)
        raise KeyboardInterrupt
    left = len(list(logs.glob(f"*{_DONE}"))) == options.ranks_here  # by ranks that have seen the others end
    if not left and not (first and work.complete() is not None):
        raise RvrtError(
            f"{job.target.path}: a rank has died and the others were ended ({logs} has their logs); run the same "
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
        "options": asdict(options),
    }
    path.write_text(json.dumps(values), encoding="utf-8")


def _gather(claims: Path, progress: Progress) -> None:
    """Add up what the ranks have reported."""
    told = []
    for path in claims.glob("*.progress"):
        try:
            told.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    if told:
        progress.frames = progress.kept + sum(values["frames"] for values in told)
        progress.computed = progress.kept + sum(values["computed"] for values in told)
        progress.scenes = max(values["scenes"] for values in told)
        for name in ("network", "waiting_for_source", "waiting_for_target"):  # of the average rank
            setattr(progress, name, sum(values[name] for values in told) / len(told))
        progress.notes = sorted({note for values in told for note in values["notes"]})


def work_as_rank(task: Path) -> None:
    """Compute a share of what `task` describes, and wait until the other ranks have theirs.

    Raises:
        RvrtError: with the remedy.
    """
    values = json.loads(task.read_text(encoding="utf-8"))
    options = UpscaleOptions(**values["options"])
    use_device(options.device, options.precision)
    rank, size = join_ranks()
    job = prepare(values["source"], values["target"], options, as_rank=True)
    work = job.work
    assert work is not None
    if work.manifest() != job.manifest:
        raise MediaError(
            f"{job.target.path}: this rank does not see what the first machine is making; share the folder"
        )
    claims = work.folder / _CLAIMS
    progress, last = Progress(job.frames), 0.0

    def report(now: bool = False) -> None:
        nonlocal last
        if now or time.monotonic() - last >= _REPORT:
            last = time.monotonic()
            part = claims / f"{rank}.part"
            part.write_text(json.dumps(progress.to_dict()), encoding="utf-8")
            part.replace(claims / f"{rank}.progress")

    compute(job, progress, report, lambda first: _claim(claims / f"{first:08d}"))
    report(now=True)
    (claims / f"{rank}{_DONE}").touch()
    while claims.is_dir() and len(list(claims.glob(f"*{_DONE}"))) < size:  # a rank that leaves early counts as dead
        time.sleep(_POLL)
    task.with_name(f"{rank}{_DONE}").touch()


def _claim(path: Path) -> bool:
    """Whether this rank is the first to ask."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
