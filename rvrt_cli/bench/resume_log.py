# SPDX-License-Identifier: Apache-2.0
"""The scores that a quality run has finished, in the user's cache, so that the same command resumes after an interruption."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import Dataset
from rvrt_cli.files import cache_folder
from rvrt_cli.version import __version__
from rvrt_cli.weights import file_sha256

if TYPE_CHECKING:
    from rvrt_cli.model import Network

_LOG_FORMAT = 3  # increases when the scores that are kept change


class ResumeLog:
    """The finished entries of a run: one line of JSON each, appended as soon as it is scored.

    Attributes:
        existed: an earlier run was interrupted.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.existed = path, path.exists()
        self._finished: dict[tuple[str, str], list[dict[str, Any]]] = {}
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # the last line may be incomplete
                    record = json.loads(line)
                    self._finished[record["entry"], record["fingerprint"]] = record["clips"]

    def begin(self) -> None:
        """Create the log before anything else is written, as a sign that a run has begun."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()

    def get(self, entry: str, fingerprint: str) -> list[dict[str, Any]] | None:
        """The scores of an entry's clips, if it is finished and its files have not changed since."""
        return self._finished.get((entry, fingerprint))

    def add(self, entry: str, fingerprint: str, clips: list[dict[str, Any]]) -> None:
        """Append an entry. Where that fails the run continues, but cannot be resumed from here."""
        # on a line of its own: the one before may be incomplete
        line = "\n" + json.dumps({"entry": entry, "fingerprint": fingerprint, "clips": clips})
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def remove(self) -> None:
        """Delete the log of a complete run, and its folders where nothing else is in them."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self.path.parents[:2]:
                folder.rmdir()


def resume_log_path(options: BenchOptions, dataset: Dataset, network: Network) -> Path:
    """Path of the log of this run; it depends on everything that changes the scores or the saved frames."""
    facts = [
        __version__,
        _LOG_FORMAT,
        file_sha256(options.model, options.weights),
        dataset.protocol,
        str(Path(options.data).resolve()) if options.data else "",
        dataset.description,
        dataset.degradation,
        dataset.low_resolution,
        str(Path(options.save).resolve()) if options.save else "",
        network.device.kind,
        network.device.precision,
        str(options.vmaf),
    ]
    return cache_folder() / "bench" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.jsonl"
