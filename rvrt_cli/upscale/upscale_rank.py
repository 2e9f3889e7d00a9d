# SPDX-License-Identifier: Apache-2.0
"""One rank of `rvrt upscale`; msrun starts this script once per rank, and once more as the scheduler that they meet at.

    upscale_rank.py TASK

TASK says what is to be done, as `rvrt_cli.upscale.distribute.compute_in_ranks` wrote it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __package__ in (None, ""):  # a script: its own folder is on the path, where its modules would hide others
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rvrt_cli.errors import RvrtError
from rvrt_cli.msrun import end_rank, end_with_launcher, report_failure
from rvrt_cli.upscale.distribute import work_as_rank
from rvrt_cli.upscale.interruption import Interruption


def run_upscale_rank(task: Path) -> None:
    """Compute as one rank; leave an error, in one line, for the launcher."""
    interruption = Interruption()
    signal.signal(signal.SIGTERM, interruption.request)
    end_with_launcher()
    try:
        work_as_rank(task, interruption)
        end_rank()
    except (RvrtError, OSError) as error:
        report_failure(error)
        raise
    except KeyboardInterrupt:
        os._exit(130)  # everything is cleaned up; MindSpore would wait for the other ranks


if __name__ == "__main__":
    run_upscale_rank(Path(sys.argv[1]))
