# SPDX-License-Identifier: Apache-2.0
"""What the engine asks of a network: a pure function from frames and state to frames and state."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rvrt_cli.errors import MediaError
from rvrt_cli.options import SMALLEST_FRAME

# One array (N, T, H, W, C) per name, channels last, H×W the LR size of the call over the network's reduction: axes 2 and 3
# can be cut and stitched.
NetworkState = dict[str, np.ndarray]


class NetworkSizes(Protocol):
    """What a network takes and needs."""

    @property
    def scale(self) -> int:
        """Output px per LR px along each axis."""

    @property
    def reduction(self) -> int:
        """LR px per px of the state along each axis."""

    @property
    def clip_size(self) -> int:
        """Frames that the network takes in one step; `emit` is a multiple of it unless the scene ends there."""

    def fusion_lookahead(self, lookahead: int) -> int:
        """Frames past a lookahead of `lookahead` frames that frame fusion alone still sees: whole clips, as the lookahead."""

    def memory(self, frames: int, height: int, width: int) -> int:
        """Predicted peak bytes of one call with N = 1 and its input, output and weights included.

        T is `frames` and, where there is frame fusion, the frames that it alone sees.
        """

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays, float32, of the state of one call with N = 1."""


class StreamingNetwork(NetworkSizes, Protocol):
    """A recurrent network that upscales consecutive frames of one scene and passes on what the next ones need.

    It may have an attribute `on_share`, None or a function that each call calls now and then with the share of its work that
    is done, from 0 to 1.
    """

    def __call__(
        self, frames: np.ndarray, state: NetworkState | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, NetworkState]:
        """Upscale the first `emit` of the frames; the others are lookahead.

        Args:
            frames: (N, T, H, W, 3) float32 in [0, 1], T ≥ 1, all of one scene; H and W as `padded_size` gives them.
            state: what the call for the frames just before returned, for the same pixels; None where a scene starts.
            emit: frames to return, in [1, T - `fusion_lookahead`]; a multiple of `clip_size` unless the scene ends with it.
                An odd T is the network's to pad.
            fusion_lookahead: number of the last frames, past the lookahead, that frame fusion alone sees; those before them
                are whole clips.

        Returns:
            (N, emit, scale*H, scale*W, 3) float32, not clamped, and the state after frame `emit`. Neither `frames`
            nor `state` is written to.

        Raises:
            rvrt_cli.errors.OutOfMemoryError: the device cannot hold a call of this size.
        """


def check_frame_size(width: int, height: int) -> None:
    """Refuse frames that the network cannot take.

    Raises:
        MediaError: a side is below `SMALLEST_FRAME` px.
    """
    if min(width, height) < SMALLEST_FRAME:
        raise MediaError(
            f"the frames are {width}x{height} px and the network needs at least {SMALLEST_FRAME}x{SMALLEST_FRAME}; "
            "enlarge or pad them first"
        )
