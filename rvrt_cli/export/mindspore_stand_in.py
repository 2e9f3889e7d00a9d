# SPDX-License-Identifier: Apache-2.0
"""What the network's code imports of MindSpore, where MindSpore is not installed: enough to run it on symbolic tensors.

The network is written against MindSpore, but while its window is traced every op is an ONNX node: of MindSpore are left names
in annotations, types, cells that hold parameters, and parameters that hold a name and a shape.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np


class Tensor:
    """A constant."""

    def __init__(self, array: np.ndarray):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def asnumpy(self) -> np.ndarray:
        """Its values."""
        return self._array

    def astype(self, dtype: np.dtype) -> Tensor:
        """In another type."""
        return Tensor(self._array.astype(dtype))


class Parameter(Tensor):
    """A weight, whose values nobody asks for."""

    def __init__(self, tensor: Tensor, name: str):
        super().__init__(tensor.asnumpy())
        self.name = name


class Cell:
    """A part of a network."""

    training = False

    def __init__(self, auto_prefix: bool = True):
        pass

    def __call__(self, *args: Any) -> Any:
        return self.construct(*args)  # type: ignore[attr-defined]


def _cell_list(cells: list[Cell], auto_prefix: bool = True) -> list[Cell]:
    return cells


class _StandIn(ModuleType):
    """A module whose other functions are there to be imported, not called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **keywords: Any) -> Any:
            raise NotImplementedError(f"{self.__name__}.{name}, in the network's code: not replaced by an ONNX node")

        return missing


def _stand_ins() -> dict[str, ModuleType]:
    whole, nn, ops, graph = (_StandIn(f"mindspore{name}") for name in ("", ".nn", ".ops", ".graph"))
    types = {name: np.dtype(name) for name in ("float16", "float32", "int32")}
    vars(whole).update(
        types,
        bool_=np.dtype(bool),
        dtype_to_nptype=lambda dtype: dtype,
        get_context=lambda name: None,  # no device: definitions, no kernels
        Tensor=Tensor,
        Parameter=Parameter,
        ParameterTuple=list,
        nn=nn,
        ops=ops,
        graph=graph,
    )
    vars(nn).update(Cell=Cell, CellList=_cell_list)
    vars(ops).update(constexpr=lambda function: function, stop_gradient=lambda tensor: tensor)
    return {module.__name__: module for module in (whole, nn, ops, graph)}


_STAND_INS = _stand_ins()


@contextlib.contextmanager
def mindspore_to_trace_with() -> Iterator[None]:
    """Inside, the network's code can be imported: with MindSpore or, where that is not installed, with this module.

    What has been imported keeps it; elsewhere in the process MindSpore is missing as before.
    """
    if find_spec("mindspore") is not None:
        yield
        return
    before = {name: sys.modules[name] for name in _STAND_INS if name in sys.modules}
    sys.modules.update(_STAND_INS)
    try:
        yield
    finally:
        for name in _STAND_INS:
            del sys.modules[name]
        sys.modules.update(before)
