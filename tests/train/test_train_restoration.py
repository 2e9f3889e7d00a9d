# SPDX-License-Identifier: Apache-2.0
"""`rvrt train --task deblur|denoise`: options, a step that learns, validation, and the weights that come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.train_runs import make_store, prepared, read_steps, small_run

from rvrt_cli.errors import OptionError
from rvrt_cli.model.initialization import initial_weights
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
@pytest.mark.parametrize(("task", "least_gain"), [("deblur", 0.1), ("denoise", -0.05)])
def test_a_run_learns_and_its_weights_say_what_for(task: str, least_gain: float, tmp_path: Path) -> None:
    """Blur of one direction is learned in 30 steps; noise takes longer, so here it must only not get worse."""
    data = make_store(tmp_path / "clips", frames=10)
    network = {**SMALL, "conv_groups": [1, 2, 2, 2, 2, 2]}
    degradation = "blur" if task == "deblur" else "noise"
    options = small_run(
        *(data, tmp_path / "run"),
        **{"task": task, "model": f"rvrt-{task}", "network": network, "degradation": degradation, "spynet_frozen": 0},
        **{"steps": 30, "val_every": 30, "frames": 2, "rate": 3e-3},
    )
    outcome = train(prepared(options), lambda record: None)
    steps = [record for record in read_steps(tmp_path / "run") if "loss" in record]
    assert len(steps) == 30
    assert all(np.isfinite(record["loss"]) for record in steps)
    assert outcome["best"] > least_gain
    weights = load_weights(tmp_path / "run" / "best.safetensors")
    assert (weights.config.scale, weights.card["degradation"]) == (1, degradation)
    before = initial_weights(weights.config, options.seed)
    for name in (
        "feat_extract.1",
        "feat_extract.3",
        "backbone.backward_1.main.1",
        "reconstruction.main.1",
        "conv_last",
    ):
        change = np.abs(weights.arrays[f"{name}.weight"] - before[f"{name}.weight"])
        # half of what a branch reads are propagated features, which a single clip does not have
        assert (change > 0).mean() >= 0.5, f"{name} gets no gradient"
