# SPDX-License-Identifier: Apache-2.0
"""Networks whose answer is known, and short clips to run the engine on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from rvrt_cli.engine import NetworkState
from rvrt_cli.errors import OutOfMemoryError
from rvrt_cli.frame import Frame


class Fake:
    """Nearest-neighbor upscaling of `answer`, with a record of the calls; runs out of memory when told to."""

    scale, reduction, clip_size = 4, 1, 2

    def __init__(self, fail_at: Iterable[int] = (), largest: int | None = None) -> None:
        self.calls = []  # (T, h, w, emit, is there a state)
        self.fail_at, self.largest, self.attempts = set(fail_at), largest, 0

    def __call__(
        self, frames: np.ndarray, state: NetworkState | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, NetworkState]:
        assert frames.dtype == np.float32
        assert frames.flags.c_contiguous
        assert frames.min() >= 0
        assert frames.max() <= 1
        self.attempts += 1
        _, total, h, w, _ = frames.shape
        if self.attempts - 1 in self.fail_at or (self.largest and h * w > self.largest):
            raise OutOfMemoryError("no memory left on the pretended device")
        self.calls.append((total, h, w, emit, state is not None))
        before = None if state is None else {name: array.copy() for name, array in state.items()}
        small, after = self.answer(frames, state, emit)
        if before is not None:
            assert all((before[name] == state[name]).all() for name in before)
        return small.astype(np.float32).repeat(self.scale, 2).repeat(self.scale, 3), after

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        return frames[:, :emit], {}

    def fusion_lookahead(self, lookahead: int) -> int:
        return 0

    def memory(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {"state": (1, 1, height, width, 1)}


class CausalBlockMean(Fake):
    """At scale 1: for each 4×4 px the mean of all frames since the scene's start, with a state of a quarter of the size."""

    scale, reduction = 1, 4

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        n, _, h, w, _ = frames.shape
        assert h % 4 == w % 4 == 0
        blocks = frames[:, :emit].reshape(n, emit, h // 4, 4, w // 4, 4, 3).astype(np.float64).mean((3, 5))
        means, after = CausalMean().answer(blocks, state, emit)
        return means.repeat(4, 2).repeat(4, 3), after

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        shape = 1, 1, height // 4, width // 4
        return {"sum": (*shape, 3), "count": (*shape, 1)}


class CausalMean(Fake):
    """The mean of all frames since the scene's start, carried as a sum and a count in the state."""

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        n, _, h, w, _ = frames.shape
        if state is None:
            state = {"sum": np.zeros((n, 1, h, w, 3)), "count": np.zeros((n, 1, h, w, 1))}
        sums = state["sum"] + np.cumsum(frames[:, :emit].astype(np.float64), 1)
        counts = state["count"] + np.arange(1, emit + 1).reshape(1, -1, 1, 1, 1)
        return sums / counts, {
            "sum": sums[:, -1:],
            "count": counts[:, -1:] + 0 * sums[:, -1:, ..., :1],
        }


class FusedMean(CausalMean):
    """The mean of a frame and the next four, seen by fusion, plus a hundredth of that of all frames before, the state's."""

    def __call__(
        self, frames: np.ndarray, state: NetworkState | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, NetworkState]:
        assert emit <= frames.shape[1] - fusion_lookahead
        assert fusion_lookahead <= self.fusion_lookahead(2)
        return super().__call__(frames, state, emit)

    def fusion_lookahead(self, lookahead: int) -> int:
        return max(0, 4 - lookahead)

    def answer(self, frames: np.ndarray, state: NetworkState | None, emit: int) -> tuple[np.ndarray, NetworkState]:
        means, after = super().answer(frames, state, emit)
        return 0.99 * np.stack([frames[:, t : t + 5].mean(1) for t in range(emit)], 1) + 0.01 * means, after


def clip(
    lengths: Iterable[int], height: int = 32, width: int = 32, dtype: type[np.unsignedinteger] = np.uint8, seed: int = 0
) -> list[np.ndarray]:
    """Scenes of coarse blocks, each with a view of its own and faint noise that tells the frames apart."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    frames = []
    for length in lengths:
        blocks = rng.permutation(64).reshape(8, 8) / 63 * 0.9 + 0.05
        view = blocks.repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)[:height, :width, None]
        for _ in range(length):
            noisy = view + rng.uniform(-0.02, 0.02, (height, width, 3))
            frames.append(np.rint(noisy * top).astype(dtype))
    return frames


def as_frames(arrays: Iterable[np.ndarray]) -> Iterator[Frame]:
    for number, pixels in enumerate(arrays):
        yield Frame(pixels, number)
        del pixels  # the memory test counts what is alive
