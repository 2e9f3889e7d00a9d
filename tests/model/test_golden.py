# SPDX-License-Identifier: Apache-2.0
"""The network against outputs of the published code (tests/golden/README.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden.named_weights import named_array
from helpers.comparison import assert_within

from rvrt_cli.device import use_device
from rvrt_cli.model.config import PRESETS

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = np.load(GOLDEN / "rvrt.npz")
WHOLE, STAGE, FLOW = 2e-4, 2e-5, 1e-3  # largest error of a whole network, of one stage, of a flow [px]


def network(name: str) -> object:
    """The network at the width of the golden vectors, with the weights that their names give."""
    use_device("cpu")
    from rvrt_cli.model import RVRT

    cell = RVRT(replace(PRESETS[name], widths=(36, 36, 36)))
    cell.load({p.name: named_array(p.name, tuple(p.shape)) for p in cell.get_parameters()})
    return cell


@pytest.fixture
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run stages operation by operation: this shape occurs once, and test_model compares them with compiled ones."""
    monkeypatch.setenv("MS_JIT", "0")


@pytest.fixture(scope="module")
def light() -> object:
    return network("rvrt-light")


@pytest.fixture(scope="module")
def rvrt() -> object:
    """The published structure, on the kernels if they are there; test_kernels_glue compares them with the definitions."""
    return network("rvrt")


def channels_last(x: np.ndarray) -> np.ndarray:
    """The golden vectors' (N, T, C, H, W) → (N, T, H, W, C), as the network takes it."""
    return np.ascontiguousarray(np.moveaxis(x, 2, -1))


def run(cell: object, x: np.ndarray, **options: bool) -> np.ndarray:
    import mindspore as ms

    output = cell(ms.Tensor(channels_last(x)), **options).asnumpy()
    return output[..., ::5, ::5, :].transpose(0, 1, 4, 2, 3)  # the golden vectors hold every fifth row and column


def test_published_parameters(rvrt: object) -> None:
    import json

    from rvrt_cli.model import parameter_shapes

    published = json.loads((GOLDEN / "checkpoint_parameters.json").read_text())
    wanted = {
        name: tuple(shape)
        for name, shape in published.items()
        if not name.endswith(("relative_position_index", "spynet.mean", "spynet.std"))
    }
    ours = parameter_shapes(PRESETS["rvrt"])
    assert ours == wanted
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 10_782_295


@pytest.mark.slow
def test_whole_network(rvrt: object) -> None:
    assert_within(run(rvrt, VECTORS["x"]), VECTORS["y"], WHOLE)


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_batch_and_sides_that_no_window_divides(rvrt: object) -> None:
    assert_within(run(rvrt, VECTORS["x_4x35x41"]), VECTORS["y_4x35x41"], WHOLE)


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_mirrored_is_a_property_of_a_call(rvrt: object) -> None:
    mirrored = run(rvrt, VECTORS["x_mirror"], mirrored=True)
    assert_within(mirrored, VECTORS["y_mirror"], WHOLE)
    assert_within(run(rvrt, VECTORS["x_mirror"]), VECTORS["y_mirror"], WHOLE)
    assert_within(run(rvrt, VECTORS["x_4x35x41"]), VECTORS["y_4x35x41"], WHOLE)  # the call before left nothing behind


@pytest.mark.slow
def test_flows_and_stages(rvrt: object) -> None:
    import mindspore as ms

    from rvrt_cli.model.alignment import compose_flows
    from rvrt_cli.ops import reverse_time

    def nchw(tensor: ms.Tensor) -> np.ndarray:
        return tensor.asnumpy().transpose(0, 1, 4, 2, 3)

    clips = rvrt._clips(ms.Tensor(channels_last(VECTORS["x"])))
    flows = rvrt._estimate_flows(clips, None, False)
    in_time_order = [reverse_time(clip) for clip in flows.backward]
    for name, ours in (("forward", flows.forward), ("backward", in_time_order)):
        joined = np.concatenate([nchw(clip) for clip in ours], 1)[:, 1:]  # the first frame has none before it
        assert_within(joined, VECTORS[f"flows_{name}"], FLOW)
    assert_within(nchw(rvrt.extract(clips[0])), VECTORS["shallow"], STAGE)

    # The first two clips of branch backward_1, in its order of time: from golden inputs to golden outputs
    shallow = [rvrt.extract(clip) for clip in clips]
    last, before = reverse_time(shallow[2]), reverse_time(shallow[1])
    body = rvrt.branches[0](ms.ops.zeros_like(last), last)
    assert_within(nchw(body), VECTORS["backbone/backward_1"], STAGE)
    aligned, updated = rvrt.align[0](before, last, body, compose_flows(flows.backward_to(1), 2))
    assert_within(nchw(aligned), VECTORS["deform_align/backward_1/0"], STAGE)
    for field in (0, 1):
        ours = updated.asnumpy()[:, :, field].transpose(0, 1, 4, 2, 3)
        assert_within(ours, VECTORS[f"deform_align/backward_1/{field + 1}"], FLOW)


@pytest.mark.slow
def test_light(light: object) -> None:
    assert_within(run(light, VECTORS["x_light"]), VECTORS["y_light"], WHOLE)


@pytest.mark.slow
def test_state_continues_the_clip_and_the_network_keeps_nothing(light: object) -> None:
    import mindspore as ms

    x = channels_last(VECTORS["x"])
    one, two = x[:, :, :16, :24].copy(), x[:, ::-1, 16:32, 24:48].copy()
    whole = {0: light(ms.Tensor(one)).asnumpy(), 1: light(ms.Tensor(two)).asnumpy()}
    states = {0: None, 1: None}
    for start in (0, 2, 4):  # two videos in turn, each with its whole future as lookahead
        for video, frames in enumerate((one, two)):
            output, states[video] = light.stream(ms.Tensor(frames[:, start:].copy()), states[video], 2)
            np.testing.assert_allclose(output.asnumpy(), whole[video][:, start : start + 2], atol=1e-5)
    alone = light(ms.Tensor(one[:, 2:].copy())).asnumpy()
    assert np.abs(alone[:, :2] - whole[0][:, 2:4]).max() > 1e-3  # without the state it would differ


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 9, 13), (3, 8, 40), (5, 17, 8)])
def test_any_length_and_size(frames: int, height: int, width: int) -> None:
    use_device("cpu")
    import mindspore as ms

    from rvrt_cli.model import RVRT, initial_weights

    for preset in ("rvrt-tiny", "rvrt") if frames == 1 else ("rvrt-tiny",):
        cell = RVRT(PRESETS[preset])
        cell.load(initial_weights(PRESETS[preset]))
        x = np.random.default_rng(frames).random((1, frames, height, width, 3), dtype=np.float32)
        y = cell(ms.Tensor(x)).asnumpy()
        assert y.shape == (1, frames, 4 * height, 4 * width, 3)
        # nearly bilinear: the mean of a pixel's four central output pixels stays near the input
        middle = sum(y[:, :, row::4, column::4] for row in (1, 2) for column in (1, 2)) / 4
        inner = np.abs(middle - x)[:, :, 1:-1, 1:-1]
        assert np.isfinite(y).all()
        assert inner.mean() < 0.2
