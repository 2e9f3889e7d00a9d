# SPDX-License-Identifier: Apache-2.0
"""Frames in, upscaled frames out, whatever the video's length and the device's memory. NumPy only.

    frames ─ scenes ─ windows ─┬─ tile ─ network ─┬─ blend ─ frames ×4, in segments
                               └─ tile ─ network ─┘
                                  state ──┘ └── state, to the same tile of the next window

- `scenes` marks the frames with which a new scene starts; nothing is carried across a cut.
- `windows` cuts a scene into windows of frames that come out, each with some frames of lookahead.
- `segments` groups windows into segments that can be computed separately, by another run or another rank.
- `tiles` cuts frames into a fixed grid of overlapping tiles, each with its own state, and knows the blend weights.
- `network_protocol` is what the engine asks of a network: a pure function (frames, state) → (frames, state).
- `blend` turns pixels into the network's floats and back, and tiles into frames.
- `plan` chooses window and tile for the memory that is free.
- `stream` runs it all; where memory runs out nevertheless, it halves the tiles and repeats the window.

A window of 0 is the whole scene at once, a tile of the frame's size is untiled: with both, the network sees what the
published one sees.
"""

from rvrt_cli.engine.network_protocol import NetworkState, StreamingNetwork, check_frame_size
from rvrt_cli.engine.plan import Plan, WindowOptions, Workload, check_plan, make_plan, whole_clips
from rvrt_cli.engine.segments import Carried, SegmentPlan
from rvrt_cli.engine.stream import Event, SceneStarted, Segment, TileDone, TileShrunk, TileStarted, check_pixels, stream
from rvrt_cli.engine.tiles import TileGrid, check_tile

__all__ = [
    "Carried",
    "Event",
    "NetworkState",
    "Plan",
    "SceneStarted",
    "Segment",
    "SegmentPlan",
    "StreamingNetwork",
    "TileDone",
    "TileGrid",
    "TileShrunk",
    "TileStarted",
    "WindowOptions",
    "Workload",
    "check_frame_size",
    "check_pixels",
    "check_plan",
    "check_tile",
    "make_plan",
    "stream",
    "whole_clips",
]
