# SPDX-License-Identifier: Apache-2.0
"""A queue of jobs in one process: what is to be done, what is finished, and each job in its turn.

The networks are loaded once. A job that fails leaves the others alone. Finished targets are recorded in their folder, and
each job resumes by itself, so that the same queue continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError, in_one_line
from rvrt_cli.options import QueueOptions
from rvrt_cli.upscale.finished_files import FinishedFiles
from rvrt_cli.upscale.job import Job, LoadedNetworks, prepare
from rvrt_cli.upscale.queue_items import QueueItem
from rvrt_cli.upscale.resume import identify_request
from rvrt_cli.upscale.time_estimate import estimate_seconds
from rvrt_cli.upscale.workdir import About, Workdir
from rvrt_cli.video.write.destination import real_folder

# States of an entry; the first three are what is to be done
NEW, RESUMES, UNCHECKED = "new", "resumes", "unchecked"
DONE, FINISHED, SKIPPED, FAILED = "done", "finished", "skipped", "failed"


@dataclass
class QueueEntry:
    """One job of a queue, and how it stands.

    Attributes:
        number: from 1 on.
        state: "new", "resumes" (frames are kept), "unchecked" (finished, but `--check` has not approved it), "done" (by
            this run), "finished" (by an earlier one), "skipped" (the target exists) or "failed".
        text: why it failed.
        frames: that come out; None while that is unknown.
        kept: of an interrupted run.
        source_size, size: (width, height) px of the source and of the target.
        seconds: estimated, then measured.
        notes: what the user should know before the work.
    """

    number: int
    item: QueueItem
    state: str = NEW
    text: str = ""
    frames: int | None = None
    kept: int = 0
    source_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    about: About | None = None

    @property
    def pending(self) -> bool:
        """Whether there is something to be done."""
        return self.state in (NEW, RESUMES, UNCHECKED)

    def fail(self, text: str) -> None:
        """Note that it failed, and why."""
        self.state, self.text = FAILED, text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: value for name, value in asdict(self).items() if name not in ("number", "item", "about")}
        return {"file": self.number, "source": self.item.source, "target": self.item.target, **values}


class JobQueue:
    """The jobs of a queue.

    Attributes:
        entries: all of them, in order.
        networks: loaded so far.

    Args:
        check: finished targets count only if `rvrt check` has found nothing wrong with them.
    """

    def __init__(self, items: Sequence[QueueItem], queue: QueueOptions, *, check: bool) -> None:
        assert queue.output_dir is not None
        self.entries = [QueueEntry(number, item) for number, item in enumerate(items, 1)]
        self.networks = LoadedNetworks()
        self._queue, self._check = queue, check
        self._finished = FinishedFiles(queue.output_dir)

    def examine(self) -> Iterator[tuple[QueueEntry, Job | None]]:
        """Find out how each entry stands; with the job, for looking at, where there is something to be done.

        Raises:
            OptionError: options that no source can have, or others than those of the targets that are finished.
            RvrtError: weights or a device that are missing.
        """
        others = sorted({change for entry in self.entries for change in self._look_at_target(entry)})
        if others:
            raise OptionError(
                f"{self._queue.output_dir}: targets in it were made with other options ({', '.join(others)}); give the same "
                "to continue, --skip-existing to keep them, or --overwrite to replace them"
            )
        refusals = []
        for entry in self.entries:
            job = None
            if entry.state == NEW:
                try:
                    job = self._look_at_job(entry)
                except OptionError as error:
                    refusals.append(error)
                    entry.fail(in_one_line(error))
                except (MediaError, OutOfMemoryError, OSError) as error:
                    entry.fail(in_one_line(error))
            yield entry, job
        if refusals and all(entry.state == FAILED for entry in self.entries):
            raise refusals[0]

    def _look_at_target(self, entry: QueueEntry) -> list[str]:
        """Find out whether the target is finished; the options with which it was made otherwise, if that stops the queue."""
        item, options = entry.item, entry.item.options
        try:
            entry.about = identify_request(item.source, item.files, options)
        except OSError:
            return []  # the source is missing, which is said when the job is prepared
        known = self._finished.find(item.target)
        unpublished = Workdir(real_folder(item.target)).published() is None  # else a run was killed just before its end
        if known is not None and unpublished:
            changed = known.differences(entry.about)
            if not changed:
                entry.frames = known.frames
                entry.state = UNCHECKED if self._check and known.failures != 0 else FINISHED
                return []
            if not options.overwrite and not self._queue.skip_existing:
                if "the source" not in changed:
                    return changed
                entry.fail(f"{item.target}: made of an earlier version of this source; --overwrite replaces it")
                return []
        if not options.overwrite and unpublished and _exists(Path(item.target)):
            if self._queue.skip_existing:
                entry.state = SKIPPED
            else:
                entry.fail(f"{item.target}: exists, and is no work of this queue; --skip-existing or --overwrite")
        return []

    def _look_at_job(self, entry: QueueEntry) -> Job:
        options = replace(entry.item.options, ranks=1, local_ranks=0)  # else it would count the scenes of all sources
        job = prepare(
            entry.item.source, entry.item.target, options, dry_run=True, new_folders=True, networks=self.networks
        )
        entry.frames, entry.kept, entry.notes = job.frames, job.kept, job.notes
        entry.state = RESUMES if job.kept else NEW
        entry.source_size = job.source.width, job.source.height
        entry.size = job.target.width, job.target.height
        entry.seconds = estimate_seconds(job)
        return job

    def prepare(self, entry: QueueEntry) -> Job:
        """The job of an entry, ready to be run.

        Raises:
            RvrtError, OSError: with the remedy.
        """
        item = entry.item
        Path(item.target).parent.mkdir(parents=True, exist_ok=True)
        return prepare(item.source, item.target, item.options, networks=self.networks)

    def record(self, entry: QueueEntry, failures: int | None = None) -> None:
        """Note that the target of an entry is complete, with `frames` frames.

        Args:
            failures: that `rvrt check` has found; None: it has not been checked.

        Raises:
            MediaError: the note cannot be written.
        """
        assert entry.about is not None
        self._finished.add(entry.item.target, entry.about, entry.frames or 0, failures)


def _exists(target: Path) -> bool:
    """Whether there is something at a target, other than an empty folder."""
    if target.is_dir() and not target.is_symlink():
        return any(target.iterdir())
    return target.exists() or target.is_symlink()
