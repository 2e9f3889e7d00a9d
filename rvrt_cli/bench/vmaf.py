# SPDX-License-Identifier: Apache-2.0
"""VMAF, computed by ffmpeg's libvmaf where this ffmpeg has it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.ffmpeg import FFmpeg, ffmpeg_exe, has_filter


def check_vmaf() -> None:
    """Refuse --vmaf where ffmpeg cannot compute it.

    Raises:
        OptionError: this ffmpeg has no libvmaf.
    """
    if not has_filter("libvmaf"):
        raise OptionError(
            f"--vmaf: {ffmpeg_exe()} has no libvmaf; set IMAGEIO_FFMPEG_EXE to one that has it, or omit --vmaf"
        )


def vmaf(frames: np.ndarray, reference: np.ndarray) -> float:
    """VMAF (0…100, libvmaf's default model) of a clip (T, H, W, 3) uint8, mean over its frames; computed in 4:2:0.

    Raises:
        MediaError: ffmpeg failed.
    """
    return float(np.mean(vmaf_of_frames(frames, reference)))


def vmaf_of_frames(frames: np.ndarray, reference: np.ndarray) -> list[float]:
    """VMAF of each frame of a clip; arguments and errors as `vmaf`."""
    height, width = reference.shape[1:3]
    with tempfile.TemporaryDirectory(prefix="rvrt-vmaf-") as name:
        folder = Path(name)
        inputs: list[str] = []
        for part, pixels in (("upscaled", frames), ("reference", reference)):
            (folder / part).write_bytes(np.ascontiguousarray(pixels).tobytes())
            inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25"]
            inputs += ["-i", str(folder / part)]
        log = folder / "log.json"
        path = str(log).replace("\\", "\\\\").replace(":", "\\:")  # a colon would end the option's value
        graph = f"[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];[a][b]libvmaf=log_fmt=json:log_path='{path}'"
        program = FFmpeg([*inputs, "-lavfi", graph, "-f", "null", "-"])
        try:
            status = program.wait()
            if status or not log.is_file():
                raise MediaError(f"libvmaf failed ({program.last_error()}); omit --vmaf")
        finally:
            program.kill()
        try:
            return [float(frame["metrics"]["vmaf"]) for frame in json.loads(log.read_text())["frames"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MediaError(f"libvmaf's log has no scores ({error}); omit --vmaf") from error
