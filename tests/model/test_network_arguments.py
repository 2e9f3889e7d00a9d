# SPDX-License-Identifier: Apache-2.0
"""What `Network` refuses: the mistakes of a first call, each named."""

from __future__ import annotations

import numpy as np
import pytest

from rvrt_cli.device import use_device
from rvrt_cli.model import PRESETS, Network, initial_weights

FRAMES = np.zeros((1, 4, 16, 24, 3), np.float32)


@pytest.fixture(scope="module")
def network() -> Network:
    config = PRESETS["rvrt-tiny"]
    return Network(config, initial_weights(config), {"name": "n", "trained": False}, use_device("cpu"))


@pytest.fixture(scope="module")
def state(network: Network) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in network.state_shapes(16, 24).items()}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES[0], r"frames: expected a NumPy array \(N, T, H, W, 3\), not ndarray \(4, 16, 24, 3\)"),
        (FRAMES.transpose(0, 1, 4, 2, 3), r"\(N, T, H, W, 3\), not ndarray \(1, 4, 3, 16, 24\)"),
        (FRAMES[:, :0], r"not ndarray \(1, 0, 16, 24, 3\)"),
        (FRAMES.tolist(), r"a NumPy array .*, not list \(1, 4, 16, 24, 3\)"),
        (FRAMES.astype(np.uint8), "expected float32 in .0, 1., not uint8; divide by 255"),
        (FRAMES.astype(np.uint16), "not uint16; divide by 65535"),
        (FRAMES.astype(np.int64), "expected float32 in .0, 1., not int64"),
        (FRAMES[:, :, :4], "24x4 px; the network needs at least 8x8"),
    ],
)
def test_other_frames_are_refused(network: Network, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(frames, None, emit=2)


@pytest.mark.parametrize("emit", [0, -2, 1, 3, 5, 6, 2.0, None])
def test_emit_is_a_number_of_whole_clips_or_of_all_frames(network: Network, emit: int) -> None:
    with pytest.raises(
        ValueError, match=rf"emit {emit}: give the number of frames to return, all 4 or a multiple of 2"
    ):
        network(FRAMES, None, emit=emit)


@pytest.mark.parametrize("fusion_lookahead", [-2, 1, 3, 4, 6])
def test_whole_clips_precede_what_fusion_alone_sees(network: Network, fusion_lookahead: int) -> None:
    with pytest.raises(ValueError, match=f"fusion_lookahead {fusion_lookahead}: .* of 4, with a multiple of 2 before"):
        network(FRAMES, None, emit=2, fusion_lookahead=fusion_lookahead)
    with pytest.raises(ValueError, match="emit 4: give the number of frames to return, all 2 or"):
        network(FRAMES, None, emit=4, fusion_lookahead=2)


def test_a_state_of_other_frames_is_refused(network: Network, state: dict[str, np.ndarray]) -> None:
    wrong = [
        {},
        {name: array for name, array in state.items() if name != "forward_1"},
        {name: array[:, :, :8] for name, array in state.items()},
        {**state, "forward_2": state["forward_1"]},
    ]
    for given in wrong:
        with pytest.raises(ValueError, match="state: not of this network and these frames"):
            network(FRAMES, given, emit=2)
    with pytest.raises(ValueError, match="state: not of this network"):
        network(np.repeat(FRAMES, 2, 0), state, emit=2)  # of a batch of one


def test_what_is_documented_is_accepted(network: Network, state: dict[str, np.ndarray]) -> None:
    for frames, emit in ((FRAMES, np.int64(2)), (FRAMES[:, :3], 3), (FRAMES.astype(np.float64), 4)):
        output, after = network(frames, state, emit)
        assert (output.shape, output.dtype) == ((1, int(emit), 64, 96, 3), np.float32)
        assert {name: array.shape for name, array in after.items()} == {n: a.shape for n, a in state.items()}
