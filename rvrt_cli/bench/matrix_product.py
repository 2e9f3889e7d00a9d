# SPDX-License-Identifier: Apache-2.0
"""The yardstick of speed: the best matrix product that the machine shows, NumPy's or MindSpore's."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from rvrt_cli.bench.machine import SHOWN_ISA, openmp_threads, synchronize
from rvrt_cli.bench.numpy_product import PRODUCT_CHAIN, PRODUCT_REPEAT
from rvrt_cli.data.worker_pool import BLAS_THREAD_VARIABLES
from rvrt_cli.device import Device
from rvrt_cli.errors import RvrtError
from rvrt_cli.options import isa_limit, usable_cores

_PRODUCT_EDGE = 2048  # of the matrices
# OpenBLAS's kernels of an instruction set; Prescott's use SSE3, the nearest to the portable kernels' SSE2.
_OPENBLAS_CORES = {"portable": "Prescott", "avx2": "Haswell"}
_CHILD_TIMEOUT = 300  # s


@dataclass(frozen=True)
class NumpyProduct:
    """NumPy's float32 product.

    Attributes:
        gflops: median rate [GFLOP/s].
        threads: that it was allowed: all cores that this process may use.
        core: processor whose kernels OpenBLAS took, such as "Haswell"; None for another library.
        held_to: instruction set to which RVRT_ISA held it, as `SHOWN_ISA` has it; None: the library's own choice.
    """

    gflops: float
    threads: int
    core: str | None
    held_to: str | None


@dataclass(frozen=True)
class MatrixProduct:
    """Rates of a 2048×2048×2048 product: MindSpore's, in the device's precision, and on a CPU NumPy's."""

    mindspore_gflops: float
    numpy: NumpyProduct | None

    @property
    def best(self) -> float:
        """The higher of both [GFLOP/s]."""
        return max(self.mindspore_gflops, self.numpy.gflops if self.numpy else 0.0)

    def facts(self) -> dict[str, Any]:
        """The keys of a report."""
        found: dict[str, Any] = {"gemm_gflops": self.best, "gemm_mindspore_gflops": self.mindspore_gflops}
        if self.numpy is not None:
            blas = {"threads": self.numpy.threads, "core": self.numpy.core, "held_to": self.numpy.held_to}
            found |= {"gemm_numpy_gflops": self.numpy.gflops, "gemm_numpy": blas}
        return found

    def notes(self) -> list[str]:
        """Caveats for the reader of a share of `best`."""
        if self.numpy is None:
            return []
        notes = []
        if openmp_threads() < self.numpy.threads:
            notes.append(
                f"OMP_NUM_THREADS={openmp_threads()} limits the network and not NumPy's matrix product, which has all "
                f"{self.numpy.threads} cores; to limit both, run it under taskset"
            )
        limit = isa_limit()
        if limit in _OPENBLAS_CORES and self.numpy.held_to is None:
            notes.append(f"RVRT_ISA={limit} does not limit NumPy's matrix product: NumPy is not built with OpenBLAS")
        return notes


def measure_product(device: Device) -> MatrixProduct:
    """Time the product of both libraries, one after the other; on an accelerator only MindSpore's.

    Raises:
        RvrtError: NumPy could not be run in a process of its own.
    """
    mindspore = _mindspore_gflops(device)
    return MatrixProduct(mindspore, measure_numpy_product() if device.kind == "cpu" else None)


def measure_numpy_product() -> NumpyProduct:
    """Time NumPy's product in a process of its own: its library reads threads and instruction set once, when it is loaded.

    Raises:
        RvrtError: the process failed.
    """
    threads, limit = usable_cores(), isa_limit()
    environment = {
        **os.environ,
        **dict.fromkeys(BLAS_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_VERBOSE": "2",  # it says which kernels it takes
    }
    wanted = _OPENBLAS_CORES.get(limit or "") if platform.machine().lower() in ("x86_64", "amd64") else None
    if wanted:
        environment["OPENBLAS_CORETYPE"] = wanted
    command = [sys.executable, "-m", "rvrt_cli.bench.numpy_product", str(_PRODUCT_EDGE)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_CHILD_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise RvrtError(
            f"NumPy's matrix product took more than {_CHILD_TIMEOUT} s; measure on a quiet machine"
        ) from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise RvrtError(f"NumPy's matrix product failed in a process of its own ({reason}); check the memory, or NumPy")
    cores = re.findall(r"^Core: (\S+)", done.stderr, re.MULTILINE)
    core = cores[-1] if cores else None
    held_to = SHOWN_ISA[limit] if limit and wanted and core == wanted else None
    return NumpyProduct(float(done.stdout), threads, core, held_to)


def _mindspore_gflops(device: Device) -> float:
    """Rate of the product under `ms.jit`, in the device's precision, median [GFLOP/s]."""
    import mindspore as ms

    rng = np.random.default_rng(0)
    dtype = ms.float16 if device.precision == "float16" else ms.float32
    elements = rng.standard_normal((_PRODUCT_EDGE, _PRODUCT_EDGE)) / math.sqrt(_PRODUCT_EDGE)  # see numpy_product
    matrix = ms.Tensor(elements, dtype)
    graph = ms.jit(_matrix_product)
    seconds = []
    for _ in range(PRODUCT_REPEAT + 1):  # the first one compiles and warms up
        product = matrix
        synchronize(device)
        start = time.perf_counter()
        for _ in range(PRODUCT_CHAIN):  # so that the final fetch costs little
            product = graph(matrix, product)
        synchronize(device, product)
        seconds.append(time.perf_counter() - start)
    return 2 * _PRODUCT_EDGE**3 * PRODUCT_CHAIN / statistics.median(seconds[1:]) / 1e9


def _matrix_product(a: Any, b: Any) -> Any:  # a function of this module: MindSpore knows a graph by the function's id
    return a @ b
