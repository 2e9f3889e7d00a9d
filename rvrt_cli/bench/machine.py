# SPDX-License-Identifier: Apache-2.0
"""What a measurement ran on, how much memory the process has taken, and how busy other programs were."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvrt_cli.options import isa_limit, usable_cores

if TYPE_CHECKING:
    from rvrt_cli.device import Device

_SIMD_OF_FLAGS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # the widest first
SHOWN_ISA = {"portable": "portable", "avx2": "AVX2", "avx512": "AVX-512"}  # of `ISA_NAMES`


def describe_machine(device: Device) -> dict[str, Any]:
    """The machine, for a reader of the figures: no host name, user or path."""
    import mindspore as ms

    from rvrt_cli.ops import kernels, kernels_active

    cpu, flags = processor()
    on_cpu = kernels_active() and device.kind == "cpu"
    isa = kernels.instruction_set() if on_cpu else None
    return {
        "device": device.kind,
        "name": cpu if device.kind == "cpu" else _accelerator_name(device),
        "processor": cpu,
        "cores": usable_cores(),
        "threads": openmp_threads(),
        "simd": next((name for flag, name in _SIMD_OF_FLAGS.items() if flag in flags), None),
        "precision": device.precision,
        "mindspore": ms.__version__,
        "kernels": kernels_active(),
        "kernels_isa": None if isa is None else SHOWN_ISA[isa],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def isa_note(machine: dict[str, Any]) -> str | None:
    """A line for the reader where the processor lacks the instruction set that RVRT_ISA names, which is a limit only."""
    limit, used = isa_limit(), machine["kernels_isa"]
    order = list(SHOWN_ISA.values())
    if limit is None or used is None or order.index(used) >= order.index(SHOWN_ISA[limit]):
        return None
    return f"RVRT_ISA={limit}: this processor has no {SHOWN_ISA[limit]}; the kernels' instruction set is {used}"


def openmp_threads() -> int:
    """Threads per operation: of OpenMP's numbers, one for each level of nesting such as "2,1", the first."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else usable_cores()


def peak_rss_bytes() -> int:
    """The most main memory that this process has taken [bytes].

    Read from the process's own status where there is one: `getrusage` starts from the peak of the program that started us.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def peak_device_bytes(device: Device) -> int | None:
    """The most memory of tensors on an accelerator since `reset_device_peak` [bytes]; None on a CPU."""
    if device.kind == "cpu":
        return None
    import mindspore as ms

    return int(ms.runtime.max_memory_allocated())


def reset_device_peak(device: Device) -> None:
    """Start `peak_device_bytes` again from what is allocated now."""
    if device.kind != "cpu":
        import mindspore as ms

        ms.runtime.reset_max_memory_allocated()


def synchronize(device: Device, result: Any = None) -> None:
    """Wait until the device has finished its work.

    On a CPU MindSpore has no such call, and some stages return before their work is done: there the tensors of `result`
    (nested in tuples, lists and dataclasses) are fetched, which waits for them and costs next to nothing.
    """
    if device.kind != "cpu":
        import mindspore as ms

        ms.runtime.synchronize()
    elif hasattr(result, "asnumpy"):
        result.asnumpy()
    elif isinstance(result, list | tuple):
        for part in result:
            synchronize(device, part)
    elif dataclasses.is_dataclass(result):
        synchronize(device, list(vars(result).values()))


class OtherLoad:
    """The processor time that other programs take, from the creation of this object on."""

    def __init__(self) -> None:
        self._wall, self._busy = time.perf_counter(), _busy_seconds()

    def share(self) -> float:
        """Their share of all processors: 0 on a quiet machine, 1 where nothing was left for us."""
        wall, busy = time.perf_counter() - self._wall, _busy_seconds() - self._busy
        return min(1.0, max(0.0, busy / wall / (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """CPU time of everything but this process since the machine started, idle time excluded [s]."""
    import psutil

    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")  # "guest" is in "user"
    return sum(getattr(everything, name, 0.0) for name in names) - own.user - own.system


def processor() -> tuple[str, frozenset[str]]:
    """Name and feature flags of the CPU."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = frozenset(value.split())
    return name, flags


def _accelerator_name(device: Device) -> str:
    import mindspore as ms

    try:
        return str(ms.hal.get_device_name(0, {"gpu": "GPU", "ascend": "Ascend"}[device.kind]))
    except Exception:  # MindSpore passes on whatever its plugin raises; a name is no reason to stop
        return device.kind
