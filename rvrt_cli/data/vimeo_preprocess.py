# SPDX-License-Identifier: Apache-2.0
"""`rvrt preprocess vimeo90k`: low resolution of the Vimeo-90K septuplets, and BasicSR's annotation files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from rvrt_cli.data.clip_store import OUTPUT_REMEDY
from rvrt_cli.data.resize import SCALE, blur_downsample, imresize
from rvrt_cli.data.sources import UNREADABLE
from rvrt_cli.data.vimeo import SEPTUPLET_FRAMES, SEQUENCES, VIMEO_LAYOUT, read_list, read_png
from rvrt_cli.data.worker_pool import map_unordered
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.files import write_atomically

SET_IMAGES = 91_701 * SEPTUPLET_FRAMES  # of the whole published set, for estimates

_TASK_SEPTUPLETS = 8  # per task of a worker


@dataclass
class PreprocessingStats:
    """Images done and failed, and the seconds they took, summed over all workers."""

    images: int = 0  # made
    existing: int = 0  # made by an earlier run
    reading: float = 0.0  # s
    resizing: float = 0.0
    writing: float = 0.0
    problems: list[str] = field(default_factory=list)  # one line per failed image
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # high resolution, of the complete septuplets

    def add(self, other: PreprocessingStats) -> None:
        """Add `other` to these."""
        self.images += other.images
        self.existing += other.existing
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
        """Approximate CPU time: what the workers spent on images."""
        return self.reading + self.resizing + self.writing


@dataclass(frozen=True)
class _ReductionTask:
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
    report: Callable[[PreprocessingStats], None] = lambda stats: None,
) -> PreprocessingStats:
    """Reduce the listed septuplets of `root` into `output`/BIx4 (or BDx4, BIx2 …); write the annotation files to `output`.

    An image appears under its name only when complete, and existing ones are not made again. Missing or unreadable
    images are listed in the result's `problems` and the rest is done; septuplets with such an image are excluded from
    the annotation files. `report` is called with the stats of each finished task.

    Raises:
        OptionError: `root` does not have the layout, or `degradation` and `scale` do not go together.
        MediaError: `output` cannot be written.
    """
    if degradation not in ("bi", "bd") or scale not in (2, 3, 4):
        raise OptionError(f"--degradation {degradation} --scale {scale}: choose bi or bd, and 2, 3 or 4")
    if degradation == "bd" and scale != SCALE:
        raise OptionError(
            f"--scale {scale}: bd (blur and downsample) is defined for 4 only; choose 4, or --degradation bi"
        )
    if not (root / SEQUENCES).is_dir():
        raise OptionError(f"{root / SEQUENCES}: no such folder; expected {VIMEO_LAYOUT}")
    names = {name: read_list(root, name) for name in lists}
    output = root if output is None else output
    target = output / f"{degradation.upper()}x{scale}"
    everything = list(dict.fromkeys(line for listed in names.values() for line in listed))
    tasks = [
        _ReductionTask(root, target, tuple(everything[start : start + _TASK_SEPTUPLETS]), degradation, scale)
        for start in range(0, len(everything), _TASK_SEPTUPLETS)
    ]
    total = PreprocessingStats()
    for stats in map_unordered(_reduce_septuplets, tasks, workers):
        total.add(stats)
        report(stats)
    total.problems.sort()
    for name, listed in names.items():
        lines = [f"{line} {total.shapes[line]}\n" for line in listed if line in total.shapes]
        path = output / f"meta_info_Vimeo90K_{name}_GT.txt"
        write_atomically(path, "".join(lines).encode(), OUTPUT_REMEDY, MediaError)
    return total


def _reduce_septuplets(task: _ReductionTask) -> PreprocessingStats:
    stats = PreprocessingStats()
    for name in task.names:
        made = [_reduce_image(task, name, f"im{index + 1}.png", stats) for index in range(SEPTUPLET_FRAMES)]
        if all(made):
            try:
                stats.shapes[name] = _png_shape(task.root / SEQUENCES / name / "im1.png")
            except MediaError as error:
                stats.problems.append(str(error))
    return stats


def _reduce_image(task: _ReductionTask, name: str, file: str, stats: PreprocessingStats) -> bool:
    """Make one image unless it exists; False if its source cannot be read."""
    source, target = task.root / SEQUENCES / name / file, task.target / name / file
    if target.is_file() and target.stat().st_size:
        stats.existing += 1
        return True
    begin = perf_counter()
    try:
        image = read_png(source)
    except MediaError as error:
        stats.problems.append(str(error))
        return False
    read = perf_counter()
    small = blur_downsample(image) if task.degradation == "bd" else imresize(image, 1 / task.scale)
    reduced = perf_counter()
    _write_png(target, small)
    stats.images += 1
    stats.reading += read - begin
    stats.resizing += reduced - read
    stats.writing += perf_counter() - reduced
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
    # fsync would take longer than all the rest; files that a power cut left empty are made again
    write_atomically(path, coded.getvalue(), OUTPUT_REMEDY, MediaError, sync=False)
