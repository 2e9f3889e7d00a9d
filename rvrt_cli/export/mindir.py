# SPDX-License-Identifier: Apache-2.0
"""Write one window of the streaming network as MindIR, for Ascend and MindSpore Lite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn

from rvrt_cli import ops
from rvrt_cli.export.padded_network import PaddedRVRT
from rvrt_cli.export.stage_program import CONSTANT, VALUE, VALUES, StageCall, StageProgram, record_window
from rvrt_cli.runtime import ExportedModel

_FILE_MODE = 0o644  # MindSpore leaves files that only their owner may read, and nobody may write


class CalledStage(nn.Cell):
    """A call of a program, in graph mode."""

    def __init__(self, call: StageCall):
        super().__init__(auto_prefix=False)
        self.function, self.arguments = call.function, call.arguments

    def construct(self, values: tuple, weights: tuple) -> Any:
        """The call's result, from all values so far."""
        arguments: tuple = ()
        for kind, content in self.arguments:
            if kind == VALUE:
                arguments = (*arguments, values[content])
            elif kind == VALUES:
                several: tuple = ()
                for number in content:
                    several = (*several, values[number])
                arguments = (*arguments, several)
            elif kind == CONSTANT:
                arguments = (*arguments, content)
            else:
                arguments = (*arguments, weights[content])
        return self.function(*arguments)


class WindowCell(nn.Cell):
    """A whole program: graph mode unrolls its calls, not the stages that they call."""

    def __init__(self, program: StageProgram):
        super().__init__(auto_prefix=False)
        self.calls = nn.CellList([CalledStage(call) for call in program.calls], auto_prefix=False)
        self.weights, self.outputs = ParameterTuple(program.weights), program.outputs

    def construct(self, *inputs: Tensor) -> tuple:
        """Frames and state of a window → output and next state."""
        values: tuple = inputs
        for call in self.calls:
            result = call(values, self.weights)
            values = values + result if isinstance(result, tuple) else (*values, result)
        outputs: tuple = ()
        for number in self.outputs:
            outputs = (*outputs, values[number])
        return outputs


def write_mindir(target: Path, model: ExportedModel, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the network with these weights, of definitions alone; the metadata is in the file's `user_info`."""
    assert model.size is not None
    cell = PaddedRVRT(model.config)
    cell.load(arrays)
    window = WindowCell(record_window(model, cell))
    kernels = ops.kernels_active()
    ops.use_kernels(False)
    try:
        inputs = [Tensor(np.zeros(shape), ms.float32) for shape in model.input_shapes(*model.size).values()]
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rvrt-export-") as folder:
            written = Path(folder) / target.name
            ms.export(
                window,
                *inputs,
                file_name=str(written),
                file_format="MINDIR",
                custom_func=lambda proto: proto.user_info.update(model.to_metadata()),
            )
            written.chmod(_FILE_MODE)
            os.replace(written, target)
    finally:
        ops.use_kernels(kernels)
