# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C once lets a command finish in order, and says so at once; twice exits, even during a long computation."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rvrt_cli.upscale import Interruption

_ECHO_SECONDS = 0.3  # a second signal within this time is the echo of the first: MindSpore turns one into another
_latest_interrupt = -math.inf  # s, when `interrupt` last raised


def interrupt(*_: object) -> None:
    """A signal handler that raises KeyboardInterrupt; an echo does not disturb the shutdown that has begun."""
    global _latest_interrupt
    now = time.monotonic()
    if now - _latest_interrupt > _ECHO_SECONDS:
        _latest_interrupt = now
        raise KeyboardInterrupt


def forgive_echo() -> None:
    """Take a signal that comes within a moment for the echo of one that has just been handled."""
    global _latest_interrupt
    _latest_interrupt = time.monotonic()


def exit_after_interrupt() -> NoReturn:
    """Exit with status 130 after the message to the user; from here on a signal ends the process silently."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(130)


@contextlib.contextmanager
def second_signal_exits(
    message: str, *, on_first: Callable[[], object], handler: Callable[[], object] = interrupt
) -> Iterator[None]:
    """Inside, the second SIGINT or SIGTERM prints `message` and exits with status 130, without any cleanup.

    Python handles signals between two of its own instructions, and a network call may take minutes; so a thread counts
    them as they arrive. The work done inside must survive being killed.

    Args:
        on_first: called by that thread at the first signal, at once.
        handler: called by the main thread for each signal, when Python gets to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    numbers = signal.SIGINT, signal.SIGTERM
    handlers = {number: signal.signal(number, lambda *_: handler()) for number in numbers}
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch_signals, args=(read, message, on_first), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, previous in handlers.items():
            signal.signal(number, previous)
        os.close(write)
        watcher.join()
        os.close(read)


@contextlib.contextmanager
def finishing_window(on_first: Callable[[], object]) -> Iterator[Interruption]:
    """Inside, a job runs with the yielded interruption: Ctrl-C finishes its present window, twice exits at once.

    Args:
        on_first: called at once where the first signal waits for a window; by another thread.
    """
    from rvrt_cli.upscale import Interruption

    interruption = Interruption()

    def announce() -> None:
        if interruption.waits:
            on_first()

    def handle_signal() -> None:
        if interruption.waits:
            interruption.request()
            forgive_echo()
        else:
            interrupt()

    message = "rvrt: exited at once; run the same command to resume"
    with second_signal_exits(message, on_first=announce, handler=handle_signal):
        yield interruption


def _watch_signals(read: int, message: str, on_first: Callable[[], object]) -> None:
    first: float | None = None
    while received := os.read(read, 1):
        if received[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if first is None:
            first = time.monotonic()
            with contextlib.suppress(OSError, ValueError):
                on_first()
        elif time.monotonic() - first > _ECHO_SECONDS:
            with contextlib.suppress(OSError, ValueError):
                click.echo(message, err=True)
            os._exit(130)
