# SPDX-License-Identifier: Apache-2.0
"""How noisy a source is, estimated from its frames: `rvrt restore --sigma auto`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.frame import to_float
from rvrt_cli.options import AUTO, MAX_NOISE, RestoreOptions
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.source import SourceInfo

NOISE_ESTIMATOR = "Chen, Zhu and Heng, ICCV 2015"
_PATCH = 8  # px; larger patches separate noise from texture better, and need more of them
_MOST_PATCHES = 40_000  # per frame and channel
_SAMPLED_FRAMES = 5  # spread over the source


@dataclass(frozen=True)
class NoiseLevel:
    """Standard deviation of a source's noise [levels of 255], given or `estimated`."""

    levels: float
    estimated: bool

    def __str__(self) -> str:
        source = f", estimated from the frames ({NOISE_ESTIMATOR})" if self.estimated else ""
        return f"standard deviation {self.levels:.3g} of 255 levels{source}"


def noise_level(options: RestoreOptions, info: SourceInfo) -> NoiseLevel | None:
    """The noise level that the options give, or that of the source's frames with `--sigma auto`; None without --sigma.

    Raises:
        OptionError: a stream, whose frames cannot be read twice.
        MediaError: no frame can be read.
    """
    if options.sigma != AUTO:
        return None if options.noise_levels is None else NoiseLevel(options.noise_levels, estimated=False)
    if info.kind == "y4m":
        raise OptionError(f"--sigma {AUTO}: a stream cannot be read twice; give a number, such as --sigma 25")
    left = None if info.duration is None else max(0.0, info.duration - options.start)
    length = min((part for part in (left, options.duration) if part is not None), default=None)
    runs = sampled_runs(info, (options.start, length), _SAMPLED_FRAMES, deinterlace=options.deinterlace)
    estimates = [estimate_noise(to_float(frame)) for run in runs for frame in run]
    if not estimates:
        raise MediaError(f"{info.path}: no frame could be read to estimate the noise; give a number with --sigma")
    return NoiseLevel(min(255 * float(np.median(estimates)), float(MAX_NOISE)), estimated=True)


def sampled_runs(
    info: SourceInfo, part: tuple[float, float | None], count: int, frames: int = 1, *, deinterlace: bool = False
) -> Iterator[list[np.ndarray]]:
    """Pixels of up to `count` runs of `frames` consecutive frames, spread over a part of a source; fewer where it is short.

    Args:
        part: begin and length [s]; without a length, one run from the beginning.
    """
    begin, length = part
    places = 1 if length is None else max(1, round(length * info.frame_rate) - frames + 1)  # where a run can begin
    for place in sorted({number * places // count for number in range(count)}):
        start = begin + float(place / info.frame_rate)
        with open_reader(info, start=start, deinterlace=deinterlace, alpha=False) as reader:
            yield [frame.pixels for frame in islice(reader, frames)]


def estimate_noise(image: np.ndarray) -> float:
    """Standard deviation of the white Gaussian noise in an image (H, W, C), on the image's own scale.

    Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation", ICCV 2015: clean patches lie near
    a subspace, so that the smallest eigenvalues of the patches' covariance are the variance of the noise. Large eigenvalues
    are left out until the mean of the others is their median. Each channel is estimated alone, and the variances are averaged.

    Raises:
        ValueError: a side is under 16 px.
    """
    if min(image.shape[:2]) < 2 * _PATCH:
        raise ValueError(f"an image of {image.shape[1]}×{image.shape[0]} px: needs {2 * _PATCH} px a side")
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _MOST_PATCHES))
    variances = [_channel_variance(image[..., channel].astype(np.float64), step) for channel in range(image.shape[2])]
    return math.sqrt(float(np.mean(variances)))


def _channel_variance(channel: np.ndarray, step: int) -> float:
    patches = np.lib.stride_tricks.sliding_window_view(channel, (_PATCH, _PATCH))[::step, ::step]
    eigenvalues = np.linalg.eigvalsh(np.cov(patches.reshape(-1, _PATCH**2), rowvar=False))  # ascending
    for count in range(len(eigenvalues), 0, -1):
        smallest = eigenvalues[:count]
        if np.count_nonzero(smallest > smallest.mean()) <= np.count_nonzero(smallest < smallest.mean()):
            continue  # a few large ones pull the mean above the median
        break
    return max(0.0, float(smallest.mean()))
