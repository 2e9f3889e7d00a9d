"""The folder beside the target where a run keeps what is done; it is gone when the target is complete.

    .TARGET.rvrt/
        lock            held while a command works on this target
        manifest.json   what is being made: source, network, settings; and the plan they were given
        00000096.mp4    the frames of a segment from this one on, encoded; for a folder target frames/000097.png ...
        00000096.json   the segment is complete (`Segment`)
        00000192.zip    what the network carries into the segment that begins there
        end.json        the source has been read to its end: how many frames it has, and what was wrong
        claims/         of several ranks: which scenes are taken, who is done
        publish.json    the result is complete and about to get the target's name (`Published`)

A file gets its name when it is complete, and a segment counts from its record on, which is written last: the run may be
killed at any moment. Everything read here is checked, since anybody may have written it: what the network carries is
bare numbers, whose shapes the network says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rvrt_cli.engine import Carried, Plan
from rvrt_cli.errors import MediaError

FORMAT = 2
MANIFEST, _LOCK, _END, _PUBLISH = "manifest.json", "lock", "end.json", "publish.json"
_LONGEST_NAME = 180  # bytes; file systems allow 255
_LARGEST = 1 << 20  # bytes of a JSON file; real ones have some hundreds

# Of the states of tiles of (h, w) px: a name and a shape per array, for every tile
Shapes = Callable[[tuple[int, int]], list[dict[str, tuple[int, ...]]]]


@dataclass(frozen=True)
class Manifest:
    """What a run makes. `about` has "source", "network" and "settings", each a dictionary of plain values."""

    about: dict[str, dict[str, Any]]
    plan: Plan

    def differences(self, about: dict[str, dict[str, Any]]) -> list[str]:
        """What is not as in `about`: "the source", "the network", or the name of a setting."""
        changed = [f"the {part}" for part in ("source", "network") if self.about[part] != about[part]]
        old, new = self.about["settings"], about["settings"]
        return changed + sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


@dataclass(frozen=True)
class Segment:
    """A segment that is complete."""

    first: int
    frames: int
    starts_scene: bool
    carries: bool  # the scene goes on after it, with what it has left

    @property
    def after(self) -> int:
        """The first frame of the next segment."""
        return self.first + self.frames


@dataclass(frozen=True)
class Published:
    """A result that has the target's name already, and what it was made for."""

    about: dict[str, dict[str, Any]]
    frames: int


class Work:
    """The work folder of a target; nothing is made before `locked`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        name = target.absolute().name
        if len(os.fsencode(name)) > _LONGEST_NAME:
            name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        self.folder = target.absolute().parent / f".{name}.rvrt"

    # One command at a time

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other command works on this target; the folder exists.

        Raises:
            MediaError: another one does, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MediaError(f"{self.target}: cannot be written ({error.strerror}); choose another place") from error
        try:
            self._take(lock)
            yield
        finally:
            os.close(lock)

    def _take(self, lock: int) -> None:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(lock), os.stat(self.folder / _LOCK))
        except ImportError:  # no such locks on this system
            return
        except OSError:
            same = False
        if not same:  # it is held, or its holder has just finished and removed the folder
            raise MediaError(f"{self.target}: another rvrt is working on it; wait for it, or choose another target")

    def check_free(self) -> None:
        """Refuse at once what `locked` would refuse.

        Raises:
            MediaError: another command works on this target.
        """
        with contextlib.suppress(OSError):
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._take(lock)
            finally:
                os.close(lock)

    # What is being made

    def manifest(self) -> Manifest | None:
        """What the folder holds, or None when there is none.

        Raises:
            MediaError: it cannot be read.
        """
        values = self._read(MANIFEST)
        if values is None:
            return None
        with self.checking(MANIFEST):
            about, plan = values["about"], values["plan"]
            if values["format"] != FORMAT:
                raise ValueError("format")
            for part in ("source", "network", "settings"):
                if not isinstance(about[part], dict):
                    raise TypeError(part)
            tile = _counts(plan["tile"], 2)
            sizes = _counts([plan[name] for name in ("window", "lookahead", "overlap", "tiles", "device_bytes",
                                                     "host_bytes")], 6)  # fmt: skip
            return Manifest(about, Plan(sizes[0], sizes[1], (tile[0], tile[1]), *sizes[2:]))

    def start(self, manifest: Manifest) -> None:
        """Forget what the folder holds, and note what is being made now. Only inside `locked`.

        Raises:
            MediaError: the folder cannot be written.
        """
        try:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    _remove(path)
        except OSError as error:
            raise MediaError(f"{self.folder}: cannot be emptied ({error.strerror}); remove it yourself") from error
        self._write(MANIFEST, {"format": FORMAT, "about": manifest.about, "plan": asdict(manifest.plan)})

    def remove(self) -> None:
        """The folder goes, with everything in it. Only inside `locked`.

        Last what says that the target is complete (`published`), and the lock: while it is there nobody else begins.
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

    def segments(self) -> list[Segment]:
        """The complete segments, in order.

        Raises:
            MediaError: a record cannot be read.
        """
        found: list[Segment] = []
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
                found.append(Segment(first, frames, *flags))
        return found

    def add(self, segment: Segment, carried: Carried | None) -> None:
        """Note that a segment is complete, and what the next one goes on with."""
        if carried is not None:
            with self._writing(_states(segment.after)) as part:
                _write_states(part, carried)
        self._write(f"{segment.first:08d}.json", asdict(segment))
        with contextlib.suppress(OSError):
            (self.folder / _states(segment.first)).unlink()  # nobody goes on from there any more

    def carried(self, first: int, shapes: Shapes) -> Carried:
        """What the network carries into the segment that begins with frame `first`.

        Raises:
            MediaError: it is not there, is damaged, or has not the arrays of these `shapes`.
        """
        name = _states(first)
        with self.checking(name):
            return _read_states(self.folder / name, shapes)

    def end(self, frames: int, until: int | None, warnings: list[str]) -> None:
        """Note that the source has been read to its end; `until`: when its last frame gives way, as a `pts`; what was wrong."""
        self._write(_END, {"frames": frames, "until": until, "warnings": warnings})

    def ended(self) -> tuple[int, int | None, list[str]] | None:
        """(frames, until, warnings) as `end` wrote them, or None.

        Raises:
            MediaError: it cannot be read.
        """
        values = self._read(_END)
        if values is None:
            return None
        with self.checking(_END):
            until = values["until"]
            if until is not None and (type(until) is not int or abs(until) >= 1 << 62):
                raise ValueError("until")
            return _counts([values["frames"]], 1)[0], until, [str(line) for line in list(values["warnings"])]

    def complete(self) -> list[Segment] | None:
        """All segments of the source when every one of them is there, else None."""
        ended = self.ended()
        if ended is None:
            return None
        at, segments = 0, self.segments()
        for segment in segments:
            if segment.first != at:
                return None
            at += segment.frames
        return segments if at == ended[0] else None

    # The last step

    def publishing(self, result: Path, about: dict[str, dict[str, Any]], frames: int) -> None:
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
                    data = file.read(_LARGEST + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
            values = json.loads(data[: _LARGEST + 1].decode("utf-8")) if len(data) <= _LARGEST else None
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
            return values

    def _write(self, name: str, values: dict[str, Any]) -> None:
        with self._writing(name) as part, part.open("wb") as file:
            file.write(json.dumps(values, indent=1).encode())
            _sync(file)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """A path to write to; afterwards the file has its name, and never before it is complete."""
        part = self.folder / f"{name}.{secrets.token_hex(6)}.part"  # several ranks may write the same at one time
        try:
            yield part
            part.replace(self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise MediaError(
                f"{self.folder}: cannot be written ({error.strerror}); mend that, and run the same command again"
            ) from error

    @contextlib.contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Inside, the file of this name is read, or is found not to be what it should.

        Raises:
            MediaError: it is so.
        """
        try:
            yield
        except (MediaError, OSError, ValueError, TypeError, LookupError, OverflowError, RuntimeError, EOFError,
                struct.error, zipfile.BadZipFile) as error:  # fmt: skip
            raise MediaError(f"{self.folder / name}: missing or damaged; --overwrite starts afresh") from error


def _counts(values: Any, number: int) -> list[int]:
    """`values` when they are so many whole numbers from 0 on."""
    if not isinstance(values, list) or len(values) != number:
        raise TypeError("numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 48:
            raise ValueError("number")
    return values


def _states(first: int) -> str:
    return f"{first:08d}.zip"


def _write_states(path: Path, carried: Carried) -> None:
    """A zip file for its checksums: "tile" as JSON, and of every tile's state the arrays' numbers, "0/NAME"."""
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("tile", json.dumps(carried.tile))
            for number, state in enumerate(carried.states):
                for name, array in state.items():
                    with archive.open(f"{number}/{name}", "w", force_zip64=True) as entry:
                        entry.write(np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data)
        _sync(file)


def _read_states(path: Path, shapes: Shapes) -> Carried:
    """What `_write_states` wrote, and no byte more of anything else."""
    with zipfile.ZipFile(path) as archive:

        def stored(name: str, most: int) -> bytes:
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
                raise ValueError(name)
            return archive.read(entry)

        def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
            return np.frombuffer(stored(name, 4 * math.prod(shape)), "<f4").reshape(shape)

        tile = _counts(json.loads(stored("tile", 64)), 2)
        states = [
            {name: numbers(f"{number}/{name}", shape) for name, shape in arrays.items()}
            for number, arrays in enumerate(shapes((tile[0], tile[1])))
        ]
    return Carried((tile[0], tile[1]), states)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
