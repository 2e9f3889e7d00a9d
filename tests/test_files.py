# SPDX-License-Identifier: Apache-2.0
"""Files are there whole or not at all; one command works in a folder at a time."""

import multiprocessing
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.files import locked, write_atomically


@contextmanager
def full_disk(size: int = 4096) -> Iterator[None]:
    """No file may become larger than `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_written_whole(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_atomically(path, b"one", shared=shared)
    (tmp_path / "deep" / "a.bin.part").write_bytes(b"left by a killed command")
    write_atomically(path, lambda file: np.save(file, np.arange(3)))
    assert np.array_equal(np.load(path), [0, 1, 2])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * 10_000, "File too large"),
        (lambda file: np.save(file, np.zeros(10_000)), "written"),  # NumPy's error has a text and no number
    ],
)
def test_a_full_disk_leaves_the_old_file_and_the_reason(
    tmp_path: Path, data: object, reason: str, shared: bool
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with full_disk(), pytest.raises(MediaError, match=rf"a\.bin: cannot be written \(.*{reason}.*\); buy a disk"):
        write_atomically(path, data, "buy a disk", MediaError, shared)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.bin", fail)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RvrtError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "a.bin", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def hold(path: Path, ready: object, done: object) -> None:
    with locked(path) as free:
        ready.put(free)  # type: ignore[attr-defined]
        done.get()  # type: ignore[attr-defined]


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Queue(), context.Queue()
    other = context.Process(target=hold, args=(tmp_path / "lock", ready, done))
    other.start()
    assert ready.get(timeout=60)
    with locked(tmp_path / "lock") as free:
        assert not free
    other.kill()
    other.join()
    with locked(tmp_path / "lock") as free:
        assert free
