# SPDX-License-Identifier: Apache-2.0
"""Options and checks before the first step, once per machine. Does not import MindSpore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rvrt_cli.data.batch_spec import TASK_DEGRADATIONS
from rvrt_cli.data.batches import check_spec, open_store
from rvrt_cli.data.sources import files_of
from rvrt_cli.device import check_device
from rvrt_cli.errors import OptionError
from rvrt_cli.files import locked
from rvrt_cli.train.train_options import (
    TASK_MODELS,
    TrainOptions,
    default_value,
    flag,
    preset_recipe,
    read_recipe,
)
from rvrt_cli.train.training_log import LOG_FILE, read_log
from rvrt_cli.train.training_state import CHECKPOINT_FOLDER, list_checkpoints, load_checkpoint_metadata
from rvrt_cli.train.validation_split import split_clips
from rvrt_cli.video.read.video_files import VIDEO_SUFFIXES

RECIPE_FILE = "recipe.toml"


def resolve_options(given: dict[str, Any], recipe: Path | None, resume: bool) -> TrainOptions:
    """Options from the defaults, a recipe and the command line, in order of increasing precedence.

    The recipe is `recipe`, else that of the run to resume, else the preset's. What a recipe leaves open is taken from that
    of its model's preset. Its [network] belongs to its model, and is ignored with another --model.

    Args:
        given: values by field name, only those on the command line.

    Raises:
        OptionError: a value cannot be used.
    """
    if resume and recipe is None:
        written = Path(given.get("output") or "") / RECIPE_FILE
        if not written.is_file():
            raise OptionError(f"{written.parent}: no training run to resume; give the --output of one")
        recipe = written
    task = given.get("task")
    if task in TASK_MODELS and recipe is None:
        given = {"model": TASK_MODELS[task], **given}
    if task in TASK_MODELS and "degradation" not in given:
        given = {"degradation": TASK_DEGRADATIONS[task][0], **given}
    if recipe is None:
        recipe = preset_recipe(given.get("model", TrainOptions.model))
    values = read_recipe(recipe)
    values.setdefault("model", TrainOptions.model)
    if given.get("model", values["model"]) != values["model"]:
        values.pop("network", None)
    if "network" in given:
        given = {**given, "network": {**values.get("network", {}), **given["network"]}}
    preset = {} if resume else read_recipe(preset_recipe({**values, **given}["model"]))  # a run's own recipe has all
    return TrainOptions(**{**preset, **values, **given})


def prepare_run(options: TrainOptions, resume: bool) -> TrainOptions:
    """Check data, files and the output folder without writing anything; returns the options with absolute paths.

    Raises:
        OptionError: something is missing, does not fit, or would be overwritten.
        RvrtError: the newest checkpoint is damaged, or there is no such device.
    """
    if not options.data or not options.output:
        missing = "--data" if not options.data else "--output"
        raise OptionError(
            f"{missing} is missing; give the folder {'of the clips' if not options.data else 'of the run'}"
        )
    paths = {name: getattr(options, name) for name in ("data", "output", "init", "spynet", "val")}
    found: dict[str, Any] = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path}
    options = replace(options, **found)
    check_spec(open_store(Path(options.data)), options.spec)
    if options.val and not (Path(options.val).is_dir() and files_of(Path(options.val), VIDEO_SUFFIXES)):
        raise OptionError(f"--val {options.val}: no videos to validate on; expected files such as .mp4 or .mpg")
    if options.spynet and not options.config.spynet:
        raise OptionError(f"--spynet: {options.model} has no SpyNet; remove this option")
    check_device(options.device, options.precision)
    output = Path(options.output)
    if not resume and (read_log(output / LOG_FILE) or list_checkpoints(output)):
        raise OptionError(f"{output}: holds a training run; resume it with --resume, or choose another --output")
    for newest in list_checkpoints(output)[-1:]:
        _check_resume(options, newest)
        return options
    for name in ("init", "spynet"):
        path = getattr(options, name)
        if path and not Path(path).is_file():
            raise OptionError(f"--{name} {path}: no such file")
    return options


def _check_resume(options: TrainOptions, newest: Path) -> None:
    """Refuse options that contradict the newest checkpoint, or that only apply to the start of a run."""
    counters, network = load_checkpoint_metadata(newest)
    if network != options.config:
        raise OptionError(f"{newest}: belongs to another network; remove --network, or choose another --output")
    if options.steps < counters.step:
        raise OptionError(
            f"--steps {options.steps}: {counters.step} are already done; give more, or choose another --output"
        )
    if 0 < 60 * options.minutes <= counters.elapsed and counters.step < options.steps:
        raise OptionError(
            f"--minutes {options.minutes:g}: the run has had {counters.elapsed / 60:.1f}; give more, 0 to set no limit, or "
            "choose another --output"
        )
    recipe = Path(options.output) / RECIPE_FILE
    written = read_recipe(recipe) if recipe.is_file() else {}
    for name in ("init", "init_partial", "spynet") if written else ():
        if getattr(options, name) != written.get(name, default_value(name)):
            raise OptionError(
                f"{flag(name)}: only applies to the start of a run, and {options.output} is at step {counters.step}; remove "
                "it, or choose another --output"
            )


@contextmanager
def locked_run(options: TrainOptions) -> Iterator[None]:
    """Inside, the run's folder exists, its clips are split for validation, and no other command trains in it.

    Machines that train together may share the folder: each has a lock of its own. The run's recipe is not touched here:
    the first rank writes it after all checks, so that options that are refused cannot damage a run.

    Args:
        options: as returned by `prepare_run`.

    Raises:
        OptionError: another command trains in it, or it cannot be written.
    """
    output = Path(options.output)
    with ExitStack() as stack:
        try:
            (output / CHECKPOINT_FOLDER).mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(output / f"lock-{options.node}"))
            if free:
                split_clips(options)
        except OSError as error:
            raise OptionError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
        if not free:
            raise OptionError(
                f"{output}: another rvrt is training in it; wait for that to end, or choose another --output"
            )
        yield


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are training options and were given."""
    names = {entry.name for entry in fields(TrainOptions)}
    return {name: value for name, value in values.items() if name in names and value is not None}
