# SPDX-License-Identifier: Apache-2.0
"""`rvrt doctor`: what there is on this machine, for its user and for bug reports."""

from __future__ import annotations

import json
from typing import Any

import click

from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.formatting import facts_table, megabytes, plural, print_table, safe_markup


@click.command("doctor", short_help="Show what there is on this machine, and what would make it faster.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def doctor_command(as_json: bool, debug: bool) -> None:
    """Show devices, kernels, ffmpeg, memory, cache and versions, and what would make upscaling faster. Add it to bug reports.

    \b
    Examples:
      rvrt doctor
      rvrt doctor --json
    """
    from rvrt_cli.doctor.machine_report import examine

    with open_display("", lines=False).working("looking at this machine"):
        report = examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    table = facts_table()
    for name, fact in _rows(report):
        table.add_row(name, safe_markup(fact))
    print_table(table)
    advice = report["advice"]
    click.echo("\nWhat would help:" if advice else "\nNothing found that would make it faster.")
    for line in advice:
        click.echo(f"- {line}")


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    processor, memory, devices = report["processor"], report["memory"], report["devices"]
    kernels, ffmpeg, cache = report["kernels"], report["ffmpeg"], report["cache"]
    rows = [
        ("rvrt", f"{report['rvrt']}, Python {report['python']}, {report['system']}"),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in report["packages"].items())),
        (
            "processor",
            f"{processor['name']}, {processor['usable_cores']} of {processor['cores']} cores usable, "
            f"{plural(processor['threads'], 'thread')}",
        ),
        ("memory", f"{memory['free'] / 2**30:.1f} GiB free of {memory['total'] / 2**30:.1f} GiB"),
        ("device", devices["chosen"] or "none"),
    ]
    rows += [(f"no {kind}", reason) for kind, reason in devices["missing"].items() if reason]
    in_use = f"C++, {kernels['instruction_set']}" if kernels["compiled"] else "none: definitions in plain MindSpore"
    rows.append(("kernels", in_use))
    if ffmpeg["program"]:
        rows += [
            ("ffmpeg", f"{ffmpeg['version'].removeprefix('ffmpeg version ')}, {ffmpeg['program']}"),
            ("encoders", f"{', '.join(ffmpeg['encoders'])}; {ffmpeg['video_encoders']} for video in all"),
            ("filters", ", ".join(ffmpeg["filters"]) or "neither zscale nor libvmaf"),
        ]
    held = [f"{name} {megabytes(part['bytes'])}" for name, part in cache["parts"].items() if part["files"]]
    rows.append(("cache", f"{cache['folder']}: {', '.join(held) or 'empty'}"))
    return rows
