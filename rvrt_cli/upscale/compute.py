# SPDX-License-Identifier: Apache-2.0
"""Compute the segments of a job that are missing: decoding, network and encoding overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from rvrt_cli import engine
from rvrt_cli.data.resize import imresize
from rvrt_cli.frame import Frame, round_levels
from rvrt_cli.upscale.job import Job
from rvrt_cli.upscale.progress import Reporter
from rvrt_cli.upscale.workdir import SourceEnd, Workdir
from rvrt_cli.video.read.reader import Reader, open_reader
from rvrt_cli.video.write.target import Target
from rvrt_cli.video.write.writers import SegmentWriter, Y4mWriter


def compute(job: Job, reporter: Reporter, claim: Callable[[int], bool] = lambda first: True) -> None:
    """Compute the segments that are missing in the work folder, or all frames where there is none.

    Args:
        claim: called with the first frame of each scene that begins a segment; false: another rank computes it and the
            segments up to the next such scene.

    Raises:
        RvrtError: with the remedy.
    """
    watch, workdir = reporter.watch, job.workdir
    with ExitStack() as stack:
        reader = stack.enter_context(_open_reader(job))
        writer = stack.enter_context(_open_writer(job, reader))
        source = _CountedFrames(reader)
        segments = engine.stream(
            watch.iterate("waiting_for_source", source),
            job.network,
            job.plan,
            segments=_missing_segments(job, claim),
            on_event=reporter.on_event,
        )
        for segment in watch.iterate("network", segments):
            with watch("waiting_for_target"):
                with writer.segment(segment.first):
                    for frame in watch.iterate("network", segment):
                        writer.write(resize_frame(frame, job.target))
                        reporter.frame_written()
                if workdir is not None:
                    workdir.record(segment)
        if workdir is None:
            reporter.progress.warnings = reader.warnings
        else:
            workdir.record_end(SourceEnd(source.count, reader.end_pts, tuple(reader.warnings)))


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


def _missing_segments(job: Job, claim: Callable[[int], bool]) -> engine.SegmentPlan:
    if job.workdir is None:
        return engine.segments.WHOLE_VIDEO
    pending = _PendingSegments(job.workdir, claim)
    return engine.SegmentPlan(job.options.segment, pending.wanted, job.carried)


class _PendingSegments:
    """Which segments this process computes: those that are not done, of scenes that it has claimed."""

    def __init__(self, workdir: Workdir, claim: Callable[[int], bool]) -> None:
        self._done = {segment.first for segment in workdir.segments()}
        self._claim = claim
        self._ours = True

    def wanted(self, first: int, starts_scene: bool) -> bool:
        """Whether to compute the segment that begins with frame `first`; asked in order."""
        if starts_scene:
            self._ours = self._claim(first)
        return self._ours and first not in self._done


def resize_frame(frame: Frame, target: Target) -> Frame:
    """The frame at the target's size: MATLAB's antialiased bicubic (`imresize`) where it has another one."""
    size = target.height, target.width
    if frame.pixels.shape[:2] == size and (frame.alpha is None or frame.alpha.shape == size):
        return frame
    alpha = None if frame.alpha is None else resize_levels(frame.alpha[..., None], size)[..., 0]
    return replace(frame, pixels=resize_levels(frame.pixels, size), alpha=alpha)


def resize_levels(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Integer pixels (H, W, C) at another size (H, W), by `imresize`."""
    if levels.shape[:2] == size:
        return levels
    return round_levels(imresize(levels.astype(np.float32), size=size), levels.dtype)
