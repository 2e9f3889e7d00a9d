"""What a training run is: a frozen dataclass that validates itself, and the TOML recipes that fill it. No MindSpore."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from rvrt_cli.data.batches import BatchSpec
from rvrt_cli.errors import OptionError, WeightsError
from rvrt_cli.files import write_atomically
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.options import DEVICES, PRECISIONS, check_ranks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
SCHEDULES = ("cosine", "one-cycle", "constant")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainOptions:
    """How `rvrt train` works; every field is one line of a recipe and one command-line option.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    data: str = _option("", "Training clips (`rvrt preprocess clips`) or the root of Vimeo-90K.")
    output: str = _option("", "Folder for checkpoints, weights, log and curve.")
    model: str = _option("rvrt-tiny", "Preset that sizes the network.")
    network: Mapping[str, Any] = field(default_factory=dict)  # entries of RVRTConfig in place of the preset's

    steps: int = _option(300_000, "Steps of the whole run; the schedule ends there.")
    batch: int = _option(8, "Samples of a step, over all ranks.")
    frames: int = _option(7, "Frames of a sample.")
    crop: int = _option(256, "Edge of a sample, high resolution [px].")
    mirror: bool = _option(False, "Follow each sample by itself backwards: twice the frames.")
    degradation: str = _option("bi", "Low resolution of the samples: bi, bd or video.")
    still: float = _option(0.0, "Share of the samples that are one frame again and again: nothing moves there.")
    seed: int = _option(0, "Of the first weights and of the samples.")

    init: str | None = _option(None, "Weights file to start from.")
    init_partial: bool = _option(False, "Start afresh, and do not refuse, what --init has no fitting weights for.")
    spynet: str | None = _option(None, "Optical flow to start from: a .pth of SpyNet or RVRT, or a weights file.")
    spynet_frozen: int = _option(5_000, "Steps for which the optical flow does not learn.")
    spynet_rate: float = _option(0.25, "Learning rate of the optical flow afterwards, times the others'.")

    epsilon: float = _option(
        1e-9**0.5,
        "Of the Charbonnier loss √(d² + ε²), published as √1e-9; 0.1, in a last stage, weighs errors by their squares, as PSNR.",
    )
    rate: float = _option(2e-4, "Learning rate at its highest.")
    final_rate: float = _option(1e-7, "Learning rate at the end.")
    schedule: str = _option("cosine", "cosine, one-cycle (three tenths of the steps rising) or constant.")
    warmup: int = _option(0, "Steps for which the rate rises; of a one-cycle schedule 0 means three tenths.")
    beta1: float = _option(0.9, "Of Adam.")
    beta2: float = _option(0.99, "Of Adam.")
    weight_decay: float = _option(0.0, "Decoupled, times the rate.")
    clip_norm: float = _option(0.0, "Largest norm of the whole gradient; 0: not limited.")
    ema: float = _option(0.999, "Decay of the moving average of the weights; 0: the weights themselves.")
    max_skipped: int = _option(20, "Steps out of a hundred that may be skipped, being not finite, before the run ends.")

    val: str | None = _option(None, "Folder of videos to validate on, in place of a part of the data.")
    val_every: int = _option(5_000, "Steps between validations; 0: never.")
    val_windows: int = _option(2, "Windows of each validation shot; 0: every frame.")
    val_frames: int = _option(12, "Frames of a validation window.")
    held_out: float = _option(0.02, "Share of the data's sources kept for validation where no --val is given.")
    save_every: int = _option(1_000, "Steps between checkpoints.")
    keep: int = _option(3, "Checkpoints that are kept.")
    minutes: float = _option(0.0, "Stop after this time, with a checkpoint; 0: at the last step.")

    device: str = _option("auto", "auto, cpu, gpu or ascend.")
    precision: str = _option("float32", "float32, or float16 with a dynamic loss scale on gpu and ascend.")
    threads: int = _option(0, "Of the CPU, over the ranks of this machine; 0: all.")
    workers: int = _option(1, "Processes of each rank that make samples; 0: none.")
    ranks: int = _option(1, "Devices that train together, over all machines.")
    local_ranks: int = _option(0, "Of them on this machine; 0: all.")
    node: int = _option(0, "Number of this machine, from 0; the one of --master is 0.")
    master: str | None = _option(None, "HOST:PORT at which the ranks of several machines meet.")

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check_type(entry.name, getattr(self, entry.name), str(entry.type))
        self.config  # noqa: B018  validates
        self.spec  # noqa: B018  validates
        check_ranks(self.ranks, self.local_ranks, self.node, self.master)
        for name, allowed in (("schedule", SCHEDULES), ("device", DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{flag(name)} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("steps", "save_every", "keep", "max_skipped", "val_frames"):
            if getattr(self, name) < 1:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give 1 or more")
        for name in ("spynet_frozen", "spynet_rate", "warmup", "weight_decay", "clip_norm", "val_every", "val_windows",
                     "minutes", "threads", "workers", "seed", "final_rate"):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give 0 or more")
        for name in ("beta1", "beta2", "ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give a number from 0 to below 1")
        if not 0 < self.epsilon < math.inf:
            raise OptionError(f"--epsilon {self.epsilon}: give a number above 0")
        if not 0 < self.rate < 1 or self.final_rate > self.rate:
            raise OptionError(f"--rate {self.rate}: give a number between --final-rate {self.final_rate} and 1")
        if self.batch % self.ranks:
            raise OptionError(f"--batch {self.batch}: give a multiple of the {self.ranks} ranks")

    @property
    def config(self) -> RVRTConfig:
        """The network's sizes: the preset, with the recipe's own entries in place of the preset's."""
        if self.model not in PRESETS:
            raise OptionError(f"--model {self.model!r}: choose one of {', '.join(PRESETS)}")
        try:
            return RVRTConfig.from_dict({**PRESETS[self.model].to_dict(), **self.network})
        except WeightsError as error:
            raise OptionError(str(error)) from None

    @property
    def spec(self) -> BatchSpec:
        """What a training batch is."""
        return BatchSpec(self.batch, self.frames, self.crop, self.degradation, self.seed, self.still)

    @property
    def ranks_here(self) -> int:
        """Ranks on this machine."""
        return self.local_ranks or self.ranks


def flag(name: str) -> str:
    """The command-line option of a field."""
    return "--" + name.replace("_", "-")


def preset_recipe(model: str) -> Path:
    """The recipe that comes with a preset.

    Raises:
        OptionError: there is no such preset.
    """
    if model not in PRESETS:
        raise OptionError(f"--model {model!r}: choose one of {', '.join(PRESETS)}")
    return RECIPES / f"{model}.toml"


def read_recipe(path: Path) -> dict[str, Any]:
    """The entries of a recipe by field name, not checked beyond their names.

    Raises:
        OptionError: no such file, not TOML, or it has an entry that is no option.
    """
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"{path}: no readable recipe ({error}); see the ones in {RECIPES}") from None
    known = [entry.name for entry in fields(TrainOptions)]
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise OptionError(f"{path}: no such option: {', '.join(unknown)}; known are {', '.join(known)}")
    return recipe


def write_recipe(path: Path, options: TrainOptions) -> None:
    """Write all options as a recipe that `read_recipe` reads, with every size of the network: presets may change.

    Raises:
        RvrtError: it cannot be written.
    """
    values = {entry.name: getattr(options, entry.name) for entry in fields(options)}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if name != "network" and value is not None]
    lines += ["", "[network]", *(f"{name} = {_toml(value)}" for name, value in options.config.to_dict().items())]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "str | None": (str, type(None))}


def _check_type(name: str, value: Any, kind: str) -> None:
    """Hold a value that a recipe gave to the type of its field."""
    wanted = _TYPES.get(kind, (Mapping,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise OptionError(f"{flag(name)} {value!r}: expected {kind if kind in _TYPES else 'a table'}")


def default(name: str) -> Any:
    """The default of a field."""
    found = next(entry.default for entry in fields(TrainOptions) if entry.name == name)
    return {} if found is MISSING else found
