"""The training loop: straight on, one comment per phase."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rvrt_cli.data.batches import Batch, BatchLoader, mirrored, open_store
from rvrt_cli.data.validation import Upscale, ValidationSet, VariantScore
from rvrt_cli.device import use_device
from rvrt_cli.errors import RvrtError
from rvrt_cli.train.counters import Counters
from rvrt_cli.train.schedule import learning_rate
from rvrt_cli.train.setup import RECIPE, first_weights
from rvrt_cli.train.stop_request import Stopping
from rvrt_cli.train.train_options import TrainOptions, write_recipe
from rvrt_cli.train.training_curve import draw_curve
from rvrt_cli.train.training_log import Log
from rvrt_cli.train.training_state import checkpoints, load_checkpoint, save_checkpoint
from rvrt_cli.train.validation_split import HeldOut, data_folders
from rvrt_cli.weights import check_names, save_weights

if TYPE_CHECKING:
    from rvrt_cli.device import Device
    from rvrt_cli.train.all_reduce import Ranks
    from rvrt_cli.train.learner import Learner, StepResult

WEIGHTS, BEST, CURVE = "weights.safetensors", "best.safetensors", "curve.png"

Record = dict[str, Any]


class Judge(Protocol):
    """Scores a network by variant; scores of the same `identity` can be compared."""

    @property
    def identity(self) -> str: ...

    def score(self, upscale: Upscale) -> dict[str, VariantScore]: ...


def train(options: TrainOptions, report: Callable[[Record], None], in_ranks: bool = False) -> Record:
    """Train until the last step, the end of the time, or a signal; continues from the newest checkpoint, if any.

    Args:
        options: as `rvrt_cli.train.setup.prepare_run` returned them.
        report: called with every record of the log, on the first rank.
        in_ranks: this process is one of several that msrun has started.

    Returns:
        "rank", "step", "steps", "reason" (empty when done), "resume" (whether there is more to do), "skipped" and "best".

    Raises:
        RvrtError: data or weights cannot be used, or too many steps were not finite.
    """
    # device and ranks: before MindSpore is imported anywhere else
    threads = max(1, options.threads // options.ranks_here) if options.threads else None
    device = use_device(options.device, precision=options.precision, threads=threads)
    from rvrt_cli.train.all_reduce import Ranks, join_ranks

    ranks = join_ranks() if in_ranks else Ranks()
    stopping = Stopping(options.minutes)

    # weights, or the state of the run
    learner = _start(options, device, ranks)
    counters = learner.counters
    books = _Books(options, learner, report) if ranks.rank == 0 else None

    # steps
    folder, _ = data_folders(options)
    loader = BatchLoader(folder, options.spec, counters.step, options.workers, 4, ranks.rank, ranks.size)
    stop = False
    with stopping.listening(), loader:
        while counters.step < options.steps and not stop:
            began = time.monotonic()
            batch = _next_batch(loader, books)
            low, high = mirrored(batch) if options.mirror else batch
            waited = time.monotonic() - began
            rate = learning_rate(options, counters.step)
            result = learner.step(low, high, rate, bool(stopping))
            stop = result.stop  # the same on every rank
            seconds = time.monotonic() - began
            counters.trained += seconds
            if books:
                books.write(result, rate, seconds, waited)
                ended = counters.step == options.steps
                try:
                    if options.val_every and (counters.step % options.val_every == 0 or ended):
                        books.validate()
                finally:  # after validation, whose best belongs into it, and even where that fails
                    if counters.step % options.save_every == 0 or ended or stop:
                        books.save()
    if books:
        books.close()
    reason = stopping.reason or ("another rank was asked to end" if stop else "")
    return {"rank": ranks.rank, "step": counters.step, "steps": options.steps, "reason": reason, "resume": counters.step < options.steps,
            "skipped": counters.skipped, "best": counters.best}  # fmt: skip


def _start(options: TrainOptions, device: Device, ranks: Ranks) -> Learner:
    """The learner with its first weights, or as the newest checkpoint left it; the same on all ranks."""
    from rvrt_cli.model import parameter_shapes
    from rvrt_cli.train.learner import Learner

    saved = checkpoints(Path(options.output))
    if saved:
        arrays, counters, config = load_checkpoint(saved[-1])
        values = {name.removeprefix("value."): array for name, array in arrays.items() if name.startswith("value.")}
        check_names(values, parameter_shapes(config), saved[-1])
    else:
        counters, arrays = Counters(), {f"value.{k}": v for k, v in first_weights(options).items()}
    if not ranks.agree(counters.step):
        raise RvrtError(f"{options.output}: at different steps on different machines; let them share it, or copy it")
    return Learner(options, device, ranks, ranks.from_first(arrays), counters)


def _next_batch(loader: BatchLoader, books: _Books | None) -> Batch:
    """The next batch; where the data cannot be read, what has been learnt before is kept."""
    try:
        return next(loader)
    except RvrtError:
        if books:
            books.save_new()
        raise


class _Books:
    """What the first rank writes: log, checkpoints, weights, validation, curve."""

    def __init__(self, options: TrainOptions, learner: Learner, report: Callable[[Record], None]) -> None:
        self._options, self._learner, self._report = options, learner, report
        self._counters = learner.counters
        self._saved = learner.counters.step
        self._output = Path(options.output)
        folder, held_out = data_folders(options)
        self._clips = len(open_store(folder))
        # before the first step: what cannot be read ends the run here, and not hours later
        self._judge = _open_judge(options, held_out) if options.val_every else None
        if self._judge:
            if self._counters.judged not in ("", self._judge.identity):
                self._counters.best = None  # it was measured on something else
            self._counters.judged = self._judge.identity
        write_recipe(self._output / RECIPE, options)
        self._log = Log(self._output, learner.counters.step)

    def write(self, result: StepResult, rate: float, seconds: float, waited: float) -> None:
        """Log a step."""
        record = {"step": self._counters.step, "loss": _finite(result.loss), "psnr": _finite(result.psnr),
                  "rate": rate, "norm": _finite(result.norm)}  # fmt: skip
        if result.skipped:
            record["skipped"] = self._counters.skipped
        self._keep({**record, "seconds": round(seconds, 3), "waited": round(waited, 3)})

    def save(self) -> None:
        """Write a checkpoint, and the averaged weights as a weights file."""
        options = self._options
        save_checkpoint(self._output, self._learner.arrays(), self._counters, options.config, options.keep)
        self._save_weights(WEIGHTS, {})
        self._saved = self._counters.step

    def save_new(self) -> None:
        """As `save`, if there has been a step since."""
        if self._counters.step > self._saved:
            self.save()

    def validate(self) -> None:
        """Score the averaged weights, keep them if they are the best so far, and draw the curve."""
        if self._judge is None:
            return
        began, counters = time.monotonic(), self._counters
        scores: dict[str, VariantScore] = {}  # none where the output is not finite
        with self._learner.averaged(), suppress(FloatingPointError):
            scores = self._judge.score(self._learner.upscale)
        means = {name: variant["mean"] for name, variant in scores.items()}
        shots = {
            name: {shot: _rounded(clip["gain"]) for shot, clip in v["clips"].items()} for name, v in scores.items()
        }
        gain = float(np.mean([mean["gain"] for mean in means.values()])) if means else math.nan
        best = math.isfinite(gain) and (counters.best is None or gain > counters.best)
        record = {
            "step": counters.step, "gain": {name: _rounded(mean["gain"]) for name, mean in means.items()},
            "psnr_y": {name: _rounded(mean["psnr_y"]) for name, mean in means.items()}, "shots": shots, "best": best,
        }  # fmt: skip
        if best:
            counters.best = gain
            self._save_weights(BEST, {name: record[name] for name in ("gain", "psnr_y")})
        seconds = time.monotonic() - began
        self._keep({**record, "trained": round(counters.trained, 1), "seconds": round(seconds, 3)})
        draw_curve(self._log.path, self._output / CURVE)

    def close(self) -> None:
        """Draw the curve; no more records."""
        self._log.close()
        draw_curve(self._log.path, self._output / CURVE)

    def _keep(self, record: Record) -> None:
        self._log.write(record)
        self._report(record)

    def _save_weights(self, name: str, scores: Record) -> None:
        options, counters = self._options, self._counters
        card = {"name": options.model, "trained": counters.step > 0, "degradation": options.degradation,
                "data": f"{self._clips} clips", "steps": counters.step,
                "hours": round(counters.trained / 3600, 2), "scores": scores}  # fmt: skip
        save_weights(self._output / name, self._learner.averaged_weights(), options.config, card)


def _open_judge(options: TrainOptions, held_out: Path | None) -> Judge | None:
    if options.val:
        return ValidationSet(Path(options.val), options.val_windows or None, options.val_frames)
    return HeldOut(held_out, options.degradation, options.crop) if held_out else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(score: float) -> float | None:
    return _finite(round(score, 4))
