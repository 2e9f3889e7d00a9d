# SPDX-License-Identifier: Apache-2.0
"""What there is on this machine for rvrt, and what would make it faster or better."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rvrt_cli.bench.machine import SHOWN_ISA, openmp_threads, processor
from rvrt_cli.device import has_bfloat16, host_free_bytes, missing_accelerators, use_device
from rvrt_cli.doctor.cache_contents import cache_parts
from rvrt_cli.errors import MediaError, RvrtError
from rvrt_cli.files import cache_folder
from rvrt_cli.options import isa_limit, usable_cores
from rvrt_cli.version import __version__
from rvrt_cli.video.ffmpeg import audio_encoders, ffmpeg_exe, ffmpeg_version, has_filter, video_encoders

_PACKAGES = ("mindspore", "numpy", "av", "imageio", "imageio-ffmpeg", "pillow", "safetensors", "click", "rich")
# Encoders that people ask for; the others are as many as ffmpeg lists
_KNOWN_ENCODERS = (
    "libx264",
    "libx265",
    "libvpx-vp9",
    "libsvtav1",
    "libaom-av1",
    "prores_ks",
    "ffv1",
    "h264_nvenc",
    "hevc_nvenc",
    "av1_nvenc",
    "h264_qsv",
    "hevc_qsv",
    "h264_vaapi",
    "hevc_vaapi",
    "h264_videotoolbox",
    "hevc_videotoolbox",
)
_FILTERS = ("zscale", "libvmaf")
_LITTLE_MEMORY = 2 << 30


def examine() -> dict[str, Any]:
    """Facts by topic, plain values for JSON; "advice" is what would help, one line each.

    MindSpore is imported to see which devices it has. No names of hosts or users, and of paths only those of programs and of
    the cache.
    """
    name, _ = processor()
    report: dict[str, Any] = {
        "rvrt": __version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: _installed_version(package) for package in _PACKAGES},
        "processor": {
            "name": name,
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "threads": openmp_threads(),
            "bfloat16": has_bfloat16(),
        },
        "memory": {"free": host_free_bytes(), "total": _total_memory()},
        "devices": _devices(),
        "kernels": _kernels(),
        "ffmpeg": _ffmpeg(),
        "cache": _cache(),
    }
    return {**report, "advice": list(_advice(report))}


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _total_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _devices() -> dict[str, Any]:
    """The device that "auto" takes, and why there is no other; `problem`: why MindSpore cannot be used at all."""
    found: dict[str, Any] = {"chosen": None, "problem": None, "missing": missing_accelerators("auto")}
    try:
        device = use_device("auto")
    except RvrtError as error:
        found["problem"] = str(error)
    except Exception as error:  # whatever a broken installation of MindSpore raises: that is what a report is for
        found["problem"] = f"MindSpore cannot be imported: {error}"
    else:
        free = device.free_bytes()
        found |= {"chosen": device.kind, "number": device.number, "free_memory": free}
    return found


def _kernels() -> dict[str, Any]:
    from rvrt_cli.ops import kernels

    isa = kernels.instruction_set()
    return {
        "compiled": kernels.library() is not None,
        "problem": kernels.problem(),
        "instruction_set": None if isa is None else SHOWN_ISA[isa],
        "limit": isa_limit(),
    }


def _ffmpeg() -> dict[str, Any]:
    try:
        known = video_encoders()
        return {
            "program": ffmpeg_exe(),
            "version": ffmpeg_version(),
            "encoders": [name for name in _KNOWN_ENCODERS if name in known],
            "video_encoders": len(known),
            "audio_encoders": len(audio_encoders()),
            "filters": [name for name in _FILTERS if has_filter(name)],
            "problem": None,
        }
    except MediaError as error:
        return {"program": None, "encoders": [], "filters": [], "problem": str(error)}


def _cache() -> dict[str, Any]:
    parts = {part.name: {"files": len(part.files), "bytes": part.bytes} for part in cache_parts()}
    return {"folder": str(cache_folder()), "parts": parts}


def _advice(report: dict[str, Any]) -> Iterator[str]:
    processor_facts, kernels, ffmpeg = report["processor"], report["kernels"], report["ffmpeg"]
    devices = report["devices"]
    if devices["problem"]:
        yield devices["problem"]
    if kernels["problem"]:
        yield kernels["problem"]
    if devices["chosen"] == "cpu":
        yield from _accelerator_advice(devices["missing"])
        if processor_facts["bfloat16"] and kernels["compiled"]:
            yield "this processor computes in bfloat16: try --precision bfloat16"
    if kernels["limit"] is not None:
        yield f"RVRT_ISA={kernels['limit']} limits the instruction set of the kernels; unset it"
    if processor_facts["threads"] < processor_facts["usable_cores"]:
        yield f"OMP_NUM_THREADS allows {processor_facts['threads']} of {processor_facts['usable_cores']} cores; unset it"
    if report["memory"]["free"] < _LITTLE_MEMORY:
        yield f"only {report['memory']['free'] / 2**30:.1f} GiB of memory are free, so tiles are small; close other programs"
    if ffmpeg["problem"]:
        yield ffmpeg["problem"]
        return
    remedy = "set IMAGEIO_FFMPEG_EXE to one that has it"
    if "zscale" not in ffmpeg["filters"]:
        yield f"this ffmpeg has no zscale, so colors are converted more slowly and less exactly; {remedy}"
    if "libvmaf" not in ffmpeg["filters"]:
        yield f"this ffmpeg has no libvmaf, so rvrt compare and rvrt bench have no VMAF; {remedy}"
    if "libx264" not in ffmpeg["encoders"]:
        yield f"this ffmpeg has no libx264, the default encoder; {remedy}, or give --codec"


def _accelerator_advice(missing: dict[str, str | None]) -> Iterator[str]:
    """What keeps an accelerator from being used whose hardware is there."""
    present = {"gpu": Path("/dev/nvidiactl").exists(), "ascend": Path("/dev/davinci_manager").exists()}
    for kind, reason in missing.items():
        if reason and present[kind]:
            yield f"{kind}: {reason}"
