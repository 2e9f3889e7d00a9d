# SPDX-License-Identifier: Apache-2.0
"""What the first rank of a run writes into its folder: log, checkpoints, weights, validation scores, curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rvrt_cli.data.batches import open_store
from rvrt_cli.data.validation import Upscale, ValidationSet, VariantScore, variants_of
from rvrt_cli.train.setup import RECIPE_FILE
from rvrt_cli.train.train_options import TrainOptions, write_recipe
from rvrt_cli.train.training_curve import draw_curve
from rvrt_cli.train.training_log import TrainingLog
from rvrt_cli.train.training_state import TrainingState, save_checkpoint
from rvrt_cli.train.validation_split import ValidationSplit, data_folders
from rvrt_cli.weights import save_weights

if TYPE_CHECKING:
    from rvrt_cli.train.learner import Learner, StepResult

WEIGHTS_FILE, BEST_FILE, CURVE_FILE = "weights.safetensors", "best.safetensors", "curve.png"

LogRecord = dict[str, Any]  # one line of the log


class Validator(Protocol):
    """Scores a network by variant; scores of the same `identity` can be compared."""

    @property
    def identity(self) -> str: ...

    def score(self, upscale: Upscale) -> dict[str, VariantScore]: ...


class RunRecorder:
    """Writes the files of a run.

    Args:
        report: called with every record of the log.

    Raises:
        RvrtError: the validation data cannot be used; raised here, before the first step, and not hours later.
    """

    def __init__(self, options: TrainOptions, learner: Learner, report: Callable[[LogRecord], None]) -> None:
        self._options, self._learner, self._report = options, learner, report
        self._counters = learner.counters
        self._saved_step = learner.counters.step
        self._output = Path(options.output)
        folder, validation_folder = data_folders(options)
        self._clip_count = len(open_store(folder))
        self._validator = _open_validator(options, validation_folder) if options.val_every else None
        if self._validator:
            if self._counters.validation_id not in ("", self._validator.identity):
                self._counters.best = None  # it was measured on other data
            self._counters.validation_id = self._validator.identity
        write_recipe(self._output / RECIPE_FILE, options)
        self._log = TrainingLog(self._output, learner.counters.step)

    def record_step(self, result: StepResult, rate: float, seconds: float, waited: float, *, ended: bool) -> None:
        """Log a step, then validate and save if either is due after it.

        Args:
            rate: its learning rate.
            seconds: its duration [s].
            waited: the part of it that was spent waiting for the batch [s].
            ended: whether it was the last one.
        """
        options, step = self._options, self._counters.step
        self._log_step(result, rate, seconds, waited)
        try:
            if options.val_every and (step % options.val_every == 0 or ended):
                self.validate()
        finally:  # after validation, whose best score belongs in the checkpoint; also where it fails
            if step % options.save_every == 0 or ended or result.stop:
                self.save()

    def _log_step(self, result: StepResult, rate: float, seconds: float, waited: float) -> None:
        record: LogRecord = {
            "step": self._counters.step,
            "loss": _finite_or_none(result.loss),
            "psnr": _finite_or_none(result.psnr),
            "rate": rate,
            "norm": _finite_or_none(result.norm),
        }
        if result.skipped:
            record["skipped"] = self._counters.skipped
        times = {"seconds": seconds, "waited": waited, "elapsed": self._counters.elapsed}
        self._write(record | {name: round(time, 3) for name, time in times.items()})

    def save(self) -> None:
        """Write a checkpoint, and the averaged weights as a weights file."""
        state = TrainingState(self._learner.arrays(), self._counters, self._options.config)
        save_checkpoint(self._output, state, self._options.keep)
        self._save_weights(WEIGHTS_FILE, {})
        self._saved_step = self._counters.step

    def save_unsaved_steps(self) -> None:
        """Save if there were steps since the last checkpoint."""
        if self._counters.step > self._saved_step:
            self.save()

    def validate(self) -> None:
        """Score the averaged weights, save them if they are the best so far, and draw the curve."""
        if self._validator is None:
            return
        began, counters = time.monotonic(), self._counters
        scores: dict[str, VariantScore] = {}  # stays empty where the output is not finite
        with self._learner.averaged(), suppress(FloatingPointError):
            scores = self._validator.score(self._learner.upscale)
        means = {variant: score["mean"] for variant, score in scores.items()}
        gain = float(np.mean([mean["gain"] for mean in means.values()])) if means else math.nan
        best = math.isfinite(gain) and (counters.best is None or gain > counters.best)
        record: LogRecord = {
            "step": counters.step,
            "gain": {variant: _rounded_score(mean["gain"]) for variant, mean in means.items()},
            "psnr_y": {variant: _rounded_score(mean["psnr_y"]) for variant, mean in means.items()},
            "chroma_gain": {variant: score["chroma_gain"] for variant, score in scores.items()},
            "shots": {
                variant: {shot: _rounded_score(clip["gain"]) for shot, clip in score["clips"].items()}
                for variant, score in scores.items()
            },
            "best": best,
        }
        if best:
            counters.best = gain
            self._save_weights(BEST_FILE, {name: record[name] for name in ("gain", "psnr_y", "chroma_gain")})
        seconds = time.monotonic() - began
        self._write(record | {"trained": round(counters.trained, 1), "seconds": round(seconds, 3)})
        draw_curve(self._log.path, self._output / CURVE_FILE)

    def close(self) -> None:
        """Close the log and draw the final curve."""
        self._log.close()
        draw_curve(self._log.path, self._output / CURVE_FILE)

    def _write(self, record: LogRecord) -> None:
        self._log.write(record)
        self._report(record)

    def _save_weights(self, name: str, scores: LogRecord) -> None:
        options, counters = self._options, self._counters
        card = {
            "name": f"{self._output.name} ({options.model})",  # not the preset's: these are the user's own
            "trained": counters.step > 0,
            "degradation": options.degradation,
            "data": f"{self._clip_count} clips",
            "steps": counters.step,
            "hours": round(counters.trained / 3600, 2),
            "scores": scores,
        }
        save_weights(self._output / name, self._learner.averaged_weights(), options.config, card)


def _open_validator(options: TrainOptions, validation_folder: Path | None) -> Validator | None:
    if options.val:
        variants = variants_of(options.degradation)
        return ValidationSet(Path(options.val), options.val_windows or None, options.val_frames, variants)
    return ValidationSplit(validation_folder, options.degradation, options.crop) if validation_folder else None


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _rounded_score(score: float) -> float | None:
    return _finite_or_none(round(score, 4))
