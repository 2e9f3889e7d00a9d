# SPDX-License-Identifier: Apache-2.0
"""Adam with a moving average of the weights, on one flat buffer per parameter group.

The buffers are NumPy arrays in host memory on every device: a network has hundreds of parameters, and MindSpore takes
longer to launch an operation on each than NumPy takes for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from rvrt_cli.train.train_options import TrainOptions

ADAM_EPSILON = 1e-8
STATE_KINDS = ("value", "m", "v", "ema")  # arrays per parameter: weights, both moments of Adam, moving average
_CACHE_CHUNK = 1 << 15  # numbers per pass, so that all five buffers stay in the cache


@dataclass(frozen=True)
class Adam:
    """The scalars of one step of Adam (Kingma and Ba 2015) and of the moving average."""

    rate: float
    beta1: float
    beta2: float
    decay: float  # decoupled weight decay (Loshchilov and Hutter 2019)
    step: int  # from 1
    factor: float  # that scales the gradient
    ema_decay: float


def adam_step(
    adam: Adam, value: np.ndarray, gradient: np.ndarray, m: np.ndarray, v: np.ndarray, ema: np.ndarray
) -> None:
    """One step of Adam, in place on float32 (n,) buffers: the weights, both moments and the average; not `gradient`."""
    numbers = (adam.rate, adam.beta1, adam.beta2, adam.decay, adam.factor, adam.ema_decay)
    rate, beta1, beta2, decay, factor, ema_decay = (np.float32(x) for x in numbers)
    one, over1 = np.float32(1), np.float32(1 / (1 - adam.beta1**adam.step))
    over2 = np.float32(1 / (1 - adam.beta2**adam.step))
    for start in range(0, value.size, _CACHE_CHUNK):
        p, g, m1, m2, e = (x[start : start + _CACHE_CHUNK] for x in (value, gradient, m, v, ema))
        g = g * factor
        m1 += (one - beta1) * (g - m1)
        m2 += (one - beta2) * (g * g - m2)
        p -= rate * (over1 * m1 / (np.sqrt(over2 * m2) + np.float32(ADAM_EPSILON)) + decay * p)
        e += (one - ema_decay) * (p - e)


@dataclass
class ParameterGroup:
    """Parameters with a common learning rate, and their state; the network's parameters hold a copy of `value`.

    Attributes:
        rate: factor on the schedule's learning rate.
        frozen: steps for which the group is not trained.
        updates: steps of Adam so far.
    """

    parameters: Sequence[Parameter]
    rate: float = 1.0
    frozen: int = 0
    updates: int = 0
    value: np.ndarray = field(init=False)  # float32 (n,), as are the next three
    m: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)
    ema: np.ndarray = field(init=False)

    @property
    def size(self) -> int:
        """Number of values in all parameters."""
        return sum(parameter.size for parameter in self.parameters)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the state from "value.NAME", "m.NAME" … as `save` returns it; missing moments start at zero."""
        for kind in STATE_KINDS:
            setattr(self, kind, self.flat([self._array(arrays, kind, parameter) for parameter in self.parameters]))
        self.load_parameters(self.value)

    @staticmethod
    def _array(arrays: dict[str, np.ndarray], kind: str, parameter: Parameter) -> np.ndarray:
        found = arrays.get(f"{kind}.{parameter.name}")
        if found is None:
            found = arrays[f"value.{parameter.name}"] if kind == "ema" else np.zeros(parameter.size)
        return found

    @staticmethod
    def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Concatenate one array per parameter into a float32 buffer (n,)."""
        return np.concatenate([array.ravel() for array in arrays]).astype(np.float32)

    def save(self, kinds: Sequence[str] = STATE_KINDS) -> dict[str, np.ndarray]:
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

    def load_parameters(self, flat: np.ndarray) -> None:
        """Copy `flat`, the weights or their average, into the network's parameters, in place: stages keep a reference."""
        on_cpu = ms.get_context("device_target") == "CPU"  # asked for each parameter, it takes longer than the copies
        for parameter, part in zip(self.parameters, self._parts(flat), strict=True):
            if on_cpu:
                # This array is the parameter's own memory, and ops for all of them would take a twentieth of a step.
                np.copyto(parameter.asnumpy(), part)
            else:
                ops.assign(parameter, Tensor(part, parameter.dtype))

    def step(self, gradient: np.ndarray, rate: float, factor: float, options: TrainOptions) -> None:
        """Update the weights with `factor` × `gradient` (n,), at the schedule's `rate`."""
        self.updates += 1
        # a shorter average at first, so that the initial weights are forgotten
        ema_decay = min(options.ema, (1 + self.updates) / (10 + self.updates))
        adam = Adam(
            rate=rate * self.rate,
            beta1=options.beta1,
            beta2=options.beta2,
            decay=options.weight_decay,
            step=self.updates,
            factor=factor,
            ema_decay=ema_decay,
        )
        adam_step(adam, self.value, gradient, self.m, self.v, self.ema)
        self.load_parameters(self.value)
