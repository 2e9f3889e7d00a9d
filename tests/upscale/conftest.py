# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale` in this process, with a network of NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.shared_preflight import preflight_once  # noqa: F401  a fixture
from helpers.upscale_runs import Echo, as_word
from helpers.video_clips import leftovers

import rvrt_cli.upscale.job
from rvrt_cli.cli import main


@pytest.fixture
def upscale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture) -> Callable[..., str]:
    """The command in this process, with segments of 8 frames and a network of NumPy; what it says, and writes (`out`)."""

    def run(source: Path, target: Path | str, *options: object, status: int = 0) -> str:
        network = Echo(str(tmp_path / "calls"), seconds=0)
        monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: network)
        plan = ["--window", "8", "--lookahead", "2", "--segment", "0"]
        arguments = ["rvrt", "upscale", source, target, *plan, *options]
        monkeypatch.setattr(sys, "argv", [as_word(argument) for argument in arguments])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfdbinary.readouterr()
        run.out, said = captured.out, captured.err.decode()
        assert (end.value.code or 0) == status, said
        (tmp_path / "calls").unlink(missing_ok=True)
        assert leftovers(tmp_path) == []
        return said

    return run
