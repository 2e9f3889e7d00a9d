# SPDX-License-Identifier: Apache-2.0
"""The network: RVRT and RVRT Light, to be read beside the paper (Liang et al., NeurIPS 2022; sections and equations).

`config` sizes it, `weight_shapes` lists its weights, `initialization` makes them, `cost` counts its operations, and `outline`
is what can be said of a network that is not loaded. A window of frames passes `network` (NumPy
in, NumPy out), `rvrt` (the recurrence over clips), `network_parts` (shallow features, alignment, branch, reconstruction),
in these `optical_flow`, `spynet`, `alignment` and `blocks`, and at last `finish_output`, which runs what `chroma_shrinkage` and
`steadying` define.

Importing the configuration, the shapes and the outline is cheap; the other names import MindSpore on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rvrt_cli.model.config import BRANCHES, PRESETS, RVRTConfig
from rvrt_cli.model.outline import NetworkOutline
from rvrt_cli.model.weight_shapes import parameter_shapes

if TYPE_CHECKING:
    from rvrt_cli.model.initialization import initial_weights
    from rvrt_cli.model.network import Network
    from rvrt_cli.model.rvrt import RVRT, RecurrentState

__all__ = [
    "BRANCHES",
    "PRESETS",
    "RVRT",
    "Network",
    "NetworkOutline",
    "RVRTConfig",
    "RecurrentState",
    "initial_weights",
    "parameter_shapes",
]

_LAZY = {
    "RVRT": "rvrt",
    "RecurrentState": "rvrt",
    "Network": "network",
    "initial_weights": "initialization",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
