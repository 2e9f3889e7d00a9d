"""`rvrt preprocess`: make training data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.options import usable_cores

_PLAIN_EVERY = 5.0  # s between lines of progress where there is no terminal


@click.group(short_help="Make training data.")
def preprocess() -> None:
    """Make training data: low-resolution Vimeo-90K, or clips from your own photos and videos."""


def workers_option(function: Callable) -> Callable:
    """--workers, the same for every command here."""
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=usable_cores(),
        show_default="one per core",
        help="Processes that work at the same time.",
    )(function)


@preprocess.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--lists", type=click.Choice(["train", "test", "both"]), default="both", show_default=True, help="Which.")
@click.option(
    "--degradation",
    type=click.Choice(["bi", "bd"]),
    default="bi",
    show_default=True,
    help="bi: MATLAB's bicubic; bd: Gaussian blur of 1.6 px, then every 4th pixel.",
)
@click.option("--scale", type=click.IntRange(2, 4), default=4, show_default=True, help="How many times smaller.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="ROOT",
    help="Folder for BIx4 or BDx4 and the annotation files. `rvrt train` and `rvrt bench` look for them in ROOT: move or "
    "link them there.",
)
@workers_option
def vimeo90k(root: Path, lists: str, degradation: str, scale: int, output: Path | None, workers: int) -> None:
    """Make the low resolution of the Vimeo-90K septuplets in ROOT, and the field's annotation files.

    ROOT is the set as unpacked: sequences/00001/0001/im1.png …, sep_trainlist.txt, sep_testlist.txt. A second run makes
    only what is missing.

    \b
    Example: rvrt preprocess vimeo90k /data/vimeo_septuplet --lists test --degradation bd
    """
    from rvrt_cli.data.vimeo import SEPTUPLET_FRAMES, read_list
    from rvrt_cli.data.vimeo_preprocess import SET_IMAGES, PreprocessingStats, make_low_resolution

    names = ("train", "test") if lists == "both" else (lists,)
    total = SEPTUPLET_FRAMES * len({line for name in names for line in read_list(root, name)})
    start, done = time.perf_counter(), PreprocessingStats()
    with progress(total, "images") as advance:

        def report(work: PreprocessingStats) -> None:
            done.add(work)
            rate = done.images / (time.perf_counter() - start)
            advance(work.images + work.existing + work.failed, f"{rate:.0f} images/s")

        make_low_resolution(root, names, degradation, scale, output, workers, report)
    seconds = time.perf_counter() - start
    click.echo(
        f"{_count(done.images, 'image')} made, {done.existing} were there, in {seconds:.0f} s with {_count(workers, 'worker')}"
    )
    if done.images:
        shares = (done.reading, done.resizing, done.writing)
        read, resize, write = (f"{100 * share / done.seconds:.0f} %" for share in shares)
        click.echo(
            f"{done.images / done.seconds:.0f} images/s per core ({read} reading, {resize} resizing, {write} writing); "
            f"the whole set of {SET_IMAGES} images: {SET_IMAGES * seconds / done.images / 3600:.1f} h at this rate"
        )
    _finish(done.problems, "image", "could not be made")


@preprocess.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the clips.")
@click.option("--frames", default=ClipOptions.frames, show_default=True, help="Frames of a clip.")
@click.option("--size", default=ClipOptions.size, show_default=True, help="Edge of a clip, high resolution [px].")
@click.option("--per-photo", default=ClipOptions.per_photo, show_default=True, help="Clips from each photo.")
@click.option("--per-video", default=ClipOptions.per_video, show_default=True, help="Clips from each video, at most.")
@click.option("--reduce", default=ClipOptions.reduce, show_default=True, help="Reduce videos this many times first.")
@click.option("--license", metavar="TEXT", help="License of the sources, for the manifest.")
@click.option(
    "--licenses",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV lines 'pattern,license' or JSON {pattern: license}: the license of each source by its name.",
)
@click.option("--seed", default=ClipOptions.seed, show_default=True, help="The same seed makes the same clips.")
@click.option("--overwrite", is_flag=True, help="Replace clips that are in the folder.")
@workers_option
def clips(
    sources: tuple[Path, ...],
    output: Path,
    license: str | None,
    licenses: Path | None,
    workers: int,
    overwrite: bool,
    **options: int,
) -> None:
    """Cut photos and videos (files or folders) into training clips.

    Videos are reduced, cut at scene changes, and rid of repeated frames; photos get camera motion. Crops with little
    detail are skipped nine times of ten. The result does not depend on --workers.

    \b
    Example: rvrt preprocess clips ~/Photos holiday.mp4 --output clips --license "my own"
    """
    from rvrt_cli.data.make_clips import SourceResult, make_clips
    from rvrt_cli.data.sources import find_sources, read_licenses

    chosen = ClipOptions(**options)
    found = find_sources(sources, read_licenses(licenses) if licenses else (), license)
    photos = sum(source.kind == "photo" for source in found)
    count = chosen.most_clips(photos, len(found) - photos)
    click.echo(
        f"{_count(photos, 'photo')} and {_count(len(found) - photos, 'video')}: "
        f"up to {count} clips of {chosen.clip_bytes / 1e6:.2f} MB, {count * chosen.clip_bytes / 1e9:.2f} GB"
    )
    start, made = time.perf_counter(), 0
    with progress(len(found), "sources") as advance:

        def report(finished: SourceResult) -> None:
            nonlocal made
            made += finished.clips
            advance(1, f"{made} clips, {made / (time.perf_counter() - start):.1f} clips/s")

        manifest = make_clips(found, output, chosen, workers, overwrite, report)
    seconds = time.perf_counter() - start
    click.echo(
        f"{manifest['clips']} clips, {manifest['clips'] * chosen.clip_bytes / 1e9:.2f} GB, in {output}: "
        f"{seconds:.0f} s, {manifest['clips'] / seconds:.1f} clips/s"
    )
    _finish(manifest["problems"], "source", "could not be used to the end")


def _finish(problems: list[str], thing: str, what: str) -> None:
    """List what could not be done, and exit with 1 if there is anything."""
    if problems:
        click.echo(f"{_count(len(problems), thing)} {what}:", err=True)
        for problem in problems:
            click.echo(f"  {problem}", err=True)
        raise SystemExit(1)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on a terminal, a line every few seconds elsewhere; call what it gives with (done more, text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda more, text: bar.update(task, advance=more, description=f"{unit}: {text}")
        return
    done, printed = 0, time.perf_counter()

    def line(more: int, text: str) -> None:
        nonlocal done, printed
        done += more
        if done == total or time.perf_counter() - printed >= _PLAIN_EVERY:
            printed = time.perf_counter()
            click.echo(f"{done}/{total} {unit}: {text}")

    yield line
