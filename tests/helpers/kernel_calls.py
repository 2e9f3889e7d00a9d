# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels through their plain C entry points, called as MindSpore calls them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

ISAS = ("portable", "avx2", "avx512")


class Kernels:
    """A library of kernels."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def limit(self, isa: int = -1, threads: int = 0) -> bool:
        """Choose the instruction set and the number of threads, by default the best and all; whether there is this one."""
        self.library.rvrt_kernels_threads(threads)
        return self.library.rvrt_kernels_isa(isa) == isa

    def status(self, name: str, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> int:
        """Run `name` and return what it returns."""
        arrays = [np.ascontiguousarray(a) for a in inputs] + outputs
        count = len(arrays)
        shapes = [(ctypes.c_int64 * max(a.ndim, 1))(*a.shape) for a in arrays]
        pointer = ctypes.POINTER(ctypes.c_int64)
        return getattr(self.library, name)(
            count,
            (ctypes.c_void_p * count)(*[a.ctypes.data for a in arrays]),
            (ctypes.c_int * count)(*[a.ndim for a in arrays]),
            (pointer * count)(*[ctypes.cast(s, pointer) for s in shapes]),
            (ctypes.c_char_p * count)(*[a.dtype.name.encode() for a in arrays]),
            None,
            None,
        )

    def __call__(self, name: str, *inputs: np.ndarray, like: list) -> list[np.ndarray]:
        """Run `name`; `like` gives each output's shape, or an array of that shape. Unwritten output is NaN."""
        outputs = [np.full(getattr(shape, "shape", shape), np.nan, np.float32) for shape in like]
        status = self.status(name, list(inputs), outputs)
        assert status == 0, f"{name} returned {status}"
        return outputs


def attributes(*values: int) -> np.ndarray:
    """The last input of most kernels."""
    return np.array(values, np.int32)
