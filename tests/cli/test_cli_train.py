# SPDX-License-Identifier: Apache-2.0
"""What `rvrt train` shows and refuses; the runs themselves are tested in tests/train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.train_runs import make_store, prepared

from rvrt_cli.cli.display import LineDisplay, SilentDisplay
from rvrt_cli.cli.train import TrainingReport, run_lines, train_command
from rvrt_cli.errors import OptionError
from rvrt_cli.train.train_options import TrainOptions


def test_the_display_shows_loss_psnr_pace_and_time_left() -> None:
    report = TrainingReport(SilentDisplay(), steps=1000)
    for step in range(1, 101):
        seconds = 60.0 if step == 1 else 1.5  # the first one compiles
        record = {"step": step, "loss": 0.25, "psnr": 31.0, "seconds": seconds, "skipped": 2}
        report.update(record)
        if step == 1:
            first = "loss 0.25000, 31.00 dB, 60.00 s for the first step, including compilation, 2 skipped"
            assert report.figures(record) == first
    assert report.figures(record) == "loss 0.25000, 31.00 dB, 1.50 s/step, 22 min 30 s left, 2 skipped"
    far = {**record, "step": 100, "skipped": 0}
    report.steps = 10_000
    assert report.figures(far) == "loss 0.25000, 31.00 dB, 1.50 s/step, 4 h 07 min left"


def test_with_minutes_the_time_left_is_theirs() -> None:
    report = TrainingReport(SilentDisplay(), steps=40_000, minutes=60)
    for step in range(1, 101):
        record = {"step": step, "loss": 0.25, "psnr": 31.0, "seconds": 2.0, "elapsed": 600.0 + 2 * step}
        report.update(record)
    assert report.figures(record) == "loss 0.25000, 31.00 dB, 2.00 s/step, 46 min 40 s left"
    options = TrainOptions(data="d", output="o", minutes=60, val_every=0)
    assert "60 min, 300000 steps at most, of 8 samples" in "\n".join(run_lines(options))


def test_a_log_has_the_first_and_the_last_step_and_each_validation(capsys: pytest.CaptureFixture) -> None:
    report = TrainingReport(LineDisplay("steps", interval=100.0, at_once=True), steps=3)
    for step in (1, 2, 3):
        report.update({"step": step, "loss": 0.5, "psnr": 30.0, "seconds": 1.0})
    chroma = {"chroma_gain": {"clean": {"cb": 0.25, "cr": None}}}
    scores = {"gain": {"clean": 0.5, "h264": None}, "psnr_y": {"clean": 30.5, "h264": 0}}
    report.update({"step": 3, **scores, **chroma, "best": True})
    report.update({"step": 3, "gain": {"clean": None}, "psnr_y": {"clean": None}, **chroma, "best": False})
    shown, said = capsys.readouterr()
    assert shown == ""
    assert said.splitlines() == [
        "1/3 steps: loss 0.50000, 30.00 dB, 1.00 s for the first step, including compilation, 0 s elapsed",
        "3/3 steps: loss 0.50000, 30.00 dB, 1.00 s/step, 0 s left, 0 s elapsed",
        "step 3: validation clean 30.50 dB (+0.50, Cb +0.25), the best so far",
        "step 3: validation gave no score, the network's output is not finite",
    ]


def test_a_warmup_that_never_reaches_its_rate_is_noted() -> None:
    options = TrainOptions(data="d", output="o", steps=5, warmup=50, val_every=0)
    assert "never reaches 0.0002; give a smaller --warmup" in "\n".join(run_lines(options))
    assert "never reaches" not in "\n".join(run_lines(replace(options, steps=500)))


def test_data_that_is_too_little_to_hold_some_out_is_noted(tmp_path: Path) -> None:
    for sources, noted in ((1, True), (2, False)):
        data, output = make_store(tmp_path / f"clips{sources}", sources=sources), tmp_path / f"run{sources}"
        options = TrainOptions(data=str(data), output=str(output), frames=3, crop=32)
        notes = [line for line in run_lines(prepared(options)) if "validation is off" in line]
        assert len(notes) == noted
        assert all("--val FOLDER" in note for note in notes)
        for wanted in ({"held_out": 0.0}, {"val_every": 0}):
            assert not any("validation is off" in line for line in run_lines(replace(options, **wanted)))


def test_the_command_shows_every_option_and_refuses_in_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(train_command, ["--help"], terminal_width=120).output
    for option in ("--data", "--spynet-frozen", "--no-mirror", "--save-every", "--minutes", "--master", "--network"):
        assert option in shown
    flat = " ".join(shown.split())
    for default in ("[default: 5000]", "[default: 3]", "[default: set by the recipe]"):
        assert default in flat
    result = runner.invoke(
        train_command, ["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--network", "widths"]
    )
    assert isinstance(result.exception, OptionError)
    assert "NAME=VALUE" in str(result.exception)
    assert not (tmp_path / "run").exists()
