# SPDX-License-Identifier: Apache-2.0
"""Exports of small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from golden.named_weights import named_array

from rvrt_cli.device import use_device
from rvrt_cli.model import RVRTConfig, parameter_shapes
from rvrt_cli.runtime import ExportedModel

CARD = {"name": "test", "trained": True, "degradation": "bi", "license": "Apache-2.0"}


def weights_of(config: RVRTConfig) -> dict[str, np.ndarray]:
    """Weights so large that every part matters."""
    return {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}


def write_export(path: Path, config: RVRTConfig, frames: int, lookahead: int, **options: Any) -> ExportedModel:
    """Export a network with these weights, for any frame size by default."""
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window

    model = ExportedModel(config, CARD, frames, lookahead, **{"size": None, **options})
    path.write_bytes(trace_window(model).fill(weights_of(config), model.to_metadata()))
    return model
