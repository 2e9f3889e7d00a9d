# SPDX-License-Identifier: Apache-2.0
"""`rvrt preview`: what upscaling would look like and take, from a few excerpts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.compare import check_page, write_page
from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.formatting import duration, megabytes
from rvrt_cli.cli.generated_options import dataclass_options, options_of
from rvrt_cli.cli.option_files import explain_origin, sourced_options
from rvrt_cli.compare.preview_options import PreviewOptions
from rvrt_cli.options import UpscaleOptions

if TYPE_CHECKING:
    from rvrt_cli.compare.preview_job import Estimate


@click.command("preview", short_help="Upscale a few excerpts, and estimate the whole job.")
@click.argument("source")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Page to write, else SOURCE-preview.html.",
)
@dataclass_options(PreviewOptions)
@dataclass_options(UpscaleOptions)
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def preview_command(source: str, output: Path | None, as_json: bool, debug: bool, **options: Any) -> None:
    """Upscale a few excerpts of SOURCE with the given options, compare them with it on one page, and estimate time and size
    of the whole job.

    The excerpts are chosen over the whole source: the sharpest, the busiest, and one unlike them.

    \b
    Examples:
      rvrt preview in.mp4
      rvrt preview in.mp4 -o look.html --at 0:42,1:05 --model rvrt-bi-vimeo
      rvrt preview in.mp4 --frames 24 --codec libx265 --crf 18
    """
    sourced = sourced_options(UpscaleOptions, options, source)
    chosen = sourced.options
    preview = options_of(PreviewOptions, options)
    page_file = output or Path(f"{Path(source).stem or 'source'}-preview.html")
    check_page(page_file, chosen.overwrite)
    from rvrt_cli.compare.preview_job import preview_job

    display = open_display("frames", transient=True)
    with display, explain_origin(sourced.origins):
        display.begin(None, "choosing excerpts")
        page, estimate = preview_job(
            source,
            chosen,
            preview,
            lambda number, count, progress: display.update(
                progress.frames, progress.total, f"excerpt {number + 1} of {count}"
            ),
        )
    if as_json:
        click.echo(json.dumps({**estimate.to_dict(), "page": str(page_file)}))
    else:
        _print_estimate(estimate)
    write_page(page_file, page, quiet=as_json)


def _print_estimate(estimate: Estimate) -> None:
    click.echo(f"measured: {estimate.measured}")
    click.echo(
        f"whole job: {estimate.total} frames, about {duration(estimate.job_seconds)} and {megabytes(estimate.job_bytes)}"
    )
