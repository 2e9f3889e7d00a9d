# SPDX-License-Identifier: Apache-2.0
"""Settings that MindSpore reads at import, as `rvrt_cli.device` makes them; and a working directory to throw away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.kernel_calls import ISAS, Kernels

import rvrt_cli
from rvrt_cli.device import set_environment
from rvrt_cli.options import usable_cores

set_environment()
# Several processes share the cores: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Processes that tests start import what the tests import, be it the installed package or the checkout, and these helpers.
_IMPORTED = [*map(str, (Path(rvrt_cli.__file__).parents[1], Path(__file__).parent)), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _IMPORTED))
# A shell starts what it runs in the background with Ctrl-C ignored; programs under test would inherit that, and keep it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores for the tests, as some tests wait for processes of their own."""
    return usable_cores() + 1


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """All kernels: those of the package, or compiled anew for $CXX and $CXXFLAGS (sanitizers, other compilers)."""
    from rvrt_cli.ops import kernels  # imports MindSpore, which reads the settings
    from rvrt_cli.ops.kernels.build import build

    path = kernels.library()
    if path and not kernels.problem() and not {"CXX", "CXXFLAGS"} & set(os.environ):
        return Kernels(path)
    built = build(tmp_path_factory.getbasetemp() / "kernels")
    if built.library is None:
        pytest.skip(built.note)
    return Kernels(built.library)


@pytest.fixture(params=range(len(ISAS)), ids=ISAS)
def kernels(library: Kernels, request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """The library on every instruction set that this processor has, on two threads."""
    try:
        if not library.limit(request.param, threads=2):
            pytest.skip(f"this processor has no {ISAS[request.param]}")
        yield library
    finally:
        library.limit()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: nothing may land in, or be read from, the folder that the tests were started in."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder
