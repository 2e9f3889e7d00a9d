"""`rvrt preprocess clips`: training clips from anyone's photos and videos.

Photos get camera motion (`motion`). Videos are halved, cut at scene changes, and repeated frames are dropped. Crops
with little detail, or of a video where nothing moves, are skipped nine times of ten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from rvrt_cli.data.camera_motion import Photo, photo_clip
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.data.clip_store import FLAT_KEPT, FORMAT, FREE_SPACE, MANIFEST, worth_keeping, write_shard
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.sources import Source, read_photo, read_video
from rvrt_cli.data.worker_pool import in_processes
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.files import write_atomically

SHARD_BYTES = 64 << 20
_TRIES = 8  # draws per wanted clip
_MOVES = 1.5  # levels; less, and nothing moves
_STRIDES, _STRIDE_SHARES = (1, 2, 3), (0.5, 0.3, 0.2)  # frames of a video per frame of a clip


@dataclass(frozen=True)
class Finished:
    """One source is done: how many clips it gave, or why it gave none."""

    source: Source
    clips: int
    problem: str | None


def make_clips(
    sources: list[Source],
    output: Path,
    options: ClipOptions,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Finished], None] = lambda finished: None,
) -> dict:
    """Write the clips of `sources` into the folder `output` and return the manifest; `report` hears of each source.

    The result depends on the sources' names and pixels and on `options`, not on `workers`. The manifest is written
    last: a folder without one is unfinished. It lists under "problems" the sources that cannot be used; of a video that
    breaks off, the clips before are kept.

    Raises:
        OptionError: `output` holds clips already and `overwrite` is not set, or no source gave a clip.
    """
    if (output / MANIFEST).exists() and not overwrite:
        raise OptionError(f"{output} holds training clips already; choose another --output, or add --overwrite")
    (output / MANIFEST).unlink(missing_ok=True)
    for left in (output / "shards").glob("[0-9]*-[0-9]*.npy*"):  # of a run that was replaced or did not finish
        left.unlink()
    try:
        (output / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    entries: dict[int, dict] = {}
    jobs = [(index, source, output, options) for index, source in enumerate(sources)]
    jobs.sort(key=lambda job: job[1].kind, reverse=True)  # videos take longest: they start first
    for index, entry in in_processes(_work, jobs, workers):
        entries[index] = entry
        report(Finished(sources[index], entry["clips"], entry.get("problem")))
    listed = [entries[index] for index in range(len(sources))]
    problems = [f"{entry['name']}: {entry['problem']}" for entry in listed if "problem" in entry]
    used = [entry for entry in listed if entry["clips"]]
    if not used:
        raise OptionError(
            f"of {len(sources)} source{'s' * (len(sources) != 1)} none gave a clip; the first: {problems[0]}"
        )
    manifest = {
        "format": FORMAT,
        **asdict(options),
        "clips": sum(entry["clips"] for entry in used),
        "sources": used,
        "problems": problems,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(output / MANIFEST, text.encode(), FREE_SPACE)
    return manifest


_Job = tuple[int, Source, Path, ClipOptions]


def _work(job: _Job) -> tuple[int, dict]:
    """Make one source's clips, write its shards, and return its entry in the manifest."""
    index, source, output, options = job
    rng = np.random.default_rng([options.seed, crc32(source.name.encode())])
    make = _photo_clips if source.kind == "photo" else _video_clips
    entry: dict = {"name": source.name, "kind": source.kind, "license": source.license, "clips": 0, "shards": []}
    kinds: dict[str, int] = {}
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            file = f"shards/{index:05d}-{len(entry['shards']):03d}.npy"
            write_shard(output / file, np.stack(waiting))
            entry["shards"].append({"file": file, "clips": len(waiting)})
            waiting.clear()

    try:
        for kind, clip in make(source.path, options, rng):
            kinds[kind] = kinds.get(kind, 0) + 1
            entry["clips"] += 1
            waiting.append(clip)
            if len(waiting) * options.clip_bytes >= SHARD_BYTES:
                flush()
    except MediaError as error:
        entry["problem"] = str(error).removeprefix(f"{source.path}: ")  # the entry has its name
    flush()
    if not entry["clips"]:
        entry.setdefault("problem", f"smaller than {options.size} px and its motion, or without detail or movement")
    return index, entry | {"motions": kinds}


def _photo_clips(path: Path, options: ClipOptions, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    photo = Photo.of(read_photo(path))
    wanted = options.per_photo
    for _ in range(_TRIES * wanted):
        made = photo_clip(photo, options.frames, options.size, rng)
        if made is not None and worth_keeping(made[1][options.frames // 2], rng):
            yield made
            wanted -= 1
            if not wanted:
                return


def _video_clips(path: Path, options: ClipOptions, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    estimate, frames = read_video(path)
    span = (options.frames - 1) * float(np.dot(_STRIDES, _STRIDE_SHARES)) + 1
    per_window = options.per_video / max(1.0, estimate / span)
    left = options.per_video
    for window in windows(mark_scenes(_reduced(frames, options.reduce)), options.frames, rng):
        wanted = int(per_window) + int(rng.random() < per_window % 1)
        for clip in _crops(window, min(wanted, left), options.size, rng):
            left -= 1
            yield "video", clip


def _reduced(frames: Iterable[np.ndarray], factor: int) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame if factor == 1 else imresize(frame, 1 / factor)


def windows(
    marked: Iterable[tuple[np.ndarray, bool]], frames: int, rng: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Windows of `frames` frames, every 1st, 2nd or 3rd of the video; none holds a cut or a frame that repeats another.

    Args:
        marked: frames (H, W, 3) uint8, and whether each begins a scene.
    """
    held: list[np.ndarray] = []
    stride = int(rng.choice(_STRIDES, p=_STRIDE_SHARES))
    before: np.ndarray | None = None
    for frame, begins in marked:
        small = _small_luma(frame)
        if begins:
            held.clear()
        elif before is not None and movement(before, small) < _MOVES:
            continue  # nothing moved anywhere: a repeated frame, or part of a static stretch
        before = small
        held.append(frame)
        if len(held) == (frames - 1) * stride + 1:
            yield held[::stride]
            held.clear()
            stride = int(rng.choice(_STRIDES, p=_STRIDE_SHARES))


def _crops(window: list[np.ndarray], wanted: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Up to `wanted` crops (T, S, S, 3) with detail and movement, each at least half a crop from the others."""
    room = np.array(window[0].shape[:2]) - size
    if room.min() < 0:
        return
    taken: list[np.ndarray] = []
    for _ in range(_TRIES * wanted):
        corner = rng.integers(0, room, endpoint=True)
        if any(np.abs(corner - other).max() < size // 2 for other in taken):
            continue
        y, x = corner
        crop = np.stack([frame[y : y + size, x : x + size] for frame in window])
        moved = movement(_small_luma(crop[0]), _small_luma(crop[-1])) >= 2 * _MOVES
        if (moved or rng.random() < FLAT_KEPT) and worth_keeping(crop[len(crop) // 2], rng):
            taken.append(corner)
            yield crop
            if len(taken) == wanted:
                return


def _small_luma(frame: np.ndarray) -> np.ndarray:
    """Green of (H, W, 3), most of luma, averaged over 4×4 px so that noise says little: (H // 4, W // 4) float32."""
    height, width = (side // 4 for side in frame.shape[:2])
    green = frame[: 4 * height, : 4 * width, 1].reshape(height, 4, 4 * width).sum(1, dtype=np.uint16)
    return green.reshape(height, width, 4).sum(2, dtype=np.uint16) / np.float32(16)


def movement(before: np.ndarray, after: np.ndarray) -> float:
    """The largest mean change [levels] in any 4×4 px block of two small lumas: something moves, however small."""
    height, width = (side // 4 for side in before.shape)
    change = np.abs(after - before)[: 4 * height, : 4 * width]
    return float(change.reshape(height, 4, width, 4).mean((1, 3)).max())
