# SPDX-License-Identifier: Apache-2.0
"""Training batches: the same samples on every machine and after every restart.

Sample j of step k is a pure function of (seed, k, j) and of the data, so the state of a run's data is its step counter.

N samples, T frames, H×W px high resolution, h×w = H/4 × W/4, or H×W for restoration. Samples are uint8 RGB, (T, h, w, 3) and
(T, H, W, 3); the input of denoising is float32 and has the noise level as a fourth channel.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rvrt_cli.data.batch_spec import BatchSpec
from rvrt_cli.data.clip_store import CLIP_LAYOUT, CLIP_MANIFEST, ClipStore
from rvrt_cli.data.crop_detail import CROP_DRAWS, worth_keeping
from rvrt_cli.data.degradation import degrade
from rvrt_cli.data.pair_store import PAIR_LAYOUT, PairStore, find_pairs
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.restoration_pairs import LEAST_BLUR, random_blur, random_noise
from rvrt_cli.data.vimeo import FOLDERS, VIMEO_LAYOUT, VimeoStore, is_vimeo
from rvrt_cli.errors import OptionError

Batch = tuple[np.ndarray, np.ndarray]  # low resolution, high resolution
Store = ClipStore | VimeoStore | PairStore

_CROP_MARGIN = 16  # HR px around the crop that are degraded with it, so that its border sees its surroundings


def open_store(folder: Path) -> Store:
    """The training data in `folder`, whichever layout it has.

    Raises:
        OptionError: it has neither; the message says what was expected.
    """
    if (folder / CLIP_MANIFEST).exists():
        return ClipStore(folder)
    if is_vimeo(folder):
        return VimeoStore(folder)
    if folder.is_dir() and find_pairs(folder):
        return PairStore(folder)
    raise OptionError(f"{folder}: no training data here; {CLIP_LAYOUT}, or {VIMEO_LAYOUT}, or {PAIR_LAYOUT}")


def check_spec(store: Store, spec: BatchSpec) -> None:
    """Refuse a spec that the data cannot serve.

    Raises:
        OptionError: too many frames, too large a crop, or low resolution that has not been made.
    """
    height, width = (store.size, store.size) if isinstance(store, ClipStore) else store.size
    if isinstance(store, PairStore) and spec.task != "deblur":
        raise OptionError(
            f"--degradation {spec.degradation}: the data holds pairs for deblurring; choose --task deblur"
        )
    averaged = LEAST_BLUR if spec.task == "deblur" and not isinstance(store, PairStore) else 1
    if averaged * spec.frames > store.frames >= spec.frames:
        raise OptionError(
            f"--frames {spec.frames}: blur takes {averaged} of a clip for each, and the clips have {store.frames}; choose fewer, "
            "or make longer clips with `rvrt preprocess clips --high-rate`"
        )
    if spec.frames > store.frames:
        remake = f"make longer clips with rvrt preprocess clips --frames {spec.frames}"
        raise OptionError(
            f"--frames {spec.frames}: the clips have {store.frames}; give --frames {store.frames}{_or_clips(store, remake)}"
        )
    if spec.crop > min(height, width):
        largest = min(height, width) // SCALE * SCALE
        remake = f"make larger clips with rvrt preprocess clips --size {spec.crop}"
        raise OptionError(
            f"--crop {spec.crop}: the clips are {width}x{height} px; give --crop {largest}{_or_clips(store, remake)}"
        )
    if isinstance(store, VimeoStore):
        store.check_degradation(spec.degradation)


def _or_clips(store: Store, remake: str) -> str:
    """The other remedy, where the data was made by this program."""
    return f", or {remake}" if isinstance(store, ClipStore) else ""


def make_sample(store: Store, spec: BatchSpec, step: int, index: int) -> Batch:
    """Sample `index` of step `step`: (T, h, w, 3) and (T, H, W, 3), uint8.

    A random clip, window of frames and crop; flipped, transposed and reversed in time at random, and only then degraded,
    so that compression artifacts are oriented as a codec leaves them. In the share `spec.still` of the samples every
    frame is the middle one: other frames add nothing there, as in static footage.
    """
    rng = np.random.default_rng((spec.seed, step, index))
    if isinstance(store, PairStore):
        return _turned_pair(store.sample(rng, spec.frames, spec.crop), rng)
    if spec.task != "upscale":
        return _restoration_sample(store, spec, rng)
    if isinstance(store, VimeoStore) and spec.degradation in FOLDERS:
        low, high = _turned_pair(store.sample(rng, spec.frames, spec.crop, spec.degradation), rng)
        return (_freeze(low), _freeze(high)) if _is_still(spec, rng) else (low, high)
    region = _flip_and_reverse(_random_region(store, spec, rng), _random_turns(rng))
    if _is_still(spec, rng):
        region = _freeze(region)
    low = degrade(region, spec.degradation, rng, spec.clean_share)
    return _center_crop(low, spec.crop // SCALE), _center_crop(region, spec.crop)


def _restoration_sample(store: ClipStore | VimeoStore, spec: BatchSpec, rng: np.random.Generator) -> Batch:
    """A sample at the clip's own size: noise, or blur made of all frames that the clip has."""
    count = store.frames if spec.task == "deblur" else spec.frames
    region = _random_region(store, replace(spec, frames=count), rng)
    region = _center_crop(_flip_and_reverse(region, _random_turns(rng)), spec.crop)
    if spec.task == "deblur":
        return random_blur(region, spec.frames, rng)
    return random_noise(_freeze(region) if _is_still(spec, rng) else region, rng)


def _random_region(store: ClipStore | VimeoStore, spec: BatchSpec, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, H, W, 3) of a random crop with detail, with a margin that is equal on opposite sides."""
    for _ in range(CROP_DRAWS):
        clip = store[int(rng.integers(len(store)))]
        first = int(rng.integers(len(clip) - spec.frames, endpoint=True))
        top, left = (int(rng.integers(side - spec.crop, endpoint=True)) for side in clip.shape[1:3])
        middle = clip[first + spec.frames // 2, top : top + spec.crop, left : left + spec.crop]
        if worth_keeping(middle, rng):
            break
    rows, columns = (
        _with_margin(start, spec.crop, side) for start, side in zip((top, left), clip.shape[1:3], strict=True)
    )
    return clip[first : first + spec.frames, rows, columns]


def _with_margin(start: int, size: int, side: int) -> slice:
    margin = min(_CROP_MARGIN, start, side - start - size) // SCALE * SCALE
    return slice(start - margin, start + size + margin)


def _center_crop(clip: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in clip.shape[1:3])
    return clip[:, top : top + size, left : left + size]


def _turned_pair(pair: Batch, rng: np.random.Generator) -> Batch:
    """Low and high resolution after the same random turns."""
    low, high = pair
    turns = _random_turns(rng)
    return _flip_and_reverse(low, turns), _flip_and_reverse(high, turns)


def _random_turns(rng: np.random.Generator) -> np.ndarray:
    """Which of four turns to make, see `_flip_and_reverse`."""
    return rng.integers(2, size=4).astype(bool)


def _flip_and_reverse(clip: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """`clip` (T, H, W, 3) after any of four turns: time reversed, rows and columns flipped, transposed."""
    time, rows, columns, transpose = turns
    clip = clip[:: -1 if time else 1, :: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(clip.transpose(0, 2, 1, 3) if transpose else clip)


def _is_still(spec: BatchSpec, rng: np.random.Generator) -> bool:
    return spec.still > 0 and rng.random() < spec.still  # at 0 nothing is drawn, so that no sample changes


def _freeze(clip: np.ndarray) -> np.ndarray:
    """The middle frame of `clip` (T, H, W, 3), T times."""
    return np.repeat(clip[len(clip) // 2][None], len(clip), 0)


def make_batch(store: Store, spec: BatchSpec, step: int, samples: range) -> Batch:
    """Samples of one step, see `make_sample`: (N, T, h, w, 3 or 4) and (N, T, H, W, 3)."""
    pairs = [make_sample(store, spec, step, index) for index in samples]
    return np.stack([low for low, _ in pairs]), np.stack([high for _, high in pairs])


def mirrored(batch: Batch) -> Batch:
    """Each clip of T frames followed by its own reversal, 2T frames: how 7 frames of Vimeo-90K train for 14."""
    low, high = (np.concatenate([clips, clips[:, ::-1]], 1) for clips in batch)
    return low, high
