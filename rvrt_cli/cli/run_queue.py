# SPDX-License-Identifier: Apache-2.0
"""Several sources with `--output-dir`: a queue of jobs, one display for all of them, and a table at the end."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rvrt_cli.cli.display import JsonEvents, SilentDisplay, open_display
from rvrt_cli.cli.formatting import duration, plural, print_table, safe_markup
from rvrt_cli.cli.interrupt import exit_after_interrupt, finishing_window
from rvrt_cli.cli.job_reports import JobReport, JsonReport, TextReport
from rvrt_cli.cli.option_files import SourcedOptions
from rvrt_cli.errors import OptionError, RvrtError, in_one_line, printable
from rvrt_cli.options import JobOptions, QueueOptions

if TYPE_CHECKING:
    from rvrt_cli.upscale import Job, Progress
    from rvrt_cli.upscale.job_queue import JobQueue, QueueEntry
    from rvrt_cli.upscale.queue_clock import QueueClock

IVTC_UNCHECKED = "--check: compares frame by frame, and --ivtc makes other frames of them; omit it"
_MOST_FAILURES = 125  # that an exit status tells; above, shells report signals
_LEAST_FREE_BYTES = 50_000_000  # on the disk of the targets, for another job to begin
_NAME_LENGTH = 22  # columns of a source's name in the progress display
_LABELS = {"finished": "finished earlier"}  # of states that need more words
_STATE_STYLES = {  # in the order in which they are counted
    "done": "green",
    "new": "",
    "resumes": "",
    "unchecked": "",
    "finished": "dim",
    "skipped": "dim",
    "failed": "bold red",
}


@dataclass(frozen=True)
class JobFlags:
    """The options of a command that are about its output, see `rvrt_cli.cli.upscale.job_flags`."""

    debug: bool
    quiet: bool
    as_json: bool
    check: bool
    dry_run: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> JobFlags:
        """The flags among a command's values."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def run_queue(
    sources: Sequence[str],
    options_for: Callable[[str], SourcedOptions],
    queue: QueueOptions,
    flags: JobFlags,
) -> int:
    """Do the jobs of all sources, one after the other, and print how it goes.

    Args:
        options_for: the options for a source.

    Returns:
        the exit status: the number of jobs that are not done, 125 at most.

    Raises:
        RvrtError: nothing can be done at all.
    """
    events = JsonEvents(stderr=False)
    try:
        from rvrt_cli.upscale.job_queue import JobQueue
        from rvrt_cli.upscale.queue_items import list_queue

        sourced: dict[str, SourcedOptions] = {}

        def options_of_source(source: str) -> JobOptions:
            sourced[source] = options_for(source)
            return sourced[source].options

        listed = list_queue(sources, queue, options_of_source)
        if flags.check and any(item.options.ivtc for item in listed.items):
            raise OptionError(IVTC_UNCHECKED)
        jobs = JobQueue(listed.items, queue, check=flags.check)
        run = _QueueRun(jobs, queue, flags)
        files = dict.fromkeys(line for item in listed.items for line in sourced[item.source].notes())
        run.examine([*listed.notes, *(f"options {line}" for line in files)])
    except (RvrtError, OSError) as error:
        if flags.as_json:
            events.emit("error", text=in_one_line(error))
        raise
    if not flags.dry_run:
        run.do_all()
        run.summarize()
    return min(_MOST_FAILURES, run.failures)


class _QueueRun:
    """A queue on its way."""

    def __init__(
        self,
        jobs: JobQueue,
        queue: QueueOptions,
        flags: JobFlags,
    ) -> None:
        self._jobs, self._queue, self._flags = jobs, queue, flags
        self._events = JsonEvents(stderr=False) if flags.as_json else None
        silent = flags.as_json or flags.quiet
        self._display = SilentDisplay() if silent else open_display("frames", transient=True)
        self._silent = silent
        self._clock: QueueClock | None = None
        self._job: Job | None = None  # the present one, from when it is prepared until its target is complete
        self._said: set[str] = set()  # lines about the network, which all jobs share

    @property
    def failures(self) -> int:
        """Jobs that have failed or, once all is over, were never begun."""
        over = not self._flags.dry_run
        return sum(entry.state == "failed" or (over and entry.pending) for entry in self._jobs.entries)

    # Before the work

    def examine(self, notes: Sequence[str]) -> None:
        """Look at every source and target, and print what there is to do."""
        from rvrt_cli.upscale.queue_clock import QueueClock

        entries = self._jobs.entries
        display = SilentDisplay() if self._silent else open_display("files", lines=False, transient=True)
        with display:
            for entry, job in self._jobs.examine():
                display.update(entry.number, len(entries), "looking at the sources")
                if self._flags.dry_run and self._events is not None and job is not None:
                    report = self._report(entry)
                    report.open(job)
                    report.plan(job, entry.seconds)
        self._clock = QueueClock(entries)
        for note in notes:
            self._display.note(note)
        if self._events is not None:
            self._events.emit("queue", files=[entry.to_dict() for entry in entries], notes=list(notes))
        elif self._flags.dry_run:
            _print_entries(entries, planned=True)
            for line in _plan_notes(entries):
                self._display.note(line)
        for entry in entries:
            if entry.state == "failed":
                self._say_failure(entry)
        line = _plan_line(entries)
        if not self._flags.dry_run:
            self._display.say(line)
        elif self._events is None:
            click.echo(line)

    # The work

    def do_all(self) -> None:
        """Do every job that is not done yet; one that fails leaves the others alone."""
        pending = [entry for entry in self._jobs.entries if entry.pending]
        present: tuple[QueueEntry, JobReport] | None = None
        try:
            with self._display:
                for entry in pending:
                    present = entry, self._report(entry)
                    self._do(*present)
                    if entry.state == "failed" and self._disk_is_full():
                        break
        except KeyboardInterrupt:
            if present is None:
                raise
            self._explain_interrupt(*present)  # below the display, which is closed by now

    def _do(self, entry: QueueEntry, report: JobReport) -> None:
        assert self._clock is not None
        started = time.monotonic()
        self._job = None
        self._clock.begin(entry)
        self._show_overall(entry)
        try:
            self._display.begin(entry.frames, "preparing")
            if entry.state != "unchecked":
                progress = self._run_job(entry, report)
                entry.seconds = time.monotonic() - started
                self._say_done(entry, progress)
            entry.state = "done"
            if self._flags.check:
                self._check(entry)
        except BrokenPipeError:  # the reader of our output is gone
            raise
        except (RvrtError, OSError) as error:
            entry.fail(in_one_line(error))
            self._show_traceback()
        except Exception as error:  # a fault of ours must not cost the night's other jobs
            text = " ".join(f"{type(error).__name__}: {error}".split())
            entry.fail(f"{entry.item.source}: unexpected {printable(text)}; run it alone with --debug, and report it")
            self._show_traceback()
        entry.seconds = time.monotonic() - started
        if entry.state == "failed":
            report.fail(entry.text)
            self._say_failure(entry)
        self._clock.end(entry)

    def _run_job(self, entry: QueueEntry, report: JobReport) -> Progress:
        from rvrt_cli.upscale import run

        recorded = False

        def on_progress(progress: Progress) -> None:
            nonlocal recorded
            assert self._clock is not None
            if progress.path is not None and not recorded:
                entry.frames, recorded = progress.frames, True
                if os.path.samefile(progress.path, entry.item.target):  # unless another program has taken that name
                    self._jobs.record(entry)
            self._clock.update(progress)
            self._show_overall(entry)
            report.update(progress)

        job = self._job = self._jobs.prepare(entry)
        entry.frames, entry.kept, entry.size = job.frames, job.kept, (job.target.width, job.target.height)
        report.open(job)
        with finishing_window(report.say_stopping) as interruption:
            report.begin(job)
            progress = run(job, on_progress, interruption)
        report.end(job, progress)
        self._job = None
        return progress

    def _check(self, entry: QueueEntry) -> None:
        """Compare a target with its source; it has failed if something is wrong."""
        from rvrt_cli.check.check_options import CheckOptions
        from rvrt_cli.check.run_check import check_target_against_source

        self._display.begin(None, "checking")
        options = entry.item.options
        chosen = CheckOptions(start=options.start, duration=options.duration)
        found = check_target_against_source(entry.item.source, entry.item.target, chosen)
        self._jobs.record(entry, len(found.failures))
        if self._events is not None:
            self._events_of(entry).emit("check", **found.to_dict())
        for finding in found.findings:
            if finding.status == "note":
                self._display.note(f"{entry.item.target}: {finding.name}: {finding.text}")
        if found.failures:
            wrong = "; ".join(f"{finding.name}: {finding.text}" for finding in found.failures)
            entry.fail(f"{entry.item.target}: does not pass the check: {wrong}")

    def _disk_is_full(self) -> bool:
        """Whether nothing else can be written either, and say so."""
        assert self._queue.output_dir is not None
        free = shutil.disk_usage(self._queue.output_dir).free
        if free >= _LEAST_FREE_BYTES:
            return False
        remedy = "free some space, and run the same command to continue"
        self._display.alert(f"rvrt: {self._queue.output_dir}: {free / 1e6:.0f} MB are left on this disk; {remedy}")
        return True

    # What is shown

    def summarize(self) -> None:
        """Print how every job has ended."""
        assert self._clock is not None
        entries = self._jobs.entries
        if self._events is not None:
            counts = Counter(entry.state for entry in entries)
            files = [entry.to_dict() for entry in entries]
            self._events.emit("summary", **counts, failures=self.failures, seconds=self._clock.elapsed, files=files)
        elif not self._flags.quiet:
            shown = [entry for entry in entries if entry.state not in ("finished", "skipped")]
            if shown:
                _print_entries(shown, planned=False)
            for entry in entries:
                if entry.state == "failed":  # said hours ago, perhaps
                    click.echo(f"failed: {_about(entry, entry.text)}")
            click.echo(f"{_count_states(entries)}, in {duration(self._clock.elapsed)}")

    def _report(self, entry: QueueEntry) -> JobReport:
        if self._events is not None:
            return JsonReport(self._events_of(entry))
        return _EntryReport(self._display, entry, self._said)

    def _events_of(self, entry: QueueEntry) -> JsonEvents:
        def values() -> dict[str, Any]:
            left = None if self._clock is None else self._clock.seconds_left
            return {"file": entry.number, "source": entry.item.source, "queue_seconds_left": left}

        return JsonEvents(stderr=False, also=values)

    def _show_overall(self, entry: QueueEntry) -> None:
        assert self._clock is not None
        left = self._clock.seconds_left
        text = f"file {entry.number} of {len(self._jobs.entries)}, {_short_name(entry.item.source)}"
        self._display.overall(self._clock.share, text if left is None else f"{text}; {duration(left)} left for all")

    def _say_done(self, entry: QueueEntry, progress: Progress) -> None:
        size = "" if entry.size is None else f", {entry.size[0]}x{entry.size[1]} px,"
        seconds = duration(entry.seconds or 0.0)
        which = f"{entry.number}/{len(self._jobs.entries)} {progress.path}"
        self._display.say(f"{which}: {plural(progress.frames, 'frame')}{size} in {seconds}")
        for line in progress.warnings:  # also with --quiet
            self._display.alert(f"rvrt: warning: {_about(entry, line)}")

    def _say_failure(self, entry: QueueEntry) -> None:
        self._display.alert(f"rvrt: {_about(entry, entry.text)}")

    def _show_traceback(self) -> None:
        if self._flags.debug:
            traceback.print_exc()

    def _explain_interrupt(self, entry: QueueEntry, report: JobReport) -> NoReturn:
        kept = 0 if self._job is None else self._job.frames_done()
        report.interrupted(kept)
        frames = f", after {report.frames} of {entry.frames or '?'} frames, {kept} of them kept" if self._job else ""
        entries = self._jobs.entries
        finished = sum(other.state in ("done", "finished") for other in entries)
        text = (
            f"rvrt: interrupted in file {entry.number} of {len(entries)}, {entry.item.source}{frames}; "
            f"{plural(finished, 'file')} finished. Run the same command to continue"
        )
        click.echo(printable(text), err=True)
        exit_after_interrupt()


class _EntryReport(TextReport):
    """What a person reads about one job of a queue, on the display of the whole queue."""

    def __init__(self, display: SilentDisplay, entry: QueueEntry, said: set[str]) -> None:
        super().__init__(display)
        self._entry, self._said = entry, said

    def open(self, job: Job) -> None:
        for line in (f"network: {job.network.card['name']} on {job.network.device.kind}", *job.network.notes):
            if line not in self._said:
                self._said.add(line)
                self._display.say(line)
        for note in job.notes[len(job.network.notes) :]:
            self._note(note)

    def plan(self, job: Job, seconds: float | None) -> None:
        """The table says it."""

    def begin(self, job: Job) -> None:
        self._show_start(job)

    def end(self, job: Job, progress: Progress) -> None:
        """Said in a line of its own."""

    def _note(self, text: str) -> None:
        self._display.note(_about(self._entry, text))


def _about(entry: QueueEntry, text: str) -> str:
    """`text` with the source that it is about, unless it names source or target."""
    named = any(os.path.basename(path.rstrip("/")) in text for path in (entry.item.source, entry.item.target))
    return printable(text if named else f"{entry.item.source}: {text}")


def _short_name(source: str) -> str:
    """The last part of a path, its middle left out where it is long."""
    name = os.path.basename(source.rstrip("/")) or source
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 9]}…{name[-8:]}"


def _plan_line(entries: Sequence[QueueEntry]) -> str:
    """How many jobs stand how, and how long that may take."""
    times = [entry.seconds for entry in entries if entry.state in ("new", "resumes")]
    known = [seconds for seconds in times if seconds is not None]
    if not known or len(known) < len(times):
        return _count_states(entries)
    return f"{_count_states(entries)}; about {duration(sum(known))}, estimated from the speed of this machine's matrix product"


def _count_states(entries: Sequence[QueueEntry]) -> str:
    """ "12 files: 9 new, 1 resumes, 2 finished earlier"."""
    counts = Counter(entry.state for entry in entries)
    parts = [f"{counts[state]} {_LABELS.get(state, state)}" for state in _STATE_STYLES if state in counts]
    return ": ".join(filter(None, (plural(len(entries), "file"), ", ".join(parts))))


def _plan_notes(entries: Sequence[QueueEntry]) -> list[str]:
    """The notes of all jobs, those that several have only once."""
    counts = Counter(note for entry in entries for note in entry.notes)
    lines = {note: f"{plural(number, 'file')}: {note}" for note, number in counts.items() if number > 1}
    for entry in entries:
        lines.update({note: _about(entry, note) for note in entry.notes if counts[note] == 1})
    return list(lines.values())


def _print_entries(entries: Sequence[QueueEntry], *, planned: bool) -> None:
    """A table of jobs on standard output."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold", ratio=1)
    table.add_column("target", overflow="fold", ratio=1)
    for heading in ("size", "frames", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("plan" if planned else "result", no_wrap=True)
    for entry in entries:
        size = "" if entry.size is None else f"{entry.size[0]}x{entry.size[1]}"
        unknown = "?" if entry.pending else ""
        frames = unknown if entry.frames is None else str(entry.frames)
        seconds = "" if entry.seconds is None else duration(entry.seconds)
        state = _LABELS.get(entry.state, entry.state)
        if entry.state == "resumes":
            state += f" after {entry.kept}"
        style = _STATE_STYLES[entry.state]
        names = safe_markup(entry.item.source), safe_markup(entry.item.target)
        table.add_row(*names, size, frames, seconds, f"[{style}]{state}[/]" if style else state)
    print_table(table)
