"""The field's test sets as people unpack them, and clips of the user's own, as pairs of low and high resolution.

T frames, H×W px high resolution, h×w = H/4 × W/4. Frames are uint8 RGB (T, H, W, 3). What is read:

vimeo90k-t    ROOT/sequences/00001/0001/im1.png …, ROOT/sep_testlist.txt; low resolution in ROOT/BIx4 or BDx4
vid4          ROOT/GT/calendar/*.png and city, foliage, walk; or without GT/
reds4         ROOT/GT/000/*.png, 011, 015, 020; or train_sharp/ in place of GT/
udm10         ROOT/GT/CLIP/*.png, ten clips; or ROOT/CLIP/truth/*.png
clips         videos of the user's own, or, without any, the clip that comes with the program

Low resolution is the set's own where it has some (BIx4, BDx4, sharp_bicubic, train_sharp_bicubic/X4, CLIP/blur4), else made
from the targets, cropped to multiples of 4 px.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rvrt_cli.data.degradation import degrade, h264
from rvrt_cli.data.resize import SCALE, imresize
from rvrt_cli.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_of
from rvrt_cli.data.validation import CRF, shots
from rvrt_cli.data.vimeo import FOLDERS, LISTS, SEPTUPLET_FRAMES, SEQUENCES, make_with, read_list, read_png
from rvrt_cli.errors import OptionError
from rvrt_cli.weights import embedded_folder

CENTER = SEPTUPLET_FRAMES // 2  # of a septuplet: im4, from 0
SAMPLE = "city-truth.mp4"
CLIPS = {"vid4": ("calendar", "city", "foliage", "walk"), "reds4": ("000", "011", "015", "020"), "udm10": None}
UDM10_CLIPS = 10
SEPTUPLETS = 7_824  # of Vimeo-90K-T
DEFAULT_DEGRADATION = {"udm10": "bd"}
_TARGETS = ("GT", "gt", "HR", "train_sharp", "train/train_sharp", ".")
_LOW = {
    "bi": ("BIx4", "LR_bicubic/X4", "sharp_bicubic", "train_sharp_bicubic/X4", "train/train_sharp_bicubic/X4"),
    "bd": ("BDx4",),
}
_INSIDE = ("truth", "original")  # folders in a clip's own that hold the targets, beside "blur4"
_METHODS = {
    "bi": "MATLAB's bicubic",
    "bd": "Gaussian blur of σ 1.6 and every 4th pixel",
    "video": f"MATLAB's bicubic, then H.264 at CRF {CRF}",
}


@dataclass(frozen=True)
class Pair:
    """A clip to score: `low` (T, h, w, 3); `high` (T, H, W, 3), or of a septuplet the center frame alone, T = 1."""

    name: str
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Case:
    """What is read at a time: a clip, or a video with all its shots; `sources` are the files and folders that it is in."""

    name: str
    load: Callable[[], Iterator[Pair]]
    sources: tuple[Path, ...] = ()

    def stamp(self) -> str:
        """Changes when a file of the case does: a digest of their names, sizes and times."""
        facts = []
        for source in self.sources:
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                with suppress(OSError):  # what cannot be read is told by `load`
                    found = path.stat()
                    facts.append((path.name, found.st_size, found.st_mtime_ns))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A test set.

    Attributes:
        channel: "y" or "rgb", on which the protocol scores.
        center: whether a clip is mirrored and only its center frame is scored (Vimeo-90K-T).
        about: which set, which list of it, for the reader.
        low: where the low resolution comes from.
        total: cases of the whole set; fewer in `cases` make a sample.
        whole: cases that the protocol has, where the set lists others; 0: all are there.
    """

    protocol: str
    degradation: str
    channel: str
    center: bool
    about: str
    low: str
    cases: tuple[Case, ...]
    total: int
    whole: int = 0

    def sample(self, count: int) -> Dataset:
        """`count` cases, evenly spread over the set; all of them where it has no more."""
        count = min(count, self.total)
        return replace(self, cases=tuple(self.cases[k * self.total // count] for k in range(count)))


def open_dataset(protocol: str, folder: Path | None, degradation: str | None = None) -> Dataset:
    """The test set of a protocol; frames are read when a case is loaded.

    Args:
        folder: None for the clip that comes with the program, with protocol "clips".
        degradation: None: the protocol's own.

    Raises:
        OptionError: the folder does not have the layout.
    """
    if folder is not None and not folder.exists():
        raise OptionError(f"{folder}: no such folder; give the set's with --data")
    kind = degradation or DEFAULT_DEGRADATION.get(protocol, "bi")
    if protocol == "clips":
        return _videos(folder, kind)
    assert folder is not None
    return _septuplets(folder, kind) if protocol == "vimeo90k-t" else _image_clips(protocol, folder, kind)


def sample_clip() -> Path:
    """The clip that comes with the program: inside the package when installed, in a checkout among the tests.

    Raises:
        OptionError: it is missing.
    """
    folder = embedded_folder()
    for path in (folder / SAMPLE, folder.parent / "tests" / "media" / SAMPLE):
        if path.is_file():
            return path
    raise OptionError("the sample clip is missing from this installation; install rvrt again, or give --data")


def _videos(folder: Path | None, kind: str) -> Dataset:
    if folder is None:
        paths, about = [sample_clip()], f"the sample clip {SAMPLE} that comes with rvrt"
    elif folder.is_file():
        paths, about = [folder], folder.name
    else:
        paths = files_of(folder, VIDEO_SUFFIXES)
        about = f"{len(paths)} video{'s' * (len(paths) != 1)} of {folder.name or folder.resolve().name}"
    if not paths:
        raise OptionError(f"{folder}: no videos; expected files such as .mp4 or .mkv")
    if len({path.stem for path in paths}) < len(paths):
        raise OptionError(f"{folder}: two videos differ in their suffix alone; rename one, clips go by that name")
    cases = tuple(Case(path.stem, lambda path=path: _shots(path, kind), (path,)) for path in paths)  # type: ignore[misc]
    return Dataset("clips", kind, "y", False, about, f"made: {_METHODS[kind]}", cases, len(cases))


def _shots(path: Path, kind: str) -> Iterator[Pair]:
    for name, high in shots(path):
        yield Pair(name, reduced(high, kind), high)
        del high  # before the next shot is read


def reduced(high: np.ndarray, kind: str) -> np.ndarray:
    """(T, h, w, 3) of (T, H, W, 3), H and W multiples of 4: "bi", "bd", or "video", which is "bi" through H.264."""
    if kind == "video":
        return h264(imresize(high, 1 / SCALE), CRF)
    return degrade(high, kind, np.random.default_rng(0))


def _septuplets(root: Path, kind: str) -> Dataset:
    names = read_list(root, "test")
    low = root / FOLDERS[kind]
    own, remake = low.is_dir(), make_with(root, kind, "test")
    for name in names if own else ():
        if not (low / name).is_dir():  # the list to train on alone, perhaps
            raise OptionError(f"{low / name}: missing; {remake}")
    about = f"Vimeo-90K-T, {LISTS['test']}, {len(names)} septuplets"
    source = f"the set's {FOLDERS[kind]}" if own else f"made: {_METHODS[kind]}"

    def load(name: str) -> Iterator[Pair]:
        images = [f"im{number + 1}.png" for number in range(SEPTUPLET_FRAMES)]
        if own:
            high = read_png(root / SEQUENCES / name / images[CENTER])[None]
            yield _checked(Pair(name, _stacked(low / name, images, remake), high), low / name, SEPTUPLET_FRAMES)
        else:
            frames = _stacked(root / SEQUENCES / name, images)
            yield Pair(name, reduced(frames, kind), frames[CENTER : CENTER + 1])

    folders = (root / SEQUENCES, low) if own else (root / SEQUENCES,)
    cases = tuple(
        Case(name, lambda name=name: load(name), tuple(folder / name for folder in folders))  # type: ignore[misc]
        for name in names
    )
    whole = 0 if len(cases) == SEPTUPLETS else SEPTUPLETS
    return Dataset("vimeo90k-t", kind, "y", True, about, source, cases, len(cases), whole)


def _image_clips(protocol: str, root: Path, kind: str) -> Dataset:
    targets, names = _find_clips(protocol, root)
    places = {part: [root / part / name for name in names] for part in _LOW[kind]}
    if kind == "bd":
        places["blur4"] = [targets / name / "blur4" for name in names]
    own = next((part for part, folders in places.items() if any(folder.is_dir() for folder in folders)), None)
    source = f"made: {_METHODS[kind]}" if own is None else f"the set's {own}"
    low = {} if own is None else dict(zip(names, places[own], strict=True))
    for folder in low.values():
        if not folder.is_dir():
            raise OptionError(f"{folder}: missing, while other clips of {own} are there; unpack the set again")

    def load(name: str) -> Iterator[Pair]:
        high = _cropped(_read_frames(_targets_of(targets / name)))
        if name in low:
            yield _checked(Pair(name, _read_frames(low[name]), high), low[name], len(high))
        else:
            yield Pair(name, reduced(high, kind), high)

    cases = tuple(
        Case(name, lambda name=name: load(name), (_targets_of(targets / name), *([low[name]] if low else [])))  # type: ignore[misc]
        for name in names
    )
    about = f"{protocol.capitalize() if protocol == 'vid4' else protocol.upper()}, {len(names)} clips"
    channel = "rgb" if protocol == "reds4" else "y"
    return Dataset(protocol, kind, channel, False, about, source, cases, len(cases))


def _find_clips(protocol: str, root: Path) -> tuple[Path, list[str]]:
    """The folder of the targets, and the clips' names."""
    wanted = CLIPS[protocol]
    for part in _TARGETS:
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
        f"{root}: not the set {protocol}; expected {needed} as folders of images in {root / 'GT'}, or in {root} itself"
    )


def _targets_of(folder: Path) -> Path:
    return next((folder / name for name in _INSIDE if (folder / name).is_dir()), folder)


def _read_frames(folder: Path) -> np.ndarray:
    paths = files_of(folder, IMAGE_SUFFIXES)
    if not paths:
        raise OptionError(f"{folder}: no images; unpack the set again")
    return _stacked(folder, [path.name for path in paths])


def _stacked(folder: Path, images: list[str], remake: str = "") -> np.ndarray:
    frames = [read_png(folder / image, remake) for image in images]
    if len({frame.shape for frame in frames}) > 1:
        remedy = f"delete it, and {remake}" if remake else "unpack the set again"
        raise OptionError(f"{folder}: images of several sizes; {remedy}")
    return np.stack(frames)


def _cropped(high: np.ndarray) -> np.ndarray:
    return high[:, : high.shape[1] // SCALE * SCALE, : high.shape[2] // SCALE * SCALE]


def _checked(pair: Pair, folder: Path, targets: int) -> Pair:
    """`pair`, if `low` has a frame for each of the `targets` frames of the clip, a quarter as high and wide."""
    frames, height, width = pair.low.shape[:3]
    if (targets, *pair.high.shape[1:3]) != (frames, SCALE * height, SCALE * width):
        raise OptionError(
            f"{folder}: {frames} frames of {width}x{height} px do not belong to {targets} targets of "
            f"{pair.high.shape[2]}x{pair.high.shape[1]} px; a quarter of each side is expected"
        )
    return pair
