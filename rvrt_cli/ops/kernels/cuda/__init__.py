# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels: compiles them for the card that is there, and hands them to the library that launches them.

`*.cu` are the kernels, written in what portable.h provides; `*.cc`, part of the library of `rvrt_cli.ops.kernels`, launch
them through NVIDIA's driver. Nobody needs a CUDA compiler: NVRTC, one of the libraries of `pip install ".[gpu]"`,
compiles them at first use, and the result is kept in the user's cache. No MindSpore import here.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import cache_folder, write_atomically
from rvrt_cli.gpu_libraries import card_capability

CUDA_SOURCES = Path(__file__).resolve().parent
_HEADERS = ("portable.h", "arguments.h")
_OPTIONS = ("--std=c++14",)
_OLDEST_CAPABILITY = 70  # the first with the warp operations that the kernels use

_problem: str | None = "the CUDA kernels have not been loaded"


def load(library: Path | None, card: int = 0) -> bool:
    """Compile the kernels for a card, where that is not done, and give them to `library`.

    Returns:
        whether they can be launched; if not, `cuda_problem` says why.
    """
    global _problem
    if _problem is None:  # the library keeps what it has been given
        return True
    try:
        if library is None:
            raise RvrtError("the library that launches them is missing: rvrt was installed without a C++ compiler")
        _give_to_library(library, compile_kernels(Nvrtc(), card_capability(card)))
        _problem = None
    except (RvrtError, OSError) as error:
        _problem = f"the CUDA kernels cannot be used, and the network runs many times slower: {error}"
    return _problem is None


def cuda_problem() -> str | None:
    """One line for the user if the kernels cannot be used on the GPU, else None."""
    return _problem


def compile_kernels(nvrtc: Nvrtc, capability: int) -> list[bytes]:
    """The compiled kernels, one image per source file, from the cache where they are there.

    Args:
        capability: of the card. One that NVRTC does not know yet gets code for the newest that it knows, in PTX, which the
            driver translates.

    Raises:
        RvrtError: NVRTC fails, or the card is too old.
    """
    if capability < _OLDEST_CAPABILITY:
        raise RvrtError(f"the card's compute capability, {capability / 10}, is below {_OLDEST_CAPABILITY / 10}")
    known = max((number for number in nvrtc.architectures() if number <= capability), default=_OLDEST_CAPABILITY)
    target = f"sm_{known}" if known == capability else f"compute_{known}"
    sources = sorted(CUDA_SOURCES.glob("*.cu"))
    folder = cache_folder() / "cuda-kernels" / _fingerprint(nvrtc, target)
    kept = [folder / f"{source.stem}.image" for source in sources]
    if all(path.is_file() for path in kept):
        return [path.read_bytes() for path in kept]
    logging.getLogger(__name__).warning("rvrt: compiling the CUDA kernels for this card (once, some seconds)")
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda source: nvrtc.compile(source, target), sources))
    with contextlib.suppress(RvrtError):  # without a cache they are compiled each time
        for path, image in zip(kept, images, strict=True):
            write_atomically(path, image, shared=True)
    return images


def _fingerprint(nvrtc: Nvrtc, target: str) -> str:
    """Names everything that the images depend on."""
    digest = hashlib.sha256(repr((nvrtc.version(), target, _OPTIONS)).encode())
    for path in sorted([*CUDA_SOURCES.glob("*.cu"), *CUDA_SOURCES.glob("*.h")]):
        digest.update(path.read_bytes())
    return f"{target}-{digest.hexdigest()[:16]}"


def _give_to_library(library: Path, images: list[bytes]) -> None:
    add = ctypes.CDLL(str(library)).rvrt_cuda_add_image
    for image in images:
        add(ctypes.c_char_p(image), ctypes.c_int64(len(image)))


class Nvrtc:
    """NVIDIA's run-time compiler, of CUDA 11.

    Args:
        name: its library, which `rvrt_cli.gpu_libraries` has loaded.

    Raises:
        RvrtError: it is not there.
    """

    def __init__(self, name: str = "libnvrtc.so.11.2") -> None:
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise RvrtError(f"{name} is missing (run pip install '.[gpu]' in rvrt's checkout)") from None

    def version(self) -> tuple[int, int]:
        """Such as (11, 8)."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architectures(self) -> list[int]:
        """Compute capabilities that it compiles for, such as 90."""
        count = ctypes.c_int()
        self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        numbers = (ctypes.c_int * max(count.value, 1))()
        self._library.nvrtcGetSupportedArchs(numbers)
        return list(numbers[: count.value])

    def compile(self, source: Path, target: str) -> bytes:
        """A source file for "sm_NN", as machine code, or for "compute_NN", as PTX.

        In a thread of its own: NVRTC leaves its thread in the locale "C", where Python reads other programs' text as ASCII.

        Raises:
            RvrtError: it does not compile.
        """
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._compile_here, source, target).result()

    def _compile_here(self, source: Path, target: str) -> bytes:
        program = ctypes.c_void_p()
        headers = [(CUDA_SOURCES / name).read_bytes() for name in _HEADERS]
        options = [f"--gpu-architecture={target}".encode(), *(option.encode() for option in _OPTIONS)]
        self._library.nvrtcCreateProgram(
            ctypes.byref(program),
            source.read_bytes(),
            source.name.encode(),
            len(headers),
            (ctypes.c_char_p * len(headers))(*headers),
            (ctypes.c_char_p * len(headers))(*(name.encode() for name in _HEADERS)),
        )
        try:
            if self._library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
                log = self._fetch(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                first = next((line for line in log.splitlines() if "error" in line), log[:200])
                raise RvrtError(f"NVRTC cannot compile {source.name} for {target}: {first}")
            return self._fetch(program, "CUBIN" if target.startswith("sm_") else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _fetch(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw
