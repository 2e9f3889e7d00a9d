# SPDX-License-Identifier: Apache-2.0
"""How long a queue of jobs will still take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rvrt_cli.upscale.job_queue import DONE, UNCHECKED, QueueEntry
from rvrt_cli.upscale.progress import Progress


class QueueClock:
    """How long a queue will still take, from the work done so far.

    Work is counted in px of the sources' frames, as the network sees them; an entry whose number of frames is not known
    counts as much as the others do on average.
    """

    def __init__(self, entries: Sequence[QueueEntry]) -> None:
        works = {entry.number: _work(entry) for entry in entries if entry.pending}
        known = [work for work in works.values() if work is not None]
        mean = sum(known) / len(known) if known else 1.0
        self._works = {number: mean if work is None else work for number, work in works.items()}
        self._total = sum(self._works.values())
        self._started, self._done, self._left = time.monotonic(), 0.0, self._total
        self._current, self._share = 0.0, 0.0

    def begin(self, entry: QueueEntry) -> None:
        """An entry's turn has come."""
        self._current, self._share = self._works[entry.number], 0.0

    def update(self, progress: Progress) -> None:
        """Take in how far the present job is."""
        if progress.total and progress.total > progress.kept:
            self._share = min(1.0, (progress.done - progress.kept) / (progress.total - progress.kept))

    def end(self, entry: QueueEntry) -> None:
        """An entry is done, or has failed and takes no more time."""
        self._left -= self._current
        self._done += self._current if entry.state == DONE else 0.0
        self._current = 0.0

    @property
    def share(self) -> float:
        """Of the work, what is behind us, from 0 to 1."""
        left = self._left - self._share * self._current
        return 1.0 - left / self._total if self._total else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the queue began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """None until something has been done."""
        done = self._done + self._share * self._current
        left = self._left - self._share * self._current
        return max(0.0, left) / done * self.elapsed if done > 0 else None


def _work(entry: QueueEntry) -> float | None:
    if entry.state == UNCHECKED:
        return 0.0
    if entry.frames is None or entry.source_size is None:
        return None
    width, height = entry.source_size
    return max(0, entry.frames - entry.kept) * float(width * height)
