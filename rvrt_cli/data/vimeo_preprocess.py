"""`rvrt preprocess vimeo90k`: the low resolution of the Vimeo-90K septuplets, and the field's annotation files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from rvrt_cli.data.clip_store import FREE_SPACE
from rvrt_cli.data.resize import SCALE, blur_downsample, imresize
from rvrt_cli.data.sources import UNREADABLE
from rvrt_cli.data.vimeo import FRAMES, SEQUENCES, VIMEO_LAYOUT, read_list, read_png
from rvrt_cli.data.worker_pool import in_processes
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.files import write_atomically

SET_IMAGES = 91_701 * FRAMES  # of the whole published set, for projections

_CHUNK = 8  # septuplets a worker does before it reports


@dataclass
class Work:
    """What has been done: counts, the seconds it took in all workers together, and what could not be done."""

    images: int = 0
    there: int = 0  # made by an earlier run
    reading: float = 0.0  # s
    resizing: float = 0.0
    writing: float = 0.0
    problems: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the complete septuplets, high resolution

    def add(self, other: Work) -> None:
        """Count `other` in."""
        self.images += other.images
        self.there += other.there
        self.reading += other.reading
        self.resizing += other.resizing
        self.writing += other.writing
        self.problems += other.problems
        self.shapes |= other.shapes

    @property
    def failed(self) -> int:
        """Images that could not be made."""
        return len(self.problems)

    @property
    def seconds(self) -> float:
        """Processor time, about: what the workers spent on images."""
        return self.reading + self.resizing + self.writing


@dataclass(frozen=True)
class _Chunk:
    root: Path
    target: Path
    names: tuple[str, ...]
    degradation: str
    scale: int


def make_low_resolution(
    root: Path,
    lists: tuple[str, ...] = ("train", "test"),
    degradation: str = "bi",
    scale: int = SCALE,
    output: Path | None = None,
    workers: int = 1,
    report: Callable[[Work], None] = lambda work: None,
) -> Work:
    """Reduce the listed septuplets of `root` into `output`/BIx4 (or BDx4, BIx2 …) and write the annotation files there.

    An image appears under its name only when complete, and one that is there is not made again. Images that are missing
    or unreadable are listed in the result's `problems` and the rest is done; septuplets with such an image are left out
    of the annotation files. `report` is given each piece of finished work.

    Raises:
        OptionError: `root` does not have the layout, or `degradation` and `scale` do not go together.
        MediaError: `output` cannot be written.
    """
    if degradation not in ("bi", "bd") or scale not in (2, 3, 4):
        raise OptionError(f"--degradation {degradation} --scale {scale}: choose bi or bd, and 2, 3 or 4")
    if degradation == "bd" and scale != SCALE:
        raise OptionError(
            f"--scale {scale}: blur and sampling (bd) is defined for 4 only; choose 4, or --degradation bi"
        )
    if not (root / SEQUENCES).is_dir():
        raise OptionError(f"{root / SEQUENCES}: no such folder; expected {VIMEO_LAYOUT}")
    names = {name: read_list(root, name) for name in lists}
    output = root if output is None else output
    target = output / f"{degradation.upper()}x{scale}"
    everything = list(dict.fromkeys(line for listed in names.values() for line in listed))
    chunks = [
        _Chunk(root, target, tuple(everything[start : start + _CHUNK]), degradation, scale)
        for start in range(0, len(everything), _CHUNK)
    ]
    total = Work()
    for work in in_processes(_reduce_chunk, chunks, workers):
        total.add(work)
        report(work)
    total.problems.sort()
    for name, listed in names.items():
        lines = [f"{line} {total.shapes[line]}\n" for line in listed if line in total.shapes]
        path = output / f"meta_info_Vimeo90K_{name}_GT.txt"
        write_atomically(path, "".join(lines).encode(), FREE_SPACE, MediaError)
    return total


def _reduce_chunk(chunk: _Chunk) -> Work:
    work = Work()
    for name in chunk.names:
        made = [_reduce_image(chunk, name, f"im{index + 1}.png", work) for index in range(FRAMES)]
        if all(made):
            try:
                work.shapes[name] = _png_shape(chunk.root / SEQUENCES / name / "im1.png")
            except MediaError as error:
                work.problems.append(str(error))
    return work


def _reduce_image(chunk: _Chunk, name: str, file: str, work: Work) -> bool:
    """Make one image unless it is there; False if its source cannot be read."""
    source, target = chunk.root / SEQUENCES / name / file, chunk.target / name / file
    if target.is_file() and target.stat().st_size:
        work.there += 1
        return True
    begin = perf_counter()
    try:
        image = read_png(source)
    except MediaError as error:
        work.problems.append(str(error))
        return False
    read = perf_counter()
    small = blur_downsample(image) if chunk.degradation == "bd" else imresize(image, 1 / chunk.scale)
    reduced = perf_counter()
    _write_png(target, small)
    work.images += 1
    work.reading += read - begin
    work.resizing += reduced - read
    work.writing += perf_counter() - reduced
    return True


def _png_shape(path: Path) -> tuple[int, ...]:
    """(H, W, 3) of an image, from its header alone.

    Raises:
        MediaError: it is missing or unreadable.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width, 3
    except UNREADABLE as error:
        raise MediaError(f"{path}: missing or unreadable ({error}); unpack the set again") from error


def _write_png(path: Path, image: np.ndarray) -> None:
    coded = io.BytesIO()
    Image.fromarray(image).save(coded, "PNG")
    # to wait for the disk each time would take longer than all the rest; empty files are made again
    write_atomically(path, coded.getvalue(), FREE_SPACE, MediaError, sync=False)
