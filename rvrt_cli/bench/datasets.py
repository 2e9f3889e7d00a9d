# SPDX-License-Identifier: Apache-2.0
"""The usual test sets as people unpack them, and the user's own videos, as pairs of low and high resolution.

T frames, H×W px high resolution, h×w = H/4 × W/4. Frames are uint8 RGB (T, H, W, 3). Layouts:

vimeo90k-t    ROOT/sequences/00001/0001/im1.png …, ROOT/sep_testlist.txt; low resolution in ROOT/BIx4 or BDx4
vid4          ROOT/GT/calendar/*.png and city, foliage, walk; or without GT/
reds4         ROOT/GT/000/*.png, 011, 015, 020; or train_sharp/ in place of GT/
udm10         ROOT/GT/CLIP/*.png, ten clips; or ROOT/CLIP/truth/*.png
clips         the user's own videos, or, without any, the clip that comes with the program

The low resolution is the set's own where it has one (BIx4, BDx4, sharp_bicubic, train_sharp_bicubic/X4, CLIP/blur4), else
made from the targets, cropped to multiples of 4 px.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rvrt_cli.data.codecs import h264
from rvrt_cli.data.degradation import degrade
from rvrt_cli.data.resize import SCALE, imresize
from rvrt_cli.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_of
from rvrt_cli.data.validation import CRF, each_degradation, shots
from rvrt_cli.data.vimeo import FOLDERS, LISTS, SEPTUPLET_FRAMES, SEQUENCES, make_with, read_list, read_png
from rvrt_cli.errors import OptionError
from rvrt_cli.weights import embedded_folder

CENTER = SEPTUPLET_FRAMES // 2  # of a septuplet: im4, from 0
SAMPLE_CLIP = "city-truth.mp4"
PROTOCOL_CLIPS = {"vid4": ("calendar", "city", "foliage", "walk"), "reds4": ("000", "011", "015", "020"), "udm10": None}
UDM10_CLIPS = 10
RESTORATION_DEGRADATIONS = ("blur", "noise")
PROTOCOL_SEPTUPLETS = 7_824  # Vimeo-90K-T
DEFAULT_DEGRADATION = {"udm10": "bd"}
_TARGET_FOLDERS = ("GT", "gt", "HR", "train_sharp", "train/train_sharp", ".")
_LOW_FOLDERS = {
    "bi": ("BIx4", "LR_bicubic/X4", "sharp_bicubic", "train_sharp_bicubic/X4", "train/train_sharp_bicubic/X4"),
    "bd": ("BDx4",),
}
_TARGETS_IN_CLIP = ("truth", "original")  # folders in a clip's own that hold the targets, beside "blur4"
_DEGRADATION_TEXTS = {
    "bi": "MATLAB's bicubic",
    "bd": "Gaussian blur of σ 1.6 and every 4th pixel",
    "video": f"MATLAB's bicubic, then H.264 at CRF {CRF}",
    "real": "MATLAB's bicubic, then each degradation of the training mix, on the middle frames of each shot",
}
REAL_FRAMES = 14  # of each shot that are scored after each degradation of "real"


@dataclass(frozen=True)
class ClipPair:
    """A clip to score: `low` (T, h, w, 3) and its target `high` (T, H, W, 3), or (1, H, W, 3), the center of a septuplet.

    Attributes:
        degradation: which one of the mix, where the set has several; else "".
    """

    name: str
    low: np.ndarray
    high: np.ndarray
    degradation: str = ""


@dataclass(frozen=True)
class SetEntry:
    """What is read at a time: a clip, or a video with all its shots; `sources` are its files and folders."""

    name: str
    load: Callable[[], Iterator[ClipPair]]
    sources: tuple[Path, ...] = ()

    def fingerprint(self) -> str:
        """A digest of the names, sizes and modification times of its files: it changes when one of them does."""
        facts = []
        for source in self.sources:
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                with suppress(OSError):  # `load` reports what cannot be read
                    found = path.stat()
                    facts.append((path.name, found.st_size, found.st_mtime_ns))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A test set, whose frames are read when an entry is loaded.

    Attributes:
        channel: what the protocol scores, "y" or "rgb".
        center: whether a clip is mirrored and only its center frame is scored (Vimeo-90K-T).
        description: the set, and which list of it, for the reader.
        low_resolution: where the low resolution comes from.
        total: entries of the whole set; fewer in `entries` make a sample.
        protocol_total: entries that the protocol has, where the set lists another number; else 0.
        noise: standard deviation of the noise, for denoising [levels of 255].
    """

    protocol: str
    degradation: str
    channel: str
    center: bool
    description: str
    low_resolution: str
    entries: tuple[SetEntry, ...]
    total: int
    protocol_total: int = 0
    noise: float | None = None

    @property
    def scale(self) -> int:
        """Px of the targets per px of what the network gets, along each axis."""
        return 1 if self.degradation in RESTORATION_DEGRADATIONS else SCALE

    @property
    def baseline(self) -> str:
        """What the network is compared with: "bicubic", or the "input" of restoration."""
        return "input" if self.scale == 1 else "bicubic"

    def sample(self, count: int) -> Dataset:
        """`count` entries, evenly spread over the set; at most all of them."""
        count = min(count, self.total)
        return replace(self, entries=tuple(self.entries[k * self.total // count] for k in range(count)))


def open_dataset(protocol: str, folder: Path | None, degradation: str | None = None) -> Dataset:
    """The test set of a protocol.

    Args:
        folder: of the set; None for the clip that comes with the program, with protocol "clips".
        degradation: None: the protocol's default.

    Raises:
        OptionError: the folder does not have the layout.
    """
    if folder is not None and not folder.exists():
        raise OptionError(f"{folder}: no such folder; give the folder of the set with --data")
    kind = degradation or DEFAULT_DEGRADATION.get(protocol, "bi")
    if protocol == "clips":
        return _open_videos(folder, kind)
    assert folder is not None
    return _open_septuplets(folder, kind) if protocol == "vimeo90k-t" else _open_image_clips(protocol, folder, kind)


def sample_clip() -> Path:
    """The clip that comes with the program: inside the package when it is installed, in tests/media of a checkout.

    Raises:
        OptionError: it is missing.
    """
    folder = embedded_folder()
    for path in (folder / SAMPLE_CLIP, folder.parent / "tests" / "media" / SAMPLE_CLIP):
        if path.is_file():
            return path
    raise OptionError("the sample clip is missing from this installation; reinstall rvrt, or give --data")


def _open_videos(folder: Path | None, kind: str) -> Dataset:
    if folder is None:
        paths, description = [sample_clip()], f"the sample clip {SAMPLE_CLIP} that comes with rvrt"
    elif folder.is_file():
        paths, description = [folder], folder.name
    else:
        paths = files_of(folder, VIDEO_SUFFIXES)
        description = f"{len(paths)} video{'s' * (len(paths) != 1)} of {folder.name or folder.resolve().name}"
    if not paths:
        raise OptionError(f"{folder}: no videos; expected files such as .mp4 or .mkv")
    if len({path.stem for path in paths}) < len(paths):
        raise OptionError(
            f"{folder}: two videos differ only in their suffix; rename one, clips are identified by their names without it"
        )
    entries = tuple(SetEntry(path.stem, partial(_load_shots, path, kind), (path,)) for path in paths)
    return Dataset(
        protocol="clips",
        degradation=kind,
        channel="y",
        center=False,
        description=description,
        low_resolution=f"made: {_DEGRADATION_TEXTS[kind]}",
        entries=entries,
        total=len(entries),
    )


def _load_shots(path: Path, kind: str) -> Iterator[ClipPair]:
    for name, high in shots(path):
        if kind == "real":
            for degradation, low, target in each_degradation(name, high, REAL_FRAMES):
                yield ClipPair(f"{name}-{degradation}", low, target, degradation)
        else:
            yield ClipPair(name, downsample_clip(high, kind), high)
        del high  # before the next shot is read


def downsample_clip(high: np.ndarray, kind: str) -> np.ndarray:
    """(T, h, w, 3) of (T, H, W, 3), H and W multiples of 4; `kind`: "bi", "bd", or "video", which is "bi" coded as H.264."""
    if kind == "video":
        return h264(imresize(high, 1 / SCALE), CRF)
    return degrade(high, kind, np.random.default_rng(0))


def _open_septuplets(root: Path, kind: str) -> Dataset:
    names = read_list(root, "test")
    low = root / FOLDERS[kind]
    own, remake = low.is_dir(), make_with(root, kind, "test")
    for name in names if own else ():
        if not (low / name).is_dir():  # perhaps only the training list was processed
            raise OptionError(f"{low / name}: missing; {remake}")
    description = f"Vimeo-90K-T, {LISTS['test']}, {len(names)} septuplets"
    source = f"the set's {FOLDERS[kind]}" if own else f"made: {_DEGRADATION_TEXTS[kind]}"

    def load(name: str) -> Iterator[ClipPair]:
        images = [f"im{number + 1}.png" for number in range(SEPTUPLET_FRAMES)]
        if own:
            high = read_png(root / SEQUENCES / name / images[CENTER])[None]
            yield check_pair(
                ClipPair(name, _read_images(low / name, images, remake), high), low / name, SEPTUPLET_FRAMES
            )
        else:
            frames = _read_images(root / SEQUENCES / name, images)
            yield ClipPair(name, downsample_clip(frames, kind), frames[CENTER : CENTER + 1])

    folders = (root / SEQUENCES, low) if own else (root / SEQUENCES,)
    entries = tuple(SetEntry(name, partial(load, name), tuple(folder / name for folder in folders)) for name in names)
    return Dataset(
        protocol="vimeo90k-t",
        degradation=kind,
        channel="y",
        center=True,
        description=description,
        low_resolution=source,
        entries=entries,
        total=len(entries),
        protocol_total=0 if len(entries) == PROTOCOL_SEPTUPLETS else PROTOCOL_SEPTUPLETS,
    )


def _open_image_clips(protocol: str, root: Path, kind: str) -> Dataset:
    targets, names = _find_image_clips(protocol, root)
    places = {part: [root / part / name for name in names] for part in _LOW_FOLDERS[kind]}
    if kind == "bd":
        places["blur4"] = [targets / name / "blur4" for name in names]
    own = next((part for part, folders in places.items() if any(folder.is_dir() for folder in folders)), None)
    source = f"made: {_DEGRADATION_TEXTS[kind]}" if own is None else f"the set's {own}"
    low = {} if own is None else dict(zip(names, places[own], strict=True))
    for folder in low.values():
        if not folder.is_dir():
            raise OptionError(f"{folder}: missing, while other clips in {own} are present; unpack the set again")

    def load(name: str) -> Iterator[ClipPair]:
        high = _crop_to_scale(read_frames(_targets_of(targets / name)))
        if name in low:
            yield check_pair(ClipPair(name, read_frames(low[name]), high), low[name], len(high))
        else:
            yield ClipPair(name, downsample_clip(high, kind), high)

    entries = tuple(
        SetEntry(name, partial(load, name), (_targets_of(targets / name), *([low[name]] if low else [])))
        for name in names
    )
    description = f"{protocol.capitalize() if protocol == 'vid4' else protocol.upper()}, {len(names)} clips"
    channel = "rgb" if protocol == "reds4" else "y"
    return Dataset(
        protocol=protocol,
        degradation=kind,
        channel=channel,
        center=False,
        description=description,
        low_resolution=source,
        entries=entries,
        total=len(entries),
    )


def _find_image_clips(protocol: str, root: Path) -> tuple[Path, list[str]]:
    """The folder of the targets, and the names of the clips."""
    wanted = PROTOCOL_CLIPS[protocol]
    for part in _TARGET_FOLDERS:
        folder = root / part
        if not folder.is_dir():
            continue
        if wanted is not None:
            if all((folder / name).is_dir() for name in wanted):
                return folder, list(wanted)
            continue
        inside = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
        found = sorted(path.name for path in inside if files_of(_targets_of(path), IMAGE_SUFFIXES))
        if len(found) == UDM10_CLIPS:
            return folder, found
    needed = f"the clips {', '.join(wanted)}" if wanted else f"{UDM10_CLIPS} clips"
    raise OptionError(
        f"{root}: not the test set {protocol}; expected {needed} as folders of images in {root / 'GT'}, or in {root} itself"
    )


def _targets_of(folder: Path) -> Path:
    return next((folder / name for name in _TARGETS_IN_CLIP if (folder / name).is_dir()), folder)


def read_frames(folder: Path) -> np.ndarray:
    """The images of a folder, (T, H, W, 3) uint8.

    Raises:
        OptionError: there are none, or they differ in size.
    """
    paths = files_of(folder, IMAGE_SUFFIXES)
    if not paths:
        raise OptionError(f"{folder}: no images; unpack the set again")
    return _read_images(folder, [path.name for path in paths])


def _read_images(folder: Path, images: list[str], remake: str = "") -> np.ndarray:
    frames = [read_png(folder / image, remake) for image in images]
    if len({frame.shape for frame in frames}) > 1:
        remedy = f"delete it, and {remake}" if remake else "unpack the set again"
        raise OptionError(f"{folder}: images of different sizes; {remedy}")
    return np.stack(frames)


def _crop_to_scale(high: np.ndarray) -> np.ndarray:
    return high[:, : high.shape[1] // SCALE * SCALE, : high.shape[2] // SCALE * SCALE]


def check_pair(pair: ClipPair, folder: Path, targets: int | None = None, scale: int = SCALE) -> ClipPair:
    """`pair`, if its `low` has `targets` frames (None: those of its `high`), of the size of its `high` over `scale`.

    Raises:
        OptionError: it does not.
    """
    frames, height, width = pair.low.shape[:3]
    targets = len(pair.high) if targets is None else targets
    if (targets, *pair.high.shape[1:3]) != (frames, scale * height, scale * width):
        expected = "a quarter of each side" if scale == SCALE else "as many of the same size"
        raise OptionError(
            f"{folder}: {frames} frames of {width}x{height} px do not match {targets} targets of "
            f"{pair.high.shape[2]}x{pair.high.shape[1]} px; expected {expected}"
        )
    return pair
