# SPDX-License-Identifier: Apache-2.0
"""Frames in, upscaled frames out: scenes, windows, tiles, the network, blending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rvrt_cli.engine.blend import Canvas, cut_tile
from rvrt_cli.engine.network_protocol import NetworkState, StreamingNetwork, check_frame_size
from rvrt_cli.engine.plan import Plan
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.engine.segments import WHOLE_VIDEO, Carried, GroupedWindow, SegmentPlan, group_scenes
from rvrt_cli.engine.tiles import TileGrid
from rvrt_cli.engine.windows import Window, cut_windows
from rvrt_cli.errors import MediaError, OutOfMemoryError, RvrtError
from rvrt_cli.frame import Frame, pad_by_reflection, padded_size


@dataclass(frozen=True)
class SceneStarted:
    """The frame of this index is the first of a scene; frame 0 always is."""

    frame: int


@dataclass(frozen=True)
class TileStarted:
    """The network is called for tile `tile` of `tiles` (from 1) of the window of `frames` output frames from `first` on."""

    first: int
    frames: int
    tile: int
    tiles: int


@dataclass(frozen=True)
class TileDone:
    """Tile `tile` of `tiles` (from 1) of the window of `frames` output frames from `first` on has been computed."""

    first: int
    frames: int
    tile: int
    tiles: int


@dataclass(frozen=True)
class TileShrunk:
    """The device ran out of memory: the window from frame `first` on is repeated, from here on with tiles `after` (h, w)."""

    first: int
    before: tuple[int, int]
    after: tuple[int, int]


Event = SceneStarted | TileStarted | TileDone | TileShrunk


def stream(
    frames: Iterable[Frame],
    network: StreamingNetwork,
    plan: Plan,
    *,
    scenes: bool = True,
    segments: SegmentPlan = WHOLE_VIDEO,
    keep_source: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Iterator[Segment]:
    """Upscale a video: segments of frames, one frame out for each one in, in order.

    Each segment must be iterated before the next one is asked for; frames of a segment that is not are computed and
    dropped.

    Args:
        frames: pixels (H, W, 3) RGB, all of one size and type: uint8, uint16, or float32 on the scale [0, 1]. Sizes that
            the network cannot take are padded by reflection, and the output is cropped.
        network: called for one tile of one window at a time.
        plan: window, lookahead, tile and overlap. Where the device runs out of memory all the same, tiles are halved
            and the window is repeated.
        scenes: detect scene cuts, at which the recurrent state is cleared.
        segments: where segments end and which are computed; by default the whole video is one.
        keep_source: give each frame that comes out the pixels that it was made from (`Frame.source`).
        on_event: called for scenes, tiles before and after their calls, and smaller tiles, as they come.

    Yields:
        segments whose frames have pixels (scale*H, scale*W, 3) of the source's type, integers rounded to the nearest level,
        and the timestamp and alpha of the frame that they come from.

    Raises:
        MediaError: frames below 8×8 px, or a frame of another size or type than the first.
        OutOfMemoryError: the smallest tile does not fit either.
        RvrtError: the network's output is not finite.
        ValueError: the plan's window or lookahead is not made of whole clips.
    """
    if plan.window % network.clip_size or plan.lookahead % network.clip_size:
        raise ValueError(
            f"window {plan.window} and lookahead {plan.lookahead} must be multiples of {network.clip_size}"
        )
    checked = _check_alike(frames)
    marked = mark_scenes(checked) if scenes else ((frame, False) for frame in checked)
    fusion_lookahead = network.fusion_lookahead(plan.lookahead)
    windows = cut_windows(marked, plan.window, plan.lookahead, fusion_lookahead)
    grouped = group_scenes(windows, segments.scene_group)
    return _segments(_Pass(grouped, network, plan, keep_source, on_event), segments)


def _segments(video: _Pass, segments: SegmentPlan) -> Iterator[Segment]:
    video.advance()
    while video.window is not None:
        first = video.window.first
        if not segments.wanted(first, video.starts_group):
            video.skip_window()
            continue
        if not video.window.starts_scene and video.states is None:
            video.restore(segments.carried(first))
        segment = Segment(video, segments)
        yield segment
        segment.drain()
        video.advance()


class Segment:
    """A run of consecutive output frames that is computed, encoded and kept as one; iterates over its frames, once.

    Attributes:
        first: number of its first frame in the video, from 0.
        starts_scene: whether a scene starts with it.
        frames: how many frames have come out; all of them once the iteration has ended.
        carried: what the next segment of the same scene continues with; None where the scene ends with this one, and until
            the iteration has ended.
    """

    def __init__(self, video: _Pass, segments: SegmentPlan) -> None:
        assert video.window is not None
        self.first, self.starts_scene, self.frames = video.window.first, video.window.starts_scene, 0
        self.carried: Carried | None = None
        self._frames = self._compute(video, segments)

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def drain(self) -> None:
        """Compute and drop what has not been asked for."""
        for _ in self._frames:
            pass

    def _compute(self, video: _Pass, segments: SegmentPlan) -> Iterator[Frame]:
        while video.window is not None:
            upscaled, ends_group = video.upscale_window(), video.ends_group
            while upscaled:  # a frame that has been taken is held here no longer
                self.frames += 1
                yield upscaled.pop(0)
            self.carried = video.carried
            if ends_group or segments.full(self.first, self.first + self.frames):
                return  # before the next window is read: what is finished counts at once
            self.carried = None
            video.advance()


class _Pass:
    """One pass over a video's windows: the window that comes next, and the states that the one before left.

    Attributes:
        window: None after the last one.
        starts_group, ends_group: whether a group of scenes starts or ends with it.
        states: of the tiles of `grid`; None at the start of a scene and after frames that were skipped.
    """

    def __init__(
        self,
        windows: Iterator[GroupedWindow],
        network: StreamingNetwork,
        plan: Plan,
        keep_source: bool,
        on_event: Callable[[Event], None],
    ) -> None:
        self.window: Window | None = None
        self.starts_group = self.ends_group = False
        self.states: list[NetworkState] | None = None
        self.grid: TileGrid | None = None
        self._windows, self._network, self._plan, self._on_event = windows, network, plan, on_event
        self._keep_source = keep_source

    def advance(self) -> None:
        """Go to the next window."""
        self.window = None  # its frames are released before those of the next window are read
        self.window, self.starts_group, self.ends_group = next(self._windows, (None, False, False))
        if self.window is None or self.window.starts_scene:
            self.states = None
        if self.window is not None and self.grid is None:
            self._use_tile(self._plan.tile)
        if self.window is not None and self.window.starts_scene:
            self._on_event(SceneStarted(self.window.first))

    def skip_window(self) -> None:
        """Pass over a window that is not wanted."""
        self.states = None
        self.advance()

    def restore(self, carried: Carried) -> None:
        """Continue a scene from what an earlier run has kept, with its tiles unless those in use are smaller."""
        own = self.grid
        assert own is not None
        self._use_tile(carried.tile)
        self.states = carried.states
        if own.tile[0] * own.tile[1] < carried.tile[0] * carried.tile[1]:
            self.grid, self.states = own, own.cut(self.grid.stitch(carried.states))

    @property
    def carried(self) -> Carried | None:
        """What the windows so far leave to the next one; None where the scene has ended."""
        return None if self.states is None or self.grid is None else Carried(self.grid.tile, self.states)

    def upscale_window(self) -> list[Frame]:
        """The output frames of the window, which is released; tiles are halved where memory runs out."""
        window, self.window, grid = self.window, None, self.grid
        assert window is not None
        assert grid is not None
        while True:
            try:
                pixels, self.states = _upscale_tiles(window, self._network, grid, self.states, self._on_event)
                self.grid = grid
                if window.ends_scene:
                    self.states = None
                return [self._upscaled(frame, pixels.pop(0)) for frame in window.frames[: window.emit]]
            except (OutOfMemoryError, MemoryError) as error:
                smaller = grid.halved()
                if smaller is None:
                    h, w = grid.tile
                    raise OutOfMemoryError(
                        f"out of memory at frame {window.first}, with {len(window.frames)} frames of {w}x{h} px, the "
                        "smallest tile; give a smaller --window or --lookahead, or close other programs"
                    ) from error
            # Outside the handler: the error's traceback, and with it what the failed call held, is gone by now.
            self._on_event(TileShrunk(window.first, grid.tile, smaller.tile))
            if self.states is not None:
                self.states = smaller.cut(grid.stitch(self.states))
            grid = smaller

    def _upscaled(self, frame: Frame, pixels: np.ndarray) -> Frame:
        """The output frame of `frame`, without what answers the padding."""
        height, width = (self._network.scale * side for side in frame.pixels.shape[:2])
        source = frame.pixels if self._keep_source else None
        return replace(frame, pixels=_cropped(pixels, height, width), source=source)

    def _use_tile(self, tile: tuple[int, int]) -> None:
        assert self.window is not None
        height, width, _ = self.window.frames[0].pixels.shape
        padded = padded_size(height, width, self._network.reduction)
        self.grid = TileGrid(*padded, tile, self._plan.overlap, self._network.reduction)


def check_pixels(pixels: np.ndarray) -> None:
    """Refuse what is not the pixels of a frame.

    Raises:
        ValueError: not (H, W, 3) uint8, uint16 or float32.
        MediaError: below 8×8 px.
    """
    shape, dtype = pixels.shape, pixels.dtype
    if len(shape) != 3 or shape[2] != 3 or dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"frames should be (H, W, 3) uint8 or uint16, or float32, not {shape} {dtype}")
    check_frame_size(shape[1], shape[0])


def _check_alike(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, each checked against the first.

    Raises:
        MediaError: another size or depth.
    """
    first: tuple[tuple[int, ...], np.dtype] | None = None
    for number, frame in enumerate(frames):
        shape, dtype = frame.pixels.shape, frame.pixels.dtype
        if first is None:
            check_pixels(frame.pixels)
            first = shape, dtype
        elif (shape, dtype) != first:
            (height, width, *_), depth = first
            raise MediaError(
                f"frame {number} is {shape[1]}x{shape[0]} {dtype}, those before {width}x{height} {depth}; convert all "
                "frames to one size and depth, or upscale the parts separately"
            )
        yield frame
        del frame  # a frame that the engine is done with must not be kept alive here


def _cropped(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Output pixels without what answers the padding, as an array of their own."""
    return pixels if pixels.shape[:2] == (height, width) else pixels[:height, :width].copy()


def _upscale_tiles(
    window: Window,
    network: StreamingNetwork,
    grid: TileGrid,
    states: list[NetworkState] | None,
    on_event: Callable[[Event], None],
) -> tuple[list[np.ndarray], list[NetworkState]]:
    """The window's output pixels, (scale*H, scale*W, 3) of the padded size each, and the states of all tiles after it."""
    pixels = [pad_by_reflection(frame.pixels, grid.height, grid.width) for frame in window.frames]
    canvas = Canvas(grid, window.emit, network.scale, pixels[0].dtype)
    after: list[NetworkState] = []
    shape = (1, window.emit, network.scale * grid.tile[0], network.scale * grid.tile[1], 3)
    for number, (rows, columns) in enumerate(grid):
        tile = cut_tile(pixels, rows, columns)
        on_event(TileStarted(window.first, window.emit, number + 1, len(grid)))
        before = states[number] if states is not None else None
        output, state = network(tile, before, window.emit, fusion_lookahead=window.fusion_lookahead)
        if output.shape != shape:
            raise ValueError(f"the network returned {output.shape}, expected {shape}")
        if not np.isfinite(output).all():
            raise RvrtError(
                f"the network's output from frame {window.first} on is not finite; use --precision float32, or check "
                "the weights"
            )
        canvas.add(output[0])
        after.append(state)
        on_event(TileDone(window.first, window.emit, number + 1, len(grid)))
    return canvas.frames, after
