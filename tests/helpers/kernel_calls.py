# SPDX-License-Identifier: Apache-2.0
"""The kernels through their plain C entry points, called as MindSpore calls them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

ISAS = ("portable", "avx2", "avx512")
_BAD_ATTRIBUTE = 4  # status
_WIDEST_CUDA_HEAD = 32  # channels


class Kernels:
    """A library of kernels."""

    def __init__(self, path: Path) -> None:
        self.path, self.library = path, ctypes.CDLL(str(path))

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
        kind = np.float16 if inputs[0].dtype == np.float16 else np.float32
        outputs = [np.full(getattr(shape, "shape", shape), np.nan, kind) for shape in like]
        status = self.status(name, list(inputs), outputs)
        assert status == 0, f"{name} returned {status}"
        return outputs


class CudaKernels(Kernels):
    """The CUDA kernels of the same library, on an emulated GPU.

    Args:
        driver: library that takes the place of NVIDIA's driver.
    """

    def __init__(self, path: Path, driver: Path) -> None:
        super().__init__(path)
        self.library.rvrt_cuda_use_driver(str(driver).encode())
        image = b"the emulated driver has the kernels"
        self.library.rvrt_cuda_add_image(image, ctypes.c_int64(len(image)))
        self.driver = ctypes.CDLL(str(driver))

    def limit(self, isa: int = -1, threads: int = 0) -> bool:
        """There is nothing to choose."""
        return True

    def status(self, name: str, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> int:
        """Attributes, the only int32 input, become the shape of an empty tensor."""
        shaped = [np.zeros((0, *map(int, a)), np.int8) if a.dtype == np.int32 else a for a in inputs]
        status = super().status(f"cuda_{name}", shaped, outputs)
        if status == _BAD_ATTRIBUTE and "attention" in name:
            heads = shaped[-1].shape[1]
            width = inputs[0].shape[-1] // heads // (3 if name.startswith("window") else 1)
            if width > _WIDEST_CUDA_HEAD:
                pytest.skip(f"a head of {width} channels: the definition runs instead")
        return status


def attributes(*values: int) -> np.ndarray:
    """The last input of most kernels."""
    return np.array(values, np.int32)
