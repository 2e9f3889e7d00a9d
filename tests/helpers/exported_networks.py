# SPDX-License-Identifier: Apache-2.0
"""Small networks, and their exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from golden.named_weights import named_array

from rvrt_cli.device import use_device
from rvrt_cli.model import RVRTConfig, parameter_shapes
from rvrt_cli.runtime import ExportedModel

# With all that the networks have: flow, bias, shifted windows; neighborhood attention; no flow; frame fusion
GUIDED = RVRTConfig(
    widths=(12, 12, 12),
    groups=(1, 1, 1),
    depths=(1, 2, 1),
    heads=(2, 2, 2),
    window=4,
    align_heads=4,
    deformable_groups=4,
    upsampler_width=8,
)
PLAIN = replace(GUIDED, alignment="neighborhood", relative_position_bias=False)
BARE = replace(GUIDED, passes=2, bodies=("convolution",) * 3, flow_guided=False, offset_width=8, upsampler_width=0)
KANADE = replace(BARE, flow_guided=True, flow_estimator="lucas-kanade", fused_neighbors=3, carry=0.8)
CARD = {"name": "test", "trained": True, "degradation": "bi", "license": "Apache-2.0"}


def weights_of(config: RVRTConfig) -> dict[str, np.ndarray]:
    """Weights so large that every part matters."""
    return {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}


def write_export(path: Path, config: RVRTConfig, frames: int, lookahead: int, **options: Any) -> ExportedModel:
    """Export a network with these weights, for any frame size by default."""
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window

    model = ExportedModel(config, CARD, frames, lookahead, **{"size": None, **options})
    path.write_bytes(trace_window(model, weights_of(config)).model(model.to_metadata(), "").SerializeToString())
    return model
