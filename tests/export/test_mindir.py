# SPDX-License-Identifier: Apache-2.0
"""Networks as MindIR, loaded in a fresh process: against MindSpore over three windows with state."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.comparison import assert_within
from helpers.exported_networks import CARD, NETWORKS, WHOLE, moving_pattern, weights_of

from rvrt_cli.cli import cli
from rvrt_cli.device import use_device
from rvrt_cli.errors import OptionError
from rvrt_cli.model.outline import FRAMES_STATE, MISSING_FRAME
from rvrt_cli.runtime import ExportedModel
from rvrt_cli.runtime.onnx_network import pad_window
from rvrt_cli.weights import save_weights

SIZE = (20, 26)
# Three windows through a MindIR file, without this package: the state's inputs have the order of the outputs
_STREAM = """
import sys
import numpy as np
import mindspore as ms

ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
given = np.load(sys.argv[2])
network = ms.nn.GraphCell(ms.load(sys.argv[1]))
state = [ms.Tensor(given[f"state{i}"]) for i in range(len(given) - 3)]
outputs = []
for number in range(3):
    output, *state = network(ms.Tensor(given[f"window{number}"]), *state)
    outputs.append(output.asnumpy())
np.savez(sys.argv[3], *outputs)
"""


# First and last frame of each of three windows, which emit two; frame fusion alone sees those past the fourth
PLACES = ((0, 6), (2, 6), (4, 6))


def model_of(name: str) -> ExportedModel:
    """Windows of 2 + 2 frames and what frame fusion sees beyond."""
    return ExportedModel(NETWORKS[name], CARD, 2, 2, SIZE, fusion_lookahead=NETWORKS[name].fusion_lookahead(2))


def window_inputs(model: ExportedModel, clip: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Six frames as three windows, the last one without lookahead since the scene ends; the state before them."""
    windows = [pad_window(clip[:, first : min(last, first + model.input_length)], model) for first, last in PLACES]
    shapes = model.input_shapes(*SIZE)
    shapes.pop("window")
    return windows, [
        np.full(shape, MISSING_FRAME if key == FRAMES_STATE else 0, np.float32) for key, shape in shapes.items()
    ]


def assert_equal_network(outputs: list[np.ndarray], name: str, clip: np.ndarray) -> None:
    """The outputs of `window_inputs` are those of MindSpore, without what follows the network in NumPy."""
    from rvrt_cli.model import Network

    config = replace(NETWORKS[name], steadying=0.0, chroma_shrinkage=False)
    network, after = Network(config, weights_of(config), CARD, use_device("cpu")), None
    for number, (first, last) in enumerate(PLACES):
        beyond = max(0, last - first - 4)
        expected, after = network(clip[:, first:last], after, 2, fusion_lookahead=beyond)
        assert_within(outputs[number], expected, WHOLE, f"window {number + 1}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bare", pytest.param("kanade", marks=pytest.mark.soak)])
def test_calls_of_a_window_equal_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes MindIR, one call after the other."""
    monkeypatch.setenv("MS_JIT", "0")  # sizes of their own: not worth compiling
    use_device("cpu")
    from mindspore import Tensor

    from rvrt_cli import ops
    from rvrt_cli.export.mindir import WindowCell
    from rvrt_cli.export.padded_network import PaddedRVRT
    from rvrt_cli.export.stage_program import record_window

    model, clip = model_of(name), moving_pattern(6, *SIZE)
    cell, outputs = PaddedRVRT(model.config), []
    cell.load(weights_of(model.config))
    windows, state = window_inputs(model, clip)
    kernels = ops.kernels_active()
    ops.use_kernels(False)
    try:
        window = WindowCell(record_window(model, cell))
        for frames in windows:
            output, *state = (value.asnumpy() for value in window(*map(Tensor, (frames, *state))))
            outputs.append(output)
    finally:
        ops.use_kernels(kernels)
    assert_equal_network(outputs, name, clip)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", ["bare", "plain", "kanade"])
def test_reloaded_windows_with_state_equal_mindspore(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, in a fresh process without this package; MindSpore compiles the graph for a minute or more."""
    monkeypatch.setenv("MS_JIT", "0")
    weights, target = tmp_path / "network.safetensors", tmp_path / "network.mindir"
    save_weights(weights, weights_of(NETWORKS[name]), NETWORKS[name], CARD)
    words = ["export", str(target), "--weights", str(weights), "--frames", "2", "--size", f"{SIZE[1]}x{SIZE[0]}"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    model, clip = model_of(name), moving_pattern(6, *SIZE)
    assert metadata(target) == model.to_metadata()
    windows, state = window_inputs(model, clip)
    arrays = {f"window{i}": window for i, window in enumerate(windows)}
    np.savez(tmp_path / "given.npz", **arrays, **{f"state{i}": array for i, array in enumerate(state)})
    files = [str(tmp_path / file) for file in ("network.mindir", "given.npz", "outputs.npz")]
    subprocess.run([sys.executable, "-c", _STREAM, *files], check=True, cwd=tmp_path)
    outputs = np.load(files[2])
    assert_equal_network([outputs[f"arr_{number}"] for number in range(3)], name, clip)


def metadata(path: Path) -> dict[str, str]:
    """What a MindIR file says of itself."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    proto = ModelProto()
    proto.ParseFromString(path.read_bytes())
    return dict(proto.user_info)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.mindir"], "give --size WIDTHxHEIGHT"),
        (["out.mindir", "--size", "16x16", "--precision", "float16"], "float32"),
    ],
)
def test_what_mindir_lacks_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CliRunner().invoke(cli, ["export", *words], catch_exceptions=False)
