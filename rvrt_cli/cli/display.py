# SPDX-License-Identifier: Apache-2.0
"""What a command shows while it works: a progress bar on a terminal, a line every few seconds elsewhere, or JSON events.

A command opens a display with `open_display`, reports to it with `say`, `note` and `update`, and closes it by leaving its
`with` block.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.formatting import duration, make_console
from rvrt_cli.errors import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_INTERVAL = 5.0  # s between plain lines
_BAR_WIDTH = 40  # columns at most


class SilentDisplay:
    """Shows nothing but alerts; the other displays override what they show."""

    def __enter__(self) -> SilentDisplay:
        """Begin to show progress."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop showing progress."""

    def say(self, line: str) -> None:
        """Show a line of its own."""

    def note(self, line: str) -> None:
        """Show a line that deserves attention."""

    def alert(self, line: str) -> None:
        """Show a line of its own that is never left out, such as an error, on standard error."""
        click.echo(printable(line), err=True)

    def begin(self, total: float | None, text: str) -> None:
        """Show that the work begins, where there is a place for it until the first `update`."""

    def update(self, done: float, total: float | None, text: str = "") -> None:
        """Show progress: `done` of `total` units (None: unknown), and a few words beside it."""

    def overall(self, share: float | None, text: str) -> None:
        """Show how far the whole of several works is, from 0 to 1, of which `update` shows the present one."""

    def working(self, text: str) -> AbstractContextManager[Any]:
        """While inside, show what is being done, for steps that cannot tell how far they are."""
        return nullcontext()


class LineDisplay(SilentDisplay):
    """A line every few seconds, for a log.

    Args:
        unit: what is counted, in the plural; "MB" are shown with a decimal.
        stderr: lines go to standard error, else to standard output.
        interval: between lines of progress [s]; that it is complete is always shown.
        at_once: the first line does not wait for the interval to pass.
    """

    def __init__(
        self, unit: str, *, stderr: bool = True, interval: float = LINE_INTERVAL, at_once: bool = False
    ) -> None:
        self._standing, self._stderr, self._interval = _Standing(unit), stderr, interval
        self._at_once, self._next = at_once, time.monotonic() + (0.0 if at_once else interval)
        self._complete = False
        self._overall = ""

    def say(self, line: str) -> None:
        click.echo(printable(line), err=self._stderr)

    def note(self, line: str) -> None:
        self.say(f"note: {line}")

    def begin(self, total: float | None, text: str) -> None:
        self._standing.restart()
        self._complete = False
        if not self._at_once:
            self._next = max(self._next, time.monotonic() + self._interval)

    def update(self, done: float, total: float | None, text: str = "") -> None:
        completes = done == total and not self._complete
        self._complete |= completes
        if completes or time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self._standing.set(done, total, text)
            self.say(f"{self._overall}{self._standing}")

    def overall(self, share: float | None, text: str) -> None:
        self._overall = f"{text}; "


class BarDisplay(SilentDisplay):
    """A progress bar in one line, for a terminal."""

    def __init__(self, unit: str, *, stderr: bool = True, transient: bool = False) -> None:
        from rich.progress import BarColumn, Progress, Task, TextColumn
        from rich.table import Column, Table

        class Bars(Progress):
            """Bars that leave room for the ^C that a terminal echoes: a line that wraps would never be erased."""

            def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
                table = super().make_tasks_table(tasks)
                table.width = console.width - len("^C")
                return table

        self._standing = _Standing(unit)
        self._console = console = make_console(stderr)
        text = TextColumn("{task.fields[standing]}", markup=False, table_column=Column(no_wrap=True))
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=_BAR_WIDTH))  # what the text leaves
        self._bar = Bars(bar, text, console=self._console, transient=transient, expand=True)
        self._task = self._bar.add_task("", total=None, standing=self._standing)
        self._whole: TaskID | None = None

    def __enter__(self) -> BarDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        self._console.print(printable(f"note: {line}"), markup=False, style="yellow", soft_wrap=True)

    def alert(self, line: str) -> None:
        if self._bar.live.is_started and self._console.stderr:  # else what others print comes into the bar's lines
            self.say(line)
        else:
            super().alert(line)

    def begin(self, total: float | None, text: str) -> None:
        self._standing.restart()
        self.update(0, total, text)

    def update(self, done: float, total: float | None, text: str = "") -> None:
        self._standing.set(done, total, text)
        self._bar.update(self._task, completed=done, total=total)

    def overall(self, share: float | None, text: str) -> None:
        if self._whole is None:
            self._whole = self._bar.add_task("", total=1.0, standing="")
        self._bar.update(self._whole, completed=share or 0.0, standing=printable(text))

    def working(self, text: str) -> AbstractContextManager[Any]:
        return self._console.status(text)


class JsonEvents:
    """One JSON object per line, for programs; `event` is its first key.

    Args:
        also: makes values that every event has beside its own.
    """

    def __init__(self, *, stderr: bool, also: Callable[[], dict[str, Any]] = dict) -> None:
        self._stderr, self._also = stderr, also

    def emit(self, event: str, **values: Any) -> None:
        """Print an event."""
        click.echo(json.dumps({"event": event, **self._also(), **values}), err=self._stderr)


def open_display(
    unit: str,
    *,
    stderr: bool = True,
    lines: bool = True,
    interval: float = LINE_INTERVAL,
    at_once: bool = False,
    transient: bool = False,
) -> SilentDisplay:
    """The display that suits where it goes: a bar on a terminal, else lines.

    Args:
        unit: what is counted, in the plural.
        stderr: shown on standard error, else on standard output.
        lines: whether lines are shown where there is no terminal.
        interval, at_once: of the lines, see `LineDisplay`.
        transient: the bar vanishes at the end.
    """
    if (sys.stderr if stderr else sys.stdout).isatty():
        return BarDisplay(unit, stderr=stderr, transient=transient)
    return LineDisplay(unit, stderr=stderr, interval=interval, at_once=at_once) if lines else SilentDisplay()


class _Standing:
    """How far the work is when it is shown: "12/100 frames: 0.50/s, 2 min 56 s left, 24 s elapsed"."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._done = 0.0
        self._total: float | None = None
        self._text = ""
        self.restart()

    def restart(self) -> None:
        """Count the time from now on."""
        self._started = time.monotonic()

    def set(self, done: float, total: float | None, text: str) -> None:
        """What the next text says."""
        self._done, self._total, self._text = done, total, text

    def __str__(self) -> str:
        shown = (self._done, self._total)
        amounts = [f"{amount:.1f}" if self._unit == "MB" else f"{amount:.0f}" for amount in shown if amount is not None]
        counted = f"{'/'.join(amounts) if self._total is not None else f'{amounts[0]}/?'} {self._unit}"
        elapsed = f"{duration(time.monotonic() - self._started)} elapsed"
        return printable(f"{counted}: {self._text}, {elapsed}" if self._text else f"{counted}, {elapsed}")
