# SPDX-License-Identifier: Apache-2.0
"""Collective operations among the ranks of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops


@dataclass(frozen=True)
class Communicator:
    """This process's place, `rank`, among `size` processes that train together; by default it is alone."""

    rank: int = 0
    size: int = 1

    def mean(self, x: np.ndarray) -> np.ndarray:
        """The mean of `x`, float32 (n,), over all ranks; bit-identical on each."""
        return ops.AllReduce()(Tensor(x)).asnumpy() / np.float32(self.size) if self.size > 1 else x

    def mean_of(self, number: float) -> float:
        """The mean of one number over all ranks, in float32 where there are several."""
        return float(self.mean(np.array([number], np.float32))[0]) if self.size > 1 else number

    def all_equal(self, number: int) -> bool:
        """Whether `number`, below 2^24, is equal on all ranks."""
        ours = np.array([number, number**2 % 4093], np.float32)
        return bool(self.mean(np.abs(self.mean(ours) - ours)).max() == 0)

    def broadcast(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The first rank's arrays, on every rank: MindSpore does not synchronize parameters by itself."""
        if self.size == 1:
            return arrays
        names = sorted(arrays)
        flat = np.concatenate([arrays[name].ravel() for name in names]).astype(np.float32)
        shared = ops.AllReduce()(Tensor(flat if self.rank == 0 else np.zeros_like(flat))).asnumpy()
        parts = np.split(shared, np.cumsum([arrays[name].size for name in names])[:-1])
        return {name: part.reshape(arrays[name].shape) for name, part in zip(names, parts, strict=True)}
