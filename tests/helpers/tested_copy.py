# SPDX-License-Identifier: Apache-2.0
"""Which copy of the package the tests import: with `pip install .` it is not the checkout's."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).parents[2] / "rvrt_cli"
_SOURCES = (".py", ".cc", ".h", ".cu", ".toml")


def differing_files(imported: Path, checkout: Path = CHECKOUT) -> list[str]:
    """The source files, relative to the package's folder, that the two copies of the package do not have in common."""
    if imported.samefile(checkout):
        return []
    texts = [
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.suffix in _SOURCES
        }
        for folder in (imported, checkout)
    ]
    return sorted(name for name in texts[0].keys() | texts[1].keys() if texts[0].get(name) != texts[1].get(name))


def refusal(imported: Path, checkout: Path = CHECKOUT) -> str | None:
    """Why the tests must not run on `imported`, with the remedy; None where they may."""
    differing = differing_files(imported, checkout)
    if not differing:
        return None
    return (
        f"the tests would run on {imported}, which differs from this checkout in {len(differing)} files "
        f"({', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}); run pip install -e '.[test]' in the checkout"
    )
