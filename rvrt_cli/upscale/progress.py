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


@dataclass
class Progress:
    """How far a job is; passed to `on_progress` after every frame and tile.

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

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


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
        self._started = time.monotonic()
        self._whole_windows = progress.computed  # frames of complete windows

    def report(self) -> None:
        """Pass the progress on."""
        with self.watch("reporting"):
            self.progress.elapsed = time.monotonic() - self._started
            for name in ("waiting_for_source", "network", "waiting_for_target"):
                setattr(self.progress, name, self.watch.seconds[name])
            self._on_progress(self.progress)

    def frame_written(self) -> None:
        """Count a frame that the target has taken."""
        self.progress.frames += 1
        self.report()

    def on_event(self, event: engine.Event) -> None:
        """Take in what the engine reports."""
        if isinstance(event, engine.SceneStarted):
            self.progress.scenes += 1
        elif isinstance(event, engine.TileDone):
            self.progress.computed = self._whole_windows + event.frames * event.tile / event.tiles
            if event.tile == event.tiles:
                self._whole_windows += event.frames
            self.report()
        else:
            before, after = (f"{width}x{height}" for height, width in (event.before, event.after))
            self.progress.notes.append(f"memory ran out: tiles of {before} px are now {after} px")
