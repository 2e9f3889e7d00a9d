# SPDX-License-Identifier: Apache-2.0
"""Build hook: compile the kernels for a wheel or an editable install; without a compiler, install without them."""

from __future__ import annotations

import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags


class KernelsHook(BuildHookInterface):
    """Adds librvrt_kernels.so to wheels and, for an editable install, to the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as built for this platform, but for any Python: the library does not depend on it."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root, "rvrt_cli", "ops", "kernels")
        build = runpy.run_path(str(folder / "build.py"))["build"]  # importing the package needs MindSpore
        self.scratch = None if version == "editable" else tempfile.mkdtemp(prefix="rvrt-kernels-")
        built = build(Path(self.scratch or folder))
        if built.library is None:
            self.app.display_warning(f"rvrt installs without its CPU kernels and will be slow on a CPU: {built.note}")
            return
        self.app.display_info(f"rvrt CPU kernels: {built.note}")
        if version == "editable":
            return
        platform = next(t.platform for t in sys_tags() if not t.platform.startswith(("manylinux", "musllinux")))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["force_include"][str(built.library)] = f"rvrt_cli/ops/kernels/{built.library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled library: the wheel holds it."""
        if scratch := getattr(self, "scratch", None):
            shutil.rmtree(scratch, ignore_errors=True)
