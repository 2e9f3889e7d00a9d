"""Imports point one way (README, "How it is built"), and what must stay light stays light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import rvrt_cli

PACKAGE = Path(rvrt_cli.__file__).parent
# From low to high: a part may import its own level and lower ones, and what ALLOWED adds.
LEVELS = [
    {"errors"},
    {"options", "signals", "files"},
    {"device", "ranks"},
    {"ops"},
    {"model", "engine", "video", "metrics", "plot"},
    {"weights", "data"},
    {"upscale", "train", "bench"},
    {"cli"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
SAME_LEVEL = {
    ("data", "weights"),
    ("train", "upscale"),
    ("bench", "upscale"),
    ("bench", "train"),
}  # besides itself, nothing else on its level


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, and whether it does so while it is being imported."""
    tree = ast.parse(path.read_text())
    outside = {id(node) for node in ast.walk(tree)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            outside -= {id(node) for node in ast.walk(function)}
        if isinstance(function, ast.If) and "TYPE_CHECKING" in ast.unparse(function.test):
            outside -= {id(node) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in outside
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "rvrt_cli":
                for alias in node.names:
                    yield f"rvrt_cli.{alias.name}", id(node) in outside
            else:
                yield node.module, id(node) in outside


def parts() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            yield part, path


def test_every_part_has_a_level() -> None:
    assert {part for part, _ in parts()} <= set(LEVEL)


def test_no_import_points_upwards() -> None:
    wrong = []
    for part, path in parts():
        for name, _ in imports(path):
            if not name.startswith("rvrt_cli."):
                continue
            other = name.split(".")[1]
            if other in LEVEL and other != part and LEVEL[other] >= LEVEL[part] and (part, other) not in SAME_LEVEL:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_engine_and_the_video_part_know_nothing_of_the_network() -> None:
    wrong = []
    for part, path in parts():
        for name, _ in imports(path):
            if part in ("engine", "video") and name.split(".")[0] == "mindspore":
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
            if part == "engine" and name.startswith(("rvrt_cli.model", "rvrt_cli.ops", "rvrt_cli.video")):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_commands_import_what_is_heavy_only_when_they_run() -> None:
    heavy = ("mindspore", "av", "imageio", "rvrt_cli.model", "rvrt_cli.upscale", "rvrt_cli.device")
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for part, path in parts()
        if part == "cli"
        for name, at_import in imports(path)
        if at_import and name.startswith(heavy)
    ]
    assert not wrong, "\n".join(wrong)
