# SPDX-License-Identifier: Apache-2.0
"""Exported networks in OpenVINO, where it is installed: against MindSpore over several windows.

OpenVINO is no dependency, not even of the tests: `pip install openvino` before running them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.comparison import assert_within
from helpers.exported_networks import CARD, NETWORKS, WHOLE, moving_pattern, weights_of, write_export

from rvrt_cli.device import use_device
from rvrt_cli.runtime import OnnxNetwork

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed; pip install openvino")


class OpenVinoSession:
    """The part of an `onnxruntime.InferenceSession` that a network calls."""

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        # Without the hint, processors with AMX compute in bfloat16
        self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        values: Any = self._model(feeds)
        return [values[name] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_windows_with_state_equal_mindspore(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three windows of 4 + 2 frames, the last one shorter, and a model for any size that is given that of the frames.

    With sizes left open, OpenVINO 2026.4 gives wrong values in networks that optical flow guides.
    """
    monkeypatch.setenv("MS_JIT", "0")  # sizes of their own: not worth compiling
    config = NETWORKS[name]
    model = write_export(tmp_path / "model.onnx", config, 4, 2)
    exported = OnnxNetwork(tmp_path / "model.onnx", "cpu")
    exported._session = OpenVinoSession(tmp_path / "model.onnx", model.input_shapes(20, 26))
    from rvrt_cli.model import Network

    reference = Network(config, weights_of(config), CARD, use_device("cpu"))
    clip, states = moving_pattern(13, 20, 26), (None, None)
    for first, last, emit in ((0, 6, 4), (4, 10, 4), (8, 13, 5)):
        expected, wanted = reference(clip[:, first:last], states[0], emit)
        output, state = exported(clip[:, first:last], states[1], emit)
        assert_within(output, expected, WHOLE, f"frames {first} to {first + emit}")
        states = wanted, state
