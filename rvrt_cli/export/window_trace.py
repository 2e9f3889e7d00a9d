# SPDX-License-Identifier: Apache-2.0
"""One window of the streaming network as an ONNX graph: the network's own code, run on symbolic tensors."""

from __future__ import annotations

import mindspore as ms
import numpy as np

from rvrt_cli import ops
from rvrt_cli.export.graph_builder import Dim, GraphBuilder, known
from rvrt_cli.export.graph_template import GraphTemplate
from rvrt_cli.export.onnx_attention import OnnxAttention
from rvrt_cli.export.padded_network import PaddedRVRT
from rvrt_cli.export.symbolic_tensor import SymbolicTensor
from rvrt_cli.model.outline import FRAMES_STATE, MISSING_FRAME
from rvrt_cli.model.rvrt import RecurrentState
from rvrt_cli.runtime.exported_model import NEXT_PREFIX, OUTPUT, WINDOW_INPUT, ExportedModel


def where(condition: SymbolicTensor, x: SymbolicTensor, otherwise: SymbolicTensor) -> SymbolicTensor:
    """`x` or `otherwise`, as the scalar condition says; what is not chosen may be anything, NaN too."""
    if x.has_planes:
        return x.like(planes=x.graph.node("Where", [condition.value, x.planes, otherwise.planes]))
    return x.like(x.graph.node("Where", [condition.value, x.value, otherwise.value]))


def trace_window(model: ExportedModel) -> GraphTemplate:
    """The graph of one window: inputs `WINDOW_INPUT` and the state, outputs `OUTPUT` and the next state; see docs/export.md."""
    graph, config = GraphBuilder(), model.config
    cell = PaddedRVRT(config)
    cell.choose = where
    height, width = model.size or ("height", "width")
    sides = model.size or (_input_side(graph, 2, "height"), _input_side(graph, 3, "width"))
    shapes = model.input_shapes(height, width)
    inputs = {}
    for name, shape in shapes.items():
        graph.add_input(name, shape)
        given = SymbolicTensor(graph, (*shape[:2], *sides, shape[4]), ms.float32, name)
        inputs[name] = given.astype(ms.float16 if model.precision == "float16" else ms.float32)
    frames, past = inputs.pop(WINDOW_INPUT), inputs.pop(FRAMES_STATE)
    table = OnnxAttention(graph)
    methods = {name: getattr(table, name) for name in dir(table) if not name.startswith("_") and hasattr(ops, name)}
    with ops.used_for_tracing(methods):
        cell.present = _present_clips(frames.narrow(1, slice(0, model.length)), past, config.clip_size)
        clips, state = cell.stream_clips(
            frames, RecurrentState(past, inputs), model.frames, fusion_lookahead=model.fusion_lookahead
        )
        output = ops.concat(list(clips), 1)
    upscaled = [config.scale * side if isinstance(side, int) else f"{config.scale}*{side}" for side in (height, width)]
    graph.add_output(OUTPUT, output.astype(ms.float32).value, (1, model.frames, *upscaled, 3))
    for name, tensor in {FRAMES_STATE: state.frames, **state.features}.items():
        graph.add_output(NEXT_PREFIX + name, tensor.astype(ms.float32).value, shapes[name])
    return graph.template(f"one window of {model.frames} + {model.lookahead} frames, with the recurrent state")


def _input_side(graph: GraphBuilder, axis: int, name: str) -> Dim:
    """Height or width of the frames."""
    shape = graph.node("Shape", [WINDOW_INPUT])
    side = graph.node("Slice", [shape, *map(graph.integers, (axis, axis + 1, 0))])
    return Dim(graph, side, name)


def _present_clips(frames: SymbolicTensor, past: SymbolicTensor, clip: int) -> dict[int, SymbolicTensor]:
    """See `PaddedRVRT.present`."""
    clips = [frames.narrow(1, slice(start, start + clip)) for start in range(0, known(frames.shape[1]), clip)]
    last = past.narrow(1, slice(known(past.shape[1]) - clip, None))
    present = {}
    for number, tensor in enumerate([last, *clips], -1):
        graph = tensor.graph
        brightest = graph.node("ReduceMax", [tensor.astype(ms.float32).value], keepdims=0)
        limit = graph.constant(np.array(MISSING_FRAME / 2, np.float32))
        present[number] = SymbolicTensor(graph, (), ms.bool_, graph.node("Greater", [brightest, limit]))
    return present
