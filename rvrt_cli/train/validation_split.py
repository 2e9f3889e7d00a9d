# SPDX-License-Identifier: Apache-2.0
"""The validation split: training data that is held out where no folder of validation videos is given.

Of clips, whole sources are held out, so that no scene is on both sides; two manifests in the run's folder list the shards
of each side. Machines may share that folder: each has manifests of its own, which differ in the paths of the data only.
Of Vimeo-90K, septuplets of its test list are used. Does not import MindSpore.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np

from rvrt_cli.data.batch_spec import TASK_DEGRADATIONS
from rvrt_cli.data.batches import open_store
from rvrt_cli.data.clip_store import CLIP_MANIFEST, ClipStore
from rvrt_cli.data.degradation import degrade
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.restoration_pairs import validation_pair
from rvrt_cli.data.validation import (
    ShotErrors,
    Upscale,
    VariantScore,
    baseline_frames,
    check_comparable,
    compare_with_bicubic,
    scores_identity,
    shot_errors,
)
from rvrt_cli.data.vimeo import LISTS, SEPTUPLET_FRAMES, SEQUENCES, is_vimeo, read_list, read_png
from rvrt_cli.files import write_atomically
from rvrt_cli.train.train_options import TrainOptions

_MAX_CLIPS = 24  # that are scored
_TRAIN_FOLDER, _HELD_OUT_FOLDER = "train", "held-out"
_HELD_OUT_VARIANT = "held-out"


def split_clips(options: TrainOptions) -> None:
    """Split the clips of `options.data` into training and validation clips, by two manifests in the run's folder.

    At least one source is held out, evenly spread over the manifest; none if there is a single source, or with --val.
    """
    folder, split = Path(options.data), _split_folder(options)
    store = open_store(folder)
    shutil.rmtree(split, ignore_errors=True)
    if not isinstance(store, ClipStore) or options.held_out == 0 or options.val:
        return
    sources = [_with_absolute_shards(source, folder) for source in store.manifest["sources"]]
    count = max(1, round(options.held_out * len(sources)))
    if count >= len(sources):
        return
    held_out = {math.floor((k + 0.5) * len(sources) / count) for k in range(count)}
    for name, is_held_out in ((_TRAIN_FOLDER, False), (_HELD_OUT_FOLDER, True)):
        chosen = [source for index, source in enumerate(sources) if (index in held_out) == is_held_out]
        manifest = json.dumps({**store.manifest, "sources": chosen}, indent=1)
        write_atomically(split / name / CLIP_MANIFEST, manifest.encode(), "choose another --output")


def data_folders(options: TrainOptions) -> tuple[Path, Path | None]:
    """The folders for training and for validation, as `split_clips` left them; None where nothing is held out."""
    folder, split = Path(options.data), _split_folder(options)
    if (split / _HELD_OUT_FOLDER / CLIP_MANIFEST).exists():
        return split / _TRAIN_FOLDER, split / _HELD_OUT_FOLDER
    listed = is_vimeo(folder) and (folder / LISTS["test"]).is_file() and options.held_out > 0 and not options.val
    return folder, folder if listed else None


def _split_folder(options: TrainOptions) -> Path:
    return Path(options.output) / f"data-{options.node}"


def _with_absolute_shards(source: dict, folder: Path) -> dict:
    shards = [{**shard, "file": str((folder / shard["file"]).resolve())} for shard in source["shards"]]
    return {**source, "shards": shards}


class ValidationSplit:
    """Held-out clips of `folder` (see `data_folders`), to score networks on by Y-PSNR next to bicubic's.

    Args:
        degradation: of the low resolution.
        crop: edge of the centered crops that are scored, high resolution [px].

    Raises:
        OptionError: bicubic restores every frame exactly.
    """

    def __init__(self, folder: Path, degradation: str, crop: int) -> None:
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []  # low and high resolution
        self._bicubic: dict[str, ShotErrors] = {}
        for index, clip in enumerate(_held_out_clips(folder)):
            top, left = ((side - min(crop, side)) // 2 for side in clip.shape[1:3])
            high = clip[:, top : clip.shape[1] - top, left : clip.shape[2] - left]
            high = np.ascontiguousarray(high[:, : high.shape[1] // SCALE * SCALE, : high.shape[2] // SCALE * SCALE])
            if degradation in TASK_DEGRADATIONS["upscale"]:
                low = degrade(high, degradation, np.random.default_rng(index))
            else:
                low, high = validation_pair(high, degradation, index)
            self._pairs.append((low, high))
            self._bicubic[str(index)] = shot_errors(baseline_frames(low, high), high)
        check_comparable(self._bicubic, f"{folder}, its held-out clips", "give --val FOLDER")

    @property
    def identity(self) -> str:
        """As `rvrt_cli.data.validation.ValidationSet.identity`."""
        return scores_identity({_HELD_OUT_VARIANT: self._bicubic})

    def score(self, upscale: Upscale) -> dict[str, VariantScore]:
        """As `rvrt_cli.data.validation.ValidationSet.score`, with one variant."""
        ours = {str(index): shot_errors(upscale(low), high) for index, (low, high) in enumerate(self._pairs)}
        return {_HELD_OUT_VARIANT: compare_with_bicubic(ours, self._bicubic)}


def _held_out_clips(folder: Path) -> list[np.ndarray]:
    """At most `_MAX_CLIPS` clips (T, H, W, 3), evenly spread."""
    store = open_store(folder)
    if isinstance(store, ClipStore):
        count = min(_MAX_CLIPS, len(store))
        return [np.asarray(store[k * len(store) // count]) for k in range(count)]
    names = read_list(folder, "test")
    count = min(_MAX_CLIPS, len(names))
    chosen = [names[k * len(names) // count] for k in range(count)]
    return [
        np.stack([read_png(folder / SEQUENCES / name / f"im{frame + 1}.png") for frame in range(SEPTUPLET_FRAMES)])
        for name in chosen
    ]
