"""One rank of a training run; msrun starts this file once per rank, and once more to arrange the ranks' meeting.

    worker.py FOLDER

What the run is, and which of its ranks are on this machine, stands in FOLDER/recipe.toml; the outcome goes there too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __package__ in (None, ""):  # a script: its own folder is on the path, where `log` or `ranks` would hide others
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import write_atomically
from rvrt_cli.msrun import end_with_launcher, failed
from rvrt_cli.train.loop import train
from rvrt_cli.train.multi_rank import outcome_file
from rvrt_cli.train.setup import RECIPE
from rvrt_cli.train.train_options import TrainOptions, read_recipe


def main(folder: Path) -> None:
    """Train as one rank; leave the outcome, or the error in one line, for the launcher."""
    end_with_launcher()
    options = TrainOptions(**read_recipe(folder / RECIPE))
    try:
        outcome = train(options, lambda record: None, in_ranks=True)
    except RvrtError as error:
        failed(error)
        raise
    write_atomically(folder / outcome_file(outcome.pop("rank")), json.dumps(outcome).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
