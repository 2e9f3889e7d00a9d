# SPDX-License-Identifier: Apache-2.0
"""Options of a training run: a frozen dataclass that validates itself, and the TOML recipes that fill it.

Does not import MindSpore.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from rvrt_cli.data.batch_spec import TASK_DEGRADATIONS, TRAINING_DEGRADATIONS, BatchSpec
from rvrt_cli.errors import OptionError, WeightsError
from rvrt_cli.files import tomllib, write_atomically
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.options import DEVICE_HELP, check_ranks, setting

RECIPES = Path(__file__).parent / "recipes"
TRAINING_PRECISIONS = ("float32", "float16")
TASK_MODELS = {"upscale": "rvrt-tiny", "deblur": "rvrt-deblur", "denoise": "rvrt-denoise"}  # presets by default
OPTIMIZERS = ("adam", "muon")
LOSSES = ("charbonnier", "psnr")
SCHEDULES = ("cosine", "one-cycle", "constant")
_NOT_NEGATIVE = (
    *("spynet_frozen", "spynet_rate", "final_rate", "warmup", "weight_decay", "clip_norm"),
    *("context", "flicker_weight", "val_every", "val_windows", "minutes", "threads", "workers", "seed"),
)


@dataclass(frozen=True)
class TrainOptions:
    """How `rvrt train` works; every field is one entry of a recipe and one command-line option.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    data: str = setting(
        "", "Folder of training clips (`rvrt preprocess clips`), or the root of Vimeo-90K.", metavar="FOLDER"
    )
    output: str = setting("", "Folder for checkpoints, weights, log and curve.", metavar="FOLDER")
    task: str = setting(
        "upscale", f"What the network learns: {', '.join(TASK_DEGRADATIONS)}; chooses the preset without --model."
    )
    model: str = setting("rvrt-tiny", f"Preset of the network: {', '.join(PRESETS)}.")
    network: Mapping[str, Any] = field(default_factory=dict)  # entries of RVRTConfig that replace the preset's

    steps: int = setting(300_000, "Steps of the whole run, and length of the learning rate schedule.")
    batch: int = setting(8, "Samples per step, over all ranks.")
    frames: int = setting(7, "Frames per sample.")
    crop: int = setting(256, "Edge of a sample, high resolution [px].")
    context: int = setting(
        0,
        "Frames at either end of each sample that lead the recurrence and frame fusion to those between, on which alone the "
        "network is trained.",
    )
    mirror: bool = setting(False, "Mirroring in time: each sample is followed by its reversal, for twice the frames.")
    degradation: str = setting(
        "bi",
        f"Degradation that makes the input: {', '.join(TRAINING_DEGRADATIONS)}; the last two are those of their task.",
    )
    clean_share: float | None = setting(
        None,
        "Share of clean samples with --degradation video or real; the other degradations keep their proportions [0 to 1].",
        shown="0.5",
    )
    still: float = setting(0.0, "Share of still samples, which repeat one frame [0 to 1].")
    seed: int = setting(0, "Random seed for initialization and sampling.")

    init: str | None = setting(None, "Weights file to start from.", metavar="FILE", shown="random weights")
    init_partial: bool = setting(False, "Random weights, instead of an error, where those of --init do not fit.")
    spynet: str | None = setting(
        None,
        "Optical flow weights to start from: a .pth of SpyNet or RVRT, or a weights file.",
        metavar="FILE",
        shown="random weights",
    )
    spynet_frozen: int = setting(5_000, "Steps before SpyNet, the optical flow, is trained as well.")
    spynet_rate: float = setting(0.25, "Learning rate of SpyNet, relative to that of the other weights.")

    loss: str = setting(
        "charbonnier",
        "Loss: charbonnier, as published, or psnr, the negative PSNR of each sample [dB]: all samples count alike, and not "
        "those with much detail most.",
    )
    epsilon: float = setting(
        1e-9**0.5,
        "ε of the Charbonnier loss √(d² + ε²). A final stage with 0.1 weights errors by their squares, as PSNR does.",
        shown="√1e-9, as published",
    )
    chroma_weight: float = setting(
        1.0,
        "Factor of the chroma errors in the loss, at equal luma errors. On clean video they are ten times smaller than "
        "those of luma, and 1 leaves them unheard.",
        shown="1, as published",
    )
    flicker_weight: float = setting(
        0.0, "Weight in the loss of squared changes between output frames where the truth does not change."
    )
    optimizer: str = setting(
        "adam",
        "Optimizer: adam, as published, or muon, which orthogonalizes the steps of hidden layers; the others get Adam's.",
    )
    rate: float = setting(2e-4, "Highest learning rate.", shown="2e-4")
    final_rate: float = setting(1e-7, "Learning rate of the last step.", shown="1e-7")
    schedule: str = setting(
        "cosine", "Learning rate schedule: cosine, one-cycle (30 % of the steps warm up) or constant."
    )
    warmup: int = setting(0, "Steps of linear warm-up.", shown="0; 30 % of the steps with one-cycle")
    beta1: float = setting(0.9, "β1 of Adam.")
    beta2: float = setting(0.99, "β2 of Adam.")
    weight_decay: float = setting(0.0, "Decoupled weight decay, relative to the learning rate.")
    clip_norm: float = setting(0.0, "Largest norm of the whole gradient; 0 sets no limit.", shown="no limit")
    ema: float = setting(0.999, "Decay of the moving average of the weights; 0 turns it off.")
    max_skipped: int = setting(
        20, "Steps in a hundred that may be skipped as not finite before the run ends with an error."
    )

    val: str | None = setting(
        None, "Folder of validation videos.", metavar="FOLDER", shown="clips held out from --data"
    )
    val_every: int = setting(5_000, "Steps between validations; 0 turns them off.")
    val_windows: int = setting(2, "Windows per validation shot; 0 takes every frame.")
    val_frames: int = setting(12, "Frames per validation window.")
    held_out: float = setting(0.02, "Share of the sources held out for validation if there is no --val [0 to below 1].")
    save_every: int = setting(1_000, "Checkpoint interval [steps].")
    keep: int = setting(3, "Number of checkpoints to keep.")
    minutes: float = setting(
        0.0,
        "Time of the whole run, resumed or not, with which the learning rate schedule ends [min]; 0 leaves it to --steps.",
        shown="0",
    )

    device: str = setting("auto", DEVICE_HELP)
    precision: str = setting("float32", "Precision: float32, or float16 with a dynamic loss scale on gpu and ascend.")
    threads: int = setting(
        0, "CPU threads of this machine for all its ranks together; 0 uses all cores.", shown="all cores"
    )
    workers: int = setting(1, "Worker processes per rank that make samples; 0 makes them in the rank itself.")
    ranks: int = setting(1, "Number of devices that train together, over all machines.")
    local_ranks: int = setting(0, "Number of ranks on this machine; 0 means all.", shown="all")
    node: int = setting(0, "Number of this machine, from 0; 0 is that of --master.")
    master: str | None = setting(None, "Address at which several machines meet.", metavar="HOST:PORT")

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check_type(entry.name, getattr(self, entry.name), str(entry.type))
        self.config  # noqa: B018  validates
        self.spec  # noqa: B018  validates
        check_ranks(self.ranks, self.local_ranks, self.node, self.master)
        choices = (
            ("task", TASK_DEGRADATIONS),
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", TRAINING_PRECISIONS),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise OptionError(f"{flag(name)} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("steps", "save_every", "keep", "max_skipped", "val_frames"):
            if getattr(self, name) < 1:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give 1 or more")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give 0 or more")
        for name in ("beta1", "beta2", "ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{flag(name)} {getattr(self, name)}: give a number from 0 to below 1")
        if not 0 < self.epsilon < math.inf:
            raise OptionError(f"--epsilon {self.epsilon}: give a number above 0")
        if not 0 < self.chroma_weight < math.inf:
            raise OptionError(f"--chroma-weight {self.chroma_weight}: give a number above 0; 1 is the published loss")
        if not 0 < self.rate < 1 or self.final_rate > self.rate:
            raise OptionError(f"--rate {self.rate}: give a number between --final-rate {self.final_rate} and 1")
        if self.batch % self.ranks:
            raise OptionError(f"--batch {self.batch}: give a multiple of the {self.ranks} ranks")
        self._check_context()
        self._check_task()

    def _check_context(self) -> None:
        """Refuse a context that leaves no clip between or cuts one."""
        size = self.config.clip_size
        if self.context % size or (self.frames % size and self.context):
            raise OptionError(
                f"--context {self.context}, --frames {self.frames}: give multiples of the {size} frames of a clip"
            )
        if 2 * self.context >= self.frames:
            raise OptionError(
                f"--context {self.context}: leaves none of --frames {self.frames}; give less than half of them"
            )
        if self.context and self.mirror:
            raise OptionError(f"--context {self.context}: not with --mirror; omit one of them")

    def _check_task(self) -> None:
        """Refuse a network or a degradation of another task."""
        if self.degradation not in TASK_DEGRADATIONS[self.task]:
            kinds = ", ".join(TASK_DEGRADATIONS[self.task])
            raise OptionError(f"--degradation {self.degradation}: --task {self.task} has {kinds}; omit one of them")
        if task_of(self.config) != self.task:
            raise OptionError(
                f"--model {self.model}: not a network for --task {self.task}; choose {TASK_MODELS[self.task]}"
            )

    @property
    def config(self) -> RVRTConfig:
        """The network's sizes: those of the preset, replaced where `network` has entries."""
        if self.model not in PRESETS:
            raise OptionError(f"--model {self.model!r}: choose one of {', '.join(PRESETS)}")
        try:
            return RVRTConfig.from_dict({**PRESETS[self.model].to_dict(), **self.network})
        except WeightsError as error:
            raise OptionError(str(error)) from None

    @property
    def spec(self) -> BatchSpec:
        """Size and contents of the training batches."""
        return BatchSpec(
            batch=self.batch,
            frames=self.frames,
            crop=self.crop,
            degradation=self.degradation,
            seed=self.seed,
            still=self.still,
            clean_share=self.clean_share,
        )

    @property
    def rank_threads(self) -> int | None:
        """CPU threads of each rank; None: as many as there are cores."""
        return max(1, self.threads // self.ranks_here) if self.threads else None

    @property
    def ranks_here(self) -> int:
        """Ranks on this machine."""
        return self.local_ranks or self.ranks


def task_of(config: RVRTConfig) -> str:
    """What a network of this configuration is for, a key of `TASK_MODELS`."""
    return "upscale" if config.scale > 1 else "denoise" if config.noise_input else "deblur"


def flag(name: str) -> str:
    """The command-line option of a field."""
    return "--" + name.replace("_", "-")


def preset_recipe(model: str) -> Path:
    """The recipe file of a preset.

    Raises:
        OptionError: there is no such preset.
    """
    if model not in list(PRESETS):  # a list: from a recipe, it may be anything
        raise OptionError(f"--model {model!r}: choose one of {', '.join(PRESETS)}")
    return RECIPES / f"{model}.toml"


def read_recipe(path: Path) -> dict[str, Any]:
    """The entries of a recipe by field name; only the names are checked.

    Raises:
        OptionError: no such file, not TOML, or an entry is not an option.
    """
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"{path}: not a readable recipe ({error}); see the ones in {RECIPES}") from None
    known = [entry.name for entry in fields(TrainOptions)]
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise OptionError(f"{path}: no such option: {', '.join(unknown)}; known are {', '.join(known)}")
    return recipe


def write_recipe(path: Path, options: TrainOptions) -> None:
    """Write all options as a recipe, with every size of the network, since presets may change.

    Raises:
        RvrtError: it cannot be written.
    """
    values = {entry.name: getattr(options, entry.name) for entry in fields(options)}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if name != "network" and value is not None]
    lines += ["", "[network]", *(f"{name} = {_toml(value)}" for name, value in options.config.to_dict().items())]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


_FIELD_TYPES = {
    **{"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)},
    **{"str | None": (str, type(None)), "float | None": (int, float, type(None))},
}


def _check_type(name: str, value: Any, kind: str) -> None:
    """Refuse a value that is not of its field's type, as a recipe may give it."""
    wanted = _FIELD_TYPES.get(kind, (Mapping,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise OptionError(f"{flag(name)} {value!r}: expected {kind if kind in _FIELD_TYPES else 'a table'}")


def default_value(name: str) -> Any:
    """The default value of a field."""
    found = next(entry.default for entry in fields(TrainOptions) if entry.name == name)
    return {} if found is MISSING else found
