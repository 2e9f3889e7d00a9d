# SPDX-License-Identifier: Apache-2.0
"""What containers and headers say: size, aspect ratio, rotation, bit depth, HDR metadata, chapters."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from rvrt_cli.check.verdict import Finding
from rvrt_cli.video.read.source import MasteringDisplay, SourceInfo

_CHROMATICITY_UNIT, _LUMINANCE_UNIT = Fraction(1, 50_000), Fraction(1, 10_000)  # of H.265, Annex D; cd/m²
_MAX_STRETCH = 0.01  # relative; sizes are rounded to even px


def container_findings(source: SourceInfo, target: SourceInfo, orientation: str, *, whole: bool) -> Iterator[Finding]:
    """Findings "aspect", "rotation", "bit depth", "hdr" and "chapters".

    Args:
        orientation: how the target's frames lie against the source's, see `FrameComparison`.
        whole: the target shows the whole source.
    """
    yield _aspect_finding(source, target, orientation)
    yield _rotation_finding(source, target, orientation)
    yield _depth_finding(source, target)
    yield _hdr_finding(source, target)
    if source.chapters or target.chapters:
        yield _chapter_finding(source, target, whole)


def _display_aspect(info: SourceInfo) -> Fraction:
    return Fraction(info.width, info.height) * info.sample_aspect


def _aspect_finding(source: SourceInfo, target: SourceInfo, orientation: str) -> Finding:
    before, after = _display_aspect(source), _display_aspect(target)
    if "90°" in orientation:
        after = 1 / after
    sizes = f"{source.width}x{source.height} to {target.width}x{target.height} px"
    values = {"source": float(before), "target": float(after)}
    # a side of few px cannot hold a ratio exactly
    rounding = 1 / min(target.width, target.height) + 1 / min(source.width, source.height) / 4
    if abs(float(after / before) - 1) > max(_MAX_STRETCH, min(rounding, 0.05)):
        text = f"displayed as {float(after):.3f}:1, the source as {float(before):.3f}:1 ({sizes})"
        if source.sample_aspect != 1 and target.sample_aspect == 1:
            text += "; the sample aspect ratio is lost"
        return Finding("aspect", "fail", text, values)
    return Finding("aspect", "ok", f"{float(after):.3f}:1, from {sizes}", values)


def _rotation_finding(source: SourceInfo, target: SourceInfo, orientation: str) -> Finding:
    values = {"source": source.rotation, "target": target.rotation, "orientation": orientation}
    if orientation not in ("", "upright"):
        cause = "; the source's rotation is lost" if source.upright and not target.upright else ""
        return Finding("rotation", "fail", f"the frames are displayed {orientation}{cause}", values)
    if not orientation:
        return Finding("rotation", "skipped", "the frames have too little structure to see it", values)
    return Finding("rotation", "ok", "displayed upright as the source", values)


def _depth_finding(source: SourceInfo, target: SourceInfo) -> Finding:
    values = {"source": source.bit_depth, "target": target.bit_depth}
    if target.bit_depth < source.bit_depth and target.bit_depth <= 8:
        return Finding("bit depth", "fail", f"{source.bit_depth} bits have become {target.bit_depth}", values)
    if target.bit_depth < source.bit_depth:
        return Finding("bit depth", "note", f"{source.bit_depth} bits have become {target.bit_depth}", values)
    return Finding("bit depth", "ok", f"{target.bit_depth} bits stated, the source has {source.bit_depth}", values)


def _hdr_finding(source: SourceInfo, target: SourceInfo) -> Finding:
    lost = []
    if source.mastering is not None and not _same_display(source.mastering, target.mastering):
        lost.append(f"mastering display {'missing' if target.mastering is None else 'changed'}")
    if source.light_level is not None and target.light_level != source.light_level:
        lost.append(f"content light level {'missing' if target.light_level is None else 'changed'}")
    if source.hdr10_plus and not target.hdr10_plus:
        lost.append("HDR10+ metadata missing")
    if lost:
        return Finding("hdr", "fail", "; ".join(lost), {"lost": lost})
    if source.dolby_vision is not None and target.dolby_vision is None:  # no encoder writes it from pixels alone
        return Finding("hdr", "note", "Dolby Vision metadata missing", {"lost": ["Dolby Vision metadata missing"]})
    kept = f"{source.hdr_metadata} metadata kept" if source.hdr_metadata else "the source has no HDR10 metadata"
    return Finding("hdr", "ok", kept)


def _same_display(before: MasteringDisplay, after: MasteringDisplay | None) -> bool:
    """Whether the values agree within the units in which streams store them."""
    if after is None:
        return False
    points = [(getattr(before, name), getattr(after, name)) for name in ("red", "green", "blue", "white")]
    close = all(abs(x - y) <= _CHROMATICITY_UNIT for old, new in points for x, y in zip(old, new, strict=True))
    levels = [(getattr(before, name), getattr(after, name)) for name in ("min_luminance", "max_luminance")]
    return close and all(abs(old - new) <= _LUMINANCE_UNIT for old, new in levels)


def _chapter_finding(source: SourceInfo, target: SourceInfo, whole: bool) -> Finding:
    before, after = len(source.chapters), len(target.chapters)
    values = {"source": before, "target": after}
    if whole and before != after:
        return Finding("chapters", "fail", f"{after} of {before}", values)
    return Finding("chapters", "ok", f"{after}", values)
