"""`rvrt upscale`: enlarge a video."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.interrupt import end, second_ends_at_once
from rvrt_cli.errors import MediaError, printable
from rvrt_cli.options import DEVICES, PRECISIONS, UpscaleOptions

if TYPE_CHECKING:
    from rvrt_cli.upscale import Job, Progress

_PLAIN_SECONDS = 5.0  # between lines where there is no terminal


@click.command(short_help="Upscale a video or images fourfold.")
@click.argument("source")
@click.argument("target")
@click.option("--model", default=UpscaleOptions.model, show_default=True, help="Weights, see `rvrt weights list`.")
@click.option("--weights", metavar="FILE", help="A weights file in place of --model.")
@click.option("--device", type=click.Choice(DEVICES), default=UpscaleOptions.device, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default=UpscaleOptions.precision, show_default=True)
@click.option("--scale", type=int, default=UpscaleOptions.scale, show_default=True, help="2, 3 or 4.")
@click.option("--size", metavar="SIZE", help="Output size such as 1920x1080 or 1080p, in place of --scale.")
@click.option("--window", type=int, help="Frames per round; 0: all at once. [default: by memory]")
@click.option("--lookahead", type=int, default=UpscaleOptions.lookahead, show_default=True,
              help="Frames of the future that a window sees.")  # fmt: skip
@click.option("--tile", type=int, help="Tile edge before upscaling [px]; 0: untiled. [default: by memory]")
@click.option("--overlap", type=int, default=UpscaleOptions.overlap, show_default=True, help="Of tiles [px].")
@click.option("--memory", metavar="SIZE", help="Memory to use, such as 4G. [default: most of what is free]")
@click.option("--start", type=float, default=UpscaleOptions.start, show_default=True, help="Where to begin [s].")
@click.option("--duration", type=float, help="How much to take [s].")
@click.option("--deinterlace", is_flag=True, help="Make whole frames of an interlaced source's fields first.")
@click.option("--codec", help="ffmpeg's video encoder. [default: libx264; libvpx-vp9 for .webm]")
@click.option("--crf", type=int, help="Encoder quality, lower is better.")
@click.option("--preset", help="Encoder speed.")
@click.option("--pix-fmt", help="Encoder pixel format, such as yuv420p10le.")
@click.option("--overwrite", is_flag=True, help="Replace an existing target.")
@click.option("--segment", type=int, default=UpscaleOptions.segment, show_default=True,
              help="Frames that are kept as one when the command is interrupted.")  # fmt: skip
@click.option("--ranks", type=int, default=UpscaleOptions.ranks, show_default=True,
              help="Processes that share out the scenes; one long scene runs on one of them.")  # fmt: skip
@click.option("--local-ranks", type=int, default=UpscaleOptions.local_ranks, help="Of them on this machine. "
              "[default: all]")  # fmt: skip
@click.option("--node", type=int, default=UpscaleOptions.node, show_default=True,
              help="Number of this machine; the one of --master is 0.")  # fmt: skip
@click.option("--master", metavar="HOST:PORT", help="Where the ranks of several machines meet; they share the folders "
              "of SOURCE and TARGET.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, an object a line.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors, and what is wrong with SOURCE.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def upscale(source: str, target: str, dry_run: bool, as_json: bool, quiet: bool, debug: bool, **options: Any) -> None:
    """Upscale SOURCE fourfold into TARGET, keeping frame times, sound and colors.

    SOURCE is a video, a folder or pattern of images, a GIF, or - for y4m on standard input. TARGET is a video (.mp4
    .mov .mkv .webm), a folder for PNG, or - for y4m on standard output.

    An interrupted command, run again, goes on where it was; until then what is done lies beside TARGET. Ctrl-C once
    keeps what is done, twice ends at once.

    \b
    Example: rvrt upscale in.mp4 out.mp4 --size 1080p
    """
    chosen = UpscaleOptions(**{field.name: options[field.name] for field in fields(UpscaleOptions)})
    from rvrt_cli.upscale import prepare, run

    display = _display(as_json, quiet, to_stdout=target != "-")
    with display.loading():
        job = prepare(source, target, chosen)
    for line in _plan_lines(job):
        display.say(line)
    if dry_run:
        for line in _plan_lines(job) if quiet else ():
            click.echo(printable(line))
        return
    for note in job.notes:
        display.note(note)
    if job.kept:
        display.say(f"going on after {job.kept} of {job.frames or '?'} frames")
    try:
        with second_ends_at_once("rvrt: ended at once; run the same command to go on"), display:
            display.begin(job)
            done = run(job, display.update)
    except KeyboardInterrupt:
        _interrupted(display, job)
    display.end(job, done)
    if not as_json:  # which has them in its last object
        for line in done.warnings:
            click.echo(printable(f"rvrt: warning: {line}"), err=True)


def _interrupted(display: Any, job: Job) -> None:
    kept, then = 0, "start again"
    if job.workdir is not None and job.resumable:
        with suppress(MediaError):
            kept = sum(segment.frames for segment in job.workdir.segments())
        if kept:
            then = f"go on after the {kept} that are kept in {job.workdir.folder.name}"
    text = (
        f"rvrt: interrupted after {display.frames} of {job.frames or '?'} frames; {job.target.path} was not written. "
        f"Run the same command to {then}"
    )
    click.echo(printable(text), err=True)
    end()


def _plan_lines(job: Job) -> list[str]:
    """What is going to happen, for a person."""
    source, target, plan = job.source, job.target, job.plan
    frames = f"{job.frames} frames" if job.frames else "frames"
    rate = f"{float(source.frame_rate):.6g}/s"
    kept = [stream for stream in source.streams if stream.index != source.stream_index]
    along = ", ".join(f"{stream.type} {stream.codec}".strip() for stream in kept) or "no other streams"
    height, width = plan.tile
    tiles = "untiled" if plan.tiles == 1 else f"{plan.tiles} tiles of {width}x{height} px, overlap {plan.overlap} px"
    window = f"windows of {plan.window} + {plan.lookahead} frames" if plan.window else "each scene at once"
    device = job.network.device
    gigabytes = (plan.device_bytes + plan.host_bytes) / 2**30
    return [
        f"source: {source.path}, {source.width}x{source.height} px, {frames} at {rate}; {along}",
        f"target: {target.path if target.kind != 'y4m' else 'y4m'}, {target.width}x{target.height} px, "
        f"{target.encoder or target.kind} {target.pix_fmt}",
        f"network: {job.network.card['name']} on {device.kind}, {device.precision}; {window}, {tiles}; "
        f"about {gigabytes:.1f} GiB",
    ]


def _display(as_json: bool, quiet: bool, to_stdout: bool) -> Any:
    if as_json:
        return _Json(to_stdout)
    if quiet:
        return _Quiet()
    return _Live() if sys.stderr.isatty() else _Plain()


class _Quiet:
    """Prints nothing while it works; the others add to it."""

    frames = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def loading(self) -> AbstractContextManager:
        return nullcontext()

    def say(self, line: str) -> None: ...

    def note(self, line: str) -> None: ...

    def begin(self, job: Job) -> None: ...

    def update(self, progress: Progress) -> None:
        self.frames = progress.frames

    def end(self, job: Job, progress: Progress) -> None: ...


class _Plain(_Quiet):
    """Lines, for a log."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._notes = 0

    def say(self, line: str) -> None:
        click.echo(printable(line), err=True)

    def note(self, line: str) -> None:
        self.say(f"note: {line}")

    def update(self, progress: Progress) -> None:
        super().update(progress)
        self._new_notes(progress)
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self._last = time.monotonic()
            self.say(_standing(progress))

    def end(self, job: Job, progress: Progress) -> None:
        self._new_notes(progress)
        rest = progress.elapsed - progress.network - progress.waiting_for_source - progress.waiting_for_target
        shares = {
            "network": progress.network,
            "waiting for decoding": progress.waiting_for_source,
            "waiting for encoding": progress.waiting_for_target,
            "other": max(0.0, rest),
        }
        where = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in shares.items())
        before = f", {progress.kept} of them before" if progress.kept else ""
        self.say(f"{progress.frames} frames{before} in {progress.elapsed:.1f} s: {where}")
        if progress.path is not None:
            self.say(f"wrote {progress.path}")
        elif job.options.node:
            self.say(f"this machine's part is done; machine 0 writes {job.target.path}")

    def _new_notes(self, progress: Progress) -> None:
        for line in progress.notes[self._notes :]:
            self.note(line)
        self._notes = len(progress.notes)


class _Live(_Plain):
    """A progress bar, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True), TextColumn("left"),
            console=self._console,
        )  # fmt: skip

    def loading(self) -> AbstractContextManager:
        return self._console.status("loading the network")

    def say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        self._console.print(printable(f"note: {line}"), markup=False, style="yellow", soft_wrap=True)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, job: Job) -> None:
        self._task = self._bar.add_task("upscale", total=job.frames, rate="")

    def update(self, progress: Progress) -> None:
        self.frames = progress.frames
        self._new_notes(progress)
        rate = f"{_rate(progress):.2f}/s" if progress.computed else ""
        self._bar.update(self._task, completed=int(max(progress.computed, progress.frames)), rate=rate)


class _Json(_Quiet):
    """One object a line, for a program."""

    def __init__(self, to_stdout: bool) -> None:
        self._err = not to_stdout

    def _print(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}), err=self._err)

    def note(self, line: str) -> None:
        self._print("note", text=line)

    def begin(self, job: Job) -> None:
        plan = job.plan
        self._print(
            "begin", frames=job.frames, width=job.target.width, height=job.target.height, window=plan.window,
            lookahead=plan.lookahead, tile=list(plan.tile), tiles=plan.tiles, device=job.network.device.kind,
            network=job.network.card["name"], kept=job.kept,
        )  # fmt: skip

    def update(self, progress: Progress) -> None:
        super().update(progress)
        self._print("progress", **progress.to_dict())

    def end(self, job: Job, progress: Progress) -> None:
        self._print("end", target=progress.path or str(job.target.path), **progress.to_dict())


def _rate(progress: Progress) -> float:
    """Frames/s of this run."""
    done = max(progress.computed, progress.frames) - progress.kept
    return done / progress.elapsed if progress.elapsed else 0.0


def _standing(progress: Progress) -> str:
    done, rate = max(progress.computed, progress.frames), _rate(progress)
    left = f", {(progress.total - done) / rate:.0f} s left" if progress.total and rate else ""
    return f"{done:.0f}/{progress.total or '?'} frames, {rate:.2f}/s{left}"
