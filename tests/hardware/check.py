# SPDX-License-Identifier: Apache-2.0
"""The check that check.sh runs on a machine with a GPU or an NPU. Needs no test library.

Every step runs in a process of its own, so that a crash or a hang of one leaves the others; the first to matter comes
first. A step prints one JSON line: the figures it found, and "passed".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
PRESETS = ("rvrt", "rvrt-light", "rvrt-tiny")
FRAMES, SIZE = 14, "112x64"
REPEATS = 16
FLOAT32, FLOAT16 = 1e-5, 4e-3  # largest error of an op, relative to its largest value
Figures = dict[str, Any]


def _use(device: str, precision: str = "float32") -> Any:
    from rvrt_cli.device import use_device

    return use_device(device, precision)


# --- steps; arguments are strings


def install(device: str, _: str) -> Figures:
    """The device, and whether MindSpore's own operations and our kernels are there."""
    start = time.perf_counter()
    chosen = _use(device)
    selected = time.perf_counter() - start
    import mindspore as ms
    import numpy as np

    from rvrt_cli import ops
    from rvrt_cli.bench.machine import describe_machine

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512), dtype=np.float32) for _ in range(2))
    error = float(np.abs(ms.ops.matmul(ms.Tensor(a), ms.Tensor(b)).asnumpy() - a @ b).max() / np.abs(a @ b).max())
    figures = {"machine": describe_machine(chosen), "backend": ops.active_backend(), "seconds to select": selected}
    return {**figures, "error of a product": error, "free memory": chosen.free_bytes(), "passed": error < 5e-3}


def kernels(device: str, precision: str) -> Figures:
    """Largest error of every op against its definition, both on the device, with gradients."""
    _use(device, precision)
    import mindspore as ms
    import numpy as np
    from helpers.op_cases import CASES, arguments, value_and_gradients

    from rvrt_cli import ops

    bound = FLOAT16 if precision == "float16" else FLOAT32
    errors: Figures = {}
    for name, (definitions, shapes, rest) in CASES.items():
        if precision == "float16" and name == "charbonnier":
            continue  # the loss is float32 always
        values = arguments(name, shapes, rest)
        if precision == "float16":
            values = [value.astype(ms.float16) if isinstance(value, ms.Tensor) else value for value in values]
        try:
            ours = value_and_gradients(getattr(ops, name.split()[0]), values)
            expected = value_and_gradients(getattr(definitions, name.split()[0]), values)
            pairs = [(ours[0], expected[0]), *zip(ours[1], expected[1], strict=True)]
            errors[name] = max(
                float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in pairs
            )
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {str(error)[:200]}"
    wrong = [name for name, error in errors.items() if not (isinstance(error, float) and error <= bound)]
    return {"backend": ops.active_backend(), "errors": errors, "wrong": wrong, "passed": not wrong}


def _golden_network(device: Any) -> tuple[Any, Any]:
    import numpy as np
    from golden.named_weights import named_array

    from rvrt_cli.model import PRESETS as CONFIGS, Network, parameter_shapes

    config = replace(CONFIGS["rvrt"], widths=(36, 36, 36))
    weights = {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}
    return Network(config, weights, {"name": "golden"}, device), np.load(TESTS / "golden" / "rvrt.npz")


def golden(device: str, precision: str) -> Figures:
    """The published network's output: error in float32, PSNR in float16."""
    import numpy as np

    network, vectors = _golden_network(_use(device, precision))
    x = np.moveaxis(vectors["x"], 2, -1)
    output, _ = network(x, None, x.shape[1])
    lowest, step = vectors["y/scale"]  # the vectors hold levels, of every fifth row and column
    difference = np.moveaxis(output, -1, 2)[..., ::5, ::5] - (lowest + step * vectors["y"].astype(np.float64))
    psnr = float(-10 * np.log10(np.mean(difference**2)))
    largest = float(np.abs(difference).max())
    return {"largest error": largest, "psnr": psnr, "passed": largest < 2e-4 if precision == "float32" else psnr >= 55}


def bench(device: str, words: str) -> Figures:
    """`rvrt bench` of a preset: PRESET,PRECISION."""
    preset, precision = words.split(",")
    command = [sys.executable, "-c", "from rvrt_cli.cli import main; main()", "bench", "--model", preset]
    command += ["--weights", "random", "--frames", str(FRAMES), "--size", SIZE, "--device", device]
    done = subprocess.run(
        [*command, "--precision", precision, "--json", "-"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip()[-500:], "passed": False}
    return {**json.loads(done.stdout), "passed": True}


def upscale(device: str, folder: str) -> Figures:
    """The sample clip on the device and on the CPU: largest difference in levels of 255."""
    import imageio.v3 as iio
    import numpy as np

    command = [sys.executable, "-c", "from rvrt_cli.cli import main; main()", "upscale", str(TESTS / "media/city.mp4")]
    for name, kind in (("here", device), ("cpu", "cpu")):
        target = Path(folder) / f"frames-{name}"
        arguments = [f"{target}/", "--duration", "0.3", "--device", kind, "--overwrite", "-q"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr.strip()[-500:], "passed": False}
    pairs = [
        (path, Path(folder) / "frames-cpu" / path.name) for path in sorted((Path(folder) / "frames-here").iterdir())
    ]
    largest = max(int(np.abs(iio.imread(a).astype(int) - iio.imread(b)).max()) for a, b in pairs)
    return {"frames": len(pairs), "largest difference": largest, "passed": len(pairs) > 0 and largest <= 1}


def gradients(device: str, folder: str) -> Figures:
    """Loss and gradients of a training step, written for the comparison by `training`."""
    import numpy as np

    chosen = _use(device)
    from rvrt_cli.model import initial_weights
    from rvrt_cli.train.communicator import Communicator
    from rvrt_cli.train.learner import Learner
    from rvrt_cli.train.train_options import TrainOptions
    from rvrt_cli.train.training_counters import TrainingCounters

    options = TrainOptions(data="", output="", model="rvrt-tiny", mirror=False)
    arrays = {f"value.{name}": array for name, array in initial_weights(options.config).items()}
    learner = Learner(options, chosen, Communicator(), arrays, TrainingCounters())
    rng = np.random.default_rng(0)
    low, high = (rng.random((1, 4, edge, edge, 3), dtype=np.float32) for edge in (24, 96))
    loss, _, flats = learner.gradients(low, high, learner.groups)
    losses = [learner.step(low, high, 1e-3).loss for _ in range(2)]
    np.savez(Path(folder) / f"gradients-{device}.npz", *flats)
    return {"loss": loss, "losses of two steps": losses, "passed": bool(np.isfinite([loss, *losses]).all())}


def training(device: str, folder: str) -> Figures:
    """Gradients on the device against those on the CPU."""
    import numpy as np

    found = {kind: _run("gradients", kind, folder, 150) for kind in (device, "cpu")}
    if not all(one["passed"] for one in found.values()):
        return {**found, "passed": False}
    with np.load(Path(folder) / f"gradients-{device}.npz") as ours, np.load(Path(folder) / "gradients-cpu.npz") as cpu:
        errors = [float(np.linalg.norm(ours[n] - cpu[n]) / np.linalg.norm(cpu[n])) for n in cpu.files]
    return {**found, "relative errors of the gradients": errors, "passed": max(errors) < 1e-3}


def _repeated(function: Callable, rest: list) -> Callable:
    """A graph that calls `function` on every one of its arguments, which `rest` follows."""
    import mindspore as ms

    def several(*firsts):  # type: ignore[no-untyped-def]  # graph mode takes no annotations here
        outputs = []
        for first in firsts:
            outputs.append(function(first, *rest))
        return outputs

    return ms.jit(several)


def rates(device: str, precision: str) -> Figures:
    """What the ops that matter reach at the published network's sizes: ms, TFLOP/s, GB/s of their tensors."""
    _use(device, precision)
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from rvrt_cli import ops

    dtype = ms.float16 if precision == "float16" else ms.float32
    rng = np.random.default_rng(0)
    clips, frames, height, width, c = 7, 2, 64, 112, 144

    def tensor(*shape: int) -> Tensor:
        return Tensor(rng.standard_normal(shape, dtype=np.float32) / 8, dtype)

    x, wide, vector = tensor(clips, frames, height, width, c), tensor(2 * c), tensor(c)
    image, pixels = tensor(clips * frames, height, width, c), clips * frames * height * width
    heads, points = 12, 18
    query, key_value = tensor(clips, frames, height, width, 2 * c), tensor(clips, frames, height, width, 4 * c)
    offset = tensor(clips, frames, height, width, frames, 12, 9, 2)
    w1, w2, kernel, qkv_w = tensor(2 * c, c), tensor(c, 2 * c), tensor(c, c, 3, 3), tensor(3 * c, c)
    qkv, bias = tensor(clips, frames, height, width, 3 * c), tensor(6, 128, 128)
    gamma = [vector, vector]
    jobs: dict[str, tuple[Callable, list, float, float]] = {  # function, arguments, FLOP and numbers moved per pixel
        "convolution 3x3": (ops.conv2d, [image, kernel, vector], 2 * 9 * c * c, 2 * c),
        "LayerNorm and qkv": (ops.norm_linear, [x, *gamma, qkv_w, tensor(3 * c)], 6 * c * c, 4 * c),
        "MLP": (ops.mlp, [x, *gamma, w1, wide, w2, vector], 8 * c * c, 2 * c),
        "LayerNorm": (ops.layer_norm, [x, *gamma], 8 * c, 2 * c),
        "window attention": (ops.window_attention, [qkv, tensor(3 * c), bias, 6, (2, 8, 8), (0, 4, 4)], 512 * c, 4 * c),
        "deformable attention": (
            ops.deformable_attention, [query, key_value, offset, heads, (3, 3)], points * 2 * c * 20, 8 * c + 432,
        ),
        "warp": (ops.warp, [image, tensor(clips * frames, height, width, 2)], 8 * c, 2 * c),
    }  # fmt: skip
    found: Figures = {}
    for name, (function, arguments, flop, moved) in jobs.items():
        # Several calls in one graph, on tensors of their own, so that MindSpore's launches do not count
        tensors = [arguments[0] + 0 for _ in range(REPEATS)]
        several = _repeated(function, arguments[1:])
        several(*tensors)
        ms.runtime.synchronize()
        start = time.perf_counter()
        several(*tensors)
        ms.runtime.synchronize()
        seconds = (time.perf_counter() - start) / REPEATS
        size = 2 if precision == "float16" else 4
        found[name] = {
            "ms": 1e3 * seconds,
            "TFLOP/s": pixels * flop / seconds / 1e12,
            "GB/s": pixels * moved * size / seconds / 1e9,
        }
    return {"rates": found, "passed": True}


# --- the whole check

STEPS = (  # name, argument, seconds that it may take
    ("install", "", 400),  # the driver may have to compile MindSpore's kernels
    ("kernels", "float32", 150),
    ("golden", "float32", 100),
    ("golden", "float16", 100),
    ("kernels", "float16", 150),
    ("rates", "float32", 60),
    ("rates", "float16", 60),
    *(("bench", f"{preset},{precision}", 100) for preset in PRESETS for precision in ("float32", "float16")),
    ("training", "FOLDER", 300),
    ("upscale", "FOLDER", 120),
)
BUDGET = 470  # seconds for all


def _run(step: str, device: str, argument: str, seconds: float) -> Figures:
    """A step in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step, device, argument]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {seconds:.0f} s", "passed": False}
    lines = done.stdout.strip().splitlines()
    found: Figures
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        found = {"error": f"exit status {done.returncode}: {done.stderr.strip()[-800:]}", "passed": False}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def check(device: str, folder: Path) -> int:
    """Run all steps, write check.json and check.md after each; 0 if all passed."""
    folder.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + BUDGET, {}
    for step, argument, seconds in STEPS:
        name = step if argument in ("", "FOLDER") else f"{step} {argument}"
        left = end - time.monotonic()
        place = str(folder.resolve()) if argument == "FOLDER" else argument
        results[name] = (
            _run(step, device, place, min(seconds, left))
            if left > 10
            else {"error": "left out: no time", "passed": False}
        )
        (folder / "check.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (folder / "check.md").write_text(_table(results), encoding="utf-8")
        print(f"{'passed' if results[name]['passed'] else 'FAILED'}  {_summary(name, results[name])}")
    return 0 if all(result["passed"] for result in results.values()) else 1


def _summary(name: str, result: Figures) -> str:
    """One line of a result."""
    facts = result.get("error") or ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in result.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool) and key != "seconds"
    )
    if "seconds_per_call" in result:
        facts = f"{result['seconds_per_call']:.3f} s per call, {result['gflops']:.0f} GFLOP/s"
        facts += f", {result['peak_device_mb'] or result['peak_rss_mb']:.0f} MB, {result['compile_seconds']:.0f} s to compile"
    if "wrong" in result:
        facts = f"wrong: {', '.join(result['wrong']) or 'none'}; " + facts
    if "rates" in result:
        facts = "; ".join(
            f"{op} {rate['ms']:.2f} ms, {rate['TFLOP/s']:.1f} TFLOP/s, {rate['GB/s']:.0f} GB/s"
            for op, rate in result["rates"].items()
        )
    return f"{name} ({result.get('seconds', 0)} s): {facts}".replace("\n", " ")


def _table(results: dict[str, Figures]) -> str:
    rows = [f"| {name} | {'yes' if r['passed'] else '**no**'} | {_summary(name, r)} |" for name, r in results.items()]
    return "\n".join(["| step | passed | figures |", "| --- | --- | --- |", *rows]) + "\n"


def run_step(step: str, device: str, argument: str) -> None:
    """Run one step here; its last line is the result."""
    try:
        result = globals()[step](device, argument)
    except Exception:
        result = {"error": traceback.format_exc()[-1500:], "passed": False}
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # MindSpore's teardown has nothing to add


if __name__ == "__main__":
    if sys.argv[1] == "--step":
        run_step(*sys.argv[2:])
    sys.exit(check(sys.argv[1], Path(sys.argv[2])))
