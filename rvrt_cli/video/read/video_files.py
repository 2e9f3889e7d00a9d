# SPDX-License-Identifier: Apache-2.0
"""The videos of a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from rvrt_cli.video.read.image_files import natural_key

# Of what ffmpeg demuxes with video in it; a file that is named is opened whatever its suffix is
VIDEO_SUFFIXES = (
    frozenset({".3g2", ".3gp", ".f4v", ".m4v", ".mov", ".mp4", ".qt"})
    | {".asf", ".avi", ".divx", ".flv", ".mkv", ".nut", ".ogm", ".ogv", ".rm", ".rmvb", ".webm", ".wmv"}
    | {".m1v", ".m2t", ".m2ts", ".m2v", ".mpe", ".mpeg", ".mpg", ".mts", ".ts", ".vob"}
    | {".apng", ".dv", ".gif", ".mjpeg", ".mjpg", ".mxf", ".y4m"}
)


def find_videos(folder: Path, *, recursive: bool, leave_out: Collection[Path] = ()) -> Iterator[Path]:
    """The files in a folder that have the suffix of a video, in natural order, those of a folder before those below it.

    Hidden files and folders are left out, the work folders of interrupted jobs among them; links to folders are not followed.

    Args:
        recursive: search the folders below it, too.
        leave_out: folders that are not searched.

    Raises:
        OSError: the folder cannot be read; those below it are passed over then.
    """
    entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=natural_key)
    for path in entries:
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            yield path
    for path in entries if recursive else ():
        left_out = any(_is_same_folder(path, other) for other in leave_out)
        if path.is_dir() and not path.is_symlink() and not left_out and os.access(path, os.R_OK | os.X_OK):
            yield from find_videos(path, recursive=True, leave_out=leave_out)


def _is_same_folder(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)
