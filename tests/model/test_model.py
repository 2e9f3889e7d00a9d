# SPDX-License-Identifier: Apache-2.0
"""Properties of the network: its sizes, clips of any length and size, calls without side effects, streaming.

test_golden.py compares its outputs with those of the published code.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from golden.named_weights import named_array
from helpers.comparison import assert_within
from helpers.flow_reference import moved_texture
from helpers.small_networks import BARE, GUIDED, KANADE, PLAIN
from mindspore.graph._parse.parser import Parser

from rvrt_cli import ops
from rvrt_cli.errors import WeightsError
from rvrt_cli.model import PRESETS, RVRT, RecurrentState, RVRTConfig, initial_weights, parameter_shapes
from rvrt_cli.model.cost import count_flops
from rvrt_cli.ops.backend import kernels_run_eagerly
from rvrt_cli.ops.lucas_kanade_flow import lucas_kanade

ROUNDING = 2e-5  # float32, sums in another order


def network(config: RVRTConfig) -> RVRT:
    """A network with weights so large that every part matters, and flows of a few pixels."""
    cell = RVRT(config)
    cell.load({name: named_array(name, shape) for name, shape in parameter_shapes(config).items()})
    return cell


@pytest.fixture(scope="session")
def guided() -> RVRT:
    return network(GUIDED)


@pytest.fixture(scope="session")
def plain() -> RVRT:
    return network(PLAIN)


@pytest.fixture(scope="session")
def bare() -> RVRT:
    return network(BARE)


@pytest.fixture(scope="session")
def kanade() -> RVRT:
    return network(KANADE)


@pytest.fixture(params=["guided", "kanade", "plain", "bare"])
def cell(request: pytest.FixtureRequest) -> RVRT:
    return request.getfixturevalue(request.param)


def video(frames: int, height: int, width: int, seed: int = 0, batch: int = 1) -> np.ndarray:
    """(N, T, H, W, 3): a smooth pattern that moves 1 px right and 0.5 px down per frame, for optical flow to find."""
    generator = np.random.default_rng(seed)
    fields = generator.uniform(0.2, 0.9, (batch, 3, 4, 2)), generator.uniform(0, 6, (batch, 3, 4))
    y, x = np.mgrid[:height, :width]
    clip = np.zeros((batch, frames, 3, height, width))
    for t in range(frames):
        phase = fields[0][..., 0, None, None] * (y - 0.5 * t) + fields[0][..., 1, None, None] * (x - t)
        clip[:, t] = np.sin(phase + fields[1][..., None, None]).mean(2)
    return np.ascontiguousarray((0.5 + 0.4 * np.moveaxis(clip, 2, -1)).astype(np.float32))


def run(cell: RVRT, frames: np.ndarray, **options: bool | int) -> np.ndarray:
    return cell(ms.Tensor(frames), **options).asnumpy()


# --- sizes


def test_presets_have_their_published_numbers_of_weights() -> None:
    counts = {name: sum(map(math.prod, parameter_shapes(config).values())) for name, config in PRESETS.items()}
    assert counts["rvrt"] == 10_782_295
    assert 0.3e6 < counts["rvrt-tiny"] < 0.5e6
    spynet = {name: shape for name, shape in parameter_shapes(PRESETS["rvrt"]).items() if "spynet" in name}
    assert sum(map(math.prod, spynet.values())) == 6 * 240_050  # six levels of five 7x7 convolutions
    assert not any("spynet" in name for name in parameter_shapes(PRESETS["rvrt-tiny"]))
    assert not any("spynet" in name or "offset" in name for name in parameter_shapes(PRESETS["rvrt-light"]))


def test_configuration_files_of_version_0_1_are_read() -> None:
    """They use British spelling."""
    old = PLAIN.to_dict() | {"alignment": "neighbourhood"}
    old["fused_neighbours"] = old.pop("fused_neighbors")
    assert RVRTConfig.from_dict(old) == PLAIN == RVRTConfig.from_dict(PLAIN.to_dict())
    tiny = PRESETS["rvrt-tiny"].to_dict()
    tiny["fused_neighbours"] = tiny.pop("fused_neighbors")
    assert RVRTConfig.from_dict(tiny) == PRESETS["rvrt-tiny"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bodies": ("attention", "mamba", "attention")}, "bodies .*mamba.*; known: attention, convolution"),
        ({"scale": 2}, "scale 2; known: 4, and 1 for restoration"),
        ({"scale": True}, "scale True; known"),
        ({"noise_input": True}, "noise_input is for networks of scale 1"),
        ({"widths": (144, 144, 72)}, r"widths \(144, 144, 72\) must be equal"),
        ({"heads": (6, 5, 6)}, r"widths \(144, 144, 144\) are not divisible by heads \(6, 5, 6\)"),
        ({"conv_groups": (1, 5, 1, 1, 1, 1)}, r"conv_groups \(1, 5, 1, 1, 1, 1\) do not divide the channels"),
        ({"align_heads": 7}, "the heads or kernel of the alignment do not fit its width"),
        ({"align_kernel": 4}, "the heads or kernel of the alignment do not fit its width"),
        ({"deformable_groups": 3}, "the deformable groups do not fit the width and heads"),
        ({"deformable_groups": 10}, "the deformable groups do not fit the width and heads"),
        ({"deformable_groups": 16}, "the deformable groups do not fit the width and heads"),
        ({"alignment": "optical"}, "alignment 'optical'; known: deformable, neighborhood"),
        ({"flow_estimator": "raft"}, "flow_estimator 'raft'; known"),
        ({"carry": 0}, "carry 0 is not above 0 and at most 1"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=f"^network configuration: {message}"):
        RVRTConfig.from_dict({**PRESETS["rvrt"].to_dict(), **changes})


def test_tiny_costs_at_most_one_and_a_half_megaflops_per_pixel() -> None:
    frames, edge = 2000, 32  # of a long sequence
    assert 0.5e6 < count_flops(PRESETS["rvrt-tiny"], frames, edge, edge).total / (frames * edge**2) <= 1.5e6


@pytest.mark.slow
def test_an_initial_network_upscales_almost_bilinearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_JIT", "0")  # a size of its own: not worth compiling
    config = PRESETS["rvrt-tiny"]
    cell = RVRT(config)
    cell.load(initial_weights(config))
    frames = video(2, 12, 16)
    at = [np.clip((np.arange(4 * n) + 0.5) / 4 - 0.5, 0, n - 1) for n in (12, 16)]
    rows, columns = (np.maximum(0, 1 - np.abs(a[:, None] - np.arange(n))) for a, n in zip(at, (12, 16), strict=True))
    bilinear = np.einsum("ih,nthwc,jw->ntijc", rows, frames, columns)
    added = np.abs(run(cell, frames) - bilinear)
    assert 1e-5 < added.max() < 0.05, f"adds up to {added.max():.3f}"  # zeros would stall training


# --- optical flow without weights


@pytest.mark.parametrize("motion", [(0.0, 0.0), (0.5, -0.25), (3.0, 1.5), (-6.0, 4.0)])
def test_lucas_kanade_finds_the_motion_of_a_scene(motion: tuple[float, float]) -> None:
    height, width, noise = 45, 61, np.random.default_rng(5)
    waves = noise.uniform(-0.9, 0.9, (24, 2)), noise.uniform(0, 6, 24), noise.uniform(0.02, 0.06, 24)

    def scene(x: float, y: float) -> np.ndarray:
        """A pattern without a period, seen from a camera at (x, y) px."""
        rows, columns = np.mgrid[:height, :width]
        phases = [(columns + x) * fx + (rows + y) * fy + at for (fx, fy), at in zip(waves[0], waves[1], strict=True)]
        gray = 0.5 + sum(size * np.sin(phase) for size, phase in zip(waves[2], phases, strict=True))
        return np.repeat(gray[None, ..., None], 3, -1).astype(np.float32)

    flow = ops.lucas_kanade(ms.Tensor(scene(*motion)), ms.Tensor(scene(0, 0)))[0].asnumpy()[0]
    error = np.hypot(*(flow - motion).transpose(2, 0, 1))[8:-8, 8:-8]
    assert np.median(error) < 0.1, f"median {np.median(error):.3f} px, worst {error.max():.2f}"
    assert np.mean(error < 0.25) > 0.9


@pytest.mark.slow
def test_the_definition_of_lucas_kanade_compiles() -> None:
    """As it does on an NPU, where there is no kernel."""
    views = [ms.Tensor(view) for view in moved_texture(1, 16, 24)]
    for compiled, plain in zip(ms.jit(lucas_kanade)(*views), lucas_kanade(*views), strict=True):
        assert_within(compiled.asnumpy(), plain.asnumpy(), 1e-4)


def test_lucas_kanade_sees_no_motion_in_flat_frames() -> None:
    flat = ms.Tensor(np.full((1, 16, 24, 3), 0.4, np.float32))
    flow, match = (found.asnumpy() for found in ops.lucas_kanade(flat, flat + 0.1))
    assert not flow.any()
    assert (match == 1).all()
    noise = np.random.default_rng(1).uniform(0, 1, (2, 16, 24, 3)).astype(np.float32)
    flow, match = (found.asnumpy() for found in ops.lucas_kanade(ms.Tensor(noise[:1]), ms.Tensor(noise[1:])))
    assert np.isfinite(flow).all()
    assert np.abs(flow).max() < 40
    assert np.median(match) < 0.5


@pytest.mark.slow
def test_neighbors_across_a_window_border_are_those_of_the_whole_clip(kanade: RVRT) -> None:
    frames = ms.Tensor(video(8, 9, 13))
    clips = kanade._clips(frames)
    whole = kanade._fuse_neighbors(clips, None)
    _, state = kanade.stream(frames[:, :6], None, 4)
    window = kanade._fuse_neighbors(clips[2:], state)
    assert np.abs(whole[2].asnumpy()).max() > 0.01
    for found, expected in zip(window, whole[2:], strict=True):
        assert_within(found.asnumpy(), expected.asnumpy(), ROUNDING)
    for c in range(3):  # the other clips are past the window's end
        [*_, last] = kanade._fuse_neighbors(clips[: c + 1], None, clips[c + 1 :])
        assert_within(last.asnumpy(), whole[c].asnumpy(), ROUNDING)


# --- any clip


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 9, 13), (3, 9, 13), (4, 33, 40), (5, 9, 13)])
def test_any_length_and_size(cell: RVRT, frames: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if (height, width) != (9, 13):
        monkeypatch.setenv("MS_JIT", "0")  # a size of its own: not worth compiling
    output = run(cell, video(frames, height, width))
    assert output.shape == (1, frames, 4 * height, 4 * width, 3)
    assert np.isfinite(output).all()


@pytest.mark.slow
def test_compiled_stages_equal_uncompiled_ones(cell: RVRT, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = video(3, 9, 13)
    with ops.compiled_at_once():
        compiled = run(cell, clip)
    monkeypatch.setenv("MS_JIT", "0")
    assert_within(compiled, run(cell, clip), ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GUIDED, PLAIN, BARE, KANADE], ids=["guided", "plain", "bare", "kanade"])
def test_kernels_called_eagerly_give_the_same_bits_as_compiled(config: RVRTConfig) -> None:
    """A stage is compiled in the middle of a video, and a resumed run may do so elsewhere."""
    if not kernels_run_eagerly():
        pytest.skip("no kernels, or not on the CPU")
    clip = video(4, 9, 13)
    eager = run(network(config), clip)
    with ops.compiled_at_once():
        compiled = run(network(config), clip)
    np.testing.assert_array_equal(compiled, eager)


@pytest.mark.slow
def test_windows_of_any_length_need_the_same_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first window has no state, the last one may have fewer frames, or an odd number."""
    compilations = []
    parse = Parser.parse
    monkeypatch.setattr(Parser, "parse", lambda parser: compilations.append(parser.fn) or parse(parser))
    frames = ms.Tensor(video(8, 16, 10))  # a size of its own
    cell = network(KANADE)
    with ops.compiled_at_once():
        _, state = cell.stream(frames, None, 4)
        assert compilations, "the first window compiles them"
        compilations.clear()
        for length, emit in ((8, 4), (6, 4), (2, 2), (3, 3), (1, 1)):
            cell.stream(frames[:, :length], state, emit)
    assert not compilations


@pytest.mark.slow
def test_batch_items_do_not_affect_each_other(cell: RVRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_JIT", "0")
    pair = np.concatenate([video(3, 9, 13, seed=1), video(3, 9, 13, seed=2)])
    output = run(cell, pair)
    for item in range(2):
        assert_within(output[item : item + 1], run(cell, pair[item : item + 1]), ROUNDING)


@pytest.mark.slow
def test_flows_of_the_test_network_are_of_realistic_size(guided: RVRT) -> None:
    """Flows that lead far outside the frame would make every test of the guided network pass."""
    flows = guided._estimate_flows(guided._clips(ms.Tensor(video(4, 9, 13))), None, False)
    largest = max(np.abs(flow.asnumpy()).max() for flow in [*flows.forward, *flows.backward])
    assert 0.3 < largest < 9, f"{largest:.2g} px"


# --- a call changes nothing


@pytest.mark.slow
def test_calls_leave_the_network_as_it_was(cell: RVRT, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = video(4, 9, 13)
    before = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}
    attributes = dict(vars(cell))
    first = run(cell, frames)
    with monkeypatch.context() as uncompiled:
        uncompiled.setenv("MS_JIT", "0")  # a size of its own
        run(cell, video(2, 8, 8, seed=5))
    np.testing.assert_array_equal(run(cell, frames), first)
    for parameter in cell.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name], err_msg=parameter.name)
    assert {name for name, value in vars(cell).items() if value is not attributes.get(name)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_frames_between_context_come_out_as_in_the_whole_sequence(cell: RVRT, training: bool) -> None:
    frames = video(8, 9, 13)
    cell.set_train(training)
    try:
        between, whole = run(cell, frames, context=2), run(cell, frames)
    finally:
        cell.set_train(False)
    assert_within(between, whole[:, 2:-2], ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["kanade", "plain", "bare"]
)  # others estimate flow with weights, from frames of the context
def test_context_has_no_gradient(request: pytest.FixtureRequest, name: str) -> None:
    cell = request.getfixturevalue(name)
    frames = ms.Tensor(video(8, 9, 13))
    cell.set_train()
    try:
        gradient = ms.grad(lambda video: cell(video, context=2).sum())(frames).asnumpy()
        whole = ms.grad(lambda video: cell(video)[:, 2:-2].sum())(frames).asnumpy()
    finally:
        cell.set_train(False)
    seen = np.abs(gradient).max((0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(seen, [False] * 2 + [True] * 4 + [False] * 2)
    assert np.abs(whole).max((0, 2, 3, 4)).min() > 0


@pytest.mark.slow
def test_mirrored_belongs_to_one_call(guided: RVRT) -> None:
    half = video(2, 9, 13)
    mirrored = np.concatenate([half, half[:, ::-1]], 1)
    other = video(4, 9, 13, seed=3)
    expected = run(guided, other)
    assert_within(run(guided, mirrored, mirrored=True), run(guided, mirrored), ROUNDING)
    np.testing.assert_array_equal(run(guided, other), expected)
    # the option does something: on a clip that is not mirrored it takes the wrong flow
    assert np.abs(run(guided, other, mirrored=True) - expected).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "mirrored"), [(5, False), (4, True)])
def test_training_takes_a_sequence_at_once_with_the_same_result(cell: RVRT, frames: int, mirrored: bool) -> None:
    low = video(frames, 9, 13, batch=2)
    expected = run(cell, low, mirrored=mirrored)
    cell.set_train()
    try:
        assert_within(run(cell, low, mirrored=mirrored), expected, ROUNDING)
    finally:
        cell.set_train(False)


@pytest.mark.slow
@pytest.mark.parametrize("silent", KANADE.branches)
def test_a_lead_in_of_a_still_video_is_more_of_it(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips of lead-in equal two more at either end, for a branch that reads no other and no fused neighbors."""
    monkeypatch.setenv("MS_JIT", "0")
    without, with_lead_in = (network(replace(KANADE, fused_neighbors=0, lead_in=count)) for count in (0, 2))
    for cell in (without, with_lead_in):
        cell.load({p.name: p.asnumpy() * (silent not in p.name) for p in cell.get_parameters()})
    still = np.repeat(video(1, 9, 13), 12, 1)
    expected = run(without, still)
    assert_within(run(with_lead_in, still[:, :4]), expected[:, 4:8], ROUNDING)
    assert np.abs(run(without, still[:, :4]) - expected[:, 4:8]).max() > 1e-3


def test_a_lead_in_costs_its_clips_in_the_branches() -> None:
    def added(clips: int, frames: int) -> float:
        configs = [replace(KANADE, lead_in=count) for count in (clips, 0)]
        with_lead_in, without = (count_flops(config, frames, 16, 24).total for config in configs)
        return with_lead_in - without

    assert added(2, 4) == pytest.approx(2 * added(1, 4)) == pytest.approx(added(2, 12))
    assert 0 < added(1, 4) < count_flops(replace(KANADE, lead_in=0), 2, 16, 24).total


# --- streaming


def stream(
    cell: RVRT, frames: np.ndarray, window: int, lookahead: int, forget: bool = False, fusion_lookahead: int = 0
) -> np.ndarray:
    """Upscale in windows of `window` frames, each with `lookahead` more, and more that frame fusion alone sees."""
    outputs, state = [], None
    for start in range(0, frames.shape[1], window):
        part = frames[:, start : start + window + lookahead + fusion_lookahead]
        emit, beyond = min(window, part.shape[1]), max(0, part.shape[1] - window - lookahead)
        given = None if forget else state
        output, state = cell.stream(ms.Tensor(part.copy()), given, emit, fusion_lookahead=beyond)
        outputs.append(output.asnumpy())
    return np.concatenate(outputs, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "window"), [(6, 2), (6, 4), (5, 2)])
def test_streaming_with_the_whole_future_as_lookahead_equals_the_whole_clip(
    cell: RVRT, frames: int, window: int
) -> None:
    clip = video(frames, 9, 13)
    assert_within(stream(cell, clip, window, frames), run(cell, clip), ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "lookahead"), [(12, 0), (11, 2)])
def test_fusion_in_windows_equals_that_of_the_whole_clip(
    frames: int, lookahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With branches that add nothing, a frame depends on its neighbors by fusion alone, whatever the window."""
    monkeypatch.setenv("MS_JIT", "0")
    cell, config = network(KANADE), KANADE
    silent = {
        p.name: p.asnumpy() * (not any(name in p.name for name in config.branches)) for p in cell.get_parameters()
    }
    cell.load(silent)
    beyond = config.fusion_lookahead(lookahead)
    assert beyond == 4 - lookahead  # three neighbors, in whole clips
    clip = video(frames, 9, 13)
    whole = run(cell, clip)
    assert_within(stream(cell, clip, 4, lookahead, fusion_lookahead=beyond), whole, ROUNDING)
    assert np.abs(stream(cell, clip, 4, lookahead) - whole).max() > 1e-3


@pytest.mark.slow
def test_the_recurrence_does_not_see_what_is_for_fusion(bare: RVRT) -> None:
    """A network without fusion: the same output and state, to the bit, whatever the frames past the lookahead."""
    clip = video(8, 9, 13)
    output, state = bare.stream(ms.Tensor(clip[:, :6].copy()), None, 4)
    for fusion_lookahead in (1, 2):
        given = ms.Tensor(clip[:, : 6 + fusion_lookahead].copy())
        found, after = bare.stream(given, None, 4, fusion_lookahead=fusion_lookahead)
        np.testing.assert_array_equal(found.asnumpy(), output.asnumpy())
        np.testing.assert_array_equal(after.frames.asnumpy(), state.frames.asnumpy())
        for branch, features in state.features.items():
            np.testing.assert_array_equal(after.features[branch].asnumpy(), features.asnumpy(), err_msg=branch)


@pytest.mark.parametrize("name", ["rvrt", "rvrt-light", "rvrt-deblur", "rvrt-denoise"])
def test_published_networks_need_no_frames_past_the_lookahead(name: str) -> None:
    assert PRESETS[name].fusion_lookahead(2) == 0


@pytest.mark.slow
def test_the_state_carries_the_past(cell: RVRT) -> None:
    clip = video(6, 9, 13)
    whole = run(cell, clip)
    forgetful = stream(cell, clip, 2, 6, forget=True)
    np.testing.assert_allclose(forgetful[:, :2], whole[:, :2], atol=ROUNDING)
    assert np.abs(forgetful[:, 2:] - whole[:, 2:]).max() > 1e-4


@pytest.mark.slow
def test_two_videos_in_turn_do_not_mix(cell: RVRT) -> None:
    clips = [video(4, 9, 13, seed=seed) for seed in (7, 8)]
    alone = [stream(cell, clip, 2, 2) for clip in clips]
    states: list[RecurrentState | None] = [None, None]
    for start in (0, 2):
        for i, clip in enumerate(clips):
            output, states[i] = cell.stream(ms.Tensor(clip[:, start : start + 4].copy()), states[i], 2)
            np.testing.assert_array_equal(output.asnumpy(), alone[i][:, start : start + 2])


@pytest.mark.slow
def test_a_state_is_not_modified(cell: RVRT) -> None:
    clip = video(4, 9, 13)
    _, state = cell.stream(ms.Tensor(clip[:, :2].copy()), None, 2)
    held = {"frames": state.frames, **state.features}
    before = {name: tensor.asnumpy().copy() for name, tensor in held.items()}
    once = cell.stream(ms.Tensor(clip[:, 2:].copy()), state, 2)[0].asnumpy()
    twice = cell.stream(ms.Tensor(clip[:, 2:].copy()), state, 2)[0].asnumpy()
    np.testing.assert_array_equal(once, twice)
    for name, tensor in held.items():
        np.testing.assert_array_equal(tensor.asnumpy(), before[name], err_msg=name)


@pytest.mark.slow
def test_memory_does_not_grow_with_eager_calls() -> None:
    """In a process of its own, whose heap no other test has filled."""
    code = """
import numpy as np, psutil
from rvrt_cli.device import use_device
use_device("cpu")
from rvrt_cli.model import PRESETS, Network, initial_weights
from rvrt_cli.ops import compilation
compilation._patience.set(float("inf"))
network = Network(PRESETS["rvrt-tiny"], initial_weights(PRESETS["rvrt-tiny"]), {"name": "tiny"}, use_device("cpu"))
frames = np.random.default_rng(0).random((1, 8, 72, 80, 3), np.float32)
for _ in range(6):
    network(frames, None, 8)
    print(psutil.Process().memory_info().rss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = [int(line) for line in done.stdout.split()]
    assert len(after) == 6
    assert after[-1] < after[1] + 50e6, after
