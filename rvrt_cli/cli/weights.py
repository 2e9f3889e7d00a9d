"""`rvrt weights`: what weights there are; convert and fetch published ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

_DEGRADATIONS = ("bi", "bd", "video", "none")


@click.group(short_help="List, inspect, convert and fetch weights.")
def weights() -> None:
    """List, inspect, convert and fetch the network's weights."""


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_command(as_json: bool) -> None:
    """Show the weights that are embedded, in your cache, or published.

    \b
    Example: rvrt weights list
    """
    from rich.table import Table

    from rvrt_cli.weights import cache_folder, list_weights

    entries = list_weights()
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("name", "where", "size", "network", "made for", "license", box=None, header_style="bold")
    for entry in entries:
        trained = {True: "trained", False: "untrained", None: "?"}[entry.trained]
        about = "about " if entry.state == "available" else ""
        facts = (entry.state, about + _size(entry.bytes), trained, _kind(entry.degradation), entry.license or "?")
        table.add_row(*(_plain(fact) for fact in (entry.name, *facts)))
    _print(table)
    click.echo(f"\ncache: {cache_folder()}    fetch what is available with: rvrt weights pull NAME")


@weights.command(short_help="Show a model card and configuration.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def info(name: str, as_json: bool) -> None:
    """Show the model card and the configuration of NAME, which is from the list or a .safetensors file.

    \b
    Example: rvrt weights info rvrt-tiny
    """
    from rich.table import Table

    from rvrt_cli.weights import find_weights, read_about

    is_file = name.endswith(".safetensors") or Path(name).is_file()
    path = find_weights(None, name) if is_file else find_weights(name)
    config, card, parameters = read_about(path)
    if as_json:
        facts = {"path": str(path), "bytes": path.stat().st_size, "parameters": parameters}
        click.echo(json.dumps({**facts, "card": card, "config": config.to_dict()}, indent=2))
        return
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("file", _plain(f"{path} ({_size(path.stat().st_size)})"))
    table.add_row("weights", f"{parameters:,}".replace(",", " "))
    for key, value in {**card, **config.to_dict()}.items():
        table.add_row(_plain(key.replace("_", " ")), _plain(_text(value)))
    _print(table)


@weights.command(short_help="Convert a PyTorch checkpoint.")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Name in the model card.  [default: from SOURCE]")
@click.option("--degradation", type=click.Choice(_DEGRADATIONS), help="What the network was trained to undo.")
@click.option("--data", help="Training data, for the model card.")
@click.option("--license", help="License of the weights, for the model card.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def convert(source: Path, target: Path, overwrite: bool, **facts: str | None) -> None:
    """Convert SOURCE, a PyTorch checkpoint of the x4 RVRT, into the weights file TARGET.

    PyTorch is not needed, and nothing in SOURCE is executed.

    \b
    Example: rvrt weights convert 001_RVRT_videosr_bi_REDS_30frames.pth rvrt-bi-reds.safetensors
    """
    from rvrt_cli.weights import convert_checkpoint

    given = {key: value for key, value in facts.items() if value is not None}
    done = convert_checkpoint(source, target, given, overwrite)
    count = sum(array.size for array in done.arrays.values())
    click.echo(f"{target}: {done.card['name']}, {count:,} weights in {len(done.arrays)} arrays".replace(",", " ", 1))
    click.echo(f"use it with: rvrt upscale --weights {target} SOURCE TARGET")


@weights.command(short_help="Fetch published weights.")
@click.argument("name")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The checkpoint as a file, for machines without a network.",
)
@click.option("--url", envvar="RVRT_WEIGHTS_URL", hidden=True, help="Folder of a mirror that has the published files.")
@click.option("--overwrite", is_flag=True, help="Fetch again what is in the cache.")
def pull(name: str, file: Path | None, url: str | None, overwrite: bool) -> None:
    """Fetch the published weights NAME, check them, and convert them into your cache.

    The published weights are for non-commercial use only (CC-BY-NC-4.0). A broken download goes on where it stopped.

    \b
    Names: rvrt-bi-reds, rvrt-bi-vimeo (bicubic), rvrt-bd-vimeo (blurred)
    Example: rvrt weights pull rvrt-bi-reds
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from rvrt_cli.errors import WeightsError
    from rvrt_cli.weights import PUBLISHED_LICENSE, cache_folder, find_published, pull_weights

    entry = find_published(name)
    if (cache_folder() / f"{entry.name}.safetensors").is_file() and not overwrite:
        click.echo(f"{entry.name}: in the cache already; --overwrite fetches it again")
        return
    click.echo(f"{entry.name}: RVRT x4, trained on {entry.data} by Liang et al.")
    click.echo(f"license: {PUBLISHED_LICENSE}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), disable=file is not None) as progress:
            task = progress.add_task(entry.name, total=None)
            path = pull_weights(
                entry,
                file=file,
                url=url,
                overwrite=overwrite,
                progress=lambda have, total: progress.update(task, completed=have, total=total),
            )
    except KeyboardInterrupt:
        raise WeightsError(f"stopped; `rvrt weights pull {name}` goes on where the download was") from None
    click.echo(f"{path}\nuse it with: rvrt upscale --model {entry.name} SOURCE TARGET")


def _print(table: object) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 250  # a pipe gets whole lines
    console.print(table)


def _plain(value: str) -> str:
    """Text from a file, with nothing in it for rich to interpret."""
    from rich.markup import escape

    from rvrt_cli.weights.safe_pickle import sanitize

    return escape(sanitize(value, 300))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part) for part in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _kind(degradation: str | None) -> str:
    kinds = {"bi": "bicubic (bi)", "bd": "blurred (bd)", "video": "compressed video", "none": "-", None: "?"}
    return kinds[degradation]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
