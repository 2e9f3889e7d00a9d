"""The result of `rvrt bench --json`: one object with always the same keys, null where something was not measured."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from rvrt_cli import __version__
from rvrt_cli.errors import OptionError

# Key → meaning. A key keeps its name and meaning; new ones may join. MB is 10^6 bytes, GFLOP 10^9 operations.
KEYS = {
    "rvrt": "version of this program",
    "kind": '"speed" or "quality"',
    "network": "name in the weights' card, or the preset's",
    "weights": '"trained", "untrained" or "random"',
    "parameters": "number of weights",
    "machine": "what it ran on: device, name, processor (of the host), cores, threads (of an operation), simd, precision, "
    "mindspore, kernels, python, system",
    "notes": "what a reader should know, one line each",
    # speed
    "other_load": "share of the processors that other programs took while the calls were timed: 0 is a quiet machine",
    "frames": "of one call",
    "width": "of an LR frame [px]",
    "height": "of an LR frame [px]",
    "repeat": "calls that were timed, after warm-up",
    "seconds_per_call": "median over the repeats; input, output and state are in main memory",
    "seconds_per_call_min": "the fastest",
    "seconds_per_call_max": "the slowest",
    "seconds_per_frame": "seconds_per_call / frames",
    "frames_per_second": "frames / seconds_per_call",
    "gflop_per_call": "operations of convolutions, dense layers and attention, counted from the configuration",
    "gflops": "gflop_per_call / seconds_per_call",
    "gemm_gflops": "rate of a 2048x2048x2048 matrix product under ms.jit in the same run, median",
    "efficiency": "gflops / gemm_gflops",
    "compile_seconds": "of the first call, beyond a later one",
    "peak_rss_mb": "most main memory that the process has held up to the end of the timed calls, MindSpore included",
    "peak_device_mb": "most memory of an accelerator that tensors have taken; null on a CPU",
    "stages": "seconds of one more call by stage: flow, neighbors, features, each branch, alignment, reconstruction, other",
    "pipeline": "the whole of `rvrt upscale` on a clip: see rvrt_cli/bench/pipeline.py",
    "sweep": "points (frames, width, height, seconds_per_call, peak_rss_mb, ...), each measured in a process of its own",
    "training": "a whole training step: network, batch, frames, width, height (of LR samples), seconds_per_step (median), "
    "steps_per_hour, gflop_per_step, gflops, gemm_gflops, efficiency, compile_seconds, peak_rss_mb",
    "kernels": "each C++ kernel against its definition: name, and of forward and gradient kernel_seconds, definition_seconds, "
    "factor",
    "growth": "exponent of the time over frames and over px, from the sweep: 1 is linear",
    "memory_growth": "from the sweep: bytes_per_pixel (of each LR px of each frame), base_mb, off_line (worst, a share)",
    # quality
    "protocol": "as chosen",
    "data": "which set, and which list of it",
    "degradation": '"bi", "bd" or "video"',
    "low_resolution": "where it comes from: the set's own, or made from the targets",
    "channel": 'on which PSNR and SSIM are: "y" or "rgb"',
    "sample": "whether --limit left clips out: then the figures are not the protocol's",
    "clips_scored": "number; a video with all its shots is one",
    "clips_total": "number in the set, counted alike",
    "shots_scored": "number of entries of clips",
    "frames_scored": "number",
    "psnr_y": "mean over the clips of each clip's mean over frames [dB]; null if any frame equals its target. "
    "Of protocol clips without what bicubic enlarges exactly, such as black frames",
    "ssim_y": "likewise",
    "bicubic_psnr_y": "MATLAB's bicubic enlargement, scored alike",
    "bicubic_ssim_y": "likewise",
    "psnr_rgb": "where the channel is rgb",
    "ssim_rgb": "likewise",
    "bicubic_psnr_rgb": "likewise",
    "bicubic_ssim_rgb": "likewise",
    "vmaf": "mean over the clips, ffmpeg's libvmaf, its default model",
    "bicubic_vmaf": "likewise",
    "clips": "the same per clip, with frames, exact (frames that PSNR leaves out), window, tile and seconds",
    "published": "figures of others for the same job: network; on, seconds_per_call or seconds_per_frame, gb (memory) of "
    "speed; psnr, ssim of quality; published, always true: not measured here",
}


def report(kind: str, **values: Any) -> dict[str, Any]:
    """A result with all keys, in order.

    Raises:
        KeyError: a key that is not in KEYS.
    """
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise KeyError(f"not in KEYS: {', '.join(unknown)}")
    return {**dict.fromkeys(KEYS), "rvrt": __version__, "kind": kind, "notes": [], "published": [], **values}


def to_json(result: dict[str, Any]) -> str:
    """JSON text; numbers that JSON cannot hold (infinite PSNR) become null."""
    return json.dumps(_finite(result), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end, before any work starts.

    Raises:
        OptionError: its folder is missing or cannot be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise OptionError(f"{path}: is a folder; name a file")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"{path}: its folder does not exist; make it first")
    if not os.access(path.resolve().parent, os.W_OK):
        raise OptionError(f"{path}: its folder cannot be written to; choose another place")
