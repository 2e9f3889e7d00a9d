"""One rank of an upscaling; msrun starts this file once per rank, and once more to arrange the ranks' meeting.

    worker.py TASK

What is to be done stands in TASK, as `rvrt_cli.upscale.distribute.compute_in_ranks` wrote it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

if __package__ in (None, ""):  # a script: its own folder is on the path, where `ranks` would hide another one
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import end_with_launcher, report_failure
from rvrt_cli.upscale.distribute import work_as_rank


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(task: Path) -> None:
    """Compute as one rank; leave an error, in one line, for the launcher."""
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_launcher()
    try:
        work_as_rank(task)
    except (RvrtError, OSError) as error:
        report_failure(error)
        raise
    except KeyboardInterrupt:
        os._exit(130)  # what is to be tidied is; MindSpore would wait for the other ranks


if __name__ == "__main__":
    main(Path(sys.argv[1]))
