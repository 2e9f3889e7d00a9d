"""Settings that MindSpore reads at import, as `rvrt_cli.device` makes them; and a working directory to throw away."""

from __future__ import annotations

from pathlib import Path

import pytest

from rvrt_cli.device import _prepare

_prepare(None)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: nothing may land in, or be read from, where the tests were started."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder
