"""Choose window and tile for the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rvrt_cli.engine.network_protocol import Network, check_size
from rvrt_cli.engine.scenes import DELAY
from rvrt_cli.engine.tiles import ALIGN, SMALLEST_TILE, TileGrid, check_tile
from rvrt_cli.errors import OptionError, OutOfMemoryError
from rvrt_cli.options import UpscaleOptions

DEFAULT_WINDOW = 14  # frames; taken where the memory allows
GOOD_WINDOW = 6  # frames; tiles shrink to the smallest before the window falls below it
SEAM_COST = 1.15  # untiled is worth this much more computing: it has no seams
QUEUED_FRAMES = 4  # that wait on either side of the engine, unless the caller says otherwise


@dataclass(frozen=True)
class Plan:
    """How a video goes through the network; made by `plan`, which fills in the figures."""

    window: int  # frames that come out of a round of calls; 0: a whole scene
    lookahead: int  # frames
    tile: tuple[int, int]  # (h, w) LR px; the frame's size: untiled
    overlap: int  # LR px
    tiles: int = 1
    device_bytes: int = 0  # predicted peak of one network call
    host_bytes: int = 0  # predicted peak of frames, states and blending beside it


def plan(
    network: Network,
    width: int,
    height: int,
    *,
    free_bytes: int,
    window: int | None = None,
    tile: int | None = None,
    overlap: int = UpscaleOptions.overlap,
    lookahead: int = UpscaleOptions.lookahead,
    frame_count: int | None = None,
    host_free_bytes: int | None = None,
    pixel_bytes: int = 1,
    queued_frames: int = QUEUED_FRAMES,
    other_bytes: int = 0,
) -> Plan:
    """The plan that computes least per frame among those that fit the memory.

    What counts is px computed per px of the source: lookahead and overlap are computed twice, and tiling is charged
    `SEAM_COST` for its seams. Windows below `GOOD_WINDOW` are taken only where no tile fits a longer one.

    Args:
        width, height: of the source, px.
        free_bytes: memory for the network; for everything, unless `host_free_bytes` is given.
        window: frames, rounded up to whole clips of the network; 0: the whole clip at once; None: chosen here, at
            most `DEFAULT_WINDOW`.
        tile: longest edge, px, rounded down to a multiple of 8; 0: untiled; None: chosen here.
        overlap: px that neighboring tiles share at least (at most half a tile is used).
        lookahead: frames, rounded up to whole clips.
        frame_count: of the source, if known; a window of 0 is judged by it, and by `DEFAULT_WINDOW` without it.
        host_free_bytes: memory for frames and states, where the device has memory of its own.
        pixel_bytes: per sample of the source, 1 or 2.
        queued_frames: that wait before and, enlarged, after the engine.
        other_bytes: main memory that others need meanwhile, such as the encoder.

    Raises:
        MediaError: the frames are below 8×8 px.
        OptionError: a negative number.
        OutOfMemoryError: nothing fits; the message says what would help.
    """
    check_size(width, height)
    for option, value in (("--window", window), ("--tile", tile), ("--overlap", overlap), ("--lookahead", lookahead)):
        if value is not None and value < 0:
            raise OptionError(f"{option} {value}: give 0 or more")
    clip = network.clip_size
    lookahead = _whole_clips(lookahead, clip)
    demand = _Demand(network, width, height, lookahead, frame_count, pixel_bytes, queued_frames, other_bytes)

    if window is None:
        windows = range(_whole_clips(DEFAULT_WINDOW, clip), 0, -clip)
        choices = [[n for n in windows if n >= GOOD_WINDOW], [n for n in windows if n < GOOD_WINDOW]]
    else:
        choices = [[_whole_clips(window, clip)]]
    grids = list(_grids(width, height, tile, overlap))
    for preferred in choices:
        tried = []
        for frames in preferred:
            for grid in grids:
                device, host = demand(frames, grid)
                share = _share(device, host, free_bytes, host_free_bytes)
                made = Plan(frames, lookahead, grid.tile, overlap, len(grid), device, host)
                tried.append((share, demand.cost(frames, grid), made))
        fitting = [(cost, made) for share, cost, made in tried if share <= 1]
        if fitting:
            return min(fitting, key=lambda choice: choice[0])[1]
    least = min(tried, key=lambda choice: choice[0])[2]
    remedies = _remedies(least, demand, window, tile, host_free_bytes)
    raise OutOfMemoryError(_too_large(least, demand, free_bytes, host_free_bytes) + "; give " + " or ".join(remedies))


def check_plan(
    made: Plan, network: Network, width: int, height: int, *, window: int | None, overlap: int, lookahead: int
) -> None:
    """Refuse what `plan` could not have made for these arguments, whatever the memory.

    Raises:
        ValueError: such a plan.
    """
    clip = network.clip_size
    most = _whole_clips(DEFAULT_WINDOW, clip)
    windows = range(clip, most + 1, clip) if window is None else (_whole_clips(window, clip),)
    if made.window not in windows or made.lookahead != _whole_clips(lookahead, clip) or made.overlap != overlap:
        raise ValueError(f"window {made.window} + {made.lookahead} frames, overlap {made.overlap} px")
    check_tile(made.tile, width, height)


@dataclass(frozen=True)
class _Demand:
    """What a window and a grid need, in bytes, and cost, in px computed per px of the source."""

    network: Network
    width: int
    height: int
    lookahead: int
    frame_count: int | None
    pixel_bytes: int
    queued_frames: int
    other_bytes: int

    def __call__(self, window: int, grid: TileGrid) -> tuple[int, int]:
        """(device, host) bytes."""
        frames = self._frames(window)
        h, w = grid.tile
        source = 3 * self.height * self.width
        output = source * self.network.scale**2
        pixels = self.pixel_bytes * (
            source * (frames + 1 + DELAY + self.queued_frames) + output * (frames + self.queued_frames)
        )
        row = output * h // self.height  # samples in one row of tiles
        blending = 4 * row * (frames + 1) if len(grid) > 1 else 4 * row  # the strip and one frame on its way to pixels
        state = sum(4 * math.prod(shape) for shape in self.network.state_shapes(h, w).values())
        states = 2 * len(grid) * state  # those carried in, kept until the window is done
        return self.network.memory(frames, h, w), pixels + blending + states + self.other_bytes

    def cost(self, window: int, grid: TileGrid) -> float:
        frames = self._frames(window)
        once = window == 0 or frames == self.frame_count  # one window holds the clip: no lookahead is computed twice
        return (1 if once else frames / window) * grid.redundancy * (SEAM_COST if len(grid) > 1 else 1)

    def _frames(self, window: int) -> int:
        """The most frames in one call, all of which may come out."""
        if window == 0:
            return self.frame_count or DEFAULT_WINDOW
        return min(window + self.lookahead, self.frame_count or window + self.lookahead)


def _grids(width: int, height: int, tile: int | None, overlap: int) -> Iterator[TileGrid]:
    """The grids to try, ever smaller tiles; one only where the user says which."""
    whole = TileGrid(height, width, (height, width), overlap)
    if tile:
        edge = max(SMALLEST_TILE, tile // ALIGN * ALIGN)
        yield TileGrid(height, width, (height if tile >= height else edge, width if tile >= width else edge), overlap)
        return
    yield whole
    if tile is None:
        yield from whole.smaller()


def _whole_clips(frames: int, clip: int) -> int:
    return -(-frames // clip) * clip


def _share(device: int, host: int, free_bytes: int, host_free_bytes: int | None) -> float:
    """What is needed as a share of what is free; up to 1 fits."""
    if host_free_bytes is None:  # one memory for both
        return (device + host) / max(1, free_bytes)
    return max(device / max(1, free_bytes), host / max(1, host_free_bytes))


def _too_large(least: Plan, demand: _Demand, free_bytes: int, host_free_bytes: int | None) -> str:
    """What is wrong with the plan that needs least, when even that does not fit."""
    wanted = f"a window of {least.window} + {least.lookahead} frames" if least.window else "the whole clip at once"
    if host_free_bytes is None:
        lack = f"{_gib(least.device_bytes + least.host_bytes)} of memory, {_gib(free_bytes)} may be used"
    elif least.device_bytes / max(1, free_bytes) >= least.host_bytes / max(1, host_free_bytes):
        lack = f"{_gib(least.device_bytes)} of device memory, {_gib(free_bytes)} may be used"
    else:
        lack = f"{_gib(least.host_bytes)} of main memory beside the device's, {_gib(host_free_bytes)} may be used"
    h, w = least.tile
    return f"{demand.width}x{demand.height} px, {wanted}, tiles of {w}x{h} px: this needs about {lack}"


def _remedies(
    least: Plan, demand: _Demand, window: int | None, tile: int | None, host_free_bytes: int | None
) -> list[str]:
    remedies = []
    if window == 0:
        remedies.append(f"a --window such as {DEFAULT_WINDOW} instead of the whole clip at once")
    elif window is not None and window > demand.network.clip_size:
        remedies.append("a smaller --window")
    if tile is not None and max(least.tile) > SMALLEST_TILE:
        remedies.append("another --tile" if tile else "a --tile instead of untiled frames")
    if demand.lookahead and window != 0:
        remedies.append("a smaller --lookahead")
    remedies.append("more --memory" if host_free_bytes is None else "a machine with more memory")
    return remedies


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.2f} GiB"
