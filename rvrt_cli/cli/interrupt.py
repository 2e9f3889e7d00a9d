# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C once lets a command finish in order; twice exits at once, even during a long computation."""

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

_ECHO_SECONDS = 0.3  # a second signal within this time is the echo of the first: MindSpore turns one into another
_latest_interrupt = -math.inf  # s, when `interrupt` last raised


def interrupt(*_: object) -> None:
    """A signal handler that raises KeyboardInterrupt; an echo does not disturb the shutdown that has begun."""
    global _latest_interrupt
    now = time.monotonic()
    if now - _latest_interrupt > _ECHO_SECONDS:
        _latest_interrupt = now
        raise KeyboardInterrupt


def exit_after_interrupt() -> NoReturn:
    """Exit with status 130 after the message to the user; from here on a signal ends the process silently."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(130)


@contextlib.contextmanager
def second_signal_exits(message: str) -> Iterator[None]:
    """Inside, the second SIGINT or SIGTERM prints `message` and exits with status 130, without any cleanup.

    Python handles signals between two of its own instructions, and a network call may take minutes; so a thread counts
    them as they arrive. The work done inside must survive being killed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_exit_on_second, args=(read, message), name="signals", daemon=True)
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


def _exit_on_second(read: int, message: str) -> None:
    first: float | None = None
    while received := os.read(read, 1):
        if received[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first > _ECHO_SECONDS:
            with contextlib.suppress(OSError, ValueError):
                click.echo(message, err=True)
            os._exit(130)
