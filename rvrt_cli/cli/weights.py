# SPDX-License-Identifier: Apache-2.0
"""`rvrt weights`: list, inspect, convert, average and download weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rvrt_cli.cli.display import SilentDisplay, open_display
from rvrt_cli.cli.formatting import facts_table, megabytes, print_table, safe_markup, thousands
from rvrt_cli.cli.generated_options import with_default
from rvrt_cli.errors import WeightsError

if TYPE_CHECKING:
    from rvrt_cli.model import RVRTConfig

_DEGRADATION_NAMES = {
    "bi": "bicubic (bi)",
    "bd": "blurred (bd)",
    "video": "compressed video",
    "real": "real footage",
    "blur": "motion blur",
    "noise": "noise",
    "none": "-",
    None: "?",
}


@click.group("weights", short_help="List, inspect, convert, average and download weights.")
def weights_group() -> None:
    """List, inspect, convert, average and download the network's weights."""


@weights_group.command("list", short_help="List the weights that there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def weights_list_command(as_json: bool) -> None:
    """List the weights that are embedded, in your cache, or published.

    \b
    Example:
      rvrt weights list
    """
    from rich.table import Table

    from rvrt_cli.files import cache_folder
    from rvrt_cli.weights import list_weights

    entries = list_weights()
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("name", "where", "size", "network", "made for", "license", box=None, header_style="bold")
    for entry in entries:
        trained = {True: "trained", False: "untrained", None: "?"}[entry.trained]
        about = "about " if entry.state == "available" else ""
        degradation = _DEGRADATION_NAMES[entry.degradation]
        facts = (entry.state, about + megabytes(entry.bytes), trained, degradation, entry.license or "?")
        table.add_row(*(safe_markup(fact) for fact in (entry.name, *facts)))
    print_table(table)
    click.echo(f"\ncache: {cache_folder()}    download available weights with: rvrt weights pull NAME")


@weights_group.command("info", short_help="Show a model card and its configuration.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def weights_info_command(name: str, as_json: bool) -> None:
    """Show the model card and the configuration of NAME, a name from the list or a .safetensors file.

    \b
    Example:
      rvrt weights info rvrt-tiny
    """
    from rvrt_cli.weights import read_about

    path = _find_named(name)
    config, card, parameters = read_about(path)
    if as_json:
        facts = {"path": str(path), "bytes": path.stat().st_size, "parameters": parameters}
        click.echo(json.dumps({**facts, "card": card, "config": config.to_dict()}, indent=2))
        return
    table = facts_table()
    table.add_row("file", safe_markup(f"{path} ({megabytes(path.stat().st_size)})"))
    table.add_row("parameters", thousands(parameters))
    for key, value in {**card, **config.to_dict()}.items():
        table.add_row(safe_markup(key.replace("_", " ")), safe_markup(_card_text(value)))
    print_table(table)


@weights_group.command("convert", short_help="Convert a PyTorch checkpoint.")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help=with_default("Name in the model card.", "from SOURCE"))
@click.option(
    "--degradation",
    type=click.Choice([name for name in _DEGRADATION_NAMES if name is not None]),
    help="Degradation that the network was trained to undo.",
)
@click.option("--data", metavar="TEXT", help="Training data, for the model card.")
@click.option("--license", metavar="TEXT", help="License of the weights, for the model card.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def weights_convert_command(source: Path, target: Path, overwrite: bool, **facts: str | None) -> None:
    """Convert SOURCE, a PyTorch checkpoint of RVRT, into the weights file TARGET.

    PyTorch is not needed, and nothing in SOURCE is executed.

    \b
    Example:
      rvrt weights convert 001_RVRT_videosr_bi_REDS_30frames.pth rvrt-bi-reds.safetensors
    """
    from rvrt_cli.weights import convert_checkpoint

    given = {key: value for key, value in facts.items() if value is not None}
    done = convert_checkpoint(source, target, given, overwrite)
    parameters = thousands(sum(array.size for array in done.arrays.values()))
    click.echo(f"{target}: {done.card['name']}, {parameters} parameters in {len(done.arrays)} arrays")
    click.echo(f"use it with: rvrt {_command_for(done.config)} --weights {target} SOURCE TARGET")


@weights_group.command("average", short_help="Average the weights of several training runs.")
@click.argument("sources", metavar="SOURCES...", nargs=-1, required=True)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--shares", metavar="LIST", help=with_default("Share of each source, such as 2,1,1.", "all alike"))
@click.option("--name", help=with_default("Name in the model card.", "from TARGET"))
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def weights_average_command(
    sources: tuple[str, ...], target: Path, shares: str | None, name: str | None, overwrite: bool
) -> None:
    """Write the average of SOURCES, names from the list or .safetensors files of one structure, to TARGET.

    The average of runs that began with the same weights often does better than each of them.

    \b
    Example:
      rvrt weights average first/weights.safetensors second/weights.safetensors average.safetensors
    """
    from rvrt_cli.weights import average_weights

    try:
        parts = None if shares is None else [float(part) for part in shares.split(",")]
    except ValueError:
        raise WeightsError(f"--shares {shares}: give numbers, such as --shares 2,1,1") from None
    done = average_weights([_find_named(source) for source in sources], target, parts, name, overwrite)
    averaged = ", ".join(
        f"{100 * part['share']:.3g} % {source}" for part, source in zip(done.card["averaged"], sources, strict=True)
    )
    click.echo(f"{target}: {averaged}\nuse it with: rvrt {_command_for(done.config)} --weights {target} SOURCE TARGET")


@weights_group.command("pull", short_help="Download published weights.")
@click.argument("name")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Downloaded checkpoint, for machines without internet access.",
)
@click.option("--url", envvar="RVRT_WEIGHTS_URL", hidden=True, help="Folder of a mirror that has the published files.")
@click.option("--overwrite", is_flag=True, help="Download again what is in the cache.")
def weights_pull_command(name: str, file: Path | None, url: str | None, overwrite: bool) -> None:
    """Download the published weights NAME, check them, and convert them into your cache.

    The published weights are for non-commercial use only (CC-BY-NC-4.0). An interrupted download resumes when the
    command is run again.

    \b
    Names: rvrt-bi-reds, rvrt-bi-vimeo (bicubic), rvrt-bd-vimeo (blurred), and for `rvrt restore`
      rvrt-deblur-dvd, rvrt-deblur-gopro, rvrt-denoise-davis
    Example:
      rvrt weights pull rvrt-bi-reds
    """
    from rvrt_cli.files import cache_folder
    from rvrt_cli.weights import PUBLISHED_LICENSE, find_published, pull_weights, read_about

    entry = find_published(name)
    if (cache_folder() / f"{entry.name}.safetensors").is_file() and not overwrite:
        click.echo(f"{entry.name}: already in the cache; --overwrite downloads it again")
        return
    click.echo(f"{entry.name}: RVRT, trained on {entry.data} by Liang et al.")
    click.echo(f"license: {PUBLISHED_LICENSE}")
    display = SilentDisplay() if file is not None else open_display("MB")

    def show(have: int, total: int | None) -> None:
        display.update(have / 1e6, None if total is None else total / 1e6, entry.name)

    try:
        with display:
            path = pull_weights(entry, file=file, url=url, overwrite=overwrite, progress=show)
    except KeyboardInterrupt:
        raise WeightsError(f"stopped; `rvrt weights pull {name}` resumes the download") from None
    click.echo(f"{path}\nuse it with: rvrt {_command_for(read_about(path).config)} --model {entry.name} SOURCE TARGET")


def _find_named(name: str) -> Path:
    """The weights file that `name` is, or that has this name."""
    from rvrt_cli.weights import find_weights

    is_file = name.endswith(".safetensors") or Path(name).is_file()
    return find_weights(None, name) if is_file else find_weights(name)


def _command_for(config: RVRTConfig) -> str:
    """The command that runs such a network, with the options that it needs."""
    return "upscale" if config.scale > 1 else "restore --sigma auto" if config.noise_input else "restore"


def _card_text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_card_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_card_text(part) for part in value)
    return {True: "yes", False: "no", None: "unknown"}[value] if isinstance(value, bool | None) else str(value)
