"""How a run is asked to stop: SIGTERM, Ctrl-C, or its time being up. No MindSpore."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopping:
    """True once someone has asked; `reason` says in words who. A second Ctrl-C interrupts at once.

    Args:
        minutes: after which to stop; 0: never.
    """

    def __init__(self, minutes: float) -> None:
        self._until = time.monotonic() + 60 * minutes if minutes else math.inf
        self.reason = ""

    def __bool__(self) -> bool:
        if not self.reason and time.monotonic() >= self._until:
            self.reason = "the time is up"
        return bool(self.reason)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals ask instead of killing."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, _: object) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = "interrupted" if number == signal.SIGINT else "asked to end"
