"""One training step: gradients against finite differences, learning, skipped steps, averages, frozen optical flow."""

from collections.abc import Iterator

import numpy as np
import pytest
from helpers.train_runs import NETWORK

from rvrt_cli.device import Device, use_device
from rvrt_cli.errors import RvrtError
from rvrt_cli.train.counters import FIRST_SCALE, GROW_AFTER, Counters
from rvrt_cli.train.setup import first_weights
from rvrt_cli.train.train_options import TrainOptions

DEVICE = use_device("cpu")

from rvrt_cli import ops  # noqa: E402  MindSpore, after the device
from rvrt_cli.train.all_reduce import Ranks  # noqa: E402
from rvrt_cli.train.learner import Learner  # noqa: E402

GUIDED = {**NETWORK, "flow_guided": True, "fused_neighbors": 2}
OPTIONS = TrainOptions(network=GUIDED, batch=2, frames=3, crop=32, max_skipped=2, ema=0.9)
FLOW = {"widths": [8, 8, 8], "depths": [1, 1, 1], "heads": [2, 2, 2], "align_heads": 2, "deformable_groups": 4,
        "upsampler_width": 8, "groups": [1, 1, 1]}  # fmt: skip


def new_learner(options: TrainOptions = OPTIONS, device: Device = DEVICE) -> Learner:
    arrays = {f"value.{name}": array for name, array in first_weights(options).items()}
    return Learner(options, device, Ranks(), arrays, Counters())


def batch(seed: int = 0, frames: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A moving edge, (2, T, 3, 8, 8) and (2, T, 3, 32, 32) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    high = np.empty((2, frames, 3, 32, 32), np.float32)
    for n in range(2):
        angle, shift = rng.uniform(0, 3), rng.uniform(-5, 5)
        for t in range(frames):
            edge = (rows - 16) * np.sin(angle) + (columns - 16 - t) * np.cos(angle) - shift
            high[n, t] = rng.uniform(0.3, 1, (3, 1, 1)) / (1 + np.exp(-2 * edge))
    low = high.reshape(2, frames, 3, 8, 4, 8, 4).mean((4, 6))
    return low, high


@pytest.fixture(scope="module")
def learner() -> Learner:
    return new_learner()


def test_gradients_match_finite_differences_in_every_part(learner: Learner) -> None:
    low, high = batch()
    group = learner.groups[0]
    loss, error, (flat,) = learner.gradients(low, high, [group])
    start = group.value.copy()
    parts = np.split(flat, np.cumsum([parameter.size for parameter in group.parameters])[:-1])
    names = [parameter.name for parameter in group.parameters]
    stages = sorted({".".join(name.split(".")[:2]) for name in names})
    assert len(stages) > 10
    wrong, change = [], 5e-7  # of the loss: above the rounding of its mean, and small enough to be linear
    for stage in stages:
        chosen = [part if name.startswith(stage) else 0 * part for name, part in zip(names, parts, strict=True)]
        direction = np.concatenate(chosen)
        length = np.linalg.norm(direction)
        step = change / length**2 * direction
        losses = []
        for sign in (1, -1):
            group.show(start + sign * step)
            output = learner.network(learner_input(low)).asnumpy().astype(np.float64)
            losses.append(np.sqrt((output - high) ** 2 + learner.options.epsilon**2).mean())
        ratio = (losses[0] - losses[1]) / (2 * change)
        if abs(ratio - 1) > 0.02:
            wrong.append(f"{stage}: {ratio:.3f} of the gradient's length {length:.2e}")
    group.show(start)
    assert wrong == []
    output = learner.network(learner_input(low)).asnumpy()
    assert loss == pytest.approx(np.sqrt((output - high) ** 2 + learner.options.epsilon**2).mean(), rel=1e-5)
    assert error == pytest.approx(((output - high) ** 2).mean(), rel=1e-5)


def learner_input(low: np.ndarray):
    import mindspore as ms

    return ms.Tensor(low)


def test_it_learns_one_batch_and_the_average_follows(learner: Learner) -> None:
    low, high = batch(1)
    before = learner.averaged_weights()
    losses = [learner.step(low, high, 3e-3).loss for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    after, name = learner.averaged_weights(), "reconstruction.main.1.weight"
    assert not np.array_equal(before[name], after[name])
    frames = np.clip(255 * low[0].transpose(0, 2, 3, 1), 0, 255).astype(np.uint8)
    with learner.averaged():
        averaged = learner.upscale(frames)
    assert averaged.shape == (3, 32, 32, 3)
    assert not np.array_equal(averaged, learner.upscale(frames))  # the weights themselves are back
    good = learner.groups[0].value.copy()
    learner.groups[0].show(np.full_like(good, np.nan))
    with pytest.raises(FloatingPointError):
        learner.upscale(frames)
    learner.groups[0].show(good)


def test_steps_that_are_not_finite_are_skipped_counted_and_end_the_run(learner: Learner) -> None:
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


def test_optical_flow_begins_to_learn_late_and_slowly() -> None:
    options = TrainOptions(model="rvrt", network=FLOW, batch=2, frames=3, crop=32, spynet_frozen=1, spynet_rate=0.25)
    learner = new_learner(options)
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
    # the first step of Adam is as long as its rate wherever there is a gradient
    assert np.abs(flow.value - first).max() == pytest.approx(0.25e-3, rel=1e-2)
    assert np.abs(rest.value - before).max() > 0.5e-3


@pytest.fixture
def _definitions() -> Iterator[None]:
    """No kernels: what GPUs and NPUs run, here on the CPU."""
    ops.use_kernels(False)
    yield
    ops.use_kernels()


GUIDED_BY_SPYNET = TrainOptions(model="rvrt", network=FLOW, batch=2, frames=3, crop=32, max_skipped=20, ema=0)


@pytest.fixture(scope="module")
def fused_gradients() -> tuple[float, list[np.ndarray]]:
    learner = new_learner(GUIDED_BY_SPYNET)
    loss, _, gradients = learner.gradients(*batch(), learner.groups)
    return loss, gradients


@pytest.mark.usefixtures("_definitions")
def test_without_kernels_the_gradients_are_the_same(fused_gradients) -> None:
    learner = new_learner(GUIDED_BY_SPYNET)
    loss, _, gradients = learner.gradients(*batch(), learner.groups)
    assert not ops.kernels_active()
    assert loss == pytest.approx(fused_gradients[0], rel=1e-6)
    for got, expected in zip(gradients, fused_gradients[1], strict=True):
        assert np.linalg.norm(got - expected) < 2e-5 * np.linalg.norm(expected)


@pytest.mark.usefixtures("_definitions")
def test_float16_learns_with_a_scaled_loss(fused_gradients) -> None:
    """As on an accelerator, where it has not run; a scale that is too high at first costs some steps, and no more."""
    learner = new_learner(GUIDED_BY_SPYNET, Device("cpu", "float16"))
    low, high = batch()
    results = [learner.step(low, high, 1e-4) for _ in range(16)]
    taken = [result for result in results if not result.skipped]
    assert learner.counters.loss_scale == FIRST_SCALE / 2 ** (len(results) - len(taken))
    assert len(taken) >= 8, "the loss scale finds no end"
    assert taken[0].loss == pytest.approx(fused_gradients[0], rel=1e-3)
    assert taken[0].norm == pytest.approx(np.linalg.norm(np.concatenate(fused_gradients[1])), rel=0.02)
    assert taken[-1].loss < 0.95 * taken[0].loss
    assert all(array.dtype == np.float32 for array in learner.arrays().values()), "the weights proper stay float32"


def test_the_loss_scale_follows_overflows() -> None:
    counters = Counters(loss_scale=FIRST_SCALE)
    for _ in range(3):
        counters.count(skipped=True, scaled=True, most=2)
    assert (counters.loss_scale, counters.skipped) == (FIRST_SCALE / 8, 0)
    for _ in range(GROW_AFTER):
        counters.count(skipped=False, scaled=True, most=2)
    assert counters.loss_scale == FIRST_SCALE / 4
    counters = Counters(loss_scale=1.0)
    for _ in range(2):
        counters.count(skipped=True, scaled=True, most=2)
    with pytest.raises(RvrtError):
        counters.count(skipped=True, scaled=True, most=2)


def test_skipped_steps_are_forgotten_after_a_hundred() -> None:
    counters = Counters()
    for step in range(1000):
        counters.count(skipped=step % 50 == 0, scaled=False, most=2)
    assert counters.skipped == 20
