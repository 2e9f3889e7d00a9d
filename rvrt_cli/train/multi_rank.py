# SPDX-License-Identifier: Apache-2.0
"""A training run in several ranks: start them, follow their log, collect the outcome. Does not import MindSpore."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import RankGroup, run_ranks
from rvrt_cli.train.setup import RECIPE_FILE
from rvrt_cli.train.train_options import TrainOptions, write_recipe
from rvrt_cli.train.training_log import LOG_FILE
from rvrt_cli.train.training_state import list_checkpoints


def outcome_file(rank: int) -> str:
    """File name of a rank's outcome, in this machine's ranks folder; only the first rank knows the best validation."""
    return f"outcome-{rank:06d}.json"


def train_in_ranks(options: TrainOptions, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train with this machine's ranks; arguments and result as `rvrt_cli.train.loop.train`.

    Raises:
        RvrtError: a rank failed; the others were stopped too.
    """
    output = Path(options.output)
    folder = ranks_folder(options)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_recipe(folder / RECIPE_FILE, options)
    group = RankGroup(
        count=options.ranks,
        here=options.ranks_here,
        node=options.node,
        master=options.master,
        threads=options.threads,
    )
    run_ranks(group, Path(__file__).with_name("train_rank.py"), folder, folder, _LogFollower(output, report).read)
    outcomes = sorted(folder.glob("outcome-*.json"))
    if not outcomes:
        raise RvrtError(
            f"a rank died, and the others were stopped; their logs are in {folder}. Restart from the last checkpoint with "
            "--resume"
        )
    return json.loads(outcomes[0].read_text(encoding="utf-8"))


def ranks_folder(options: TrainOptions) -> Path:
    """The folder of this machine's ranks, with their recipe, logs and outcomes: machines may share the output folder."""
    return Path(options.output) / f"ranks-{options.node}"


class _LogFollower:
    """Reports what the first rank appends to the log after the newest checkpoint."""

    def __init__(self, output: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._report = output / LOG_FILE, report
        saved = list_checkpoints(output)
        self._resumed_step = int(saved[-1].stem) if saved else 0
        self._old_inode = self._path.stat().st_ino if self._path.exists() else 0  # the first rank replaces the file
        self._position = 0

    def read(self) -> None:
        """Report the lines that were added since the last call."""
        if not self._path.exists() or self._path.stat().st_ino == self._old_inode:
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                record = json.loads(line)
                if record["step"] > self._resumed_step:
                    self._report(record)
