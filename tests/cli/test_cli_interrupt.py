# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C once and twice, in this process; `test_cli_upscale` has whole commands."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from rvrt_cli.cli.interrupt import finishing_window, interrupt, second_signal_exits

MODULE = importlib.import_module("rvrt_cli.cli.interrupt")  # the package has a function of this name


class Clock:
    """The module's clock, which stands still unless a test moves it; it notes who looks at it."""

    def __init__(self) -> None:
        self.now, self.looks = 100.0, []

    def monotonic(self) -> float:
        self.looks.append(threading.current_thread().name)
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(MODULE, "time", made)
    monkeypatch.setattr(MODULE, "_latest_interrupt", float("-inf"))
    return made


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Statuses with which the process would have exited."""
    found: list[int] = []
    monkeypatch.setattr(os, "_exit", found.append)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_signal_exits_unless_it_is_an_echo(
    clock: Clock, exits: list[int], capsys: pytest.CaptureFixture
) -> None:
    said: list[str] = []
    handled: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with second_signal_exits("bye", on_first=lambda: said.append("once"), handler=lambda: handled.append("signal")):
            signal.raise_signal(signal.SIGUSR1)  # of somebody else
            for number, later in ((signal.SIGINT, 0.0), (signal.SIGTERM, 0.2), (signal.SIGTERM, 0.2)):
                assert exits == []
                clock.now += later
                seen = clock.looks.count("signals")
                signal.raise_signal(number)
                wait_until(lambda seen=seen: clock.looks.count("signals") > seen)
            wait_until(lambda: exits)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (said, len(handled), exits) == (["once"], 3, [130])
    assert capsys.readouterr().err == "bye\n"


def test_a_window_is_finished_and_everything_else_interrupted(clock: Clock, exits: list[int]) -> None:
    announced: list[str] = []
    with finishing_window(lambda: announced.append("stopping")) as interruption, interruption.after_window():
        signal.raise_signal(signal.SIGINT)
        wait_until(lambda: announced)
        assert interruption.requested
    interrupt()  # an echo
    clock.now += 1
    with pytest.raises(KeyboardInterrupt), finishing_window(lambda: announced.append("stopping")):
        signal.raise_signal(signal.SIGINT)
    interrupt()  # an echo
    clock.now += 1
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert (announced, exits) == (["stopping"], [])


def test_other_threads_handle_no_signals() -> None:
    found: list[object] = []

    def work() -> None:
        with second_signal_exits("bye", on_first=lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
