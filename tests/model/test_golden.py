# SPDX-License-Identifier: Apache-2.0
"""The network against outputs of the published code (tests/golden/README.md)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from golden.named_weights import named_array
from helpers.comparison import assert_equals_levels, assert_within

from rvrt_cli.device import use_device
from rvrt_cli.model.config import PRESETS

if TYPE_CHECKING:
    from rvrt_cli.model import Network

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = np.load(GOLDEN / "rvrt.npz")
RESTORE = np.load(GOLDEN / "restore.npz")
WHOLE, STAGE, FLOW = 2e-4, 2e-5, 1e-3  # largest error of a whole network, of one stage, of a flow [px]
RESTORATION_WIDTHS = {"deblur": 36, "denoise": 48}  # of the golden vectors


def network(name: str, width: int = 36) -> object:
    """The network at the width of the golden vectors, with the weights that their names give."""
    use_device("cpu")
    from rvrt_cli.model import RVRT

    cell = RVRT(replace(PRESETS[name], widths=(width,) * 3))
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
    return thinned(output, 5)


def thinned(x: np.ndarray, step: int) -> np.ndarray:
    """(N, T, H, W, C) as the golden vectors hold it: every `step`th row and column of (N, T, C, H, W)."""
    return x[..., ::step, ::step, :].transpose(0, 1, 4, 2, 3)


def assert_is_whole(ours: np.ndarray, vectors: np.lib.npyio.NpzFile, name: str) -> None:
    """The output of a whole network is that of the vectors."""
    assert_equals_levels(ours, vectors, name, WHOLE)


def test_published_parameters(rvrt: object) -> None:
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
    assert_is_whole(run(rvrt, VECTORS["x"]), VECTORS, "y")


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_batch_and_sides_that_no_window_divides(rvrt: object) -> None:
    assert_is_whole(run(rvrt, VECTORS["x_4x35x41"]), VECTORS, "y_4x35x41")


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_mirrored_is_a_property_of_a_call(rvrt: object) -> None:
    mirrored = run(rvrt, VECTORS["x_mirror"], mirrored=True)
    assert_is_whole(mirrored, VECTORS, "y_mirror")
    assert_is_whole(run(rvrt, VECTORS["x_mirror"]), VECTORS, "y_mirror")
    assert_is_whole(run(rvrt, VECTORS["x_4x35x41"]), VECTORS, "y_4x35x41")  # the call before left nothing behind


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
    assert_within(thinned(rvrt.extract(clips[0]).asnumpy(), 3), VECTORS["shallow"], STAGE)

    # The first two clips of branch backward_1, in its order of time: from golden inputs to golden outputs
    shallow = [rvrt.extract(clip) for clip in clips]
    last, before = reverse_time(shallow[2]), reverse_time(shallow[1])
    body = rvrt.branches[0](ms.ops.zeros_like(last), last)
    assert_within(thinned(body.asnumpy(), 3), VECTORS["backbone/backward_1"], STAGE)
    aligned, updated = rvrt.align[0](before, last, body, compose_flows(flows.backward_to(1), 2))
    assert_within(thinned(aligned.asnumpy(), 3), VECTORS["deform_align/backward_1/0"], STAGE)
    for field in (0, 1):
        ours = updated.asnumpy()[:, :, field].transpose(0, 1, 4, 2, 3)
        assert_within(ours, VECTORS[f"deform_align/backward_1/{field + 1}"], FLOW)


@pytest.mark.slow
def test_light(light: object) -> None:
    assert_is_whole(run(light, VECTORS["x_light"]), VECTORS, "y_light")


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


# --- restoration: scale 1


def restoration_frames(task: str) -> np.ndarray:
    """(T, H, W, 3) float32 in [0, 1]."""
    return channels_last(RESTORE[f"{task}/x"])[0].astype(np.float32) / 255


def restoration_noise(task: str) -> float | None:
    """The standard deviation that the vectors were made with."""
    return float(RESTORE[f"{task}/sigma"]) if task == "denoise" else None


@pytest.fixture(scope="module", params=RESTORATION_WIDTHS)
def restoration(request: pytest.FixtureRequest) -> tuple[str, Network]:
    """A task, and its network as the engine calls it."""
    device, task = use_device("cpu"), request.param
    from rvrt_cli.model import Network, parameter_shapes

    config = replace(PRESETS[f"rvrt-{task}"], widths=(RESTORATION_WIDTHS[task],) * 3)
    arrays = {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}
    return task, Network(config, arrays, {"name": task}, device).with_noise(restoration_noise(task))


@pytest.mark.parametrize(("task", "weights"), [("deblur", 13_573_159), ("denoise", 12_786_919)])
def test_published_restoration_parameters(task: str, weights: int) -> None:
    from rvrt_cli.model import parameter_shapes

    constants = ("relative_position_index", "spynet.mean", "spynet.std")
    published = json.loads(bytes(RESTORE[f"{task}/parameters"]))
    wanted = {name: tuple(shape) for name, shape in published.items() if not name.endswith(constants)}
    ours = parameter_shapes(PRESETS[f"rvrt-{task}"])
    assert ours == wanted
    assert sum(math.prod(shape) for shape in ours.values()) == weights


@pytest.mark.slow
def test_restoration_in_one_call(restoration: tuple[str, Network]) -> None:
    task, network = restoration
    output, _ = network(restoration_frames(task)[None], None, 4)
    assert_is_whole(thinned(output, 5), RESTORE, f"{task}/y")


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_restoration_streamed(restoration: tuple[str, Network]) -> None:
    """Two windows, the first with its whole future as lookahead, the second from the state of the first."""
    from rvrt_cli import engine
    from rvrt_cli.frame import Frame

    task, network = restoration
    frames = restoration_frames(task)
    plan = engine.Plan(window=2, lookahead=2, tile=frames.shape[1:3], overlap=64)
    segments = engine.stream(map(Frame, frames, range(4)), network, plan, scenes=False)
    output = np.stack([frame.pixels for segment in segments for frame in segment])
    assert_is_whole(thinned(output[None], 5), RESTORE, f"{task}/y")


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_restoration_in_tiles(restoration: tuple[str, Network]) -> None:
    """Windows and tiles: where no tile is blended into another, each gives what it gives alone and in one call."""
    from rvrt_cli import engine
    from rvrt_cli.frame import Frame

    task, network = restoration
    frames = restoration_frames(task)[:, :40]
    plan = engine.Plan(window=2, lookahead=2, tile=(40, 128), overlap=96)  # from columns 0 and 32, blended at 56 to 104
    segments = engine.stream(map(Frame, frames, range(4)), network, plan, scenes=False)
    tiled = np.stack([frame.pixels for segment in segments for frame in segment])
    left, _ = network(frames[None, :, :, :128], None, 4)
    right, _ = network(frames[None, :, :, 32:], None, 4)
    assert_within(tiled[:, :, :56], left[0, :, :, :56], WHOLE)
    assert_within(tiled[:, :, 104:], right[0, :, :, 72:], WHOLE)


@pytest.mark.slow
def test_reduced_frames_and_shallow_features(restoration: tuple[str, Network]) -> None:
    import mindspore as ms

    from rvrt_cli.model.optical_flow import reduce_colors

    task, network = restoration
    clip = ms.Tensor(network._with_noise_channel(restoration_frames(task)[None])[:, :2])
    small = reduce_colors(clip).asnumpy()
    assert_within(thinned(small, 3), RESTORE[f"{task}/downsampled"][:, :2], STAGE)
    shallow = network.cell.extract(clip).asnumpy()[:, :1]
    assert_within(thinned(shallow, 3), RESTORE[f"{task}/shallow"], STAGE)


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_frames_of_any_size_are_padded_by_reflection(restoration: tuple[str, Network]) -> None:
    task, network = restoration
    frames = restoration_frames(task)[None, :2, :45, :62]
    reflected = np.concatenate([frames, frames[:, :, -2:-5:-1]], 2)
    reflected = np.concatenate([reflected, reflected[:, :, :, -2:-4:-1]], 3)
    output, _ = network(frames, None, 2)
    wanted, _ = network(np.ascontiguousarray(reflected), None, 2)
    assert output.shape == frames.shape
    np.testing.assert_array_equal(output, wanted[:, :, :45, :62])
