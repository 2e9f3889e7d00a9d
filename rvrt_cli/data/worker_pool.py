# SPDX-License-Identifier: Apache-2.0
"""Worker processes that do not oversubscribe the cores: one thread of linear algebra in each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from rvrt_cli.errors import RvrtError

Task = TypeVar("Task")
TaskResult = TypeVar("TaskResult")

# Spawned, not forked: a fork of a process with running threads (MindSpore's, OpenBLAS's) can deadlock.
SPAWN_CONTEXT = get_context("spawn")
BLAS_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """Processes started inside run NumPy on one thread; this process keeps its own setting."""
    before = {name: os.environ.get(name) for name in BLAS_THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(BLAS_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ignore_interrupt() -> None:
    """Ignore Ctrl-C in a worker: the process that started it handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def map_unordered(function: Callable[[Task], TaskResult], tasks: Iterable[Task], workers: int) -> Iterator[TaskResult]:
    """`function` of every task, in order of completion; computed in this process if `workers` is 1 or less.

    Raises:
        RvrtError: a worker died.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=SPAWN_CONTEXT, initializer=ignore_interrupt) as pool:
        try:
            with single_threaded_children():  # the pool starts its processes as tasks are submitted
                futures = [pool.submit(function, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RvrtError(
                "a worker process died; is there enough memory? Run it again with fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
