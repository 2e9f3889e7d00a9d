# SPDX-License-Identifier: Apache-2.0
"""The folder beside the target where a run keeps finished segments; it is removed once the target is complete.

    .TARGET.rvrt/
        lock            held while a command works on this target
        manifest.json   what is being made (source, network, settings), and the plan for it
        00000096.mp4    the encoded frames of the segment that begins with this frame; for a folder frames/000097.png ...
        00000096.json   the segment is complete (`SegmentRecord`)
        00000192.zip    the recurrent state that the segment beginning there continues from
        end.json        the source has been read to its end: how many frames it has, and what was wrong (`SourceEnd`)
        claims/         several ranks: which scenes are taken, who is done
        publish.json    the result is complete and about to get the target's name (`Published`)

A file gets its name when it is complete, and a segment counts from its record on, which is written last: the run may be
killed at any moment. Everything read here is untrusted input, bounded and validated: states are bare numbers whose shapes
the network dictates.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rvrt_cli import files
from rvrt_cli.engine import Carried, Plan, Segment
from rvrt_cli.errors import MediaError

WORKDIR_FORMAT = 4
RUN_MANIFEST, _LOCK, _END, _PUBLISH = "manifest.json", "lock", "end.json", "publish.json"
_MAX_NAME_BYTES = 180  # file systems allow 255
_MAX_JSON_BYTES = 1 << 20  # real ones have some hundreds
_PLAN_COUNTS = ("window", "lookahead", "overlap", "tiles", "device_bytes", "host_bytes")

About = dict[str, dict[str, Any]]  # "source", "network" and "settings", each a table of plain values
# Of the states of tiles of (h, w) px: the shape of each array by name, for every tile
StateShapes = Callable[[tuple[int, int]], list[dict[str, tuple[int, ...]]]]


@dataclass(frozen=True)
class RunManifest:
    """What a run makes, and how."""

    about: About
    plan: Plan

    def differences(self, about: About) -> list[str]:
        """What is not as in `about`, see `changes`."""
        return changes(self.about, about)


@dataclass(frozen=True)
class SegmentRecord:
    """A segment that is complete."""

    first: int
    frames: int
    starts_scene: bool
    carries: bool  # the scene continues after it, from the state that it has left

    @property
    def after(self) -> int:
        """The first frame of the next segment."""
        return self.first + self.frames


@dataclass(frozen=True)
class SourceEnd:
    """What is known once the source has been read to its end."""

    frames: int
    end_pts: int | None  # when the last frame ends, on the source's clock
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A result that has the target's name already, and what it was made for."""

    about: About
    frames: int


class Workdir:
    """The work folder of a target; nothing is created before `locked`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        name = target.absolute().name
        if len(os.fsencode(name)) > _MAX_NAME_BYTES:
            name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        self.folder = target.absolute().parent / f".{name}.rvrt"

    # One command at a time

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other command works on this target, and the folder exists.

        Raises:
            MediaError: another one does, or the folder cannot be created.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(exist_ok=True)
                free = stack.enter_context(files.locked(self.folder / _LOCK))
            except OSError as error:
                raise MediaError(
                    f"{self.target}: cannot be written ({error.strerror}); choose another place"
                ) from error
            self._refuse_unless(free)
            yield

    def check_free(self) -> None:
        """Refuse at once what `locked` would refuse.

        Raises:
            MediaError: another command works on this target.
        """
        with contextlib.suppress(OSError), files.locked(self.folder / _LOCK, create=False) as free:
            self._refuse_unless(free)

    def _refuse_unless(self, free: bool) -> None:
        if not free:
            raise MediaError(f"{self.target}: another rvrt is working on it; wait for it, or choose another target")

    # What is being made

    def manifest(self) -> RunManifest | None:
        """What the folder holds, or None when there is none.

        Raises:
            MediaError: it cannot be read.
        """
        values = self._read(RUN_MANIFEST)
        if values is None:
            return None
        with self.checking(RUN_MANIFEST):
            about, plan = values["about"], values["plan"]
            if values["format"] != WORKDIR_FORMAT:
                raise ValueError("format")
            for part in ("source", "network", "settings"):
                if not isinstance(about[part], dict):
                    raise TypeError(part)
            height, width = _counts(plan["tile"], 2)
            numbers = _counts([plan[name] for name in _PLAN_COUNTS], len(_PLAN_COUNTS))
            return RunManifest(about, Plan(tile=(height, width), **dict(zip(_PLAN_COUNTS, numbers, strict=True))))

    def start(self, manifest: RunManifest) -> None:
        """Empty the folder, and note what is being made now. Only inside `locked`.

        Raises:
            MediaError: the folder cannot be written.
        """
        try:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    _remove(path)
        except OSError as error:
            raise MediaError(f"{self.folder}: cannot be emptied ({error.strerror}); remove it yourself") from error
        self._write(RUN_MANIFEST, {"format": WORKDIR_FORMAT, "about": manifest.about, "plan": asdict(manifest.plan)})

    def remove(self) -> None:
        """Remove the folder with everything in it. Only inside `locked`.

        The record that the target is complete (`published`) goes last but one, and the lock last: while it is there nobody
        else begins.
        """
        with contextlib.suppress(OSError):
            last = self.folder / _PUBLISH, self.folder / _LOCK
            for path in self.folder.iterdir():
                if path not in last:
                    _remove(path)
            for path in last:
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    # What is done

    def segments(self) -> list[SegmentRecord]:
        """The complete segments, in order.

        Raises:
            MediaError: a record cannot be read.
        """
        found: list[SegmentRecord] = []
        for path in sorted(self.folder.glob("*.json")):
            if not path.stem.isdecimal():
                continue
            values = self._read(path.name)
            if values is None:
                continue
            with self.checking(path.name):
                first, frames = _counts([values["first"], values["frames"]], 2)
                flags = values["starts_scene"], values["carries"]
                if path.stem != f"{first:08d}" or frames < 1 or not all(isinstance(flag, bool) for flag in flags):
                    raise ValueError("record")
                if found and found[-1].after > first:
                    raise ValueError("segments that overlap")
                found.append(SegmentRecord(first, frames, *flags))
        return found

    def record(self, segment: Segment) -> None:
        """Note that a segment is complete, and keep the state that the next one continues from."""
        carried = segment.carried
        record = SegmentRecord(segment.first, segment.frames, segment.starts_scene, carries=carried is not None)
        if carried is not None:
            self._write_file(_states_name(record.after), lambda file: _write_states(file, carried))
        self._write(f"{record.first:08d}.json", asdict(record))
        with contextlib.suppress(OSError):
            (self.folder / _states_name(record.first)).unlink()  # nobody continues from there any more

    def carried(self, first: int, shapes: StateShapes) -> Carried:
        """The state that the segment beginning with frame `first` continues from.

        Raises:
            MediaError: it is missing, damaged, or does not have the arrays of these `shapes`.
        """
        name = _states_name(first)
        with self.checking(name):
            return _read_states(self.folder / name, shapes)

    def record_end(self, end: SourceEnd) -> None:
        """Note that the source has been read to its end."""
        self._write(_END, asdict(end))

    def source_end(self) -> SourceEnd | None:
        """What `record_end` noted, or None.

        Raises:
            MediaError: it cannot be read.
        """
        values = self._read(_END)
        if values is None:
            return None
        with self.checking(_END):
            end_pts = values["end_pts"]
            if end_pts is not None and (type(end_pts) is not int or abs(end_pts) >= 1 << 62):
                raise ValueError("end_pts")
            [frames] = _counts([values["frames"]], 1)
            return SourceEnd(frames, end_pts, tuple(str(line) for line in list(values["warnings"])))

    def complete(self) -> list[SegmentRecord] | None:
        """All segments of the source when every one of them is there, else None."""
        end = self.source_end()
        if end is None:
            return None
        next_first, segments = 0, self.segments()
        for segment in segments:
            if segment.first != next_first:
                return None
            next_first = segment.after
        return segments if next_first == end.frames else None

    # The last step

    def record_publishing(self, result: Path, about: About, frames: int) -> None:
        """Note that `result`, made for `about`, is complete and gets the target's name next."""
        self._write(_PUBLISH, {"result": result.name, "about": about, "frames": frames})

    def published(self) -> Published | None:
        """What the target holds, when its run was killed after it had its name and before the folder was removed."""
        with contextlib.suppress(MediaError), self.checking(_PUBLISH):
            values = self._read(_PUBLISH)
            if values is not None and self.target.exists():
                result = self.folder / Path(values["result"]).name
                if not result.exists() or (result.is_file() and result.samefile(self.target)):
                    return Published(values["about"], _counts([values["frames"]], 1)[0])
        return None

    # Files

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        with self.checking(name):
            try:
                with path.open("rb") as file:
                    data = file.read(_MAX_JSON_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
            values = json.loads(data.decode("utf-8")) if len(data) <= _MAX_JSON_BYTES else None
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
            return values

    def _write(self, name: str, values: dict[str, Any]) -> None:
        self._write_file(name, json.dumps(values, indent=1).encode())

    def _write_file(self, name: str, data: bytes | Callable[[BinaryIO], object]) -> None:
        files.write_atomically(
            self.folder / name,
            data,
            remedy="fix that, and run the same command again",
            error=MediaError,
            shared=True,  # several ranks may write the same file at the same time
            make_folders=False,  # a folder that somebody has removed meanwhile stays removed
        )

    @contextlib.contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Inside, the file of this name is read and validated.

        Raises:
            MediaError: it is missing, damaged, or not what it should be.
        """
        try:
            yield
        except _DAMAGE as error:
            raise MediaError(f"{self.folder / name}: missing or damaged; --overwrite restarts the job") from error


def changes(before: About, after: About) -> list[str]:
    """What differs: "the source", "the network", or the name of a setting."""
    changed = [f"the {part}" for part in ("source", "network") if before[part] != after[part]]
    old, new = before["settings"], after["settings"]
    return changed + sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


_DAMAGE = (
    *(MediaError, OSError, ValueError, TypeError, LookupError, OverflowError, RuntimeError, EOFError, struct.error),
    zipfile.BadZipFile,
)


def _counts(values: Any, number: int) -> list[int]:
    """`values`, checked to be `number` whole numbers from 0 on."""
    if not isinstance(values, list) or len(values) != number:
        raise TypeError("numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 48:
            raise ValueError("number")
    return values


def _states_name(first: int) -> str:
    return f"{first:08d}.zip"


def _write_states(file: BinaryIO, carried: Carried) -> None:
    """A zip file, for its checksums: "tile" as JSON, and the numbers of the arrays of every tile's state, "0/NAME"."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tile", json.dumps(carried.tile))
        for number, state in enumerate(carried.states):
            for name, array in state.items():
                with archive.open(f"{number}/{name}", "w", force_zip64=True) as entry:
                    entry.write(np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data)


def _read_states(path: Path, shapes: StateShapes) -> Carried:
    """What `_write_states` wrote, and not one byte of anything else."""
    with zipfile.ZipFile(path) as archive:
        height, width = _counts(json.loads(_stored(archive, "tile", 64)), 2)
        states = [
            {
                name: np.frombuffer(_stored(archive, f"{number}/{name}", 4 * math.prod(shape)), "<f4").reshape(shape)
                for name, shape in arrays.items()
            }
            for number, arrays in enumerate(shapes((height, width)))
        ]
    return Carried((height, width), states)


def _stored(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
        raise ValueError(name)
    return archive.read(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
