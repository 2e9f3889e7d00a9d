# SPDX-License-Identifier: Apache-2.0
"""One training step: loss, gradients, their mean over the ranks, and the skipping of steps that are not finite."""

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
from rvrt_cli.ops.lucas_kanade_flow import LUMA_WEIGHTS
from rvrt_cli.train.communicator import Communicator
from rvrt_cli.train.muon import is_hidden_matrix, matrix_shape
from rvrt_cli.train.optimizer import ParameterGroup
from rvrt_cli.train.train_options import TrainOptions
from rvrt_cli.train.training_counters import INITIAL_LOSS_SCALE, TrainingCounters

_SMALL_ERROR = 3 / 255  # root mean square; below, a sample is good enough


def weigh_chroma(frames: Tensor, weight: float) -> Tensor:
    """RGB (..., 3) with the same luma and `weight` times the chroma: x' = w x + (1 - w) Y(x).

    Linear, so that a loss between two such images weighs the chroma errors by `weight` and the luma errors by 1.
    """
    matrix = weight * np.eye(3) + (1 - weight) * np.outer(LUMA_WEIGHTS, np.ones(3))
    return msops.matmul(frames.reshape(-1, 3), Tensor(matrix.astype(np.float32))).reshape(frames.shape)


def negative_psnr(output: Tensor, truth: Tensor) -> Tensor:
    """Mean over the samples (N, ...) of their mean squared error [dB], a scalar; of RGB in [0, 1].

    Errors below `_SMALL_ERROR` gain little by being smaller still.
    """
    return (10 / math.log(10)) * msops.log(sample_errors(output, truth) + _SMALL_ERROR**2).mean()


def sample_errors(output: Tensor, truth: Tensor) -> Tensor:
    """(N,): mean squared error of each sample (N, T, H, W, 3)."""
    # Row by row: of all elements at once, MindSpore takes the mean ten times as slowly.
    return msops.square(output - truth).mean((-2, -1)).reshape(output.shape[0], -1).mean(-1)


def flicker(output: Tensor, truth: Tensor) -> Tensor:
    """Mean squared change between consecutive frames (N, T, ...) beyond the truth's; a scalar.

    Pixels count by exp(-(d / 2)²), where d is the truth's change in levels: where something moves, an error moves along.
    """
    change, expected = output[:, 1:] - output[:, :-1], truth[:, 1:] - truth[:, :-1]
    stillness = msops.exp(-msops.square(expected * (255 / 2)))
    return (stillness * msops.square(change - expected)).mean()


@dataclass(frozen=True)
class StepResult:
    """Outcome of one step, over all ranks.

    Attributes:
        loss: mean loss.
        psnr: PSNR over RGB [dB].
        norm: norm of the whole gradient, before clipping.
        skipped: whether the step was skipped, since loss or gradient were not finite.
        stop: whether any rank asks to stop.
    """

    loss: float
    psnr: float
    norm: float
    skipped: bool
    stop: bool


class Learner:
    """The network, its optimizer and its counters, on one rank.

    Args:
        arrays: the weights by "value.NAME", and the optimizer's state if there is one (see `ParameterGroup.save`).
    """

    def __init__(
        self,
        options: TrainOptions,
        device: Device,
        communicator: Communicator,
        arrays: dict[str, np.ndarray],
        counters: TrainingCounters,
    ) -> None:
        self.options, self.communicator, self.counters = options, communicator, counters
        self.network = RVRT(options.config)
        self.network.set_train()
        self._half = device.precision == "float16"
        if self._half and counters.step == 0:
            counters.loss_scale = INITIAL_LOSS_SCALE
        parameters = list(self.network.get_parameters())
        if self._half:
            for parameter in parameters:
                parameter.set_dtype(ms.float16)
        flow = [parameter for parameter in parameters if parameter.name.startswith("spynet.")]
        rest = [parameter for parameter in parameters if not parameter.name.startswith("spynet.")]
        self.groups = [ParameterGroup(rest)]
        if options.optimizer == "muon":
            matrices = [parameter for parameter in rest if is_hidden_matrix(parameter.name, parameter.shape)]
            matrices.sort(key=lambda parameter: matrix_shape(parameter.shape))
            others = [parameter for parameter in rest if not is_hidden_matrix(parameter.name, parameter.shape)]
            self.groups = [ParameterGroup(matrices, muon=True), ParameterGroup(others)]
        if flow:
            self.groups.append(ParameterGroup(flow, options.spynet_rate, options.spynet_frozen))
        done = counters.updates
        if len(done) != len(self.groups):  # a new run, or one that is resumed with another optimizer, which begins anew
            done = [0] * len(self.groups)
            arrays = {name: array for name, array in arrays.items() if not name.startswith(("m.", "v."))}
        for group, updates in zip(self.groups, done, strict=True):
            group.load(arrays)
            group.updates = updates
        self._gradient_groups = 0  # groups that `_gradient_of` differentiates by
        self._gradient_of: Any = None

    def step(self, low: np.ndarray, high: np.ndarray, rate: float, stop: bool = False) -> StepResult:
        """Train on this rank's share of a batch: float32 (N, T, h, w, 3) and (N, T, 4h, 4w, 3) in [0, 1]; for restoration
        (N, T, H, W, 3 or 4) and (N, T, H, W, 3).

        Args:
            rate: learning rate.
            stop: whether this rank asks to stop; passed to all ranks with the gradient.

        Raises:
            RvrtError: too many of the last steps had to be skipped.
        """
        counters, groups = self.counters, [g for g in self.groups if self.counters.step >= g.frozen]
        loss, error, flats = self.gradients(low, high, groups)
        shared = self.communicator.mean(np.concatenate([*flats, np.array([loss, error, stop], np.float32)]))
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
        counters.count_step(skipped, self._half, self.options.max_skipped)
        psnr = -10 * math.log10(error) if 0 < error < math.inf else math.nan
        return StepResult(loss, psnr, norm, skipped, bool(stopping > 0))

    def gradients(
        self, low: np.ndarray, high: np.ndarray, groups: list[ParameterGroup]
    ) -> tuple[float, float, list[np.ndarray]]:
        """Loss, mean squared error, and the gradient of the scaled loss for each group as float32 (n,)."""
        if self._gradient_groups != len(groups):  # the optical flow starts to be trained
            parameters = [parameter for group in groups for parameter in group.parameters]
            self._gradient_of = ms.value_and_grad(ops.differentiable(self._loss), None, parameters, has_aux=True)
            self._gradient_groups = len(groups)
        dtype = ms.float16 if self._half else ms.float32
        scale = Tensor(np.float32(self.counters.loss_scale))
        (_, loss, error), gradients = self._gradient_of(Tensor(low, dtype), Tensor(high), scale)
        flats, start = [], 0
        for group in groups:
            parts = gradients[start : start + len(group.parameters)]
            flats.append(group.flat([part.asnumpy() for part in parts]))
            start += len(parts)
        return float(loss.asnumpy()), float(error.asnumpy()), flats

    def _loss(self, low: Tensor, high: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        options = self.options
        output = self.network(low, options.mirror, options.context).astype(ms.float32)
        high = high[:, options.context : options.frames - options.context] if options.context else high
        error = sample_errors(msops.stop_gradient(output), high).mean()
        flickering = options.flicker_weight * flicker(output, high) if options.flicker_weight else 0.0
        if options.chroma_weight != 1:
            output, high = (weigh_chroma(frames, options.chroma_weight) for frames in (output, high))
        if options.loss == "psnr":
            loss = negative_psnr(output, high)
        else:
            loss = ops.charbonnier(output, high, options.epsilon**2)
        loss = loss + flickering
        return loss * scale, loss, error

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and optimizer state, for a checkpoint."""
        return {name: array for group in self.groups for name, array in group.save().items()}

    def averaged_weights(self) -> dict[str, np.ndarray]:
        """The moving average of the weights by parameter name: what is validated and saved as a weights file."""
        kind = "ema" if self.options.ema else "value"
        saved = (group.save([kind]) for group in self.groups)
        return {name.split(".", 1)[1]: array for arrays in saved for name, array in arrays.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network computes with the moving average of its weights."""
        for group in self.groups:
            group.load_parameters(group.ema if self.options.ema else group.value)
        self.network.set_train(False)
        try:
            yield
        finally:
            for group in self.groups:
                group.load_parameters(group.value)
            self.network.set_train()

    def upscale(self, frames: np.ndarray) -> np.ndarray:
        """What the current network makes of a validation clip: see `rvrt_cli.data.validation.Upscale`.

        Raises:
            FloatingPointError: the output is not finite.
        """
        dtype = ms.float16 if self._half else ms.float32
        low = Tensor(to_float(frames)[None], dtype)
        output = self.network(low)[0].asnumpy().astype(np.float32)
        if not np.isfinite(output).all():
            raise FloatingPointError("the network's output is not finite")
        return to_pixels(output, np.empty(output.shape, np.uint8))
