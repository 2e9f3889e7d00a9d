# SPDX-License-Identifier: Apache-2.0
"""The result of `rvrt bench --json`: one object that always has the same keys, null where something was not measured."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from rvrt_cli.errors import OptionError
from rvrt_cli.version import __version__

# Key → meaning. A key keeps its name and meaning; new ones may be added. MB is 10^6 bytes, GFLOP 10^9 operations.
KEYS = {
    "rvrt": "version of this program",
    "kind": '"speed" or "quality"',
    "network": "name on the weights' card, or of the preset",
    "weights": '"trained", "untrained", "unknown" (where the card does not say) or "random"',
    "parameters": "number of parameters of the network",
    "machine": "what it ran on: device, name, processor (of the host), cores, threads (per operation), simd (the widest that "
    "the processor has), precision, mindspore, kernels, kernels_isa (instruction set of the C++ kernels: AVX-512, AVX2 or "
    "portable; null without them), python, system",
    "notes": "caveats for the reader, one line each",
    # speed
    "other_load": "share of the processors that other programs took while the calls were timed; 0 on a quiet machine",
    "frames": "number per call",
    "width": "of an LR frame [px]",
    "height": "of an LR frame [px]",
    "repeat": "number of timed calls, after the warm-up",
    "seconds_per_call": "median over the timed calls; input, output and state are in main memory [s]",
    "seconds_per_call_min": "of the fastest call [s]",
    "seconds_per_call_max": "of the slowest call [s]",
    "seconds_per_frame": "seconds_per_call / frames",
    "frames_per_second": "frames / seconds_per_call",
    "gflop_per_call": "operations of convolutions, dense layers and attention, counted from the configuration [GFLOP]",
    "gflops": "gflop_per_call / seconds_per_call [GFLOP/s]",
    "gemm_gflops": "rate of a 2048x2048x2048 matrix product in the same run: the best of gemm_numpy_gflops and "
    "gemm_mindspore_gflops [GFLOP/s]",
    "gemm_numpy_gflops": "of NumPy's product in float32, in a process of its own, median; null on an accelerator [GFLOP/s]",
    "gemm_numpy": "how NumPy's product ran: threads (all usable cores), core (processor whose kernels OpenBLAS took; null for "
    "another library), held_to (instruction set to which RVRT_ISA held it; null: the library's choice)",
    "gemm_mindspore_gflops": "of MindSpore's product under ms.jit, in the precision of the network, median [GFLOP/s]",
    "efficiency": "gflops / gemm_gflops",
    "compile_seconds": "time of the first call beyond that of a later one [s]; little where an earlier run has left compiled stages in the "
    "cache",
    "peak_rss_mb": "peak main memory of the process until the end of the timed calls, MindSpore included [MB]",
    "peak_device_mb": "peak memory of tensors on an accelerator [MB]; null on a CPU",
    "stages": "seconds of one more call by stage: flow, neighbors, features, each branch, alignment, reconstruction, other",
    "onnx": "the same call of the exported network in ONNX Runtime: version, provider, seconds_per_call, opening_seconds (loading and "
    "first call), peak_rss_mb, psnr_to_mindspore [dB], largest_difference (of pixels in [0, 1])",
    "pipeline": "the whole of `rvrt upscale` on a clip: see rvrt_cli/bench/pipeline.py",
    "sweep": "points (frames, width, height, seconds_per_call, peak_rss_mb, ...), each measured in a process of its own",
    "training": "a whole training step, in a process of its own: network, batch, frames, width, height (of LR samples), "
    "seconds_per_step (median), steps_per_hour, gflop_per_step, gflops, gemm_gflops, efficiency, compile_seconds, peak_rss_mb",
    "kernels": "each C++ kernel at the sizes of the networks: name, shape (of its first tensor), gflop (of the forward pass, "
    "convolutions counted as direct ones), and for forward and with_gradient (forward pass and gradients) seconds, gflops, "
    "efficiency (gflops / gemm_gflops), gb_per_second (of kernels that only move memory); part: at a quarter of each side "
    "(shape), with two neighbors to fuse, kernel_seconds, definition_seconds and factor, the kernel against its MindSpore definition",
    "growth": "exponents of the time over frames and over px, from the sweep: 1 is linear",
    "memory_growth": "from the sweep: bytes_per_pixel (per LR px of each frame), base_mb, off_line (largest deviation, as a "
    "share)",
    # quality
    "protocol": "as chosen",
    "data": "the test set, and which list of it",
    "degradation": '"bi", "bd", "video" or "real"; "blur" or "noise" for restoration',
    "noise": "standard deviation of the noise, for denoising [levels of 255]",
    "baseline": 'what the network is compared with: "bicubic", or for restoration its "input"',
    "low_resolution": "its origin: the set's own, or made from the targets",
    "channel": 'what PSNR and SSIM are computed on: "y" or "rgb"',
    "sample": "true if --limit omitted clips: then the figures are not those of the protocol",
    "clips_scored": "number; a video counts once, with all its shots",
    "clips_total": "number in the whole set, counted the same way",
    "shots_scored": "number of entries of clips",
    "frames_scored": "number",
    "psnr_y": "mean over the clips of each clip's mean over frames [dB]; null if any frame equals its target. "
    "For protocol clips, frames that bicubic upscales exactly are excluded, such as black ones",
    "ssim_y": "mean over the clips of each clip's mean over frames",
    "bicubic_psnr_y": "of MATLAB's bicubic upscaling, scored the same way [dB]",
    "bicubic_ssim_y": "of MATLAB's bicubic upscaling, scored the same way",
    "psnr_rgb": "like psnr_y, where the channel is rgb [dB]",
    "ssim_rgb": "like ssim_y, where the channel is rgb",
    "bicubic_psnr_rgb": "like bicubic_psnr_y, where the channel is rgb [dB]",
    "bicubic_ssim_rgb": "like bicubic_ssim_y, where the channel is rgb",
    "input_psnr_rgb": "like bicubic_psnr_rgb, of the input of restoration [dB]",
    "input_ssim_rgb": "like bicubic_ssim_rgb, of the input of restoration",
    "input_vmaf": "like bicubic_vmaf, of the input of restoration",
    "psnr_cb": "for protocol clips, mean over the clips of the PSNR of Cb, by the mean squared error over a clip's frames [dB]; "
    "null if there is no error",
    "psnr_cr": "of Cr",
    "bicubic_psnr_cb": "of MATLAB's bicubic upscaling, scored the same way [dB]",
    "bicubic_psnr_cr": "of Cr",
    "flicker": "for protocol clips, mean over the clips: mean change of luma between frames where nothing moves [levels]. The "
    "input is a frame repeated, with noise of σ 2, after H.264 at CRF 23. Not measured on real",
    "bicubic_flicker": "of MATLAB's bicubic upscaling, measured the same way",
    "vmaf": "mean over the clips, by ffmpeg's libvmaf with its default model",
    "bicubic_vmaf": "of MATLAB's bicubic upscaling, scored the same way",
    "degradations": 'the mean scores of each degradation, where the degradation is "real"',
    "clips": "the scores of each clip, with degradation (one of degradations, or empty), frames, exact (frames excluded from PSNR), window, tile and seconds",
    "published": "figures of others for the same job: network; on, seconds_per_call or seconds_per_frame, gb (memory) for "
    "speed; psnr, ssim for quality; published, always true: not measured here",
}


def make_report(kind: str, **values: Any) -> dict[str, Any]:
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
    return json.dumps(_null_if_infinite(result), indent=2, allow_nan=False) + "\n"


def _null_if_infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_if_infinite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null_if_infinite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end, before any work starts.

    Raises:
        OptionError: its folder is missing or not writable, or it is a folder itself.
    """
    if path.is_dir():
        raise OptionError(f"{path}: is a folder; name a file")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"{path}: its folder does not exist; create it first")
    if not os.access(path.resolve().parent, os.W_OK):
        raise OptionError(f"{path}: its folder is not writable; choose another place")
