# SPDX-License-Identifier: Apache-2.0
"""How parameters reach the stages of the network that run now: `compilation` sets it, and kernels may ask."""

from __future__ import annotations

from contextvars import ContextVar
from enum import Enum


class ParameterPassing(Enum):
    """How `arguments` passes parameters to a stage."""

    DETACHED = "plain tensors on the same memory, without gradients: inference"
    PER_STAGE = "tensors whose gradients lead to the parameters, from one compiled stage to the next"
    ONE_GRAPH = "the parameters themselves, to stages that are traced into one graph"


passing: ContextVar[ParameterPassing] = ContextVar("parameter passing", default=ParameterPassing.DETACHED)


def gradients_wanted() -> bool:
    """Whether what runs, or is compiled, now is part of a `differentiable` function."""
    return passing.get() is not ParameterPassing.DETACHED
