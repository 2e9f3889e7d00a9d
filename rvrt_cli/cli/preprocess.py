# SPDX-License-Identifier: Apache-2.0
"""`rvrt preprocess`: make training data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rvrt_cli.cli.display import SilentDisplay, open_display
from rvrt_cli.cli.formatting import duration, plural
from rvrt_cli.cli.generated_options import dataclass_options, with_default
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.errors import printable
from rvrt_cli.options import usable_cores

if TYPE_CHECKING:
    from rvrt_cli.data.make_clips import SourceResult
    from rvrt_cli.data.vimeo_preprocess import PreprocessingStats


@click.group("preprocess", short_help="Make training data.")
def preprocess_group() -> None:
    """Make training data: low-resolution Vimeo-90K, or clips from your own photos and videos."""


def _workers_option(function: Callable) -> Callable:
    """--workers, the same for every command here."""
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=usable_cores(),
        help=with_default("Worker processes.", "one per core"),
    )(function)


@preprocess_group.command("vimeo90k", short_help="Make the low resolution of Vimeo-90K.")
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--lists",
    type=click.Choice(["train", "test", "both"]),
    default="both",
    help=with_default("Lists of septuplets to process.", "both"),
)
@click.option(
    "--degradation",
    type=click.Choice(["bi", "bd"]),
    default="bi",
    help=with_default("Degradation: bi, MATLAB's bicubic; or bd, Gaussian blur of 1.6 px, then every 4th pixel.", "bi"),
)
@click.option("--scale", type=click.IntRange(2, 4), default=4, help=with_default("Downscaling factor.", "4"))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help=with_default(
        "Folder for BIx4 or BDx4 and the annotation files. `rvrt train` and `rvrt bench` look for them in ROOT: move "
        "or link them there.",
        "ROOT",
    ),
)
@_workers_option
def preprocess_vimeo90k_command(
    root: Path, lists: str, degradation: str, scale: int, output: Path | None, workers: int
) -> None:
    """Make the low resolution of the Vimeo-90K septuplets in ROOT, and the usual annotation files.

    ROOT is the set as unpacked: sequences/00001/0001/im1.png …, sep_trainlist.txt, sep_testlist.txt. A second run makes
    only what is missing.

    \b
    Example:
      rvrt preprocess vimeo90k /data/vimeo_septuplet --lists test --degradation bd
    """
    from rvrt_cli.data.vimeo import SEPTUPLET_FRAMES, read_list
    from rvrt_cli.data.vimeo_preprocess import SET_IMAGES, PreprocessingStats, make_low_resolution

    names = ("train", "test") if lists == "both" else (lists,)
    total = SEPTUPLET_FRAMES * len({line for name in names for line in read_list(root, name)})
    start, work = time.perf_counter(), PreprocessingStats()
    with open_display("images", stderr=False) as display:

        def report(piece: PreprocessingStats) -> None:
            work.add(piece)
            seconds = time.perf_counter() - start
            done, rate = work.images + work.existing + work.failed, work.images / seconds
            display.update(done, total, f"{rate:.0f} images/s, {_time_left(done, total, seconds)}")

        make_low_resolution(root, names, degradation, scale, output, workers, report)
    seconds = time.perf_counter() - start
    click.echo(
        f"{plural(work.images, 'image')} made, {work.existing} already there, in {seconds:.0f} s with "
        f"{plural(workers, 'worker')}"
    )
    if work.images:
        _print_rate(work, SET_IMAGES, seconds)
    _list_problems(work.problems, "image", "could not be made")
    if work.problems:
        raise SystemExit(1)


def _print_rate(work: PreprocessingStats, set_images: int, seconds: float) -> None:
    parts = (work.reading, work.resizing, work.writing)
    read, resize, write = (f"{100 * part / work.seconds:.0f} %" for part in parts)
    click.echo(
        f"{work.images / work.seconds:.0f} images/s per core ({read} reading, {resize} resizing, {write} writing); "
        f"the whole set of {set_images} images: {set_images * seconds / work.images / 3600:.1f} h at this rate"
    )


@preprocess_group.command("clips", short_help="Cut photos and videos into training clips.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder for the clips.",
)
@dataclass_options(ClipOptions)
@click.option("--license", metavar="TEXT", help="License of the sources, for the manifest.")
@click.option(
    "--licenses",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="License of each source by its name: CSV lines 'pattern,license' or JSON {pattern: license}.",
)
@click.option("--overwrite", is_flag=True, help="Replace the clips in the folder.")
@click.option("--strict", is_flag=True, help="Exit with status 1 if any source could not be used.")
@_workers_option
def preprocess_clips_command(
    sources: tuple[Path, ...],
    output: Path,
    license: str | None,
    licenses: Path | None,
    workers: int,
    overwrite: bool,
    strict: bool,
    **options: Any,
) -> None:
    """Cut photos and videos (files or folders) into training clips.

    Videos are downscaled and cut at scene changes, and repeated frames are dropped; photos get synthetic camera motion.
    Of crops with little detail, nine out of ten are skipped. The result does not depend on --workers. Sources that
    cannot be used are listed; the exit status is 0 as long as others gave clips, unless --strict is given.

    \b
    Example:
      rvrt preprocess clips ~/Photos holiday.mp4 --output clips --license "my own"
    """
    from rvrt_cli.data.make_clips import make_clips
    from rvrt_cli.data.sources import find_sources, read_licenses

    chosen = ClipOptions(**options)
    found = find_sources(sources, read_licenses(licenses) if licenses else (), license)
    photos = sum(source.kind == "photo" for source in found)
    most = chosen.most_clips(photos, len(found) - photos)
    click.echo(
        f"{plural(photos, 'photo')} and {plural(len(found) - photos, 'video')}: "
        f"up to {most} clips of {chosen.clip_bytes / 1e6:.2f} MB, {most * chosen.clip_bytes / 1e9:.2f} GB"
    )
    start = time.perf_counter()
    with open_display("sources", stderr=False) as display:
        report = _ClipsReport(display, len(found))
        manifest = make_clips(found, output, chosen, workers, overwrite, report.update)
    seconds = time.perf_counter() - start
    click.echo(
        f"{manifest['clips']} clips, {manifest['clips'] * chosen.clip_bytes / 1e9:.2f} GB, in {output}: "
        f"{seconds:.0f} s, {manifest['clips'] / seconds:.1f} clips/s"
    )
    _list_problems(manifest["problems"], "source", "could not be used to the end")
    if strict and manifest["problems"]:
        raise SystemExit(1)


class _ClipsReport:
    """Shows how many sources are done, and how many clips they gave."""

    def __init__(self, display: SilentDisplay, sources: int) -> None:
        self._display, self._sources = display, sources
        self._start = time.perf_counter()
        self._done = self._clips = 0

    def update(self, finished: SourceResult) -> None:
        self._done += 1
        self._clips += finished.clips
        seconds = time.perf_counter() - self._start
        left = _time_left(self._done, self._sources, seconds)
        rate = f"{plural(self._clips, 'clip')}, {self._clips / seconds:.1f} clips/s"
        self._display.update(self._done, self._sources, f"{rate}, {left}")


def _time_left(done: int, total: int, seconds: float) -> str:
    return f"{duration((total - done) * seconds / done if done else float('nan'))} left"


def _list_problems(problems: list[str], noun: str, what: str) -> None:
    """List what could not be done."""
    if problems:
        click.echo(f"rvrt: warning: {plural(len(problems), noun)} {what}:", err=True)
        for problem in problems:
            click.echo(printable(f"  {problem}"), err=True)
