# SPDX-License-Identifier: Apache-2.0
"""Signals: deferred while MindSpore is busy, and sent by the kernel to children whose parent has died.

An exception raised in the middle of MindSpore's import or of a computation may be lost, or end the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_DEFERRED = (signal.SIGINT, signal.SIGTERM)
PR_SET_PDEATHSIG = 1  # prctl(2): the kernel signals this process when its parent dies, also after exec


@contextmanager
def defer_signals() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive inside are handled on leaving, as they would have been."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    arrived: list[tuple[int, FrameType | None]] = []
    before = {int(number): signal.signal(number, lambda *signalled: arrived.append(signalled)) for number in _DEFERRED}
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


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM call `handler`; nothing changes where this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _DEFERRED}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def kill_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process `parent`, ends; at once where that is gone (Linux).

    A thread that polls would not do: it may never run while native code waits.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def child_setup() -> Callable[[], None] | None:
    """`preexec_fn` of a child that must not outlive the thread that starts it; None where the system cannot do that."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up before the fork, which only the child returns from

    def setup() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)

    return setup
