# SPDX-License-Identifier: Apache-2.0
"""Run a network of rvrt once, save what went in and what came out, and count its operations, for compare.py.

    python run_rvrt.py WEIGHTS FRAMES WIDTH HEIGHT PRECISION INPUT.npy OUTPUT.npy

Both are (1, T, H, W, 3) float32; the input is the clip that `rvrt bench` measures. Prints {"gflop": operations [GFLOP]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.speed import moving_clip, open_network


def run(weights: str, frames: int, width: int, height: int, precision: str, files: tuple[Path, Path]) -> float:
    """Write input and output, and return the operations [GFLOP]."""
    network = open_network(BenchOptions(weights=weights, device="cpu", precision=precision))
    clip = moving_clip(frames, height, width)
    output, _ = network(clip, None, frames)
    np.save(files[0], clip)
    np.save(files[1], output)
    from rvrt_cli.model.cost import count_flops  # MindSpore's device is set by now

    return count_flops(network.config, frames, height, width).total / 1e9


if __name__ == "__main__":
    weights, frames, width, height, precision, source, target = sys.argv[1:]
    gflop = run(weights, int(frames), int(width), int(height), precision, (Path(source), Path(target)))
    print(json.dumps({"gflop": gflop}))
