# SPDX-License-Identifier: Apache-2.0
"""Stages run eagerly, compiled, or from the cache: always with the same result, whatever another process has left or does."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from helpers import stage_runs

from rvrt_cli import ops
from rvrt_cli.ops import compilation, compile_cache, kernels
from rvrt_cli.ops.compile_cache import GraphStore

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.problem()))


@pytest.fixture(scope="module")
def eager_outputs() -> dict[str, str]:
    """What stages give that are not compiled."""
    assert ops.use_kernels()
    return {name: hashlib.sha256(stage_runs.call_stage(name)).hexdigest() for name in stage_runs.NAMES}


def graphs(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "compiled-stages").iterdir())


def with_digest(graph: bytes) -> bytes:
    return hashlib.sha256(graph).digest() + graph


@pytest.mark.slow
@needs_kernels
def test_graphs_are_found_by_stage_and_shape_not_by_order(tmp_path: Path, eager_outputs: dict[str, str]) -> None:
    """Two processes fill the cache at the same time; others find some or all of it, in another order.

    MindSpore's own cache would load the first graph for the first stage, whichever that is.
    """
    orders = ("compose", "flow", "compose-large"), ("flow", "compose-large", "compose")
    runs = [stage_runs.finish(run) for run in [stage_runs.start(tmp_path, *order) for order in orders]]
    assert all(run["parsed"] > 0 for run in runs)
    more = stage_runs.finish(stage_runs.start(tmp_path, "compose-large", "fuse", "flow", "compose"))
    assert more["parsed"] > 0
    for run in (*runs, more):
        assert run["outputs"] == {name: eager_outputs[name] for name in run["outputs"]}
    assert len(graphs(tmp_path)) == len(stage_runs.NAMES)
    for path in graphs(tmp_path):
        content = path.read_bytes()
        assert content == with_digest(content[32:])
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "tmp"}, "the working directory"
    assert not list((tmp_path / "tmp").glob("rvrt-graphs-*"))
    check_broken_graphs(tmp_path, eager_outputs)


def check_broken_graphs(folder: Path, eager_outputs: dict[str, str]) -> None:
    """Graphs that are truncated, empty, no graphs or lost are compiled anew, and then found in another order."""
    whole = {path: path.read_bytes() for path in graphs(folder)}
    truncated, empty, foreign, other = whole
    truncated.write_bytes(whole[truncated][:-100])
    empty.write_bytes(b"")
    foreign.write_bytes(with_digest(b"not a graph" * 50))
    other.unlink()
    run = stage_runs.finish(stage_runs.start(folder, *stage_runs.NAMES))
    assert run["outputs"] == eager_outputs
    assert run["parsed"] > 0
    again = stage_runs.finish(stage_runs.start(folder, *reversed(stage_runs.NAMES)))
    assert again == {"outputs": eager_outputs, "parsed": 0}, "compiled anew"


@pytest.mark.slow
@needs_kernels
def test_without_a_cache_nothing_changes(tmp_path: Path, eager_outputs: dict[str, str]) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        run = stage_runs.finish(stage_runs.start(tmp_path, "compose", "fuse", cache=tmp_path / "file"))
        assert run["outputs"] == {name: eager_outputs[name] for name in ("compose", "fuse")}
        assert run["parsed"] > 0


def test_the_oldest_graphs_give_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path))
    store, graph = GraphStore(limit=3 * 132), bytes(100)
    for number, name in enumerate("abc"):
        store.write(name, graph)
        os.utime(store.folder / f"{name}.graph", (number, number))
    assert store.read("a") == graph  # used just now
    (store.folder / ".b.graph.1234.part").write_bytes(bytes(10))  # of a process that was killed
    os.utime(store.folder / ".b.graph.1234.part", (0, 0))
    store.write("d", graph)
    assert sorted(path.name for path in store.folder.iterdir()) == ["a.graph", "c.graph", "d.graph"]
    assert store.read("b") is None
    store.write("large", bytes(1000))
    assert not list(store.folder.iterdir()), "a graph above the limit"


def test_a_damaged_graph_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path))
    store = GraphStore()
    store.write("a", b"graph")
    path = store.folder / "a.graph"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert store.read("a") is None
    assert not path.exists()


@pytest.fixture
def _fresh_surroundings() -> None:
    compile_cache._surroundings.cache_clear()
    yield
    compile_cache._surroundings.cache_clear()


@pytest.mark.usefixtures("_fresh_surroundings")
@pytest.mark.parametrize("changed", ["nothing", "MindSpore", "NumPy", "the library", "a source", "a new source"])
def test_other_versions_have_other_graphs(changed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = compile_cache._surroundings()
    compile_cache._surroundings.cache_clear()
    if changed == "MindSpore":
        monkeypatch.setattr(ms, "__version__", "2.10.1")
    elif changed == "NumPy":
        monkeypatch.setattr(np, "__version__", "1.0")
    elif changed == "the library":
        (tmp_path / "library.so").touch()
        monkeypatch.setattr(compile_cache, "library", lambda: tmp_path / "library.so")
    else:
        for part in ("ops", "model"):
            shutil.copytree(Path(compile_cache.__file__).parents[1] / part, tmp_path / part)
        monkeypatch.setattr(compile_cache, "_PACKAGE_FOLDER", tmp_path)
        if changed == "a source":
            with (tmp_path / "model" / "blocks.py").open("a") as file:
                file.write("\n")
        elif changed == "a new source":
            (tmp_path / "ops" / "another.py").touch()
    assert (compile_cache._surroundings() == before) == (changed == "nothing")


def test_nothing_is_cached_while_gradients_are_recorded() -> None:
    found = []

    def loss(x: ms.Tensor) -> ms.Tensor:
        found.append(compile_cache.find("a stage"))
        return (x * x).sum()

    ms.value_and_grad(loss)(ms.Tensor(np.ones(3, np.float32)))
    assert found == [None]
    assert compile_cache.find("a stage") is not None


def test_mindspores_own_cache_is_left_to_users_who_enable_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    compile_cache._exchange.cache_clear()
    try:
        assert compile_cache._exchange() is None
    finally:
        compile_cache._exchange.cache_clear()


@needs_kernels
def test_a_stage_is_compiled_when_its_eager_calls_have_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops.use_kernels()
    monkeypatch.setattr(compile_cache, "find", lambda stage: None)
    made = []
    monkeypatch.setattr(ms, "jit", lambda function: made.append(function) or (lambda *args: "compiled"))
    clock = iter(range(100))  # each call takes a second
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(clock))

    @ops.compiled
    def stage(x: ms.Tensor, factor: int) -> str:
        return "eager"

    x, wide = (ms.Tensor(np.zeros(length, np.float32)) for length in (2, 3))
    patience = int(np.ceil(compilation._EAGER_SECONDS))
    assert [stage(x, 1) for _ in range(patience + 2)] == ["eager"] * patience + ["compiled"] * 2
    assert stage(wide, 1) == stage(x, 2) == "eager", "other graphs"
    with ops.compiled_at_once():
        assert stage(wide, 1) == "compiled"
    ops.use_kernels(False)
    try:
        assert stage(x, 3) == "compiled", "definitions are slow unless they are compiled"
    finally:
        ops.use_kernels()
