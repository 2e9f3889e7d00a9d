# SPDX-License-Identifier: Apache-2.0
"""The validation protocol: Y-PSNR of ×4 upscaling on real videos, next to that of bicubic.

For every video of a folder: frames of 720 rows or more are halved (MATLAB's bicubic), which removes compression artifacts
from the target; the video is split at its cuts; shots are cropped to multiples of 4 px. Low resolution is MATLAB's
bicubic reduction by 4, `clean`, or that compressed with H.264 at CRF 23 (x264 medium, 4:2:0, the whole shot), `h264`. For
`real`, the middle frames of each shot are scored after each degradation of that mix in turn, with fixed seeds.
For restoration, frames keep their size: `noise` is white and Gaussian of 25 levels, `blur` averages five frames each, and
the input takes the place of bicubic. Scores are PSNR on Y without a border: mean over the frames of a shot, then over the
shots. Frames that bicubic restores exactly, such as black ones, are excluded: its PSNR is infinite there, so they carry no
information.

T frames, h×w px low resolution. Frames are uint8 RGB.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from rvrt_cli.data.codecs import h264
from rvrt_cli.data.degradation import MIXES
from rvrt_cli.data.resize import SCALE, imresize
from rvrt_cli.data.restoration_pairs import input_pixels, validation_pair
from rvrt_cli.data.sources import files_of, read_video
from rvrt_cli.engine.scenes import mark_scenes
from rvrt_cli.errors import OptionError
from rvrt_cli.metrics import chroma_error, clip_means, psnr, rgb_to_y
from rvrt_cli.video.read.video_files import VIDEO_SUFFIXES

VARIANTS = ("clean", "h264")
REAL_VARIANT = "real"
_VARIANTS_OF_DEGRADATION = {"real": (*VARIANTS, REAL_VARIANT), "blur": ("blur",), "noise": ("noise",)}
CRF = 23
HALVED_FROM = 720  # rows

# (T, h, w, 3) uint8 to (T, 4h, 4w, 3) uint8; for restoration (T, H, W, 3) uint8 or (T, H, W, 4) float32 to (T, H, W, 3) uint8
Upscale = Callable[[np.ndarray], np.ndarray]


class ClipScore(TypedDict):
    """Mean Y-PSNR [dB] of one shot, or of all."""

    psnr_y: float
    bicubic_psnr_y: float
    gain: float


class VariantScore(TypedDict):
    """The scores of one variant: per shot, and their mean.

    Attributes:
        chroma_gain: gain over bicubic in PSNR, of Cb and of Cr [dB], means over the shots: Y-PSNR does not see these errors.
            None where bicubic restores the chroma exactly, as that of gray videos.
    """

    clips: dict[str, ClipScore]
    mean: ClipScore
    chroma_gain: dict[str, float | None]


@dataclass(frozen=True)
class ShotErrors:
    """How far frames of one shot are from their targets.

    Attributes:
        psnr_y: Y-PSNR of each frame [dB]; infinite where it equals the target.
        chroma: mean squared errors of Cb and Cr (2,), of each window of frames.
    """

    psnr_y: list[float]
    chroma: list[np.ndarray]


@dataclass(frozen=True)
class _ShotWindow:
    """Consecutive frames of one shot: target and input of each variant that scores them, and bicubic's errors.

    Attributes:
        shot: its name; for `real`, the degradation follows.
    """

    shot: str
    high: dict[str, np.ndarray]  # (T, 4h, 4w, 3)
    low: dict[str, np.ndarray]  # (T, h, w, 3)
    bicubic: dict[str, ShotErrors]


class ValidationSet:
    """The videos of `folder`, prepared once and then used to score networks.

    Args:
        windows: windows per shot, evenly spread; None: every frame, in one window per shot. Variant `real` has one window
            per shot and degradation.
        frames: frames per window.

    Raises:
        OptionError: the folder holds no video, or bicubic restores every frame exactly.
        MediaError: a video cannot be read.
    """

    def __init__(
        self, folder: Path, windows: int | None = None, frames: int = 12, variants: Sequence[str] = VARIANTS
    ) -> None:
        if (windows is not None and windows < 1) or frames < 1:
            raise OptionError(f"{windows} windows of {frames} frames: give 1 or more of each")
        self.variants = tuple(variants)
        self._windows: list[_ShotWindow] = []
        paths = files_of(folder, VIDEO_SUFFIXES)
        if not paths:
            raise OptionError(f"{folder}: no videos to validate on; expected files such as .mp4 or .mpg")
        others = tuple(variant for variant in self.variants if variant != REAL_VARIANT)
        for path in paths:
            for shot, high in shots(path):
                self._windows += _prepare_windows(shot, high, others, windows, frames) if others else []
                if REAL_VARIANT in self.variants:
                    self._windows += [
                        _shot_window(f"{shot}, {name}", {REAL_VARIANT: pair})
                        for name, *pair in each_degradation(shot, high, frames)
                    ]
        self._bicubic = {
            variant: self._by_shot((w.shot, w.bicubic[variant]) for w in self._windows if variant in w.bicubic)
            for variant in self.variants
        }
        for variant, scores in self._bicubic.items():
            check_comparable(scores, f"{folder} ({variant})", "give other videos")

    def score(self, upscale: Upscale) -> dict[str, VariantScore]:
        """Score `upscale` on every window of every variant; the keys are the variants."""
        return {variant: self._score_variant(upscale, variant) for variant in self.variants}

    @property
    def identity(self) -> str:
        """Equal for equal frames, wherever they are stored: scores of one identity can be compared."""
        return scores_identity(self._bicubic)

    def _score_variant(self, upscale: Upscale, variant: str) -> VariantScore:
        ours = self._by_shot(
            (window.shot, shot_errors(upscale(window.low[variant]), window.high[variant]))
            for window in self._windows
            if variant in window.low
        )
        return compare_with_bicubic(ours, self._bicubic[variant])

    @staticmethod
    def _by_shot(errors: Iterable[tuple[str, ShotErrors]]) -> dict[str, ShotErrors]:
        """Collect the errors of windows by shot."""
        shots: dict[str, ShotErrors] = {}
        for name, found in errors:
            shot = shots.setdefault(name, ShotErrors([], []))
            shot.psnr_y.extend(found.psnr_y)
            shot.chroma.extend(found.chroma)
        return shots


def variants_of(degradation: str) -> tuple[str, ...]:
    """The variants that validate a network trained for `degradation`, see `ValidationSet`."""
    return _VARIANTS_OF_DEGRADATION.get(degradation, VARIANTS)


def each_degradation(shot: str, high: np.ndarray, frames: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The middle `frames` frames of a shot after each degradation of the mix `real` but clean: name, input and target.

    Random settings, such as rates, are drawn by the names of the shot and of the degradation: they are always the same.
    """
    [middle] = _window_spans(len(high), 1, frames)
    target = high[middle]
    small = imresize(target, 1 / SCALE)
    for entry in MIXES["real"][1:]:
        seed = [zlib.crc32(name.encode()) for name in (shot, entry.name)]
        yield entry.name, entry.apply(small, np.random.default_rng(seed)), target


def bicubic_upscale(frames: np.ndarray) -> np.ndarray:
    """MATLAB's bicubic upscaling, (T, h, w, 3) to (T, 4h, 4w, 3): the baseline of every network."""
    return imresize(frames, SCALE)


def baseline_frames(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What a network is compared with: bicubic upscaling to the size of `high`, or for restoration the input itself."""
    return input_pixels(low) if low.shape[1:3] == high.shape[1:3] else bicubic_upscale(low)


def compare_with_bicubic(ours: Mapping[str, ShotErrors], bicubic: Mapping[str, ShotErrors]) -> VariantScore:
    """Scores per clip and their mean, ours and bicubic's, without the frames that bicubic restores exactly."""
    kept = {clip: [k for k, score in enumerate(shot.psnr_y) if math.isfinite(score)] for clip, shot in bicubic.items()}
    clips, mean = clip_means({clip: [ours[clip].psnr_y[k] for k in frames] for clip, frames in kept.items() if frames})
    bicubic_clips, bicubic_mean = clip_means({clip: [bicubic[clip].psnr_y[k] for k in kept[clip]] for clip in clips})
    return {
        "clips": {clip: _clip_score(clips[clip], bicubic_clips[clip]) for clip in clips},
        "mean": _clip_score(mean, bicubic_mean),
        "chroma_gain": _chroma_gain(ours, bicubic),
    }


def _chroma_gain(ours: Mapping[str, ShotErrors], bicubic: Mapping[str, ShotErrors]) -> dict[str, float | None]:
    """See `VariantScore`."""
    gains: dict[str, float | None] = {}
    for channel, name in enumerate(("cb", "cr")):
        errors = [[np.mean(shots[clip].chroma, 0)[channel] for shots in (bicubic, ours)] for clip in bicubic]
        ratios = [10 * math.log10(of_bicubic / of_ours) for of_bicubic, of_ours in errors if of_bicubic and of_ours]
        gains[name] = float(np.mean(ratios)) if ratios else None
    return gains


def check_comparable(bicubic: Mapping[str, ShotErrors], where: str, remedy: str) -> None:
    """Refuse clips that leave `compare_with_bicubic` no frame.

    Raises:
        OptionError: bicubic restores every frame exactly.
    """
    if not any(math.isfinite(score) for shot in bicubic.values() for score in shot.psnr_y):
        raise OptionError(f"{where}: nothing to validate on, bicubic restores every frame exactly; {remedy}")


def scores_identity(bicubic: Mapping[str, Mapping[str, ShotErrors]]) -> str:
    """A digest of bicubic's scores by variant and clip, which identifies the frames they were measured on."""
    facts = {
        variant: {
            clip: [len(shot.psnr_y), *(f"{score:.1f}" for score in shot.psnr_y[:1])] for clip, shot in clips.items()
        }
        for variant, clips in bicubic.items()
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _clip_score(ours: float, bicubic: float) -> ClipScore:
    return {"psnr_y": ours, "bicubic_psnr_y": bicubic, "gain": ours - bicubic}


def shot_errors(frames: np.ndarray, reference: np.ndarray) -> ShotErrors:
    """The errors of a window of frames (T, H, W, 3)."""
    psnr_y = [psnr(rgb_to_y(frame), rgb_to_y(target)) for frame, target in zip(frames, reference, strict=True)]
    return ShotErrors(psnr_y, [chroma_error(frames, reference)])


def shots(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the shots of a video (T, H, W, 3), named after the file and numbered if there are several.

    Frames of 720 rows or more are halved; all are cropped to multiples of 4 px. They are the targets of this protocol.
    """
    _, frames = read_video(path)
    shot: list[np.ndarray] = []
    number = 1
    for frame, begins in mark_scenes(frames):
        if begins and shot:
            yield f"{path.stem}-{number}", _stack_and_clear(shot)
            number += 1
        height, width = frame.shape[:2]
        if height >= HALVED_FROM:
            frame = imresize(frame, 0.5)
            height, width = frame.shape[:2]
        shot.append(frame[: height // SCALE * SCALE, : width // SCALE * SCALE])
    if shot:
        yield path.stem if number == 1 else f"{path.stem}-{number}", _stack_and_clear(shot)


def _stack_and_clear(shot: list[np.ndarray]) -> np.ndarray:
    """The frames as one array; empties the list, to free the memory early."""
    clip = np.stack(shot)
    shot.clear()
    return clip


def _prepare_windows(
    shot: str, high: np.ndarray, variants: Sequence[str], windows: int | None, frames: int
) -> list[_ShotWindow]:
    prepared = []
    small = imresize(high, 1 / SCALE) if set(variants) & set(VARIANTS) else high
    pairs = {variant: _variant_pair(small, high, variant) for variant in variants}
    for span in _window_spans(min(len(target) for _, target in pairs.values()), windows, frames):
        prepared.append(_shot_window(shot, {name: (low[span], target[span]) for name, (low, target) in pairs.items()}))
    return prepared


def _shot_window(shot: str, pairs: Mapping[str, Sequence[np.ndarray]]) -> _ShotWindow:
    """A window of each variant's input and target, which are copied: they may be part of a whole shot."""
    lows = {variant: low.copy() for variant, (low, _) in pairs.items()}
    highs = {variant: high.copy() for variant, (_, high) in pairs.items()}
    scores = {name: shot_errors(baseline_frames(low, highs[name]), highs[name]) for name, low in lows.items()}
    return _ShotWindow(shot=shot, high=highs, low=lows, bicubic=scores)


def _variant_pair(small: np.ndarray, high: np.ndarray, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of a variant; `small` are the frames `high` reduced by 4, which upscaling needs."""
    if variant not in VARIANTS:
        return validation_pair(high, variant, seed=0)
    return small if variant == "clean" else h264(small, CRF), high


def _window_spans(length: int, windows: int | None, frames: int) -> list[slice]:
    """`windows` spans of `frames` frames, evenly spread over `length` without overlap; None: one span of everything."""
    if windows is None:
        return [slice(0, length)]
    count = min(windows, max(1, length // frames))
    starts = np.linspace(0, max(0, length - frames), count) if count > 1 else [max(0, length - frames) / 2]
    return [slice(int(start), min(int(start) + frames, length)) for start in starts]
