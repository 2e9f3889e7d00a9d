"""Frames in, enlarged frames out, whatever the video's length and the device's memory. NumPy only.

    frames ─ scenes ─ windows ─┬─ tile ─ network ─┬─ blend ─ frames ×4
                               └─ tile ─ network ─┘
                                  state ──┘ └── state, to the same tile of the next window

- `scenes` marks the frames with which a new scene starts; nothing is carried across a cut.
- `windows` cuts a scene into stretches of `window` frames that come out, each with `lookahead` frames of the future.
- `segments` groups windows into stretches that can be computed apart, by another run or another rank.
- `tiles` cuts frames into a fixed grid of overlapping tiles, each with its own state, and knows the blend weights.
- `network` is what the engine asks of a network: a pure function (frames, state) → (frames, state).
- `blend` turns pixels into the network's numbers and back, and tiles into frames.
- `plan` chooses window and tile for the memory that is free.
- `stream` runs it all; where memory runs out nevertheless, it halves the tiles and repeats the window.

A window of 0 is the whole scene at once, a tile of the frame's size is untiled: with both, the network sees what the
published one sees.
"""

from rvrt_cli.engine.network_protocol import SMALLEST_FRAME, Network, State
from rvrt_cli.engine.plan import DEFAULT_WINDOW, Plan, check_plan, plan
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.engine.segments import Carried, Segments
from rvrt_cli.engine.stream import (
    Event,
    FramesPassed,
    SceneStarted,
    SegmentDone,
    SegmentStarted,
    TileDone,
    TileShrunk,
    stream,
)
from rvrt_cli.engine.tiles import TileGrid, blend_weights, check_tile, plan_tiles
from rvrt_cli.engine.windows import Window, cut_windows

__all__ = [
    "DEFAULT_WINDOW",
    "SMALLEST_FRAME",
    "Carried",
    "Event",
    "FramesPassed",
    "Network",
    "Plan",
    "SceneStarted",
    "SegmentDone",
    "SegmentStarted",
    "Segments",
    "State",
    "TileDone",
    "TileGrid",
    "TileShrunk",
    "Window",
    "blend_weights",
    "check_plan",
    "check_tile",
    "cut_windows",
    "mark_scenes",
    "plan",
    "plan_tiles",
    "stream",
]
