"""Cut a video's windows into segments: what is computed, encoded and kept as one, and where a later run can go on.

A segment begins at a scene cut or, within a scene, after so many frames. There the next one continues with what the
network has carried (`Carried`), so the frames are the same whether one run computes them all or several do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rvrt_cli.engine.network_protocol import State
from rvrt_cli.engine.windows import Window

_SHORTEST = 4  # a cut ends a segment that has at least 1/4 of its length: not every flash becomes a file


@dataclass(frozen=True)
class Carried:
    """What the network takes from one segment into the next one of the same scene."""

    tile: tuple[int, int]  # (h, w) LR px that the states belong to
    states: list[State]  # of each tile, in the grid's order


@dataclass(frozen=True)
class Segments:
    """How `stream` cuts a video into segments, and which of them it computes.

    Attributes:
        length: frames after which a segment ends with the window that reaches them.
        wanted: called with the first frame of each segment and whether a scene starts with it, in order; false: its
            frames are passed over.
        carried: called with the first frame of a wanted segment that continues a scene whose frames just before were
            passed over; what `SegmentDone` had for them.
    """

    length: int
    wanted: Callable[[int, bool], bool]
    carried: Callable[[int], Carried]


def cut_segments(windows: Iterable[Window], length: int) -> Iterator[tuple[Window, bool]]:
    """Each window with whether a segment begins with it; the first one does.

    Raises:
        ValueError: `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"a segment of {length} frames: give 1 or more")
    frames = length
    for window in windows:
        begins = frames >= length or (window.starts_scene and _SHORTEST * frames >= length)
        frames = window.emit + (0 if begins else frames)
        yield window, begins
        del window  # its frames go before those of the next one are read
