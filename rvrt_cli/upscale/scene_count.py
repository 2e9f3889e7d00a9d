# SPDX-License-Identifier: Apache-2.0
"""How many ranks a video can occupy: one per group of scenes."""

from __future__ import annotations

from dataclasses import replace

from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.engine.segments import SCENE_GROUP
from rvrt_cli.options import JobOptions
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.source import SourceInfo


def with_useful_ranks(info: SourceInfo, options: JobOptions) -> JobOptions:
    """`options` with no more ranks than the source has groups of scenes; each would get its share of the cores for nothing.

    Decodes the source, until there are as many groups as ranks; that takes a small part of the time that upscaling does.
    Ranks of several machines stay as they are: those of other machines have been started with their own numbers.

    Raises:
        MediaError: the source cannot be decoded.
    """
    if options.ranks == 1 or options.master is not None:
        return options
    groups = _count_groups(info, options, options.ranks)
    return options if groups == options.ranks else replace(options, ranks=groups, local_ranks=0)


def _count_groups(info: SourceInfo, options: JobOptions, most: int) -> int:
    """Groups of scenes as `rvrt_cli.engine.segments.group_scenes` makes them; not more than `most` are counted."""
    groups, frames = 1, 0
    with open_reader(
        info, start=options.start, duration=options.duration, deinterlace=options.deinterlace, alpha=False
    ) as reader:
        for _, starts_scene in mark_scenes(reader):
            if starts_scene and frames >= SCENE_GROUP:
                groups, frames = groups + 1, 0
            if groups == most:
                break
            frames += 1
    return groups
