"""A training run in several ranks: start them, follow their log, collect the outcome. No MindSpore."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import Group, run_ranks as run_group
from rvrt_cli.train.setup import RECIPE
from rvrt_cli.train.train_options import TrainOptions, write_recipe
from rvrt_cli.train.training_log import NAME as LOG
from rvrt_cli.train.training_state import checkpoints


def outcome_file(rank: int) -> str:
    """In the folder of this machine's ranks; the first rank's alone knows how good the best validation was."""
    return f"outcome-{rank:06d}.json"


def run_ranks(options: TrainOptions, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train with this machine's ranks; arguments and result as `rvrt_cli.train.loop.train`.

    Raises:
        RvrtError: a rank has ended badly; the others are gone too.
    """
    output = Path(options.output)
    folder = ranks_folder(options)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_recipe(folder / RECIPE, options)
    group = Group(options.ranks, options.ranks_here, options.node, options.master, options.threads)
    run_group(group, Path(__file__).with_name("train_rank.py"), folder, folder, _Follower(output, report).read)
    outcomes = sorted(folder.glob("outcome-*.json"))
    if not outcomes:
        raise RvrtError(
            f"a rank has died and the others were ended; {folder} has their logs. --resume goes on from the last "
            "checkpoint"
        )
    return json.loads(outcomes[0].read_text(encoding="utf-8"))


def ranks_folder(options: TrainOptions) -> Path:
    """Where this machine's ranks have their recipe, logs and outcome: machines may share the output folder."""
    return Path(options.output) / f"ranks-{options.node}"


class _Follower:
    """Reports what the first rank appends to the log, from the newest checkpoint on."""

    def __init__(self, output: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._report = output / LOG, report
        saved = checkpoints(output)
        self._after = int(saved[-1].stem) if saved else 0
        self._inode = self._path.stat().st_ino if self._path.exists() else 0  # replaced when the log is cut back
        self._place = 0

    def read(self) -> None:
        """Report the lines that have come since the last call."""
        if not self._path.exists() or self._path.stat().st_ino == self._inode:
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._place += len(line)
                record = json.loads(line)
                if record["step"] > self._after:
                    self._report(record)
