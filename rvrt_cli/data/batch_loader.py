# SPDX-License-Identifier: Apache-2.0
"""Batches prefetched by worker processes, in order, for the training loop."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

from rvrt_cli.data.batch_spec import BatchSpec
from rvrt_cli.data.batches import Batch, check_spec, make_batch, open_store
from rvrt_cli.data.worker_pool import SPAWN_CONTEXT, ignore_interrupt, single_threaded_children
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.frame import to_float

_QUEUE_TIMEOUT = 0.2  # s between checks whether the loader is being closed


class BatchLoader:
    """Endless batches (low, high) of step `first_step`, `first_step` + 1, …, prefetched by worker processes.

    low is float32 (N, T, h, w, 3), high (N, T, H, W, 3), in [0, 1]. `step` is the step of the next batch; a loader
    started there continues exactly. The batches do not depend on `workers`; those of all ranks together are those of a
    single rank. Close it, or use it in a `with` statement. Workers end with this process, however that ends.

    Args:
        folder: training clips or Vimeo-90K.
        workers: worker processes; 0 makes each batch in this process when it is requested.
        prefetch: most batches kept ready.
        rank, ranks: this process's share of each batch, `spec.batch` / `ranks` samples.

    Raises:
        OptionError: the data or the spec cannot be used; raised here, before the first batch.
    """

    def __init__(
        self,
        folder: Path,
        spec: BatchSpec,
        first_step: int = 0,
        workers: int = 1,
        prefetch: int = 4,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if spec.batch % ranks:
            raise OptionError(f"batch {spec.batch}: give a multiple of the {ranks} ranks")
        self._store, self._spec = open_store(folder), spec
        check_spec(self._store, spec)
        share = spec.batch // ranks
        self._samples = range(rank * share, (rank + 1) * share)
        self.step = first_step
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._ready: Queue[Batch | RvrtError] = Queue(max(prefetch, 1))
        self._closing = Event()
        if workers > 0:
            with single_threaded_children():
                self._workers = [_start_worker(folder, spec, self._samples) for _ in range(workers)]
            self._filler = Thread(target=self._fill, args=(first_step,), daemon=True)
            self._filler.start()
            atexit.register(self.close)  # before multiprocessing would end the workers by SIGTERM, which they ignore

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closing.is_set():
            raise ValueError("the loader is closed")
        if self._workers:
            item = self._ready.get()
            if isinstance(item, RvrtError):
                self.close()
                raise item
            low, high = item
        else:
            low, high = map(to_float, make_batch(self._store, self._spec, self.step, self._samples))
        self.step += 1
        return low, high

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; may be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        if self._workers:
            self._filler.join()
        for _, pipe in self._workers:
            pipe.close()  # the worker reads the end of its requests, and returns
        for process, _ in self._workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _fill(self, step: int) -> None:
        """Collect the batches in order; each worker has two steps requested, so that it never idles between them."""
        count = len(self._workers)
        try:
            for ahead in range(2 * count):
                self._workers[(step + ahead) % count][1].send(step + ahead)
            while not self._closing.is_set():
                pipe = self._workers[step % count][1]
                if not pipe.poll(_QUEUE_TIMEOUT):
                    continue
                item = pipe.recv()
                if isinstance(item, RvrtError):
                    self._put(item)
                    return
                pipe.send(step + 2 * count)
                self._put((to_float(item[0]), to_float(item[1])))
                step += 1
        except (EOFError, OSError):
            self._put(
                RvrtError(
                    "a worker process that makes training batches died; is there enough memory? Restart with --resume"
                )
            )

    def _put(self, item: Batch | RvrtError) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=_QUEUE_TIMEOUT)
                return
            except Full:
                continue


def _start_worker(folder: Path, spec: BatchSpec, samples: range) -> tuple[SpawnProcess, Connection]:
    ours, theirs = SPAWN_CONTEXT.Pipe()
    process = SPAWN_CONTEXT.Process(target=_serve, args=(theirs, folder, spec, samples), daemon=True, name="batches")
    process.start()
    theirs.close()  # or the worker's end would go unnoticed
    return process, ours


def _serve(requests: Connection, folder: Path, spec: BatchSpec, samples: range) -> None:
    """Run a worker: receive step numbers, send uint8 batches, until the pipe's other side is closed."""
    ignore_interrupt()
    # `timeout` and batch systems send it to all processes of a job: the one that trains writes a checkpoint and ends this
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        store = open_store(folder)
        while True:
            step = requests.recv()
            try:
                answer: Batch | RvrtError = make_batch(store, spec, step, samples)
            except RvrtError as error:
                answer = error
            requests.send(answer)
    except (EOFError, OSError):
        return
