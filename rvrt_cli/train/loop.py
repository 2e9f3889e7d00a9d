# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvrt_cli.data.batch_loader import BatchLoader
from rvrt_cli.data.batches import Batch, mirrored
from rvrt_cli.device import use_device
from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import join_ranks
from rvrt_cli.train.run_clock import RunClock
from rvrt_cli.train.run_recorder import LogRecord, RunRecorder
from rvrt_cli.train.schedule import learning_rate
from rvrt_cli.train.starting_weights import starting_weights
from rvrt_cli.train.stop_request import StopRequest
from rvrt_cli.train.train_options import TrainOptions
from rvrt_cli.train.training_counters import TrainingCounters
from rvrt_cli.train.training_state import list_checkpoints, load_checkpoint
from rvrt_cli.train.validation_split import data_folders
from rvrt_cli.weights import check_names

if TYPE_CHECKING:
    from rvrt_cli.device import Device
    from rvrt_cli.train.communicator import Communicator
    from rvrt_cli.train.learner import Learner


def train(options: TrainOptions, report: Callable[[LogRecord], None], in_ranks: bool = False) -> dict[str, Any]:
    """Train until the last step, the end of the time, or a signal; continue from the newest checkpoint, if there is one.

    Args:
        options: as returned by `rvrt_cli.train.setup.prepare_run`.
        report: called with every record of the log, on the first rank.
        in_ranks: this process is one of several that msrun started.

    Returns:
        "rank", "step", "steps", "reason" (why it stopped early, or ""), "resume" (whether the end was not reached), "skipped" (number
        of skipped steps) and "best" (best validation gain over bicubic [dB], or None).

    Raises:
        RvrtError: data or weights cannot be used, or too many steps were not finite.
    """
    began = time.monotonic()
    # device and ranks: before MindSpore is imported anywhere else
    device = use_device(options.device, precision=options.precision, threads=options.rank_threads)
    from rvrt_cli.train.communicator import Communicator

    communicator = Communicator(*join_ranks()) if in_ranks else Communicator()
    stop_request = StopRequest()

    # starting weights, or the state of the run; files are written by the first rank only
    learner = _restore_learner(options, device, communicator)
    counters = learner.counters
    clock = RunClock(options, counters, began, communicator.mean_of)
    recorder = RunRecorder(options, learner, report) if communicator.rank == 0 else None

    stop = False
    with stop_request.handling_signals(), _open_loader(options, counters.step, communicator) as loader:
        while not (clock.ended or stop):
            # batch
            step_began = time.monotonic()
            low, high = _next_batch(loader, recorder, options.mirror)
            waited = time.monotonic() - step_began

            # forward, backward, optimizer
            rate = learning_rate(options, counters.step, clock.schedule_steps)
            result = learner.step(low, high, rate, bool(stop_request))
            stop = result.stop  # agreed among the ranks
            seconds = time.monotonic() - step_began
            counters.trained += seconds
            clock.count_step()

            # log, validation, checkpoint
            if recorder:
                recorder.record_step(result, rate, seconds, waited, ended=clock.ended)

    if recorder:
        recorder.close()
    return {
        "rank": communicator.rank,
        "step": counters.step,
        "steps": options.steps,
        "reason": stop_request.reason or ("another rank was asked to stop" if stop else ""),
        "resume": not clock.ended,
        "skipped": counters.skipped,
        "best": counters.best,
    }


def _restore_learner(options: TrainOptions, device: Device, communicator: Communicator) -> Learner:
    """The learner with its starting weights, or as the newest checkpoint left it; the same on all ranks."""
    from rvrt_cli.model import parameter_shapes
    from rvrt_cli.train.learner import Learner

    saved = list_checkpoints(Path(options.output))
    if saved:
        state = load_checkpoint(saved[-1])
        counters, arrays = state.counters, state.arrays
        values = {name.removeprefix("value."): array for name, array in arrays.items() if name.startswith("value.")}
        check_names(values, parameter_shapes(state.config), saved[-1])
    else:
        counters = TrainingCounters()
        arrays = {f"value.{name}": array for name, array in starting_weights(options).items()}
    if not communicator.all_equal(counters.step):
        raise RvrtError(
            f"{options.output}: the machines are at different steps; share this folder among them, or copy it to all"
        )
    return Learner(options, device, communicator, communicator.broadcast(arrays), counters)


def _open_loader(options: TrainOptions, step: int, communicator: Communicator) -> BatchLoader:
    folder, _ = data_folders(options)
    rank, ranks = communicator.rank, communicator.size
    return BatchLoader(folder, options.spec, step, options.workers, rank=rank, ranks=ranks)


def _next_batch(loader: BatchLoader, recorder: RunRecorder | None, mirror: bool) -> Batch:
    """The next batch; where the data cannot be read, the steps so far are saved first."""
    try:
        batch = next(loader)
        return mirrored(batch) if mirror else batch
    except RvrtError:
        if recorder:
            recorder.save_unsaved_steps()
        raise
