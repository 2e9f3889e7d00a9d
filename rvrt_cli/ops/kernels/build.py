# SPDX-License-Identifier: Apache-2.0
"""Compile the C++ kernels of this folder, and the host's part of the CUDA kernels, into one library. Uses the standard library only: it also runs while installing.

`python -m rvrt_cli.ops.kernels.build [FOLDER]` compiles into FOLDER, by default beside the sources.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

LIBRARY = "librvrt_kernels.so"  # MindSpore requires this suffix on every system
SOURCES = Path(__file__).resolve().parent
COMPILERS = ("c++", "g++", "clang++")
# No -march: every kernel contains versions for AVX-512, AVX2 and portable code. No -ffast-math: see kernel.h.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-fvisibility=hidden")
COMPILE_TIMEOUT = 900  # seconds per file


class Built(NamedTuple):
    """The compiled library, or None; and one line that says how it was compiled, or why not."""

    library: Path | None
    note: str


def build(out_dir: Path) -> Built:
    """Compile every *.cc of this folder and of `cuda` into `out_dir`/librvrt_kernels.so, with OpenMP where the compiler has it.

    The compiler is $CXX, or the first of c++, g++ and clang++ that works. The library is replaced only when the new one
    is complete. $CXXFLAGS is added when compiling and linking, for example a sanitizer.
    """
    chosen = os.environ.get("CXX", "").strip()
    compilers = [shlex.split(chosen)] if chosen else [[name] for name in COMPILERS if shutil.which(name)]
    if not compilers:
        return Built(None, f"no C++ compiler found ({', '.join(COMPILERS)}; or set CXX)")
    reason = ""
    for compiler in compilers:
        for threads in (("-fopenmp",), ()):
            problem = _compile_library(
                compiler, (*FLAGS, *threads, *shlex.split(os.environ.get("CXXFLAGS", ""))), out_dir
            )
            if problem is None:
                how = "with OpenMP" if threads else "without OpenMP: kernels run on one core"
                return Built(out_dir / LIBRARY, f"compiled by {shlex.join(compiler)} {how}")
            reason = reason or f"{shlex.join(compiler)} failed: {problem}"
    return Built(None, reason)


def _compile_library(compiler: list[str], flags: tuple[str, ...], out_dir: Path) -> str | None:
    """Compile and link. Returns the error in one line, or None."""
    sources = sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("cuda/*.cc")])

    def compile_one(source: Path) -> str | None:
        return _run_compiler([*compiler, *flags, "-c", str(source), "-o", str(scratch / f"{source.stem}.o")])

    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=".kernels-") as name:
            scratch = Path(name)
            # The smallest file first and alone: a broken compiler fails at once.
            if problem := compile_one(SOURCES / "runtime.cc"):
                return problem
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for problem in pool.map(compile_one, (s for s in sources if s.name != "runtime.cc")):
                    if problem:
                        return problem
            objects = [str(scratch / f"{source.stem}.o") for source in sources]
            if problem := _run_compiler([*compiler, *flags, "-shared", *objects, "-ldl", "-o", str(scratch / LIBRARY)]):
                return problem
            os.replace(scratch / LIBRARY, out_dir / LIBRARY)
    except OSError as error:
        return str(error)
    return None


def _run_compiler(command: list[str]) -> str | None:
    """Run the compiler. Returns its first error message, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    messages = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return messages[0].strip() if messages else f"exit status {done.returncode}"


if __name__ == "__main__":
    built = build(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES)
    print(f"{built.library}: {built.note}" if built.library else f"No kernels: {built.note}")
    sys.exit(0 if built.library else 1)
