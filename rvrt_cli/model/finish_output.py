# SPDX-License-Identifier: Apache-2.0
"""Chroma shrinkage and steadying of the output: by kernels (`finish_output.cc`), or else by their definitions.

N batch, T frames, H×W input size [px].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rvrt_cli.model.chroma_shrinkage import shrink_chroma
from rvrt_cli.model.config import UPSAMPLING
from rvrt_cli.model.outline import FRAMES_STATE, OUTPUT_STATE
from rvrt_cli.model.steadying import steady
from rvrt_cli.ops.kernels import library, run_on_arrays


def copy_shrunk(raw: np.ndarray, frames: np.ndarray, output: np.ndarray) -> None:
    """`shrink_chroma` of `raw` into `output`, (N, T, 4H, 4W, 3) each, whose videos are C-contiguous.

    Args:
        frames: (N, T, H, W, 3) float32 in [0, 1], the input.
    """
    if library() is None:
        np.copyto(output, raw)
        for video, source in zip(output, frames, strict=True):
            shrink_chroma(video[None], source[None])
        return
    for given, source, video in zip(raw, frames, output, strict=True):
        run_on_arrays("shrink_chroma", [given, source], [video])


def steady_output(
    output: np.ndarray, frames: np.ndarray, state: Mapping[str, np.ndarray] | None, share: float
) -> np.ndarray:
    """See `steady`."""
    if library() is None:
        return steady(output, frames, state, share)
    batch, length = output.shape[:2]
    height, width = frames.shape[2:4]
    last = np.empty((batch, 1, height, width, 3 * UPSAMPLING**2), np.float32)
    for n in range(batch):
        before, kept = np.empty((0, height, width, 3), np.float32), np.empty((0, *last.shape[2:]), np.float32)
        if state is not None:
            before, kept = state[FRAMES_STATE][n, -1:], state[OUTPUT_STATE][n]
        inputs = [output[n], frames[n, :length], before, kept, np.array([share], np.float32)]
        run_on_arrays("steady", inputs, [output[n], last[n]])
    return last
