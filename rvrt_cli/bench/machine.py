"""What a measurement ran on, and how much memory the process has held."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvrt_cli.options import usable_cores

if TYPE_CHECKING:
    from rvrt_cli.device import Device

_SIMD = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # the widest first


def describe(device: Device) -> dict[str, Any]:
    """The machine, for a reader of the figures; names no host, user or path."""
    import mindspore as ms

    from rvrt_cli.ops import kernels_active

    processor, flags = _processor()
    return {
        "device": device.kind,
        "name": processor if device.kind == "cpu" else _accelerator(device),
        "processor": processor,
        "cores": usable_cores(),
        "threads": _threads(),
        "simd": next((name for flag, name in _SIMD.items() if flag in flags), None),
        "precision": device.precision,
        "mindspore": ms.__version__,
        "kernels": device.kind == "cpu" and kernels_active(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _threads() -> int:
    """Threads of an operation. OpenMP takes a number for each level of nesting, such as "2,1"; ours is the first."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else usable_cores()


def peak_rss_bytes() -> int:
    """The most main memory that this process has held.

    From the process's own status where there is one: what `getrusage` says begins with what the program that started us
    had held.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def peak_device_bytes(device: Device) -> int | None:
    """The most memory that tensors have taken on an accelerator since `forget_device_peak`; None on a CPU."""
    if device.kind == "cpu":
        return None
    import mindspore as ms

    return int(ms.runtime.max_memory_allocated())


def forget_device_peak(device: Device) -> None:
    """Begin anew what `peak_device_bytes` tells."""
    if device.kind != "cpu":
        import mindspore as ms

        ms.runtime.reset_max_memory_allocated()


def synchronize(device: Device, result: Any = None) -> None:
    """Wait until the device has done all that it was given.

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
    """What other programs take of the processors from here on."""

    def __init__(self) -> None:
        self._wall, self._busy = time.perf_counter(), _busy_seconds()

    def share(self) -> float:
        """Their share since the beginning: 0 is a quiet machine, 1 is one on which there was nothing left for us."""
        wall, busy = time.perf_counter() - self._wall, _busy_seconds() - self._busy
        return min(1.0, max(0.0, busy / wall / (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """CPU seconds of everything but this process, idling aside, since the machine began."""
    import psutil

    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")  # "guest" is in "user"
    return sum(getattr(everything, name, 0.0) for name in names) - own.user - own.system


def _processor() -> tuple[str, frozenset[str]]:
    """Name and features of the CPU."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = frozenset(value.split())
    return name, flags


def _accelerator(device: Device) -> str:
    import mindspore as ms

    try:
        return str(ms.hal.get_device_name(0, {"gpu": "GPU", "ascend": "Ascend"}[device.kind]))
    except Exception:  # MindSpore raises what its plugin happened to meet; a name is no reason to stop
        return device.kind
