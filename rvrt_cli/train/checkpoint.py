"""Training state on disk: everything of a run in one safetensors file, which appears only when complete. No MindSpore.

OUTPUT/checkpoints/00001000.safetensors    arrays "value.NAME", "m.NAME", "v.NAME", "ema.NAME"; counters as metadata
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rvrt_cli.errors import RvrtError

FOLDER = "checkpoints"
_KEY = "rvrt-training"


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`: all of it or nothing, whatever happens.

    Raises:
        RvrtError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RvrtError(
            f"{path}: cannot be written ({error.strerror}); free some space, and go on with --resume"
        ) from error


def save_checkpoint(output: Path, step: int, arrays: dict[str, np.ndarray], about: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps, and delete all but the last `keep` checkpoints.

    Raises:
        RvrtError: it cannot be written.
    """
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:08d}.safetensors"
    rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(path, save(rows, metadata={_KEY: json.dumps({"step": step, **about})}))
    for old in checkpoints(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (output / FOLDER).glob("*.safetensors") if path.stem.isdigit())


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays, and what `save_checkpoint` was told about them.

    Raises:
        RvrtError: damaged or foreign.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RvrtError(
            f"{path}: no checkpoint, or a damaged one ({error}); delete it to go on from the one before"
        ) from None
