# SPDX-License-Identifier: Apache-2.0
"""Requests to stop a run: SIGTERM or Ctrl-C. Does not import MindSpore."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rvrt_cli.signals import handle_signals


class StopRequest:
    """True once the run is to stop; `reason` says why. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.reason = ""

    def __bool__(self) -> bool:
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
