"""A part of the training data that is kept for validation, where no folder of videos is given. No MindSpore.

Clips: whole sources, so that no scene is on both sides; two manifests in the run's folder share out the shards. Each machine
has its own, equal but for where its data lies: machines may share the output folder.
Vimeo-90K: septuplets of its test list.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np

from rvrt_cli.data.batches import open_store
from rvrt_cli.data.clip_store import MANIFEST, ClipStore
from rvrt_cli.data.degradation import degrade
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.validation import (
    Upscale,
    VariantScore,
    bicubic_upscale,
    check_comparable,
    compared,
    psnr_y,
    scores_identity,
)
from rvrt_cli.data.vimeo import FRAMES, LISTS, SEQUENCES, is_vimeo, read_list, read_png
from rvrt_cli.files import write_atomically
from rvrt_cli.train.train_options import TrainOptions

_MOST = 24  # clips that are scored
_TRAIN, _HELD = "train", "held-out"
_VARIANT = "held-out"


def split_store(options: TrainOptions) -> None:
    """Share out the clips of `options.data` into a part to train on and one to validate on, in the run's folder.

    Sources are held out evenly spread over the manifest, at least one; none where there is one source, or --val.
    """
    folder, parts = Path(options.data), _parts(options)
    store = open_store(folder)
    shutil.rmtree(parts, ignore_errors=True)
    if not isinstance(store, ClipStore) or options.held_out == 0 or options.val:
        return
    sources = store.manifest["sources"]
    count = max(1, round(options.held_out * len(sources)))
    if count >= len(sources):
        return
    held = {math.floor((k + 0.5) * len(sources) / count) for k in range(count)}
    for name, chosen in ((_TRAIN, False), (_HELD, True)):
        part = parts / name
        kept = [_absolute(s, folder) for index, s in enumerate(sources) if (index in held) == chosen]
        manifest = json.dumps({**store.manifest, "sources": kept}, indent=1)
        write_atomically(part / MANIFEST, manifest.encode(), "choose another --output")


def data_folders(options: TrainOptions) -> tuple[Path, Path | None]:
    """The folders to train on and to validate on, as `split_store` left them; None where there is no second."""
    folder, parts = Path(options.data), _parts(options)
    if (parts / _HELD / MANIFEST).exists():
        return parts / _TRAIN, parts / _HELD
    listed = is_vimeo(folder) and (folder / LISTS["test"]).is_file() and options.held_out > 0 and not options.val
    return folder, folder if listed else None


def _parts(options: TrainOptions) -> Path:
    return Path(options.output) / f"data-{options.node}"


def _absolute(source: dict, folder: Path) -> dict:
    shards = [{**shard, "file": str((folder / shard["file"]).resolve())} for shard in source["shards"]]
    return {**source, "shards": shards}


class HeldOut:
    """Clips of `folder` (see `data_folders`) to score networks on; Y-PSNR, bicubic beside it, as `compared` has them.

    Raises:
        OptionError: they say nothing.
    """

    def __init__(self, folder: Path, degradation: str, crop: int) -> None:
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []  # low and high resolution
        self._bicubic: dict[str, list[float]] = {}
        for index, clip in enumerate(_clips(folder)):
            top, left = ((side - min(crop, side)) // 2 for side in clip.shape[1:3])
            high = clip[:, top : clip.shape[1] - top, left : clip.shape[2] - left]
            high = np.ascontiguousarray(high[:, : high.shape[1] // SCALE * SCALE, : high.shape[2] // SCALE * SCALE])
            low = degrade(high, degradation, np.random.default_rng(index))
            self._pairs.append((low, high))
            self._bicubic[str(index)] = psnr_y(bicubic_upscale(low), high)
        check_comparable(self._bicubic, f"{folder}, its held-out clips", "give --val FOLDER")

    @property
    def identity(self) -> str:
        """As `rvrt_cli.data.validation.ValidationSet.identity`."""
        return scores_identity({_VARIANT: self._bicubic})

    def score(self, upscale: Upscale) -> dict[str, VariantScore]:
        """As `rvrt_cli.data.validation.ValidationSet.score`, with one variant."""
        ours = {str(index): psnr_y(upscale(low), high) for index, (low, high) in enumerate(self._pairs)}
        return {_VARIANT: compared(ours, self._bicubic)}


def _clips(folder: Path) -> list[np.ndarray]:
    """At most `_MOST` clips (T, H, W, 3), evenly spread."""
    store = open_store(folder)
    if isinstance(store, ClipStore):
        count = min(_MOST, len(store))
        return [np.asarray(store[k * len(store) // count]) for k in range(count)]
    names = read_list(folder, "test")
    count = min(_MOST, len(names))
    chosen = [names[k * len(names) // count] for k in range(count)]
    return [
        np.stack([read_png(folder / SEQUENCES / name / f"im{frame + 1}.png") for frame in range(FRAMES)])
        for name in chosen
    ]
