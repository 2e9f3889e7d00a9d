# SPDX-License-Identifier: Apache-2.0
"""What is shown of one job while it is prepared and run: lines for a person, or events for a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.display import JsonEvents, SilentDisplay
from rvrt_cli.cli.formatting import duration, pace
from rvrt_cli.cli.option_files import SourcedOptions
from rvrt_cli.errors import printable

if TYPE_CHECKING:
    from rvrt_cli.upscale import Job, Progress


def plan_lines(job: Job) -> list[str]:
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
    noise = [] if job.noise is None else [f"noise: {job.noise}"]
    grain = [] if job.grain is None else [f"grain: {job.grain}"]
    return [
        f"source: {source.path}, {source.width}x{source.height} px, {frames} at {rate}; {streams}",
        f"target: {target.path if target.kind != 'y4m' else 'y4m'}, {target.width}x{target.height} px, "
        f"{'GIF' if target.kind == 'gif' else f'{target.encoder} {target.pix_fmt}'}",
        f"network: {job.network.card['name']} on {device.kind}, {device.precision}; {window}, {tiles}; "
        f"about {gigabytes:.1f} GiB",
        *noise,
        *grain,
    ]


def option_lines(sourced: SourcedOptions, complete: bool) -> list[str]:
    """Where options come from, one line for each place; else only those from files."""
    return [f"options {line}" for line in (sourced.lines() if complete else sourced.notes())]


def time_line(job: Job, seconds: float | None) -> str:
    """What remains to be done, and how long that may take."""
    kept = f"{job.kept} of {job.frames or '?'} frames are done already; " if job.kept else ""
    if seconds is None:
        return f"time: {kept}not known before the first window"
    return f"time: {kept}about {duration(seconds)}, estimated from the speed of this machine's matrix product"


class TextReport:
    """What a person reads about a job, on a display.

    Attributes:
        frames: written so far.
    """

    def __init__(self, display: SilentDisplay) -> None:
        self.frames = 0
        self._display = display
        self._notes = 0  # shown so far

    def open(self, job: Job) -> None:
        """It is prepared."""
        for line in plan_lines(job):
            self._display.say(line)
        for note in job.notes:
            self._note(note)

    def settings(self, sourced: SourcedOptions, complete: bool) -> None:
        """Where options come from: all of them in a dry run, else those from files."""
        for line in option_lines(sourced, complete):
            self._display.say(line)

    def plan(self, job: Job, seconds: float | None) -> None:
        """It would take so many seconds."""
        self._display.say(time_line(job, seconds))

    def begin(self, job: Job) -> None:
        """It is going to be run."""
        if job.kept:
            self._display.say(f"resuming after {job.kept} of {job.frames or '?'} frames")
        self._show_start(job)

    def _show_start(self, job: Job) -> None:
        compiles = getattr(job.network, "compiles", False)
        self._display.begin(job.frames, "compiling the network" if compiles else "starting")

    def update(self, progress: Progress) -> None:
        """It is so far."""
        self.frames = progress.frames
        self._show_new_notes(progress)
        self._display.update(int(progress.done), progress.total, pace(progress.rate, progress.seconds_left))

    def say_stopping(self) -> None:
        """It ends after the present window."""
        self._display.say("finishing this window; Ctrl-C again to quit at once")

    def interrupted(self, kept: int) -> None:
        """Said in a line of its own."""

    def fail(self, text: str) -> None:
        """Said in a line of its own."""

    def end(self, job: Job, progress: Progress) -> None:
        """It is done."""
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
        for line in progress.warnings:  # also with --quiet
            click.echo(printable(f"rvrt: warning: {line}"), err=True)

    def _show_new_notes(self, progress: Progress) -> None:
        for line in progress.notes[self._notes :]:
            self._note(line)
        self._notes = len(progress.notes)

    def _note(self, text: str) -> None:
        self._display.note(text)


class JsonReport:
    """What a program reads about a job.

    Attributes:
        frames: written so far.

    Events "note", then "settings" (each option's value, and what it is "from") and "plan" (dry run) or "begin", "progress",
    "stopping" (after Ctrl-C), and at last "end", "interrupted" or "error".
    """

    def __init__(self, events: JsonEvents) -> None:
        self.frames = 0
        self._events = events

    def open(self, job: Job) -> None:
        for note in job.notes:
            self._events.emit("note", text=note)

    def settings(self, sourced: SourcedOptions, complete: bool) -> None:
        if complete:
            self._events.emit("settings", **sourced.to_dict())
        for line in () if complete else option_lines(sourced, complete):
            self._events.emit("note", text=line)

    def plan(self, job: Job, seconds: float | None) -> None:
        self._events.emit("plan", **self._plan_of(job), seconds=seconds)

    def begin(self, job: Job) -> None:
        self._events.emit("begin", **self._plan_of(job))

    def _plan_of(self, job: Job) -> dict[str, Any]:
        plan, target, network = job.plan, job.target, job.network
        return {
            "frames": job.frames,
            "width": target.width,
            "height": target.height,
            "window": plan.window,
            "lookahead": plan.lookahead,
            "tile": list(plan.tile),
            "tiles": plan.tiles,
            "device": network.device.kind,
            "network": network.card["name"],
            "noise": None if job.noise is None else job.noise.levels,
            "grain": None if job.grain is None else list(job.grain.levels),
            "kept": job.kept,
        }

    def update(self, progress: Progress) -> None:
        self.frames = progress.frames
        self._events.emit("progress", **progress.to_dict())

    def say_stopping(self) -> None:
        self._events.emit("stopping")

    def interrupted(self, kept: int) -> None:
        self._events.emit("interrupted", frames=self.frames, kept=kept)

    def fail(self, text: str) -> None:
        self._events.emit("error", text=text)

    def end(self, job: Job, progress: Progress) -> None:
        self._events.emit("end", target=progress.path or str(job.target.path), **progress.to_dict())


JobReport = TextReport | JsonReport
