"""One training step: loss, gradients, agreement between the ranks, and what happens when numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.device import Device
from rvrt_cli.frame import to_float, to_pixels
from rvrt_cli.model import RVRT
from rvrt_cli.train.all_reduce import Ranks
from rvrt_cli.train.counters import FIRST_SCALE, Counters
from rvrt_cli.train.optimizer import Group
from rvrt_cli.train.train_options import TrainOptions


@dataclass(frozen=True)
class StepResult:
    """What one step gave: mean Charbonnier loss, PSNR [dB] over RGB, norm of the gradient; `stop`: a rank asks to."""

    loss: float
    psnr: float
    norm: float
    skipped: bool
    stop: bool


class Learner:
    """The network, its optimizer and its counters on one rank.

    Args:
        arrays: the weights by "value.NAME", and the optimizer's state where there is one (see `Group.save`).
    """

    def __init__(
        self, options: TrainOptions, device: Device, ranks: Ranks, arrays: dict[str, np.ndarray], counters: Counters
    ) -> None:
        self.options, self.ranks, self.counters = options, ranks, counters
        self.network = RVRT(options.config)
        self.network.set_train()
        self._half = device.precision == "float16"
        if self._half and counters.step == 0:
            counters.loss_scale = FIRST_SCALE
        parameters = list(self.network.get_parameters())
        if self._half:
            for parameter in parameters:
                parameter.set_dtype(ms.float16)
        flow = [parameter for parameter in parameters if parameter.name.startswith("spynet.")]
        rest = [parameter for parameter in parameters if not parameter.name.startswith("spynet.")]
        self.groups = [Group(rest)]
        if flow:
            self.groups.append(Group(flow, options.spynet_rate, options.spynet_frozen))
        for group, updates in zip(self.groups, counters.updates or [0] * len(self.groups), strict=True):
            group.load(arrays)
            group.updates = updates
        self._gradient: tuple[int, Any] = (0, None)

    def step(self, low: np.ndarray, high: np.ndarray, rate: float, stop: bool = False) -> StepResult:
        """Learn from one batch (N, T, h, w, 3), (N, T, 4h, 4w, 3), this rank's share.

        Raises:
            RvrtError: too many of the last steps had to be skipped.
        """
        counters, groups = self.counters, [g for g in self.groups if self.counters.step >= g.frozen]
        loss, error, flats = self.gradients(low, high, groups)
        shared = self.ranks.mean(np.concatenate([*flats, np.array([loss, error, stop], np.float32)]))
        *flats, (loss, error, stopping) = np.split(shared, np.cumsum([group.size for group in groups]))
        loss, error = float(loss), float(error)
        norm = math.sqrt(sum(float(np.dot(flat, flat)) for flat in flats)) / counters.loss_scale
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if not skipped:
            limit = self.options.clip_norm
            factor = min(1.0, limit / norm if limit and norm else 1.0) / counters.loss_scale
            for group, flat in zip(groups, flats, strict=True):
                group.step(flat, rate, factor, self.options)
        counters.updates = [group.updates for group in self.groups]
        counters.count(skipped, self._half, self.options.max_skipped)
        psnr = -10 * math.log10(error) if 0 < error < math.inf else math.nan
        return StepResult(loss, psnr, norm, skipped, bool(stopping > 0))

    def gradients(
        self, low: np.ndarray, high: np.ndarray, groups: list[Group]
    ) -> tuple[float, float, list[np.ndarray]]:
        """Loss, mean squared error, and the gradient of the scaled loss for each group as float32 (n,)."""
        if self._gradient[0] != len(groups):  # the optical flow has begun to learn
            learning = [parameter for group in groups for parameter in group.parameters]
            self._gradient = (
                len(groups),
                ms.value_and_grad(ops.differentiable(self._loss), None, learning, has_aux=True),
            )
        dtype = ms.float16 if self._half else ms.float32
        scale = Tensor(np.float32(self.counters.loss_scale))
        (_, loss, error), gradients = self._gradient[1](Tensor(low, dtype), Tensor(high), scale)
        flats, start = [], 0
        for group in groups:
            parts = gradients[start : start + len(group.parameters)]
            flats.append(group.flat([part.asnumpy() for part in parts]))
            start += len(parts)
        return float(loss.asnumpy()), float(error.asnumpy()), flats

    def _loss(self, low: Tensor, high: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.network(low, self.options.mirror).astype(ms.float32)
        error = msops.square(msops.stop_gradient(output) - high).mean()
        loss = ops.charbonnier(output, high, self.options.epsilon**2)
        return loss * scale, loss, error

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and state of the optimizer, for a checkpoint."""
        return {name: array for group in self.groups for name, array in group.save().items()}

    def averaged_weights(self) -> dict[str, np.ndarray]:
        """The moving average of the weights, by parameter name: what is validated and published."""
        kind = "ema" if self.options.ema else "value"
        saved = (group.save([kind]) for group in self.groups)
        return {name.split(".", 1)[1]: array for arrays in saved for name, array in arrays.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network computes with the moving average of its weights."""
        for group in self.groups:
            group.show(group.ema if self.options.ema else group.value)
        self.network.set_train(False)
        try:
            yield
        finally:
            for group in self.groups:
                group.show(group.value)
            self.network.set_train()

    def upscale(self, frames: np.ndarray) -> np.ndarray:
        """(T, h, w, 3) uint8 to (T, 4h, 4w, 3) uint8 with the network as it stands, for validation.

        Raises:
            FloatingPointError: the output is not finite.
        """
        dtype = ms.float16 if self._half else ms.float32
        low = Tensor(to_float(frames)[None], dtype)
        output = self.network(low)[0].asnumpy().astype(np.float32)
        if not np.isfinite(output).all():
            raise FloatingPointError("the network's output is not finite")
        return to_pixels(output, np.empty(output.shape, np.uint8))
