"""`rvrt bench` as a user meets it: the real network, the real command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import clip, write
from helpers.train_runs import NETWORK

from rvrt_cli.bench import datasets
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.report import KEYS
from rvrt_cli.cli import main


def rvrt(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["rvrt", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    assert rvrt(monkeypatch, "--frames", 2, "--size", "16x16", "--repeat", 1, "--json", file) == 0
    shown = capsys.readouterr().out
    for word in ("rvrt-tiny", "2 frames of 16x16 px", "GFLOP/s", "MindSpore", "reconstruction", "peak memory"):
        assert word in shown
    assert "published" not in shown  # nobody has published figures for this job
    result = json.loads(file.read_text())
    assert list(result) == list(KEYS)
    assert result["kind"] == "speed"
    assert not list(Path.cwd().iterdir())


def test_published_figures_stand_beside_the_same_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rvrt_cli.bench import speed
    from rvrt_cli.bench.published_figures import published_speed

    monkeypatch.setattr(speed, "published_speed", lambda *_: published_speed(14, 112, 64))
    assert rvrt(monkeypatch, "--frames", 2, "--size", "16x16", "--repeat", 1) == 0
    shown = capsys.readouterr().out
    assert "published, not measured here" in shown
    assert "rvrt on RTX 3090 Ti, float32, MindSpore: 2.32 s, 11.7 GB" in shown


def test_json_alone_on_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert rvrt(monkeypatch, "--frames", 2, "--size", "16x16", "--repeat", 1, "--weights", "random", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["weights"], result["width"]) == ("random", 16)


def test_a_training_step_is_that_of_the_weights_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    from rvrt_cli.bench import training_speed as training
    from rvrt_cli.model import initial_weights
    from rvrt_cli.model.config import PRESETS
    from rvrt_cli.model.cost import count_flops
    from rvrt_cli.weights import save_weights

    config, file = replace(PRESETS["rvrt-tiny"], **NETWORK), tmp_path / "small.safetensors"
    save_weights(file, initial_weights(config), config, {"name": "small", "trained": False, "degradation": "none"})
    for name, value in (("BATCH", 1), ("FRAMES", 2), ("EDGE", 8)):
        monkeypatch.setattr(training, name, value)
    speed = ("--frames", 2, "--size", "16x16", "--repeat", 1, "--json", "-", "--training", "--weights", file)
    assert rvrt(monkeypatch, *speed) == 0
    result = json.loads(capsys.readouterr().out)
    step = result["training"]
    assert step["network"] == result["network"] == "small"
    assert (step["batch"], step["frames"], step["width"], step["height"]) == (1, 2, 8, 8)
    assert step["gflop_per_step"] == pytest.approx(3 * count_flops(config, 2, 8, 8).total / 1e9)
    assert step["gflops"] == pytest.approx(step["gflop_per_step"] / step["seconds_per_step"])
    assert step["steps_per_hour"] == pytest.approx(3600 / step["seconds_per_step"])
    assert step["efficiency"] == pytest.approx(step["gflops"] / step["gemm_gflops"])
    assert step["compile_seconds"] >= 0
    assert not set(step) - set(re.findall(r"\w+", KEYS["training"]))
    assert step["peak_rss_mb"] > 100
    assert rvrt(monkeypatch, *speed, "--model", "rvrt-tiny") == 1
    said = capsys.readouterr()
    assert said.err == f"rvrt: --model rvrt-tiny: {file} holds small, of other sizes; leave out --model\n"
    assert said.out == ""


def test_the_whole_upscale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    from helpers.video_clips import ffmpeg

    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", "-frames:v", "4", "-c:v", "ffv1", tmp_path / "in.mkv")
    speed = ("--frames", 2, "--size", "16x16", "--repeat", 1, "--json", "-")
    assert rvrt(monkeypatch, *speed, "--pipeline", tmp_path / "in.mkv", "--weights", "random") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == "random"
    pipeline = result["pipeline"]
    assert (pipeline["frames"], pipeline["width"], pipeline["height"], pipeline["tiles"]) == (4, 32, 24, 1)
    spent = sum(pipeline[f"{name}_seconds"] for name in ("network", "waiting_for_source", "waiting_for_target"))
    assert 0 < pipeline["network_seconds"] < spent <= pipeline["seconds"]
    assert pipeline["network_alone_seconds"] > 0
    assert pipeline["frames_per_second"] == pytest.approx(4 / pipeline["seconds"])


def test_the_network_alone_takes_the_same_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from helpers.video_clips import ffmpeg

    from rvrt_cli.bench import pipeline
    from rvrt_cli.model import Network

    calls: list[tuple[bytes, int]] = []
    call = Network.__call__

    def spied(network: Network, frames: np.ndarray, state: dict | None, emit: int) -> tuple[np.ndarray, dict]:
        calls.append((frames.tobytes(), emit))
        return call(network, frames, state, emit)

    monkeypatch.setattr(Network, "__call__", spied)
    monkeypatch.setattr(pipeline, "apart", lambda function, *arguments: function(*arguments))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=16x16:r=25", "-frames:v", "17", "-c:v", "ffv1", tmp_path / "in.mkv")
    result = pipeline.measure_pipeline(BenchOptions(pipeline=str(tmp_path / "in.mkv")))
    assert result["frames"] == 17
    assert len(calls) == 6  # two windows, three times
    assert calls[4:] == calls[2:4] == calls[:2]


def test_a_sweep_and_its_plot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    from rvrt_cli.bench import sweep

    monkeypatch.setattr(sweep, "FRAMES", (1.0, 2.0))
    monkeypatch.setattr(sweep, "SIDES", ())
    files = tmp_path / "sweep.json", tmp_path / "sweep.png"
    speed = ("--frames", 2, "--size", "16x16", "--repeat", 1, "--sweep")
    assert rvrt(monkeypatch, *speed, "--json", files[0], "--plot", files[1]) == 0
    result = json.loads(files[0].read_text())
    assert [point["frames"] for point in result["sweep"]] == [2, 4]
    assert result["growth"]["frames"] is not None
    assert result["memory_growth"]["base_mb"] > 100
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "4 frames of 16x16 px" in capsys.readouterr().err


def test_quality_on_a_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for index, name in enumerate(("calendar", "city", "foliage", "walk")):
        write(tmp_path / "Vid4" / "GT" / name, clip(index, 2, 64, 64))
    file, save = tmp_path / "quality.json", tmp_path / "frames"
    arguments = ("--protocol", "vid4", "--data", tmp_path / "Vid4", "--force", "--json", file, "--save", save)
    assert rvrt(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    for word in ("VID4" if "VID4" in shown else "Vid4", "calendar", "bicubic PSNR Y", "published: rvrt-bi-vimeo"):
        assert word in shown
    result = json.loads(file.read_text())
    assert list(result) == list(KEYS)
    assert (result["clips_scored"], result["frames_scored"], result["sample"]) == (4, 8, False)
    assert result["psnr_y"] > 10
    assert len(list(save.rglob("*.png"))) == 8
    assert rvrt(monkeypatch, *arguments[:5], "--limit", 1) == 0
    assert "a sample: 1 clip, 2 frames of 4 clips; not the protocol's figures" in " ".join(
        capsys.readouterr().out.split()
    )


def test_quality_of_vimeo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    from test_bench_datasets import vimeo

    arguments = ("--protocol", "vimeo90k-t", "--data", vimeo(tmp_path / "set"), "--force", "--json", "-")
    assert rvrt(monkeypatch, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["clips_scored"], result["frames_scored"]) == (2, 2)
    assert [entry["psnr"] for entry in result["published"]][:2] == [38.15, 38.12]
    part = "the set lists 2 of the protocol's 7824 clips: these are figures of a part of it, those published are of the whole"
    assert part in result["notes"]
    assert rvrt(monkeypatch, *arguments[:-2]) == 0
    assert part in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(datasets, "SEPTUPLETS", 2)
    assert rvrt(monkeypatch, *arguments) == 0
    assert not any("a part of it" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_kernels_are_asked_for_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rvrt_cli.bench import speed
    from rvrt_cli.ops import kernels

    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(kernels, "problem", lambda: "no C++ compiler found")
    monkeypatch.setattr(speed, "measure_speed", lambda *_: pytest.fail("measured first"))
    assert rvrt(monkeypatch, "--kernels") == 1
    assert "--kernels: there are none: no C++ compiler found" in capsys.readouterr().err


SOME_KERNELS = """
from rvrt_cli.bench import kernel_speed as kernels
kernels.EDGE, kernels.WIDTH = 8, 12
cases = kernels._cases()
kernels._cases = lambda: {name: cases[name] for name in ("warp", "dense layer", "optical flow")}
"""


def test_kernels_are_measured_without_a_word_from_mindspore() -> None:
    code = f"import sys\n{SOME_KERNELS}\nfrom rvrt_cli.cli import main\nsys.argv[0] = 'rvrt'\nmain()"
    environment = {name: value for name, value in os.environ.items() if name != "GLOG_v"}  # as a user's
    arguments = ["--kernels", "--frames", "2", "--size", "16x16", "--repeat", "1", "--json", "-"]
    done = subprocess.run([sys.executable, "-c", code, "bench", *arguments], env=environment, text=True, check=True,
                          capture_output=True)  # fmt: skip
    assert done.stderr == ""
    warp, dense, flow = json.loads(done.stdout)["kernels"]
    assert list(warp) == list(dense) == ["name", "forward", "gradient"]
    assert list(flow) == ["name", "forward"]
    for figures in (warp["forward"], warp["gradient"], dense["forward"], dense["gradient"], flow["forward"]):
        assert figures["factor"] == pytest.approx(figures["definition_seconds"] / figures["kernel_seconds"])
        assert 0 < figures["factor"] < float("inf")


def test_the_embedded_network_beats_bicubic_on_the_sample_clip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, "--protocol", "clips", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["network"], result["weights"], result["frames_scored"]) == ("rvrt-tiny", "trained", 30)
    assert result["psnr_y"] > result["bicubic_psnr_y"] > 20


def test_weights_for_other_data_are_refused_by_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, "--protocol", "clips", "--degradation", "bd") == 1
    captured = capsys.readouterr()
    [line] = captured.err.strip().splitlines()
    assert "rvrt-tiny were trained for video and the data is bd" in line
    assert "--force" in line
    assert captured.out == ""


def test_interrupted_and_taken_up_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, cache: Path
) -> None:
    for index, name in enumerate(("calendar", "city", "foliage", "walk")):
        write(tmp_path / "Vid4" / "GT" / name, clip(index, 1, 32, 32) if index != 1 else clip(index, 24, 192, 192))
    arguments = ["--protocol", "vid4", "--data", str(tmp_path / "Vid4"), "--json", "-"]
    code = "import sys\nfrom rvrt_cli.cli import main\nsys.argv[0] = 'rvrt'\nmain()"
    process = subprocess.Popen([sys.executable, "-c", code, "bench", *arguments], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    until = time.monotonic() + 200
    while not any("calendar" in notes.read_text() for notes in (cache / "bench").glob("*.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert shown == ""
    line = "rvrt: interrupted after [01] of 4 clips; the same command goes on from there"  # just noted, or counted
    assert re.fullmatch(line, said.strip()), f"not this one line alone:\n{said}"
    assert rvrt(monkeypatch, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["clips_scored"] == 4
    assert any("1 of 4 clips were scored by an interrupted run" in note for note in result["notes"])
    assert not (cache / "bench").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "vid4"), "--data DIR"),
        (("--protocol", "vid4", "--data", "none"), "no such folder"),
        (("--plot", "x.png"), "add --sweep"),
        (("--json", "none/x.json"), "its folder does not exist"),
        (("--pipeline", "none.mp4"), "none.mp4"),
        (("--model", "nope"), "no weights of this name"),
        (("--size", "big"), "WIDTHxHEIGHT"),
        (("--protocol", "clips", "--frames", "14"), "--frames: belongs to speed; leave out --protocol"),
        (("--protocol", "clips", "--size", "64x64"), "--size: belongs to speed"),
        (("--repeat", "2", "--protocol", "clips"), "--repeat: belongs to speed"),
    ],
)
def test_one_line_for_what_cannot_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert rvrt(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    [line] = captured.err.strip().splitlines()
    assert message in line
    assert captured.out == ""
    assert not list(Path.cwd().iterdir())
