"""The training loop: straight on, one comment per phase."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rvrt_cli.data.loader import BatchLoader, mirrored, open_store
from rvrt_cli.data.validation import Upscale, ValidationSet, VariantScore
from rvrt_cli.device import use_device
from rvrt_cli.errors import RvrtError
from rvrt_cli.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from rvrt_cli.train.curve import draw_curve
from rvrt_cli.train.held_out import HeldOut, data_folders
from rvrt_cli.train.log import Log
from rvrt_cli.train.options import TrainOptions
from rvrt_cli.train.schedule import learning_rate
from rvrt_cli.train.setup import first_weights
from rvrt_cli.weights import save_weights

WEIGHTS, BEST, CURVE = "weights.safetensors", "best.safetensors", "curve.png"

Record = dict[str, Any]


class Judge(Protocol):
    """Scores a network by variant."""

    def score(self, upscale: Upscale) -> dict[str, VariantScore]: ...


class Stopping:
    """Whether someone has asked to stop: SIGTERM, Ctrl-C, or the time being up. A second Ctrl-C interrupts at once."""

    def __init__(self, minutes: float) -> None:
        self._until = time.monotonic() + 60 * minutes if minutes else math.inf
        self.reason = ""

    def __bool__(self) -> bool:
        if not self.reason and time.monotonic() >= self._until:
            self.reason = "the time is up"
        return bool(self.reason)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals ask to stop instead of killing."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, _: object) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = "interrupted" if number == signal.SIGINT else "asked to end"


def train(options: TrainOptions, report: Callable[[Record], None], in_ranks: bool = False) -> Record:
    """Train until the last step, the end of the time, or a signal; continues from the newest checkpoint, if any.

    Args:
        options: as `rvrt_cli.train.setup.prepare_run` returned them.
        report: called with every record of the log, on the first rank.
        in_ranks: this process is one of several that msrun has started.

    Returns:
        the last record: "step", "steps", "reason" (empty when done), "resume" (whether there is more to do).

    Raises:
        RvrtError: data or weights cannot be used, or too many steps were not finite.
    """
    # device and ranks: before MindSpore is imported anywhere else
    threads = options.threads // options.ranks_here if options.threads else None
    device = use_device(options.device, precision=options.precision, threads=threads)
    from rvrt_cli.train.learner import Counters, Learner
    from rvrt_cli.train.ranks import Ranks, join_ranks

    ranks = join_ranks() if in_ranks else Ranks()
    first, output = ranks.rank == 0, Path(options.output)
    stopping = Stopping(options.minutes)

    # data
    train_folder, held_folder = data_folders(options)
    clips = len(open_store(train_folder))

    # weights, or the state of the run
    saved = checkpoints(output)
    if saved:
        arrays, about = load_checkpoint(saved[-1])
        counters = Counters(**about["counters"])
        if about["network"] != options.config.to_dict():
            raise RvrtError(f"{saved[-1]}: is of another network than the recipe says; choose another --output")
    else:
        counters, arrays = Counters(), {f"value.{k}": v for k, v in first_weights(options).items()}
    if not ranks.agree(counters.step):
        raise RvrtError(f"{output}: the machines hold it at different steps; let them share one folder, or copy it")
    learner = Learner(options, device, ranks, ranks.from_first(arrays), counters)
    log = Log(output, counters.step) if first else None

    def keep(record: Record) -> None:
        if log is not None:
            log.write(record)
            report(record)

    def card(scores: dict | None) -> Record:
        degradation, step = options.degradation, counters.step
        facts = {"name": options.model, "trained": step > 0, "degradation": degradation, "steps": step}
        return {**facts, "data": f"{clips} clips", "hours": round(counters.trained / 3600, 2), "scores": scores or {}}

    def save() -> None:
        if first:
            about = {"counters": asdict(counters), "network": options.config.to_dict()}
            save_checkpoint(output, counters.step, learner.arrays(), about, options.keep)
            save_weights(output / WEIGHTS, learner.averaged_weights(), options.config, card(None))

    judge: Judge | None = None

    def validate() -> None:
        nonlocal judge
        if not first or not (options.val or held_folder):
            return
        if judge is None:
            judge = _judge(options, held_folder)
        began = time.monotonic()
        with learner.averaged():
            scores = judge.score(learner.upscale)
        gains = {name: variant["mean"]["gain"] for name, variant in scores.items()}
        psnr = {name: variant["mean"]["psnr_y"] for name, variant in scores.items()}
        gain = float(np.mean(list(gains.values())))
        best = counters.best is None or gain > counters.best
        if best:
            counters.best = gain
            save_weights(output / BEST, learner.averaged_weights(), options.config, card(_plain(scores)))
        keep({"step": counters.step, "trained": round(counters.trained, 1), "val": _plain(scores), "psnr_y": psnr,
              "gain": gains, "best": best, "seconds": round(time.monotonic() - began, 2)})  # fmt: skip
        draw_curve(log.path, output / CURVE) if log else None

    # steps
    ended, agreed = False, False
    loader = BatchLoader(train_folder, options.spec, counters.step, options.workers, 4, ranks.rank, ranks.size)
    try:
        with stopping.listening(), loader:
            while counters.step < options.steps and not agreed:
                began = time.monotonic()
                batch = next(loader)
                low, high = mirrored(batch) if options.mirror else batch
                waited = time.monotonic() - began
                rate = learning_rate(options, counters.step)
                result = learner.step(low, high, rate, bool(stopping))
                agreed = result.stop  # the same on every rank
                seconds = time.monotonic() - began
                counters.trained += seconds
                keep({"step": counters.step, "loss": _finite(result.loss), "psnr": _finite(result.psnr), "rate": rate,
                      "norm": _finite(result.norm), "seconds": round(seconds, 3), "waited": round(waited, 3),
                      **({"skipped": counters.skipped} if result.skipped else {})})  # fmt: skip
                ended = counters.step == options.steps
                if options.val_every and (counters.step % options.val_every == 0 or ended):
                    validate()
                if counters.step % options.save_every == 0 or ended or agreed:
                    save()
        if log:
            draw_curve(log.path, output / CURVE)
    finally:
        if log:
            log.close()
    reason = stopping.reason or ("another rank was asked to end" if agreed else "")
    return {"step": counters.step, "steps": options.steps, "reason": reason, "resume": counters.step < options.steps,
            "skipped": counters.skipped, "best": counters.best}  # fmt: skip


def _judge(options: TrainOptions, held_folder: Path | None) -> Judge:
    if options.val:
        return ValidationSet(Path(options.val), options.val_windows or None, options.val_frames)
    assert held_folder is not None
    return HeldOut(held_folder, options.degradation, options.crop)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(scores: dict[str, VariantScore]) -> dict[str, dict[str, float]]:
    """Variant → {"mean": dB, shot: dB …}: gain over bicubic, rounded."""
    return {
        name: {
            "mean": round(variant["mean"]["gain"], 4),
            **{k: round(c["gain"], 4) for k, c in variant["clips"].items()},
        }
        for name, variant in scores.items()
    }
