# SPDX-License-Identifier: Apache-2.0
"""The Python API as people find it: dir(), help(), and `python -m rvrt_cli`."""

from __future__ import annotations

import pydoc
import subprocess
import sys

import rvrt_cli

PUBLIC = [
    "RestoreOptions",
    "RvrtError",
    "UpscaleOptions",
    "load_network",
    "restore_video",
    "upscale_frames",
    "upscale_video",
]


def test_dir_and_help_show_the_api() -> None:
    assert [name for name in dir(rvrt_cli) if not name.startswith("_")] == PUBLIC
    assert sorted(rvrt_cli.__all__) == sorted([*PUBLIC, "__version__"])
    shown = pydoc.plain(pydoc.render_doc(rvrt_cli))
    for words in ("class RvrtError", "class UpscaleOptions", "load_network(", "upscale_frames(", "upscale_video("):
        assert words in shown
    assert "read_recipe" not in shown


def test_everything_public_is_documented_and_comes_without_mindspore() -> None:
    code = f"""
import sys, rvrt_cli
for name in {PUBLIC}:
    assert getattr(rvrt_cli, name).__doc__, name
assert "mindspore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "rvrt_cli", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: rvrt [OPTIONS] COMMAND")
