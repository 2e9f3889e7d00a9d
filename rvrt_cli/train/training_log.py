# SPDX-License-Identifier: Apache-2.0
"""log.jsonl: one JSON object per step and per validation; truncated to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rvrt_cli.files import write_atomically
from rvrt_cli.train.training_state import RESUME_REMEDY

LOG_FILE = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; invalid lines, such as the last one of a killed run, are skipped."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


class TrainingLog:
    """Appends records to a run's log.

    Args:
        step: records after this step are dropped, since the run repeats them.
    """

    def __init__(self, output: Path, step: int) -> None:
        self.path = output / LOG_FILE
        kept = [json.dumps(record) + "\n" for record in read_log(self.path) if record["step"] <= step]
        write_atomically(self.path, "".join(kept).encode(), RESUME_REMEDY)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it survives a crash of this process."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
