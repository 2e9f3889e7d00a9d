# SPDX-License-Identifier: Apache-2.0
"""The record of a queue's finished targets, in the folder of the targets: what the same command need not do again.

    .rvrt-finished.jsonl    one JSON object per line, the last one of a target counts:
        target      its path below the folder
        about       what it was made of and with (`rvrt_cli.upscale.resume.identify_request`)
        bytes       its size; of all files of a folder
        frames      how many it has
        failures    of `rvrt check`; null: not checked

Lines are only ever appended, so that several queues may share a folder, and a process may be killed while it writes. What
is read here is untrusted input: it is bounded, and lines that are not as they should be are passed over.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rvrt_cli.errors import MediaError
from rvrt_cli.upscale.workdir import About, changes

RECORD_NAME = ".rvrt-finished.jsonl"
_MAX_RECORD_BYTES = 1 << 26  # a line has about 1 KB


@dataclass(frozen=True)
class FinishedFile:
    """A target that is complete."""

    target: str
    about: About
    bytes: int
    frames: int
    failures: int | None

    def differences(self, about: About) -> list[str]:
        """What has changed since it was made, see `rvrt_cli.upscale.workdir.changes`."""
        return changes(self.about, about)


class FinishedFiles:
    """The record of a folder of targets."""

    def __init__(self, folder: str) -> None:
        """Read it, if there is one.

        Raises:
            MediaError: it cannot be read.
        """
        self._folder, self._path = Path(folder), Path(folder) / RECORD_NAME
        self._files = {entry.target: entry for entry in _read(self._path)}

    def find(self, target: str) -> FinishedFile | None:
        """What is known of a target that is still there as it was made."""
        found = self._files.get(self._name(target))
        return found if found is not None and _size(Path(target)) == found.bytes else None

    def add(self, target: str, about: About, frames: int, failures: int | None = None) -> None:
        """Note that a target is complete.

        Raises:
            MediaError: the record cannot be written.
        """
        entry = FinishedFile(self._name(target), about, _size(Path(target)) or 0, frames, failures)
        line = json.dumps(asdict(entry)).encode()
        try:
            with self._path.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read() == b"\n" else b"\n" + line  # after the remains of one that was cut short
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MediaError(
                f"{self._path}: cannot be written ({error.strerror}); fix that, and run it again"
            ) from error
        self._files[entry.target] = entry

    def _name(self, target: str) -> str:
        return os.path.relpath(target, self._folder)


def _read(path: Path) -> list[FinishedFile]:
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_RECORD_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); fix that, or remove it") from error
    found = (_entry(line) for line in lines if line)
    return [entry for entry in found if entry is not None]


def _entry(line: bytes) -> FinishedFile | None:
    try:
        entry = FinishedFile(**json.loads(line.decode()))
    except (ValueError, TypeError, RecursionError):
        return None
    counts = entry.bytes, entry.frames, 0 if entry.failures is None else entry.failures
    parts = ("source", "network", "settings")
    valid = (
        isinstance(entry.target, str)
        and all(type(count) is int and count >= 0 for count in counts)
        and isinstance(entry.about, dict)
        and all(isinstance(entry.about.get(part), dict) for part in parts)
    )
    return entry if valid else None


def _size(target: Path) -> int | None:
    """Bytes of a file, or of all files of a folder; None where there is none."""
    try:
        if target.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(target) if entry.is_file())
        return target.stat().st_size
    except OSError:
        return None
