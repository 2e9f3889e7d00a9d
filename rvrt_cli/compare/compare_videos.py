# SPDX-License-Identifier: Apache-2.0
"""The whole comparison of two videos, or of two and the truth, as one page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rvrt_cli.compare.aligned_frames import Aligned, Comparison, aligned_frames
from rvrt_cli.compare.choose_excerpts import ExcerptPlace, choose_excerpts
from rvrt_cli.compare.compare_options import CompareOptions
from rvrt_cli.compare.curves import CurveSet
from rvrt_cli.compare.layer_media import (
    crop_window,
    detail_window,
    encode_png,
    encode_still,
    encode_video,
    layer_pitch,
    stack_layers,
)
from rvrt_cli.compare.write_page import page_html
from rvrt_cli.data.resize import imresize
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo

MAX_PAGE_BYTES = 5_000_000
_VIDEO_BYTES, _STILL_BYTES = 2_200_000, 900_000  # of all of them, before base64 adds a third
_MAX_EXCERPT_FRAMES = 90
_CROP_EDGE = 96  # px of the upscaled video
_MAX_STILL_EDGE = 1600  # px
_VIDEO_LIMIT = 4096  # px, a side that decoders of browsers take


@dataclass
class PageParts:
    """What a page shows, collected excerpt by excerpt."""

    scenes: list[dict[str, Any]] = field(default_factory=list)
    stills: list[dict[str, Any]] = field(default_factory=list)
    crops: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ShownExcerpt:
    """An excerpt of `seconds` at a place of `comparison.after`."""

    comparison: Comparison
    place: ExcerptPlace
    seconds: float


@dataclass(frozen=True)
class PageText:
    """What stands around the comparison.

    Attributes:
        title: of the page; by default the names of the videos.
        subtitle: after the sizes, below the title.
        facts: rows of its table, before those about the videos.
        notes: paragraphs below.
        curves: as `CurveSet.for_page` gives them.
    """

    title: str = ""
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    curves: tuple[dict[str, Any], ...] = ()


def compare_videos(
    before: str | Path, after: str | Path, truth: str | Path | None = None, options: CompareOptions | None = None
) -> str:
    """The page that compares videos, as HTML of at most `MAX_PAGE_BYTES`.

    Args:
        before: the source, or another upscaled video.
        after: the upscaled video.
        truth: the original at high resolution.

    Raises:
        MediaError: one cannot be read, or they have no frames at the same times.
        OptionError: one of them is standard input, or an excerpt is beyond the end.
    """
    names = [str(before), str(after), *([str(truth)] if truth is not None else [])]
    if "-" in names:
        raise OptionError("-: a comparison reads its videos more than once; write the stream to a file first")
    options = options or CompareOptions()
    comparison = Comparison(probe(before), probe(after), probe(truth) if truth is not None else None)
    places = choose_excerpts(comparison.after, comparison.seconds, options.seconds, options.excerpts, options.times)
    curves = CurveSet(comparison)
    curves.measure()
    shown = [ShownExcerpt(comparison, place, options.seconds) for place in places]
    return comparison_page(shown, PageText(curves=tuple(curves.for_page())))


def comparison_page(excerpts: list[ShownExcerpt], text: PageText) -> str:
    """The page that shows excerpts of one or several comparisons of one source.

    Raises:
        MediaError: the videos have no frames at the same times.
    """
    parts = PageParts()
    for excerpt in excerpts:
        _add_excerpt(parts, excerpt, len(excerpts))
    comparison = excerpts[0].comparison
    if not parts.scenes:
        before, after = comparison.before.path, comparison.after.path
        raise MediaError(f"{after}: has no frame at a time of {before}; give the video that it was made of")
    data = {
        "title": text.title or f"{Path(comparison.before.path).name} → {Path(comparison.after.path).name}",
        "subtitle": ". ".join(filter(None, (_subtitle(comparison), text.subtitle))),
        "layers": comparison.layers,
        "scenes": parts.scenes + parts.stills,
        "crops": parts.crops,
        "curves": text.curves,
        "curves_text": _curves_text(comparison),
        "facts": [*text.facts, *_facts(comparison)],
        "notes": [*text.notes, *_notes(comparison)],
    }
    return page_html(data)


def _add_excerpt(parts: PageParts, excerpt: ShownExcerpt, count: int) -> None:
    """Video, still and crops of one excerpt; `count`: of excerpts that share the page."""
    comparison, place = excerpt.comparison, excerpt.place
    rate = comparison.after.frame_rate
    frames = aligned_frames(comparison, place.begin, min(excerpt.seconds, _MAX_EXCERPT_FRAMES / float(rate)))
    first = next(frames, None)
    if first is None:
        return
    rows, columns = crop_window(first.layers[-1])
    stacked = [stack_layers([layer[rows, columns] for layer in frame.layers]) for frame in _with(first, frames)]
    if stacked[0].shape[0] > _VIDEO_LIMIT:
        raise MediaError(f"{comparison.after.path}: frames of this shape cannot be shown; crop the videos first")
    video = encode_video(stacked, rate, _VIDEO_BYTES // count)
    shown_at = comparison.begin + first.seconds
    size = {"width": columns.stop - columns.start, "height": rows.stop - rows.start}
    cropped = "" if first.layers[0].shape[:2] == (size["height"], size["width"]) else ", the part with most detail"
    parts.scenes.append(
        {
            "label": f"{clock_time(shown_at)}, {place.reason}",
            "reason": f"{place.reason}{cropped}",
            "video": video,
            "frames": video["frames"],
            "rate": float(rate),
            "begin": shown_at,
            "pitch": layer_pitch(size["height"]),
            **size,
        }
    )
    parts.stills.append(_still(first, shown_at, count))
    parts.crops += _crops(comparison, first, shown_at, 1 if count > 2 else 2)


def _with(first: Aligned, others: Iterator[Aligned]) -> Iterator[Aligned]:
    yield first
    yield from islice(others, _MAX_EXCERPT_FRAMES - 1)


def _still(frame: Aligned, shown_at: float, count: int) -> dict[str, Any]:
    """The whole frame as an image, reduced where it is large."""
    height, width = frame.layers[0].shape[:2]
    shrink = min(1.0, _MAX_STILL_EDGE / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    layers = frame.layers if shrink == 1 else [imresize(layer, size=size) for layer in frame.layers]
    return {
        "label": f"still {clock_time(shown_at)}",
        "reason": "the whole frame, without the compression of a video",
        "image": encode_still(stack_layers(layers), _STILL_BYTES // count),
        "pitch": layer_pitch(size[0]),
        "width": size[1],
        "height": size[0],
    }


def _crops(comparison: Comparison, frame: Aligned, shown_at: float, count: int) -> list[dict[str, Any]]:
    """Small windows with most detail, of the source and of every layer."""
    height, width = comparison.size
    edge = min(_CROP_EDGE, height, width)
    windows: list[tuple[slice, slice]] = []
    for _ in range(count):
        windows.append(detail_window(frame.layers[-1], (edge, edge), windows))
    rows = []
    for window in windows:
        parts = []
        if comparison.enlarged:
            scale = frame.small.shape[0] / height, frame.small.shape[1] / width
            small = [
                slice(int(part.start * factor), max(int(part.start * factor) + 1, round(part.stop * factor)))
                for part, factor in zip(window, scale, strict=True)
            ]
            parts.append({"label": "source", **encode_png(frame.small[small[0], small[1]])})
        for label, layer in zip(comparison.layers, frame.layers, strict=True):
            parts.append({"label": label, **encode_png(np.ascontiguousarray(layer[window]))})
        place = f"{edge}×{edge} px at ({window[1].start}, {window[0].start}), {clock_time(shown_at)}"
        rows.append({"label": place, "parts": parts})
    return rows


def clock_time(seconds: float) -> str:
    """ "0:42.50", "1:02:03.00"."""
    minutes, rest = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"


def _subtitle(comparison: Comparison) -> str:
    before, after = comparison.before, comparison.after
    sizes = f"{before.width}×{before.height} px → {after.width}×{after.height} px"
    return f"{sizes}, {float(after.frame_rate):.4g} frames/s"


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    named = [("before", comparison.before), ("after", comparison.after)]
    named += [("truth", comparison.truth)] if comparison.truth is not None else []
    return [(name, _describe_video(info)) for name, info in named]


def _describe_video(info: SourceInfo) -> str:
    parts = [Path(info.path).name, f"{info.width}×{info.height} px", f"{info.codec or info.format} {info.pix_fmt}"]
    if info.frame_count:
        parts.append(f"{info.frame_count} frames")
    path = Path(info.path)
    if path.is_file():
        parts.append(f"{path.stat().st_size / 1e6:.2f} MB")
    return ", ".join(parts)


def _curves_text(comparison: Comparison) -> str:
    if comparison.truth is not None:
        return (
            "Scores against the truth, and how much each version changes from frame to frame where the truth does not."
        )
    return "How much the upscaled video changes from frame to frame where the source, enlarged by bicubic, does not."


def _notes(comparison: Comparison) -> list[str]:
    notes = ["Excerpts are compressed for this page; stills and pixels show single frames."]
    if comparison.enlarged:
        notes.append("Bicubic is MATLAB's: Keys' kernel, a = -0.5.")
    if comparison.after.bit_depth > 8 or comparison.before.bit_depth > 8:
        notes.append("Shown in 8 bits, without tone mapping.")
    return notes
