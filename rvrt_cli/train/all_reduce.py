"""The ranks of a run as the training step sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.msrun import join


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` processes that train together."""

    rank: int = 0
    size: int = 1

    def mean(self, x: np.ndarray) -> np.ndarray:
        """The mean of `x`, float32 (n,), over all ranks; the same bits on each."""
        return ops.AllReduce()(Tensor(x)).asnumpy() / np.float32(self.size) if self.size > 1 else x

    def agree(self, number: int) -> bool:
        """Whether `number`, below 2^24, is the same on all ranks."""
        mean = self.mean(np.array([number, number**2 % 4093], np.float32))
        ours = np.array([number, number**2 % 4093], np.float32)
        return bool(self.mean(np.abs(mean - ours)).max() == 0)

    def from_first(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The first rank's arrays, on every rank: MindSpore does not make them equal by itself."""
        if self.size == 1:
            return arrays
        names = sorted(arrays)
        flat = np.concatenate([arrays[name].ravel() for name in names]).astype(np.float32)
        shared = ops.AllReduce()(Tensor(flat if self.rank == 0 else np.zeros_like(flat))).asnumpy()
        parts = np.split(shared, np.cumsum([arrays[name].size for name in names])[:-1])
        return {name: part.reshape(arrays[name].shape) for name, part in zip(names, parts, strict=True)}


def join_ranks() -> Ranks:
    """Meet the other processes that msrun has started. The device must have been chosen before."""
    return Ranks(*join())
