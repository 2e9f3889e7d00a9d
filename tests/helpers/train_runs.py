# SPDX-License-Identifier: Apache-2.0
"""Small training data, and small training runs in this process and in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rvrt_cli.train.setup import locked_run, prepare_run, resolve_options
from rvrt_cli.train.train_options import TrainOptions, flag

# Without optical flow, which is slow to compile; test_train_learner covers it
NETWORK = {
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    "upsampler_width": 8,
    "flow_guided": False,
    "fused_neighbors": 0,
    "lead_in": 1,
}
CODE = "from rvrt_cli.cli import main; main()"


def make_store(folder: Path, sources: int = 4, clips: int = 3, frames: int = 5, size: int = 48) -> Path:
    """Clips of smooth noise that moves by one pixel per frame, in the layout of `rvrt preprocess clips`."""
    (folder / "shards").mkdir(parents=True)
    rng = np.random.default_rng(5)
    listed = []
    for source in range(sources):
        made = np.empty((clips, frames, size, size, 3), np.uint8)
        for clip in made:
            noise = Image.fromarray(rng.integers(0, 256, (size // 6, size // 6, 3), dtype=np.uint8))
            image = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
            for frame in range(frames):
                clip[frame] = np.roll(image, frame, 1)
        np.save(folder / "shards" / f"{source:05d}-000.npy", made)
        listed.append({"name": f"photo{source}", "shards": [{"file": f"shards/{source:05d}-000.npy", "clips": clips}]})
    manifest = {"format": 1, "frames": frames, "size": size, "sources": listed}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def make_vimeo(root: Path) -> Path:
    """One septuplet of noise in the layout of Vimeo-90K, on the training list; the test list is empty."""
    rng = np.random.default_rng(6)
    for name, size in {"sequences": (32, 48), "BIx4": (8, 12)}.items():
        folder = root / name / "00001" / "0001"
        folder.mkdir(parents=True)
        for frame in range(7):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"im{frame + 1}.png")
    (root / "sep_trainlist.txt").write_text("00001/0001\n")
    (root / "sep_testlist.txt").write_text("")
    return root


def small_run(data: Path, output: Path, **options: Any) -> TrainOptions:
    """Options of a run that takes a tenth of a second per step, once compiled; the others are those of the recipe."""
    small: dict[str, Any] = {
        **{
            "network": {**NETWORK, "passes": 1},
            "frames": 2,  # one clip: a second one, with alignment, doubles the time to compile
            "batch": 2,
            "crop": 32,
            "degradation": "bi",
            "rate": 5e-3,
            "warmup": 3,
        },
        **{"steps": 30, "val_every": 0, "save_every": 4, "device": "cpu", "workers": 0},
    }
    given = {"data": str(data), "output": str(output), **small, **options}
    return resolve_options(given, None, resume=False)


def command_line(options: TrainOptions) -> list[str]:
    """The arguments of `rvrt` that run `options`."""
    recipe = resolve_options({}, None, resume=False)
    changed = {name: value for name, value in vars(options).items() if value != getattr(recipe, name)}
    network = [f"--network={name}={json.dumps(value)}" for name, value in changed.pop("network", {}).items()]
    return ["train", *network, *(f"{flag(name)}={value}" for name, value in changed.items())]


def prepared(options: TrainOptions, resume: bool = False) -> TrainOptions:
    """The options of a run after everything that the command does before it trains."""
    options = prepare_run(options, resume)
    with locked_run(options):
        return options


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    """Start `rvrt` with these arguments in the working directory `folder`."""
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> str:
    """Standard error of the command, which must succeed."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def read_steps(output: Path) -> list[dict]:
    """The complete lines of a run's log."""
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_steps(process: subprocess.Popen, output: Path, count: int) -> None:
    """Wait until the log has `count` lines; the process must still be running."""
    until = time.monotonic() + 300
    while len(read_steps(output)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the run makes no progress"
        time.sleep(0.005)
