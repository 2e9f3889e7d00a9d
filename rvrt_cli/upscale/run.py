# SPDX-License-Identifier: Apache-2.0
"""Do a job: compute what is missing, assemble the target, publish it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.options import RestoreOptions, UpscaleOptions
from rvrt_cli.upscale.compute import compute
from rvrt_cli.upscale.distribute import compute_in_ranks
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.upscale.job import Job, prepare
from rvrt_cli.upscale.progress import Progress, Reporter
from rvrt_cli.upscale.workdir import Workdir
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.write.publish import EncodedSegments, assemble, publish


def run(
    job: Job, on_progress: Callable[[Progress], None] | None = None, interruption: Interruption | None = None
) -> Progress:
    """Do the work; the target appears when it is complete, and not at all otherwise.

    What is finished when it is interrupted stays in the job's work folder, and the same job resumes from it.

    Args:
        interruption: of which a signal handler can request to finish the present window and stop.

    Raises:
        RvrtError: with the remedy.
        KeyboardInterrupt: such a request.
    """
    interruption = interruption or Interruption()
    progress = Progress(job.frames, frames=job.kept, computed=job.kept, kept=job.kept)
    reporter = Reporter(progress, on_progress)
    if job.workdir is None:
        compute(job, reporter, interruption)
    elif job.options.node > 0:
        if not _all_computed(job, job.workdir):  # else machine 0 starts no ranks that could meet those of this one
            compute_in_ranks(job, reporter, interruption)
    else:
        with job.workdir.locked():
            _complete(job, job.workdir, reporter, interruption)
    reporter.report()
    return progress


def _complete(job: Job, workdir: Workdir, reporter: Reporter, interruption: Interruption) -> None:
    """Compute what is missing in the work folder, and make the target of it."""
    if job.earlier.finished:
        reporter.progress.frames, reporter.progress.path = job.kept, str(job.target.path)
        reporter.report()
        workdir.remove()
        return
    try:
        if job.earlier.plan is None or workdir.manifest() != job.manifest:
            workdir.start(job.manifest)
        if workdir.complete() is None:
            (compute_in_ranks if job.options.ranks > 1 else compute)(job, reporter, interruption)
        with reporter.watch("waiting_for_target"):
            _assemble_and_publish(job, workdir, reporter.progress)
    except BaseException:
        with contextlib.suppress(RvrtError):
            if not (job.resumable and workdir.segments()):
                workdir.remove()
        raise
    reporter.report()  # before the last trace of the work is gone: who keeps records of targets must not miss one
    workdir.remove()


def _all_computed(job: Job, workdir: Workdir) -> bool:
    """Whether an earlier run of the same job has left only the last step."""
    with contextlib.suppress(MediaError):
        manifest = workdir.manifest()
        same = manifest is not None and not manifest.differences(job.manifest.about)
        return same and workdir.complete() is not None
    return False


def _assemble_and_publish(job: Job, workdir: Workdir, progress: Progress) -> None:
    """Make the target of all segments."""
    segments, end = workdir.complete(), workdir.source_end()
    if segments is None or end is None:  # everything has been computed, so some record is not of this source
        workdir.remove()
        raise MediaError(
            f"{workdir.folder}: damaged, its segments do not fit the source; run the same command to restart"
        )
    progress.frames, progress.warnings = end.frames, list(end.warnings)
    if end.frames == 0:
        raise MediaError(f"{job.source.path}: no frame in the part asked for; check --start and --duration")
    excerpt = Excerpt(start=job.options.start, duration=job.options.duration, end_pts=end.end_pts)
    first_frames = tuple(segment.first for segment in segments)
    assembled = assemble(job.target, job.source, EncodedSegments(workdir.folder, first_frames, end.frames, excerpt))
    progress.warnings += assembled.warnings
    workdir.record_publishing(assembled.path, job.manifest.about, end.frames)
    progress.path = str(publish(job.target, assembled.path))


def upscale_video(
    source: str | Path,
    target: str | Path,
    options: UpscaleOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Upscale a video, an image sequence or a y4m stream, keeping timestamps, audio and colors.

    If it is interrupted, the same call resumes.

    Args:
        source: a video file, a folder or pattern of images, or "-" for y4m on standard input.
        target: a video file, a folder for PNG, or "-" for y4m on standard output.
        options: see `UpscaleOptions`.
        on_progress: called after every frame and tile.

    Returns:
        what was done and where the time went.

    Raises:
        RvrtError: with the remedy; the target is then as it was.
    """
    return run(prepare(source, target, options or UpscaleOptions()), on_progress)


def restore_video(
    source: str | Path,
    target: str | Path,
    options: RestoreOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Deblur or denoise a video, an image sequence or a y4m stream at its own size; otherwise as `upscale_video`."""
    return run(prepare(source, target, options or RestoreOptions()), on_progress)
