# SPDX-License-Identifier: Apache-2.0
"""Speed reports are consistent and complete, and leave nothing behind. How fast something is is never asserted."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.isolated_functions import die, double, refuse
from PIL import Image

from rvrt_cli.bench import matrix_product, sweep
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.machine import OtherLoad, describe_machine, peak_rss_bytes
from rvrt_cli.bench.published_figures import published_quality, published_speed
from rvrt_cli.bench.report import KEYS, check_writable, make_report, to_json
from rvrt_cli.bench.speed import measure_speed, moving_clip, open_network
from rvrt_cli.bench.stages import stage_seconds
from rvrt_cli.bench.sweep import growth_exponents, memory_growth, sweep_sizes
from rvrt_cli.bench.sweep_plot import draw_sweep
from rvrt_cli.device import use_device
from rvrt_cli.errors import OptionError, OutOfMemoryError, WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.model.cost import count_flops
from rvrt_cli.options import usable_cores

GUIDED = RVRTConfig(
    widths=(8, 8, 8),
    groups=(1, 1, 1),
    depths=(1, 1, 1),
    heads=(2, 2, 2),
    align_heads=2,
    deformable_groups=2,
    offset_width=8,
    upsampler_width=8,
)


# --- operations


def test_the_published_network_takes_344_gflop() -> None:
    flops = count_flops(RVRTConfig(), 4, 64, 64)
    assert flops.total == pytest.approx(344.3e9, rel=0.005)
    parts = flops.convolutions / 1e9, flops.dense / 1e9, flops.attention / 1e9
    assert parts == pytest.approx((190, 132, 22), abs=1)


def test_operations_grow_with_frames_and_pixels() -> None:
    # without a flow all work is per px; that of SpyNet's pyramid is not
    config = dataclasses.replace(PRESETS["rvrt-tiny"], flow_guided=False, fused_neighbors=0)
    assert count_flops(config, 4, 128, 64).total == pytest.approx(2 * count_flops(config, 4, 64, 64).total)
    less = [count_flops(config, frames, 64, 64).total for frames in (14, 28, 42)]
    assert less[2] - less[1] == pytest.approx(less[1] - less[0])
    guided = dataclasses.replace(config, flow_guided=True, flow_estimator="spynet")
    frames = [count_flops(guided, count, 64, 64).total for count in (14, 28, 42)]
    assert frames[2] - frames[1] == pytest.approx(frames[1] - frames[0])
    assert frames[0] > less[0]


# --- a call


@pytest.mark.slow
def test_a_report_is_complete_and_consistent() -> None:
    options = BenchOptions(frames=2, size="24x16", repeat=3)
    result = measure_speed(options)
    assert list(result) == list(KEYS)
    assert (result["frames"], result["width"], result["height"], result["repeat"]) == (2, 24, 16, 3)
    low, middle, high = (result[f"seconds_per_call{end}"] for end in ("_min", "", "_max"))
    assert 0 < low <= middle <= high
    assert result["seconds_per_frame"] == pytest.approx(middle / 2)
    assert result["frames_per_second"] == pytest.approx(2 / middle)
    config = open_network(options).config
    assert result["gflop_per_call"] == pytest.approx(count_flops(config, 2, 16, 24).total / 1e9)
    assert result["gflops"] == pytest.approx(result["gflop_per_call"] / middle)
    assert result["gemm_gflops"] == max(result["gemm_numpy_gflops"], result["gemm_mindspore_gflops"])
    assert result["gemm_numpy"]["threads"] == usable_cores()
    assert result["efficiency"] == pytest.approx(result["gflops"] / result["gemm_gflops"])
    assert result["compile_seconds"] >= 0
    assert 0 <= result["other_load"] <= 1
    assert any("other programs" in note for note in result["notes"]) == (result["other_load"] > 0.05)
    assert 100 < result["peak_rss_mb"] < 100_000
    assert result["peak_device_mb"] is None
    assert config.flow
    assert config.fused_neighbors
    listed = ["flow", "neighbors", "features", *config.branches, "alignment", "reconstruction", "other"]
    assert list(result["stages"]) == listed  # as KEYS has them
    assert result["machine"]["device"] == "cpu"
    assert result["machine"]["mindspore"]
    assert isinstance(result["machine"]["kernels"], bool)
    assert result["published"] == []
    assert result["psnr_y"] is None
    assert str(Path.home()) not in to_json(result)
    json.loads(to_json(result))


@pytest.mark.slow
def test_stages_are_timed_and_restored() -> None:
    from rvrt_cli.model import Network, initial_weights

    card = {"name": "guided", "trained": False, "degradation": "none"}
    network = Network(GUIDED, initial_weights(GUIDED), card, use_device("cpu"))
    clip = moving_clip(4, 16, 24)  # two clips, so that there is something to align
    expected, _ = network(clip, None, 4)
    parts = [network.cell, network.cell.extract, network.cell.reconstruct, *network.cell.align, *network.cell.branches]
    before = [set(vars(part)) for part in parts]
    with stage_seconds(network) as seconds:
        output, _ = network(clip, None, 4)
    assert list(seconds) == ["flow", "features", *GUIDED.branches, "alignment", "reconstruction"]
    assert all(value > 0 for value in seconds.values()), seconds
    np.testing.assert_array_equal(output, expected)
    assert [set(vars(part)) for part in parts] == before
    spent = dict(seconds)
    network(clip, None, 4)
    assert seconds == spent


def test_other_load_counts_other_programs() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        load = OtherLoad()
        time.sleep(0.5)  # our own work would not count
        assert load.share() > 0.5
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("set_to", "threads"), [("2,1", 2), (" 3 ", 3), ("many", None), ("0", None)])
def test_threads_are_those_of_openmp(monkeypatch: pytest.MonkeyPatch, set_to: str, threads: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    assert describe_machine(use_device("cpu"))["threads"] == (threads or usable_cores())


@pytest.mark.slow
def test_random_weights_are_marked() -> None:
    result = measure_speed(BenchOptions(weights="random", frames=2, size="24x16", repeat=1), whole=False)
    assert result["weights"] == "random"
    assert any("random weights" in note for note in result["notes"])
    assert (result["stages"], result["gemm_gflops"], result["efficiency"]) == (None, None, None)


def test_missing_weights_name_the_way_to_time_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="--weights random"):
        open_network(BenchOptions(model="rvrt"))
    with pytest.raises(OptionError, match="rvrt, rvrt-light, rvrt-deblur, rvrt-denoise, rvrt-tiny"):
        open_network(BenchOptions(model="other", weights="random"))


def test_a_call_that_cannot_fit_is_refused_before_it_is_tried() -> None:
    with pytest.raises(OutOfMemoryError, match="fewer --frames or a smaller --size"):
        measure_speed(BenchOptions(frames=100_000, size="7680x4320"))


def test_the_clip_moves() -> None:
    clip = moving_clip(3, 20, 30)
    assert clip.shape == (1, 3, 20, 30, 3)
    assert clip.dtype == np.float32
    assert 0 <= clip.min() < clip.max() <= 1
    np.testing.assert_array_equal(clip[0, 0, 1:, 1:], clip[0, 1, :-1, :-1])


# --- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "--frames 0"),
        ({"repeat": 0}, "--repeat 0"),
        ({"size": "1080p"}, "WIDTHxHEIGHT"),
        ({"size": "112"}, "WIDTHxHEIGHT"),
        ({"size": "112x4"}, "8x8 px"),
        ({"device": "tpu"}, "--device"),
        ({"training": True, "precision": "bfloat16"}, "--training: networks are not trained in bfloat16"),
        ({"kernels": True, "precision": "bfloat16"}, "--kernels: measures float32"),
        ({"data": "Vid4"}, "--data: measures quality"),
        ({"limit": 3}, "--limit: measures quality"),
        ({"limit": 0, "protocol": "clips"}, "--limit 0"),
        ({"vmaf": True}, "--vmaf: measures quality"),
        ({"protocol": "set5"}, "--protocol 'set5'"),
        ({"protocol": "vid4"}, "--data FOLDER"),
        ({"protocol": "clips", "sweep": True}, "--sweep: measures speed"),
        ({"protocol": "clips", "weights": "random"}, "speed only"),
        ({"protocol": "vid4", "data": "Vid4", "degradation": "video"}, "for --protocol clips only"),
        ({"protocol": "vid4", "data": "Vid4", "degradation": "real"}, "real: for --protocol clips only"),
    ],
)
def test_bad_options_are_refused(values: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        BenchOptions(**values)


# --- other processes, the sweep


def test_an_isolated_process_returns_raises_or_dies() -> None:
    assert run_isolated(double, 21) == 42
    with pytest.raises(OptionError, match="no"):
        run_isolated(refuse)
    with pytest.raises(OutOfMemoryError, match="status 9"):
        run_isolated(die)
    assert run_isolated(peak_rss_bytes) < peak_rss_bytes()  # its own, not ours


def test_an_isolated_process_has_all_threads_whatever_mindspore_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    os.putenv("OMP_NUM_THREADS", "1")  # as MindSpore does: os.environ does not see it, children do
    assert run_isolated(os.getenv, "OMP_NUM_THREADS") is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's stays
    assert run_isolated(os.getenv, "OMP_NUM_THREADS") == "3"


def test_a_sweep_varies_one_thing_at_a_time() -> None:
    points = sweep_sizes(BenchOptions())
    assert points[:4] == [(4, 112, 64), (7, 112, 64), (14, 112, 64), (28, 112, 64)]
    assert points[4:] == [(14, 56, 32), (14, 80, 48), (14, 168, 96)]  # multiples of 8


def test_a_sweep_skips_and_notes_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(function: object, options: BenchOptions, *arguments: object) -> dict:
        if options.frames > 14 or options.width_height[0] > 112:
            raise OutOfMemoryError("the process ended without a result")
        return dict.fromkeys(KEYS) | {
            "frames": options.frames,
            "width": options.width_height[0],
            "height": options.width_height[1],
            "seconds_per_call": 1.0,
            "peak_rss_mb": 1.0,
            "other_load": 0.0,
        }

    monkeypatch.setattr(sweep, "run_isolated", pretend)
    options = BenchOptions()
    result = sweep.measure_sweep(options)
    assert [(p["frames"], p["width"]) for p in result["sweep"]] == [(4, 112), (7, 112), (14, 112), (14, 56), (14, 80)]
    assert [note.split(" (")[0] for note in result["notes"]] == [
        "missing from the sweep: 28 frames of 112x64 px",
        "missing from the sweep: 14 frames of 168x96 px",
    ]
    machine = {"name": "a machine", "threads": 2, "precision": "float32"}
    for points in (result["sweep"], []):
        drawn = {"network": "n", "weights": "trained", "machine": machine, "sweep": points}
        assert Image.open(io.BytesIO(draw_sweep(drawn, options))).format == "PNG"


def sweep_points(options: BenchOptions, power: float) -> list[dict]:
    return [
        {
            "frames": t,
            "width": w,
            "height": h,
            "seconds_per_call": t * (w * h) ** power,
            "peak_rss_mb": 500.0 + t,
            "peak_device_mb": None,
            "other_load": 0.3,
        }
        for t, w, h in sweep_sizes(options)
    ]


def test_growth_is_the_exponent() -> None:
    options = BenchOptions()
    assert growth_exponents(sweep_points(options, 1.5), options) == {
        "frames": pytest.approx(1),
        "pixels": pytest.approx(1.5),
    }
    assert growth_exponents(sweep_points(options, 1.0)[:1], options) == {"frames": None, "pixels": None}


def test_memory_is_a_line_over_pixels_and_frames() -> None:
    points = [
        {"frames": t, "width": w, "height": h, "peak_rss_mb": 400 + 2e-3 * t * w * h, "peak_device_mb": None}
        for t, w, h in sweep_sizes(BenchOptions())
    ]
    line = {
        "bytes_per_pixel": pytest.approx(2000),
        "base_mb": pytest.approx(400),
        "off_line": pytest.approx(0, abs=1e-6),
    }
    assert memory_growth(points) == line
    assert memory_growth(points[:1]) is None


@pytest.mark.slow
def test_the_plot_is_a_small_png() -> None:
    options = BenchOptions()
    machine = {"name": "a machine", "threads": 2, "precision": "float32"}
    result = {"network": "n", "weights": "trained", "machine": machine, "sweep": sweep_points(options, 1.0)}
    data = draw_sweep(result, options)
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 4
    assert len(data) < 40_000


# --- the report's file


def test_the_report_refuses_keys_that_are_not_documented() -> None:
    with pytest.raises(KeyError, match="fast"):
        make_report("speed", fast=True)


def test_nested_keys_are_documented_too() -> None:
    published = [*published_speed(14, 112, 64), *published_speed(1, 320, 180), *published_quality("vimeo90k-t", "bi")]
    blas = matrix_product.NumpyProduct(gflops=2.0, threads=1, core=None, held_to=None)
    inside = {
        "gemm_numpy": set(matrix_product.MatrixProduct(1.0, blas).facts()["gemm_numpy"]),
        "machine": set(describe_machine(use_device("cpu"))),
        "published": {key for entry in published for key in entry},
    }
    for name, keys in inside.items():
        assert not keys - set(re.findall(r"\w+", KEYS[name])), name


def test_a_file_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OptionError, match="does not exist"):
        check_writable(tmp_path / "none" / "a.json")


def test_options_and_command_name_the_same_things() -> None:
    from rvrt_cli.cli.bench import bench_command

    options = {parameter.name for parameter in bench_command.params}
    assert {field.name for field in dataclasses.fields(BenchOptions)} == options - {"json_file", "plot", "debug"}
