# SPDX-License-Identifier: Apache-2.0
"""Compute the segments of a job that are missing: decoding, network and encoding overlap."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from rvrt_cli import engine
from rvrt_cli.frame import Frame
from rvrt_cli.upscale.interruption import Interruption
from rvrt_cli.upscale.job import Job
from rvrt_cli.upscale.progress import Reporter
from rvrt_cli.upscale.workdir import SourceEnd, Workdir
from rvrt_cli.video.read.reader import Reader, open_reader
from rvrt_cli.video.write.writers import SegmentWriter, Y4mWriter


def compute(
    job: Job,
    reporter: Reporter,
    interruption: Interruption,
    claim: Callable[[int], bool] = lambda first: True,
) -> None:
    """Compute the segments that are missing in the work folder, or all frames where there is none.

    Args:
        interruption: once it is requested, the present window is finished and its segment kept.
        claim: called with the first frame of each group of scenes; false: another rank computes it.

    Raises:
        RvrtError: with the remedy.
        KeyboardInterrupt: an interruption was requested.
    """
    watch, workdir, finish = reporter.watch, job.workdir, job.finish
    with ExitStack() as stack:
        reader = stack.enter_context(_open_reader(job))
        writer = stack.enter_context(_open_writer(job, reader))
        if job.resumable:
            stack.enter_context(interruption.after_window())
        stack.enter_context(reporter.watching(job.network))
        source = _CountedFrames(reader)
        segments = engine.stream(
            watch.iterate("waiting_for_source", source),
            job.network,
            job.plan,
            segments=_plan_segments(job, interruption, claim),
            keep_source=finish.needs_source,
            on_event=reporter.on_event,
        )
        for segment in watch.iterate("network", segments):
            with watch("waiting_for_target"):
                with writer.segment(segment.first):
                    for frame in watch.iterate("network", segment):
                        writer.write(finish(frame))
                        reporter.frame_written()
                if workdir is not None:
                    workdir.record(segment)
            if interruption.requested:
                raise KeyboardInterrupt
        if workdir is None:
            reporter.progress.warnings = reader.warnings
        else:
            workdir.record_end(SourceEnd(source.count, reader.end_pts, tuple(reader.warnings)))
        if interruption.requested:  # since the last segment
            raise KeyboardInterrupt


def _open_reader(job: Job) -> Reader:
    options = job.options
    return open_reader(
        job.source,
        start=options.start,
        duration=options.duration,
        deinterlace=options.deinterlace,
        alpha=job.target.keeps_alpha,
    )


def _open_writer(job: Job, reader: Reader) -> SegmentWriter | Y4mWriter:
    if job.workdir is None:
        return Y4mWriter(job.target, job.source)
    return SegmentWriter(
        job.target, job.source, job.workdir.folder, time_base=reader.time_base, start=job.options.start
    )


class _CountedFrames:
    """A reader's frames; `count` is how many have been read."""

    def __init__(self, reader: Reader) -> None:
        self.count = 0
        self._reader = reader

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._reader:
            self.count += 1
            yield frame
            del frame


def _plan_segments(job: Job, interruption: Interruption, claim: Callable[[int], bool]) -> engine.SegmentPlan:
    if job.workdir is None:
        return engine.segments.WHOLE_VIDEO
    missing = _MissingSegments(job.workdir, job.options.segment, interruption, claim)
    return engine.SegmentPlan(missing.wanted, missing.full, job.carried)


class _MissingSegments:
    """Which windows this process computes, those that are not done of groups that it has claimed, and in which segments.

    Args:
        seconds: of work, after which a segment ends.
    """

    def __init__(
        self, workdir: Workdir, seconds: float, interruption: Interruption, claim: Callable[[int], bool]
    ) -> None:
        self._done = workdir.segments()
        self._first_frames = [segment.first for segment in self._done]
        self._seconds, self._interruption, self._claim = seconds, interruption, claim
        self._ours = True
        self._begun = 0.0

    def wanted(self, first: int, starts_group: bool) -> bool:
        """Whether to begin a segment with the window from frame `first` on; asked in order."""
        if starts_group:
            self._ours = self._claim(first)
        self._begun = time.monotonic()
        return self._ours and not self._is_done(first)

    def full(self, first: int, after: int) -> bool:
        """Whether the segment that began last ends before frame `after`."""
        long_enough = time.monotonic() - self._begun >= self._seconds
        return long_enough or self._interruption.requested or self._is_done(after)

    def _is_done(self, frame: int) -> bool:
        before = bisect_right(self._first_frames, frame) - 1
        return before >= 0 and frame < self._done[before].after
