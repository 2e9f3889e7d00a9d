# SPDX-License-Identifier: Apache-2.0
"""The C++ kernels: where their compiled library is, and why it may be missing.

`build` compiles the `*.cc` files into one library, `hatch_build` does so while installing, `glue` makes its symbols
MindSpore ops. No MindSpore import here.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rvrt_cli.errors import OptionError
from rvrt_cli.ops.kernels.build import LIBRARY, SOURCES, build
from rvrt_cli.options import ISA_NAMES

_REPOSITORY = SOURCES.parents[2]
_ONLY_ASK = -2  # argument of rvrt_kernels_isa
_BEST_BFLOAT16, _FLOAT32, _AMX = -1, 0, 3  # arguments of rvrt_kernels_bfloat16
_NO_MEMORY = 5  # status of a kernel, see kernel.h
_chosen_operands = [_FLOAT32]  # what `use_bfloat16` chose last
REBUILD = "python -m rvrt_cli.ops.kernels.build"
# rvrt-tiny, 8 frames of 112x64 px on two cores: 8 s instead of 0.7 s, after 80 s of compiling definitions
_SLOWDOWN = "rvrt runs about ten times slower on a CPU and compiles for a minute first"


@functools.cache
def library() -> Path | None:
    """Path of the compiled kernels, or None. In a checkout without them they are compiled once, beside their sources."""
    return _locate_library()[0]


def problem() -> str | None:
    """One line for the user if the kernels are missing or older than their sources, else None."""
    return _locate_library()[1]


def instruction_set() -> str | None:
    """The instruction set in which the kernels run, one of `ISA_NAMES`; None where they are missing.

    It is the best that the processor has, at most that of the environment variable RVRT_ISA.
    """
    return None if library() is None else ISA_NAMES[_opened_library().rvrt_kernels_isa(_ONLY_ASK)]


def use_bfloat16(enabled: bool) -> None:
    """Round the operands of the CPU kernels' products to bfloat16 in inference, or keep float32.

    Sums, and what is stored between layers, stay float32; attention and optical flow do not change.

    Raises:
        OptionError: there are no kernels, or the processor has no bfloat16 within RVRT_ISA.
    """
    if library() is None:
        if enabled:
            raise OptionError(f"--precision bfloat16: {problem()}")
        return
    chosen = _opened_library().rvrt_kernels_bfloat16(_BEST_BFLOAT16 if enabled else _FLOAT32)
    _chosen_operands[0] = chosen
    if chosen == _FLOAT32 and enabled:
        raise OptionError("--precision bfloat16: this CPU has neither AMX nor AVX512-BF16, or RVRT_ISA excludes them")


def amx_in_use() -> bool:
    """Whether products run on AMX's tiles: `use_bfloat16` on a processor that has them."""
    return _chosen_operands[0] == _AMX


def run_on_arrays(name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Call the CPU kernel `{name}_forward` outside MindSpore.

    Args:
        name: prefix of the C symbol.
        inputs: float32; one that is not C-contiguous is copied.
        outputs: float32, C-contiguous; written to. The kernel says whether one may be an input too.

    Raises:
        MemoryError: there is too little for the kernel's scratch memory.
        ValueError: shapes or types that the kernel refuses.
    """
    arrays = [np.ascontiguousarray(array) for array in inputs] + [*outputs]
    assert all(array.flags.c_contiguous for array in outputs)
    count, size_pointer = len(arrays), ctypes.POINTER(ctypes.c_int64)
    shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    status = getattr(_opened_library(), f"{name}_forward")(
        count,
        (ctypes.c_void_p * count)(*[array.ctypes.data for array in arrays]),
        (ctypes.c_int * count)(*[array.ndim for array in arrays]),
        (size_pointer * count)(*[ctypes.cast(shape, size_pointer) for shape in shapes]),
        (ctypes.c_char_p * count)(*[array.dtype.name.encode() for array in arrays]),
        None,
        None,
    )
    if status == _NO_MEMORY:
        raise MemoryError(f"the kernel {name} has too little memory")
    if status != 0:
        raise ValueError(f"the kernel {name} refuses {[array.shape for array in arrays]}: status {status}")


@functools.cache
def _opened_library() -> ctypes.CDLL:
    return ctypes.CDLL(str(library()))


@functools.cache
def _locate_library() -> tuple[Path | None, str | None]:
    path = SOURCES / LIBRARY
    if ":" in str(path):  # MindSpore splits "library:symbol" at the first colon
        return None, (
            f"CPU kernels cannot be loaded from {SOURCES}, so {_SLOWDOWN}; install rvrt at a path without a colon"
        )
    checkout = (_REPOSITORY / "pyproject.toml").is_file()
    if not path.is_file():
        if not checkout:
            return None, (
                f"CPU kernels are missing, so {_SLOWDOWN}: rvrt was installed without a C++ compiler; install g++ and run, in "
                "the checkout: pip install --force-reinstall --no-deps ."
            )
        logging.getLogger(__name__).warning("rvrt: compiling the CPU kernels (once, about a minute)")
        built = build(SOURCES)
        if built.library is None:
            return None, f"CPU kernels are missing, so {_SLOWDOWN}: {built.note}; install g++ and run {REBUILD}"
        return built.library, None
    sources = (
        [source for end in ("*.cc", "*.h", "cuda/*.cc", "cuda/*.h") for source in SOURCES.glob(end)] if checkout else []
    )
    if any(source.stat().st_mtime > path.stat().st_mtime for source in sources):
        return path, f"CPU kernels are older than their sources; run {REBUILD}"
    return path, None
