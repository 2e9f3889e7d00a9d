# SPDX-License-Identifier: Apache-2.0
"""Settings that MindSpore reads at import, as `rvrt_cli.device` makes them; and a working directory to throw away."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.kernel_calls import ISAS, CudaKernels, Kernels
from helpers.null_gpu import build_emulated_driver, build_null_gpu
from helpers.tested_copy import refusal

import rvrt_cli
from rvrt_cli.device import set_environment, use_device
from rvrt_cli.files import locked
from rvrt_cli.options import usable_cores

set_environment()
# Processes that tests start import what the tests import, be it the installed package or the checkout, and these helpers.
_IMPORTED = [*map(str, (Path(rvrt_cli.__file__).parents[1], Path(__file__).parent)), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _IMPORTED))
# Compiled stages are shared by the processes of this run, and not with those of others. pytest-xdist's workers inherit it.
if "RVRT_CACHE" not in os.environ:
    os.environ["RVRT_CACHE"] = _cache = tempfile.mkdtemp(prefix="rvrt-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["XDG_CONFIG_HOME"] = os.path.join(tempfile.gettempdir(), "rvrt-tests-without-settings")  # not the user's own
# A shell starts what it runs in the background with Ctrl-C ignored; programs under test would inherit that, and keep it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Refuse to test an installed copy that is not this checkout: a broken checkout would pass."""
    if why := refusal(Path(rvrt_cli.__file__).parent):
        raise pytest.UsageError(why)


# Files that take longest, which start first: otherwise the last of them runs alone while the other processes are done.
_LONGEST = (
    *("test_gpu_route", "test_train_runs", "test_upscale_ranks", "test_model", "test_cli_upscale"),
    *("test_train_learner", "test_kernels_glue", "test_cli_bench", "test_kernels_cuda", "test_upscale_resume"),
    *("test_exported_network", "test_golden", "test_ops", "test_upscale_faults", "test_check_failures"),
    *("test_compile_cache", "test_video_color", "test_kernels_attention"),
)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of `_LONGEST` before the others, in this order.

    Soak tests are slow too: `-m "not slow"` takes the place of the configuration's `-m "not soak"`.
    """
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


def pytest_collection_finish() -> None:
    """Let MindSpore wait as in the commands: its threads spin otherwise, for four times the processor time of an op."""
    if "mindspore" in sys.modules:
        use_device("cpu")


_collected_before: list[Path] = []  # the file whose tests run


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Spare Python's garbage collector what earlier files have left.

    imageio collects garbage each time that it closes an image, which took a second beside MindSpore's modules and graphs.
    """
    if _collected_before != [item.path]:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # tracing a network makes millions of objects that stay
        _collected_before[:] = [item.path]


_SLOW_SECONDS = 1.0  # of processor time, which other programs lengthen less than the time on the wall


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note a test's processor time in its report."""
    before = _processor_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor seconds", _processor_seconds() - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List tests that lack the mark `slow`."""
    unmarked = [
        f"{seconds:.1f} s {report.nodeid}"
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call" and "slow" not in report.keywords
        for name, seconds in report.user_properties
        if name == "processor seconds" and seconds > _SLOW_SECONDS
    ]
    if unmarked:
        terminalreporter.section(f"more than {_SLOW_SECONDS} s of processor time, and not marked slow")
        terminalreporter.write_line("\n".join(unmarked))


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


@pytest.fixture(scope="session")
def gpu_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the emulated GPU, which all processes of this run share."""
    if platform.system() != "Linux" or platform.machine() != "x86_64" or shutil.which("g++") is None:
        pytest.skip("the emulated GPU needs Linux, x86-64 and g++")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulated-gpu"
    folder.mkdir(exist_ok=True)
    return folder


def _build_once(folder: Path, name: str, build: Callable[[], object]) -> None:
    """Build something in a folder unless another process has done so; wait for one that is at it."""
    while not (folder / f"{name}.done").exists():
        with locked(folder / "lock") as alone:
            if alone and not (folder / f"{name}.done").exists():
                build()
                (folder / f"{name}.done").touch()
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cuda_kernels(library: Kernels, gpu_folder: Path) -> CudaKernels:
    """The CUDA kernels, emulated on the CPU."""
    driver = gpu_folder / "libemulated_gpu.so"
    _build_once(gpu_folder, "emulated", lambda: build_emulated_driver(gpu_folder, driver.name))
    os.environ["NULL_GPU_COMPUTES"] = "1"  # read when the library is loaded
    try:
        return CudaKernels(library.path, driver)
    finally:
        del os.environ["NULL_GPU_COMPUTES"]


@pytest.fixture(scope="session")
def null_gpu(gpu_folder: Path) -> Path:
    """The libraries of `helpers.null_gpu`."""
    _build_once(gpu_folder, "emulated", lambda: build_emulated_driver(gpu_folder, "libemulated_gpu.so"))
    _build_once(gpu_folder, "null", lambda: build_null_gpu(gpu_folder))
    return gpu_folder


_CUDA = "cuda"


@contextlib.contextmanager
def _limited(library: Kernels, isa: str) -> Iterator[Kernels]:
    try:
        if not library.limit(ISAS.index(isa), threads=2):
            pytest.skip(f"this processor has no {isa}")
        yield library
    finally:
        library.limit()


@pytest.fixture(params=ISAS)
def cpu_kernels(library: Kernels, request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """The library on every instruction set that this processor has, on two threads."""
    with _limited(library, request.param) as limited:
        yield limited


@pytest.fixture(params=[*ISAS, _CUDA])
def kernels(library: Kernels, request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """`cpu_kernels`, and the CUDA kernels, emulated."""
    if request.param == _CUDA:
        yield request.getfixturevalue("cuda_kernels")
        return
    with _limited(library, request.param) as limited:
        yield limited


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own: nothing may land in, or be read from, the folder that the tests were started in."""
    folder = Path(tempfile.mkdtemp(prefix="cwd-", dir=tmp_path_factory.getbasetemp()))  # mktemp counts them each time
    monkeypatch.chdir(folder)
    return folder
