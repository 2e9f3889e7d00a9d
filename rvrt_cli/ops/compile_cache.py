# SPDX-License-Identifier: Apache-2.0
"""Compiled stages, kept in the user's cache folder from one run to the next.

MindSpore's own compile cache knows a graph by a number only: the N-th graph of a process is loaded from file N, whatever its
function, its shapes and the version of anything. Another order of calls, or another video, would compute with wrong graphs.
So it is switched on for one compilation at a time, in a folder of this process. `GraphStore` keeps the graphs by everything
that they depend on, and `GraphExchange` hands them to MindSpore and takes new ones from it. Whatever fails costs time only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor

from rvrt_cli.errors import RvrtError
from rvrt_cli.files import cache_folder, write_atomically
from rvrt_cli.ops.kernels import library

try:
    from mindspore.graph import api
except ImportError:  # another version of MindSpore: `find` finds nothing
    api = None

Result = TypeVar("Result")

_STORED_BYTES = 64 << 20  # of all graphs together; those that have not been used for longest go first
_DIGEST_BYTES = hashlib.sha256().digest_size
_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
_EXCHANGE_PREFIX = "rvrt-graphs-"
_ABANDONED_SECONDS = 86_400  # age of an exchange folder that a killed process has left
_USE_CACHE, _CACHE_PATH, _TRUST_CACHE = (
    "MS_COMPILER_CACHE_ENABLE",
    "MS_COMPILER_CACHE_PATH",  # MindSpore reads it once, with the first graph that it caches
    "MS_DEV_FORCE_USE_COMPILE_CACHE",  # else it compares a hash of the source files that it finds, and stops at a missing graph
)


class GraphStore:
    """Graphs in the user's cache folder, each under a digest of everything that it depends on.

    Several processes may use it at the same time. A file begins with the digest of the rest.

    Args:
        limit: of the bytes of all graphs together.
    """

    def __init__(self, limit: int = _STORED_BYTES) -> None:
        self._limit = limit

    @property
    def folder(self) -> Path:
        """Where the graphs are; it may not exist yet."""
        return cache_folder() / "compiled-stages"

    def read(self, name: str) -> bytes | None:
        """The graph of this name; None where there is none, or a damaged one."""
        try:
            content = self._path(name).read_bytes()
        except OSError:
            return None
        digest, graph = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(graph).digest() != digest:
            self.discard(name)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path(name))  # when it was last used
        return graph

    def write(self, name: str, graph: bytes) -> None:
        """Keep a graph, and drop others where they are more than the limit; nothing happens where that is impossible."""
        with contextlib.suppress(RvrtError, OSError):
            write_atomically(self._path(name), hashlib.sha256(graph).digest() + graph, shared=True, sync=False)
            self._drop_oldest()

    def discard(self, name: str) -> None:
        """Forget a graph."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.graph"

    def _drop_oldest(self) -> None:
        """Remove what was used longest ago, until the rest is within the limit; also what killed processes have left."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process has removed it
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


class GraphExchange:
    """The folder through which one graph at a time passes between MindSpore's compile cache and this process.

    Attributes:
        usable: false from the first time on that MindSpore does not do what is expected of it.

    Raises:
        OSError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self._folder = Path(tempfile.mkdtemp(prefix=_EXCHANGE_PREFIX))
        atexit.register(self._remove, os.getpid())
        self._sources = self._folder / "sources.py"  # MindSpore wants to know a source file: an empty one
        self._sources.touch()
        self._lock = threading.Lock()
        self._file, self._number = "", 0
        self.usable = True
        graph = ms.jit(_increment)
        with self._cache_enabled():  # shows where MindSpore puts a graph, and at which number it is
            graph(Tensor(np.zeros(1, np.float32)))
        files = self._files()
        numbered = re.fullmatch(r"(.*_)(\d+)(\.mindir)", str(files[0])) if len(files) == 1 else None
        self.usable = numbered is not None
        if numbered is not None:
            self._file, self._number = f"{numbered[1]}{{}}{numbered[3]}", int(numbered[2]) + 1
        self._clear()

    def compile(self, call: Callable[[], Result], graph: bytes | None) -> tuple[Result, bytes | None]:
        """The result of `call`, which compiles exactly one graph; with a graph to be used, that one is loaded instead.

        Returns:
            the result, and the graph where a new one was compiled, perhaps because MindSpore could not load the given one.
        """
        if not self.usable or not self._lock.acquire(blocking=False):
            return call(), None
        made = None
        try:
            place = Path(self._file.format(self._number))
            if graph is not None:
                place.write_bytes(graph)
            self.usable = False  # after an error the next number is unknown
            with self._cache_enabled():
                result = call()
            self._number += 1
            # A graph under another number means that `call` has compiled none, or several.
            self.usable = self._files() == [place]
            if self.usable and place.read_bytes() != graph:
                made = place.read_bytes()
            self._clear()
        finally:
            self._lock.release()
        return result, made

    @contextlib.contextmanager
    def _cache_enabled(self) -> Iterator[None]:
        variables = {_CACHE_PATH: str(self._folder), _TRUST_CACHE: "1"}
        before = {name: os.environ.get(name) for name in variables}
        entry = api.entry_script_path
        os.environ.update(variables)
        api.entry_script_path = str(self._sources)
        ms.set_context(enable_compile_cache=True)
        try:
            yield
        finally:
            ms.set_context(enable_compile_cache=False)
            api.entry_script_path = entry
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def _files(self) -> list[Path]:
        return list(self._folder.rglob("*.mindir"))

    def _clear(self) -> None:
        for path in self._files():
            path.unlink()

    def _remove(self, process: int) -> None:
        if os.getpid() == process:  # not in a child that was forked
            shutil.rmtree(self._folder, ignore_errors=True)


def _increment(x: Tensor) -> Tensor:
    return x + 1


def _remove_abandoned(folder: Path) -> None:
    """Remove the exchange folders of processes that were killed."""
    for path in folder.glob(f"{_EXCHANGE_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@functools.cache
def _exchange() -> GraphExchange | None:
    """This process's exchange; None where MindSpore's cache cannot be used, or the user has switched it on already."""
    if os.environ.get(_USE_CACHE) or ms.get_context("enable_compile_cache"):
        return None
    with contextlib.suppress(OSError, RuntimeError, AttributeError):  # no temporary files, another version of MindSpore
        return GraphExchange()
    return None


@functools.cache
def _surroundings() -> str:
    """Digest of what every graph depends on: versions, the sources of the stages, the kernels' library."""
    compiled = library()
    status = compiled.stat() if compiled else None
    facts = [
        ms.__version__,
        Path(ms.__file__).stat().st_mtime_ns,
        np.__version__,
        platform.python_version(),
        platform.machine(),
        str(compiled),  # a graph names it
        status and (status.st_size, status.st_mtime_ns),
    ]
    digest = hashlib.sha256(repr(facts).encode())
    for path in sorted([*_PACKAGE_FOLDER.glob("ops/**/*.py"), *_PACKAGE_FOLDER.glob("model/**/*.py")]):
        digest.update(repr(path.relative_to(_PACKAGE_FOLDER).parts).encode() + path.read_bytes())
    return digest.hexdigest()


class KeptGraph:
    """One graph of the store, or the place for it.

    Attributes:
        content: None where there is none yet.
    """

    def __init__(self, store: GraphStore, name: str) -> None:
        self._store, self._name = store, name
        self.content = store.read(name)

    def compile(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, which compiles the graph unless it is there, and calls it; a new one is kept."""
        passage = _exchange()
        if passage is None:
            return call()
        result, made = passage.compile(call, self.content)
        if made is not None:
            self._store.write(self._name, made)
        return result

    def discard(self) -> None:
        """Forget the graph."""
        self._store.discard(self._name)


def find(stage: str) -> KeptGraph | None:
    """The graph of a stage, which `stage` tells from all others; None while gradients are recorded, and without a cache."""
    try:
        if api._pynative_executor.requires_grad():
            return None
        name = hashlib.sha256(f"{_surroundings()} {stage}".encode()).hexdigest()
    except (OSError, AttributeError):  # the package's files cannot be read; another version of MindSpore
        return None
    return KeptGraph(GraphStore(), name)
