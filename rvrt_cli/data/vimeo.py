# SPDX-License-Identifier: Apache-2.0
"""The Vimeo-90K septuplets on disk, as unpacked, and the low resolution that `rvrt preprocess vimeo90k` adds.

ROOT/sequences/00001/0001/im1.png … im7.png     256×448 px
ROOT/sep_trainlist.txt, ROOT/sep_testlist.txt   lines such as 00001/0001
ROOT/BIx4/00001/0001/im1.png …                  64×112 px; or BDx4
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rvrt_cli.data.crop_detail import CROP_DRAWS, worth_keeping
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.sources import UNREADABLE, rgb_of
from rvrt_cli.errors import MediaError, OptionError

SEPTUPLET_FRAMES = 7
SEQUENCES = "sequences"
LISTS = {"train": "sep_trainlist.txt", "test": "sep_testlist.txt"}
FOLDERS = {"bi": "BIx4", "bd": "BDx4"}
VIMEO_LAYOUT = "Vimeo-90K as ROOT/sequences/00001/0001/im1.png … with ROOT/sep_trainlist.txt and ROOT/sep_testlist.txt"


def is_vimeo(root: Path) -> bool:
    """Whether `root` looks like the septuplet data set."""
    return (root / SEQUENCES).is_dir() and any((root / name).is_file() for name in LISTS.values())


def read_list(root: Path, name: str) -> list[str]:
    """The septuplets of list `name`, "train" or "test", such as "00001/0001".

    Raises:
        OptionError: the list is missing, empty, or has lines of another form.
    """
    path = root / LISTS[name]
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error}); expected {VIMEO_LAYOUT}") from error
    names = [line for line in lines if line]
    for line in names:
        parts = line.split("/")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise OptionError(f"{path}: expected lines such as 00001/0001, not {line!r}")
    if not names:
        raise OptionError(f"{path}: lists no septuplets")
    return names


def read_png(path: Path, remake: str = "") -> np.ndarray:
    """An image (H, W, 3) uint8.

    Args:
        remake: the remedy for an image that we made (see `make_with`); by default the set is to be unpacked again.

    Raises:
        MediaError: it is missing or unreadable.
    """
    try:
        with Image.open(path) as image:
            return rgb_of(image)
    except FileNotFoundError as error:
        raise MediaError(f"{path}: missing; {remake or 'unpack the set again'}") from error
    except UNREADABLE as error:
        remedy = f"delete it, and {remake}" if remake else "unpack the set again"
        raise MediaError(f"{path}: cannot be read ({error}); {remedy}") from error


def make_with(root: Path, degradation: str, lists: str = "") -> str:
    """The remedy for missing low resolution; the command keeps the images that exist."""
    chosen = f" --lists {lists}" if lists else ""
    return f"make it with: rvrt preprocess vimeo90k {root}{chosen} --degradation {degradation}"


class VimeoStore:
    """The training septuplets of Vimeo-90K.

    Raises:
        OptionError: the folder does not have this layout.
    """

    frames = SEPTUPLET_FRAMES

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = read_list(root, "train")
        try:
            first = read_png(self._image(SEQUENCES, 0, 0))
        except MediaError as error:
            raise OptionError(f"{error}; expected {VIMEO_LAYOUT}") from error
        self.size = first.shape[0], first.shape[1]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> np.ndarray:
        """The high-resolution septuplet (7, H, W, 3) uint8.

        Raises:
            MediaError: an image is missing, unreadable or of another size than the rest of the set.
        """
        return np.stack([self._high(index, frame) for frame in range(SEPTUPLET_FRAMES)])

    def check_degradation(self, degradation: str) -> None:
        """Refuse `bi` or `bd` whose low resolution has not been made, or does not match the set.

        Raises:
            OptionError: it is missing; the message has the command that makes it.
            MediaError: its first image is unreadable or of another size.
        """
        if degradation not in FOLDERS:
            return
        folder = self._root / FOLDERS[degradation]
        for name in self._names:
            if not (folder / name).is_dir():
                raise OptionError(f"{folder}: no low resolution for {name}; {make_with(self._root, degradation)}")
        self._low(degradation, 0, 0)

    def sample(
        self, rng: np.random.Generator, frames: int, crop: int, degradation: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of a random septuplet: low resolution (T, h, w, 3) as stored, and high (T, H, W, 3), uint8.

        Raises:
            MediaError: an image is missing, unreadable or of another size than the rest of the set.
        """
        index, first = int(rng.integers(len(self))), int(rng.integers(SEPTUPLET_FRAMES - frames, endpoint=True))
        high = [self._high(index, first + frame) for frame in range(frames)]
        size = crop // SCALE
        for _ in range(CROP_DRAWS):
            top, left = (int(rng.integers(side // SCALE - size, endpoint=True)) for side in high[0].shape[:2])
            box = slice(SCALE * top, SCALE * (top + size)), slice(SCALE * left, SCALE * (left + size))
            if worth_keeping(high[frames // 2][box], rng):
                break
        low = [self._low(degradation, index, first + frame) for frame in range(frames)]
        return (
            np.stack([frame[top : top + size, left : left + size] for frame in low]),
            np.stack([frame[box] for frame in high]),
        )

    def _high(self, index: int, frame: int) -> np.ndarray:
        path = self._image(SEQUENCES, index, frame)
        image = read_png(path)
        _check_size(path, image, self.size, self.size, f"take {self._names[index]} off the lists")
        return image

    def _low(self, degradation: str, index: int, frame: int) -> np.ndarray:
        path, remake = self._image(FOLDERS[degradation], index, frame), make_with(self._root, degradation)
        image = read_png(path, remake)
        least, most = ((side // SCALE for side in self.size), (-(-side // SCALE) for side in self.size))
        _check_size(path, image, tuple(least), tuple(most), f"delete {self._root / FOLDERS[degradation]}, and {remake}")
        return image

    def _image(self, folder: str, index: int, frame: int) -> Path:
        return self._root / folder / self._names[index] / f"im{frame + 1}.png"


def _check_size(path: Path, image: np.ndarray, least: tuple[int, ...], most: tuple[int, ...], remedy: str) -> None:
    height, width = image.shape[:2]
    if not (least[0] <= height <= most[0] and least[1] <= width <= most[1]):
        raise MediaError(f"{path}: is {width}x{height} px, not {most[1]}x{most[0]} like the rest of the set; {remedy}")
