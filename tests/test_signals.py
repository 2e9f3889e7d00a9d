# SPDX-License-Identifier: Apache-2.0
"""Signals that arrive while something must not be interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rvrt_cli.signals import defer_signals, handle_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send_inside(*numbers: int) -> str:
    """What happens when these signals arrive while they are deferred."""
    done = "nothing"
    try:
        with defer_signals():
            for number in numbers:
                os.kill(os.getpid(), number)
            done = "the work"
    except KeyboardInterrupt:
        done += ", then the interruption"
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_deferred_signals_are_handled_afterwards(number: int) -> None:
    handled: list[int] = []
    signal.signal(number, lambda signalled, _: handled.append(signalled))
    assert send_inside() == "the work"
    assert handled == []
    assert send_inside(number, number) == "the work"
    assert handled == [number], "Ctrl-C may arrive as two signals"
    signal.signal(number, signal.SIG_DFL)  # which would end the process, without any cleanup
    assert send_inside(number) == "the work, then the interruption"
    signal.signal(number, signal.SIG_IGN)
    assert send_inside(number) == "the work"
    assert signal.getsignal(number) == signal.SIG_IGN


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_other_threads_leave_the_handlers_alone() -> None:
    def handler_inside() -> list[Any]:
        with defer_signals():
            found = [signal.getsignal(signal.SIGTERM)]
        with handle_signals(lambda number, frame: None):
            return [*found, signal.getsignal(signal.SIGTERM)]

    assert in_thread(handler_inside) == [signal.getsignal(signal.SIGTERM)] * 2
    assert handler_inside()[1] != signal.getsignal(signal.SIGTERM)
