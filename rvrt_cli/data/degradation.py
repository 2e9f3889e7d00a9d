# SPDX-License-Identifier: Apache-2.0
"""Degradations that make the low-resolution input of training: `bi`, `bd`, or one of the mixes `video` and `real`.

A mix is a table of degradations with their shares of the clips, the first of which is clean: bicubic reduction only.

T frames, H×W px high resolution, h×w = H/4 × W/4. Clips are uint8 RGB (T, H, W, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rvrt_cli.data.capture_artifacts import (
    DEINTERLACERS,
    SensorNoise,
    interlace,
    night_noise,
    sharpen,
    smear,
    soften,
)
from rvrt_cli.data.codecs import h264, h265, jpeg, mpeg2, mpeg4
from rvrt_cli.data.resize import SCALE, blur_downsample, imresize
from rvrt_cli.frame import to_float

_NOISY_CODED_SHARE = 0.25  # share of the compressed clips that get blur and noise first
_BLUR_SIGMA = (0.2, 0.6)  # LR px
_NOISE_SIGMA = (0.5, 4.0)  # levels
_JPEG_QUALITY = (50, 95)
_CRF_RANGE = (18.0, 28.0)
_X264_PRESETS = ("superfast", "veryfast")

# The wider ranges of `real`: from phones and cameras at high rates to what was made small to be sent.
_REAL_CRF = (18.0, 33.0)
_REAL_X264_PRESETS = ("ultrafast", "superfast", "veryfast", "medium")
_X265_CRF = (20.0, 35.0)
_X265_PRESETS = ("ultrafast", "superfast", "veryfast", "fast")
_QUANTIZER = (2, 10)  # of MPEG-2 and MPEG-4
_MOST_B_FRAMES = 2
_CAMERA_CRF = (17.0, 25.0)  # x264, of what a camera records itself
_RESIZED = (0.75, 1.5)  # size of the first of two encodings, of the second
_SMEAR_NOISE = (1.0, 6.0)  # levels
_UNSHARP_SIGMA = (0.6, 1.2)  # LR px
_UNSHARP_AMOUNT = (0.4, 1.5)
_SHOT_VARIANCE = (1e-4, 2e-3)  # per unit of light, drawn by its logarithm
_READ_NOISE = (5e-4, 5e-3)
_GRAIN_SIGMA = (0.3, 0.8)  # LR px
_BLOTCH_LEVELS = (1.0, 5.0)
_BLOTCH_SIZE = (1.2, 3.0)  # LR px

# (T, h, w, 3) uint8 to the same, at random
_Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _soft_and_noisy(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return soften(clip, rng.uniform(*_BLUR_SIGMA), rng.uniform(*_NOISE_SIGMA), rng)


def _sometimes_noisy(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _soft_and_noisy(clip, rng) if rng.random() < _NOISY_CODED_SHARE else clip


def _as_jpeg(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return jpeg(_sometimes_noisy(clip, rng), int(rng.integers(*_JPEG_QUALITY, endpoint=True)))


def _x264(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return h264(clip, float(rng.uniform(*_CRF_RANGE)), str(rng.choice(_X264_PRESETS)), mbtree=False)


def _real_x264(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return h264(clip, float(rng.uniform(*_REAL_CRF)), str(rng.choice(_REAL_X264_PRESETS)), mbtree=False)


def _camera_x264(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return h264(clip, float(rng.uniform(*_CAMERA_CRF)), str(rng.choice(_X264_PRESETS)), mbtree=False)


def _x265(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return h265(clip, float(rng.uniform(*_X265_CRF)), str(rng.choice(_X265_PRESETS)))


def _any_mpeg4(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return mpeg4(clip, int(rng.integers(*_QUANTIZER, endpoint=True)), int(rng.integers(_MOST_B_FRAMES, endpoint=True)))


def _any_mpeg2(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return mpeg2(clip, int(rng.integers(*_QUANTIZER, endpoint=True)), int(rng.integers(_MOST_B_FRAMES, endpoint=True)))


def _midway(clip: np.ndarray, rng: np.random.Generator, code: _Change) -> np.ndarray:
    """`clip` as `code` leaves it some frames after its start.

    A window of a real video seldom begins at a key frame: part of the reversed clip is encoded first, and dropped.
    """
    lead = int(rng.integers(len(clip)))
    return code(np.concatenate([clip[lead:0:-1], clip]), rng)[lead:]


def _coded(code: _Change) -> _Change:
    """Sometimes blur and noise, then `code`."""
    return lambda clip, rng: _midway(_sometimes_noisy(clip, rng), rng, code)


def _twice(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two different codecs, the first at a slightly different size: what was edited, uploaded or sent on."""
    codecs = (_real_x264, _x265, _any_mpeg4, _any_mpeg2)
    first, second = (codecs[index] for index in rng.permutation(len(codecs))[:2])

    def code(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = frames.shape[1:3]
        factor = rng.uniform(*_RESIZED)
        resized = imresize(frames, size=(round(height * factor), round(width * factor)))
        return second(imresize(first(resized, rng), size=(height, width)), rng)

    return _midway(clip, rng, code)


def _sharpened(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A phone: denoised until fine texture is smeared, sharpened until edges have halos, compressed."""
    clip = smear(clip, rng.uniform(*_SMEAR_NOISE))
    clip = sharpen(clip, rng.uniform(*_UNSHARP_SIGMA), rng.uniform(*_UNSHARP_AMOUNT))
    return _midway(clip, rng, _camera_x264)


def _interlaced(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camcorder or a television recording after a deinterlacer, then MPEG-2 or H.264."""
    clip = interlace(clip, str(rng.choice(DEINTERLACERS)), int(rng.integers(2)), int(rng.choice((-1, 1))))
    return _midway(clip, rng, _any_mpeg2 if rng.random() < 0.5 else _camera_x264)


def _at_night(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise at high gain, then H.264 or H.265. The brightness stays: the target has the same."""
    noise = SensorNoise(
        shot=float(np.exp(rng.uniform(*np.log(_SHOT_VARIANCE)))),
        read=rng.uniform(*_READ_NOISE),
        grain=rng.uniform(*_GRAIN_SIGMA),
        blotch=rng.uniform(*_BLOTCH_LEVELS),
        blotch_size=rng.uniform(*_BLOTCH_SIZE),
    )
    return _midway(night_noise(clip, noise, rng), rng, _real_x264 if rng.random() < 0.5 else _x265)


class Degradation(NamedTuple):
    """What happens to the reduced clip, and the share of the clips that it happens to; the first of a mix is clean."""

    name: str
    share: float
    apply: _Change


def _unchanged(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return clip


MIXES = {
    # what rvrt-tiny was trained on; its random draws stay as they are, so that runs can be repeated
    "video": (
        Degradation("clean", 0.50, _unchanged),
        Degradation("noisy", 0.12, _soft_and_noisy),
        Degradation("jpeg", 0.06, _as_jpeg),
        Degradation("h264", 0.32, _coded(_x264)),
    ),
    "real": (
        Degradation("clean", 0.50, _unchanged),
        Degradation("noisy", 0.06, _soft_and_noisy),
        Degradation("jpeg", 0.03, _as_jpeg),
        Degradation("h264", 0.13, _coded(_real_x264)),
        Degradation("h265", 0.07, _coded(_x265)),
        Degradation("mpeg4", 0.04, _coded(_any_mpeg4)),
        Degradation("mpeg2", 0.02, _coded(_any_mpeg2)),
        Degradation("twice", 0.05, _twice),
        Degradation("sharpened", 0.03, _sharpened),
        Degradation("interlaced", 0.03, _interlaced),
        Degradation("night", 0.04, _at_night),
    ),
}


def degrade(clip: np.ndarray, kind: str, rng: np.random.Generator, clean_share: float | None = None) -> np.ndarray:
    """Reduce `clip` (T, H, W, 3) to low resolution (T, h, w, 3), both uint8; H and W are multiples of 4.

    Args:
        kind: `bi`, MATLAB's bicubic; `bd`, the Gaussian blur of the published BD data; or one of `MIXES`, of which one
            degradation is drawn for the clip, after bicubic reduction.
        clean_share: share of clean clips of a mix, 0 to 1; the other shares keep their proportions. None: the mix's own.
    """
    if kind == "bd":
        return blur_downsample(clip)
    small = imresize(clip, 1 / SCALE)
    return draw_degradation(MIXES[kind], rng, clean_share).apply(small, rng) if kind in MIXES else small


def draw_degradation(
    mix: tuple[Degradation, ...], rng: np.random.Generator, clean_share: float | None = None
) -> Degradation:
    """One of `mix`, by the shares; see `degrade`."""
    clean, *others = mix
    passed = clean.share if clean_share is None else clean_share
    factor = (1 - passed) / (1 - clean.share)
    draw = rng.random()
    if draw < passed:
        return clean
    for entry in others[:-1]:
        passed += entry.share * factor
        if draw < passed:
            return entry
    return others[-1]


def add_noise(clip: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 (T, H, W, 3) with white Gaussian noise of that standard deviation [levels of 255], float32, 1 for white.

    Neither rounded nor clipped, as in the protocols of the literature.
    """
    noise = rng.standard_normal(clip.shape, np.float32) * np.float32(levels / 255)
    return to_float(clip) + noise
