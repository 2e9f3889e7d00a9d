"""A video through the network: reading, windows and tiles, network, writing, each overlapping the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rvrt_cli import engine
from rvrt_cli.device import host_free_bytes, use_device
from rvrt_cli.engine.network import check_size
from rvrt_cli.errors import MediaError
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.video.frame import Frame
from rvrt_cli.video.probe import SourceInfo, probe
from rvrt_cli.video.reader import Reader, open_reader
from rvrt_cli.video.target import Target, check_target
from rvrt_cli.video.writer import open_writer

if TYPE_CHECKING:
    from rvrt_cli.model import Network

MEMORY_SHARE = 0.7  # of what is free; the rest is for the encoder and the user's other programs


@dataclass(frozen=True)
class Job:
    """What is going to happen, decided before any work starts.

    Attributes:
        source, target: as probed and checked.
        plan: windows and tiles.
        frames: how many will come out, as far as the container tells; None when it does not.
        notes: what is worth telling the user, one line each.
    """

    options: UpscaleOptions
    source: SourceInfo
    target: Target
    network: Network
    plan: engine.Plan
    frames: int | None
    notes: tuple[str, ...]


@dataclass
class Progress:
    """How far a job is; passed to `on_progress` after every frame.

    Attributes:
        frames: written so far, of `total`.
        computed: frames that are through the network, parts of a window included.
        elapsed, waiting_for_source, network, waiting_for_target: s.
        notes: what came up on the way, one line each.
    """

    total: int | None
    frames: int = 0
    computed: float = 0.0
    scenes: int = 0
    elapsed: float = 0.0
    waiting_for_source: float = 0.0
    network: float = 0.0
    waiting_for_target: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


def load_network(
    model: str = UpscaleOptions.model,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Network:
    """A network that is ready to be called: see `rvrt_cli.model.Network`.

    Args:
        model: name of embedded or converted weights, see `rvrt weights list`.
        weights: a weights file in place of `model`.
        device: "auto", "cpu", "gpu" or "ascend"; precision: "float32" or, on an accelerator, "float16".

    Raises:
        WeightsError: no such weights, or they do not fit their network.
        RvrtError: no such device.
    """
    from rvrt_cli.weights import check_names, load_weights, resolve

    path = resolve(model, Path(weights) if weights is not None else None)
    loaded = load_weights(path)
    chosen = use_device(device, precision)
    from rvrt_cli.model import Network, parameter_shapes  # brings MindSpore, whose device is set by now

    check_names(loaded.arrays, parameter_shapes(loaded.config), path)
    return Network(loaded.config, loaded.arrays, loaded.card, chosen)


def prepare(source: str | Path, target: str | Path, options: UpscaleOptions) -> Job:
    """Check everything that can be checked before the work: source, target, weights, device, memory.

    Raises:
        RvrtError: with the remedy.
    """
    info = probe(source)
    check_size(info.width, info.height)
    width, height = options.output_size(info.width, info.height)
    checked = check_target(
        info, target, width=width, height=height, codec=options.codec, crf=options.crf, preset=options.preset,
        pix_fmt=options.pix_fmt, overwrite=options.overwrite,
    )  # fmt: skip
    network = load_network(options.model, options.weights, options.device, options.precision)
    frames = _frame_count(info, options)
    budget = options.memory_bytes
    host = budget if budget is not None else int(MEMORY_SHARE * host_free_bytes())
    device_free = network.device.free_bytes()
    plan = engine.plan(
        network, info.width, info.height,
        free_bytes=host if device_free is None else int(MEMORY_SHARE * device_free),
        host_free_bytes=None if device_free is None else host,
        window=options.window, tile=options.tile, overlap=options.overlap, lookahead=options.lookahead,
        frame_count=frames, pixel_bytes=2 if info.bit_depth > 8 else 1,
    )  # fmt: skip
    notes = [*network.notes, *checked.notes]
    if info.interlaced:
        notes.append("the source is interlaced; its frames are enlarged as they are")
    return Job(options, info, checked, network, plan, frames, tuple(notes))


def _frame_count(info: SourceInfo, options: UpscaleOptions) -> int | None:
    if options.start == 0 and options.duration is None:
        return info.frame_count
    if info.duration is None:
        return None
    seconds = max(0.0, info.duration - options.start)
    if options.duration is not None:
        seconds = min(seconds, options.duration)
    return max(1, round(seconds * info.frame_rate))


def run(job: Job, on_progress: Callable[[Progress], None] | None = None) -> Progress:
    """Do the work; the target appears when it is complete, and not at all otherwise.

    Raises:
        RvrtError: with the remedy.
    """
    options, started = job.options, time.monotonic()
    progress = Progress(job.frames)

    def report() -> None:
        progress.elapsed = time.monotonic() - started
        if on_progress is not None:
            on_progress(progress)

    def on_event(event: engine.Event) -> None:
        if isinstance(event, engine.SceneStarted):
            progress.scenes += 1
        elif isinstance(event, engine.TileDone):
            progress.computed = event.first + event.frames * event.tile / event.tiles
            report()
        elif isinstance(event, engine.TileShrunk):
            before, after = ("x".join(map(str, reversed(tile))) for tile in (event.before, event.after))
            progress.notes.append(f"memory ran out: tiles of {before} px are now {after} px")

    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(job.source, start=options.start, duration=options.duration))
        writer = stack.enter_context(
            open_writer(
                job.target, job.source, width=job.target.width, height=job.target.height,
                time_base=reader.time_base, start=options.start, duration=options.duration,
            )
        )  # fmt: skip
        waiting: deque[Frame] = deque()
        outputs = engine.stream(_pixels(reader, waiting, progress), job.network, job.plan, on_event=on_event)
        while True:
            before, source_before = time.monotonic(), progress.waiting_for_source
            pixels = next(outputs, None)
            progress.network += time.monotonic() - before - (progress.waiting_for_source - source_before)
            if pixels is None:
                break
            before = time.monotonic()
            writer.write(_finish(pixels, waiting.popleft(), job.target))
            progress.waiting_for_target += time.monotonic() - before
            progress.frames += 1
            report()
        progress.notes += reader.warnings
        if progress.frames == 0:
            raise MediaError(f"{job.source.path}: no frame in the part asked for; check --start and --duration")
        before = time.monotonic()
        writer.finish()
        progress.waiting_for_target += time.monotonic() - before
    report()
    return progress


def _pixels(reader: Reader, waiting: deque[Frame], progress: Progress) -> Iterator[np.ndarray]:
    """The frames' pixels, one by one; their times wait in `waiting` for the frame that comes out."""
    frames = iter(reader)
    while True:
        before = time.monotonic()
        frame = next(frames, None)
        progress.waiting_for_source += time.monotonic() - before
        if frame is None:
            return
        waiting.append(Frame(np.empty((0, 0, 3), frame.pixels.dtype), frame.pts, frame.alpha))
        yield frame.pixels


def _finish(pixels: np.ndarray, source: Frame, target: Target) -> Frame:
    """The output frame at the target's size, with the source frame's time and alpha."""
    from rvrt_cli.data.resize import imresize

    size = target.height, target.width
    limit = np.iinfo(pixels.dtype).max

    def fit(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == size:
            return image
        return np.rint(np.clip(imresize(image.astype(np.float32), size=size), 0, limit)).astype(image.dtype)

    alpha = None if source.alpha is None else fit(source.alpha[..., None])[..., 0]
    return Frame(fit(pixels), source.pts, alpha)


def upscale_video(
    source: str | Path,
    target: str | Path,
    options: UpscaleOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Enlarge a video, an image sequence or a y4m stream, keeping frame times, sound and colours.

    Args:
        source: a video file, a folder or pattern of images, or "-" for y4m on standard input.
        target: a video file, a folder for PNG, or "-" for y4m on standard output.
        options: see `UpscaleOptions`.
        on_progress: called after every frame and tile.

    Returns:
        what was done and where the time went.

    Raises:
        RvrtError: with the remedy; the target is then as it was.
    """
    return run(prepare(source, target, options or UpscaleOptions()), on_progress)
