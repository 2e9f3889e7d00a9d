# SPDX-License-Identifier: Apache-2.0
"""One window of the streaming network as an ONNX graph: the network's own code, run on symbolic tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from rvrt_cli import ops
from rvrt_cli.export.graph_builder import Dim, GraphBuilder
from rvrt_cli.export.onnx_attention import OnnxAttention
from rvrt_cli.export.symbolic_tensor import SymbolicTensor
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.optical_flow import MISSING_FRAME
from rvrt_cli.model.outline import FRAMES_STATE
from rvrt_cli.model.rvrt import RVRT, RecurrentState



class PaddedRVRT(RVRT):
    """The network on a window of fixed length, in which clips may be missing: all their frames are `MISSING_FRAME`.

    A branch starts with zeros at the first clip of its direction, be that where the window ends or earlier.
    """

    present: dict[int, SymbolicTensor]  # by clip, -1 for that of the state: a Boolean, whether it has frames

    def _align_clip(self, index, c, window, features):  # type: ignore[no-untyped-def]
        aligned = super()._align_clip(index, c, window, features)
        before = c + 1 if self.config.branches[index].startswith("backward") else c - 1
        return where(self.present[before], aligned)


def where(condition: SymbolicTensor, x: SymbolicTensor) -> SymbolicTensor:
    """`x`, or zeros, as the scalar condition says; what is not chosen may be anything, NaN too."""
    zero = x.graph.constant(np.zeros((), ms.dtype_to_nptype(x.dtype)))
    if x.has_planes:
        return x.like(planes=x.graph.node("Where", [condition.value, x.planes, zero]))
    return x.like(x.graph.node("Where", [condition.value, x.value, zero]))


@dataclass(frozen=True)
class WindowShape:
    """Sizes of a window.

    Attributes:
        frames: that come out.
        lookahead: frames after them; both are whole clips.
        size: (height, width) [px], or None: known only when the model runs.
        half: whether to compute in float16.
    """

    frames: int
    lookahead: int
    size: tuple[int, int] | None
    half: bool = False


INPUT, OUTPUT = "window", "output"  # the frames of a window, and those that come out
NEXT = "next_"  # prefix of the outputs that are the next window's state: next_frames goes to frames, and so on


def trace_window(config: RVRTConfig, arrays: Mapping[str, np.ndarray], window: WindowShape) -> GraphBuilder:
    """The graph of one window: inputs `INPUT` and the state, outputs `OUTPUT` and the next state; see docs/export.md.

    Args:
        arrays: the network's weights by name.
    """
    graph = GraphBuilder()
    cell = PaddedRVRT(config)
    cell.load(arrays)
    height, width = window.size or ("height", "width")
    features = (1, config.clip_size, height, width, config.width)
    length = window.frames + window.lookahead
    shapes = {
        INPUT: (1, length, height, width, 3),
        FRAMES_STATE: (1, config.history, height, width, 3),
        **dict.fromkeys(config.branches, features),
    }
    sizes = window.size or tuple(_input_side(graph, axis, name) for axis, name in ((2, "height"), (3, "width")))
    inputs = {}
    for name, shape in shapes.items():
        graph.add_input(name, shape)
        given = SymbolicTensor(graph, (*shape[:2], *sizes, shape[4]), ms.float32, name)
        inputs[name] = given.astype(ms.float16 if window.half else ms.float32)
    frames, past = inputs.pop(INPUT), inputs.pop(FRAMES_STATE)
    table = OnnxAttention(graph)
    methods = {name: getattr(table, name) for name in dir(table) if not name.startswith("_") and hasattr(ops, name)}
    with ops.used_for_tracing(methods):
        cell.present = _present_clips(frames, past, config.clip_size)
        clips, state = cell.stream_clips(frames, RecurrentState(past, inputs), window.frames)
        output = ops.concat(list(clips), 1)
    graph.add_output(OUTPUT, output.astype(ms.float32).value, (1, window.frames, *_times(config.scale, height, width), 3))
    for name, tensor in {FRAMES_STATE: state.frames, **state.features}.items():
        graph.add_output(NEXT + name, tensor.astype(ms.float32).value, shapes[name])
    return graph


def _input_side(graph: GraphBuilder, axis: int, name: str) -> Dim:
    """Height or width of the frames."""
    shape = graph.node("Shape", [INPUT])
    side = graph.node("Slice", [shape, *map(graph.integers, (axis, axis + 1, 0))])
    return Dim(graph, side, name)


def _times(scale: int, *sides: int | str) -> list[int | str]:
    return [scale * side if isinstance(side, int) else f"{scale}*{side}" for side in sides]


def _present_clips(frames: SymbolicTensor, past: SymbolicTensor, clip: int) -> dict[int, SymbolicTensor]:
    """See `PaddedRVRT.present`."""
    clips = [frames.narrow(1, slice(start, start + clip)) for start in range(0, int(frames.shape[1]), clip)]
    last = past.narrow(1, slice(int(past.shape[1]) - clip, None))
    present = {}
    for number, tensor in enumerate([last, *clips], -1):
        graph = tensor.graph
        brightest = graph.node("ReduceMax", [tensor.astype(ms.float32).value], keepdims=0)
        limit = graph.constant(np.array(MISSING_FRAME / 2, np.float32))
        present[number] = SymbolicTensor(graph, (), ms.bool_, graph.node("Greater", [brightest, limit]))
    return present
