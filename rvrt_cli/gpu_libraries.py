# SPDX-License-Identifier: Apache-2.0
"""Loads CUDA 11's libraries and MindSpore's GPU plugin, so that `pip install ".[gpu]"` and a driver are enough.

MindSpore 2.10 looks for its plugin only where CUDA_HOME names a CUDA 11 with its compiler, and leaves the libraries to the
dynamic linker. A plugin that has been loaded before `import mindspore` registers itself all the same, and finds what it
needs among the libraries that are loaded already. No MindSpore import here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import cache_folder, write_atomically

# In the order in which they need one another, as NVIDIA's packages for CUDA 11 name them
_CUDA_LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.11.0",
    "cuda_nvrtc/lib/libnvrtc.so.11.2",
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cudnn/lib/libcudnn.so.8",
    "curand/lib/libcurand.so.10",
    "cusparse/lib/libcusparse.so.11",
    "cusolver/lib/libcusolver.so.11",
    "cufft/lib/libcufft.so.10",
)
_PLUGIN = "lib/plugin/libmindspore_gpu.so.11.6"
_OLDEST_DRIVER = 11060  # the CUDA version that a driver is for: MindSpore's plugin is built with CUDA 11.6
_OLDEST_CARD = 60  # compute capability × 10 of the oldest card that the plugin has code for
_COMPILED_CARDS = 90  # from here on the plugin has no machine code, and the driver compiles what it needs
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # attributes of a device, in cuda.h


def load_gpu_plugin() -> str | None:
    """Load the libraries and the plugin into this process; before MindSpore is imported.

    Where there is no NVIDIA driver, nothing is loaded.

    Returns:
        None, or why there is no GPU, with the remedy.
    """
    try:
        _check_driver()
        os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # CUDA's libraries hold hundreds of MB of kernels
        for name in _CUDA_LIBRARIES:
            _load_library(name)
        for folder in _package_folders("mindspore"):
            ctypes.CDLL(str(folder / _PLUGIN))
    except RvrtError as error:
        return str(error)
    except OSError as error:
        return f"MindSpore's GPU plugin cannot be loaded ({error}); reinstall it with pip install --force-reinstall mindspore"
    return None


def driver_problem() -> str | None:
    """Why NVIDIA's driver and cards cannot be used, with the remedy; None if they can. Loads nothing but the driver."""
    try:
        _check_driver()
    except RvrtError as error:
        return str(error)
    return None


def _check_driver() -> None:
    """There is a driver that is new enough, and a card that is not too old."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise RvrtError("there is no NVIDIA driver; install one (version 510 or later)") from None
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < _OLDEST_DRIVER:
        found = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise RvrtError(
            f"the NVIDIA driver is for CUDA {found} and MindSpore needs 11.6; update it to version 510 or later"
        )
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        raise RvrtError("the NVIDIA driver finds no card; check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if all(card_capability(card) < _OLDEST_CARD for card in range(count.value)):
        raise RvrtError(
            f"MindSpore has no code for a card of compute capability {card_capability(0) / 10}, only from 6.0 on"
        )


def card_capability(card: int) -> int:
    """Compute capability of a card, such as 90 for 9.0.

    Raises:
        RvrtError: there is no such card.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, card):
            raise RvrtError(f"NVIDIA's driver does not know card {card}")
        numbers.append(value.value)
    return 10 * numbers[0] + numbers[1]


@contextlib.contextmanager
def first_gpu_use(card: int) -> Iterator[None]:
    """To be held around MindSpore's first operation on a card.

    On a card that is newer than the plugin this takes minutes, once for each version of the driver: the user is told. And
    MindSpore makes an empty folder `offload` in the working directory, which is removed.
    """
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    capability, folder = card_capability(card), Path("offload")
    known = cache_folder() / "cuda-kernels" / f"mindspore-{capability}-{version.value}"
    compiles = capability >= _COMPILED_CARDS and not known.exists()
    if compiles:
        logging.getLogger(__name__).warning(
            "rvrt: the driver compiles MindSpore's own kernels for this card, for some minutes, and keeps them"
        )
    was_there = folder.exists()
    yield
    if not was_there:
        with contextlib.suppress(OSError):
            folder.rmdir()
    if compiles:
        with contextlib.suppress(RvrtError):
            write_atomically(known, b"", shared=True)


def _load_library(name: str) -> None:
    """Load a library: the system's where CUDA_HOME names a CUDA, else that of NVIDIA's package, else the system's."""
    file = Path(name).name
    system = Path(os.environ.get("CUDA_HOME", "")) / "lib64" / file
    installed = [folder / name for folder in _package_folders("nvidia") if (folder / name).exists()]
    chosen = system if os.environ.get("CUDA_HOME") and system.exists() else installed[0] if installed else Path(file)
    try:
        ctypes.CDLL(str(chosen))
    except OSError:
        raise RvrtError(f"{file} of CUDA 11 is missing; run pip install '.[gpu]' in rvrt's checkout") from None


def _package_folders(package: str) -> list[Path]:
    """Where a package lies, without importing it."""
    found = importlib.util.find_spec(package)
    return [Path(path) for path in (found.submodule_search_locations or ())] if found else []


@contextlib.contextmanager
def visible_to_linker() -> Iterator[None]:
    """Inside, child processes find CUDA's libraries: MindSpore asks `ldd` which CUDA there is, and logs an error."""
    folders = [str(path) for folder in _package_folders("nvidia") for path in sorted(folder.glob("*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    if folders:
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([*folders, *([before] if before else [])])
    try:
        yield
    finally:
        if folders and before is None:
            del os.environ["LD_LIBRARY_PATH"]
        elif folders and before is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def gpu_free_bytes(card: int) -> int | None:
    """Free memory of a card [bytes], or None if CUDA does not say: MindSpore only knows the total."""
    with contextlib.suppress(OSError):
        runtime = ctypes.CDLL("libcudart.so.11.0")
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if not runtime.cudaSetDevice(card) and not runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
            return free.value
    return None
