"""The network: RVRT and RVRT Light, to be read beside the paper (Liang et al., NeurIPS 2022).

The configuration costs nothing to import; the network brings MindSpore with it, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rvrt_cli.model.config import BRANCHES, PRESETS, RVRTConfig

if TYPE_CHECKING:
    from rvrt_cli.model.initialization import initial_weights, parameter_shapes
    from rvrt_cli.model.network import Network
    from rvrt_cli.model.rvrt import RVRT, State

__all__ = [
    "BRANCHES",
    "PRESETS",
    "RVRT",
    "Network",
    "RVRTConfig",
    "State",
    "initial_weights",
    "parameter_shapes",
]

_LAZY = {
    "RVRT": "rvrt",
    "State": "rvrt",
    "Network": "network",
    "initial_weights": "initialization",
    "parameter_shapes": "initialization",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
