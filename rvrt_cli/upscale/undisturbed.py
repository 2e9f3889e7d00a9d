"""A network whose calls no signal interrupts."""

from __future__ import annotations

import numpy as np

from rvrt_cli.engine import Network, State
from rvrt_cli.signals import signals_wait


class Undisturbed:
    """A network whose calls no signal interrupts."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.scale, self.clip_size = network.scale, network.clip_size
        self.memory, self.state_shapes = network.memory, network.state_shapes

    def __call__(self, frames: np.ndarray, state: State | None, emit: int) -> tuple[np.ndarray, State]:
        """See `rvrt_cli.engine.Network`."""
        with signals_wait():
            return self._network(frames, state, emit)
