# SPDX-License-Identifier: Apache-2.0
"""Training clips on disk: memory-mapped shards of uint8 clips, and a manifest that lists their sources.

DIR/manifest.json      format, frames, size, seed, and per source: name, kind, license, shards
DIR/shards/*.npy       (clips, T, S, S, 3) uint8 RGB
"""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from tokenize import TokenError

import numpy as np

from rvrt_cli.errors import OptionError
from rvrt_cli.files import write_atomically

CLIP_FORMAT = 1
CLIP_MANIFEST = "manifest.json"
CLIP_LAYOUT = f"expected {CLIP_MANIFEST} and shards/*.npy, as `rvrt preprocess clips` writes them"
OUTPUT_REMEDY = "free some space or choose another --output"  # where an output folder cannot be written


class ClipStore:
    """The clips of a folder made by `rvrt preprocess clips`; reads only the pixels that are asked for.

    Raises:
        OptionError: the folder does not have the layout, or its files are not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / CLIP_MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != CLIP_FORMAT:
                raise OptionError(
                    f"{folder}: clip format {manifest['format']} is not {CLIP_FORMAT}; make the clips again"
                )
            self.frames, self.size = _checked_count(manifest["frames"]), _checked_count(manifest["size"])
            shards = [
                (folder / shard["file"], _checked_count(shard["clips"]))
                for source in manifest["sources"]
                for shard in source["shards"]
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise OptionError(f"{folder}: no training clips here ({error}); {CLIP_LAYOUT}") from error
        self.manifest = manifest
        self._shards = [self._open(path, clips) for path, clips in shards]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        if not self._shards:
            raise OptionError(f"{folder}: the manifest lists no clips; {CLIP_LAYOUT}")

    def _open(self, path: Path, clips: int) -> np.ndarray:
        try:
            shard = np.lib.format.open_memmap(path, mode="r")  # np.load would open zip files and pickles too
        except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError, TokenError) as error:
            raise OptionError(f"{path}: cannot be read ({error}); make the clips again") from error
        shape = (clips, self.frames, self.size, self.size, 3)
        if shard.shape != shape or shard.dtype != np.uint8:
            raise OptionError(f"{path}: holds {shard.dtype} {shard.shape}, not uint8 {shape}; make the clips again")
        return shard

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """Clip `index` (T, S, S, 3) uint8, memory-mapped: slicing it reads only the slice."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        return self._shards[shard][index - self._ends[shard]]


def _checked_count(number: object) -> int:
    if not isinstance(number, int) or not 1 <= number < 1 << 31:
        raise ValueError(f"{number!r} is not a count")
    return number


def write_shard(path: Path, clips: np.ndarray) -> None:
    """Write (clips, T, S, S, 3) uint8; the file appears under its name only when complete.

    Raises:
        RvrtError: it cannot be written.
    """
    write_atomically(path, lambda file: np.save(file, clips), OUTPUT_REMEDY)
