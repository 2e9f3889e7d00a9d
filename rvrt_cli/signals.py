"""Signals wait while MindSpore is imported, or computes: an exception in the midst of either may be lost, or end the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive inside are handled at the end, as they would have been."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    arrived: list[tuple[int, FrameType | None]] = []
    before = {int(number): signal.signal(number, lambda *signalled: arrived.append(signalled)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number, frame in arrived[:1]:  # Ctrl-C may arrive as both, see `rvrt_cli.cli.interrupt`
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            raise KeyboardInterrupt
