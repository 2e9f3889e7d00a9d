# SPDX-License-Identifier: Apache-2.0
"""Whether the output can be written at its path."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path

from rvrt_cli.errors import MediaError
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.target import OutputRequest

_NUMBERED_PNG = re.compile(r"\d{6,}\.png")  # as rvrt writes them


def real_folder(target: str | Path) -> Path:
    """`target`, or the folder that it links to: the link stays, and that folder is filled."""
    path = Path(target)
    return Path(os.path.realpath(path)) if path.is_symlink() and path.is_dir() else path


def check_destination(
    info: SourceInfo, path: Path, request: OutputRequest, image_names: Collection[str] = (), *, folder: bool = False
) -> None:
    """Refuse a path that is the source, is taken, or cannot be written.

    Args:
        image_names: that a folder of images will have, unless they are numbered.
        folder: `path` is to become a folder of images, else a file.

    Raises:
        MediaError: with the remedy.
    """
    sources = [Path(info.path)] if info.kind == "video" else [*info.files, *{file.parent for file in info.files}]
    if path.exists():
        if any(source.exists() and os.path.samefile(source, path) for source in sources):
            raise MediaError(f"{path}: target and source are the same; choose another name for the target")
        if folder:
            _check_existing_folder(path, image_names, request.overwrite)
        else:
            _check_existing_file(path, request.overwrite)
    elif path.is_symlink():
        raise MediaError(f"{path}: a broken symbolic link; remove it or choose another name")
    parent = path.absolute().parent
    if request.new_folders:
        parent = next(folder for folder in (parent, *parent.parents) if folder.exists())
    if not parent.is_dir():
        what = "is a file; choose another one" if parent.exists() else "does not exist; create it first"
        raise MediaError(f"{path}: the folder {parent} {what}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise MediaError(f"{path}: no permission to write into the folder {parent}; choose another one")


def _check_existing_file(path: Path, overwrite: bool) -> None:
    if not path.is_file():
        raise MediaError(f"{path}: exists and is not a regular file; choose another name")
    if not overwrite:
        raise MediaError(f"{path}: exists already; choose another name, or --overwrite")


def _check_existing_folder(path: Path, image_names: Collection[str], overwrite: bool) -> None:
    if not path.is_dir():
        raise MediaError(f"{path}: exists and is not a folder; choose another name")
    if _cannot_be_replaced(path):
        raise MediaError(
            f"{path}: the folder is a working directory or a mount point, so that the finished images cannot take its "
            f"place at once; choose a new folder in it, such as {path / 'frames'}{os.sep}"
        )
    names = os.listdir(path)
    others = [name for name in names if not _NUMBERED_PNG.fullmatch(name) and name not in image_names]
    if others:
        raise MediaError(f"{path}: the folder holds other files ({others[0]!r}); choose a new or an empty one")
    if names and not overwrite:
        raise MediaError(f"{path}: the folder holds images already; choose another one, or --overwrite")


def _cannot_be_replaced(folder: Path) -> bool:
    """Whether the folder cannot be renamed away: it is the working directory, or something is mounted there."""
    if os.path.samefile(folder, os.curdir) or os.path.ismount(folder):
        return True
    with contextlib.suppress(OSError):  # Linux lists bind mounts too, which `ismount` misses on one file system
        mount_points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        real = os.fsencode(os.path.realpath(folder))
        return real in [re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), point) for point in mount_points]
    return False
