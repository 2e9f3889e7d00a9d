# SPDX-License-Identifier: Apache-2.0
"""ONNX files are written without the onnx package: as it reads them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rvrt_cli.export import onnx_messages
from rvrt_cli.export.graph_builder import OPSET, GraphBuilder
from rvrt_cli.export.graph_template import GraphTemplate, WeightForm
from rvrt_cli.export.onnx_messages import Node


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "attributes"),
    [
        ("Relu", ["a"], ["b"], {}),
        ("Resize", ["a", "", "", "größer"], ["b"], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
        ("Split", ["a"], ["b", "b.1"], {"axis": -1}),
        ("Transpose", ["a"], ["b"], {"perm": (0, 3, 1, 2)}),
        ("LeakyRelu", ["a"], ["b"], {"alpha": 0.1}),
        ("Conv", ["a", "w", "v"], ["b"], {"pads": [0, 1, 200, 40_000], "group": 3}),
    ],
)
def test_nodes(kind: str, inputs: list[str], outputs: list[str], attributes: dict[str, object]) -> None:
    written = onnx_messages.graph([Node(kind, tuple(inputs), tuple(outputs), attributes)], [], [], "")
    graph = onnx.GraphProto.FromString(written)
    assert list(graph.node) == [helper.make_node(kind, inputs, outputs, **attributes)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 150), (0, 3)])
def test_constants(dtype: str, shape: tuple[int, ...]) -> None:
    array = (100 * np.random.default_rng(1).standard_normal(shape)).astype(dtype)
    graph = onnx.GraphProto.FromString(onnx_messages.constant("c", array))
    assert list(graph.initializer) == [numpy_helper.from_array(array, "c")]


def test_inputs_outputs_and_what_they_need() -> None:
    builder = GraphBuilder()
    builder.add_input("x", [1, "height", 300])
    builder.node("Exp", ["x"])
    total = builder.node("Add", ["x", builder.weight("bias", WeightForm("float32", (300,)))])
    builder.add_output("y", builder.node("Mul", [total, builder.constant(np.array(2, np.float32))]), [1, "4*h", 300])
    template = builder.template("three nodes")
    proto = onnx.load_from_string(template.fill({"bias": np.ones(300)}, {}))
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Add", "Mul", "Identity"]
    assert list(proto.graph.input) == [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "height", 300])]
    assert list(proto.graph.output) == [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "4*h", 300])]
    assert (proto.graph.doc_string, proto.producer_name, proto.opset_import[0].version) == (
        "three nodes",
        "rvrt",
        OPSET,
    )


def test_weights_are_filled_in() -> None:
    """Values, shapes, types and metadata; sizes of one, two and three bytes."""
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.standard_normal(count).astype(np.float32) for name, count in {"a": 6, "b": 150, "c": 9000}.items()
    }
    forms = {
        "a": WeightForm("float32", (1, 2, 3)),
        "b": WeightForm("float16", (150,)),
        "c": WeightForm("float32", (9000,)),
    }
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["y"])], "graph", [], [])
    template = GraphTemplate(forms, helper.make_model(graph).SerializeToString())
    proto = onnx.load_from_string(template.fill(arrays, {"name": "größer", "empty": ""}))
    assert [node.op_type for node in proto.graph.node] == ["Relu"]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert list(found) == ["a", "b", "c"]
    for name, form in forms.items():
        assert (found[name].dtype.name, found[name].shape) == form
        np.testing.assert_array_equal(found[name].ravel(), arrays[name].astype(form.dtype))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"name": "größer", "empty": ""}
