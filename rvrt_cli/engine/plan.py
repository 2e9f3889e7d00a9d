# SPDX-License-Identifier: Apache-2.0
"""Choose window and tile for the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rvrt_cli.device import MemoryBudget
from rvrt_cli.engine.network_protocol import NetworkSizes, check_frame_size
from rvrt_cli.engine.scenes import DELAY
from rvrt_cli.engine.tiles import ALIGN, SMALLEST_TILE, TileGrid, check_tile
from rvrt_cli.errors import OptionError, OutOfMemoryError
from rvrt_cli.frame import padded_size
from rvrt_cli.options import UpscaleOptions

DEFAULT_WINDOW = 14  # frames; taken where the memory allows
GOOD_WINDOW = 6  # frames; tiles shrink to the smallest before the window falls below it
SEAM_COST = 1.15  # untiled is worth this much more computing: it has no seams
QUEUED_FRAMES = 4  # frames that wait on either side of the engine, unless the caller says otherwise


@dataclass(frozen=True)
class Workload:
    """What goes through the network, and what needs memory beside it."""

    width: int  # of the source [px]
    height: int
    frame_count: int | None = None  # None where the source does not say
    pixel_bytes: int = 1  # of a sample: 1, or 2 above 8 bits
    queued_frames: int = QUEUED_FRAMES  # that wait before and, upscaled, after the engine
    other_bytes: int = 0  # main memory that others need meanwhile, such as the encoder


@dataclass(frozen=True)
class WindowOptions:
    """What the user asks for; None: chosen for the memory.

    Raises:
        OptionError: a negative number.
    """

    window: int | None = None  # frames, rounded up to whole clips; 0: the whole clip at once
    tile: int | None = None  # longest edge [LR px], rounded down to a multiple of 8 px of the features; 0: untiled
    overlap: int = UpscaleOptions.overlap  # that neighboring tiles share at least [LR px]; at most half a tile is used
    lookahead: int = UpscaleOptions.lookahead  # frames, rounded up to whole clips

    def __post_init__(self) -> None:
        for name in ("window", "tile", "overlap", "lookahead"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise OptionError(f"--{name} {value}: give 0 or more")


@dataclass(frozen=True)
class Plan:
    """How a video goes through the network; made by `make_plan`, which fills in the figures."""

    window: int  # frames that come out of a round of calls; 0: a whole scene
    lookahead: int  # frames
    tile: tuple[int, int]  # (h, w) LR px; the frame's size: untiled
    overlap: int  # LR px
    tiles: int = 1
    device_bytes: int = 0  # predicted peak of one network call
    host_bytes: int = 0  # predicted peak of frames, states and blending beside it


def make_plan(network: NetworkSizes, workload: Workload, options: WindowOptions, budget: MemoryBudget) -> Plan:
    """The plan that computes least per frame among those that fit the memory.

    What counts is px computed per px of the source: lookahead and overlap are computed twice, and tiling is charged
    `SEAM_COST` for its seams. Windows below `GOOD_WINDOW` are taken only where no tile fits a longer one; a window that
    is chosen here has at most `DEFAULT_WINDOW` frames. A window of 0 is judged by the workload's number of frames, and by
    `DEFAULT_WINDOW` where that is unknown.

    Raises:
        MediaError: the frames are below 8×8 px.
        OutOfMemoryError: nothing fits; the message says what would help.
    """
    check_frame_size(workload.width, workload.height)
    demand = _Demand(network, workload, whole_clips(options.lookahead, network.clip_size))
    tried: list[_PlanCandidate] = []
    for windows in _window_choices(options.window, network.clip_size):
        tried = [
            demand.candidate(window, grid, options.overlap, budget)
            for window in windows
            for grid in _grids(network, workload, options)
        ]
        fitting = [candidate for candidate in tried if candidate.share <= 1]
        if fitting:
            return min(fitting, key=lambda candidate: candidate.cost).plan
    least = min(tried, key=lambda candidate: candidate.share).plan
    remedies = " or ".join(_remedies(least, demand, options, budget))
    raise OutOfMemoryError(f"{_too_large(least, demand, budget)}; give {remedies}")


def check_plan(plan: Plan, network: NetworkSizes, workload: Workload, options: WindowOptions) -> None:
    """Refuse what `make_plan` could not have made for these arguments, whatever the memory.

    Raises:
        ValueError: such a plan.
    """
    clip = network.clip_size
    windows = [window for choice in _window_choices(options.window, clip) for window in choice]
    lookahead = whole_clips(options.lookahead, clip)
    if plan.window not in windows or plan.lookahead != lookahead or plan.overlap != options.overlap:
        raise ValueError(f"window {plan.window} + {plan.lookahead} frames, overlap {plan.overlap} px")
    check_tile(plan.tile, padded_size(workload.height, workload.width, network.reduction), network.reduction)


class _PlanCandidate(NamedTuple):
    """A plan, what it needs as a share of the memory (up to 1 fits), and what it costs in px computed per source px."""

    share: float
    cost: float
    plan: Plan


@dataclass(frozen=True)
class _Demand:
    """What a window and a grid need and cost."""

    network: NetworkSizes
    workload: Workload
    lookahead: int

    def candidate(self, window: int, grid: TileGrid, overlap: int, budget: MemoryBudget) -> _PlanCandidate:
        device, host = self.device_bytes(window, grid), self.host_bytes(window, grid)
        plan = Plan(window, self.lookahead, grid.tile, overlap, len(grid), device, host)
        return _PlanCandidate(_share(device, host, budget), self.cost(window, grid), plan)

    def device_bytes(self, window: int, grid: TileGrid) -> int:
        return self.network.memory(self._frames(window), *grid.tile)

    def host_bytes(self, window: int, grid: TileGrid) -> int:
        """Bytes of frames, states and blending."""
        work, frames = self.workload, self._frames(window)
        read = self._frames(window, self.network.fusion_lookahead(self.lookahead))
        h, w = grid.tile
        source = 3 * work.height * work.width
        output = source * self.network.scale**2
        waiting = source * (read + 1 + DELAY + work.queued_frames) + output * (frames + work.queued_frames)
        row = output * h // work.height  # samples in one row of tiles
        blending = 4 * row * (frames + 1) if len(grid) > 1 else 4 * row  # the strip and one frame on its way to pixels
        state = sum(4 * math.prod(shape) for shape in self.network.state_shapes(h, w).values())
        states = 2 * len(grid) * state  # those carried in, kept until the window is done
        return work.pixel_bytes * waiting + blending + states + work.other_bytes

    def cost(self, window: int, grid: TileGrid) -> float:
        """Px computed per px of the source."""
        frames = self._frames(window)
        once = window == 0 or frames == self.workload.frame_count  # the window holds the clip: no lookahead is repeated
        return (1 if once else frames / window) * grid.redundancy * (SEAM_COST if len(grid) > 1 else 1)

    def _frames(self, window: int, beyond: int = 0) -> int:
        """The most frames in one call that may come out, and up to `beyond` after them."""
        count = self.workload.frame_count
        if window == 0:
            return count or DEFAULT_WINDOW
        frames = window + self.lookahead + beyond
        return min(frames, count or frames)


def _window_choices(window: int | None, clip: int) -> list[list[int]]:
    """Windows to choose from, the preferred ones first."""
    if window is not None:
        return [[whole_clips(window, clip)]]
    windows = range(whole_clips(DEFAULT_WINDOW, clip), 0, -clip)
    return [[n for n in windows if n >= GOOD_WINDOW], [n for n in windows if n < GOOD_WINDOW]]


def _grids(network: NetworkSizes, workload: Workload, options: WindowOptions) -> Iterator[TileGrid]:
    """The grids to try, of ever smaller tiles; a single one where the user says which."""
    tile, overlap, by = options.tile, options.overlap, network.reduction
    height, width = padded_size(workload.height, workload.width, by)
    if tile:
        edge = max(SMALLEST_TILE * by, tile // (ALIGN * by) * ALIGN * by)
        chosen = height if tile >= height else edge, width if tile >= width else edge
        yield TileGrid(height, width, chosen, overlap, by)
        return
    untiled = TileGrid(height, width, (height, width), overlap, by)
    yield untiled
    if tile is None:
        yield from untiled.smaller()


def whole_clips(frames: int, clip: int) -> int:
    """`frames`, rounded up to whole clips of `clip` frames."""
    return -(-frames // clip) * clip


def _share(device: int, host: int, budget: MemoryBudget) -> float:
    """What is needed as a share of what may be used; up to 1 fits."""
    if budget.device is None:  # one memory for both
        return (device + host) / max(1, budget.host)
    return max(device / max(1, budget.device), host / max(1, budget.host))


def _too_large(least: Plan, demand: _Demand, budget: MemoryBudget) -> str:
    """What is wrong with the plan that needs least, when even that does not fit."""
    wanted = f"a window of {least.window} + {least.lookahead} frames" if least.window else "the whole clip at once"
    if budget.device is None:
        lack = f"{_gib(least.device_bytes + least.host_bytes)} of memory, {_gib(budget.host)} may be used"
    elif least.device_bytes / max(1, budget.device) >= least.host_bytes / max(1, budget.host):
        lack = f"{_gib(least.device_bytes)} of device memory, {_gib(budget.device)} may be used"
    else:
        lack = f"{_gib(least.host_bytes)} of main memory beside the device's, {_gib(budget.host)} may be used"
    h, w = least.tile
    size = f"{demand.workload.width}x{demand.workload.height} px"
    return f"{size}, {wanted}, tiles of {w}x{h} px: this needs about {lack}"


def _remedies(least: Plan, demand: _Demand, options: WindowOptions, budget: MemoryBudget) -> list[str]:
    remedies = []
    if options.window == 0:
        remedies.append(f"a --window such as {DEFAULT_WINDOW} instead of the whole clip at once")
    elif options.window is not None and options.window > demand.network.clip_size:
        remedies.append("a smaller --window")
    if options.tile is not None and max(least.tile) > SMALLEST_TILE * demand.network.reduction:
        remedies.append("another --tile" if options.tile else "a --tile instead of untiled frames")
    if demand.lookahead and options.window != 0:
        remedies.append("a smaller --lookahead")
    remedies.append("more --memory" if budget.device is None else "a machine with more memory")
    return remedies


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.2f} GiB"
