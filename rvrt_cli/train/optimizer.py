"""Adam with a moving average of the weights, over one flat buffer per group of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from rvrt_cli.train.options import TrainOptions

EPSILON = 1e-8
MOMENTS = ("value", "m", "v", "ema")  # what a group keeps of every parameter


@ms.jit
def adam_step(value: Tensor, gradient: Tensor, m: Tensor, v: Tensor, ema: Tensor, scalars: Tensor) -> tuple:
    """One step of Adam (Kingma and Ba 2015) with decoupled weight decay, and of the moving average.

    Args:
        value, gradient, m, v, ema: float32 (n,).
        scalars: float32 [rate, β1, β2, ε, weight decay, 1 - β1^t, 1 - β2^t, factor on the gradient, decay of `ema`].

    Returns:
        the new value, m, v and ema.
    """
    rate, beta1, beta2, epsilon, decay = scalars[0], scalars[1], scalars[2], scalars[3], scalars[4]
    gradient = gradient * scalars[7]
    m = m * beta1 + gradient * (1 - beta1)
    v = v * beta2 + gradient * gradient * (1 - beta2)
    value = value - rate * ((m / scalars[5]) / (ops.sqrt(v / scalars[6]) + epsilon) + value * decay)
    return value, m, v, ema + (value - ema) * (1 - scalars[8])


@dataclass
class Group:
    """Parameters that learn at one rate, and their state; the network's parameters hold a copy of `value`.

    Attributes:
        rate: learning rate, times the schedule's.
        frozen: steps before the group begins to learn.
        updates: steps of Adam so far.
    """

    parameters: Sequence[Parameter]
    rate: float = 1.0
    frozen: int = 0
    updates: int = 0
    value: Tensor = field(init=False)
    m: Tensor = field(init=False)
    v: Tensor = field(init=False)
    ema: Tensor = field(init=False)

    @property
    def size(self) -> int:
        """Numbers in all parameters."""
        return sum(parameter.size for parameter in self.parameters)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the state from "value.NAME", "m.NAME" … as `save` gives them; without moments, start afresh."""
        for kind in MOMENTS:
            parts = [self._array(arrays, kind, parameter) for parameter in self.parameters]
            setattr(self, kind, Tensor(np.concatenate(parts)))
        self.show(self.value)

    @staticmethod
    def _array(arrays: dict[str, np.ndarray], kind: str, parameter: Parameter) -> np.ndarray:
        found = arrays.get(f"{kind}.{parameter.name}")
        if found is None:
            found = arrays[f"value.{parameter.name}"] if kind == "ema" else np.zeros(parameter.size)
        return found.astype(np.float32).ravel()

    def save(self, kinds: Sequence[str] = MOMENTS) -> dict[str, np.ndarray]:
        """The state as arrays of the parameters' shapes by "value.NAME", "m.NAME", "v.NAME", "ema.NAME"."""
        arrays = {}
        for kind in kinds:
            flat, start = getattr(self, kind).asnumpy(), 0
            for parameter in self.parameters:
                arrays[f"{kind}.{parameter.name}"] = flat[start : start + parameter.size].reshape(parameter.shape)
                start += parameter.size
        return arrays

    def show(self, flat: Tensor) -> None:
        """Let the network compute with `flat`, "value" or "ema"."""
        sizes = [parameter.size for parameter in self.parameters]
        for parameter, part in zip(self.parameters, ops.split(flat, sizes), strict=True):
            ops.assign(parameter, part.reshape(parameter.shape).astype(parameter.dtype))

    def step(self, gradient: Tensor, rate: float, factor: float, options: TrainOptions) -> None:
        """Learn from the gradient (n,), multiplied by `factor`, at the schedule's `rate`."""
        self.updates += 1
        # early averages lean on few steps, so that the first weights are forgotten
        decay = min(options.ema, (1 + self.updates) / (10 + self.updates))
        correction = [1 - beta**self.updates for beta in (options.beta1, options.beta2)]
        scalars = [
            rate * self.rate,
            options.beta1,
            options.beta2,
            EPSILON,
            options.weight_decay,
            *correction,
            factor,
            decay,
        ]
        self.value, self.m, self.v, self.ema = adam_step(
            self.value, gradient, self.m, self.v, self.ema, Tensor(np.array(scalars, np.float32))
        )
        self.show(self.value)
