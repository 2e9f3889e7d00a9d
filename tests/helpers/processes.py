# SPDX-License-Identifier: Apache-2.0
"""Child processes as Linux's /proc shows them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")


def children(pid: int | str = "self") -> list[int]:
    """Child processes of a process, this one by default; zombies, which nobody else waits for, count."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended meanwhile
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs, zombies excluded."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
