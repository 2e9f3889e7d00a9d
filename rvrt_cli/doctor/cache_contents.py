# SPDX-License-Identifier: Apache-2.0
"""What is in the cache folder, and removing it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import cache_folder

# Folders of what is made again when it is needed, and what they hold
_MADE_AGAIN = {
    "compiled-stages": "compiled stages of networks",
    "cuda-kernels": "compiled CUDA kernels",
    "exported": "networks exported for --runtime onnx",
    "bench": "finished clips of interrupted benchmarks",
}
_WEIGHTS_PART = "weights"
_HOLDS_WEIGHTS = "downloaded and converted weights"


@dataclass(frozen=True)
class CachePart:
    """One kind of content: its name, what it holds, its files and their size."""

    name: str
    holds: str
    files: tuple[Path, ...]
    bytes: int


def cache_parts() -> list[CachePart]:
    """All kinds of content, also those of which there is nothing."""
    folder = cache_folder()
    parts = [_part(name, holds, folder / name, "**/*") for name, holds in _MADE_AGAIN.items()]
    return [*parts, _part(_WEIGHTS_PART, _HOLDS_WEIGHTS, folder, "*.safetensors", "*.part")]


def clear_cache(*, weights: bool = False) -> list[CachePart]:
    """Remove what is made again when it is needed, and return what was removed.

    Args:
        weights: remove downloaded and converted weights too.

    Raises:
        RvrtError: a file cannot be removed.
    """
    removed = [part for part in cache_parts() if part.files and (weights or part.name != _WEIGHTS_PART)]
    for part in removed:
        try:
            if part.name == _WEIGHTS_PART:
                for path in part.files:
                    path.unlink(missing_ok=True)
            else:
                shutil.rmtree(cache_folder() / part.name)
        except OSError as error:
            raise RvrtError(f"{error.filename}: cannot be removed ({error.strerror}); remove it by hand") from error
    return removed


def _part(name: str, holds: str, folder: Path, *patterns: str) -> CachePart:
    files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    total = 0
    for path in files:
        with contextlib.suppress(OSError):  # it has vanished meanwhile
            total += path.stat().st_size
    return CachePart(name, holds, tuple(files), total)
