# SPDX-License-Identifier: Apache-2.0
"""One window of the streaming network as a list of calls of its compiled stages.

The recurrence over clips is Python that MindSpore's graph mode cannot parse. It runs once here, on the smallest frames and on
values that take down which function is called with what: for all frame sizes, these are the same calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, no_inline, ops as msops

from rvrt_cli import ops
from rvrt_cli.export.padded_network import PaddedRVRT
from rvrt_cli.frame import SMALLEST_FRAME
from rvrt_cli.model.outline import FRAMES_STATE, MISSING_FRAME
from rvrt_cli.model.rvrt import RecurrentState
from rvrt_cli.ops.compilation import function_copy
from rvrt_cli.ops.layers import reverse_time
from rvrt_cli.runtime.exported_model import WINDOW_INPUT, ExportedModel

VALUE, VALUES, WEIGHT, CONSTANT = "value", "values", "weight", "constant"  # kinds of arguments
Argument = tuple[str, Any]


@dataclass(frozen=True)
class StageCall:
    """One call.

    Attributes:
        function: of MindSpore's, or a stage of the network.
        arguments: numbers of one value or of several, number of a weight, or a constant; each after its kind.
    """

    function: Callable
    arguments: tuple[Argument, ...]


@dataclass
class StageProgram:
    """Calls in their order. Values are numbered: inputs first, then the results of each call.

    Attributes:
        weights: parameters of the network.
        outputs: numbers of the values that are the result.
    """

    weights: Sequence[Parameter]
    calls: list[StageCall] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    count: int = 0

    def value(self, tensor: Tensor) -> RecordedValue:
        """The next value."""
        self.count += 1
        return RecordedValue(self, self.count - 1, tensor)

    def record(self, function: Callable, arguments: tuple) -> Any:
        """Carry out a call, and take it down if any of its arguments is a value of the program."""
        if not any(isinstance(one, RecordedValue) for part in arguments for one in _elements(part)):
            return function(*arguments)
        result = function(*(_tensors(part) for part in arguments))
        self.calls.append(StageCall(function, tuple(self._argument(part) for part in arguments)))
        if isinstance(result, tuple | list):
            return tuple(self.value(tensor) for tensor in result)
        return self.value(result)

    def _argument(self, part: Any) -> Argument:
        if isinstance(part, RecordedValue):
            return VALUE, part.number
        if isinstance(part, Parameter):
            return WEIGHT, next(i for i, weight in enumerate(self.weights) if weight is part)
        if any(isinstance(one, RecordedValue) for one in _elements(part)):
            return VALUES, tuple(one.number for one in part)
        assert not isinstance(part, Tensor), "a tensor from outside the program"
        return CONSTANT, part


@dataclass(frozen=True, eq=False)
class RecordedValue:
    """A value of a program, with as much of MindSpore's `Tensor` as the recurrence uses; (N, T, …)."""

    program: StageProgram
    number: int
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the smallest frames; the number of frames is that of all sizes."""
        return self.tensor.shape

    def __getitem__(self, index: tuple[slice, slice]) -> RecordedValue:
        first, frames = index
        assert first == slice(None), "slices of frames only"
        start, stop, _ = frames.indices(self.shape[1])
        return self.program.record(_cut_frames, (self, start, stop))


def _elements(part: Any) -> Sequence:
    return part if isinstance(part, tuple | list) else (part,)


def _tensors(part: Any) -> Any:
    """The tensors of values."""
    if isinstance(part, RecordedValue):
        return part.tensor
    return tuple(map(_tensors, part)) if isinstance(part, tuple | list) else part


# --- what is called beside the stages; functions, since graph mode takes no methods of a program


def _cut_frames(x: Tensor, start: int, stop: int) -> Tensor:
    return x[:, start:stop]


def _concat(tensors: tuple[Tensor, ...], axis: int = 0) -> Tensor:
    return msops.concat(tensors, axis)


def _split(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    return msops.split(x, size, axis)


def _zeros_like(x: Tensor) -> Tensor:
    return msops.zeros_like(x)


def _full_like(x: Tensor, value: float) -> Tensor:
    return msops.full_like(x, value)


def _has_frames(x: Tensor) -> Tensor:
    return msops.amax(x) > MISSING_FRAME / 2


def _choose(condition: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    return msops.select(condition, x, otherwise)


# --- recording


@functools.cache
def _reusable(stage: Callable) -> Callable:
    """A copy that MindSpore compiles to one graph for all its calls.

    Inlined, the window of rvrt-tiny took twice as long to export and nine times as long to load, and was 2.7 times as large.
    """
    return no_inline(function_copy(stage))


def record_window(model: ExportedModel, cell: PaddedRVRT) -> StageProgram:
    """One window of `cell`: inputs and outputs in the order of docs/export.md, frames and state.

    The values are computed by whatever backend is active. That of the program is the one that is active when it is compiled.
    """
    program = StageProgram(list(cell.get_parameters()))
    shapes = model.input_shapes(SMALLEST_FRAME, SMALLEST_FRAME)
    inputs = {name: program.value(Tensor(np.zeros(shape), ms.float32)) for name, shape in shapes.items()}
    window, past = inputs.pop(WINDOW_INPUT), inputs.pop(FRAMES_STATE)
    table: dict[str, Callable] = {
        "concat": _concat,
        "split": _split,
        "zeros_like": _zeros_like,
        "full_like": _full_like,
        "reverse_time": reverse_time,
    }

    def recorded(function: Callable) -> Callable:
        return lambda *arguments: program.record(function, arguments)

    cell.choose = recorded(_choose)
    with ops.used_for_tracing({name: recorded(function) for name, function in table.items()}):
        clip, length = model.config.clip_size, model.config.history
        clips = [past[:, length - clip :], *(window[:, at : at + clip] for at in range(0, model.length, clip))]
        cell.present = {number: program.record(_has_frames, (one,)) for number, one in enumerate(clips, -1)}
        with ops.stages_called_through(lambda stage, arguments: program.record(_reusable(stage), arguments)):
            upscaled, state = cell.stream_clips(
                window, RecurrentState(past, inputs), model.frames, fusion_lookahead=model.fusion_lookahead
            )
            output = ops.concat(list(upscaled), 1)
    results = [output, state.frames, *state.features.values()]
    program.outputs = tuple(result.number for result in results)
    return program
