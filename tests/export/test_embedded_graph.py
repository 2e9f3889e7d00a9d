# SPDX-License-Identifier: Apache-2.0
"""The graph that comes with the package: it is what the network's code gives, and takes weights without MindSpore or onnx."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnx
import pytest
from helpers.exported_networks import WITHOUT_MINDSPORE
from onnx import numpy_helper

from rvrt_cli.device import use_device
from rvrt_cli.errors import WeightsError
from rvrt_cli.export.embedded_graph import embedded_model, embedded_template
from rvrt_cli.model import parameter_shapes
from rvrt_cli.runtime.graph_template import GraphTemplate, WeightForm
from rvrt_cli.weights import embedded_folder, find_weights, read_about


@pytest.mark.slow
def test_embedded_graph_is_that_of_the_network() -> None:
    use_device("cpu")
    from rvrt_cli.export.window_trace import trace_window

    ours = embedded_template(embedded_model())
    traced = trace_window(embedded_model())
    assert ours is not None
    assert ours.weights == traced.weights
    same = onnx.load_from_string(ours.model) == onnx.load_from_string(traced.model)
    assert same, "the network or its export has changed; run python -m rvrt_cli.export.embedded_graph"


def test_it_takes_the_embedded_weights() -> None:
    model = embedded_model()
    assert read_about(find_weights("rvrt-tiny")).config == model.config
    template = embedded_template(model)
    assert template is not None
    assert set(template.weights) == set(parameter_shapes(model.config))


def test_the_wheel_has_both() -> None:
    hatch = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for file in ("rvrt-tiny.safetensors", "rvrt-tiny.graph.xz"):
        assert (embedded_folder() / file).is_file()
        assert f'"weights/{file}" = "rvrt_cli/embedded/{file}"' in hatch


@pytest.mark.parametrize("change", [{"frames": 6}, {"lookahead": 0}, {"size": (16, 16)}, {"precision": "float16"}])
def test_it_is_not_taken_for_another_one(change: dict[str, object]) -> None:
    assert embedded_template(replace(embedded_model(), **change)) is None
    other = replace(embedded_model().config, carry=0.9)
    assert embedded_template(replace(embedded_model(), config=other)) is None


def test_weights_are_filled_in() -> None:
    """As the onnx package reads it: values, shapes, types and metadata; sizes of one, two and three bytes."""
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.standard_normal(count).astype(np.float32) for name, count in {"a": 6, "b": 150, "c": 9000}.items()
    }
    forms = {
        "a": WeightForm("float32", (1, 2, 3)),
        "b": WeightForm("float16", (150,)),
        "c": WeightForm("float32", (9000,)),
    }
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["y"])], "graph", [], [])
    template = GraphTemplate(forms, onnx.helper.make_model(graph).SerializeToString())
    proto = onnx.load_from_string(template.fill(arrays, {"name": "größer", "empty": ""}))
    assert [node.op_type for node in proto.graph.node] == ["Relu"]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert list(found) == ["a", "b", "c"]
    for name, form in forms.items():
        assert (found[name].dtype.name, found[name].shape) == form
        np.testing.assert_array_equal(found[name].ravel(), arrays[name].astype(form.dtype))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"name": "größer", "empty": ""}


def test_file_round_trip_and_damage(tmp_path: Path) -> None:
    path, about = tmp_path / "one.graph.xz", {"frames": 2, "size": (8, 8)}
    template = GraphTemplate({"a": WeightForm("float32", (2, 3))}, bytes(range(256)) * 9)
    template.to_file(path, about)
    assert GraphTemplate.from_file(path, about) == template
    assert GraphTemplate.from_file(path, {**about, "frames": 4}) is None
    content = path.read_bytes()
    for damaged in (content[:-20], content[:40] + b"\0\0\0\0" + content[44:], b""):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"one\.graph\.xz: damaged .*install rvrt again"):
            GraphTemplate.from_file(path, about)


@pytest.mark.slow
def test_upscaled_without_mindspore_and_without_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded network, with nothing but source and target given."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    y, x = np.mgrid[:12, :16]
    for t in range(2):
        gray = (127 + 100 * np.sin(0.5 * x + 0.3 * y - t)).astype(np.uint8)
        iio.imwrite(tmp_path / "in" / f"{t}.png", np.stack([gray] * 3, -1))
    command = [sys.executable, "-c", WITHOUT_MINDSPORE, "upscale", f"{tmp_path}/in/", f"{tmp_path}/out/"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MindSpore is not installed: the network runs in ONNX Runtime" in done.stdout + done.stderr
    frames = [iio.imread(path).astype(float) for path in sorted((tmp_path / "out").iterdir())]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 2
    for t, frame in enumerate(frames):
        small = frame.reshape(12, 4, 16, 4, 3).mean((1, 3))
        source = iio.imread(tmp_path / "in" / f"{t}.png").astype(float)
        assert np.abs(small - source).mean() < 4
