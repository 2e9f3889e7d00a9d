# SPDX-License-Identifier: Apache-2.0
"""`rvrt train --task deblur|denoise`: options, a step that learns, validation, and the weights that come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.train_runs import make_store, prepared, read_steps, small_run

from rvrt_cli.errors import OptionError
from rvrt_cli.train.loop import train
from rvrt_cli.train.setup import resolve_options
from rvrt_cli.weights import load_weights

SMALL = {
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    "upsampler_width": 8,
    "flow_guided": False,
    "bodies": ["convolution"] * 3,
}
SMALL |= {"heads": [2, 2, 2], "align_heads": 4, "deformable_groups": 4, "offset_width": 8, "passes": 1}


@pytest.mark.parametrize(("task", "degradation"), [("deblur", "blur"), ("denoise", "noise")])
def test_a_task_chooses_its_network_and_its_data(task: str, degradation: str) -> None:
    options = resolve_options({"task": task}, None, resume=False)
    assert (options.model, options.degradation, options.config.scale) == (f"rvrt-{task}", degradation, 1)
    with pytest.raises(OptionError, match=f"not a network for --task {task}; choose rvrt-{task}"):
        resolve_options({"task": task, "model": "rvrt-tiny"}, None, resume=False)
    with pytest.raises(OptionError, match="omit one of them"):
        resolve_options({"task": task, "degradation": "bi"}, None, resume=False)
    with pytest.raises(OptionError, match="choose rvrt-tiny"):
        resolve_options({"model": f"rvrt-{task}", "task": "upscale"}, None, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["deblur", "denoise"])
def test_a_run_learns_and_its_weights_say_what_for(task: str, tmp_path: Path) -> None:
    data = make_store(tmp_path / "clips", frames=10)
    network = {**SMALL, "conv_groups": [1, 2, 2, 2, 2, 2]}
    degradation = "blur" if task == "deblur" else "noise"
    options = small_run(
        *(data, tmp_path / "run"),
        **{"task": task, "model": f"rvrt-{task}", "network": network, "degradation": degradation, "spynet_frozen": 0},
        **{"steps": 25, "val_every": 25, "frames": 2, "rate": 2e-3},
    )
    outcome = train(prepared(options), lambda record: None)
    steps = [record for record in read_steps(tmp_path / "run") if "loss" in record]
    assert len(steps) == 25
    assert all(np.isfinite(record["loss"]) for record in steps)
    assert np.mean([record["loss"] for record in steps[-8:]]) < np.mean([record["loss"] for record in steps[:8]])
    assert outcome["best"] is not None
    weights = load_weights(tmp_path / "run" / "best.safetensors")
    assert (weights.config.scale, weights.card["degradation"]) == (1, degradation)
