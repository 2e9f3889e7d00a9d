# SPDX-License-Identifier: Apache-2.0
"""A name means one thing in the whole package, and every source file names its license."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import rvrt_cli

PACKAGE = Path(rvrt_cli.__file__).parent
ROOT = Path(__file__).parents[1]
SOURCES = {".py": "#", ".cc": "//", ".h": "//", ".cu": "//", ".c": "//"}  # suffix → how a comment starts


def top_level_names(path: Path) -> Iterator[str]:
    """Functions, classes and constants that a module defines, without __dunder__ names and type variables."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not _is_type_variable(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def _is_type_variable(value: ast.expr | None) -> bool:
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("TypeVar", "ParamSpec")
    )


def test_no_top_level_name_is_defined_in_two_modules() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for name in top_level_names(path):
            if not name.startswith("__"):
                places[name].add(path.relative_to(PACKAGE).as_posix())
    twice = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(paths)}" for name, paths in sorted(twice.items()))


def test_no_python_file_name_occurs_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            places[path.stem].append(path.relative_to(PACKAGE).as_posix())
    twice = [", ".join(sorted(paths)) for paths in places.values() if len(paths) > 1]
    assert not twice, "\n".join(twice)


def test_every_source_file_names_its_license_first() -> None:
    missing = []
    for folder in (PACKAGE, ROOT / "tests"):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in SOURCES):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            if first != f"{SOURCES[path.suffix]} SPDX-License-Identifier: Apache-2.0":
                missing.append(str(path.relative_to(folder.parent)))
    assert not missing, "\n".join(missing)
