"""Training batches: NumPy only, made in worker processes, the same on every machine and after every restart.

Sample j of step k is a pure function of (seed, k, j) and of the data: the state of a run is its step counter.

N samples, T frames, H×W px high resolution, h×w = H/4 × W/4. A sample is uint8 (T, H, W, 3) until the network's layout,
float32 (N, T, H, W, 3) in [0, 1], is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread

import numpy as np

from rvrt_cli.data.clip_store import LAYOUT, MANIFEST, ClipStore, worth_keeping
from rvrt_cli.data.degradation import DEGRADATIONS, degrade
from rvrt_cli.data.resize import SCALE
from rvrt_cli.data.vimeo import FOLDERS, VIMEO_LAYOUT, VimeoStore, is_vimeo
from rvrt_cli.data.worker_pool import CONTEXT, ignore_interrupt, one_thread_each
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.frame import to_float

Batch = tuple[np.ndarray, np.ndarray]  # low resolution, high resolution

_MARGIN = 16  # HR px around the crop that are degraded with it, so that its border sees its surroundings
_DRAWS = 4  # of a clip and a crop, until one has detail
_PATIENCE = 0.2  # s between looks at whether the other side still lives


@dataclass(frozen=True)
class BatchSpec:
    """What a training batch is.

    Raises:
        OptionError: a value cannot be used.
    """

    batch: int = 4  # samples over all ranks
    frames: int = 6
    crop: int = 128  # HR px
    degradation: str = "bi"
    seed: int = 0
    still: float = 0.0  # share of the samples in which nothing moves

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 1:
            raise OptionError(f"batch {self.batch}, frames {self.frames}: give 1 or more of each")
        if self.crop < 32 or self.crop % SCALE:
            raise OptionError(f"crop {self.crop}: give a multiple of 4 px, 32 or more")
        if not 0 <= self.still <= 1:
            raise OptionError(f"still {self.still}: give a share from 0 to 1")
        if self.degradation not in DEGRADATIONS:
            raise OptionError(f"degradation {self.degradation!r}: choose one of {', '.join(DEGRADATIONS)}")


def open_store(folder: Path) -> ClipStore | VimeoStore:
    """The training data in `folder`, whichever layout it has.

    Raises:
        OptionError: it has neither; the message says what was expected.
    """
    if (folder / MANIFEST).exists():
        return ClipStore(folder)
    if is_vimeo(folder):
        return VimeoStore(folder)
    raise OptionError(f"{folder}: no training data here; {LAYOUT}, or {VIMEO_LAYOUT}")


def check_spec(store: ClipStore | VimeoStore, spec: BatchSpec) -> None:
    """Refuse a spec that the data cannot serve.

    Raises:
        OptionError: too many frames, too large a crop, or low resolution that has not been made.
    """
    height, width = (store.size, store.size) if isinstance(store, ClipStore) else store.size
    if spec.frames > store.frames:
        raise OptionError(f"frames {spec.frames}: the clips have {store.frames}; choose fewer, or make longer clips")
    if spec.crop > min(height, width):
        raise OptionError(f"crop {spec.crop}: the clips are {height}×{width} px; choose a smaller one")
    if isinstance(store, VimeoStore):
        store.check_degradation(spec.degradation)


def make_sample(store: ClipStore | VimeoStore, spec: BatchSpec, step: int, index: int) -> Batch:
    """Sample `index` of step `step`: (T, h, w, 3) and (T, H, W, 3), uint8.

    A random clip, window of frames and crop; flipped, transposed and reversed in time at random, and then degraded, so
    that compression artifacts lie as a codec leaves them. In the share `spec.still` of the samples each frame is the
    middle one before it is degraded: there other frames have seen nothing new, as in footage of what does not move.
    """
    rng = np.random.default_rng((spec.seed, step, index))
    if isinstance(store, VimeoStore) and spec.degradation in FOLDERS:
        low, high = store.sample(rng, spec.frames, spec.crop, spec.degradation)
        turns = rng.integers(2, size=4).astype(bool)
        low, high = _turned(low, turns), _turned(high, turns)
        return (_stopped(low), _stopped(high)) if _is_still(spec, rng) else (low, high)
    region = _turned(_random_region(store, spec, rng), rng.integers(2, size=4).astype(bool))
    if _is_still(spec, rng):
        region = _stopped(region)
    low = degrade(region, spec.degradation, rng)
    return _middle(low, spec.crop // SCALE), _middle(region, spec.crop)


def _random_region(store: ClipStore | VimeoStore, spec: BatchSpec, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, H, W, 3) of a random crop with detail, and a margin that is the same on opposite sides."""
    for _ in range(_DRAWS):
        clip = store[int(rng.integers(len(store)))]
        first = int(rng.integers(len(clip) - spec.frames, endpoint=True))
        top, left = (int(rng.integers(side - spec.crop, endpoint=True)) for side in clip.shape[1:3])
        middle = clip[first + spec.frames // 2, top : top + spec.crop, left : left + spec.crop]
        if worth_keeping(middle, rng):
            break
    rows, columns = (
        _with_margin(start, spec.crop, side) for start, side in zip((top, left), clip.shape[1:3], strict=True)
    )
    return clip[first : first + spec.frames, rows, columns]


def _with_margin(start: int, size: int, side: int) -> slice:
    margin = min(_MARGIN, start, side - start - size) // SCALE * SCALE
    return slice(start - margin, start + size + margin)


def _middle(clip: np.ndarray, size: int) -> np.ndarray:
    top, left = ((side - size) // 2 for side in clip.shape[1:3])
    return clip[:, top : top + size, left : left + size]


def _turned(clip: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """`clip` (T, H, W, 3) after any of four turns: time reversed, rows and columns flipped, transposed."""
    time, rows, columns, transpose = turns
    clip = clip[:: -1 if time else 1, :: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(clip.transpose(0, 2, 1, 3) if transpose else clip)


def _is_still(spec: BatchSpec, rng: np.random.Generator) -> bool:
    return spec.still > 0 and rng.random() < spec.still  # nothing is drawn, and no sample changes, where none is still


def _stopped(clip: np.ndarray) -> np.ndarray:
    """The middle frame of `clip` (T, H, W, 3), T times."""
    return np.repeat(clip[len(clip) // 2][None], len(clip), 0)


def make_batch(store: ClipStore | VimeoStore, spec: BatchSpec, step: int, samples: range) -> Batch:
    """Samples of one step: (N, T, h, w, 3) and (N, T, H, W, 3), uint8."""
    pairs = [make_sample(store, spec, step, index) for index in samples]
    return np.stack([low for low, _ in pairs]), np.stack([high for _, high in pairs])


def mirrored(batch: Batch) -> Batch:
    """Each clip of T frames followed by itself backwards, 2T frames: how 7 frames of Vimeo-90K train for 14."""
    low, high = (np.concatenate([clips, clips[:, ::-1]], 1) for clips in batch)
    return low, high


class BatchLoader:
    """Batches (lr, hr) of step `first_step`, `first_step` + 1, … without end, made ahead in worker processes.

    lr is float32 (N, T, h, w, 3), hr (N, T, H, W, 3), in [0, 1]. `step` is the step that comes next; a loader that
    starts there goes on exactly. The batches do not depend on `workers`; over the ranks they add up to those of
    one rank. Close it, or use it in a `with` statement. Workers end with this process, whatever ends it.

    Args:
        folder: training clips or Vimeo-90K.
        workers: processes; 0 makes each batch when it is asked for, in this process.
        prefetch: batches that wait ready at most.
        rank, ranks: this process's share of each batch, of `spec.batch` / `ranks` samples.

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
        self._store = open_store(folder)
        check_spec(self._store, spec)
        self._spec = spec
        share = spec.batch // ranks
        self._samples = range(rank * share, (rank + 1) * share)
        self.step = first_step
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._ready: Queue[Batch | RvrtError] = Queue(max(prefetch, 1))
        self._closing = Event()
        if workers > 0:
            with one_thread_each():
                self._workers = [_start_worker(folder, spec, self._samples) for _ in range(workers)]
            self._filler = Thread(target=self._fill, args=(first_step,), daemon=True)
            self._filler.start()

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
        if self._workers:
            self._filler.join()
        for _, pipe in self._workers:
            pipe.close()  # the worker reads the end of its orders, and returns
        for process, _ in self._workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _fill(self, step: int) -> None:
        """Collect the batches in order; each worker has two steps to do, so that it never waits for the next order."""
        count = len(self._workers)
        try:
            for ahead in range(2 * count):
                self._workers[(step + ahead) % count][1].send(step + ahead)
            while not self._closing.is_set():
                pipe = self._workers[step % count][1]
                if not pipe.poll(_PATIENCE):
                    continue
                item = pipe.recv()
                if isinstance(item, RvrtError):
                    self._put(item)
                    return
                pipe.send(step + 2 * count)
                self._put((to_float(item[0]), to_float(item[1])))
                step += 1
        except (EOFError, OSError):
            self._put(RvrtError("a process that makes training batches has died; is there enough memory? Use --resume"))

    def _put(self, item: Batch | RvrtError) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=_PATIENCE)
                return
            except Full:
                continue


def _start_worker(folder: Path, spec: BatchSpec, samples: range) -> tuple[SpawnProcess, Connection]:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_serve, args=(theirs, folder, spec, samples), daemon=True, name="batches")
    process.start()
    theirs.close()  # or the end of the worker could not be seen
    return process, ours


def _serve(orders: Connection, folder: Path, spec: BatchSpec, samples: range) -> None:
    """A worker: receives step numbers, sends uint8 batches; ends when the other side of the pipe does."""
    ignore_interrupt()
    try:
        store = open_store(folder)
        while True:
            step = orders.recv()
            try:
                answer: Batch | RvrtError = make_batch(store, spec, step, samples)
            except RvrtError as error:
                answer = error
            orders.send(answer)
    except (EOFError, OSError):
        return
