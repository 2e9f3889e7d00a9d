"""What is decided and refused before the first step, once per machine and without MindSpore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rvrt_cli.data.batches import check_spec, open_store
from rvrt_cli.data.sources import VIDEO_SUFFIXES, files_of
from rvrt_cli.errors import OptionError, WeightsError
from rvrt_cli.files import locked
from rvrt_cli.train.train_options import TrainOptions, default, flag, preset_recipe, read_recipe
from rvrt_cli.train.training_log import NAME as LOG, read_log
from rvrt_cli.train.training_state import FOLDER, checkpoint_facts, checkpoints
from rvrt_cli.train.validation_split import split_store

RECIPE = "recipe.toml"


def resolve_options(given: dict[str, Any], recipe: Path | None, resume: bool) -> TrainOptions:
    """Options from the defaults, a recipe and what the command line gives, each over the one before.

    The recipe is `recipe`, or that of the run to resume, or the one of the preset. Its [network] goes with its model: it
    says nothing about another --model.

    Args:
        given: values by field name, without those that were not given.

    Raises:
        OptionError: a value cannot be used.
    """
    if resume and recipe is None:
        written = Path(given.get("output") or "") / RECIPE
        if not written.is_file():
            raise OptionError(f"{written.parent}: no training run to resume; give the --output of one")
        recipe = written
    if recipe is None:
        recipe = preset_recipe(given.get("model", TrainOptions.model))
    values = read_recipe(recipe)
    if given.get("model", values.get("model")) != values.get("model"):
        values.pop("network", None)
    if "network" in given:
        given = {**given, "network": {**values.get("network", {}), **given["network"]}}
    return TrainOptions(**{**values, **given})


def prepare_run(options: TrainOptions, resume: bool) -> TrainOptions:
    """Check data, files and the output folder; nothing is written. Paths come back absolute.

    Raises:
        OptionError: something is missing, wrong or in the way.
        RvrtError: the newest checkpoint is damaged.
    """
    if not options.data or not options.output:
        missing = "--data" if not options.data else "--output"
        raise OptionError(f"{missing} is missing; say where {'the clips are' if not options.data else 'the run goes'}")
    paths = {name: getattr(options, name) for name in ("data", "output", "init", "spynet", "val")}
    found: dict[str, Any] = {name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path}
    options = replace(options, **found)
    check_spec(open_store(Path(options.data)), options.spec)
    if options.val and not (Path(options.val).is_dir() and files_of(Path(options.val), VIDEO_SUFFIXES)):
        raise OptionError(f"--val {options.val}: no videos to validate on; expected files such as .mp4 or .mpg")
    if options.spynet and not options.config.spynet:
        raise OptionError(f"--spynet: {options.model} has no SpyNet; leave it out")
    output = Path(options.output)
    if not resume and (read_log(output / LOG) or checkpoints(output)):
        raise OptionError(f"{output}: holds a training run; --resume goes on with it, or choose another --output")
    for newest in checkpoints(output)[-1:]:
        _check_resumed(options, newest)
        return options
    for name in ("init", "spynet"):
        path = getattr(options, name)
        if path and not Path(path).is_file():
            raise OptionError(f"--{name} {path}: no such file")
    return options


def _check_resumed(options: TrainOptions, newest: Path) -> None:
    """Refuse what does not go with the run's newest checkpoint, or would be ignored since it speaks of a beginning."""
    counters, network = checkpoint_facts(newest)
    if network != options.config:
        raise OptionError(
            f"{newest}: is of another network than asked for; leave out --network, or choose another --output"
        )
    if options.steps < counters.step:
        raise OptionError(f"--steps {options.steps}: {counters.step} are done; give more, or choose another --output")
    recipe = Path(options.output) / RECIPE
    written = read_recipe(recipe) if recipe.is_file() else {}
    for name in ("init", "init_partial", "spynet") if written else ():
        if getattr(options, name) != written.get(name, default(name)):
            raise OptionError(
                f"{flag(name)}: says what a run starts from, and {options.output} is at step {counters.step}; leave it "
                "out, or choose another --output"
            )


@contextmanager
def held_run(options: TrainOptions) -> Iterator[None]:
    """Inside, the run's folder is there, its data shared out, and no other command trains into it.

    Machines that train together may share the folder: each holds it under its own number. The run's recipe is left as it
    is: the first rank writes it once all is well, so that what is refused, here or later, cannot spoil a run.

    Args:
        options: as `prepare_run` returned them.

    Raises:
        OptionError: another command does, or the folder cannot be written.
    """
    output = Path(options.output)
    with ExitStack() as held:
        try:
            (output / FOLDER).mkdir(parents=True, exist_ok=True)
            free = held.enter_context(locked(output / f"lock-{options.node}"))
            if free:
                split_store(options)
        except OSError as error:
            raise OptionError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
        if not free:
            raise OptionError(f"{output}: another rvrt is training into it; wait for it, or choose another --output")
        yield


def first_weights(options: TrainOptions) -> dict[str, np.ndarray]:
    """Weights that a new run starts from, by parameter name.

    Raises:
        WeightsError: a file does not fit the network.
    """
    from rvrt_cli.model import initial_weights, parameter_shapes  # MindSpore
    from rvrt_cli.weights import check_names, load_weights

    weights = initial_weights(options.config, options.seed)
    if options.init:
        found, shapes = load_weights(Path(options.init)).arrays, parameter_shapes(options.config)
        fitting = {name: array for name, array in found.items() if array.shape == shapes.get(name)}
        if not fitting or not options.init_partial:
            check_names(found, shapes, options.init)
        weights |= fitting
    if options.spynet:
        flow = _read_flow(Path(options.spynet))
        shapes = {name: array.shape for name, array in weights.items() if name.startswith("spynet.")}
        check_names(flow, shapes, options.spynet)
        weights = {**weights, **flow}
    return weights


def _read_flow(path: Path) -> dict[str, np.ndarray]:
    """SpyNet's weights by our names, from a weights file of RVRT or a .pth of SpyNet or RVRT."""
    from rvrt_cli.weights import load_weights, read_checkpoint

    arrays = load_weights(path).arrays if path.suffix == ".safetensors" else read_checkpoint(path).arrays
    flow = {}
    for name, array in arrays.items():
        start = name.find("basic_module.")
        if start in (0, len("spynet.")) and name.startswith(("basic_module.", "spynet.")):
            flow["spynet." + name[start:]] = np.asarray(array, np.float32)
    if not flow:
        raise WeightsError(f"{path}: no weights of SpyNet (basic_module.…) in it; give a .pth of SpyNet or of RVRT")
    return flow


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are options and not None."""
    names = {entry.name for entry in fields(TrainOptions)}
    return {name: value for name, value in values.items() if name in names and value is not None}
