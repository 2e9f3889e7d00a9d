# SPDX-License-Identifier: Apache-2.0
"""What tests/test_gpu_route.py runs on the null GPU, each in a process of its own: gpu_route.py NAME [ARGUMENTS]."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

import numpy as np


def command(*arguments: str) -> None:
    """`rvrt` with these arguments."""
    from rvrt_cli.cli import main

    sys.argv = ["rvrt", *arguments]
    main()


def finished(*arguments: str) -> None:
    """`rvrt` with these arguments, which must succeed, in the middle of a process."""
    try:
        command(*arguments)
    except SystemExit as end:
        if end.code:
            raise


def select(device: str) -> None:
    """Select a device, and say which it is and how much memory it has."""
    from rvrt_cli.device import use_device

    chosen = use_device(device)
    import mindspore as ms

    print(json.dumps([chosen.kind, chosen.number, ms.get_context("device_id"), chosen.free_bytes()]))


def _network(preset: str, precision: str = "float32", **changes: Any) -> Any:
    from dataclasses import replace

    from rvrt_cli.device import use_device

    device = use_device("gpu", precision)
    from rvrt_cli.model import PRESETS, Network, initial_weights

    config = replace(PRESETS[preset], **changes)
    return Network(config, initial_weights(config), {"name": preset}, device)


def bench(*jobs: str) -> None:
    """`rvrt bench` of each job, PRESET:PRECISION:DEPTH:FILE, with its JSON in FILE.

    Then what one more call costs, on a line for each: launches of our kernels, bytes from the host, waits. DEPTH "one"
    leaves one layer in each stage, as a graph compiles for a second; with "all" the preset is as it is.
    """
    for job in jobs:
        _bench_one(*job.split(":"))


def _bench_one(preset: str, precision: str, depth: str, file: str) -> None:
    from dataclasses import replace

    from rvrt_cli.model import PRESETS

    if depth == "one":
        PRESETS[preset] = replace(PRESETS[preset], groups=(1, 1, 1), depths=(1, 1, 1))
    size = ("--frames", "14", "--size", "112x64", "--repeat", "1")
    job = ("bench", "--model", preset, "--weights", "random", *size, "--device", "gpu", "--precision", precision)
    finished(*job, "--json", file)
    network = _network(preset, precision)
    frames = np.random.default_rng(0).random((1, 14, 64, 112, 3), dtype=np.float32)
    network(frames, None, 14)
    runtime, driver = ctypes.CDLL("libcudart.so.11.0"), ctypes.CDLL("libcuda.so.1")

    def counts() -> list[int]:
        return [driver.emulated_gpu_launches(), runtime.null_gpu_copied_bytes(1), runtime.null_gpu_waits()]

    before = counts()
    network(frames, None, 14)
    print(json.dumps([after - earlier for after, earlier in zip(counts(), before, strict=True)]))


def upscale_and_bench(job: str, source: str, target: str, *options: str) -> None:
    """`rvrt upscale` of frames of the size of the benchmark, which has the same graphs; then `bench`.

    Prints what the working directory holds after the first.
    """
    finished("upscale", source, target, "--device", "gpu", "--precision", job.split(":")[1], *options)
    print(json.dumps(sorted(os.listdir())))
    bench(job)


def train(*runs: str) -> None:
    """`rvrt train` with the arguments in each run, a JSON list, whose first element says whether it is validated."""
    from rvrt_cli.train.validation_split import ValidationSplit

    score = ValidationSplit.score
    for validated, *arguments in map(json.loads, runs):
        ValidationSplit.score = score if validated else lambda *_: {}  # type: ignore[method-assign, assignment]
        finished("train", *arguments)


def out_of_memory() -> None:
    """The driver refuses memory, then has some again."""
    from rvrt_cli.errors import OutOfMemoryError

    small = {"widths": (24, 24, 24), "groups": (1, 1, 1), "depths": (1, 1, 1), "heads": (2, 2, 2), "passes": 1}
    network = _network("rvrt-light", **small, align_heads=4)
    driver = ctypes.CDLL("libcuda.so.1")
    frames = np.random.default_rng(0).random((1, 2, 16, 16, 3), dtype=np.float32)
    for left in (0, -1):
        driver.emulated_gpu_fail_after(ctypes.c_long(left))
        try:
            network(frames, None, 2)
            print("a result")
        except OutOfMemoryError as error:
            print(error)


def operations(file: str, *names: str) -> None:
    """The results of ops through MindSpore, on emulated kernels, into FILE.

    MindSpore's own GPU kernels compute nothing here, so only ops that consist of ours alone are right.
    """
    from rvrt_cli.device import use_device

    use_device("gpu")
    from helpers.op_cases import results_of
    from rvrt_cli import ops

    assert ops.active_backend() == "CUDA kernels", ops.active_backend()
    np.savez(file, **results_of(names))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
