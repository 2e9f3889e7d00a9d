"""Files that are there whole or not at all, and folders in which one command works at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rvrt_cli.errors import RvrtError


def write_atomically(
    path: Path,
    data: bytes | Callable[[BinaryIO], object],
    remedy: str = "choose another place",
    error: type[RvrtError] = RvrtError,
    shared: bool = False,
    sync: bool = True,
) -> None:
    """Put `data`, or what it writes into the file it is given, at `path`: all of it or nothing, whatever happens.

    Folders that are missing are made.

    Args:
        remedy: what to do where it cannot be written, for the message.
        error: what is raised then.
        shared: several commands may write this file at one time. Else what a killed one left is written over.
        sync: wait until it is on the disk; without, a power cut may leave it empty.

    Raises:
        RvrtError: it cannot be written; `error`.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part" if shared else f"{path.name}.part")
    try:
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
def locked(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock `path` while inside; the file stays. True where there are no such locks.

    Raises:
        OSError: the file cannot be made.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except ImportError:
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            free = True
        yield free
    finally:
        os.close(lock)
