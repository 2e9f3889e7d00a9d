# SPDX-License-Identifier: Apache-2.0
"""Which execution provider of ONNX Runtime a --device means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rvrt_cli.device import Device
from rvrt_cli.errors import OptionError
from rvrt_cli.gpu_libraries import gpu_free_bytes

_SUFFIX = "ExecutionProvider"
# What "gpu" and "auto" mean, the first that is there. TensorRT builds an engine for minutes: only where it is asked for
_GPU = ("cuda", "rocm", "migraphx", "dml")
_ALIASES = {"auto": (*_GPU, "cann", "cpu"), "gpu": _GPU, "ascend": ("cann",)}
_NUMBERED = ("cuda", "tensorrt", "rocm", "migraphx", "dml", "cann")
_REMOTE = "azure"  # not a device


@dataclass(frozen=True)
class OnnxDevice(Device):
    """Where an exported network runs; `kind` is the provider's name in lower case, such as "cuda"."""

    def free_bytes(self) -> int | None:
        """Free memory of an NVIDIA GPU; None for other devices, of which ONNX Runtime does not say it."""
        return gpu_free_bytes(self.number) if self.kind in ("cuda", "tensorrt") else None

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """The provider and its options, as ONNX Runtime takes them; then that of what the first one cannot run."""
        names, options = provider_names(), {"device_id": str(self.number)} if self.kind in _NUMBERED else {}
        kinds = (self.kind, "cuda") if self.kind == "tensorrt" else (self.kind,)
        return [(names[kind], options) for kind in kinds if kind in names]


def provider_names() -> dict[str, str]:
    """ONNX Runtime's names of its execution providers by ours, "cuda" for "CUDAExecutionProvider"."""
    import onnxruntime

    names = {name.removesuffix(_SUFFIX).lower(): name for name in onnxruntime.get_available_providers()}
    names.pop(_REMOTE, None)
    return names


def choose_provider(device: str, precision: str = "float32") -> OnnxDevice:
    """The device of a --device: auto, cpu, gpu, ascend or a provider such as cuda, with a number if wanted, "gpu:1".

    Raises:
        OptionError: the installed ONNX Runtime has no such provider.
    """
    kind, colon, number = device.partition(":")
    known = provider_names()
    found = [name for name in _ALIASES.get(kind, (kind,)) if name in known]
    if not found:
        remedy = (
            "run pip install '.[onnx-gpu]' in rvrt's checkout"
            if kind in (*_GPU, "gpu", "tensorrt")
            else "install one that has it"
        )
        raise OptionError(
            f"--device {device}: the installed ONNX Runtime has only {', '.join(sorted(known))}; choose one, or {remedy}"
        )
    if colon and (found[0] not in _NUMBERED or not re.fullmatch(r"[0-9]{1,3}", number)):
        raise OptionError(f"--device {device!r}: a number belongs to a GPU or NPU, such as gpu:1")
    return OnnxDevice(found[0], precision, int(number) if colon else 0)
