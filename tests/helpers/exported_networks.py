# SPDX-License-Identifier: Apache-2.0
"""Exports of small networks, and `rvrt` without MindSpore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from golden.named_weights import named_array

from helpers.small_networks import BARE, GUIDED, KANADE, PLAIN
from rvrt_cli.device import use_device
from rvrt_cli.model import RVRTConfig, parameter_shapes
from rvrt_cli.runtime import ExportedModel

# `python -c` with this is as `rvrt`, but MindSpore and onnx cannot be imported
WITHOUT_MINDSPORE = """
import sys
sys.modules["mindspore"] = sys.modules["onnx"] = None
from rvrt_cli.cli import main
main()
"""
WHOLE = 2e-4  # largest error of a whole network
NETWORKS = {
    "guided": GUIDED,
    "plain": PLAIN,
    "bare": BARE,
    "kanade": replace(KANADE, carry=0.8, lead_in=2, steadying=0.9, chroma_shrinkage=True),
}
CARD = {"name": "test", "trained": True, "degradation": "bi", "license": "Apache-2.0"}


def weights_of(config: RVRTConfig) -> dict[str, np.ndarray]:
    """Weights so large that every part matters."""
    return {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}


def write_export(path: Path, config: RVRTConfig, frames: int, lookahead: int, **options: Any) -> ExportedModel:
    """Export a network with these weights, for any frame size by default."""
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window

    more = {"size": None, "fusion_lookahead": config.fusion_lookahead(lookahead), **options}
    model = ExportedModel(config, CARD, frames, lookahead, **more)
    path.write_bytes(trace_window(model).fill(weights_of(config), model.to_metadata()))
    return model


def moving_pattern(frames: int, height: int, width: int) -> np.ndarray:
    """(1, T, H, W, 3): smooth, and moving by fractions of a px."""
    rng = np.random.default_rng(7)
    fields, phases = rng.uniform(0.2, 0.9, (3, 4, 2)), rng.uniform(0, 6, (3, 4))
    y, x = np.mgrid[:height, :width]
    clip = [
        np.sin(
            fields[..., 0, None, None] * (y - 0.3 * t)
            + fields[..., 1, None, None] * (x - 0.6 * t)
            + phases[..., None, None]
        ).mean(1)
        for t in range(frames)
    ]
    return np.ascontiguousarray(np.moveaxis(0.5 + 0.4 * np.stack(clip), 1, -1)[None].astype(np.float32))
