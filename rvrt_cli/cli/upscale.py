# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale`: upscale a video or images; and what it shares with `rvrt restore`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.display import JsonEvents, SilentDisplay, open_display
from rvrt_cli.cli.generated_options import Command, dataclass_options, options_of
from rvrt_cli.cli.interrupt import exit_after_interrupt, finishing_window
from rvrt_cli.cli.job_reports import JobReport, JsonReport, TextReport, option_lines, plan_lines, time_line
from rvrt_cli.cli.option_files import SourcedOptions, explain_origin, sourced_options
from rvrt_cli.cli.run_queue import IVTC_UNCHECKED, JobFlags, run_queue
from rvrt_cli.errors import OptionError, RvrtError, in_one_line, printable
from rvrt_cli.options import JobOptions, QueueOptions, UpscaleOptions

if TYPE_CHECKING:
    from rvrt_cli.upscale import Job, Progress


def job_flags(command: Command) -> Command:
    """The options that are about the command's output, not about the job."""
    for option in (
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option("--quiet", "-q", is_flag=True, help="Print only errors, and warnings about SOURCE."),
        click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line."),
        click.option("--check", is_flag=True, help="Compare TARGET with SOURCE at the end, as `rvrt check` does."),
        click.option("--dry-run", is_flag=True, help="Print the plan and exit."),
    ):
        command = option(command)
    return command


def source_arguments(command: Command) -> Command:
    """SOURCE and TARGET, or any number of sources with --output-dir."""
    return click.argument("sources", nargs=-1, metavar="SOURCE TARGET | SOURCE... --output-dir FOLDER")(command)


@click.command("upscale", short_help="Upscale videos or images fourfold.")
@source_arguments
@dataclass_options(UpscaleOptions)
@dataclass_options(QueueOptions)
@job_flags
def upscale_command(sources: tuple[str, ...], **values: Any) -> None:
    """Upscale SOURCE fourfold into TARGET, keeping timestamps, audio and colors.

    SOURCE is a video, an image, a folder or pattern of images, a GIF, or - for y4m on standard input. TARGET is a video
    (.mp4 .mov .mkv .webm), a .gif, an image (.png .jpg .tif .webp), a folder for PNG images (its name ends in /), or -
    for y4m on standard output.

    Options can also stand in a file rvrt.toml, beside SOURCE or in the user's configuration folder; --dry-run prints where each
    value comes from.

    An interrupted command resumes when it is run again; until it is complete, finished segments are kept beside TARGET.
    Press Ctrl-C once to finish and keep the present window and exit, twice to exit at once.

    With --output-dir FOLDER, every argument is a source: videos, images, folders of videos, or folders of images, each of which
    is one sequence. They are upscaled one after the other into FOLDER. What fails is reported and does not stop the rest; the
    exit status is the number of failures, 125 at most. The same command continues, and skips what is finished.

    \b
    Examples:
      rvrt upscale in.mp4 out.mp4
      rvrt upscale in.mkv out.mkv --size 1080p --codec libx265 --quality 80
      rvrt upscale in.mp4 preview.mp4 --start 00:01:00 --duration 10
      rvrt upscale frames/ out.mp4 --fps 30
      rvrt upscale in.mp4 out.mp4 --dry-run
      rvrt upscale a.mp4 b.mkv holiday/ --output-dir out/ --suffix -x4
    """
    run_sources(UpscaleOptions, sources, values)


def run_sources(kind: type[JobOptions], sources: tuple[str, ...], values: dict[str, Any]) -> None:
    """Do what a command line asks for: one job, or with --output-dir a queue of jobs.

    Args:
        sources: SOURCE and TARGET of the one job.
        values: of the fields of `kind` and `QueueOptions`, and of `job_flags`.
    """
    queue = options_of(QueueOptions, values)
    if queue.output_dir is not None:
        if not sources:
            raise click.UsageError("Missing argument 'SOURCE'.", click.get_current_context())
        flags = JobFlags.of(values)
        sys.exit(run_queue(sources, lambda source: sourced_options(kind, values, source), queue, flags))
    if len(sources) > 2:
        raise click.UsageError(
            f"Got unexpected extra argument ({sources[2]}); several sources need --output-dir",
            click.get_current_context(),
        )
    if len(sources) < 2:
        raise click.UsageError(f"Missing argument '{'TARGET' if sources else 'SOURCE'}'.", click.get_current_context())
    source, target = sources
    run_job(kind, source, target, values)


def run_job(kind: type[JobOptions], source: str, target: str, values: dict[str, Any]) -> None:
    """Do what a command line asks for, and print how it goes.

    Args:
        values: of the fields of `kind`, and of `job_flags`.
    """
    sourced = sourced_options(kind, values, source)
    chosen = sourced.options
    dry_run, as_json, quiet = values["dry_run"], values["as_json"], values["quiet"]
    if values["check"] and "-" in (source, target):
        raise OptionError("--check: reads SOURCE and TARGET again, and - cannot be; omit it, or name files")
    if values["check"] and chosen.ivtc:
        raise OptionError(IVTC_UNCHECKED)
    display = SilentDisplay() if quiet or as_json else open_display("frames")
    report = JsonReport(JsonEvents(stderr=target == "-")) if as_json else TextReport(display)
    try:
        with display.working("reading the source" if dry_run else "loading the network"):
            from rvrt_cli.upscale import prepare

            with explain_origin(sourced.origins):
                job = prepare(source, target, chosen, dry_run=dry_run)
        report.open(job)
        report.settings(sourced, complete=dry_run)
        if dry_run:
            _print_plan(job, sourced, report, quiet)
            return
        done = _run(job, report, display)
    except (RvrtError, OSError) as error:
        report.fail(in_one_line(error))
        raise
    except KeyboardInterrupt:  # before the work
        report.interrupted(0)
        raise
    if values["check"] and done.path is not None:
        _check_target(source, done.path, chosen, JsonEvents(stderr=False) if as_json else None)


def _print_plan(job: Job, sourced: SourcedOptions, report: JobReport, quiet: bool) -> None:
    """What a dry run prints; with --quiet the plan alone."""
    from rvrt_cli.upscale.time_estimate import estimate_seconds

    seconds = estimate_seconds(job)
    report.plan(job, seconds)
    if quiet and isinstance(report, TextReport):
        for line in [*plan_lines(job), *option_lines(sourced, complete=True), time_line(job, seconds)]:
            click.echo(printable(line))


def _run(job: Job, report: JobReport, display: SilentDisplay) -> Progress:
    from rvrt_cli.upscale import run

    try:
        with finishing_window(report.say_stopping) as interruption, display:
            report.begin(job)
            done = run(job, report.update, interruption)
    except KeyboardInterrupt:
        _explain_interrupt(report, job)
    report.end(job, done)
    return done


def _check_target(source: str, target: str, options: JobOptions, events: JsonEvents | None) -> None:
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


def _explain_interrupt(report: JobReport, job: Job) -> None:
    kept, then = job.frames_done(), "start again"
    if kept and job.workdir is not None:
        then = f"resume after the {kept} frames kept in {job.workdir.folder.name}"
    text = (
        f"rvrt: interrupted after {report.frames} of {job.frames or '?'} frames; {job.target.path} was not written. "
        f"Run the same command to {then}"
    )
    report.interrupted(kept)
    click.echo(printable(text), err=True)
    exit_after_interrupt()
