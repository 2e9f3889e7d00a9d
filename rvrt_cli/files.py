# SPDX-License-Identifier: Apache-2.0
"""Files that exist completely or not at all, and folders in which one command works at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rvrt_cli.errors import RvrtError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # noqa: F401  for those who import it from here


def write_atomically(
    path: Path,
    data: bytes | Callable[[BinaryIO], object],
    remedy: str = "choose another place",
    error: type[RvrtError] = RvrtError,
    shared: bool = False,
    sync: bool = True,
    make_folders: bool = True,
) -> None:
    """Write `data`, or what it writes into the file it is given, to `path`: all of it or nothing, whatever happens.

    Args:
        remedy: what to do where it cannot be written, for the message.
        error: the exception that is raised then.
        shared: several processes may write this file at the same time. Otherwise the remains of a killed one are
            overwritten.
        sync: wait until it is on the disk; without, a power cut may leave it empty.
        make_folders: create missing folders.

    Raises:
        RvrtError: it cannot be written; `error`.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part" if shared else f"{path.name}.part")
    try:
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(problem, OSError):
            # NumPy's own have no `strerror`
            raise error(f"{path}: cannot be written ({problem.strerror or problem}); {remedy}") from problem
        raise


@contextlib.contextmanager
def locked(path: Path, *, create: bool = True) -> Iterator[bool]:
    """Whether this process alone holds the lock file `path` while inside; the file stays.

    Also False where another process has just removed the file. True where the system or the file system has no locks.

    Args:
        create: make the file where it is missing.

    Raises:
        OSError: the file cannot be made, or is missing and `create` is off.
    """
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
    try:
        yield _take(lock) and _is_file_at(path, lock)
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _is_file_at(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def cache_folder() -> Path:
    """The folder of what can be downloaded or made again, such as weights; it may not exist yet.

    $RVRT_CACHE, or "rvrt" in the user's cache folder.
    """
    if os.environ.get("RVRT_CACHE"):
        return Path(os.environ["RVRT_CACHE"]).expanduser()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "rvrt" / "cache"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "rvrt"  # XDG: relative paths are ignored


def config_folder() -> Path:
    """The folder of the user's settings; it may not exist.

    "rvrt" in $XDG_CONFIG_HOME, or where the system keeps such folders.
    """
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if given.is_absolute():
        return given / "rvrt"
    if sys.platform == "win32" and os.environ.get("APPDATA"):
        return Path(os.environ["APPDATA"]) / "rvrt"
    return Path.home() / ("Library/Application Support" if sys.platform == "darwin" else ".config") / "rvrt"
