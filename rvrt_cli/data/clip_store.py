"""Training clips on disk: shards of uint8 clips that are memory-mapped, and a manifest of where they come from.

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
from rvrt_cli.metrics import rgb_to_y

FORMAT = 1
MANIFEST = "manifest.json"
FREE_SPACE = "free some space or choose another --output"  # where a folder cannot be written to
LAYOUT = f"expected {MANIFEST} and shards/*.npy, as `rvrt preprocess clips` writes them"

DETAIL = 3.0  # levels; crops below are nearly flat
FLAT_KEPT = 0.1  # share of the crops with little detail that is kept all the same


def detail(crop: np.ndarray) -> float:
    """About what reducing (H, W, 3) uint8 four times loses: RMS [levels of luma] around the means of 4×4 blocks."""
    height, width = (side // 4 for side in crop.shape[:2])
    blocks = rgb_to_y(crop[: 4 * height, : 4 * width]).reshape(height, 4, width, 4)
    return float(np.sqrt(np.mean((blocks - blocks.mean((1, 3), keepdims=True)) ** 2)))


def worth_keeping(crop: np.ndarray, rng: np.random.Generator) -> bool:
    """True for a crop with detail, and for one in ten of the others."""
    return bool(rng.random() < FLAT_KEPT) or detail(crop) >= DETAIL


class ClipStore:
    """The clips of a folder made by `rvrt preprocess clips`; reads only the pixels that are asked for.

    Raises:
        OptionError: the folder does not have the layout, or its files are not what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise OptionError(f"{folder}: its format {manifest['format']} is not {FORMAT}; make the clips again")
            self.frames, self.size = _whole(manifest["frames"]), _whole(manifest["size"])
            shards = [
                (folder / s["file"], _whole(s["clips"])) for source in manifest["sources"] for s in source["shards"]
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise OptionError(f"{folder}: no training clips here ({error}); {LAYOUT}") from error
        self.manifest = manifest
        self._shards = [self._open(path, clips) for path, clips in shards]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        if not self._shards:
            raise OptionError(f"{folder}: the manifest lists no clips; {LAYOUT}")

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
        """Clip `index` (T, S, S, 3) uint8, mapped: slicing it reads what the slice holds."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        return self._shards[shard][index - self._ends[shard]]


def _whole(number: object) -> int:
    if not isinstance(number, int) or not 1 <= number < 1 << 31:
        raise ValueError(f"{number!r} is no count")
    return number


def write_shard(path: Path, clips: np.ndarray) -> None:
    """Write (clips, T, S, S, 3) uint8; the file appears under its name only when complete.

    Raises:
        RvrtError: it cannot be written.
    """
    write_atomically(path, lambda file: np.save(file, clips), FREE_SPACE)
