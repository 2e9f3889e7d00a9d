# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole state of a run in one safetensors file, which appears only when complete.

OUTPUT/checkpoints/00001000.safetensors    arrays "value.NAME", "m.NAME", "v.NAME", "ema.NAME"; counters as metadata

Does not import MindSpore.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvrt_cli.errors import RvrtError, WeightsError
from rvrt_cli.files import write_atomically
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.train.training_counters import TrainingCounters

CHECKPOINT_FOLDER = "checkpoints"
RESUME_REMEDY = "free some space, then restart with --resume"  # where the run's folder cannot be written
_STATE_KEY = "rvrt-training"


@dataclass(frozen=True)
class TrainingState:
    """Everything that a run needs to continue exactly.

    Attributes:
        arrays: float32 by "value.NAME", "m.NAME", "v.NAME" and "ema.NAME": weights, moments of Adam, moving average.
        config: the network's sizes.
    """

    arrays: dict[str, np.ndarray]
    counters: TrainingCounters
    config: RVRTConfig


def save_checkpoint(output: Path, state: TrainingState, keep: int) -> Path:
    """Write the state after `state.counters.step` steps, and delete all but the last `keep` checkpoints.

    Raises:
        RvrtError: it cannot be written.
    """
    path = output / CHECKPOINT_FOLDER / f"{state.counters.step:08d}.safetensors"
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    metadata = {"counters": asdict(state.counters), "network": state.config.to_dict()}
    write_atomically(path, save(arrays, metadata={_STATE_KEY: json.dumps(metadata)}), RESUME_REMEDY)
    for old in list_checkpoints(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (output / CHECKPOINT_FOLDER).glob("*.safetensors") if path.stem.isdigit())


def load_checkpoint(path: Path) -> TrainingState:
    """The state that `save_checkpoint` wrote.

    Raises:
        RvrtError: not a checkpoint, or a damaged one.
    """
    with _open_checkpoint(path) as file:
        counters, config = _read_metadata(file)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        shapes: dict[str, tuple[int, ...]] = {}
        for name, array in arrays.items():
            if array.dtype != np.float32 or shapes.setdefault(name.partition(".")[2], array.shape) != array.shape:
                raise ValueError(f"{name} does not match the other arrays")
        return TrainingState(arrays, counters, config)


def load_checkpoint_metadata(path: Path) -> tuple[TrainingCounters, RVRTConfig]:
    """Counters and the network's sizes, without reading any array.

    Raises:
        RvrtError: not a checkpoint, or a damaged one.
    """
    with _open_checkpoint(path) as file:
        return _read_metadata(file)


def _read_metadata(file: Any) -> tuple[TrainingCounters, RVRTConfig]:
    metadata = json.loads((file.metadata() or {})[_STATE_KEY])
    return TrainingCounters.from_dict(metadata["counters"]), RVRTConfig.from_dict(metadata["network"])


@contextmanager
def _open_checkpoint(path: Path) -> Iterator[Any]:
    """The file as opened by safetensors; inside, every sign of damage becomes one error."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, WeightsError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RvrtError(
            f"{path}: not a checkpoint, or a damaged one ({error}); delete it to resume from the one before"
        ) from None
