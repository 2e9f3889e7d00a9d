# SPDX-License-Identifier: Apache-2.0
"""Progress displays and the way numbers are written."""

from __future__ import annotations

import io
import sys

import pytest

from rvrt_cli.cli import display as displays
from rvrt_cli.cli.display import BarDisplay, LineDisplay, SilentDisplay, open_display
from rvrt_cli.cli.formatting import duration, megabytes, plural, safe_markup, thousands, three_digits


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_come_at_intervals_and_when_all_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(displays.time, "monotonic", lambda: now)
    with LineDisplay("frames", interval=5.0) as display:
        display.begin(10, "nothing to see")
        for done in range(1, 11):
            now += 2.0
            display.update(done, 10, f"{done / 2:.1f}/s")
        display.update(10, 10, "again")
    assert capsys.readouterr().err.splitlines() == [
        "3/10 frames: 1.5/s, 6 s elapsed",
        "6/10 frames: 3.0/s, 12 s elapsed",
        "9/10 frames: 4.5/s, 18 s elapsed",
        "10/10 frames: 5.0/s, 20 s elapsed",
    ]


def test_lines_go_where_they_are_told_and_are_printable(capsys: pytest.CaptureFixture) -> None:
    display = LineDisplay("MB", stderr=False, at_once=True)
    display.update(1.25, None, "x\x1b[2J")
    display.note("a\nb")
    shown, said = capsys.readouterr()
    assert shown.splitlines() == ["1.2/? MB: x\\x1b[2J, 0 s elapsed", "note: a\\nb"]
    assert said == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    display = open_display("frames", lines=False)
    assert isinstance(display, BarDisplay)
    with display.working("loading the network"):
        pass
    with display:
        display.begin(10, "compiling")
        display.update(4, 10, "2.00/s")
        display.say("a [bold]line[/]\x1b[2J")
        display.note("mind")
        display.alert("failed [b]")
    display.alert("after it")
    shown = terminal.getvalue()
    for text in ("4/10 frames: 2.00/s", "a [bold]line[/]\\x1b[2J", "note: mind", "failed [b]", "after it"):
        assert text in shown


def test_a_bar_stays_in_one_line_of_80_columns_and_counts_the_time_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(displays.time, "monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    display = BarDisplay("frames")
    longest = "0.05/s, 23 h 59 min left"
    display.begin(54_000, "compiling the network")
    shown = []
    for done, text in ((0, ""), (53_999, longest)):
        display.update(done, 54_000, text)
        now += 86_399.0
        with display._console.capture() as captured:
            display._console.print(display._bar.get_renderable())
        shown.append(captured.get())
    for text in shown:
        assert text.count("\n") == 1, text
    assert "0/54000 frames, 23 h 59 min elapsed" in shown[0]
    assert f"53999/54000 frames: {longest}, 47 h 59 min elapsed" in shown[1]


def test_several_works_have_a_second_bar_or_the_beginning_of_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = "file 123 of 200, a-rather-lon…2024.mp4; 23 h 59 min left for all"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as terminal:
        terminal.setattr(sys, "stderr", Terminal())
        bar = BarDisplay("frames")
        bar.overall(0.25, whole)
        bar.update(4, 10, "0.05/s, 23 h 59 min left")
        with bar._console.capture() as captured:
            bar._console.print(bar._bar.get_renderable())
    shown = captured.get().splitlines()
    assert len(shown) == 2
    assert "4/10 frames: 0.05/s" in shown[0]
    assert shown[1].rstrip().endswith(whole)
    now = 100.0
    monkeypatch.setattr(displays.time, "monotonic", lambda: now)
    lines = LineDisplay("frames", interval=5.0)
    for number in (1, 2):
        lines.overall(None, f"file {number} of 2")
        lines.begin(2, "starting")
        now += 1.0
        lines.update(2, 2, "2.00/s")
    assert capsys.readouterr().err.splitlines() == [
        f"file {number} of 2; 2/2 frames: 2.00/s, 1 s elapsed" for number in (1, 2)
    ]


def test_without_a_terminal_there_are_lines_or_nothing() -> None:
    assert isinstance(open_display("frames"), LineDisplay)
    assert type(open_display("frames", lines=False)) is SilentDisplay


def test_a_silent_display_shows_nothing(capsys: pytest.CaptureFixture) -> None:
    with SilentDisplay() as display, display.working("loading"):
        display.begin(1, "x")
        display.say("x")
        display.note("x")
        display.update(1, 1, "x")
        display.overall(0.5, "x")
    assert capsys.readouterr() == ("", "")
    SilentDisplay().alert("wrong\x1b[2J")
    assert capsys.readouterr() == ("", "wrong\\x1b[2J\n")


def test_numbers_are_written_as_people_do() -> None:
    assert (plural(1, "clip"), plural(2, "clip"), plural(0, "clip")) == ("1 clip", "2 clips", "0 clips")
    assert [three_digits(value) for value in (0.01234, 1.234, 99.94, 1234.5)] == ["0.0123", "1.23", "99.9", "1234"]
    assert (thousands(1234567), megabytes(12_345_678)) == ("1 234 567", "12.3 MB")
    seconds = (0.4, 59.9, 61, 3600, 14_850, float("nan"))
    assert [duration(value) for value in seconds] == ["0 s", "59 s", "1 min 01 s", "1 h 00 min", "4 h 07 min", "?"]


def test_text_from_elsewhere_is_shown_as_it_is() -> None:
    assert safe_markup("[red]x") == "\\[red]x"
    assert safe_markup("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert len(safe_markup("x" * 1000)) == 300
