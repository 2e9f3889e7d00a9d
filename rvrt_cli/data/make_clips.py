# SPDX-License-Identifier: Apache-2.0
"""`rvrt preprocess clips`: training clips from any photos and videos.

Photos get synthetic camera motion (`camera_motion`). Videos are reduced, split at scene cuts, and repeated frames are
dropped. Nine of ten crops with little detail, or of videos in which nothing moves, are skipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from rvrt_cli.data.camera_motion import Photo, photo_clip
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.data.clip_store import CLIP_FORMAT, CLIP_MANIFEST, OUTPUT_REMEDY, write_shard
from rvrt_cli.data.crop_detail import FLAT_SHARE, worth_keeping
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.sources import Source, read_photo, read_video
from rvrt_cli.data.worker_pool import map_unordered
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.files import write_atomically

SHARD_BYTES = 64 << 20
_DRAWS_PER_CLIP = 8  # random clips or crops tried for each one wanted
_MIN_MOVEMENT = 1.5  # levels; less counts as static
_STRIDES, _STRIDE_SHARES = (1, 2, 3), (0.5, 0.3, 0.2)  # frames of a video per frame of a clip


@dataclass(frozen=True)
class SourceResult:
    """How many clips a source gave, and why no more if something is wrong with it."""

    source: Source
    clips: int
    problem: str | None


@dataclass(frozen=True)
class _ClipTask:
    """One source's share of the work, for a worker process."""

    index: int  # of the source
    source: Source
    output: Path
    options: ClipOptions


def make_clips(
    sources: list[Source],
    output: Path,
    options: ClipOptions,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[SourceResult], None] = lambda result: None,
) -> dict:
    """Write the clips of `sources` into the folder `output` and return the manifest; `report` is called per source.

    The result depends on the sources' names and pixels and on `options`, not on `workers`. The manifest is written
    last: a folder without one is unfinished. It lists unusable sources under "problems"; of a video whose decoding
    fails midway, the clips before that are kept.

    Raises:
        OptionError: `output` holds clips already and `overwrite` is not set, or no source gave a clip.
    """
    _prepare_output(output, overwrite)
    tasks = [_ClipTask(index, source, output, options) for index, source in enumerate(sources)]
    tasks.sort(key=lambda task: task.source.kind, reverse=True)  # videos take longest, so they start first
    entries: dict[int, dict] = {}
    for index, entry in map_unordered(_process_source, tasks, workers):
        entries[index] = entry
        report(SourceResult(sources[index], entry["clips"], entry.get("problem")))
    listed = [entries[index] for index in range(len(sources))]
    problems = [f"{entry['name']}: {entry['problem']}" for entry in listed if "problem" in entry]
    used = [entry for entry in listed if entry["clips"]]
    if not used:
        plural = "s" * (len(sources) != 1)
        raise OptionError(f"none of {len(sources)} source{plural} gave a clip; the first: {problems[0]}")
    manifest = {
        "format": CLIP_FORMAT,
        **asdict(options),
        "clips": sum(entry["clips"] for entry in used),
        "sources": used,
        "problems": problems,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(output / CLIP_MANIFEST, text.encode(), OUTPUT_REMEDY)
    return manifest


def _prepare_output(output: Path, overwrite: bool) -> None:
    """Make the folders, and remove the files of a run that is replaced or did not finish."""
    if (output / CLIP_MANIFEST).exists() and not overwrite:
        raise OptionError(f"{output} holds training clips already; choose another --output, or add --overwrite")
    (output / CLIP_MANIFEST).unlink(missing_ok=True)
    for stale in (output / "shards").glob("[0-9]*-[0-9]*.npy*"):
        stale.unlink()
    try:
        (output / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error


class _ShardWriter:
    """Collects one source's clips and writes them as shards of about `SHARD_BYTES`."""

    def __init__(self, task: _ClipTask) -> None:
        self.shards: list[dict] = []  # as the manifest lists them
        self._task = task
        self._pending: list[np.ndarray] = []

    def add(self, clip: np.ndarray) -> None:
        """Add a clip (T, S, S, 3) uint8."""
        self._pending.append(clip)
        if len(self._pending) * self._task.options.clip_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the clips that are pending."""
        if not self._pending:
            return
        file = f"shards/{self._task.index:05d}-{len(self.shards):03d}.npy"
        write_shard(self._task.output / file, np.stack(self._pending))
        self.shards.append({"file": file, "clips": len(self._pending)})
        self._pending.clear()


def _process_source(task: _ClipTask) -> tuple[int, dict]:
    """Make one source's clips, write its shards, and return its index and its entry in the manifest."""
    source, options = task.source, task.options
    rng = np.random.default_rng([options.seed, crc32(source.name.encode())])
    make = _photo_clips if source.kind == "photo" else _video_clips
    writer, motions, problem = _ShardWriter(task), Counter[str](), None
    try:
        for motion, clip in make(source.path, options, rng):
            motions[motion] += 1
            writer.add(clip)
    except MediaError as error:
        problem = str(error).removeprefix(f"{source.path}: ")  # the entry has its name
    writer.flush()
    count = sum(motions.values())
    if not count and problem is None:
        problem = _NO_CLIPS[source.kind].format(options)
    entry = {
        "name": source.name,
        "kind": source.kind,
        "license": source.license,
        "clips": count,
        "shards": writer.shards,
    }
    if problem is not None:
        entry["problem"] = problem
    return task.index, entry | {"motions": dict(motions)}


# Why a source that can be read gives no clips, for its options
_NO_CLIPS = {
    "photo": "smaller than clips of {0.size} px with their motion, or without detail; give a smaller --size",
    "video": "no {0.frames} frames of one shot that show detail and movement; give fewer --frames",
}


def _photo_clips(path: Path, options: ClipOptions, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    photo = Photo.of(read_photo(path))
    wanted = options.per_photo
    for _ in range(_DRAWS_PER_CLIP * wanted):
        made = photo_clip(photo, options.frames, options.size, rng)
        if made is not None and worth_keeping(made[1][options.frames // 2], rng):
            yield made
            wanted -= 1
            if not wanted:
                return


def _video_clips(path: Path, options: ClipOptions, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    estimate, frames = read_video(path)
    mean_stride = 1.0 if options.high_rate else float(np.dot(_STRIDES, _STRIDE_SHARES))
    span = (options.frames - 1) * mean_stride + 1
    per_window = options.per_video / max(1.0, estimate / span)
    left = options.per_video
    large_enough = _check_clip_size(path, _reduce_frames(frames, options.reduce), options)
    for window in clip_windows(mark_scenes(large_enough), options.frames, rng, every_frame=options.high_rate):
        wanted = int(per_window) + int(rng.random() < per_window % 1)
        for clip in _moving_crops(window, min(wanted, left), options.size, rng):
            left -= 1
            yield "video", clip


def _check_clip_size(path: Path, frames: Iterable[np.ndarray], options: ClipOptions) -> Iterator[np.ndarray]:
    """The frames.

    Raises:
        MediaError: they are smaller than a clip.
    """
    for frame in frames:
        height, width = frame.shape[:2]
        if min(height, width) < options.size:
            after = f" after --reduce {options.reduce}" if options.reduce > 1 else ""
            remedy = " or a smaller --reduce" if options.reduce > 1 else ""
            raise MediaError(
                f"{path}: its frames are {width}x{height} px{after}, and clips {options.size} px; give a smaller --size{remedy}"
            )
        yield frame


def _reduce_frames(frames: Iterable[np.ndarray], factor: int) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame if factor == 1 else imresize(frame, 1 / factor)


def clip_windows(
    marked: Iterable[tuple[np.ndarray, bool]], frames: int, rng: np.random.Generator, every_frame: bool = False
) -> Iterator[list[np.ndarray]]:
    """Yield windows of `frames` frames, every 1st, 2nd or 3rd of the video, without cuts and repeated frames.

    Args:
        marked: frames (H, W, 3) uint8, and whether each begins a scene.
        every_frame: take all of them instead, also repeated ones: at a high rate little moves from one to the next.
    """
    window: list[np.ndarray] = []
    stride = 1 if every_frame else int(rng.choice(_STRIDES, p=_STRIDE_SHARES))
    before: np.ndarray | None = None
    for frame, begins in marked:
        small = _small_luma(frame)
        if begins:
            window.clear()
        elif not every_frame and before is not None and movement(before, small) < _MIN_MOVEMENT:
            continue  # a repeated frame, or part of a static passage
        before = small
        window.append(frame)
        if len(window) == (frames - 1) * stride + 1:
            yield window[::stride]
            window.clear()
            stride = 1 if every_frame else int(rng.choice(_STRIDES, p=_STRIDE_SHARES))


def _moving_crops(window: list[np.ndarray], wanted: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield up to `wanted` crops (T, S, S, 3) with detail and movement, each at least half a crop from the others."""
    room = np.array(window[0].shape[:2]) - size
    taken: list[np.ndarray] = []
    for _ in range(_DRAWS_PER_CLIP * wanted):
        corner = rng.integers(0, room, endpoint=True)
        if any(np.abs(corner - other).max() < size // 2 for other in taken):
            continue
        y, x = corner
        crop = np.stack([frame[y : y + size, x : x + size] for frame in window])
        moved = movement(_small_luma(crop[0]), _small_luma(crop[-1])) >= 2 * _MIN_MOVEMENT
        if (moved or rng.random() < FLAT_SHARE) and worth_keeping(crop[len(crop) // 2], rng):
            taken.append(corner)
            yield crop
            if len(taken) == wanted:
                return


def _small_luma(frame: np.ndarray) -> np.ndarray:
    """Green of (H, W, 3), most of luma, averaged over 4×4 px against noise: (H // 4, W // 4) float32."""
    height, width = (side // 4 for side in frame.shape[:2])
    green = frame[: 4 * height, : 4 * width, 1].reshape(height, 4, 4 * width).sum(1, dtype=np.uint16)
    return green.reshape(height, width, 4).sum(2, dtype=np.uint16) / np.float32(16)


def movement(before: np.ndarray, after: np.ndarray) -> float:
    """The largest mean change [levels] in any 4×4 px block of two small lumas: detects even small moving objects."""
    height, width = (side // 4 for side in before.shape)
    change = np.abs(after - before)[: 4 * height, : 4 * width]
    return float(change.reshape(height, 4, width, 4).mean((1, 3)).max())
