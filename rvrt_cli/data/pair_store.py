# SPDX-License-Identifier: Apache-2.0
"""Pairs of blurred and sharp clips on disk, as the sets for deblurring unpack them.

ROOT/train/CLIP/blur/*.png and sharp/*.png             GoPro; or ROOT/CLIP/blur …
ROOT/quantitative_datasets/CLIP/input/* and GT/*       DVD; or ROOT/CLIP/input …
ROOT/train_GT_blurred/CLIP/*.png, ROOT/train_GT/CLIP/*.png    both, as the published code unpacks them
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rvrt_cli.data.crop_detail import CROP_DRAWS, worth_keeping
from rvrt_cli.data.sources import IMAGE_SUFFIXES, files_of, read_photo
from rvrt_cli.errors import MediaError, OptionError

PAIR_LAYOUT = "pairs of frames as ROOT/train/CLIP/blur/*.png and sharp/*.png"
_PAIRS_IN_CLIP = (("blur", "sharp"), ("input", "GT"))


def find_pairs(root: Path, part: str = "train") -> dict[str, tuple[Path, Path]]:
    """The folders of blurred and of sharp frames, by clip; none if `root` has another layout.

    Args:
        part: of the set, "train" or "test".
    """
    blurred, sharp = root / f"{part}_GT_blurred", root / f"{part}_GT"
    if blurred.is_dir() and sharp.is_dir():
        return {path.name: (path, sharp / path.name) for path in _folders(blurred) if (sharp / path.name).is_dir()}
    for place in (part, "quantitative_datasets", "."):
        for names in _PAIRS_IN_CLIP:
            pairs = {clip.name: (clip / names[0], clip / names[1]) for clip in _folders(root / place)}
            found = {name: pair for name, pair in pairs.items() if all(folder.is_dir() for folder in pair)}
            if found:
                return found
    return {}


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] != ".") if parent.is_dir() else []


class PairStore:
    """Clips of blurred and sharp frames, read as they are asked for.

    Attributes:
        frames: of the shortest clip.
        size: (H, W) px of the first frame.

    Raises:
        OptionError: the folder does not have the layout, or a clip has no frames or another number on each side.
    """

    def __init__(self, root: Path) -> None:
        self._clips: list[tuple[list[Path], list[Path]]] = []
        for folders in find_pairs(root).values():
            blurred, sharp = (files_of(folder, IMAGE_SUFFIXES) for folder in folders)
            if not blurred or len(blurred) != len(sharp):
                raise OptionError(
                    f"{folders[0]}: {len(blurred)} frames for {len(sharp)} sharp ones; unpack the set again"
                )
            self._clips.append((blurred, sharp))
        if not self._clips:
            raise OptionError(f"{root}: no training pairs here; expected {PAIR_LAYOUT}")
        self.frames = min(len(sharp) for _, sharp in self._clips)
        try:
            first = read_photo(self._clips[0][1][0])
        except MediaError as error:
            raise OptionError(str(error)) from error
        self.size = first.shape[0], first.shape[1]

    def __len__(self) -> int:
        return len(self._clips)

    def sample(self, rng: np.random.Generator, frames: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of random consecutive frames of a random clip: blurred and sharp, (T, S, S, 3) uint8.

        Raises:
            MediaError: a frame is unreadable, or smaller than the crop.
        """
        blurred, sharp = self._clips[int(rng.integers(len(self)))]
        first = int(rng.integers(len(sharp) - frames, endpoint=True))
        targets = [self._read(path, crop) for path in sharp[first : first + frames]]
        for _ in range(CROP_DRAWS):
            top, left = (int(rng.integers(side - crop, endpoint=True)) for side in targets[0].shape[:2])
            box = slice(top, top + crop), slice(left, left + crop)
            if worth_keeping(targets[frames // 2][box], rng):
                break
        inputs = [self._read(path, crop) for path in blurred[first : first + frames]]
        return np.stack([frame[box] for frame in inputs]), np.stack([frame[box] for frame in targets])

    def _read(self, path: Path, crop: int) -> np.ndarray:
        image = read_photo(path)
        if min(image.shape[:2]) < crop:
            raise MediaError(f"{path}: is {image.shape[1]}x{image.shape[0]} px; choose a crop of less than {crop}")
        return image
