"""Frames in, enlarged frames out: scenes, windows, tiles, the network, blending."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rvrt_cli.engine.blend import Canvas, cut_tile
from rvrt_cli.engine.network_protocol import Network, State, check_size
from rvrt_cli.engine.plan import Plan
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.engine.segments import Carried, Segments, cut_segments
from rvrt_cli.engine.tiles import TileGrid
from rvrt_cli.engine.windows import Window, cut_windows
from rvrt_cli.errors import MediaError, OutOfMemoryError, RvrtError


@dataclass(frozen=True)
class SceneStarted:
    """The frame of this index is the first of a scene; frame 0 always is."""

    frame: int


@dataclass(frozen=True)
class TileDone:
    """Tile `tile` of `tiles` (from 1) of the window of `frames` frames from `first` on has been computed."""

    first: int
    frames: int
    tile: int
    tiles: int


@dataclass(frozen=True)
class TileShrunk:
    """The device ran out of memory; the window from frame `first` on is repeated, and all goes on with tiles (h, w)."""

    first: int
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass(frozen=True)
class SegmentStarted:
    """The frames of the segment that begins with frame `first` come next."""

    first: int


@dataclass(frozen=True)
class SegmentDone:
    """All frames of a segment have come out; `carried` is None where a scene ends with it."""

    first: int
    frames: int
    starts_scene: bool
    carried: Carried | None


@dataclass(frozen=True)
class FramesPassed:
    """The `frames` frames from `first` on belong to a segment that is not wanted; they do not come out."""

    first: int
    frames: int


Event = SceneStarted | TileDone | TileShrunk | SegmentStarted | SegmentDone | FramesPassed


def stream(
    frames: Iterable[np.ndarray],
    network: Network,
    plan: Plan,
    *,
    scenes: bool = True,
    segments: Segments | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[np.ndarray]:
    """Enlarge a video: one frame out for each one in, in order.

    Args:
        frames: (H, W, 3) uint8 or uint16 RGB, all alike.
        network: called for one tile of one window at a time.
        plan: window, lookahead, tile and overlap. Where the device runs out of memory all the same, tiles are halved
            and the window is repeated.
        scenes: look for scene cuts, at which the network starts afresh.
        segments: where segments end and which are computed; None: everything, as one.
        on_event: told of scenes, segments, finished tiles and smaller tiles, as they come.

    Yields:
        (scale*H, scale*W, 3) of the source's type, values rounded to the nearest level.

    Raises:
        MediaError: frames below 8×8 px, or a frame unlike the first.
        OutOfMemoryError: the smallest tile does not fit either.
        RvrtError: the network's output is not finite.
        ValueError: the plan's window or lookahead is not made of whole clips.
    """
    if plan.window % network.clip_size or plan.lookahead % network.clip_size:
        raise ValueError(
            f"window {plan.window} and lookahead {plan.lookahead} must be multiples of {network.clip_size}"
        )
    everything = Segments(sys.maxsize, lambda first, starts_scene: True, _nothing_carried)
    return _stream(frames, network, plan, scenes, segments or everything, on_event or (lambda event: None))


def _nothing_carried(first: int) -> Carried:
    raise AssertionError(f"frame {first} continues frames that were passed over")


def _stream(
    frames: Iterable[np.ndarray],
    network: Network,
    plan: Plan,
    scenes: bool,
    segments: Segments,
    tell: Callable[[Event], None],
) -> Iterator[np.ndarray]:
    alike = _all_alike(frames)
    marked = mark_scenes(alike) if scenes else ((frame, False) for frame in alike)
    grid: TileGrid | None = None
    states: list[State] | None = None
    segment: SegmentDone | None = None  # the one that is being computed
    for window, begins in cut_segments(cut_windows(marked, plan.window, plan.lookahead), segments.length):
        first, starts_scene = window.first, window.starts_scene
        height, width, _ = window.frames[0].shape
        if grid is None:
            grid = TileGrid(height, width, plan.tile, plan.overlap)
        if starts_scene:
            tell(SceneStarted(first))
        if begins:
            if segment is not None:
                carried = None if starts_scene or states is None else Carried(grid.tile, states)
                tell(replace(segment, carried=carried))
                del carried
            segment = None
            if segments.wanted(first, starts_scene):
                if not starts_scene and states is None:
                    carried = segments.carried(first)
                    grid, states = TileGrid(height, width, carried.tile, plan.overlap), carried.states
                    del carried
                segment = SegmentDone(first, 0, starts_scene, None)
                tell(SegmentStarted(first))
        if starts_scene or segment is None:
            states = None
        if segment is None:
            tell(FramesPassed(first, window.emit))
            continue
        pixels, states, grid = _upscale(window, network, grid, states, tell)
        segment = replace(segment, frames=segment.frames + len(pixels))
        del window  # its frames go before those of the next one are read
        while pixels:
            yield pixels.pop(0)
    if segment is not None:
        tell(segment)


def _all_alike(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    like: tuple[tuple[int, ...], np.dtype] | None = None
    for number, frame in enumerate(frames):
        if like is None:
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.uint16):
                raise ValueError(f"frames should be (H, W, 3) uint8 or uint16, not {frame.shape} {frame.dtype}")
            check_size(frame.shape[1], frame.shape[0])
            like = frame.shape, frame.dtype
        elif (frame.shape, frame.dtype) != like:
            (height, width, *_), dtype = like
            raise MediaError(
                f"frame {number} is {frame.shape[1]}x{frame.shape[0]} {frame.dtype}, those before {width}x{height} "
                f"{dtype}; bring the frames to one size and depth, or upscale the parts one by one"
            )
        yield frame
        del frame


def _upscale(
    window: Window, network: Network, grid: TileGrid, states: list[State] | None, tell: Callable[[Event], None]
) -> tuple[list[np.ndarray], list[State], TileGrid]:
    """The window's frames, the tiles' states after them and the grid, of halved tiles where memory ran out."""
    while True:
        try:
            return *_upscale_tiles(window, network, grid, states, tell), grid
        except (OutOfMemoryError, MemoryError) as error:
            smaller = grid.halved()
            if smaller is None:
                h, w = grid.tile
                raise OutOfMemoryError(
                    f"out of memory at frame {window.first}, with {len(window.frames)} frames of {w}x{h} px, the "
                    "smallest tile; give a smaller --window or --lookahead, or close other programs"
                ) from error
        # Outside the handler: the error's traceback, and with it what the failed call held, is gone by now.
        tell(TileShrunk(window.first, grid.tile, smaller.tile))
        if states is not None:
            states = smaller.cut(grid.stitch(states))
        grid = smaller


def _upscale_tiles(
    window: Window, network: Network, grid: TileGrid, states: list[State] | None, tell: Callable[[Event], None]
) -> tuple[list[np.ndarray], list[State]]:
    canvas = Canvas(grid, window.emit, network.scale, window.frames[0].dtype)
    after: list[State] = []
    shape = (1, window.emit, network.scale * grid.tile[0], network.scale * grid.tile[1], 3)
    for number, (rows, columns) in enumerate(grid):
        tile = cut_tile(window.frames, rows, columns)
        output, state = network(tile, states[number] if states is not None else None, window.emit)
        if output.shape != shape:
            raise ValueError(f"the network returned {output.shape}, expected {shape}")
        if not np.isfinite(output).all():
            raise RvrtError(
                f"the network's output from frame {window.first} on is not finite; use --precision float32, or check "
                "the weights"
            )
        canvas.add(output[0])
        after.append(state)
        tell(TileDone(window.first, window.emit, number + 1, len(grid)))
    return canvas.frames, after
