# SPDX-License-Identifier: Apache-2.0
"""Excerpts of a source, upscaled with the options of the whole job, and what that would take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rvrt_cli.compare.aligned_frames import Comparison
from rvrt_cli.compare.choose_excerpts import ExcerptPlace, choose_excerpts
from rvrt_cli.compare.compare_videos import PageText, ShownExcerpt, comparison_page
from rvrt_cli.compare.preview_options import PreviewOptions
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import Progress, prepare, run
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.read.telecine import inverse_telecined


@dataclass
class Estimate:
    """What was measured on the excerpts, and what it means for the whole job.

    Attributes:
        total: frames of the whole job.
        frames, seconds, bytes: measured on the excerpts.
    """

    total: int
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0

    @property
    def measured(self) -> str:
        """What was measured, in words."""
        return f"{self.frames} frames in {self.seconds:.1f} s, {self.seconds / self.frames:.2f} s a frame"

    @property
    def job_seconds(self) -> float:
        return self.seconds / self.frames * self.total

    @property
    def job_bytes(self) -> float:
        return self.bytes / self.frames * self.total

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "job_seconds": self.job_seconds, "job_bytes": self.job_bytes}


def preview_job(
    source: str | Path,
    options: UpscaleOptions,
    preview: PreviewOptions,
    on_progress: Callable[[int, int, Progress], None] = lambda number, count, progress: None,
) -> tuple[str, Estimate]:
    """(the page that compares upscaled excerpts with the source, what the whole job would take).

    Args:
        on_progress: called with the number of the excerpt (from 0), of how many, and how far it is.

    Raises:
        RvrtError: with the remedy, as `rvrt_cli.upscale.prepare`.
    """
    if str(source) == "-":
        raise OptionError("-: a preview reads the source more than once; write the stream to a file first")
    info = inverse_telecined(probe(source)) if options.ivtc else probe(source)
    length = preview.frames / float(info.frame_rate)
    begin, total = _job_part(info, options)
    places = choose_excerpts(info, begin + total, length, preview.excerpts, preview.times, begin=begin)
    estimate = Estimate(round(total * float(info.frame_rate)))
    shown = []
    with tempfile.TemporaryDirectory(prefix="rvrt-preview-") as folder:
        for number, place in enumerate(places):
            target = Path(folder) / f"excerpt-{number + 1}.mkv"
            part = replace(options, start=place.begin, duration=length, ranks=1, local_ranks=0, node=0, master=None)
            job = prepare(source, target, part)
            progress = run(job, lambda progress, number=number: on_progress(number, len(places), progress))  # type: ignore[misc]
            estimate.frames += progress.frames
            estimate.seconds += progress.elapsed
            estimate.bytes += target.stat().st_size
            comparison = Comparison(info, probe(target), begin=place.begin)
            shown.append(ShownExcerpt(comparison, ExcerptPlace(0.0, place.reason), length))
        page = comparison_page(shown, _text(info, estimate))
    return page, estimate


def _job_part(info: SourceInfo, options: UpscaleOptions) -> tuple[float, float]:
    """(begin, duration) of what the whole job upscales [s].

    Raises:
        MediaError: the source does not tell how long it is.
    """
    if info.duration is None:
        raise MediaError(f"{info.path}: does not state its length, so that nothing can be chosen of it; remux it first")
    rest = info.duration - options.start
    if rest <= 0:
        raise MediaError(f"{info.path}: --start {options.start:g} is beyond its end; lower --start")
    return options.start, rest if options.duration is None else min(rest, options.duration)


def _text(info: SourceInfo, estimate: Estimate) -> PageText:
    facts = [("measured", estimate.measured)]
    hours = estimate.job_seconds / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{estimate.job_seconds / 60:.1f} min"
    whole = f"all {estimate.total} frames: about {time} and {estimate.job_bytes / 1e6:.1f} MB"
    facts.append(("whole job", whole))
    note = "The size is rather too large: every excerpt begins with a keyframe. Curves need the whole: rvrt compare."
    return PageText(f"Preview of {Path(info.path).name}", whole.capitalize(), tuple(facts), (note,))
