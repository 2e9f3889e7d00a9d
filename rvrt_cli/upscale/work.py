"""The folder beside the target where a run keeps what is done; it is gone when the target is complete.

    .TARGET.rvrt/
        lock            held while a command works on this target
        manifest.json   what is being made: source, network, settings; and the plan they were given
        00000096.mp4    the frames of a segment from this one on, encoded; for a folder target frames/000097.png ...
        00000096.json   the segment is complete (`Segment`)
        00000192.npz    what the network carries into the segment that begins there
        end.json        the source has been read to its end: how many frames it has, and what came up
        claims/         of several ranks: which scenes are taken, who is done
        publish.json    the result is complete and about to get the target's name (`Published`)

A file gets its name when it is complete, and a segment counts from its record on, which is written last: the run may be
killed at any moment. Everything read here is checked, since anybody may have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from rvrt_cli.engine import Carried, Plan
from rvrt_cli.errors import MediaError

FORMAT = 1
_LOCK, _MANIFEST, _END, _PUBLISH = "lock", "manifest.json", "end.json", "publish.json"
_LONGEST_NAME = 180  # bytes; file systems allow 255
_LARGEST = 1 << 20  # bytes of a JSON file; real ones have some hundreds


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
        values = self._read(_MANIFEST)
        if values is None:
            return None
        with self._checking(_MANIFEST):
            about, plan = values["about"], values["plan"]
            if values["format"] != FORMAT:
                raise ValueError("format")
            for part in ("source", "network", "settings"):
                if not isinstance(about[part], dict):
                    raise TypeError(part)
            tile = _counts(plan["tile"], 2)
            sizes = _counts([plan[name] for name in ("window", "lookahead", "overlap", "tiles", "device_bytes",
                                                     "host_bytes")], 6)  # fmt: skip
            if min(tile) < 1:
                raise ValueError("tile")
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
        self._write(_MANIFEST, {"format": FORMAT, "about": manifest.about, "plan": asdict(manifest.plan)})

    def remove(self) -> None:
        """The folder goes, with everything in it; last what says that the target is complete (`published`)."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name != _PUBLISH:
                    _remove(path)
            shutil.rmtree(self.folder)

    # What is done

    def segments(self) -> list[Segment]:
        """The complete segments, in order.

        Raises:
            MediaError: a record cannot be read.
        """
        found = []
        for path in sorted(self.folder.glob("*.json")):
            if not path.stem.isdecimal():
                continue
            values = self._read(path.name)
            if values is None:
                continue
            with self._checking(path.name):
                first, frames = _counts([values["first"], values["frames"]], 2)
                if path.stem != f"{first:08d}" or frames < 1 or not isinstance(values["starts_scene"], bool):
                    raise ValueError("record")
                found.append(Segment(first, frames, values["starts_scene"]))
        return found

    def add(self, segment: Segment, carried: Carried | None) -> None:
        """Note that a segment is complete, and what the next one goes on with."""
        after = segment.first + segment.frames
        if carried is not None:
            with self._writing(f"{after:08d}.npz") as part:
                _write_states(part, carried)
        self._write(f"{segment.first:08d}.json", asdict(segment))
        (self.folder / f"{segment.first:08d}.npz").unlink(missing_ok=True)  # nobody goes on from there any more

    def carried(self, first: int) -> Carried:
        """What the network carries into the segment that begins with frame `first`.

        Raises:
            MediaError: it is not there, or damaged.
        """
        name = f"{first:08d}.npz"
        with self._checking(name), np.load(self.folder / name, allow_pickle=False) as file:
            tile = _counts(file["tile"].tolist(), 2)
            states: list[dict[str, np.ndarray]] = []
            for key in file.files:
                if key == "tile":
                    continue
                number, _, entry = key.partition("/")
                if int(number) == len(states):
                    states.append({})
                states[int(number)][entry] = file[key]
                if file[key].ndim < 4 or file[key].shape[2:4] != tuple(tile):
                    raise ValueError(key)
            return Carried((tile[0], tile[1]), states)

    def end(self, frames: int, until: int | None, notes: list[str]) -> None:
        """Note that the source has been read to its end; `until`: when its last frame gives way, as a `pts`."""
        self._write(_END, {"frames": frames, "until": until, "notes": notes})

    def ended(self) -> tuple[int, int | None, list[str]] | None:
        """(frames, until, notes) as `end` wrote them, or None.

        Raises:
            MediaError: it cannot be read.
        """
        values = self._read(_END)
        if values is None:
            return None
        with self._checking(_END):
            until = values["until"]
            if until is not None and (type(until) is not int or abs(until) >= 1 << 62):
                raise ValueError("until")
            return _counts([values["frames"]], 1)[0], until, [str(note) for note in list(values["notes"])]

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
        with contextlib.suppress(MediaError), self._checking(_PUBLISH):
            values = self._read(_PUBLISH)
            if values is not None and self.target.exists():
                result = self.folder / Path(values["result"]).name
                if not result.exists() or (result.is_file() and result.samefile(self.target)):
                    return Published(values["about"], _counts([values["frames"]], 1)[0])
        return None

    # Files

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        with self._checking(name):
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
        part = self.folder / f"{name}.part"
        try:
            yield part
            part.replace(self.folder / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise MediaError(
                f"{self.folder}: cannot be written ({error.strerror}); mend that, and run the same command again"
            ) from error

    @contextlib.contextmanager
    def _checking(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, EOFError, SyntaxError,
                TokenError, zipfile.BadZipFile) as error:  # fmt: skip
            raise MediaError(f"{self.folder / name}: missing or damaged; --overwrite starts afresh") from error


def _counts(values: Any, number: int) -> list[int]:
    """`values` when they are so many whole numbers from 0 on."""
    if not isinstance(values, list) or len(values) != number:
        raise TypeError("numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 48:
            raise ValueError("number")
    return values


def _write_states(path: Path, carried: Carried) -> None:
    """What `numpy.load` reads; NumPy's own `savez` complains by itself when the disk is full."""
    arrays = {f"{i}/{name}": array for i, state in enumerate(carried.states) for name, array in state.items()}
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in {"tile": np.array(carried.tile), **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
