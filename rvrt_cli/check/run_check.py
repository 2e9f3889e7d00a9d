# SPDX-License-Identifier: Apache-2.0
"""The whole check of a target against its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rvrt_cli.check.audio_offset import audio_offset
from rvrt_cli.check.check_options import CheckOptions
from rvrt_cli.check.color_findings import color_findings
from rvrt_cli.check.container_findings import container_findings
from rvrt_cli.check.depth_findings import depth_finding
from rvrt_cli.check.frame_findings import FrameComparison, frame_findings
from rvrt_cli.check.packet_findings import extra_streams, match_streams, packet_findings, read_packets
from rvrt_cli.check.paired_frames import SourceAndTarget, find_shift, paired_frames
from rvrt_cli.check.seam_findings import SeamProfiles, seam_findings
from rvrt_cli.check.verdict import CheckReport, Finding
from rvrt_cli.errors import OptionError
from rvrt_cli.video.read.probe import probe


def check_target_against_source(
    source: str | Path, target: str | Path, options: CheckOptions | None = None
) -> CheckReport:
    """Compare a target, made by whatever tool, with its source: both are videos or folders of images.

    Both are read once from beginning to end, reduced, and in excerpts at full size; memory does not grow with their length
    beyond some numbers per frame.

    Raises:
        MediaError: one of them cannot be read.
        OptionError: one of them is standard input.
    """
    if "-" in (str(source), str(target)):
        raise OptionError("-: a check reads both files more than once; write the stream to a file first")
    clips = SourceAndTarget(probe(source), probe(target), options or CheckOptions())
    return CheckReport(str(source), str(target), tuple(_findings(clips)))


def _findings(clips: SourceAndTarget) -> Iterator[Finding]:
    source, target, options = clips.source, clips.target, clips.options
    before, after = read_packets(source, options.start), read_packets(target)
    shown, times = _shown(clips, before[source.stream_index].times), sorted(after[target.stream_index].times)
    shift = find_shift(shown, times, 0.5 * clips.frame_seconds)
    seen = FrameComparison(clips, shift)
    seen.take(paired_frames(clips, shift, in_order=len(shown) == len(times)))
    yield from frame_findings(seen)
    yield from container_findings(source, target, seen.orientation, whole=options.whole)
    yield from color_findings(source, target, seen.sound_samples())
    yield depth_finding(clips, seen.times)
    if seen.differences and seen.orientation in ("", "upright"):
        bad = seen.bad()
        bad_times = [times[1] for number, times in zip(seen.differences, seen.times, strict=True) if number in bad]
        profiles = SeamProfiles(clips, shift, after[target.stream_index].key_times, bad_times)
        profiles.look(seen.times[-1][1])
        yield from seam_findings(profiles)
    matches = match_streams(source, target, before, after)
    yield from packet_findings(matches, whole=options.whole)
    for match in matches:
        if match.source.stream.type == "audio" and match.target is not None:
            yield audio_offset(clips, match, seen.times)
    if extra := extra_streams(matches, target):
        yield Finding("extra streams", "note", f"{extra} that the source does not have")


def _shown(clips: SourceAndTarget, times: list[float]) -> list[float]:
    """Those of the source's timestamps that the target should have [s]."""
    end, near = clips.options.duration, 0.5 * clips.frame_seconds
    return [seconds for seconds in sorted(times) if -near < seconds and (end is None or seconds < end)]
