# SPDX-License-Identifier: Apache-2.0
"""How far a job is, and where its time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from rvrt_cli import engine

Item = TypeVar("Item")
_SHARE_INTERVAL = 0.2  # s between reports within a call of the network


@dataclass
class Progress:
    """How far a job is; passed to `on_progress` after every frame, tile and step of the network.

    Attributes:
        frames: written so far, of `total`; those of earlier runs (`kept`) included.
        computed: frames that are through the network, parts of a window and those kept included.
        elapsed, waiting_for_source, network, waiting_for_target: s, of this run.
        notes: what the user should know of the work so far, one line each.
        warnings: what was wrong with the source and survived, missing frames above all; one line each, at the end.
        path: of the target, when it is complete.
    """

    total: int | None
    frames: int = 0
    computed: float = 0.0
    scenes: int = 0
    elapsed: float = 0.0
    waiting_for_source: float = 0.0
    network: float = 0.0
    waiting_for_target: float = 0.0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kept: int = 0
    path: str | None = None

    @property
    def rate(self) -> float | None:
        """Frames/s of this run, its beginning included; None until the first part of a window is through."""
        done = self.done - self.kept
        return done / self.elapsed if done > 0 and self.elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """None while that is unknown."""
        rate = self.rate
        return None if rate is None or self.total is None else max(0.0, self.total - self.done) / rate

    @property
    def done(self) -> float:
        """Frames that are through the network or written, parts of a window included."""
        return max(self.computed, float(self.frames))

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {**asdict(self), "rate": self.rate, "seconds_left": self.seconds_left}


class Stopwatch:
    """Where the time goes: every moment counts for the innermost activity that is running."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = time.monotonic()

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Inside, time counts for `activity`."""
        self._lap()
        self._running.append(activity)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def iterate(self, activity: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time that each takes to come counts for `activity`."""
        iterator = iter(items)
        while True:
            with self(activity):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            del item  # a frame that has been taken is held here no longer

    def _lap(self) -> None:
        """Count the time up to now."""
        now = time.monotonic()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class Reporter:
    """Keeps a job's progress up to date, and passes it on."""

    def __init__(self, progress: Progress, on_progress: Callable[[Progress], None] | None = None) -> None:
        self.progress = progress
        self.watch = Stopwatch()
        self._on_progress = on_progress or (lambda progress: None)
        self._started = self._reported = time.monotonic()
        self._whole_windows = progress.computed  # frames of complete windows
        self._tile: engine.TileStarted | None = None  # that the network is called for

    @contextmanager
    def watching(self, network: object) -> Iterator[None]:
        """Inside, `network` tells how far a call is, if it can: see `rvrt_cli.engine.StreamingNetwork`."""
        if not hasattr(network, "on_share"):
            yield
            return
        network.on_share = self.on_share
        try:
            yield
        finally:
            network.on_share = None

    def report(self) -> None:
        """Pass the progress on."""
        with self.watch("reporting"):
            self._reported = time.monotonic()
            self.progress.elapsed = self._reported - self._started
            for name in ("waiting_for_source", "network", "waiting_for_target"):
                setattr(self.progress, name, self.watch.seconds[name])
            self._on_progress(self.progress)

    def frame_written(self) -> None:
        """Count a frame that the target has taken."""
        self.progress.frames += 1
        self.report()

    def on_share(self, share: float) -> None:
        """Take in how much of its present call the network has done, from 0 to 1; not every one of them is passed on."""
        if self._tile is not None and time.monotonic() - self._reported >= _SHARE_INTERVAL:
            self._count_tiles(self._tile, self._tile.tile - 1 + share)
            self.report()

    def on_event(self, event: engine.Event) -> None:
        """Take in what the engine reports."""
        if isinstance(event, engine.SceneStarted):
            self.progress.scenes += 1
        elif isinstance(event, engine.TileStarted):
            self._tile = event
        elif isinstance(event, engine.TileDone):
            self._tile = None
            self._count_tiles(event, event.tile)
            if event.tile == event.tiles:
                self._whole_windows += event.frames
            self.report()
        else:
            before, after = (f"{width}x{height}" for height, width in (event.before, event.after))
            self.progress.notes.append(f"memory ran out: tiles of {before} px are now {after} px")

    def _count_tiles(self, window: engine.TileStarted | engine.TileDone, tiles: float) -> None:
        """Count `tiles` tiles of a window, whose last one may be in progress."""
        self.progress.computed = self._whole_windows + window.frames * tiles / window.tiles
