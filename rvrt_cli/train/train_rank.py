# SPDX-License-Identifier: Apache-2.0
"""One rank of a training run; msrun starts this script once per rank, and once more as the scheduler.

    train_rank.py FOLDER

FOLDER/recipe.toml describes the run and which of its ranks are on this machine; the outcome is written to FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, where `setup` would hide other modules
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import write_atomically
from rvrt_cli.msrun import end_rank, end_with_launcher, report_failure
from rvrt_cli.train.loop import train
from rvrt_cli.train.multi_rank import outcome_file
from rvrt_cli.train.setup import RECIPE_FILE
from rvrt_cli.train.train_options import TrainOptions, read_recipe


def train_as_rank(folder: Path) -> None:
    """Train as one rank; leave the outcome, or the error in one line, for the launcher."""
    end_with_launcher()
    options = TrainOptions(**read_recipe(folder / RECIPE_FILE))
    try:
        outcome = train(options, lambda record: None, in_ranks=True)
    except RvrtError as error:
        report_failure(error)
        raise
    write_atomically(folder / outcome_file(outcome.pop("rank")), json.dumps(outcome).encode())
    end_rank()


if __name__ == "__main__":
    train_as_rank(Path(sys.argv[1]))
