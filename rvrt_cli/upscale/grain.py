# SPDX-License-Identifier: Apache-2.0
"""The grain of a source, measured on its frames and drawn anew on upscaled ones: `--grain`.

H×W px; luma and standard deviations in levels of 255, whatever the depth of the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rvrt_cli.errors import OptionError
from rvrt_cli.frame import to_float
from rvrt_cli.options import JobOptions
from rvrt_cli.upscale.noise_estimate import estimate_noise, sampled_runs
from rvrt_cli.video.read.source import SourceInfo

RUN_FRAMES = 3  # consecutive frames that the grain is measured on: two differences
_RUNS = 6  # spread over the source
_LUMA_WEIGHTS = np.array([0.2126, 0.7152, 0.0722], np.float32)
_BINS = 8  # of luma, in which the grain is measured
_GRAIN_BLOCK = 16  # px
_FEWEST_BLOCKS, _LEAST_SHARE = 12, 0.02  # of a bin that show grain, else there is none: number and share
_WHITE_IN_TIME = 0.6, 1.5  # -cov of successive differences, as a share of the variance; 1 for white noise
_MOST_ALIKE = 0.6  # correlation of neighboring px: grain is fine, what motion leaves is not
_TEXTURE_FACTOR = 2  # times the finest texture; blurred grain is more than that, by less
_QUANTILE, _QUANTILE_BIAS = 0.25, 1.06  # of the blocks' variances; of 256 px of white noise it is this much too low
_LEVEL_STEP = 1 / 16  # level: where machines round otherwise, they must agree on the grain
_VISIBLE = 0.5  # level
_SEED = 0x6772_6169_6E  # "grain"
_GRAIN_SIZE = 0.25  # px of the source: standard deviation of the Gaussian that white noise is blurred with


@dataclass(frozen=True)
class GrainCurve:
    """Standard deviation of a source's luma grain, at the centers of equal bins of luma [levels of 255]."""

    levels: tuple[float, ...]

    def __str__(self) -> str:
        low, high = min(self.levels), max(self.levels)
        if high < _VISIBLE:
            return (
                f"hardly any was found in the source, {high:.2g} of 255 levels at most"
                if high
                else "none in the source"
            )
        between = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}, by luma,"
        return f"standard deviation {between} of 255 levels, measured on the source"

    def at(self, luma: np.ndarray) -> np.ndarray:
        """Standard deviation at each luma in [0, 1], as float32 on the same scale.

        It is at most half the distance from black and white: grain that is clipped there would change the mean.
        """
        centers = (np.arange(len(self.levels)) + 0.5) / len(self.levels)
        places = np.linspace(0, 1, 256)
        curve = np.minimum(np.interp(places, centers, self.levels) / 255, 0.5 * np.minimum(places, 1 - places))
        return curve.astype(np.float32)[np.rint(np.clip(luma, 0, 1) * 255).astype(np.uint8)]


def source_grain(options: JobOptions, info: SourceInfo) -> GrainCurve | None:
    """The grain of a source, measured all over it, whatever part is processed; None without --grain.

    Raises:
        OptionError: a stream, whose frames cannot be read twice.
    """
    if not options.grain:
        return None
    if info.kind == "y4m":
        raise OptionError(f"--grain {options.grain:g}: a stream cannot be read twice; write it to a file first")
    return measure_grain(sampled_runs(info, (0.0, info.duration), _RUNS, RUN_FRAMES, deinterlace=options.deinterlace))


def measure_grain(runs: Iterable[Sequence[np.ndarray]]) -> GrainCurve:
    """The grain that consecutive frames show, given as runs of frames (H, W, 3) of any type.

    Grain is what is white in time: of three frames, the differences of the first two and of the last two have a covariance
    of minus its variance, whatever stands still, while steady motion makes them alike. Blocks where that holds and
    neighboring px are not alike are taken as grain, at the lower quartile of their variances. Blocks that repeat exactly,
    as encoders leave them, say nothing. Grain is also texture (`estimate_noise`): fast motion of what is fine looks like
    grain in time, but not there. Runs of fewer frames, such as photos, are judged by their texture alone, at every luma.
    """
    blocks, textures = [], []
    for run in runs:
        lumas = [to_float(frame) @ (255 * _LUMA_WEIGHTS) for frame in run]
        if not lumas or min(lumas[0].shape) < _GRAIN_BLOCK:
            continue
        textures.append(estimate_noise(lumas[0][..., None]))
        if len(lumas) >= RUN_FRAMES:
            blocks.append(_block_table(lumas[:RUN_FRAMES]))
    texture = float(np.median(textures)) if textures else 0.0
    found = _levels_of_blocks(np.concatenate(blocks, 1)) if blocks else np.full(_BINS, texture)
    return GrainCurve(tuple(_rounded(float(level)) for level in np.minimum(found, _TEXTURE_FACTOR * texture)))


def _block_table(lumas: list[np.ndarray]) -> np.ndarray:
    """(4, blocks) of three frames: mean luma, variance of the grain by either difference, and by both, alikeness."""
    first, second = (_blocks(after - before) for before, after in pairwise(lumas))
    mean = _blocks(lumas[1]).mean((1, 2))
    first, second = (change - change.mean((1, 2), keepdims=True) for change in (first, second))
    squares = (first**2).mean((1, 2))
    variance = 0.25 * (squares + (second**2).mean((1, 2)))  # a difference has the grain of two frames
    across = np.maximum((first[:, 1:] * first[:, :-1]).mean((1, 2)), (first[:, :, 1:] * first[:, :, :-1]).mean((1, 2)))
    alike = across / np.maximum(squares, 1e-6)
    return np.stack([mean, variance, -(first * second).mean((1, 2)), alike])


def _blocks(image: np.ndarray) -> np.ndarray:
    """(blocks, _GRAIN_BLOCK, _GRAIN_BLOCK) of an image (H, W)."""
    rows, columns = (side // _GRAIN_BLOCK for side in image.shape)
    whole = image[: rows * _GRAIN_BLOCK, : columns * _GRAIN_BLOCK].reshape(rows, _GRAIN_BLOCK, columns, _GRAIN_BLOCK)
    return whole.transpose(0, 2, 1, 3).reshape(-1, _GRAIN_BLOCK, _GRAIN_BLOCK)


def _levels_of_blocks(table: np.ndarray) -> np.ndarray:
    """The grain of those bins of luma that enough blocks fall into; the others have their neighbors'."""
    mean, variance, white, alike = table[:, table[1] > 1e-4]
    low, high = _WHITE_IN_TIME
    grainy = (white > low * variance) & (white < high * variance) & (alike < _MOST_ALIKE)
    place = np.clip(mean * _BINS / 256, 0, _BINS - 1).astype(int)
    known, found = [], []
    for number in range(_BINS):
        here = place == number
        fewest = max(_FEWEST_BLOCKS, _LEAST_SHARE * here.sum())
        if here.sum() < 2 * _FEWEST_BLOCKS:
            continue
        seen = variance[here & grainy]
        known.append(number)
        found.append(math.sqrt(_QUANTILE_BIAS * np.quantile(seen, _QUANTILE)) if len(seen) >= fewest else 0.0)
    return np.interp(np.arange(_BINS), known, found) if known else np.zeros(_BINS)


def _rounded(level: float) -> float:
    return round(level / _LEVEL_STEP) * _LEVEL_STEP


@dataclass(frozen=True)
class GrainPainter:
    """Draws grain on frames: the same at the same timestamp, however a video is cut; different at any other.

    Attributes:
        curve: as measured on the source.
        amount: of it that is drawn, 0 to 1.
        scale: px of the output per px of the source: grains are half as large as the source's px, or a little more.
    """

    curve: GrainCurve
    amount: float
    scale: float

    def add(self, values: np.ndarray, pts: int) -> None:
        """Add the grain of the frame at timestamp `pts` to its pixels (H, W, 3), float32 in [0, 1], in place.

        All three channels get the same, so that only luma changes, whatever the matrix.
        """
        grain = self._noise(values.shape[0], values.shape[1], pts)
        grain *= self.curve.at(values @ _LUMA_WEIGHTS)
        values += np.float32(self.amount) * grain[..., None]

    def _noise(self, height: int, width: int, pts: int) -> np.ndarray:
        """Gaussian noise (H, W) of variance 1, white in time, blurred to the size of a grain."""
        kernel = self._kernel()
        more = len(kernel) - 1
        rng = np.random.default_rng((_SEED, pts % (1 << 64)))
        noise = rng.standard_normal((height + more, width + more), np.float32)
        rows = np.zeros((height, width + more), np.float32)
        for start, weight in enumerate(kernel):
            rows += weight * noise[start : start + height]
        blurred = np.zeros((height, width), np.float32)
        for start, weight in enumerate(kernel):
            blurred += weight * rows[:, start : start + width]
        return blurred

    def _kernel(self) -> np.ndarray:
        """A Gaussian whose squares add up to 1, float32."""
        sigma = _GRAIN_SIZE * self.scale
        reach = math.ceil(2.5 * sigma)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        return (kernel / math.sqrt(float((kernel**2).sum()))).astype(np.float32)
