# SPDX-License-Identifier: Apache-2.0
"""What is tested and what is shipped: the copy that the tests run on, and the contents of the source distribution."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.tested_copy import CHECKOUT, differing_files, refusal

from rvrt_cli.ops.kernels.build import LIBRARY, SOURCES, build

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Another copy of the package, as `pip install .` leaves one."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(CHECKOUT, tmp_path / "site" / "rvrt_cli", ignore=ignored))


def test_a_copy_that_differs_from_the_checkout_is_refused(copied: Path) -> None:
    assert refusal(CHECKOUT) is None
    assert refusal(copied) is None, "an equal copy may be tested"
    (copied / "embedded").mkdir()
    (copied / "embedded" / "README.md").touch()  # only in a wheel
    assert differing_files(copied) == []
    with (copied / "errors.py").open("a") as file:
        file.write("# newer\n")
    (copied / "video" / "new.py").touch()
    (copied / "plot.py").unlink()
    assert differing_files(copied) == ["errors.py", "plot.py", "video/new.py"]
    assert "differs from this checkout in 3 files (errors.py, plot.py, video/new.py); run pip install -e" in str(
        refusal(copied)
    )


@pytest.mark.slow
def test_pytest_stops_where_it_would_test_an_outdated_copy(copied: Path, tmp_path: Path) -> None:
    with (copied / "errors.py").open("a") as file:
        file.write("# older\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-n", "0", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(copied.parent)}
    done = subprocess.run(
        [*command, "--collect-only", ROOT / "tests" / "test_metrics.py"],
        cwd=tmp_path,  # `python -m` puts the working directory on the path
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert "which differs from this checkout in 1 files (errors.py); run pip install -e" in done.stderr


# A compiler that writes its command line into the file that it is to make, and fails where that has a given word
COMPILER = """#!/bin/sh
case "$*" in *"$FAILS_AT"*)
  printf 'note: it was compiling\\nx.cc:3: error: it is %s\\n' "$FAILS_AT" >&2
  exit 1
esac
command="$*"
while [ "$1" != -o ]; do shift; done
echo "$command" > "$2"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("CXXFLAGS", "-fsanitize=address")
    monkeypatch.setenv("FAILS_AT", "nothing of all that")
    return path


@pytest.mark.parametrize(
    ("word", "note"),
    [
        ("nothing of all that", "compiled by {} with OpenMP"),
        ("-fopenmp", "compiled by {} without OpenMP: kernels run on one core"),
        ("runtime.cc", "{} failed: x.cc:3: error: it is runtime.cc"),
        ("attention.cc", "{} failed: x.cc:3: error: it is attention.cc"),
        ("-shared", "{} failed: x.cc:3: error: it is -shared"),
    ],
)
def test_kernels_are_compiled_and_linked_or_the_first_error_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path, word: str, note: str
) -> None:
    monkeypatch.setenv("FAILS_AT", word)
    folder = tmp_path / "built"
    folder.mkdir()
    (folder / LIBRARY).write_text("an older one")
    built = build(folder)
    assert built.note == note.format(compiler)
    linked = (folder / LIBRARY).read_text()
    if built.library is None:
        assert linked == "an older one"
    else:
        assert built.library == folder / LIBRARY
        assert {"-shared", "-fsanitize=address"} <= set(linked.split())
        objects = {Path(argument).stem for argument in linked.split() if argument.endswith(".o")}
        assert objects == {path.stem for path in SOURCES.rglob("*.cc")}
        assert ("-fopenmp" in linked) == (word != "-fopenmp")
    assert [path.name for path in folder.iterdir()] == [LIBRARY], "temporary files are left"


def test_a_compiler_that_does_not_start_or_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path
) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in build(tmp_path / "file" / "built").note
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    assert "No such file or directory" in build(tmp_path / "built").note


@pytest.mark.parametrize("word", ["nothing of all that", "runtime.cc"])
def test_compiling_is_a_command_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, compiler: Path, word: str
) -> None:
    monkeypatch.setenv("FAILS_AT", word)
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path / "built")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SOURCES / "build.py"), run_name="__main__")
    shown = capsys.readouterr().out
    if word == "runtime.cc":
        assert (end.value.code, shown) == (1, f"No kernels: {compiler} failed: x.cc:3: error: it is runtime.cc\n")
    else:
        assert (end.value.code, shown) == (0, f"{tmp_path / 'built' / LIBRARY}: compiled by {compiler} with OpenMP\n")


@pytest.mark.parametrize("kind", ["standard", "editable", "without a compiler", "sdist"])
def test_an_installation_compiles_the_kernels(
    copied: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path, kind: str
) -> None:
    pytest.importorskip("hatchling", reason="comes with pip install -e '.[test]'")
    from rvrt_cli.ops.kernels.hatch_build import KernelsHook

    said: list[str] = []
    app = SimpleNamespace(display_warning=said.append, display_info=said.append)
    version = "editable" if kind == "editable" else "standard"
    if kind == "without a compiler":
        monkeypatch.setenv("FAILS_AT", "-c")
    hook = KernelsHook(str(copied.parent), {}, None, None, "", "sdist" if kind == "sdist" else "wheel", app)
    data: dict = {"force_include": {}}
    hook.initialize(version, data)
    beside = copied / "ops" / "kernels" / LIBRARY
    assert beside.exists() == (kind == "editable")
    if kind == "standard":
        [(compiled, place)] = data["force_include"].items()
        assert place == f"rvrt_cli/ops/kernels/{LIBRARY}"
        assert Path(compiled).exists()
        assert data["pure_python"] is False
        assert data["tag"].startswith("py3-none-")
        assert "linux" not in data["tag"] or "manylinux" not in data["tag"]
        hook.finalize(version, data, "rvrt.whl")
        assert not Path(compiled).parent.exists()
    else:
        hook.finalize(version, data, "rvrt.whl")
        assert data == {"force_include": {}}
    expected = {
        "sdist": [],
        "without a compiler": [
            f"rvrt installs without its CPU kernels and will be slow on a CPU: "
            f"{compiler} failed: x.cc:3: error: it is -c"
        ],
    }
    assert said == expected.get(kind, [f"rvrt CPU kernels: compiled by {compiler} with OpenMP"])


def test_the_source_distribution_has_what_a_build_needs_and_no_training_state() -> None:
    pytest.importorskip("hatchling", reason="comes with pip install -e '.[test]'")
    from hatchling.builders.sdist import SdistBuilder

    found = {Path(file.distribution_path): Path(file.path) for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    names = {path.as_posix() for path in found}
    for needed in (
        "pyproject.toml",
        "rvrt_cli/ops/kernels/hatch_build.py",
        "rvrt_cli/ops/kernels/kernel.h",
        "rvrt_cli/train/recipes/rvrt.toml",
        "weights/rvrt-tiny.safetensors",
        "weights/README.md",
        "tests/media/city-truth.mp4",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith("weights/rvrt-tiny/checkpoints")]
    size = sum(path.stat().st_size for path in found.values())
    assert size < 8e6, f"{size / 1e6:.1f} MB: {sorted(found, key=lambda name: found[name].stat().st_size)[-5:]}"
