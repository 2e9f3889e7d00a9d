"""Doing the work: reading, windows and tiles, network, writing, each overlapping the others; segment by segment."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rvrt_cli import engine
from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.frame import Frame
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale.job import Job, prepare
from rvrt_cli.upscale.workdir import Segment, Work
from rvrt_cli.video.read.reader import Reader, open_reader
from rvrt_cli.video.write.publish import join, part_file, publish
from rvrt_cli.video.write.target import Target
from rvrt_cli.video.write.writers import Writer, open_writer


@dataclass
class Progress:
    """How far a job is; passed to `on_progress` after every frame.

    Attributes:
        frames: written so far, of `total`; those of earlier runs (`kept`) included.
        computed: frames that are through the network, parts of a window and those kept included.
        elapsed, waiting_for_source, network, waiting_for_target: s, of this run.
        notes: what came up on the way, one line each.
        warnings: what was wrong with the source and survived, missing frames above all; one line each, at the end.
        path: of the target, when it is complete.
    """

    total: int | None
    frames: int = 0
    computed: float = 0.0
    scenes: int = 0
    elapsed: float = 0.0
    waiting_for_source: float = 0.0
    network: float = 0.0
    waiting_for_target: float = 0.0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kept: int = 0
    path: str | None = None

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


def run(job: Job, on_progress: Callable[[Progress], None] | None = None) -> Progress:
    """Do the work; the target appears when it is complete, and not at all otherwise.

    What is done when it is interrupted stays in the job's work folder, and the same job goes on from there.

    Raises:
        RvrtError: with the remedy.
    """
    started = time.monotonic()
    progress = Progress(job.frames, frames=job.kept, computed=job.kept, kept=job.kept)

    def report() -> None:
        progress.elapsed = time.monotonic() - started
        if on_progress is not None:
            on_progress(progress)

    if job.work is None:
        compute(job, progress, report)
    elif job.options.node > 0:
        if not _all_computed(job, job.work):  # else machine 0 has nothing to meet for
            _compute_in_ranks(job, progress, report)
    else:
        with job.work.locked():
            _fill(job, job.work, progress, report)
    report()
    return progress


def _fill(job: Job, work: Work, progress: Progress, report: Callable[[], None]) -> None:
    """Compute what is missing in the work folder, and make the target of it."""
    if job.finished:
        progress.frames, progress.path = job.kept, str(job.target.path)
        work.remove()
        return
    try:
        if not job.goes_on or work.manifest() != job.manifest:
            work.start(job.manifest)
        if work.complete() is None:
            (_compute_in_ranks if job.options.ranks > 1 else compute)(job, progress, report)
        _finish(job, work, progress)
    except BaseException:
        with contextlib.suppress(RvrtError):
            if not (job.resumable and work.segments()):
                work.remove()
        raise
    work.remove()


def _all_computed(job: Job, work: Work) -> bool:
    """Whether an earlier run of the same has left only the last step."""
    with contextlib.suppress(MediaError):
        manifest = work.manifest()
        return manifest is not None and not manifest.differences(job.manifest.about) and work.complete() is not None
    return False


def _compute_in_ranks(job: Job, progress: Progress, report: Callable[[], None]) -> None:
    from rvrt_cli.upscale.distribute import compute_in_ranks

    compute_in_ranks(job, progress, report)


def _finish(job: Job, work: Work, progress: Progress) -> None:
    """All segments become the target."""
    before = time.monotonic()
    segments, ended = work.complete(), work.ended()
    if segments is None or ended is None:  # everything has been computed, so some record is not of this source
        work.remove()
        raise MediaError(
            f"{work.folder}: damaged, its segments do not fit the source; run the same command to start afresh"
        )
    progress.frames, until, progress.warnings = ended
    if progress.frames == 0:
        raise MediaError(f"{job.source.path}: no frame in the part asked for; check --start and --duration")
    parts = [part_file(job.target, work.folder, segment.first) for segment in segments]
    options = job.options
    result = join(
        job.target, job.source, work.folder, parts, progress.frames,
        until=until * job.source.time_base if until is not None else None, start=options.start,
        duration=options.duration, warnings=progress.warnings,
    )  # fmt: skip
    work.publishing(result, job.manifest.about, progress.frames)
    progress.path = str(publish(job.target, result))
    progress.waiting_for_target += time.monotonic() - before


def compute(
    job: Job,
    progress: Progress,
    report: Callable[[], None],
    mine: Callable[[int], bool] = lambda first: True,
) -> None:
    """Compute the segments that are missing, or all frames where there is no work folder.

    Args:
        report: called after every frame and tile.
        mine: called with the first frame of each scene that begins a segment; false: another rank computes it and the
            segments up to the next such scene.

    Raises:
        RvrtError: with the remedy.
    """
    options, work = job.options, job.work
    done = {segment.first for segment in work.segments()} if work is not None else set()
    passed = progress.computed  # frames of complete windows
    ours = True
    writer: Writer

    def wanted(first: int, starts_scene: bool) -> bool:
        nonlocal ours
        ours = mine(first) if starts_scene else ours
        return ours and first not in done

    def on_event(event: engine.Event) -> None:
        nonlocal passed
        before = time.monotonic()
        if isinstance(event, engine.SceneStarted):
            progress.scenes += 1
        elif isinstance(event, engine.TileDone):
            progress.computed = passed + event.frames * event.tile / event.tiles
            passed += event.frames * (event.tile == event.tiles)
            report()
        elif isinstance(event, engine.TileShrunk):
            smaller = ("x".join(map(str, reversed(tile))) for tile in (event.before, event.after))
            progress.notes.append("memory ran out: tiles of {} px are now {} px".format(*smaller))
        elif isinstance(event, engine.FramesPassed):
            for _ in range(event.frames):
                source.waiting.popleft()
        elif work is not None and isinstance(event, engine.SegmentStarted):
            writer.begin(event.first)
            progress.waiting_for_target += time.monotonic() - before
        elif work is not None and isinstance(event, engine.SegmentDone):
            writer.end()
            carries = event.carried is not None
            work.add(Segment(event.first, event.frames, event.starts_scene, carries), event.carried)
            progress.waiting_for_target += time.monotonic() - before

    with ExitStack() as stack:
        reader = stack.enter_context(
            open_reader(
                job.source,
                start=options.start,
                duration=options.duration,
                deinterlace=options.deinterlace,
                alpha=job.target.keeps_alpha,
            )
        )
        writer = stack.enter_context(
            open_writer(
                job.target, job.source, width=job.target.width, height=job.target.height,
                time_base=reader.time_base, start=options.start, duration=options.duration,
                work=work.folder if work is not None else None,
            )
        )  # fmt: skip
        source = _Source(reader, progress)
        segments = engine.Segments(options.segment, wanted, job.carried) if work is not None else None
        outputs = engine.stream(source, job.network, job.plan, segments=segments, on_event=on_event)
        while True:
            before = time.monotonic() - progress.waiting_for_source - progress.waiting_for_target
            pixels = next(outputs, None)
            progress.network += time.monotonic() - progress.waiting_for_source - progress.waiting_for_target - before
            if pixels is None:
                break
            before = time.monotonic()
            writer.write(_finished(pixels, source.waiting.popleft(), job.target))
            progress.waiting_for_target += time.monotonic() - before
            progress.frames += 1
            report()
        before = time.monotonic()
        if work is not None:
            work.end(source.frames, reader.until, reader.warnings)
        else:
            progress.warnings = reader.warnings
            writer.finish(reader.until)
        progress.waiting_for_target += time.monotonic() - before


class _Source:
    """The frames' pixels, one by one; their times wait in `waiting` for the frame that comes out."""

    def __init__(self, reader: Reader, progress: Progress) -> None:
        self.waiting: deque[Frame] = deque()
        self.frames = 0  # read so far
        self._reader, self._progress = reader, progress

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = iter(self._reader)
        while True:
            before = time.monotonic()
            frame = next(frames, None)
            self._progress.waiting_for_source += time.monotonic() - before
            if frame is None:
                return
            self.frames += 1
            self.waiting.append(Frame(np.empty((0, 0, 3), frame.pixels.dtype), frame.pts, frame.alpha))
            yield frame.pixels


def _finished(pixels: np.ndarray, source: Frame, target: Target) -> Frame:
    """The output frame at the target's size, with the source frame's time and alpha."""
    from rvrt_cli.data.resize import imresize

    size = target.height, target.width
    limit = np.iinfo(pixels.dtype).max

    def fit(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == size:
            return image
        return np.rint(np.clip(imresize(image.astype(np.float32), size=size), 0, limit)).astype(image.dtype)

    alpha = None if source.alpha is None else fit(source.alpha[..., None])[..., 0]
    return Frame(fit(pixels), source.pts, alpha)


def upscale_video(
    source: str | Path,
    target: str | Path,
    options: UpscaleOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Enlarge a video, an image sequence or a y4m stream, keeping frame times, sound and colors.

    Interrupted by whatever it may be, the same call goes on with what was done.

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
