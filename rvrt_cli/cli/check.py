# SPDX-License-Identifier: Apache-2.0
"""`rvrt check`: compare a target, made by any tool, with its source."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.check.check_options import CheckOptions
from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.formatting import plural, print_table, safe_markup
from rvrt_cli.cli.generated_options import dataclass_options, options_of

if TYPE_CHECKING:
    from rvrt_cli.check.verdict import CheckReport

_STATUS_STYLES = {"ok": "green", "note": "yellow", "fail": "bold red", "skipped": "dim"}


@click.command("check", short_help="Compare an upscaled video with its source.")
@click.argument("source")
@click.argument("target")
@dataclass_options(CheckOptions)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def check_command(source: str, target: str, as_json: bool, debug: bool, **options: Any) -> None:
    """Compare TARGET, upscaled from SOURCE by any tool, with SOURCE, and say what is wrong with it.

    Looked at: number of frames and every timestamp; frozen, black, misplaced and damaged frames; aspect ratio and rotation;
    colors, as tagged and as seen; bit depth, as stated and as used; HDR metadata; steps at tile borders and joins of windows;
    the packets of every other stream; audio against video at start and end. The exit status is 1 if something fails.

    \b
    Examples:
      rvrt check in.mp4 out.mp4
      rvrt check in.mkv excerpt.mkv --start 60 --duration 10
      rvrt check in.mp4 out.mp4 --json
    """
    chosen = options_of(CheckOptions, options)
    report = run_check(source, target, chosen)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        print_findings(report)
    sys.exit(1 if report.failures else 0)


def run_check(source: str, target: str, options: CheckOptions) -> CheckReport:
    """Check a target, while a terminal shows that it is being checked."""
    from rvrt_cli.check.run_check import check_target_against_source

    with open_display("", lines=False, transient=True).working(f"checking {target}"):
        return check_target_against_source(source, target, options)


def print_findings(report: CheckReport) -> None:
    """Print a table of findings on standard output."""
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        style = _STATUS_STYLES[finding.status]
        table.add_row(f"[{style}]{finding.status}[/]", safe_markup(finding.name), safe_markup(finding.text))
    print_table(table)
    failed = len(report.failures)
    click.echo(f"{plural(failed, 'failure')}: see above" if failed else "no failures")
