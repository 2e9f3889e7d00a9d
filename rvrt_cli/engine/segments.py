# SPDX-License-Identifier: Apache-2.0
"""Group a video's windows into segments: what is computed, encoded and kept as one, and where a later run can resume.

A segment begins at a scene cut or, within a scene, after a given number of frames. There the next one continues with what
the network has carried over (`Carried`), so the frames are the same whether one run computes them all or several do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rvrt_cli.engine.network_protocol import NetworkState
from rvrt_cli.engine.windows import Window

_SHORTEST_SHARE = 4  # a cut ends a segment of at least 1/4 of its length: not every flash becomes a file


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
        length: frames after which a segment ends with the window that reaches them.
        wanted: called with the first frame of each segment and whether a scene starts with it, in order; false: its
            frames are skipped.
        carried: called with the first frame of a wanted segment that continues a scene whose frames just before were
            skipped; returns `Segment.carried` of those.
    """

    length: int
    wanted: Callable[[int, bool], bool] = lambda first, starts_scene: True
    carried: Callable[[int], Carried] = _nothing_carried


WHOLE_VIDEO = SegmentPlan(sys.maxsize)


def cut_segments(windows: Iterable[Window], length: int) -> Iterator[tuple[Window, bool]]:
    """Each window with whether a segment begins with it; the first one does.

    Raises:
        ValueError: `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"a segment of {length} frames: give 1 or more")
    frames = length
    for window in windows:
        begins = frames >= length or (window.starts_scene and _SHORTEST_SHARE * frames >= length)
        frames = window.emit + (0 if begins else frames)
        yield window, begins
        del window  # its frames are released before those of the next one are read
