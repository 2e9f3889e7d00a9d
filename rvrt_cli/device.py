# SPDX-License-Identifier: Apache-2.0
"""Where the network runs: the only place that sets MindSpore's device, threads and folders.

`use_device` comes before anything that imports MindSpore, because some of its settings are read once, at import.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rvrt_cli.errors import OptionError, OutOfMemoryError, RvrtError
from rvrt_cli.gpu_libraries import driver_problem, first_gpu_use, gpu_free_bytes, load_gpu_plugin, visible_to_linker
from rvrt_cli.options import PRECISIONS, check_choice, isa_limit, parse_device
from rvrt_cli.signals import defer_signals

_MINDSPORE_NAMES = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}


@dataclass(frozen=True)
class Device:
    """Where and how the network computes.

    Attributes:
        kind: "cpu", "gpu" or "ascend".
        precision: "float32"; "float16" on an accelerator; "bfloat16", operands of matrix products only, on a CPU that has it.
        number: of the accelerator, from 0.
    """

    kind: str
    precision: str = "float32"
    number: int = 0

    def free_bytes(self) -> int | None:
        """Free memory of an accelerator; None on the CPU, which computes in the host's."""
        if self.kind == "cpu":
            return None
        if self.kind == "gpu" and (free := gpu_free_bytes(self.number)) is not None:
            return free
        import mindspore as ms

        properties = ms.hal.get_device_properties(self.number, _MINDSPORE_NAMES[self.kind])
        return int(getattr(properties, "free_memory", 0) or properties.total_memory)


def use_device(device: str = "auto", precision: str = "float32", threads: int | None = None) -> Device:
    """Make MindSpore compute on a device, in this process.

    Args:
        device: "cpu", "gpu", "ascend", or with a number, "gpu:1"; "auto" takes an Ascend NPU, else an NVIDIA GPU, else the
            CPU. Without a number, a rank takes the accelerator of its number on its machine, other processes the first.
        precision: "float16" only on an accelerator, "bfloat16" only on a CPU.
        threads: of the CPU; None: as many as the process may use.

    Raises:
        OptionError: an unknown name, a precision that the device lacks, or an unknown RVRT_ISA.
        RvrtError: there is no such device, or no MindSpore.
    """
    kind, number = _requested(device, precision)
    if find_spec("mindspore") is None:
        raise RvrtError(
            "MindSpore is not installed, or has no wheel for this system; choose --runtime onnx, or run "
            "pip install mindspore under Linux with Python 3.10 to 3.12"
        )
    set_environment(threads)
    missing = missing_accelerators(kind)
    with defer_signals(), visible_to_linker():  # an interrupted import leaves half a MindSpore, or aborts
        import mindspore as ms

        found = [name for name in ("ascend", "gpu") if name in missing and not missing[name] and _available(ms, name)]
    chosen = found[0] if found else "cpu"
    if kind not in ("auto", chosen):
        reason = missing[kind] or f"MindSpore finds none, although its {kind.upper()} plugin was loaded"
        raise RvrtError(_no_device(device, reason))
    _check_precision(chosen, precision)
    if chosen == "cpu":
        number = 0
    elif number is None:
        number = int(os.environ["DEVICE_ID"]) if os.environ.get("MS_ROLE") == "MS_WORKER" else 0  # as set by msrun
    _select(ms, chosen, number, device)
    return Device(chosen, precision, number)


def certain_device(device: str = "auto", precision: str = "float32") -> Device | None:
    """The device that `use_device` would take, where that is the CPU for certain; nothing is imported or selected.

    Raises:
        OptionError: as `use_device`.
    """
    kind, _ = _requested(device, precision)
    if kind not in ("auto", "cpu") or not all(missing_accelerators(kind).values()):
        return None
    _check_precision("cpu", precision)
    return Device("cpu", precision)


def check_device(device: str = "auto", precision: str = "float32") -> None:
    """Refuse a device that `use_device` would refuse for certain, before processes start; nothing is imported or selected.

    Raises:
        OptionError: as `use_device`.
        RvrtError: there is no driver for it.
    """
    kind, _ = _requested(device, precision)
    reason = {"gpu": driver_problem, "ascend": _ascend_problem}[kind]() if kind in ("gpu", "ascend") else None
    if reason:
        raise RvrtError(_no_device(device, reason))


def _no_device(device: str, reason: str) -> str:
    return f"--device {device}: {reason}; or choose --device cpu"


def _requested(device: str, precision: str) -> tuple[str, int | None]:
    """Kind and number of a device.

    Raises:
        OptionError: an unknown name, or a precision that the device lacks.
    """
    kind, number = parse_device(device)
    check_choice("--precision", precision, PRECISIONS)
    if kind != "auto":
        _check_precision(kind, precision)
    return kind, number


def _check_precision(kind: str, precision: str) -> None:
    if kind == "cpu" and precision == "float16":
        raise OptionError("--precision float16: needs an accelerator; leave it out, or choose --device gpu")
    if kind == "cpu" and precision == "bfloat16" and not has_bfloat16():
        raise OptionError("--precision bfloat16: this CPU has neither AMX nor AVX512-BF16; leave it out")
    if kind != "cpu" and precision == "bfloat16":
        raise OptionError("--precision bfloat16: only the CPU computes in bfloat16; choose float16, or --device cpu")


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def missing_accelerators(kind: str) -> dict[str, str | None]:
    """Why there is no such accelerator, by kind; None where there may be one."""
    missing = {}
    if kind in ("auto", "gpu"):
        missing["gpu"] = load_gpu_plugin()
    if kind in ("auto", "ascend"):
        missing["ascend"] = _ascend_problem()
    return missing


def _select(ms: Any, kind: str, number: int, device: str) -> None:
    count = ms.hal.device_count(_MINDSPORE_NAMES[kind])
    if number >= count:
        raise RvrtError(f"--device {device}: there is no {kind} {number}; this machine has {count}, counted from 0")
    # Once MindSpore has computed, it refuses to be told even what is selected already. Of the CPU there is no number.
    selected = ms.get_context("device_target"), number if kind == "cpu" else ms.get_context("device_id")
    if selected != (_MINDSPORE_NAMES[kind], number):
        with visible_to_linker():
            ms.set_device(_MINDSPORE_NAMES[kind], number)
    if kind == "gpu":
        with first_gpu_use(number):
            (ms.Tensor([0.0]) + 1).asnumpy()
    if kind == "cpu":
        ms.runtime.launch_blocking()  # the launch queue's threads spin while they wait: a quarter of two cores


def _ascend_problem() -> str | None:
    """Why there is no Ascend NPU, with the remedy; None if there may be one. CANN's set_env.sh sets these variables."""
    if not Path("/dev/davinci_manager").exists():
        return "there is no Ascend driver; install Huawei's driver and firmware"
    if not any(os.environ.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")):
        return "CANN's environment is not set; run source /usr/local/Ascend/ascend-toolkit/set_env.sh"
    return None


def set_environment(threads: int | None = None) -> None:
    """Set the environment variables that MindSpore reads once, at import; those that the user has set stay.

    Raises:
        OptionError: an unknown RVRT_ISA; the C++ library would take it for no limit.
    """
    limit = isa_limit()
    # Errors are raised. Besides, MindSpore logs as errors what are none: on 12 cores or more, that a part of a tensor is
    # smaller than the tensor.
    os.environ.setdefault("GLOG_v", "4")
    # Under AVX-512, oneDNN runs convolutions in NCHW layout by its reference code: 1 instead of 100 GFLOP/s.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "SSE41" if limit == "portable" else "AVX2")
    # OpenMP has a team of threads for each thread of MindSpore that runs kernels. The threads of one team must not spin while
    # they wait for work and another one computes: on a busy machine that makes a call up to ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Folders that a compilation leaves behind (rank_0, kernel_meta) must not land in the working directory.
    folder = str(Path(tempfile.gettempdir()) / f"rvrt-mindspore-{os.getuid() if hasattr(os, 'getuid') else 0}")
    os.environ.setdefault("MS_OM_PATH", folder)
    os.environ.setdefault("MS_COMPILER_CACHE_PATH", folder)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _available(ms: Any, kind: str) -> bool:
    try:
        return ms.hal.is_available(_MINDSPORE_NAMES[kind]) and ms.hal.device_count(_MINDSPORE_NAMES[kind]) > 0
    except Exception:  # MindSpore passes on whatever its plugin raises
        return False


MEMORY_SHARE = 0.8  # of what is free; the rest is for the user's other programs


@dataclass(frozen=True)
class MemoryBudget:
    """Memory that a job may use [bytes]: of the host, and of an accelerator with memory of its own (None on the CPU)."""

    host: int
    device: int | None = None

    @property
    def network(self) -> int:
        """What the network's tensors may take."""
        return self.host if self.device is None else self.device


def host_budget(limit: int | None = None, ranks: int = 1) -> int:
    """Main memory of each of `ranks` processes [bytes]: their share of `limit`, or of `MEMORY_SHARE` of what is free."""
    return (limit if limit is not None else int(MEMORY_SHARE * host_free_bytes())) // ranks


def memory_budget(device: Device, limit: int | None = None, ranks: int = 1) -> MemoryBudget:
    """The budget of each of `ranks` processes on this machine; arguments as `host_budget`."""
    free = device.free_bytes()
    return MemoryBudget(host_budget(limit, ranks), None if free is None else int(MEMORY_SHARE * free))


def host_free_bytes() -> int:
    """Main memory that this process may still take [bytes], within a container's limit too."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # there is not always such a limit
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)


def return_free_memory() -> None:
    """Give the memory that this process has freed back to the system.

    Eager calls of MindSpore leave glibc's heap so fragmented that it would grow with every call.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


_OUT_OF_MEMORY = re.compile(
    r"memory isn't enough|out of memory|alloc\w* .*fail|malloc|memory not enough"
    r"|function\(cuda_\w+\) is 5\b",  # status kMemory of the CUDA kernels
    re.IGNORECASE,
)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn MindSpore's various out-of-memory errors into one.

    Raises:
        OutOfMemoryError: in place of a RuntimeError or MemoryError that means it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemoryError(
                "the device's memory is not enough for this call; choose a smaller --tile or --window"
            ) from error
        raise
