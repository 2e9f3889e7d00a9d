# SPDX-License-Identifier: Apache-2.0
"""Exported networks in the real ONNX Runtime: against MindSpore over several windows, and against the golden vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.comparison import assert_equals_levels, assert_within
from helpers.exported_networks import CARD, NETWORKS, WHOLE, moving_pattern, weights_of, write_export
from helpers.small_networks import BARE

from rvrt_cli.device import use_device
from rvrt_cli.engine.windows import cut_windows
from rvrt_cli.export.export_network import export_network
from rvrt_cli.export.export_options import ExportOptions
from rvrt_cli.frame import Frame
from rvrt_cli.model import PRESETS, RVRTConfig
from rvrt_cli.model.outline import FRAMES_STATE
from rvrt_cli.runtime import OnnxNetwork

GOLDEN = Path(__file__).parents[1] / "golden" / "rvrt.npz"


def export(path: Path, config: RVRTConfig, frames: int, lookahead: int, **options: object) -> OnnxNetwork:
    write_export(path, config, frames, lookahead, **options)
    return OnnxNetwork(path, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames"), [*((name, 13) for name in NETWORKS), ("kanade", 15), ("kanade", 16)])
def test_windows_with_state_equal_mindspore(
    name: str, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 4 + 2 frames and, with frame fusion, 2 more; a scene ends within the lookahead, or within those.

    The sizes of frames are left open in one model and fixed in the other.
    """
    monkeypatch.setenv("MS_JIT", "0")  # sizes of their own: not worth compiling
    config = NETWORKS[name]
    models = {
        kind: export(tmp_path / f"{kind}.onnx", config, 4, 2, size=size)
        for kind, size in (("dynamic", None), ("fixed", (20, 26)))
    }
    from rvrt_cli.model import Network

    reference = Network(config, weights_of(config), CARD, use_device("cpu"))
    clip, wanted, states = moving_pattern(frames, 20, 26), None, dict.fromkeys(models)
    beyond = reference.fusion_lookahead(2)
    assert all(exported.fusion_lookahead(2) == beyond for exported in models.values())
    assert beyond == (2 if name == "kanade" else 0)
    for window in cut_windows(((Frame(pixels, 0), False) for pixels in clip[0]), 4, 2, beyond):
        given = np.stack([frame.pixels for frame in window.frames])[None]
        more = {"fusion_lookahead": window.fusion_lookahead}
        expected, wanted = reference(given, wanted, window.emit, **more)
        for kind, exported in models.items():
            output, state = exported(given, states[kind], window.emit, **more)
            assert_within(output, expected, WHOLE, f"{kind}, frames {window.first} to {window.first + window.emit}")
            states[kind] = state
            if not window.ends_scene:  # the state is the next window's
                np.testing.assert_array_equal(state[FRAMES_STATE], wanted[FRAMES_STATE])
                assert set(state) == set(wanted)


@pytest.mark.slow
def test_noisy_frames_are_at_most_a_level_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise puts optical flow on the verge of many decisions: none may turn a rounding error into another pixel."""
    monkeypatch.setenv("MS_JIT", "0")
    from rvrt_cli.upscale import load_network

    export_network(tmp_path / "tiny.onnx", ExportOptions(frames=4))
    network, exported = load_network(device="cpu"), OnnxNetwork(tmp_path / "tiny.onnx", "cpu")
    clip = moving_pattern(10, 24, 32)
    noisy = np.clip(clip + np.random.default_rng(3).normal(0, 0.1, clip.shape), 0, 1)
    noisy = (np.rint(255 * noisy) / 255).astype(np.float32)
    states, levels = (None, None), ([], [])
    for first, beyond in ((0, 4), (4, 0)):  # frame fusion alone sees the last four frames
        results = [
            one(noisy[:, first:], state, 4, fusion_lookahead=beyond)
            for one, state in zip((network, exported), states, strict=True)
        ]
        states = results[0][1], results[1][1]
        for found, (output, _) in zip(levels, results, strict=True):
            found.append(np.rint(255 * np.clip(output, 0, 1)))
    difference = np.abs(np.stack(levels[0]) - np.stack(levels[1]))
    assert difference.max() <= 1, f"{difference.max()} levels"
    assert (difference > 0).mean() <= 1e-3, f"{(difference > 0).mean():.2%} of the samples differ"


@pytest.mark.slow
def test_model_of_an_earlier_version_fuses_no_more_than_its_lookahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input has no more frames, and its metadata do not say so."""
    monkeypatch.setenv("MS_JIT", "0")
    config = NETWORKS["kanade"]
    write_export(tmp_path / "new.onnx", config, 4, 2, fusion_lookahead=0)
    proto = onnx.load(tmp_path / "new.onnx")
    [entry] = [entry for entry in proto.metadata_props if entry.key == "rvrt"]
    about = json.loads(entry.value)
    entry.value = json.dumps({**{key: about[key] for key in about if key != "fusion_lookahead"}, "format": 1})
    onnx.save(proto, tmp_path / "old.onnx")
    exported = OnnxNetwork(tmp_path / "old.onnx", "cpu")
    assert exported.fusion_lookahead(2) == 0
    from rvrt_cli.model import Network

    reference = Network(config, weights_of(config), CARD, use_device("cpu"))
    clip = moving_pattern(6, 20, 26)
    assert_within(exported(clip, None, 4)[0], reference(clip, None, 4)[0], WHOLE)


@pytest.mark.slow
def test_scene_shorter_than_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_JIT", "0")
    config = NETWORKS["kanade"]
    exported = export(tmp_path / "model.onnx", config, 4, 0)
    from rvrt_cli.model import Network

    reference = Network(config, weights_of(config), CARD, use_device("cpu"))
    for frames in (1, 2, 3):
        clip = moving_pattern(frames, 17, 23)
        expected, _ = reference(clip, None, frames)
        output, _ = exported(clip, None, frames)
        assert_within(output, expected, WHOLE, f"{frames} frames")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "x", "y"), [("rvrt", "x", "y"), ("rvrt-light", "x_light", "y_light")])
def test_golden_vectors(name: str, x: str, y: str, tmp_path: Path) -> None:
    vectors = np.load(GOLDEN)
    exported = export(tmp_path / "model.onnx", replace(PRESETS[name], widths=(36, 36, 36)), 6, 0)
    frames = np.ascontiguousarray(np.moveaxis(vectors[x], 2, -1))
    output, _ = exported(frames, None, 6)
    assert_equals_levels(output[..., ::5, ::5, :].transpose(0, 1, 4, 2, 3), vectors, y, WHOLE)


def test_float16_model_stays_near_float32(tmp_path: Path) -> None:
    clip = moving_pattern(4, 16, 24)
    outputs = [
        export(tmp_path / f"{precision}.onnx", BARE, 4, 0, precision=precision)(clip, None, 4)[0]
        for precision in ("float32", "float16")
    ]
    error = np.abs(outputs[1] - outputs[0])
    assert 1e-6 < error.max() < 0.05 * np.abs(outputs[0]).max(), f"largest difference {error.max():.2e}"
