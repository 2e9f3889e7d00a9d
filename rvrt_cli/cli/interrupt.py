"""Ctrl-C once lets a command finish in order; twice ends it at once, even within a long computation."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import click

_SAME = 0.3  # s within which a second signal is the echo of the first: MindSpore turns one into another


_latest = -math.inf  # s, when `interrupt` raised


def interrupt(*_: object) -> None:
    """A signal handler that raises KeyboardInterrupt; an echo does not disturb what the first one began."""
    global _latest
    now = time.monotonic()
    if now - _latest > _SAME:
        _latest = now
        raise KeyboardInterrupt


def end() -> NoReturn:
    """Leave with status 130, all being said: from here on a signal ends the process without a word."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(130)


@contextlib.contextmanager
def second_ends_at_once(message: str) -> Iterator[None]:
    """Inside, the second SIGINT or SIGTERM prints `message` and ends the process with status 130, without any tidying.

    Python looks at signals between two steps of its own, and a network call may take minutes; so a thread counts them as
    they arrive. What runs inside must survive being killed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(read, message), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write)
        watcher.join()
        os.close(read)


def _watch(read: int, message: str) -> None:
    first: float | None = None
    while seen := os.read(read, 1):
        if seen[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first > _SAME:
            with contextlib.suppress(OSError, ValueError):
                click.echo(message, err=True)
            os._exit(130)
