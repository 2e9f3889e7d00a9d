# SPDX-License-Identifier: Apache-2.0
"""`rvrt cache`: what is kept between runs."""

from __future__ import annotations

import click

from rvrt_cli.cli.formatting import megabytes


@click.group("cache", short_help="List or clear what is kept between runs.")
def cache_group() -> None:
    """List or clear what is kept between runs: compiled code, interrupted benchmarks, downloaded weights."""


@cache_group.command("list", short_help="List what the cache folder holds.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def list_command(debug: bool) -> None:
    """List what the cache folder holds, and how large it is. The environment variable RVRT_CACHE names another folder.

    \b
    Example:
      rvrt cache list
    """
    from rvrt_cli.doctor.cache_contents import cache_parts
    from rvrt_cli.files import cache_folder

    click.echo(f"{cache_folder()}:")
    for part in cache_parts():
        click.echo(f"  {megabytes(part.bytes):>10}  {part.name}: {part.holds}")


@cache_group.command("clear", short_help="Remove what can be made again.")
@click.option("--weights", is_flag=True, help="Remove downloaded and converted weights too.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def clear_command(weights: bool, debug: bool) -> None:
    """Remove compiled code and interrupted benchmarks from the cache folder; the next run makes again what it needs.

    \b
    Examples:
      rvrt cache clear
      rvrt cache clear --weights
    """
    from rvrt_cli.doctor.cache_contents import clear_cache

    removed = clear_cache(weights=weights)
    for part in removed:
        click.echo(f"removed {part.name}, {megabytes(part.bytes)}")
    if not removed:
        click.echo("nothing to remove")
