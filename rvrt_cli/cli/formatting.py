# SPDX-License-Identifier: Apache-2.0
"""How the commands write numbers, durations and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rvrt_cli.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH = 250  # columns of a table that does not go to a terminal: no line is wrapped
_MAX_TEXT = 300  # characters of a text from a file


def plural(number: int, noun: str) -> str:
    """ "1 clip", "2 clips"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def three_digits(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def thousands(number: int) -> str:
    """ "1 234 567"."""
    return f"{number:,}".replace(",", " ")


def megabytes(count: float) -> str:
    """Bytes in units of 10^6."""
    return f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """ "1 h 05 min", "3 min 20 s", "20 s"; "?" for NaN."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def pace(rate: float | None, seconds_left: float | None) -> str:
    """Frames per second and the time left, "0.50/s, 2 min 56 s left"; without what is not known."""
    if rate is None:
        return ""
    return f"{rate:.2f}/s" + (f", {duration(seconds_left)} left" if seconds_left is not None else "")


def safe_markup(text: object) -> str:
    """Text from elsewhere for a table: cut short, printable, and with nothing in it for rich to interpret."""
    from rich.markup import escape

    plain = printable(str(text))
    return escape(plain if len(plain) <= _MAX_TEXT else plain[: _MAX_TEXT - 3] + "...")


def facts_table() -> Table:
    """An empty table of two columns, names and facts."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table on standard output; into a file or a report without the spaces that fill its lines."""
    console = make_console()
    if console.is_terminal:
        console.print(table)
        return
    console.width = _PIPE_WIDTH
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        click.echo(line.rstrip())


def make_console(stderr: bool = False) -> Console:
    """rich's way to standard output or standard error, without colors of its own for numbers and paths."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
