# SPDX-License-Identifier: Apache-2.0
"""Metadata, dispositions and chapters of the source, for the output."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rvrt_cli.video.mux.languages import stored_language
from rvrt_cli.video.read.source import SourceInfo

# Tags that describe the old file, not its content
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate", "timecode"}
_FILE_TAG_PREFIXES = ("bps", "number_of_", "_statistics_", "duration-")
_CHAPTER_TIME_BASE = Fraction(1, 1000)


def content_tags(metadata: dict[str, str]) -> dict[str, str]:
    """Tags without those that describe the old file."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _FILE_TAGS and not key.lower().startswith(_FILE_TAG_PREFIXES)
    }


def copy_tags(target: Any, info: SourceInfo, muxer: str, streams: dict[int, Any]) -> None:
    """Metadata of the file, metadata and dispositions of `streams`, which are the output's by the source's index."""
    target.metadata.update(content_tags(info.metadata))
    for described in info.streams:
        if described.index in streams:
            metadata = content_tags(described.metadata)
            if "name" in metadata:  # under which the mp4 demuxer returns what its muxer takes as the title
                metadata.setdefault("title", metadata.pop("name"))
            if "language" in metadata:
                metadata["language"] = stored_language(described.language, muxer) or "und"
            streams[described.index].metadata.update(metadata)
            streams[described.index].disposition = described.disposition


def copy_chapters(target: Any, info: SourceInfo, zero: Fraction, duration: Fraction | None) -> None:
    """Chapters within `duration` seconds from `zero` on the source's clock; those across a cut are shortened."""
    chapters = []
    for number, chapter in enumerate(info.chapters):
        base = Fraction(chapter["time_base"])
        begin, end = chapter["start"] * base - zero, chapter["end"] * base - zero
        if duration is not None:
            end = min(end, duration)
        if end > max(begin, 0):
            chapters.append(
                {
                    "id": number,
                    "start": max(0, round(begin / _CHAPTER_TIME_BASE)),
                    "end": round(end / _CHAPTER_TIME_BASE),
                    "time_base": _CHAPTER_TIME_BASE,
                    "metadata": dict(chapter["metadata"]),
                }
            )
    if chapters:
        target.set_chapters(chapters)
