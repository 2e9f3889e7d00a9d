"""Adam with a moving average of the weights, over one flat buffer per group of parameters.

The buffers are NumPy's, in the host's memory, whatever the device: a network has hundreds of parameters, and MindSpore
takes longer to start an operation on each than NumPy does for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Parameter, Tensor

from rvrt_cli.train.train_options import TrainOptions

EPSILON = 1e-8
MOMENTS = ("value", "m", "v", "ema")  # what a group keeps of every parameter
_CHUNK = 1 << 15  # numbers whose five buffers fit the cache


@dataclass(frozen=True)
class Adam:
    """The scalars of one step of Adam (Kingma and Ba 2015) and of the moving average."""

    rate: float
    beta1: float
    beta2: float
    decay: float  # decoupled weight decay (Loshchilov and Hutter 2019)
    step: int  # from 1
    factor: float  # on the gradient
    ema_decay: float


def adam_step(
    adam: Adam, value: np.ndarray, gradient: np.ndarray, m: np.ndarray, v: np.ndarray, ema: np.ndarray
) -> None:
    """One step in place on float32 (n,): `value`, both moments, and the average; `gradient` stays."""
    numbers = (adam.rate, adam.beta1, adam.beta2, adam.decay, adam.factor, adam.ema_decay)
    rate, beta1, beta2, decay, factor, ema_decay = (np.float32(x) for x in numbers)
    one, over1 = np.float32(1), np.float32(1 / (1 - adam.beta1**adam.step))
    over2 = np.float32(1 / (1 - adam.beta2**adam.step))
    for start in range(0, value.size, _CHUNK):
        p, g, m1, m2, e = (x[start : start + _CHUNK] for x in (value, gradient, m, v, ema))
        g = g * factor
        m1 += (one - beta1) * (g - m1)
        m2 += (one - beta2) * (g * g - m2)
        p -= rate * (over1 * m1 / (np.sqrt(over2 * m2) + np.float32(EPSILON)) + decay * p)
        e += (one - ema_decay) * (p - e)


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
    value: np.ndarray = field(init=False)  # float32 (n,), as the next three
    m: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)
    ema: np.ndarray = field(init=False)

    @property
    def size(self) -> int:
        """Numbers in all parameters."""
        return sum(parameter.size for parameter in self.parameters)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the state from "value.NAME", "m.NAME" … as `save` gives them; without moments, start afresh."""
        for kind in MOMENTS:
            setattr(self, kind, self.flat([self._array(arrays, kind, parameter) for parameter in self.parameters]))
        self.show(self.value)

    @staticmethod
    def _array(arrays: dict[str, np.ndarray], kind: str, parameter: Parameter) -> np.ndarray:
        found = arrays.get(f"{kind}.{parameter.name}")
        if found is None:
            found = arrays[f"value.{parameter.name}"] if kind == "ema" else np.zeros(parameter.size)
        return found

    @staticmethod
    def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
        """One float32 buffer (n,) of an array per parameter."""
        return np.concatenate([array.ravel() for array in arrays]).astype(np.float32)

    def save(self, kinds: Sequence[str] = MOMENTS) -> dict[str, np.ndarray]:
        """The state as arrays of the parameters' shapes by "value.NAME", "m.NAME", "v.NAME", "ema.NAME"."""
        return {
            f"{kind}.{parameter.name}": array.copy()  # the next step writes to these buffers
            for kind in kinds
            for parameter, array in zip(self.parameters, self._parts(getattr(self, kind)), strict=True)
        }

    def _parts(self, flat: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([parameter.size for parameter in self.parameters])
        parts = zip(np.split(flat, ends[:-1]), self.parameters, strict=True)
        return [part.reshape(parameter.shape) for part, parameter in parts]

    def show(self, flat: np.ndarray) -> None:
        """Let the network compute with `flat`, the value or its average."""
        for parameter, part in zip(self.parameters, self._parts(flat), strict=True):
            parameter.copy_(Tensor(part, parameter.dtype))  # in place: compiled stages hold on to it

    def step(self, gradient: np.ndarray, rate: float, factor: float, options: TrainOptions) -> None:
        """Learn from the gradient (n,), multiplied by `factor`, at the schedule's `rate`."""
        self.updates += 1
        # early averages lean on few steps, so that the first weights are forgotten
        ema = min(options.ema, (1 + self.updates) / (10 + self.updates))
        adam = Adam(rate * self.rate, options.beta1, options.beta2, options.weight_decay, self.updates, factor, ema)
        adam_step(adam, self.value, gradient, self.m, self.v, self.ema)
        self.show(self.value)
