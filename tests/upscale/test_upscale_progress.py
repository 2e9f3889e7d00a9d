# SPDX-License-Identifier: Apache-2.0
"""Where the time goes, and what a reporter passes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import rvrt_cli.upscale.progress
from rvrt_cli.engine import SceneStarted, TileDone, TileShrunk, TileStarted
from rvrt_cli.upscale.progress import Progress, Reporter, Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until its only entry is changed."""
    now = [100.0]
    monkeypatch.setattr(rvrt_cli.upscale.progress.time, "monotonic", lambda: now[0])
    return now


def test_time_counts_for_the_innermost_activity(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] += 5  # nothing is running
    with watch("outer"):
        clock[0] += 1
        with watch("inner"):
            clock[0] += 2
            with watch("outer"):
                clock[0] += 4
        clock[0] += 8
    assert watch.seconds == {"outer": 1 + 4 + 8, "inner": 2}


def test_items_count_while_they_come_and_not_while_they_are_used(clock: list[float]) -> None:
    def items() -> Iterator[int]:
        for number in range(3):
            clock[0] += 1
            yield number
        clock[0] += 10

    watch = Stopwatch()
    taken = []
    with watch("use"):
        for number in watch.iterate("wait", items()):
            clock[0] += 100
            taken.append(number)
    assert taken == [0, 1, 2]
    assert watch.seconds == {"wait": 13, "use": 300}


def test_an_activity_that_fails_is_counted_and_ends(clock: list[float]) -> None:
    watch = Stopwatch()

    def fail() -> None:
        clock[0] += 3
        raise ValueError

    with watch("outer"):
        with pytest.raises(ValueError), watch("inner"):  # noqa: PT011
            fail()
        clock[0] += 1
    assert watch.seconds == {"inner": 3, "outer": 1}


def test_a_reporter_adds_up_what_the_engine_reports(clock: list[float]) -> None:
    seen = []
    reporter = Reporter(Progress(20, frames=4, computed=4, kept=4), lambda progress: seen.append(progress.computed))
    with reporter.watch("network"):
        reporter.on_event(SceneStarted(4))
        clock[0] += 2
        for tile in (1, 2):
            reporter.on_event(TileDone(4, 6, tile, 2))
        reporter.on_event(TileShrunk(10, (64, 96), (32, 48)))
        reporter.on_event(TileDone(10, 5, 1, 4))
    reporter.frame_written()
    assert seen == [7, 10, 11.25, 11.25]
    progress = reporter.progress
    assert (progress.frames, progress.scenes, progress.network, progress.elapsed) == (5, 1, 2, 2)
    assert progress.notes == ["memory ran out: tiles of 96x64 px are now 48x32 px"]


def test_a_call_of_the_network_moves_the_progress(clock: list[float]) -> None:
    seen = []
    reporter = Reporter(Progress(20), lambda progress: seen.append((progress.computed, progress.rate)))

    class Network:
        on_share = None

    network = Network()
    with reporter.watching(network):
        reporter.on_event(TileStarted(0, 8, 1, 2))
        for share in (0.25, 0.5):
            clock[0] += 1
            network.on_share(share)
        network.on_share(0.75)  # at the same moment
        reporter.on_event(TileDone(0, 8, 1, 2))
        reporter.on_event(TileStarted(0, 8, 2, 2))
        clock[0] += 2
        network.on_share(0.5)
    assert network.on_share is None
    assert seen == [(1, 1), (2, 1), (4, 2), (6, 1.5)]
    assert reporter.progress.seconds_left == pytest.approx(14 / 1.5)
    with reporter.watching(object()):  # a network that cannot tell
        pass
