# SPDX-License-Identifier: Apache-2.0
"""The usual test sets for deblurring and denoising as people unpack them, as pairs of degraded and sharp clips of one size.

T frames of H×W px. Sharp and blurred frames are uint8 RGB (T, H, W, 3), noisy ones float32 on the scale [0, 1], not clipped.

gopro    ROOT/test/CLIP/blur/*.png and sharp/*.png; or ROOT/CLIP/blur …
dvd      ROOT/quantitative_datasets/CLIP/input/*.jpg and GT/*.jpg; or ROOT/CLIP/input …
both     ROOT/test_GT_blurred/CLIP/*.png and ROOT/test_GT/CLIP/*.png, as the published code unpacks them
set8     ROOT/CLIP/*.png
davis    ROOT/CLIP/*.jpg; or ROOT/JPEGImages/480p/CLIP

The noise of Set8 and DAVIS is made: white and Gaussian in RGB, the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from rvrt_cli.bench.datasets import ClipPair, Dataset, SetEntry, check_pair, read_frames
from rvrt_cli.data.degradation import add_noise
from rvrt_cli.data.pair_store import find_pairs
from rvrt_cli.data.sources import IMAGE_SUFFIXES, files_of
from rvrt_cli.errors import OptionError

_NAMES = {"gopro": "GoPro", "dvd": "DVD", "set8": "Set8", "davis": "DAVIS"}
_CLIPS = {"gopro": 11, "dvd": 10, "set8": 8, "davis": 30}  # of the protocol
_NOISY_PLACES = ("JPEGImages/480p", ".")
_EXPECTED = {
    **dict.fromkeys(
        ("gopro", "dvd"), "clips with blur/ and sharp/, or input/ and GT/; or test_GT_blurred/ and test_GT/"
    ),
    **dict.fromkeys(("set8", "davis"), "clips as folders of images"),
}


def open_restoration_set(protocol: str, root: Path, levels: float) -> Dataset:
    """The test set of a protocol, one of "gopro", "dvd", "set8" and "davis".

    Args:
        levels: standard deviation of the noise for Set8 and DAVIS [levels of 255].

    Raises:
        OptionError: the folder does not have the layout.
    """
    if not root.is_dir():
        raise OptionError(f"{root}: no such folder; give the folder of the set with --data")
    blurred = protocol in ("gopro", "dvd")
    clips: dict[str, tuple[Path, ...]] = {**find_pairs(root, "test")} if blurred else _find_clips(root)
    if not clips:
        raise OptionError(f"{root}: not the test set {protocol}; expected {_EXPECTED[protocol]}")
    load: Callable[[str], Iterator[ClipPair]]
    load = partial(_load_blurred, clips) if blurred else partial(_load_noisy, clips, levels)
    entries = tuple(SetEntry(name, partial(load, name), folders) for name, folders in clips.items())
    total = _CLIPS[protocol]
    return Dataset(
        protocol=protocol,
        degradation="blur" if blurred else "noise",
        channel="rgb",
        center=False,
        description=f"{_NAMES[protocol]}, {len(clips)} clips",
        low_resolution="the set's blurred frames" if blurred else f"made: Gaussian noise, σ {levels:g} of 255",
        entries=entries,
        total=len(entries),
        protocol_total=0 if len(entries) == total else total,
        noise=None if blurred else levels,
    )


def _find_clips(root: Path) -> dict[str, tuple[Path, ...]]:
    """The folder of frames, by clip."""
    for place in _NOISY_PLACES:
        folders = sorted((root / place).iterdir()) if (root / place).is_dir() else []
        found = [path for path in folders if path.is_dir() and files_of(path, IMAGE_SUFFIXES)]
        if found:
            return {path.name: (path,) for path in found}
    return {}


def _load_blurred(clips: dict[str, tuple[Path, ...]], name: str) -> Iterator[ClipPair]:
    blurred, sharp = clips[name]
    yield check_pair(ClipPair(name, read_frames(blurred), read_frames(sharp)), blurred, scale=1)


def _load_noisy(clips: dict[str, tuple[Path, ...]], levels: float, name: str) -> Iterator[ClipPair]:
    (folder,) = clips[name]
    frames = read_frames(folder)
    rng = np.random.default_rng([crc32(name.encode()), round(100 * levels)])
    yield ClipPair(name, add_noise(frames, levels, rng), frames)
