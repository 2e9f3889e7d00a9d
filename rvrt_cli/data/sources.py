# SPDX-License-Identifier: Apache-2.0
"""Photos and videos as sources of training data: how they are found, licensed and read (uint8 RGB)."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.read.image_files import natural_key, open_image, upright_image
from rvrt_cli.video.read.video_files import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # raised by Pillow for bad images

_NO_LICENSE = "unspecified"


@dataclass(frozen=True)
class Source:
    """One photo or video."""

    path: Path
    name: str  # relative to what the user named, so that it reveals nothing about the machine
    kind: str  # "photo" or "video"
    license: str


def find_sources(
    paths: Sequence[Path], licenses: Sequence[tuple[str, str]] = (), license: str | None = None
) -> list[Source]:
    """All photos and videos among and below `paths`, in the order of `paths` and then by name.

    Folders are searched for the known suffixes; hidden files are skipped. A file that is named directly and is not an
    image counts as a video. The first of `licenses` (pattern, license) whose pattern matches a source's name gives its
    license, else `license` does.

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
        raise OptionError(
            f"no photos or videos in {', '.join(map(str, paths))}; name files or folders that contain some"
        )
    sources = []
    for file, relative in found:
        name = relative.as_posix()
        kind = "photo" if file.suffix.lower() in IMAGE_SUFFIXES else "video"
        terms = next(
            (text for pattern, text in licenses if fnmatch(name, pattern) or fnmatch(file.name, pattern)), license
        )
        if terms is None and licenses:
            raise OptionError(f"{name}: no pattern of --licenses matches; add one, or give --license for the rest")
        sources.append(Source(file, name, kind, terms or _NO_LICENSE))
    return sources


def files_of(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of a folder with these suffixes, frame2 before frame10; hidden files, as macOS leaves them, are skipped."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != ".")
    return sorted(found, key=natural_key)


def read_licenses(path: Path) -> list[tuple[str, str]]:
    """Read (pattern, license) pairs, in file order, from a CSV file of two columns or a JSON object {pattern: license}.

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
    return [pair for pair in pairs if pair not in (("pattern", "license"), ("pattern", "licence"))]  # a header


def rgb_of(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of an image of any mode; 16-bit gray is reduced to 8 bits.

    Raises:
        ValueError: it has 32 bits per channel, for which no white level is defined.
    """
    if image.mode.startswith("I;16") or (
        image.mode == "I" and image.format == "PNG"
    ):  # Pillow's own conversion would clip these
        gray = np.rint(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, 2)
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits per channel; convert it to 8 or 16")
    return np.asarray(image.convert("RGB"))


def read_photo(path: Path) -> np.ndarray:
    """The photo (H, W, 3) uint8, rotated as its EXIF orientation says.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        with open_image(path) as image:
            return rgb_of(upright_image(image))
    except UNREADABLE as error:
        raise MediaError(f"{path}: cannot be read as an image ({error}); remove or replace it") from error


def read_video(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The estimated number of frames, and the frames (H, W, 3) uint8 in order, as coded (none repeated).

    Raises:
        MediaError: it cannot be opened; or, during iteration, decoding fails.
    """
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of rotated videos
    stream = imageio_ffmpeg.read_frames(
        f"file:{path}",  # a name such as "concat:a" would be taken for a protocol
        pix_fmt="rgb24",
        output_params=["-fps_mode", "passthrough", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"],
    )
    try:
        facts = next(stream)
    except (OSError, RuntimeError, StopIteration, IndexError) as error:
        reason = str(error).strip().splitlines()[-1:] or ["no video stream"]
        raise MediaError(f"{path}: cannot be read as a video ({reason[0]}); remove or replace it") from error
    return max(1, round(facts["duration"] * facts["fps"])), _decoded_frames(path, stream, facts["size"])


def _decoded_frames(path: Path, stream: Generator, size: tuple[int, int]) -> Iterator[np.ndarray]:
    width, height = size
    try:
        for data in stream:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError) as error:
        raise MediaError(f"{path}: decoding failed ({str(error).strip().splitlines()[-1]})") from error
    finally:
        stream.close()
