# SPDX-License-Identifier: Apache-2.0
"""`rvrt train`: train a network."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from rvrt_cli.cli.display import SilentDisplay, open_display
from rvrt_cli.cli.formatting import duration, plural
from rvrt_cli.cli.generated_options import dataclass_options
from rvrt_cli.errors import OptionError
from rvrt_cli.files import tomllib
from rvrt_cli.train.train_options import RECIPES, TrainOptions, read_recipe

_LINE_INTERVAL = 10.0  # s between plain lines
_SMOOTHING = 0.98  # of the displayed loss, PSNR and time per step


@click.command("train", short_help="Train a network, or resume a run.")
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML file that sets any of the options below; by default the one that comes with --model.",
)
@click.option(
    "--network",
    "network",
    multiple=True,
    metavar="NAME=VALUE",
    help="Size of the network in place of the preset's, such as 'widths=[24, 24, 24]'; may be repeated.",
)
@click.option("--resume", is_flag=True, help="Resume the run in --output, with its recipe and the options given here.")
@dataclass_options(TrainOptions, recipes=[read_recipe(path) for path in sorted(RECIPES.glob("*.toml"))])
def train_command(recipe: Path | None, network: tuple[str, ...], resume: bool, **values: Any) -> None:
    """Train a network on clips, Vimeo-90K, or pairs of blurred and sharp frames.

    Every option can be set in a recipe; options given on the command line override it. The folder --output gets
    weights.safetensors (newest moving average), best.safetensors (best validation score), checkpoints, log.jsonl,
    curve.png and recipe.toml. Ctrl-C and SIGTERM write a checkpoint before the run stops; --resume continues exactly
    from there. With --minutes, the learning rate schedule is as long as the time allows.

    \b
    Examples:
      rvrt train --data clips --output run --model rvrt-tiny --minutes 60
      rvrt train --output run --resume
      rvrt train --task denoise --data clips --output run
      rvrt train --task deblur --data GOPRO_Large --output run
      rvrt train --data vimeo_septuplet --output run --model rvrt --spynet spynet.pth --device ascend --ranks 8
    """
    from rvrt_cli.train.setup import given_options, locked_run, prepare_run, resolve_options

    given = given_options(values)
    if network:
        given["network"] = _network_sizes(network)
    options = prepare_run(resolve_options(given, recipe, resume), resume)
    with locked_run(options):
        for line in run_lines(options):
            click.echo(line, err=True)
        outcome = _start_run(options)
    skipped = f", {outcome['skipped']} skipped" if outcome["skipped"] else ""
    baseline = "bicubic" if options.task == "upscale" else "the input"
    best = f"; best validation {outcome['best']:+.3f} dB over {baseline}" if outcome["best"] is not None else ""
    of = "" if outcome["step"] < outcome["steps"] and not outcome["resume"] else f" of {outcome['steps']}"
    click.echo(f"step {outcome['step']}{of}{skipped}{best}: weights in {options.output}", err=True)
    if outcome["resume"]:
        resume_with = f"rvrt train --output {options.output} --resume"
        click.echo(f"stopped, {outcome['reason']}; resume with: {resume_with}", err=True)
        sys.exit(130)


def _start_run(options: TrainOptions) -> dict[str, Any]:
    with open_display("steps", interval=_LINE_INTERVAL, at_once=True) as display:
        report = TrainingReport(display, options.steps, options.minutes)
        if options.ranks > 1:
            from rvrt_cli.train.multi_rank import train_in_ranks as start
        else:
            from rvrt_cli.train.loop import train as start
        return start(options, report.update)


def _network_sizes(entries: tuple[str, ...]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(entries))
    except tomllib.TOMLDecodeError as error:
        raise OptionError(
            f"--network {' '.join(entries)}: write NAME=VALUE, such as 'heads=[2, 2, 2]' ({error})"
        ) from None


def run_lines(options: TrainOptions) -> list[str]:
    """The run that is about to start, for a person."""
    from rvrt_cli.train.validation_split import data_folders

    frames = f"{options.frames} frames" + (", mirrored" if options.mirror else "")
    frames += f", {options.context} of them context at either end" if options.context else ""
    length = f"{options.minutes:g} min, {options.steps} steps at most," if options.minutes else f"{options.steps} steps"
    lines = [
        f"{options.model} on {options.data}, into {options.output}",
        f"{length} of {options.batch} samples, {frames}, {options.crop} px, {options.degradation}; "
        f"learning rate {options.rate:g} to {options.final_rate:g}, {options.schedule}; {options.device}, "
        f"{options.precision}, {plural(options.ranks, 'rank')}",
    ]
    if options.config.spynet and not (options.spynet or options.init):
        lines.append("note: the optical flow starts from random weights; --spynet FILE loads trained ones")
    if options.warmup >= options.steps:
        lines.append(
            f"note: the learning rate rises for {options.warmup} steps and never reaches {options.rate:g}; "
            "give a smaller --warmup"
        )
    asked = options.val_every and options.held_out and not options.val
    if asked and data_folders(options)[1] is None:
        why = "the data has too few sources to hold one out, or no sep_testlist.txt"
        lines.append(f"note: validation is off: {why}; give it videos with --val FOLDER")
    return lines


class TrainingReport:
    """Shows the records of a run's log on a display, with smoothed figures."""

    def __init__(self, display: SilentDisplay, steps: int, minutes: float = 0.0) -> None:
        self._display, self.steps, self.minutes = display, steps, minutes
        self._smoothed: dict[str, float] = {}  # loss, psnr and seconds per step
        self._records = 0
        display.begin(steps, "compiling the network")

    def update(self, record: dict[str, Any]) -> None:
        """Take in a record: of a step, or of a validation."""
        if "gain" in record:
            self._display.say(_validation_line(record))
            return
        self._records += 1
        for name in ("loss", "psnr", "seconds"):
            # the first step's time includes compilation: the second one replaces it
            count = self._records - (name == "seconds" and self._records > 1)
            if record[name] is not None:
                share = max(1 - _SMOOTHING, 1 / count)
                self._smoothed[name] = (1 - share) * self._smoothed.get(name, 0.0) + share * record[name]
        self._display.update(record["step"], record["step"] + self._steps_left(record), self.figures(record))

    def figures(self, record: dict[str, Any]) -> str:
        """Loss, PSNR, seconds per step and time left; none after the first step, whose time includes compilation."""
        loss, psnr, seconds = (self._smoothed.get(name, float("nan")) for name in ("loss", "psnr", "seconds"))
        pace = f"{seconds:.2f} s for the first step, including compilation"
        if self._records > 1:
            pace = f"{seconds:.2f} s/step, {duration(seconds * self._steps_left(record))} left"
        skipped = f", {record['skipped']} skipped" if record.get("skipped") else ""
        return f"loss {loss:.5f}, {psnr:.2f} dB, {pace}{skipped}"

    def _steps_left(self, record: dict[str, Any]) -> int:
        """Steps until --steps are done, or --minutes are over at the pace so far."""
        steps = self.steps - record["step"]
        if not self.minutes or self._records < 2:
            return steps
        seconds = max(0.0, 60 * self.minutes - record["elapsed"])
        return min(steps, math.ceil(seconds / max(self._smoothed["seconds"], 1e-9)))


def _validation_line(record: dict[str, Any]) -> str:
    gains = ", ".join(
        f"{name} {psnr:.2f} dB ({record['gain'][name]:+.2f}{_chroma_text(record['chroma_gain'][name])})"
        for name, psnr in record["psnr_y"].items()
        if record["gain"][name] is not None
    )
    gains = gains or "gave no score, the network's output is not finite"
    return f"step {record['step']}: validation {gains}{', the best so far' if record['best'] else ''}"


def _chroma_text(gains: dict[str, float | None]) -> str:
    return "".join(f", {channel.title()} {gain:+.2f}" for channel, gain in gains.items() if gain is not None)
