# SPDX-License-Identifier: Apache-2.0
"""`rvrt` as a user calls it: in this process, where MindSpore and compiled networks stay, or in one of its own."""

from __future__ import annotations

import functools
import sys

import pytest

import rvrt_cli.bench.speed
import rvrt_cli.upscale.job
from helpers.upscale_runs import as_word
from rvrt_cli.cli import main
from rvrt_cli.upscale import load_network

RVRT = (sys.executable, "-c", "from rvrt_cli.cli import main; main()")  # a command line, without arguments

_load_once = functools.cache(load_network)


def rvrt(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["rvrt", *map(as_word, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which a command ends, after status 1 and nothing on standard output."""
    capsys.readouterr()
    assert rvrt(monkeypatch, *arguments) == 1
    shown, said = capsys.readouterr()
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert shown == ""
    return lines[0]


def keep_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load each network once per process: a network that is loaded again compiles again, for seconds."""
    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", _load_once)
    monkeypatch.setattr(rvrt_cli.bench.speed, "load_network", _load_once)
