# SPDX-License-Identifier: Apache-2.0
"""What is said before the work: sizes that surprise, fewer scenes than worker processes, less memory than before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.video_clips import FAST, ffmpeg

from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale.scene_count import with_useful_ranks
from rvrt_cli.video.read.probe import probe


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=48x96", "-frames:v", "2", *FAST, path)
    return path


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("36p", ["36x72 px is smaller than the source, 48x96 px"]),
        ("100p", []),
        ("192p", []),
        ("200p", ["200x400 px is more than 4x: the network's 192x384 px are enlarged", "bicubic", "no detail"]),
        ("192x96", ["another aspect ratio"]),
    ],
)
def test_sizes_that_surprise_are_said(
    tmp_path: Path, upscale: Callable[..., str], portrait: Path, size: str, said: list[str]
) -> None:
    notes = [line for line in upscale(portrait, tmp_path / "out.mp4", "--size", size).splitlines() if "--size" in line]
    assert len(notes) == (1 if said else 0)
    for text in said:
        assert text in notes[0]


def test_no_more_worker_processes_than_scenes(tmp_path: Path) -> None:
    views = ("testsrc2", "mandelbrot=end_scale=0.01", "rgbtestsrc")
    inputs = [x for view in views for x in ("-f", "lavfi", "-i", f"{view}{':' if '=' in view else '='}s=32x24:r=25")]
    lengths = (30, 10, 30)  # the second scene is too short for a group of its own
    cuts = "".join(f"[{n}:v]trim=end_frame={count},format=yuv444p[v{n}];" for n, count in enumerate(lengths))
    clip = tmp_path / "in.mkv"
    ffmpeg(*inputs, "-filter_complex", f"{cuts}[v0][v1][v2]concat=n=3[v]", "-map", "[v]", *FAST, "-qp", "10", clip)
    info = probe(clip)
    assert with_useful_ranks(info, UpscaleOptions(ranks=4)).ranks == 2
    assert with_useful_ranks(info, UpscaleOptions(ranks=2)).ranks == 2
    assert with_useful_ranks(info, UpscaleOptions(ranks=2, duration=1.0)).ranks == 1
    several = UpscaleOptions(ranks=4, local_ranks=2, master="localhost:8118")
    assert with_useful_ranks(info, several) == several


def test_one_scene_and_two_ranks_are_one_process_and_a_line(
    tmp_path: Path, upscale: Callable[..., str], portrait: Path
) -> None:
    said = upscale(portrait, tmp_path / "out.mp4", "--ranks", "2")
    assert "--ranks 2: the source has one scene; one process computes it" in said
