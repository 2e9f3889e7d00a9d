# SPDX-License-Identifier: Apache-2.0
"""`rvrt compare`: a page that shows what upscaling has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.generated_options import dataclass_options, options_of
from rvrt_cli.compare.compare_options import CompareOptions
from rvrt_cli.errors import OptionError
from rvrt_cli.files import write_atomically


@click.command("compare", short_help="Write a page that compares two videos.")
@click.argument("before")
@click.argument("after")
@click.argument("truth", required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE.html", help="Page to write.")
@click.option(
    "--side-by-side", type=click.Path(path_type=Path), metavar="FILE", help="Video to write with both halves."
)
@dataclass_options(CompareOptions)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def compare_command(
    before: str,
    after: str,
    truth: str | None,
    output: Path | None,
    side_by_side: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Compare BEFORE, the source or another upscaled video, with AFTER, the upscaled video, on one page.

    The page is a single file that needs no network: a divider over synchronized excerpts, pixels beside bicubic ones, and
    with TRUTH, the original at high resolution, PSNR, SSIM and VMAF (where ffmpeg has libvmaf) over time; without it, how
    much the upscaled video flickers.

    \b
    Examples:
      rvrt compare in.mp4 out.mp4 -o report.html
      rvrt compare in.mp4 out.mp4 original.mp4 -o report.html --at 0:02,0:10
      rvrt compare in.mp4 out.mp4 --side-by-side both.mp4
    """
    chosen = options_of(CompareOptions, options)
    if output is None and side_by_side is None:
        raise OptionError("--output: name the page to write, such as -o report.html")
    if output is not None:
        check_page(output, overwrite)
    working = open_display("", lines=False, transient=True).working
    if side_by_side is not None:
        from rvrt_cli.compare.side_by_side import write_side_by_side

        with working("writing both halves"):
            write_side_by_side(before, after, side_by_side, overwrite=overwrite)
        click.echo(f"wrote {side_by_side}")
    if output is not None:
        from rvrt_cli.compare.compare_videos import compare_videos

        with working("comparing"):
            page = compare_videos(before, after, truth, chosen)
        write_page(output, page)


def check_page(path: Path, overwrite: bool) -> None:
    """Refuse a page that could not be written, before any work.

    Raises:
        OptionError: it has another suffix, exists, or its folder cannot be written.
    """
    from rvrt_cli.bench.report import check_writable

    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--output {path}: name an .html file")
    if path.exists() and not overwrite:
        raise OptionError(f"--output {path}: exists; choose another name, or --overwrite")
    check_writable(path)


def write_page(path: Path, page: str, quiet: bool = False) -> None:
    """Write a page and, unless `quiet`, say so."""
    write_atomically(path, page.encode())
    if not quiet:
        click.echo(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
