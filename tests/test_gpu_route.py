# SPDX-License-Identifier: Apache-2.0
"""The way to an NVIDIA GPU, without one: MindSpore's GPU plugin on the null GPU of helpers/null_gpu.py.

What MindSpore has no GPU kernel for, a wrong shape, a copy too many or a broken installation shows here. Results are not
compared, but those of our own kernels where nothing of MindSpore's takes part.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import gpu_route
from helpers.comparison import assert_close
from helpers.op_cases import CASES, results_of
from helpers.train_runs import make_store
from helpers.video_clips import decoded_times, ffmpeg

from rvrt_cli import ops

FREE_BYTES, CARDS = 6 << 30, 2  # of the null GPU


def on_null_gpu(folder: Path, *arguments: object, status: int = 0, **environment: str) -> str:
    """Run a check of helpers/gpu_route.py; returns what it printed."""
    command = [sys.executable, "-m", "helpers.null_gpu", folder, gpu_route.__file__, *arguments]
    cache = {"RVRT_CACHE": str(Path.cwd() / "cache")}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **cache, **environment}
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@dataclass(frozen=True)
class Benchmark:
    """What `rvrt bench` and one more call on the null GPU have given."""

    preset: str
    precision: str
    report: dict
    launched: int  # kernels
    copied: int  # bytes, from the host
    waits: int

    def check(self, launches: int) -> None:
        """Weights stay on the card, and nothing makes the host wait for each stage: both once cost most of a call."""
        assert self.report["network"] == self.preset
        assert self.report["machine"]["device"] == "gpu"
        assert self.report["machine"]["precision"] == self.precision
        assert self.report["machine"]["kernels"] is True
        assert 0 < self.launched <= launches
        frames = 14 * 64 * 112 * 3 * (2 if self.precision == "float16" else 4)
        assert frames <= self.copied < 1.2 * frames
        assert self.waits <= 40


def lists_in(printed: str) -> list[list]:
    """The lines that are JSON lists."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("[")]


def benchmarks(null_gpu: Path, folder: Path, *jobs: tuple[str, str, str]) -> list[Benchmark]:
    """Benchmarks in one process: preset, precision and depth of each."""
    files = [folder / f"{preset}.json" for preset, _, _ in jobs]
    words = [":".join([*job, str(file)]) for job, file in zip(jobs, files, strict=True)]
    found = lists_in(on_null_gpu(null_gpu, "bench", *words))
    return [
        Benchmark(*job[:2], json.loads(file.read_text()), *counts)
        for job, file, counts in zip(jobs, files, found, strict=True)
    ]


@pytest.mark.slow
def test_upscale_leaves_nothing_behind_and_a_call_brings_only_its_frames_to_the_card(
    null_gpu: Path, tmp_path: Path
) -> None:
    """One process, as frames of one size have the same graphs, each of which takes a second to compile."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=112x64:r=25", "-frames:v", "8", "-c:v", "ffv1", source)
    job, report = ("rvrt-tiny", "float32", "all"), tmp_path / "speed.json"
    words = (":".join([*job, str(report)]), source, target, "--preset", "ultrafast")
    left, counts = lists_in(on_null_gpu(null_gpu, "upscale_and_bench", *words))
    assert len(decoded_times(target)) == 8
    assert left == ["cache"]
    Benchmark(*job[:2], json.loads(report.read_text()), *counts).check(1064)


@pytest.mark.slow
def test_other_presets_bring_only_their_frames_to_the_card(null_gpu: Path, tmp_path: Path) -> None:
    """The other presets, with one layer in each stage."""
    jobs = ("rvrt-light", "float16", "one"), ("rvrt", "float16", "one")
    light, rvrt = benchmarks(null_gpu, tmp_path, *jobs)
    light.check(750)
    rvrt.check(1250)


@pytest.mark.slow
@pytest.mark.soak
def test_whole_presets_bring_only_their_frames_to_the_card(null_gpu: Path, tmp_path: Path) -> None:
    jobs = ("rvrt-light", "float32", "all"), ("rvrt", "float16", "all")
    light, rvrt = benchmarks(null_gpu, tmp_path, *jobs)
    light.check(1500)
    rvrt.check(2000)


def training_run(data: Path, output: Path, preset: str, precision: str, validated: bool) -> str:
    """Two steps of a network with the structure of a preset that compiles in seconds."""
    network = ["passes=1", "groups=[1,1,1]", "depths=[1,1,1]", "widths=[8,8,8]", "heads=[1,1,1]", "align_heads=2"]
    network += ["deformable_groups=2", "offset_width=4", "mlp_ratio=1"]
    network += ["fused_neighbors=1", "lead_in=1"] if preset == "rvrt-tiny" else []
    settings = [word for setting in network for word in ("--network", setting)]
    sizes = ["--model", preset, "--steps", "2", "--batch", "1", "--crop", "32", "--frames", "2", "--no-mirror"]
    sizes += ["--workers", "0"]
    sizes += ["--spynet-frozen", "0"] if preset == "rvrt" else []
    device = ["--device", "gpu", "--precision", precision]
    return json.dumps([validated, "--data", str(data), "--output", str(output), *sizes, *settings, *device])


@pytest.mark.slow
@pytest.mark.parametrize("validated", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "validated"])
def test_networks_are_trained(null_gpu: Path, tmp_path: Path, validated: bool) -> None:
    """Two steps of each, and a validation, which compiles graphs for inference: by default for the smallest alone."""
    data = make_store(tmp_path / "data")
    presets = {"rvrt-tiny": "float32", "rvrt-light": "float16", "rvrt": "float32"}
    runs = [
        training_run(data, tmp_path / preset, preset, precision, validated or preset == "rvrt-light")
        for preset, precision in presets.items()
    ]
    on_null_gpu(null_gpu, "train", *runs)
    for preset in presets:
        assert (tmp_path / preset / "weights.safetensors").is_file()
    assert "gain" in (tmp_path / "rvrt-light" / "log.jsonl").read_text()


@pytest.mark.slow
def test_ops_through_mindspore_equal_those_on_the_cpu(null_gpu: Path, tmp_path: Path) -> None:
    """Shapes, attributes and gradients pass between MindSpore and the CUDA kernels as on the CPU."""
    # MindSpore's own GPU kernels take part in these, which compute nothing here
    foreign = ("conv2d gelu", "pixel_shuffle 3", "add_upsampled", "charbonnier", "conv2d relu residual")
    foreign += ("swin_layer bias", "swin_layer_onto bias", "swin_layer shortened")
    # Of two gradients: x and the bias of qkv are used twice
    sums = (
        "swin_layer/gradient 0",
        "swin_layer/gradient 4",
        "swin_layer_onto/gradient 0",
        "swin_layer_onto/gradient 5",
    )
    names = [name for name in CASES if name not in foreign]
    assert ops.use_kernels(True)
    expected = results_of(names)
    file = tmp_path / "operations.npz"
    on_null_gpu(null_gpu, "operations", file, *names, NULL_GPU_COMPUTES="1")
    with np.load(file) as found:
        assert sorted(found.files) == sorted(expected)
        for name in expected.keys() - set(sums):
            assert_close(found[name], expected[name].astype(np.float64), 2e-5, name, floor=1e-3)


@pytest.mark.slow
def test_too_little_memory_is_one_error_after_which_it_goes_on(null_gpu: Path) -> None:
    first, second = on_null_gpu(null_gpu, "out_of_memory").splitlines()
    assert "memory is not enough" in first
    assert second == "a result"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "rank", "number"), [("gpu", None, 0), ("gpu:1", None, 1), ("auto", None, 0), ("gpu", "1", 1)]
)
def test_a_card_is_chosen_by_its_number_or_by_the_rank(
    null_gpu: Path, device: str, rank: str | None, number: int
) -> None:
    environment = {"MS_ROLE": "MS_WORKER", "DEVICE_ID": rank} if rank else {}
    told = json.loads(on_null_gpu(null_gpu, "select", device, **environment).splitlines()[-1])
    assert told == ["gpu", number, number, FREE_BYTES]


@pytest.mark.slow
def test_a_card_that_is_not_there_is_refused(null_gpu: Path) -> None:
    assert f"--device gpu:{CARDS}: there is no gpu {CARDS}" in on_null_gpu(null_gpu, "select", f"gpu:{CARDS}", status=1)


# --- the check for a machine with a card

CHECK = Path(__file__).parent / "hardware" / "check.py"


@pytest.mark.slow
def test_the_hardware_check_passes_kernels_on_the_cpu_and_fails_those_of_a_card_that_does_not_compute(
    null_gpu: Path,
) -> None:
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])}
    step = [CHECK, "--step", "kernels"]
    results = []
    for command in (
        [sys.executable, *step, "cpu", "float32"],
        [sys.executable, "-m", "helpers.null_gpu", null_gpu, *step, "gpu", "float32"],
    ):
        words = list(map(str, command))
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, **paths})
        results.append(json.loads(done.stdout.splitlines()[-1]))
    on_cpu, on_card = results
    assert on_cpu["passed"], on_cpu
    assert not on_card["passed"]
    assert on_card["backend"] == "CUDA kernels"
    assert len(on_card["wrong"]) > 10


# --- installations that do not work

_DRIVER = """
int cuInit(unsigned flags) {{ return {init}; }}
int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}
int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
int cuDeviceGetAttribute(int *value, int attribute, int card) {{ *value = attribute == 75 ? {major} : 0; return 0; }}
"""


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "there is no NVIDIA driver; install one (version 510 or later)"),
        ({"version": 11040}, "the NVIDIA driver is for CUDA 11.4 and MindSpore needs 11.6; update it"),
        ({"count": 0}, "finds no card; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"init": 100}, "finds no card; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"major": 5}, "MindSpore has no code for a card of compute capability 5.0"),
        ({}, "libcudart.so.11.0 of CUDA 11 is missing; run pip install '.[gpu]' in rvrt's checkout"),
    ],
    ids=["no driver", "old driver", "no card", "driver without a card", "old card", "no CUDA"],
)
def test_what_is_missing_is_said_in_one_line_with_the_remedy(
    tmp_path: Path, driver: dict[str, int] | None, reason: str
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("the driver that the test makes needs a C compiler")
    environment = dict(os.environ)
    if driver is not None:
        values = {"version": 12020, "init": 0, "count": 1, "major": 9, **driver}
        (tmp_path / "driver.c").write_text(_DRIVER.format(**values))
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
        environment["LD_LIBRARY_PATH"] = str(tmp_path)
    elif Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    code = "from rvrt_cli.gpu_libraries import load_gpu_plugin; print(load_gpu_plugin())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert reason in done.stdout
    assert len(done.stdout.splitlines()) == 1
