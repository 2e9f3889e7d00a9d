"""The network: RVRT and RVRT Light, to be read beside the paper (Liang et al., NeurIPS 2022)."""

from rvrt_cli.model.config import BRANCHES, PRESETS, RVRTConfig
from rvrt_cli.model.rvrt import RVRT, State

__all__ = ["BRANCHES", "PRESETS", "RVRT", "RVRTConfig", "State"]
