# SPDX-License-Identifier: Apache-2.0
"""Group a video's windows into segments: what is computed, encoded and kept as one, and where a later run can resume.

Scenes form groups, the same in every run, which ranks can compute independently of each other. Within a group, a segment
ends after any window, as the caller decides; the next one continues with what the network has carried over (`Carried`). So
the frames are the same whether one run computes them all or several do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rvrt_cli.engine.network_protocol import NetworkState
from rvrt_cli.engine.windows import Window

SCENE_GROUP = 24  # frames; fewer would make a file of every flash


@dataclass(frozen=True)
class Carried:
    """What the network takes from one segment into the next one of the same scene."""

    tile: tuple[int, int]  # (h, w) LR px that the states belong to
    states: list[NetworkState]  # of each tile, in the grid's order


def _nothing_carried(first: int) -> Carried:
    raise AssertionError(f"frame {first} continues frames that were skipped")


@dataclass(frozen=True)
class SegmentPlan:
    """How a video is cut into segments, and which of them are computed.

    Attributes:
        wanted: called with the first frame of each window that belongs to no segment yet, and whether a group of scenes
            starts with it, in order; true: a segment begins with this window; false: its frames are skipped.
        full: called with the first frame of a segment and the frame after its latest window; true: the segment ends here.
            It ends in any case where its group does.
        carried: called with the first frame of a segment that continues a scene whose frames just before were skipped;
            returns `Segment.carried` of those.
        scene_group: frames after which a group ends with the scene.
    """

    wanted: Callable[[int, bool], bool] = lambda first, starts_group: True
    full: Callable[[int, int], bool] = lambda first, after: False
    carried: Callable[[int], Carried] = _nothing_carried
    scene_group: int = SCENE_GROUP


WHOLE_VIDEO = SegmentPlan(scene_group=sys.maxsize)


class GroupedWindow(NamedTuple):
    """A window, and whether a group of scenes starts and ends with it."""

    window: Window
    starts_group: bool
    ends_group: bool


def group_scenes(windows: Iterable[Window], scene_group: int) -> Iterator[GroupedWindow]:
    """Each window with its place in a group of scenes.

    Groups end with the first scene that reaches `scene_group` frames; the last one ends with the video, which its last window
    does not say unless it is long enough.

    Raises:
        ValueError: `scene_group` is not positive.
    """
    if scene_group < 1:
        raise ValueError(f"a group of {scene_group} frames: give 1 or more")
    frames, starts = 0, True
    for window in windows:
        frames += window.emit
        ends = window.ends_scene and frames >= scene_group
        yield GroupedWindow(window, starts, ends)
        del window  # its frames are released before those of the next one are read
        frames, starts = (0, True) if ends else (frames, False)
