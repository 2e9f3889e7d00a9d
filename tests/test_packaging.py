# SPDX-License-Identifier: Apache-2.0
"""What is tested and what is shipped: the copy that the tests run on, and the contents of the source distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tested_copy import CHECKOUT, differing_files, refusal

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
