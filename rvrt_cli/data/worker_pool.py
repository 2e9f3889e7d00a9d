"""Worker processes that share the cores fairly: one thread of linear algebra in each."""

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

Job = TypeVar("Job")
Result = TypeVar("Result")

# Spawned, not forked: a fork of a process with running threads (MindSpore's, OpenBLAS's) can lock up.
CONTEXT = get_context("spawn")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started inside run NumPy on one thread; this process keeps what it has."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def ignore_interrupt() -> None:
    """In a worker: Ctrl-C is for the process that started it to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """`function` of every job, in the order in which they finish; in this process if `workers` is 1 or less.

    Raises:
        RvrtError: a worker has died.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=CONTEXT, initializer=ignore_interrupt) as pool:
        try:
            with one_thread_each():  # the pool starts its processes as jobs are handed in
                futures = [pool.submit(function, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RvrtError(
                "a process that does this work has died; is there enough memory? Run it again with fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
