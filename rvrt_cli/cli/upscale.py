# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale`: upscale a video or images."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.display import JsonEvents, SilentDisplay, open_display
from rvrt_cli.cli.formatting import duration
from rvrt_cli.cli.generated_options import dataclass_options
from rvrt_cli.cli.interrupt import exit_after_interrupt, second_signal_exits
from rvrt_cli.errors import MediaError, OptionError, printable
from rvrt_cli.options import UpscaleOptions

if TYPE_CHECKING:
    from rvrt_cli.upscale import Job, Progress


@click.command("upscale", short_help="Upscale a video or images fourfold.")
@click.argument("source")
@click.argument("target")
@dataclass_options(UpscaleOptions)
@click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
@click.option("--check", is_flag=True, help="Compare TARGET with SOURCE at the end, as `rvrt check` does.")
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line.")
@click.option("--quiet", "-q", is_flag=True, help="Print only errors, and warnings about SOURCE.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def upscale_command(
    source: str, target: str, dry_run: bool, as_json: bool, quiet: bool, debug: bool, **options: Any
) -> None:
    """Upscale SOURCE fourfold into TARGET, keeping timestamps, audio and colors.

    SOURCE is a video, a folder or pattern of images, a GIF, or - for y4m on standard input. TARGET is a video (.mp4
    .mov .mkv .webm), a folder for PNG images, or - for y4m on standard output.

    An interrupted command resumes when it is run again; until it is complete, finished segments are kept beside TARGET.
    Press Ctrl-C once to keep them and exit, twice to exit at once.

    \b
    Examples:
      rvrt upscale in.mp4 out.mp4
      rvrt upscale in.mkv out.mkv --size 1080p --codec libx265 --crf 18
      rvrt upscale in.mp4 preview.mp4 --start 60 --duration 10
      rvrt upscale in.mp4 out.mp4 --dry-run
    """
    chosen = UpscaleOptions(**{field.name: options[field.name] for field in fields(UpscaleOptions)})
    if options["check"] and "-" in (source, target):
        raise OptionError("--check: reads SOURCE and TARGET again, and - cannot be; omit it, or name files")
    from rvrt_cli.upscale import prepare, run

    display = SilentDisplay() if quiet or as_json else open_display("frames")
    with display.working("reading the source" if dry_run else "loading the network"):
        job = prepare(source, target, chosen, dry_run=dry_run)
    for line in _plan_lines(job):
        display.say(line)
    if dry_run:
        for line in _plan_lines(job) if quiet else ():
            click.echo(printable(line))
        return
    report = _JsonReport(JsonEvents(stderr=target == "-")) if as_json else _TextReport(display)
    report.open(job)
    try:
        with second_signal_exits("rvrt: exited at once; run the same command to resume"), display:
            report.begin(job)
            done = run(job, report.update)
    except KeyboardInterrupt:
        _explain_interrupt(report.frames, job)
    report.end(job, done)
    if not as_json:  # which has them in its last object
        for line in done.warnings:
            click.echo(printable(f"rvrt: warning: {line}"), err=True)
    if options["check"] and done.path is not None:
        _check_target(source, done.path, chosen, JsonEvents(stderr=False) if as_json else None)


def _check_target(source: str, target: str, options: UpscaleOptions, events: JsonEvents | None) -> None:
    """Compare what was written with its source; the exit status is 1 if something is wrong."""
    from rvrt_cli.check.check_options import CheckOptions
    from rvrt_cli.cli.check import print_findings, run_check

    report = run_check(source, target, CheckOptions(start=options.start, duration=options.duration))
    if events is not None:
        events.emit("check", **report.to_dict())
    else:
        print_findings(report)
    if report.failures:
        sys.exit(1)


def _explain_interrupt(frames: int, job: Job) -> None:
    kept, then = 0, "start again"
    if job.workdir is not None and job.resumable:
        with suppress(MediaError):
            kept = sum(segment.frames for segment in job.workdir.segments())
        if kept:
            then = f"resume after the {kept} frames kept in {job.workdir.folder.name}"
    text = (
        f"rvrt: interrupted after {frames} of {job.frames or '?'} frames; {job.target.path} was not written. "
        f"Run the same command to {then}"
    )
    click.echo(printable(text), err=True)
    exit_after_interrupt()


def _plan_lines(job: Job) -> list[str]:
    """The plan of a job, for a person."""
    source, target, plan = job.source, job.target, job.plan
    frames = f"{job.frames} frames" if job.frames else "frames"
    rate = f"{float(source.frame_rate):.6g}/s"
    others = [stream for stream in source.streams if stream.index != source.stream_index]
    streams = ", ".join(f"{stream.type} {stream.codec}".strip() for stream in others) or "no other streams"
    height, width = plan.tile
    tiles = "untiled" if plan.tiles == 1 else f"{plan.tiles} tiles of {width}x{height} px, overlap {plan.overlap} px"
    window = f"windows of {plan.window} + {plan.lookahead} frames" if plan.window else "each scene in one window"
    device = job.network.device
    gigabytes = (plan.device_bytes + plan.host_bytes) / 2**30
    return [
        f"source: {source.path}, {source.width}x{source.height} px, {frames} at {rate}; {streams}",
        f"target: {target.path if target.kind != 'y4m' else 'y4m'}, {target.width}x{target.height} px, "
        f"{target.encoder or target.kind} {target.pix_fmt}",
        f"network: {job.network.card['name']} on {device.kind}, {device.precision}; {window}, {tiles}; "
        f"about {gigabytes:.1f} GiB",
    ]


class _TextReport:
    """What a person reads about a job, on a display."""

    def __init__(self, display: SilentDisplay) -> None:
        self.frames = 0  # written so far
        self._display = display
        self._notes = 0  # shown so far

    def open(self, job: Job) -> None:
        for note in job.notes:
            self._display.note(note)
        if job.kept:
            self._display.say(f"resuming after {job.kept} of {job.frames or '?'} frames")

    def begin(self, job: Job) -> None:
        self._display.begin(job.frames, "compiling the network")

    def update(self, progress: Progress) -> None:
        self.frames = progress.frames
        self._show_new_notes(progress)
        done = int(max(progress.computed, progress.frames))
        self._display.update(done, progress.total, _pace(progress) if progress.elapsed else "")

    def end(self, job: Job, progress: Progress) -> None:
        self._show_new_notes(progress)
        rest = progress.elapsed - progress.network - progress.waiting_for_source - progress.waiting_for_target
        parts = {
            "network": progress.network,
            "waiting for decoding": progress.waiting_for_source,
            "waiting for encoding": progress.waiting_for_target,
            "other": max(0.0, rest),
        }
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        earlier = f", {progress.kept} of them by an earlier run" if progress.kept else ""
        self._display.say(f"{progress.frames} frames{earlier} in {progress.elapsed:.1f} s: {spent}")
        if progress.path is not None:
            self._display.say(f"wrote {progress.path}")
        elif job.options.node:
            self._display.say(f"this machine's part is done; machine 0 writes {job.target.path}")

    def _show_new_notes(self, progress: Progress) -> None:
        for line in progress.notes[self._notes :]:
            self._display.note(line)
        self._notes = len(progress.notes)


class _JsonReport:
    """What a program reads about a job: events "note", "begin", "progress", "end"."""

    def __init__(self, events: JsonEvents) -> None:
        self.frames = 0  # written so far
        self._events = events

    def open(self, job: Job) -> None:
        for note in job.notes:
            self._events.emit("note", text=note)

    def begin(self, job: Job) -> None:
        plan, target, network = job.plan, job.target, job.network
        self._events.emit(
            "begin",
            frames=job.frames,
            width=target.width,
            height=target.height,
            window=plan.window,
            lookahead=plan.lookahead,
            tile=list(plan.tile),
            tiles=plan.tiles,
            device=network.device.kind,
            network=network.card["name"],
            kept=job.kept,
        )

    def update(self, progress: Progress) -> None:
        self.frames = progress.frames
        self._events.emit("progress", **progress.to_dict())

    def end(self, job: Job, progress: Progress) -> None:
        self._events.emit("end", target=progress.path or str(job.target.path), **progress.to_dict())


def _pace(progress: Progress) -> str:
    """Frames per second of this run, and the time left."""
    done = max(progress.computed, progress.frames)
    rate = (done - progress.kept) / progress.elapsed
    left = f", {duration((progress.total - done) / rate)} left" if progress.total and rate else ""
    return f"{rate:.2f}/s{left}"
