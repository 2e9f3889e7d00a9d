"""Training state on disk: everything of a run in one safetensors file, which appears only when complete. No MindSpore.

OUTPUT/checkpoints/00001000.safetensors    arrays "value.NAME", "m.NAME", "v.NAME", "ema.NAME"; counters as metadata
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvrt_cli.errors import RvrtError, WeightsError
from rvrt_cli.files import write_atomically
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.train.counters import Counters

FOLDER = "checkpoints"
_KEY = "rvrt-training"
FREE_SPACE = "free some space, and go on with --resume"  # where the run's folder cannot be written to


def save_checkpoint(
    output: Path, arrays: dict[str, np.ndarray], counters: Counters, config: RVRTConfig, keep: int
) -> Path:
    """Write the state after `counters.step` steps, and delete all but the last `keep` checkpoints.

    Raises:
        RvrtError: it cannot be written.
    """
    path = output / FOLDER / f"{counters.step:08d}.safetensors"
    rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {"counters": asdict(counters), "network": config.to_dict()}
    write_atomically(path, save(rows, metadata={_KEY: json.dumps(about)}), FREE_SPACE)
    for old in checkpoints(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (output / FOLDER).glob("*.safetensors") if path.stem.isdigit())


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], Counters, RVRTConfig]:
    """Arrays, counters and the network's sizes, as `save_checkpoint` wrote them.

    Raises:
        RvrtError: damaged or foreign.
    """
    with _opened(path) as file:
        about = json.loads((file.metadata() or {})[_KEY])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        shapes: dict[str, tuple[int, ...]] = {}
        for name, array in arrays.items():
            if array.dtype != np.float32 or shapes.setdefault(name.partition(".")[2], array.shape) != array.shape:
                raise ValueError(f"{name} does not fit the others")
        return arrays, Counters.from_dict(about["counters"]), RVRTConfig.from_dict(about["network"])


def checkpoint_facts(path: Path) -> tuple[Counters, RVRTConfig]:
    """Counters and the network's sizes alone: no array is read.

    Raises:
        RvrtError: damaged or foreign.
    """
    with _opened(path) as file:
        about = json.loads((file.metadata() or {})[_KEY])
        return Counters.from_dict(about["counters"]), RVRTConfig.from_dict(about["network"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as safetensors has it; inside, whatever damage shows is one error."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, WeightsError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RvrtError(
            f"{path}: no checkpoint, or a damaged one ({error}); delete it to go on from the one before"
        ) from None
