# SPDX-License-Identifier: Apache-2.0
"""Parameters, the state of their optimizer and a moving average of them, on one flat buffer per group.

The buffers are NumPy arrays in host memory on every device: a network has hundreds of parameters, and MindSpore takes
longer to launch an operation on each than NumPy takes for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from rvrt_cli.train.adam import Adam, adam_step
from rvrt_cli.train.muon import matrix_shape, muon_step
from rvrt_cli.train.train_options import TrainOptions

_ADAM_KINDS = ("value", "m", "v", "ema")  # arrays per parameter: weights, both moments of Adam, moving average
_MUON_KINDS = ("value", "m", "ema")  # Muon has momentum alone


@dataclass
class ParameterGroup:
    """Parameters with a common learning rate, and their state; the network's parameters hold a copy of `value`.

    Attributes:
        rate: factor on the schedule's learning rate.
        frozen: steps for which the group is not trained.
        muon: whether Muon trains them, not Adam; parameters whose matrices have one shape are then next to each other.
        updates: steps of the optimizer so far.
    """

    parameters: Sequence[Parameter]
    rate: float = 1.0
    frozen: int = 0
    muon: bool = False
    updates: int = 0
    value: np.ndarray = field(init=False)  # float32 (n,), as are the next three
    m: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)  # not with Muon
    ema: np.ndarray = field(init=False)

    @property
    def size(self) -> int:
        """Number of values in all parameters."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        """Names of the arrays that the state has for each parameter."""
        return _MUON_KINDS if self.muon else _ADAM_KINDS

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore the state from "value.NAME", "m.NAME" … as `save` returns it; missing moments start at zero."""
        for kind in self.state_kinds:
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

    def save(self, kinds: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The state, or some `kinds` of it, as arrays of the parameters' shapes by "value.NAME", "m.NAME", "v.NAME", "ema.NAME"."""
        return {
            f"{kind}.{parameter.name}": array.copy()  # the next step writes to these buffers
            for kind in kinds or self.state_kinds
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
        if self.muon:
            shapes = [matrix_shape(parameter.shape) for parameter in self.parameters]
            muon_step(adam, shapes, self.value, gradient, self.m, self.ema)
        else:
            adam_step(adam, self.value, gradient, self.m, self.v, self.ema)
        self.load_parameters(self.value)
