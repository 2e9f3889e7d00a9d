# SPDX-License-Identifier: Apache-2.0
"""`rvrt preview`, and `--check` at the end of `rvrt upscale`, with a NumPy network in place of the real one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import refusal, rvrt
from helpers.upscale_runs import Echo, computed
from helpers.video_clips import ffmpeg, make_clip, write_video

import rvrt_cli.compare.choose_excerpts
import rvrt_cli.upscale.job
from rvrt_cli.compare.choose_excerpts import choose_excerpts
from rvrt_cli.data.resize import imresize
from rvrt_cli.video.read.probe import probe

# ffmpeg draws colors that are not given at random, whatever the seed
PICTURE = ["-f", "lavfi", "-i", "gradients=s=64x48:r=25:d=2:speed=0.03:c0=0x506890:c1=0x908060:seed=4,format=yuv420p"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_clip(*PICTURE, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", tmp_path / "in.mp4")


class Enlarge(Echo):
    """Bicubic, `factor` times as bright, without the blend over time."""

    factor = 1.0

    def __call__(
        self, frames: np.ndarray, state: dict[str, np.ndarray] | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        _, state = super().__call__(frames, state, emit)
        return self.factor * np.clip(imresize(frames[:, :emit], scale=4), 0, 1), state


class Darken(Enlarge):
    factor = 0.9


@pytest.fixture(autouse=True)
def _enlarge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: Enlarge(str(tmp_path / "calls"), 0.0))


def page_data(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_preview_shows_excerpts_and_estimates_the_whole(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = source.with_name("page.html")
    call = ["preview", source, "-o", page, "--frames", "4", "--at", "0:00.4,0:01", "--preset", "ultrafast"]
    assert rvrt(monkeypatch, *call, "--json") == 0
    estimate = json.loads(capsys.readouterr().out)
    assert (estimate["frames"], estimate["total"]) == (8, 50)
    assert computed(source.parent) == 8
    assert estimate["job_seconds"] == pytest.approx(estimate["seconds"] / 8 * 50)
    assert estimate["job_bytes"] == pytest.approx(estimate["bytes"] / 8 * 50)
    data = page_data(page)
    assert [scene["begin"] for scene in data["scenes"] if "video" in scene] == [0.4, 1.0]
    assert all(scene["frames"] == 4 for scene in data["scenes"] if "video" in scene)
    assert ["whole job", *[value for name, value in data["facts"] if name == "whole job"]][1].startswith(
        "all 50 frames"
    )
    assert "exists" in refusal(monkeypatch, capsys, *call)


def test_preview_of_a_part_stays_inside_it(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = source.with_name("page.html")
    part = ["--start", "1", "--duration", "0.8", "--frames", "2", "--excerpts", "2", "--preset", "ultrafast"]
    assert rvrt(monkeypatch, "preview", source, "-o", page, *part, "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 20
    begins = [scene["begin"] for scene in page_data(page)["scenes"] if "video" in scene]
    assert len(begins) == 2
    assert all(1 <= begin < 1.8 for begin in begins)


@pytest.mark.parametrize("length", ["short", "long"])
def test_excerpts_are_the_sharpest_and_the_busiest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str
) -> None:
    """A long video is looked at in some places, a short one is read at once."""
    if length == "long":
        monkeypatch.setattr(rvrt_cli.compare.choose_excerpts, "_WHOLE_SECONDS", 1.0)
    rng = np.random.default_rng(5)
    checks = np.indices((64, 64)).sum(0) // 4 % 2 * 120 + 60
    frames = []
    for number in range(90):
        frame = np.full((64, 64), 120)
        if 30 <= number < 45:
            frame = checks  # sharp, and still
        elif number >= 60:
            frame = np.kron(rng.integers(60, 180, (4, 4)), np.ones((16, 16)))  # soft, and never still
        frames.append(np.repeat(frame[..., None], 3, 2).astype(np.uint8))
    path = tmp_path / "scenes.mp4"
    write_video(path, frames)
    places = {place.reason: place.begin * 25 for place in choose_excerpts(probe(path), 3.6, 0.2, 3, [])}
    assert 28 <= places["the sharpest"] < 45
    assert places["the busiest"] >= 58
    begins = sorted(places.values())
    assert len(begins) == 3
    assert min(np.diff(begins)) >= 5 - 1e-6, "excerpts overlap"
    most = choose_excerpts(probe(path), 3.6, 0.6, 20, [])
    assert 3 <= len(most) <= 6, "more than fit"
    assert [place.reason for place in choose_excerpts(probe(path), 3.6, 2.0, 2, [])] in (
        ["the sharpest"],
        ["the busiest"],
    )


def test_what_cannot_be_previewed_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pages, raw = ["-o", source.with_name("page.html")], source.with_name("in.h264")
    ffmpeg("-i", source, "-c", "copy", raw)
    for words, said in (
        (["-"], "-: a preview reads the source more than once; write the stream to a file first"),
        ([source, "--start", "2.5"], "in.mp4: --start 2.5 is beyond its end; lower --start"),
        ([raw], "in.h264: does not state its length, so that nothing can be chosen of it; remux it first"),
        ([source, "--at", "1,5"], "--at 5: the video lasts 2 s; give an earlier time"),
    ):
        assert said in refusal(monkeypatch, capsys, "preview", *words, *pages)
    assert not pages[1].exists()


@pytest.mark.slow
def test_upscale_checks_what_it_has_written(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    target = source.with_name("out.mp4")
    assert rvrt(monkeypatch, "upscale", source, target, "--check", "--preset", "ultrafast", "-q") == 0
    shown = capsys.readouterr().out
    assert "50, each at the time of one of the source" in shown
    assert shown.rstrip().endswith("no failures")


@pytest.mark.slow
def test_upscale_fails_if_the_check_does(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: Darken(str(source.with_name("calls")), 0.0))
    target = source.with_name("out.mp4")
    assert rvrt(monkeypatch, "upscale", source, target, "--check", "--preset", "ultrafast", "--json") == 1
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "check"
    assert [item["name"] for item in event["findings"] if item["status"] == "fail"] == ["color"]
    said = refusal(monkeypatch, capsys, "upscale", source, "-", "--check")
    assert said.startswith("rvrt: --check: reads SOURCE and TARGET again")
