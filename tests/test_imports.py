# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way and in no circle, and what must stay light stays light.

    cli → compare, doctor → bench, check → upscale | train → export → weights, data, runtime → model, video, engine → ops
        → device
    inside video: write → mux → read → color, ffmpeg

Everything may import the modules of the lowest level. Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import rvrt_cli

PACKAGE = Path(rvrt_cli.__file__).parent
# From low to high: a part may import itself and the levels below
LEVELS = (
    ("errors", "version", "options", "files", "frame", "signals", "metrics", "plot", "position_index", "cubic_kernel"),
    ("gpu_libraries",),
    ("device", "msrun"),
    ("ops",),
    ("model", "video", "engine"),
    ("weights", "data", "runtime"),
    ("export",),
    ("upscale", "train"),
    ("bench", "check"),
    ("compare", "doctor"),
    ("cli",),
    ("", "__main__"),  # rvrt_cli/__init__.py, the public API; and python -m rvrt_cli
)
VIDEO_LEVELS = (("color", "ffmpeg"), ("read",), ("mux",), ("write",), ("",))
# may be imported beside the levels below
SAME_LEVEL = {
    ("options", "errors"),
    ("frame", "options"),
    ("files", "errors"),
    ("data", "weights"),
    ("color", "ffmpeg"),
}


class Import(NamedTuple):
    """One import of a module of the package or of another one."""

    module: str  # the importing one
    imported: str
    at_import: bool  # runs while `module` is imported: not inside a function, not for type checkers alone


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted names; a package is its __init__.py."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """All imports of a module; `from package import name` imports the module `package.name` where there is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = set()  # what does not run while the module is imported
    for node in ast.walk(tree):
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if in_function or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            later |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, id(node) not in later)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}: relative import"
            assert not node.level, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield Import(module, full if full in known else node.module, id(node) not in later)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    known = modules()
    return [found for module, path in known.items() for found in imports_of(module, path, known)]


def part_of(module: str, under: str = PACKAGE.name) -> str:
    """The part of the package, or of the package `under`, that a module belongs to; "" for its __init__.py."""
    return module.removeprefix(under).strip(".").partition(".")[0]


def upward(imports: list[Import], under: str, levels: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports between the parts of `under` that do not point to a lower level."""
    level = {part: number for number, parts in enumerate(levels) for part in parts}
    wrong = []
    for module, imported, _ in imports:
        if not (f"{module}.".startswith(f"{under}.") and f"{imported}.".startswith(f"{under}.")):
            continue
        part, other = part_of(module, under), part_of(imported, under)
        if part != other and level[other] >= level[part] and (part, other) not in SAME_LEVEL:
            wrong.append(f"{module} imports {imported}")
    return wrong


def test_every_module_belongs_to_a_level() -> None:
    assert {part_of(module) for module in modules()} == {part for parts in LEVELS for part in parts}
    inside = {part_of(m, "rvrt_cli.video") for m in modules() if f"{m}.".startswith("rvrt_cli.video.")}
    assert inside == {part for parts in VIDEO_LEVELS for part in parts}


def test_no_import_points_upward(imports: list[Import]) -> None:
    wrong = upward(imports, PACKAGE.name, LEVELS) + upward(imports, "rvrt_cli.video", VIDEO_LEVELS)
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle(imports: list[Import]) -> None:
    known = modules()
    graph: dict[str, set[str]] = {module: set() for module in known}
    for module, imported, _ in imports:
        if imported in known and imported != module:
            graph[module].add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a cycle of imports: {' ← '.join(error.args[1])}")


def test_engine_and_video_do_not_depend_on_the_network(imports: list[Import]) -> None:
    wrong = []
    for module, imported, _ in imports:
        part = part_of(module)
        if part in ("engine", "video") and imported.partition(".")[0] == "mindspore":
            wrong.append(f"{module} imports {imported}")
        if part == "engine" and part_of(imported) in ("model", "ops", "video") and imported.startswith("rvrt_cli."):
            wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_commands_import_heavy_modules_only_when_they_run(imports: list[Import]) -> None:
    heavy = ("mindspore", "numpy", "av", "imageio", "rich", "rvrt_cli.model", "rvrt_cli.upscale", "rvrt_cli.device")
    wrong = [
        f"{module} imports {imported}"
        for module, imported, at_import in imports
        if part_of(module) == "cli" and at_import and f"{imported}.".startswith(tuple(f"{name}." for name in heavy))
    ]
    assert not wrong, "\n".join(wrong)
