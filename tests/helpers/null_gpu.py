# SPDX-License-Identifier: Apache-2.0
"""A GPU that is not there, for tests of the GPU route without one: MindSpore's own GPU plugin runs on it.

Under the plugin, which chooses kernels, infers shapes and moves memory, every function of CUDA's libraries and of MindSpore's
own kernels says success and does nothing; the card's memory is the host's. So what an operation has no GPU kernel for fails
as it would on a GPU, while results are whatever was in the memory. The project's own CUDA kernels are launched too: they are
emulated on the CPU (cuda_emulation.h) or, to measure launches, left out.

    python -m helpers.null_gpu FOLDER SCRIPT [ARGUMENTS]    runs a script on it, with a line of launches at the end

Needs g++ and nm, Linux, x86-64.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = Path(importlib.util.find_spec("rvrt_cli").origin).parent / "ops" / "kernels" / "cuda"  # type: ignore[union-attr, arg-type]
_LIBRARIES = {  # file name: prefix of its functions, in the order in which they are loaded
    "libcuda.so.1": "cu[A-Z]",
    "libcudart.so.11.0": "cuda",
    "libnvrtc.so.11.2": "nvrtc",
    "libcublasLt.so.11": "cublasLt",
    "libcublas.so.11": "cublas",
    "libcudnn.so.8": "cudnn",
    "libcurand.so.10": "curand",
    "libcusparse.so.11": "cusparse",
    "libcusolver.so.11": "cusolver",
    "libcufft.so.10": "cufft",
    "libcuda_ops.so.11": "_Z",
}
_FLAGS = ("-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-fPIC", "-w")


def build_emulated_driver(folder: Path, name: str, more: tuple[Path, ...] = ()) -> Path:
    """The driver with the CUDA kernels as a library `name`; `more` are objects to link into it."""
    emulation = ("-include", str(HERE / "cuda_emulation.h"), "-x", "c++")
    jobs = [((*_FLAGS, *emulation), source) for source in sorted(KERNELS.glob("*.cu"))]
    jobs.append((_FLAGS, HERE / "emulated_driver.cc"))

    def compile_one(job: tuple[tuple[str, ...], Path]) -> str:
        flags, source = job
        target = folder / f"{source.stem}.o"
        if not target.exists():
            subprocess.run(["g++", *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    library = folder / name
    command = ["g++", "-shared", f"-Wl,-soname,{library.name}", *objects, *map(str, more), "-ldl", "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def build_null_gpu(folder: Path) -> None:
    """All libraries of `_LIBRARIES`. Objects that are in the folder already are taken as they are."""
    plugins = _plugins()
    operations = plugins / "gpu" / "libcuda_ops.so.11"
    plugin = _symbols(plugins / "libmindspore_gpu.so.11.6", "--undefined-only")
    own = plugin & _symbols(operations, "--defined-only")
    needed = (plugin | _symbols(operations, "--undefined-only")) - own
    source = (HERE / "null_gpu.c").read_text(encoding="utf-8")
    written = set(re.findall(r"^(?:const char \*|int )(\w+)\(", source, re.MULTILINE))
    written |= set(re.findall(r"(?:ALGORITHM|WORKSPACE)\((\w+)\)", source))
    driver = (HERE / "emulated_driver.cc").read_text(encoding="utf-8")
    emulated = set(re.findall(r"^(?:int|void|long) (\w+)\(", driver, re.MULTILINE))
    for name, prefix in _LIBRARIES.items():
        names = own if prefix == "_Z" else {symbol for symbol in needed if re.match(prefix, symbol)}
        _build_null_library(folder, name, sorted(names - written - emulated), source if prefix != "_Z" else "")


def _build_null_library(folder: Path, name: str, functions: list[str], source: str) -> None:
    """One library: `source`, and `functions` that return 0, those that create something with a pointer to some memory."""
    lines, makers = [".text"], []
    for function in functions:
        if source and re.search(r"Create\w*$", function):
            makers.append(f"int {function}(void **p) {{ return room(p); }}")
        else:
            lines += [f'.globl "{function}"', f'.type "{function}",@function', f'"{function}": xorl %eax, %eax', "ret"]
    lines.append('.section .note.GNU-stack,"",@progbits')
    (folder / "null.s").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "null.c").write_text(source + "\n".join(makers) + "\n", encoding="utf-8")
    (folder / "null.map").write_text(f"{name} {{ global: *; }};\n", encoding="utf-8")
    parts = [folder / "null.s", *([folder / "null.c"] if source else [])]
    objects = []
    for part in parts:
        objects.append(part.with_name(f"{name}{part.suffix}.o"))
        subprocess.run(["cc", "-w", "-O1", "-fPIC", "-c", str(part), "-o", str(objects[-1])], check=True)
    if name == "libcuda.so.1":
        build_emulated_driver(folder, name, tuple(objects))
        return
    versions = [f"-Wl,--version-script={folder / 'null.map'}"] if source else []
    command = ["cc", "-shared", f"-Wl,-soname,{name}", *versions, *map(str, objects), "-o", str(folder / name)]
    subprocess.run(command, check=True)


def _plugins() -> Path:
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "lib" / "plugin"


def _symbols(library: Path, which: str) -> set[str]:
    done = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True)
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}


def load_null_gpu(folder: Path) -> ctypes.CDLL:
    """Load the libraries into this process, before anything looks for a GPU, and return the driver.

    The project's kernels are emulated if the environment has NULL_GPU_COMPUTES; otherwise their launches do nothing.
    """
    libraries = {name: ctypes.CDLL(str(folder / name)) for name in _LIBRARIES}
    return libraries["libcuda.so.1"]


if __name__ == "__main__":
    driver = load_null_gpu(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        print(f"launches: {driver.emulated_gpu_launches()}", file=sys.stderr)
