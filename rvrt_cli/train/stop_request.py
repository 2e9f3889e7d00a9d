# SPDX-License-Identifier: Apache-2.0
"""Requests to stop a run: SIGTERM, Ctrl-C, or the end of its time. Does not import MindSpore."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rvrt_cli.signals import handle_signals


class StopRequest:
    """True once the run is to stop; `reason` says why. A second Ctrl-C interrupts at once.

    Args:
        minutes: time limit [min]; 0: none.
    """

    def __init__(self, minutes: float) -> None:
        self._until = time.monotonic() + 60 * minutes if minutes else math.inf
        self.reason = ""

    def __bool__(self) -> bool:
        if not self.reason and time.monotonic() >= self._until:
            self.reason = "the time is up"
        return bool(self.reason)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Inside, SIGTERM and Ctrl-C request a stop after the current step."""
        with handle_signals(self._on_signal):
            yield

    def _on_signal(self, number: int, _: object) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = "interrupted" if number == signal.SIGINT else "SIGTERM received"
