"""`rvrt train`: train a network."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from rvrt_cli.errors import OptionError
from rvrt_cli.train.train_options import RECIPES, TrainOptions, flag, read_recipe, tomllib

_PLAIN_EVERY = 10.0  # s between lines where there is no terminal
_SMOOTH = 0.98  # of the displayed loss, PSNR and time per step
_TYPES = {"int": int, "float": float, "str": str, "str | None": str}


def _recipe_options(function: Callable) -> Callable:
    """One command-line option for every field of TrainOptions; what is not given comes from the recipe."""
    recipes = [read_recipe(path) for path in sorted(RECIPES.glob("*.toml"))]
    for entry in reversed(fields(TrainOptions)):
        if "help" not in entry.metadata:
            continue
        name, text = flag(entry.name), entry.metadata["help"]
        values = {str(recipe.get(entry.name, entry.default)) for recipe in recipes}
        known = values.pop() if len(values) == 1 and entry.default not in (None, "", False) else None
        if len(values) > 1:
            text = f"{text} See the recipe."
        if entry.type == "bool":
            option = click.option(f"{name}/--no-{name[2:]}", default=None, help=text)
        else:
            option = click.option(
                name, type=_TYPES[str(entry.type)], metavar=str(entry.type).split()[0].upper(), show_default=known,
                help=text,
            )  # fmt: skip
        function = option(function)
    return function


@click.command(short_help="Train a network, or go on with a run.")
@click.option("--recipe", type=click.Path(dir_okay=False, path_type=Path), help="TOML with any of the options below; "
              f"without it the one of --model in {RECIPES.name}/ of the package.")  # fmt: skip
@click.option("--network", "network", multiple=True, metavar="NAME=VALUE", help="Size of the network in place of the "
              "preset's, such as 'widths=[24, 24, 24]'.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the run in --output, with its recipe and the options given.")
@_recipe_options
def train(recipe: Path | None, network: tuple[str, ...], resume: bool, **values: Any) -> None:
    """Train a network on clips or Vimeo-90K.

    Everything can be set in a recipe; options given here count more. OUTPUT gets weights.safetensors (moving average,
    newest), best.safetensors (by validation), checkpoints, log.jsonl, curve.png and recipe.toml. Ctrl-C, SIGTERM or the
    end of --minutes write a checkpoint first; --resume goes on exactly from there.

    \b
    Example: rvrt train --data clips --output run --model rvrt-tiny --minutes 60
             rvrt train --output run --resume
             rvrt train --data vimeo_septuplet --output run --model rvrt --spynet spynet.pth --device ascend --ranks 8
    """
    from rvrt_cli.train.setup import given_options, locked_run, prepare_run, resolve_options

    given = given_options(values)
    if network:
        given["network"] = _network(network)
    options = prepare_run(resolve_options(given, recipe, resume), resume)
    with locked_run(options):
        for line in _about(options):
            click.echo(line, err=True)
        outcome = _run(options)
    skipped = f", {outcome['skipped']} skipped" if outcome["skipped"] else ""
    best = f"; best validation {outcome['best']:+.3f} dB over bicubic" if outcome["best"] is not None else ""
    click.echo(f"step {outcome['step']} of {outcome['steps']}{skipped}{best}: weights in {options.output}", err=True)
    if outcome["resume"]:
        click.echo(f"stopped, {outcome['reason']}; go on with: rvrt train --output {options.output} --resume", err=True)
        if outcome["reason"] != "the time is up":
            sys.exit(130)


def _run(options: TrainOptions) -> dict[str, Any]:
    with _Live(options.steps) if sys.stderr.isatty() else _Plain(options.steps) as display:
        if options.ranks > 1:
            from rvrt_cli.train.multi_rank import train_in_ranks as start
        else:
            from rvrt_cli.train.loop import train as start
        return start(options, display.update)


def _network(entries: tuple[str, ...]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(entries))
    except tomllib.TOMLDecodeError as error:
        raise OptionError(
            f"--network {' '.join(entries)}: write NAME=VALUE, such as 'heads=[2, 2, 2]' ({error})"
        ) from None


def _about(options: TrainOptions) -> list[str]:
    """What is going to be done, for a person."""
    from rvrt_cli.train.validation_split import data_folders

    frames = f"{options.frames} frames" + (", mirrored" if options.mirror else "")
    lines = [
        f"{options.model} on {options.data}, into {options.output}",
        f"{options.steps} steps of {options.batch} samples, {frames}, {options.crop} px, {options.degradation}; "
        f"rate {options.rate:g} to {options.final_rate:g}, {options.schedule}; {options.device}, {options.precision}, "
        f"{options.ranks} rank{'s' if options.ranks > 1 else ''}",
    ]
    if options.config.spynet and not (options.spynet or options.init):
        lines.append("note: the optical flow starts from random weights; --spynet FILE gives it trained ones")
    if options.warmup >= options.steps:
        lines.append(
            f"note: the rate rises for {options.warmup} steps and never gets to {options.rate:g}; --warmup makes it fewer"
        )
    asked = options.val_every and options.held_out and not options.val
    if asked and data_folders(options)[1] is None:
        why = "the data has too few sources to keep one back, or no sep_testlist.txt"
        lines.append(f"note: there is no validation: {why}; --val FOLDER gives it videos")
    return lines


class _Plain:
    """A line every few seconds, for a log."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.shown: dict[str, float] = {}  # smoothed loss, psnr and seconds
        self._records = 0
        self._last = -_PLAIN_EVERY

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, record: dict[str, Any]) -> None:
        """Take in a record of the log."""
        if "gain" in record:
            gains = ", ".join(
                f"{name} {psnr:.2f} dB ({record['gain'][name]:+.2f})"
                for name, psnr in record["psnr_y"].items()
                if record["gain"][name] is not None
            )
            gains = gains or "gives no score, the network's output is not finite"
            self.say(f"step {record['step']}: validation {gains}{', the best so far' if record['best'] else ''}")
            return
        self._records += 1
        for name in ("loss", "psnr", "seconds"):
            # the first step's time is that of compiling
            count = self._records - (name == "seconds" and self._records > 1)
            if record[name] is not None:
                share = max(1 - _SMOOTH, 1 / count)
                self.shown[name] = (1 - share) * self.shown.get(name, 0.0) + share * record[name]
        self.progress(record)

    def standing(self, record: dict[str, Any]) -> str:
        """Loss, PSNR, seconds per step and time left; the first step, whose time is that of compiling, foretells none."""
        shown = {name: self.shown.get(name, float("nan")) for name in ("loss", "psnr", "seconds")}
        skipped = f", {record['skipped']} skipped" if record.get("skipped") else ""
        pace = f"{shown['seconds']:.2f} s for the first step, compiling included"
        if self._records > 1:
            left = _duration(shown["seconds"] * (self.steps - record["step"]))
            pace = f"{shown['seconds']:.2f} s/step, {left} left"
        return f"loss {shown['loss']:.5f}, {shown['psnr']:.2f} dB, {pace}{skipped}"

    def say(self, line: str) -> None:
        """Print a line of its own."""
        click.echo(line, err=True)

    def progress(self, record: dict[str, Any]) -> None:
        """Show where the run stands."""
        if time.monotonic() - self._last >= _PLAIN_EVERY or record["step"] == self.steps:
            self._last = time.monotonic()
            self.say(f"step {record['step']}/{self.steps}: {self.standing(record)}")


class _Live(_Plain):
    """A progress bar, for a terminal."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = Console(stderr=True, highlight=False)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[standing]}", markup=False))
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("train", total=steps, standing="compiling the network")

    def __enter__(self) -> _Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def progress(self, record: dict[str, Any]) -> None:
        self._bar.update(self._task, completed=record["step"], standing=self.standing(record))


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "?"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
