"""Photos and videos as training material: finding them, their licenses, and their pixels (uint8 RGB)."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.read.image_files import natural_key

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".ts", ".y4m", ".gif"})
UNSPECIFIED = "unspecified"
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)  # Pillow, of a file that is no image for us


@dataclass(frozen=True)
class Source:
    """One photo or video."""

    path: Path
    name: str  # relative to what the user named, so that it says nothing about the machine
    kind: str  # "photo" or "video"
    license: str


def find_sources(
    paths: Sequence[Path], licenses: Sequence[tuple[str, str]] = (), license: str | None = None
) -> list[Source]:
    """All photos and videos among and below `paths`, in the order of `paths` and then by name.

    Folders are searched for the known suffixes, without what is hidden; a file that is named itself and is no image counts as a video. The
    first of `licenses` (pattern, license) whose pattern matches a source's name gives its license, else `license`.

    Raises:
        OptionError: a path does not exist, nothing is found, or patterns were given and a source matches none.
    """
    found = []
    for path in paths:
        if path.is_dir():
            top = Path(path.resolve().name)
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES)
            names = [(file, file.relative_to(path)) for file in files]
            found += [(file, top / name) for file, name in names if not any(part[0] == "." for part in name.parts)]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise OptionError(f"{path}: no such file or folder")
    if not found:
        raise OptionError(f"no photos or videos in {', '.join(map(str, paths))}; name files or folders that hold some")
    sources = []
    for file, relative in found:
        name = relative.as_posix()
        kind = "photo" if file.suffix.lower() in IMAGE_SUFFIXES else "video"
        terms = next(
            (text for pattern, text in licenses if fnmatch(name, pattern) or fnmatch(file.name, pattern)), license
        )
        if terms is None and licenses:
            raise OptionError(f"{name}: no pattern of --licenses matches; add one, or give --license for the rest")
        sources.append(Source(file, name, kind, terms or UNSPECIFIED))
    return sources


def files_of(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of a folder with these suffixes, frame2 before frame10; not the hidden ones, as macOS leaves them."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    return sorted(found, key=natural_key)


def read_licenses(path: Path) -> list[tuple[str, str]]:
    """(pattern, license) pairs of a CSV file with two columns, or of a JSON object {pattern: license}; in file order.

    Raises:
        OptionError: neither form.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            pairs = [(str(pattern), str(terms)) for pattern, terms in json.loads(text).items()]
        else:
            rows = csv.reader(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
            pairs = [(pattern.strip(), terms.strip()) for pattern, terms in rows]
    except (OSError, ValueError, AttributeError) as error:
        raise OptionError(
            f"{path}: expected lines 'pattern,license', or JSON {{pattern: license}} in a .json file ({error})"
        ) from error
    return [pair for pair in pairs if pair != ("pattern", "license")]


def rgb_of(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of an image of any mode; 16 bits of gray become 8.

    Raises:
        ValueError: it holds 32 bits a pixel, of which nobody knows what is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # Pillow would clip these
        gray = np.rint(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, 2)
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a channel; convert it to 8 or 16")
    return np.asarray(image.convert("RGB"))


def read_photo(path: Path) -> np.ndarray:
    """The photo (H, W, 3) uint8, turned as its EXIF says.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return rgb_of(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise MediaError(f"{path}: cannot be read as an image ({error}); leave it out or replace it") from error


def read_video(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The estimated number of frames, and the frames (H, W, 3) uint8 one after the other, as coded (none repeated).

    Raises:
        MediaError: it cannot be opened; or, while iterating, decoding breaks off.
    """
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of videos that are turned upright
    stream = imageio_ffmpeg.read_frames(
        f"file:{path}",  # or "concat:a" would be a protocol and no name
        pix_fmt="rgb24",
        output_params=["-fps_mode", "passthrough", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"],
    )
    try:
        facts = next(stream)
    except (OSError, RuntimeError, StopIteration, IndexError) as error:
        reason = str(error).strip().splitlines()[-1:] or ["no video stream"]
        raise MediaError(f"{path}: cannot be read as a video ({reason[0]}); leave it out or replace it") from error
    width, height = facts["size"]

    def frames() -> Iterator[np.ndarray]:
        try:
            for data in stream:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        except (OSError, RuntimeError) as error:
            raise MediaError(f"{path}: decoding broke off ({str(error).strip().splitlines()[-1]})") from error
        finally:
            stream.close()

    return max(1, round(facts["duration"] * facts["fps"])), frames()
