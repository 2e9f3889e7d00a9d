# SPDX-License-Identifier: Apache-2.0
"""One training step: gradients against finite differences, learning, skipped steps, averages, frozen optical flow.

Axes: N samples, T frames, h×w low and H×W high resolution, channels last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers.train_runs import NETWORK

from rvrt_cli.device import Device, use_device
from rvrt_cli.errors import RvrtError
from rvrt_cli.train.starting_weights import starting_weights
from rvrt_cli.train.train_options import TrainOptions
from rvrt_cli.train.training_counters import INITIAL_LOSS_SCALE, LOSS_SCALE_INTERVAL, TrainingCounters

DEVICE = use_device("cpu")

import mindspore as ms  # noqa: E402  after the device was selected
from mindspore import Tensor  # noqa: E402  after the device was selected

from rvrt_cli import ops  # noqa: E402
from rvrt_cli.train.communicator import Communicator  # noqa: E402
from rvrt_cli.train.learner import Learner, negative_psnr  # noqa: E402
from rvrt_cli.train.optimizer import ParameterGroup  # noqa: E402

GUIDED = {**NETWORK, "flow_guided": True, "fused_neighbors": 2}
OPTIONS = TrainOptions(
    network=GUIDED, batch=2, frames=3, crop=32, max_skipped=2, ema=0.9, chroma_weight=1.5, flicker_weight=2.0
)
# Swin layers, as published. Branches are compiled one by one, and SpyNet takes as long as two of them
SWIN = {
    **{"widths": [8, 8, 8], "depths": [1, 1, 1], "heads": [2, 2, 2], "groups": [1, 1, 1]},
    **{"align_heads": 2, "deformable_groups": 4, "upsampler_width": 8},
}
FOUR_BRANCHES = TrainOptions(model="rvrt", network=SWIN, batch=2, frames=3, crop=32, ema=0)
WITH_SPYNET = replace(FOUR_BRANCHES, network={**SWIN, "passes": 1})
WITHOUT_SPYNET = replace(FOUR_BRANCHES, network={**SWIN, "passes": 1, "flow_estimator": "lucas-kanade"})
UNGUIDED = replace(FOUR_BRANCHES, network={**SWIN, "passes": 1, "flow_guided": False})


def new_learner(options: TrainOptions = OPTIONS, device: Device = DEVICE) -> Learner:
    arrays = {f"value.{name}": array for name, array in starting_weights(options).items()}
    return Learner(options, device, Communicator(), arrays, TrainingCounters())


def batch(seed: int = 0, frames: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A moving edge, float32 (2, T, 8, 8, 3) and (2, T, 32, 32, 3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    high = np.empty((2, frames, 32, 32, 3), np.float32)
    for n in range(2):
        angle, shift = rng.uniform(0, 3), rng.uniform(-5, 5)
        for t in range(frames):
            edge = (rows - 16) * np.sin(angle) + (columns - 16 - t) * np.cos(angle) - shift
            high[n, t] = rng.uniform(0.3, 1, 3) / (1 + np.exp(-2 * edge[..., None]))
    low = high.reshape(2, frames, 8, 4, 8, 4, 3).mean((3, 5))
    return low, high


@pytest.fixture(scope="module")
def learner() -> Learner:
    """One for all, as its gradients take ten seconds to compile."""
    return new_learner()


@pytest.mark.slow
def test_gradients_match_finite_differences_in_every_part(learner: Learner) -> None:
    assert len(compare_with_differences(learner)) > 10


@pytest.mark.slow
def test_gradients_match_finite_differences_without_upsampler() -> None:
    """As in rvrt-tiny. MindSpore has lost the gradient of the fused frames' weights, which are padded there."""
    options = replace(OPTIONS, network={**GUIDED, "upsampler_width": 0})
    assert "conv_last.fused" in compare_with_differences(new_learner(options))


def compare_with_differences(learner: Learner) -> list[str]:
    """Compare the gradients of each part of the network, along themselves, with the loss's differences; the parts' names."""
    low, high = batch()
    group = learner.groups[0]
    loss, error, (flat,) = learner.gradients(low, high, [group])
    start = group.value.copy()
    parts = np.split(flat, np.cumsum([parameter.size for parameter in group.parameters])[:-1])
    names = [parameter.name for parameter in group.parameters]
    still = [name for name, part in zip(names, parts, strict=True) if not part.any()]
    # The last layer of the offsets starts at zero.
    assert [name for name in still if ".conv_offset." not in name] == [], "weights without gradient"
    stages = sorted({".".join(name.split(".")[:2]) for name in names})
    wrong, change = [], 5e-7  # of the loss: above the rounding of its mean, and small enough to be linear
    for stage in stages:
        chosen = [part if name.startswith(stage) else 0 * part for name, part in zip(names, parts, strict=True)]
        direction = np.concatenate(chosen)
        length = np.linalg.norm(direction)
        step = change / length**2 * direction
        losses = []
        for sign in (1, -1):
            group.load_parameters(start + sign * step)
            losses.append(expected_loss(learner.network(learner_input(low)).asnumpy(), high))
        ratio = (losses[0] - losses[1]) / (2 * change)
        if abs(ratio - 1) > 0.02:
            wrong.append(f"{stage}: {ratio:.3f} of the gradient's norm {length:.2e}")
    group.load_parameters(start)
    assert wrong == []
    output = learner.network(learner_input(low)).asnumpy()
    assert loss == pytest.approx(expected_loss(output, high), rel=1e-5)
    assert error == pytest.approx(((output - high) ** 2).mean(), rel=1e-5)
    return stages


def expected_loss(output: np.ndarray, high: np.ndarray) -> float:
    """Charbonnier's, of the luma error as it is and of the weighted chroma error; and the weighted flicker."""
    error = output.astype(np.float64) - high
    luma = (error @ np.array([0.299, 0.587, 0.114]))[..., None]
    stillness = np.exp(-((127.5 * np.diff(high.astype(np.float64), axis=1)) ** 2))
    flicker = (stillness * np.diff(error, axis=1) ** 2).mean()
    return float(
        np.sqrt((luma + OPTIONS.chroma_weight * (error - luma)) ** 2 + OPTIONS.epsilon**2).mean()
        + OPTIONS.flicker_weight * flicker
    )


def test_psnr_loss_is_that_of_each_sample_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    output, high = rng.random((2, 3, 2, 8, 8, 3), np.float32)
    output[1] = high[1] + 0.01 * output[1]  # far better than the others
    loss, gradient = ms.value_and_grad(negative_psnr)(Tensor(output), Tensor(high))
    error = output.astype(np.float64) - high
    squares = (error**2).mean((1, 2, 3, 4), keepdims=True) + (3 / 255) ** 2
    assert float(loss) == pytest.approx(10 * np.log10(squares).mean(), rel=1e-5)
    expected = 10 / np.log(10) / 3 * 2 * error / error[0].size / squares
    np.testing.assert_allclose(gradient.asnumpy(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_psnr_loss_of_frames_between_context() -> None:
    options = replace(OPTIONS, frames=6, context=2, loss="psnr", chroma_weight=1.0, flicker_weight=0.0)
    learner = new_learner(options)
    low, high = batch(3, frames=6)
    loss, error, (flat,) = learner.gradients(low, high, learner.groups)
    output = learner.network(learner_input(low), context=2).asnumpy()
    squares = ((output - high[:, 2:4]).astype(np.float64) ** 2).reshape(2, -1).mean(1)
    assert error == pytest.approx(squares.mean(), rel=1e-5)
    assert loss == pytest.approx(10 * np.log10(squares + (3 / 255) ** 2).mean(), rel=1e-5)
    assert np.isfinite(flat).all()
    assert flat.any()


def learner_input(low: np.ndarray) -> Tensor:
    return Tensor(low)


@pytest.mark.slow
def test_it_learns_one_batch_and_the_moving_average_follows(learner: Learner) -> None:
    low, high = batch(1)
    before = learner.averaged_weights()
    losses = [learner.step(low, high, 3e-3).loss for _ in range(75)]
    assert losses[-1] < 0.5 * losses[0]
    after, name = learner.averaged_weights(), "reconstruction.main.1.weight"
    assert not np.array_equal(before[name], after[name])
    frames = np.clip(255 * low[0], 0, 255).astype(np.uint8)
    with learner.averaged():
        averaged = learner.upscale(frames)
    assert averaged.shape == (3, 32, 32, 3)
    assert not np.array_equal(averaged, learner.upscale(frames))  # the weights are restored
    good = learner.groups[0].value.copy()
    learner.groups[0].load_parameters(np.full_like(good, np.nan))
    with pytest.raises(FloatingPointError):
        learner.upscale(frames)
    learner.groups[0].load_parameters(good)


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_and_counted_until_the_run_ends(learner: Learner) -> None:
    low, high = batch(2)
    bad = high.copy()
    bad[0, 0, 0, 0, 0] = np.nan
    state = {name: array.copy() for name, array in learner.arrays().items()}
    step = learner.counters.step
    for count in (1, 2):
        result = learner.step(low, bad, 1e-3)
        assert result.skipped
        assert learner.counters.skipped == count
    assert learner.counters.step == step + 2
    assert all(np.array_equal(state[name], array) for name, array in learner.arrays().items())
    assert not learner.step(low, high, 1e-3).skipped
    with pytest.raises(RvrtError, match=r"3 of the last 100 steps.*--resume.*--rate"):
        learner.step(low, bad, 1e-3)


def test_optical_flow_is_frozen_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(
        learner: Learner, low: np.ndarray, high: np.ndarray, groups: list[ParameterGroup]
    ) -> tuple[float, float, list[np.ndarray]]:
        return 0.1, 0.01, [np.full(group.size, 1e-3, np.float32) for group in groups]

    monkeypatch.setattr(Learner, "gradients", gradients)  # the real ones take long to compile
    learner = new_learner(replace(WITH_SPYNET, spynet_frozen=1, spynet_rate=0.25))
    low, high = batch()
    rest, flow = learner.groups
    assert all(parameter.name.startswith("spynet.") for parameter in flow.parameters)
    first = flow.value.copy()
    learner.step(low, high, 1e-3)
    assert np.array_equal(first, flow.value)
    assert (rest.updates, flow.updates) == (1, 0)
    before = rest.value.copy()
    learner.step(low, high, 1e-3)
    assert (rest.updates, flow.updates) == (2, 1)
    # Adam's first step changes a weight by its learning rate wherever there is a gradient
    assert np.abs(flow.value - first).max() == pytest.approx(0.25e-3, rel=1e-2)
    assert np.abs(rest.value - before).max() > 0.5e-3


def test_muon_trains_hidden_layers_and_a_run_may_change_its_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def gradients(
        learner: Learner, low: np.ndarray, high: np.ndarray, groups: list[ParameterGroup]
    ) -> tuple[float, float, list[np.ndarray]]:
        return 0.1, 0.01, [rng.standard_normal(group.size).astype(np.float32) for group in groups]

    monkeypatch.setattr(Learner, "gradients", gradients)  # the real ones take long to compile
    learner = new_learner(replace(OPTIONS, optimizer="muon"))
    matrices, _ = learner.groups
    names = {parameter.name for parameter in matrices.parameters}
    assert {"reconstruction.main.1.weight", "feat_extract.fused.weight"} < names
    assert not names & {"conv_last.weight", "feat_extract.main.1.weight"}
    assert not any(name.endswith("bias") or "conv_offset.10" in name for name in names)
    name, bias = "value.reconstruction.main.1.weight", "value.reconstruction.main.1.bias"
    before = {name: array.copy() for name, array in learner.arrays().items()}
    learner.step(*batch(), 1e-3)
    after = learner.arrays()
    assert 1e-4 < np.sqrt(np.mean((after[name] - before[name]) ** 2)) < 3e-4  # about 0.2 of the learning rate
    assert np.abs(after[bias] - before[bias]).max() == pytest.approx(1e-3, rel=1e-2)  # Adam's first step
    resumed = Learner(OPTIONS, DEVICE, Communicator(), after, TrainingCounters(step=1, updates=[1, 1]))
    resumed.step(*batch(), 1e-3)
    assert [group.updates for group in resumed.groups] == [1]
    # Adam's first step: its moments are no one else's
    assert np.abs(resumed.arrays()[name] - after[name]).max() == pytest.approx(1e-3, rel=1e-2)


@dataclass(frozen=True)
class KernelGradients:
    """What the first call of a compiled learner has found, and the learner."""

    learner: Learner
    loss: float
    gradients: list[np.ndarray]  # by group


@pytest.fixture(scope="module")
def with_spynet() -> KernelGradients:
    learner = new_learner(replace(WITH_SPYNET, spynet_frozen=0, spynet_rate=0.25))
    loss, _, gradients = learner.gradients(*batch(), learner.groups)
    return KernelGradients(learner, loss, [gradient.copy() for gradient in gradients])


@pytest.mark.slow
def test_optical_flow_is_trained_at_a_lower_rate(with_spynet: KernelGradients) -> None:
    learner = with_spynet.learner
    rest, flow = learner.groups
    first, before = flow.value.copy(), rest.value.copy()
    learner.step(*batch(), 1e-3)
    assert (rest.updates, flow.updates) == (1, 1)
    # Adam's first step changes a weight by its learning rate wherever there is a gradient
    assert np.abs(flow.value - first).max() == pytest.approx(0.25e-3, rel=1e-2)
    assert np.abs(rest.value - before).max() > 0.5e-3


@pytest.fixture
def _definitions() -> Iterator[None]:
    """The definitions in place of the kernels, as GPUs and NPUs run them, here on the CPU."""
    ops.use_kernels(False)
    yield
    ops.use_kernels()


@pytest.mark.slow
@pytest.mark.usefixtures("_definitions")
def test_gradients_without_kernels_equal_those_with_kernels(
    with_spynet: KernelGradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncompiled, which takes a fifth of the time; the soak test and test_kernels_glue compile definitions."""
    monkeypatch.setenv("MS_JIT", "0")
    check_definitions(WITH_SPYNET, with_spynet.loss, with_spynet.gradients)


@pytest.mark.slow
@pytest.mark.soak
def test_gradients_of_four_branches_without_kernels_equal_those_with_kernels() -> None:
    learner = new_learner(FOUR_BRANCHES)
    loss, _, expected = learner.gradients(*batch(), learner.groups)
    ops.use_kernels(False)
    try:
        check_definitions(FOUR_BRANCHES, loss, expected)
    finally:
        ops.use_kernels()


def check_definitions(options: TrainOptions, expected_loss: float, expected_gradients: list[np.ndarray]) -> None:
    """Compare loss and gradients of the definitions, which must be in use, with those of the kernels."""
    learner = new_learner(options)
    loss, _, gradients = learner.gradients(*batch(), learner.groups)
    assert not ops.kernels_active()
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for group, got, expected in zip(learner.groups, gradients, expected_gradients, strict=True):
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < 2e-5, f"{error:.1e} of the gradient, in the group of {group.parameters[0].name}"


@pytest.mark.slow
@pytest.mark.usefixtures("_definitions")
@pytest.mark.parametrize(
    "options", [UNGUIDED, pytest.param(WITHOUT_SPYNET, marks=pytest.mark.soak)], ids=["without flow", "with flow"]
)
def test_float16_learns_with_a_scaled_loss(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as on an accelerator, where it is untested; too high an initial scale only costs some skipped steps."""
    with monkeypatch.context() as uncompiled:
        uncompiled.setenv("MS_JIT", "0")
        float32 = new_learner(options)
        loss, _, gradients = float32.gradients(*batch(), float32.groups)
    learner = new_learner(options, Device("cpu", "float16"))
    low, high = batch()
    results = [learner.step(low, high, 2e-4) for _ in range(16)]
    taken = [result for result in results if not result.skipped]
    assert learner.counters.loss_scale == INITIAL_LOSS_SCALE / 2 ** (len(results) - len(taken))
    assert len(taken) >= 12, "the loss scale does not settle"
    assert taken[0].loss == pytest.approx(loss, rel=1e-3)
    assert taken[0].norm == pytest.approx(np.linalg.norm(np.concatenate(gradients)), rel=0.02)
    assert taken[-1].loss < 0.95 * taken[0].loss
    assert all(array.dtype == np.float32 for array in learner.arrays().values()), "the master weights stay float32"


def test_the_loss_scale_follows_overflows() -> None:
    counters = TrainingCounters(loss_scale=INITIAL_LOSS_SCALE)
    for _ in range(3):
        counters.count_step(skipped=True, scaled=True, max_skipped=2)
    assert (counters.loss_scale, counters.skipped) == (INITIAL_LOSS_SCALE / 8, 0)
    for _ in range(LOSS_SCALE_INTERVAL):
        counters.count_step(skipped=False, scaled=True, max_skipped=2)
    assert counters.loss_scale == INITIAL_LOSS_SCALE / 4
    counters = TrainingCounters(loss_scale=1.0)
    for _ in range(2):
        counters.count_step(skipped=True, scaled=True, max_skipped=2)
    with pytest.raises(RvrtError):
        counters.count_step(skipped=True, scaled=True, max_skipped=2)


def test_skipped_steps_expire_after_a_hundred() -> None:
    counters = TrainingCounters()
    for step in range(1000):
        counters.count_step(skipped=step % 50 == 0, scaled=False, max_skipped=2)
    assert counters.skipped == 20
