# SPDX-License-Identifier: Apache-2.0
"""`rvrt bench` as a user meets it: the real network, the real command line.

Calls of the network have 2 frames of 24×16 px wherever the size does not matter: every other size compiles for seconds.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import VID4, textured_clip, write_frames, write_vid4, write_vimeo
from helpers.commands import RVRT, refusal, rvrt
from helpers.train_runs import NETWORK
from helpers.video_clips import ffmpeg

from rvrt_cli.bench import datasets, kernel_speed, pipeline, speed, sweep, training_speed
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.kernel_cases import CaseSizes
from rvrt_cli.bench.report import KEYS
from rvrt_cli.cli.bench_tables import print_quality, print_speed
from rvrt_cli.cli.formatting import three_digits

SPEED = ("bench", "--frames", 2, "--size", "24x16", "--repeat", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    assert rvrt(monkeypatch, *SPEED, "--json", file) == 0
    shown = capsys.readouterr().out
    for word in ("rvrt-tiny", "2 frames of 24x16 px", "GFLOP/s", "MindSpore", "reconstruction", "peak memory", "NumPy"):
        assert word in shown
    assert "published" not in shown  # nobody has published figures for this job
    result = json.loads(file.read_text())
    assert list(result) == list(KEYS)
    assert result["kind"] == "speed"
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
def test_published_figures_of_the_same_job_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rvrt_cli.bench.published_figures import published_speed

    monkeypatch.setattr(speed, "published_speed", lambda *_: published_speed(14, 112, 64))
    assert rvrt(monkeypatch, *SPEED) == 0
    shown = capsys.readouterr().out
    assert "published, not measured here" in shown
    assert "rvrt on RTX 3090 Ti, float32, MindSpore: 2.32 s, 11.7 GB" in shown


def test_json_alone_on_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert rvrt(monkeypatch, *SPEED, "--weights", "random", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["weights"], result["width"]) == ("random", 24)


@pytest.mark.slow
def test_the_training_step_is_that_of_the_given_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    from rvrt_cli.model import initial_weights
    from rvrt_cli.model.config import PRESETS
    from rvrt_cli.model.cost import count_flops
    from rvrt_cli.weights import save_weights

    config, file = replace(PRESETS["rvrt-tiny"], **NETWORK, passes=1), tmp_path / "small.safetensors"
    save_weights(file, initial_weights(config), config, {"name": "small", "trained": False, "degradation": "none"})
    for name, value in (("STEP_BATCH", 1), ("STEP_FRAMES", 2), ("STEP_EDGE", 8)):
        monkeypatch.setattr(training_speed, name, value)
    monkeypatch.setattr(training_speed, "run_isolated", lambda function, *arguments: function(*arguments))
    command = (*SPEED, "--json", "-", "--training", "--weights", file)
    assert rvrt(monkeypatch, *command) == 0
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
    print_speed(result)
    shown = " ".join(capsys.readouterr().out.split())
    assert "training step" in shown
    assert f"1 samples of 2 frames of 8x8 px; {step['steps_per_hour']:.0f} steps per hour" in shown
    said = refusal(monkeypatch, capsys, *command, "--model", "rvrt-tiny")
    assert said == f"rvrt: --model rvrt-tiny: {file} holds small, of other sizes; omit --model"


@pytest.mark.slow
def test_the_whole_upscale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=24x16:r=25", "-frames:v", "4", "-c:v", "ffv1", tmp_path / "in.mkv")
    monkeypatch.setattr(pipeline, "run_isolated", lambda function, *arguments: function(*arguments))
    assert rvrt(monkeypatch, *SPEED, "--json", "-", "--pipeline", tmp_path / "in.mkv", "--weights", "random") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == "random"
    figures = result["pipeline"]
    assert (figures["frames"], figures["width"], figures["height"], figures["tiles"]) == (4, 24, 16, 1)
    spent = sum(figures[f"{name}_seconds"] for name in ("network", "waiting_for_source", "waiting_for_target"))
    assert 0 < figures["network_seconds"] < spent <= figures["seconds"]
    assert figures["network_alone_seconds"] > 0
    assert figures["frames_per_second"] == pytest.approx(4 / figures["seconds"])
    print_speed(result)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"whole upscale 4 frames of 24x16 px in {three_digits(figures['seconds'])} s" in shown
    assert f"waiting for decoding {three_digits(figures['waiting_for_source_seconds'])} s" in shown


@pytest.mark.slow
def test_the_network_alone_takes_the_same_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rvrt_cli.model import Network

    calls: list[tuple[bytes, int]] = []
    call = Network.__call__

    def spied(
        network: Network, frames: np.ndarray, state: dict | None, emit: int, **options: int
    ) -> tuple[np.ndarray, dict]:
        calls.append((frames.tobytes(), emit))
        return call(network, frames, state, emit, **options)

    monkeypatch.setattr(Network, "__call__", spied)
    monkeypatch.setattr(pipeline, "run_isolated", lambda function, *arguments: function(*arguments))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=24x16:r=25", "-frames:v", "17", "-c:v", "ffv1", tmp_path / "in.mkv")
    result = pipeline.measure_pipeline(BenchOptions(pipeline=str(tmp_path / "in.mkv")))
    assert result["frames"] == 17
    assert len(calls) == 6  # two windows, three times
    assert calls[4:] == calls[2:4] == calls[:2]


@pytest.mark.slow
def test_a_sweep_and_its_plot(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "FRAME_FACTORS", (1.0, 2.0))
    monkeypatch.setattr(sweep, "SIDE_FACTORS", ())
    monkeypatch.setattr(sweep, "run_isolated", lambda function, *arguments: function(*arguments))
    files = tmp_path / "sweep.json", tmp_path / "sweep.png"
    assert rvrt(monkeypatch, *SPEED, "--sweep", "--json", files[0], "--plot", files[1]) == 0
    result = json.loads(files[0].read_text())
    assert [point["frames"] for point in result["sweep"]] == [2, 4]
    assert result["growth"]["frames"] is not None
    assert result["memory_growth"]["base_mb"] > 100
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "4 frames of 24x16 px" in capsys.readouterr().err


def test_quality_on_a_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    write_vid4(tmp_path / "Vid4", 2, 64, 96)
    file, save = tmp_path / "quality.json", tmp_path / "frames"
    arguments = ("bench", "--protocol", "vid4", "--data", tmp_path / "Vid4", "--force", "--json", file, "--save", save)
    assert rvrt(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    for word in ("Vid4", "calendar", "bicubic PSNR Y", "published: rvrt-bi-vimeo"):
        assert word in shown
    result = json.loads(file.read_text())
    assert list(result) == list(KEYS)
    assert (result["clips_scored"], result["frames_scored"], result["sample"]) == (4, 8, False)
    assert result["psnr_y"] > 10
    assert len(list(save.rglob("*.png"))) == 8
    assert rvrt(monkeypatch, *arguments[:6], "--limit", 1) == 0
    assert "a sample: 1 clip, 2 frames of 4 clips; not the protocol's figures" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_quality_of_vimeo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments = ("bench", "--protocol", "vimeo90k-t", "--data", write_vimeo(tmp_path / "set"), "--force", "--json", "-")
    assert rvrt(monkeypatch, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["clips_scored"], result["frames_scored"]) == (2, 2)
    assert [entry["psnr"] for entry in result["published"]][:2] == [38.15, 38.12]
    part = "the set lists 2 of the protocol's 7824 clips: these figures are of that part, published ones of the whole"
    assert part in result["notes"]
    assert rvrt(monkeypatch, *arguments[:-2]) == 0
    assert part in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(datasets, "PROTOCOL_SEPTUPLETS", 2)
    assert rvrt(monkeypatch, *arguments) == 0
    assert not any("of that part" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_missing_kernels_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rvrt_cli.ops import kernels

    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(kernels, "problem", lambda: "no C++ compiler found")
    monkeypatch.setattr(speed, "measure_speed", lambda *_: pytest.fail("measured first"))
    said = refusal(monkeypatch, capsys, "bench", "--kernels")
    assert "--kernels: the C++ kernels are missing: no C++ compiler found" in said


@pytest.fixture
def measure_kernels(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., dict]:
    """The report of `rvrt bench --kernels` on the kernels of some functions, while MindSpore prints nothing."""
    every = kernel_speed.kernel_cases
    monkeypatch.setattr(kernel_speed, "CASE_SIZES", CaseSizes(edge=32, width=12, tiny_height=32, tiny_width=40))
    monkeypatch.setattr(kernel_speed, "_MOST_CALLS", 2)  # every call in a graph is compiled

    def measured(*functions: str) -> dict:
        monkeypatch.setattr(
            kernel_speed, "kernel_cases", lambda sizes: [case for case in every(sizes) if case.function in functions]
        )
        assert rvrt(monkeypatch, *SPEED, "--kernels", "--json", "-") == 0
        shown, said = capfd.readouterr()
        assert said == ""
        result = json.loads(shown)
        for row in result["kernels"]:
            for part in ("forward", "with_gradient"):
                if part in row:
                    compared = row["part"][part]
                    factor = compared["definition_seconds"] / compared["kernel_seconds"]
                    assert compared["factor"] == pytest.approx(factor)
                    assert 0 < compared["factor"] < float("inf")
                    assert not {*row, *row[part], *compared} - set(re.findall(r"\w+", KEYS["kernels"]))
        return result

    return measured


def kernel_rows(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, result: dict) -> dict[str, list[str]]:
    """The rows of the table of kernels as printed, by name: input, then four figures each without and with gradient."""
    monkeypatch.setenv("COLUMNS", "300")
    print_speed(result)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capfd.readouterr().out.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 10}


def shown_milliseconds(row: dict) -> list[str]:
    return [three_digits(1e3 * row["forward"]["seconds"])]


@pytest.mark.slow
def test_a_kernel_without_a_gradient_is_measured(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, measure_kernels: Callable[..., dict]
) -> None:
    """Uncompiled: the definition of this one takes ten seconds to compile."""
    monkeypatch.setenv("MS_JIT", "0")
    result = measure_kernels("lucas_kanade")
    [flow] = result["kernels"]
    assert list(flow) == ["name", "shape", "gflop", "forward", "part"]
    assert (flow["forward"]["gflops"], flow["forward"]["gb_per_second"]) == (None, None)
    cells = kernel_rows(monkeypatch, capfd, result)[flow["name"]]
    assert cells[1:] == [*shown_milliseconds(flow), "", "", three_digits(flow["part"]["forward"]["factor"]), *[""] * 4]


@pytest.mark.slow
def test_kernels_are_measured_while_mindspore_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, measure_kernels: Callable[..., dict]
) -> None:
    result = measure_kernels("warp", "linear")
    dense, square, warp = result["kernels"]
    for row in (dense, square, warp):
        assert list(row) == ["name", "shape", "gflop", "forward", "with_gradient", "part"]
    assert (dense["shape"], dense["part"]["shape"]) == ([1, 2, 32, 32, 12], [1, 2, 8, 8, 12])
    for row, products in ((dense, {"forward": 1, "with_gradient": 3}), (square, {"forward": 1, "with_gradient": 3})):
        for part, count in products.items():
            figures = row[part]
            assert figures["gflops"] == pytest.approx(count * row["gflop"] / figures["seconds"])
            assert figures["efficiency"] == pytest.approx(figures["gflops"] / result["gemm_gflops"])
            assert figures["gb_per_second"] is None
    assert (warp["gflop"], warp["forward"]["gflops"], warp["forward"]["efficiency"]) == (None, None, None)
    moved = 4 * 2 * 32 * 32 * (12 + 2 + 12) / 1e9  # features, flow, result
    assert warp["forward"]["gb_per_second"] == pytest.approx(moved / warp["forward"]["seconds"])
    assert warp["with_gradient"]["gb_per_second"] == pytest.approx(2 * moved / warp["with_gradient"]["seconds"])
    cells = kernel_rows(monkeypatch, capfd, result)
    assert [cells[row["name"]][0] for row in (dense, warp)] == ["1×2×32×32×12", "2×32×32×12"]
    for row in (dense, square):
        figures, compared = row["forward"], row["part"]["forward"]
        rate, share = f"{three_digits(figures['gflops'])} GFLOP/s", f"{figures['efficiency']:.0%}"
        assert cells[row["name"]][1:5] == [*shown_milliseconds(row), rate, share, three_digits(compared["factor"])]
    rate = f"{three_digits(warp['forward']['gb_per_second'])} GB/s"
    assert cells[warp["name"]][1:4] == [*shown_milliseconds(warp), rate, ""]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench", "upscale"])
def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    """In a process of its own: in this one the network may be loaded already."""
    monkeypatch.setenv("RVRT_ISA", "sse9")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", "-frames:v", "2", "-c:v", "ffv1", tmp_path / "in.mkv")
    arguments = map(str, SPEED if command == "bench" else ("upscale", tmp_path / "in.mkv", tmp_path / "out.mkv"))
    done = subprocess.run([*RVRT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "rvrt: RVRT_ISA=sse9: choose one of portable, avx2, avx512, or unset it"
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.slow
def test_the_embedded_network_beats_bicubic_on_the_sample_clip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, "bench", "--protocol", "clips", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["network"], result["weights"], result["frames_scored"]) == ("rvrt-tiny", "trained", 30)
    assert result["psnr_y"] > result["bicubic_psnr_y"] > 20
    print_quality(result)
    shown = capsys.readouterr().out
    for name in ("PSNR Cb", "PSNR Cr", "flicker", "bicubic PSNR Cb"):
        assert name in " ".join(shown.split())
    assert f"{result['psnr_cb']:.2f}" in shown


def test_weights_for_other_data_are_refused_by_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    line = refusal(monkeypatch, capsys, "bench", "--protocol", "clips", "--degradation", "bd")
    assert "rvrt-tiny were trained for video and the data is bd" in line
    assert "--force" in line


@pytest.mark.slow
def test_an_interrupted_run_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, cache: Path
) -> None:
    for index, name in enumerate(VID4):  # the second clip takes long enough for a signal
        clip = textured_clip(index, 1, 64, 96) if index != 1 else textured_clip(index, 8, 128, 128)
        write_frames(tmp_path / "Vid4" / "GT" / name, clip)
    arguments = ["bench", "--protocol", "vid4", "--data", str(tmp_path / "Vid4"), "--json", "-"]
    process = subprocess.Popen([*RVRT, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 200
    while not any("calendar" in log.read_text() for log in (cache / "bench").glob("*.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert shown == ""
    line = "rvrt: interrupted after [01] of 4 clips; run the same command to resume"  # logged, or counted
    assert re.fullmatch(line, said.strip()), f"not this one line alone:\n{said}"
    assert rvrt(monkeypatch, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["clips_scored"] == 4
    assert any("1 of 4 clips were scored by an earlier, interrupted run" in note for note in result["notes"])
    assert not (cache / "bench").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "vid4"), "--data FOLDER"),
        (("--protocol", "vid4", "--data", "none"), "no such folder"),
        (("--plot", "x.png"), "add --sweep"),
        (("--json", "none/x.json"), "its folder does not exist"),
        (("--pipeline", "none.mp4"), "none.mp4"),
        (("--model", "nope"), "unknown weights"),
        (("--size", "big"), "WIDTHxHEIGHT"),
        (("--protocol", "clips", "--frames", "14"), "--frames: measures speed; omit it, or --protocol"),
        (("--protocol", "clips", "--size", "64x64"), "--size: measures speed"),
        (("--repeat", "2", "--protocol", "clips"), "--repeat: measures speed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refusal(monkeypatch, capsys, "bench", *arguments)
    assert not list(Path.cwd().iterdir())
