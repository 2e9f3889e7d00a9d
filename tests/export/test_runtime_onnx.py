# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale --runtime onnx` and `rvrt export`: the same pixels as MindSpore, without it; errors that name the remedy."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers.exported_networks import CARD, WITHOUT_MINDSPORE, weights_of, write_export
from helpers.small_networks import BARE

from rvrt_cli import UpscaleOptions
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.cli import cli
from rvrt_cli.errors import MediaError, OptionError, RvrtError, WeightsError
from rvrt_cli.model import PRESETS
from rvrt_cli.runtime import ExportedModel, OnnxNetwork
from rvrt_cli.runtime.providers import choose_provider
from rvrt_cli.upscale import Interruption, prepare, run
from rvrt_cli.upscale.exported import open_exported
from rvrt_cli.weights import save_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for windows of 4 + 2 frames of any size."""
    path = tmp_path_factory.mktemp("models") / "bare.onnx"
    write_export(path, BARE, 4, 2)
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of nine frames of 40×36 px."""
    folder = tmp_path / "frames"
    folder.mkdir()
    y, x = np.mgrid[:36, :40]
    for t in range(9):
        gray = 127 + 100 * np.sin(0.3 * x + 0.2 * y - 0.4 * t)
        iio.imwrite(folder / f"{t:03d}.png", np.stack([gray, 255 - gray, gray / 2], -1).astype(np.uint8))
    return folder


def options(model: Path, **more: object) -> UpscaleOptions:
    return UpscaleOptions(weights=str(model), runtime="onnx", **more)


@pytest.mark.slow
def test_upscaled_without_mindspore_as_with_it(model: Path, frames: Path, tmp_path: Path) -> None:
    """In windows and tiles: at most one level apart, in at most 0.1 % of the pixels."""
    from rvrt_cli.upscale import upscale_video

    save_weights(tmp_path / "bare.safetensors", weights_of(BARE), BARE, CARD)
    windows = {"window": 4, "lookahead": 2, "tile": 32, "overlap": 8}
    upscale_video(frames, tmp_path / "ms", UpscaleOptions(weights=str(tmp_path / "bare.safetensors"), **windows))
    words = [word for name, value in windows.items() for word in (f"--{name}", str(value))]
    command = [str(frames), str(tmp_path / "onnx"), "--runtime", "onnx", "--weights", str(model), *words]
    subprocess.run([sys.executable, "-c", WITHOUT_MINDSPORE, "upscale", *command], check=True)
    found = [[iio.imread(path).astype(int) for path in sorted((tmp_path / name).iterdir())] for name in ("ms", "onnx")]
    assert len(found[0]) == len(found[1]) == 9
    difference = np.abs(np.stack(found[0]) - np.stack(found[1]))
    assert np.ptp(np.stack(found[0])) > 100
    assert difference.max() <= 1, f"{difference.max()} levels"
    assert (difference > 0).mean() <= 1e-3, f"{(difference > 0).mean():.2%} of the pixels differ"


@pytest.mark.slow
def test_two_ranks_without_mindspore_give_the_same(model: Path, frames: Path, tmp_path: Path) -> None:
    windows = ["--runtime", "onnx", "--weights", str(model), "--window", "4", "--tile", "0"]
    for name, more in (("one", []), ("two", ["--ranks", "2"])):
        command = ["upscale", str(frames), str(tmp_path / name), *windows, *more]
        subprocess.run([sys.executable, "-c", WITHOUT_MINDSPORE, *command], check=True)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(two) == 9


@pytest.mark.parametrize(
    ("more", "error", "remedy"),
    [
        ({"window": 6}, OptionError, "windows of 4 [+] 2 frames; give --lookahead 2 and no --window, or export"),
        ({"lookahead": 4}, OptionError, "export one with --frames 4 --lookahead 4"),
        ({"precision": "float16"}, OptionError, "computes in float32; give that precision, or a model of"),
        ({"precision": "bfloat16"}, OptionError, "float32 or float16"),
        (
            {"device": "cuda"},
            OptionError,
            r"ONNX Runtime has only .*cpu.*pip install '\.\[onnx-gpu\]' in rvrt's checkout",
        ),
        ({"device": "cpu:1"}, OptionError, "a number belongs to a GPU"),
        ({"device": "nothing"}, OptionError, "has only"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    model: Path, more: dict[str, object], error: type[RvrtError], remedy: str
) -> None:
    with pytest.raises(error, match=remedy):
        open_exported(options(model, **more))


@pytest.mark.parametrize("more", [{"window": 0}, {"master": "here:9000"}])
def test_options_that_exported_models_lack(model: Path, more: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=f"--{next(iter(more))}"):
        options(model, **more)


def test_model_of_fixed_size_takes_no_other(tmp_path: Path) -> None:
    write_export(tmp_path / "fixed.onnx", BARE, 2, 0, size=(16, 24))
    network = OnnxNetwork(tmp_path / "fixed.onnx", "cpu")
    network.check_frames(width=24, height=16)
    with pytest.raises(MediaError, match="24x16 px and these have 16x24; export one with --size 16x24"):
        network.check_frames(width=16, height=24)


def test_damaged_and_foreign_files(model: Path, tmp_path: Path) -> None:
    damaged, foreign = tmp_path / "damaged.onnx", tmp_path / "foreign.onnx"
    damaged.write_bytes(model.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"damaged\.onnx: ONNX Runtime cannot open it .*export it again"):
        OnnxNetwork(damaged, "cpu")
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, foreign)
    with pytest.raises(WeightsError, match=r"foreign\.onnx: not a model of `rvrt export`"):
        OnnxNetwork(foreign, "cpu")
    with pytest.raises(WeightsError, match="no such file"):
        OnnxNetwork(tmp_path / "missing.onnx", "cpu")


@pytest.mark.parametrize(
    "change",
    [
        *('"format": 2|"format": 3', '"frames": 4|"frames": 3', '"frames": 4|"frames": null', '"clip_size": 2|"x": 2'),
        *('"size": null|"size": [4, 16]', '"size": null|"size": [16]', '"precision": "float32"|"precision": "int4"'),
        *('"name": "test"|"name": 3', '"fusion_lookahead": 0|"fusion_lookahead": 1', '"fusion_lookahead"|"fusion"'),
    ],
)
def test_metadata_of_another_version_or_invalid(model: Path, change: str) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert ExportedModel.from_metadata(metadata, model).to_metadata() == metadata
    before, after = change.split("|")
    assert before in metadata["rvrt"]
    with pytest.raises(WeightsError, match="export it again"):
        ExportedModel.from_metadata({**metadata, "rvrt": metadata["rvrt"].replace(before, after)}, model)


def test_windows_of_another_length_are_refused(model: Path) -> None:
    network = OnnxNetwork(model, "cpu")
    for shape, emit, beyond in (
        *(((1, 7, 16, 16, 3), 4, 0), ((1, 6, 16, 16, 3), 5, 0), ((2, 6, 16, 16, 3), 4, 0)),
        *(((1, 8, 16, 16, 3), 4, 2), ((1, 6, 16, 16, 3), 4, 2)),
    ):
        with pytest.raises(ValueError, match="by a model for 4 of 6"):
            network(np.zeros(shape, np.float32), None, emit, fusion_lookahead=beyond)


# --- rvrt bench


@pytest.mark.slow
def test_bench_compares_with_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is exported into the cache first."""
    from rvrt_cli.bench.onnx_speed import measure_onnx
    from rvrt_cli.cli.bench_tables import onnx_line
    from rvrt_cli.upscale import load_network

    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "bare.safetensors"
    save_weights(weights, weights_of(BARE), BARE, CARD)
    options = BenchOptions(weights=str(weights), runtime="onnx", frames=2, size="24x16", repeat=1, device="cpu")
    result = measure_onnx(options, load_network(weights=weights, device="cpu"))
    assert len(list((tmp_path / "cache" / "exported").glob("bare-*-2+0+0-float32-*.onnx"))) == 1
    assert result["provider"] == "cpu"
    assert result["largest_difference"] <= 2e-4
    assert result["psnr_to_mindspore"] > 80
    assert result["seconds_per_call"] > 0
    line = onnx_line({"onnx": {**result, "seconds_per_call": 2.0}, "seconds_per_call": 0.5})
    assert "MindSpore is 4 times as fast" in line


@pytest.mark.parametrize("more", [{"weights": "random"}, {"frames": 3}, {"protocol": "clips"}])
def test_bench_options_that_exported_models_lack(more: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"--runtime onnx|--frames 3"):
        BenchOptions(runtime="onnx", **more)


# --- rvrt export


def test_export_command_writes_a_model_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "bare.safetensors", weights_of(BARE), BARE, CARD)
    target = tmp_path / "out.onnx"
    words = ["export", str(target), "--weights", str(tmp_path / "bare.safetensors"), "--frames", "3", "--size", "24x16"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "windows of 4 + 2 frames of 24x16 px" in done.output
    proto = onnx.load(target)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}  # no operator of our own
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["license"] == CARD["license"]
    exported = ExportedModel.from_metadata(metadata, target)
    assert exported == ExportedModel(BARE, CARD, 4, 2, (16, 24))
    again = CliRunner().invoke(cli, words)
    assert isinstance(again.exception, OptionError)
    assert "exists already" in str(again.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out.pb"], r"ends in \.onnx"),
        (["out.onnx", "--size", "1080p"], "WIDTHxHEIGHT"),
        (["out.onnx", "--size", "4x16"], "at least 8x8"),
        (["out.onnx", "--size", "16x16", "--dynamic"], "omit it, or --dynamic"),
        (["out.onnx", "--frames", "0"], "give 1 or more"),
        (["out.onnx", "--lookahead", "-2"], "give 0 or more"),
    ],
)
def test_export_refuses(words: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CliRunner().invoke(cli, ["export", *words], catch_exceptions=False)


def test_networks_for_restoration_are_refused(tmp_path: Path) -> None:
    config = replace(PRESETS["rvrt-deblur"], widths=(12, 12, 12))
    save_weights(tmp_path / "deblur.safetensors", weights_of(config), config, CARD)
    words = ["export", f"{tmp_path}/out.onnx", "--weights", f"{tmp_path}/deblur.safetensors"]
    with pytest.raises(OptionError, match="deblur: networks for restoration are not exported; run rvrt restore"):
        CliRunner().invoke(cli, words, catch_exceptions=False)


def test_mindir_needs_mindspore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvrt_cli.export.export_network.find_spec", lambda name: None)
    with pytest.raises(RvrtError, match=r"out\.mindir: writing MindIR needs MindSpore, .* has it, or to \.onnx"):
        CliRunner().invoke(cli, ["export", f"{tmp_path}/out.mindir", "--size", "16x16"], catch_exceptions=False)


# --- what runs where


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that of the runtimes only these are installed."""
    for module in ("options", "device", "runtime.onnx_network", "upscale.job_notes"):
        monkeypatch.setattr(f"rvrt_cli.{module}.find_spec", lambda name: name if name in names else None)


@pytest.mark.parametrize(
    ("names", "values", "mindspore"),
    [
        (["mindspore", "onnxruntime"], {}, True),
        (["mindspore", "onnxruntime"], {"weights": "model.onnx"}, False),
        (["mindspore", "onnxruntime"], {"runtime": "onnx"}, False),
        (["onnxruntime"], {}, False),
        (["onnxruntime"], {"runtime": "mindspore"}, True),
    ],
)
def test_runtime_that_is_chosen(
    names: list[str], values: dict[str, str], mindspore: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, *names)
    assert UpscaleOptions(**values).uses_mindspore is mindspore


def test_missing_runtimes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rvrt_cli.device import use_device

    installed(monkeypatch)
    with pytest.raises(OptionError, match=r"neither MindSpore nor ONNX Runtime is installed; run pip install"):
        open_exported(UpscaleOptions())
    with pytest.raises(RvrtError, match=r"MindSpore is not installed.*--runtime onnx"):
        use_device("cpu")
    installed(monkeypatch, "mindspore")
    with pytest.raises(OptionError, match=r"^ONNX Runtime is not installed; run pip install"):
        open_exported(UpscaleOptions(runtime="onnx"))


@pytest.mark.parametrize(
    ("device", "listed", "chosen"),
    [
        ("auto", ["Tensorrt", "CUDA", "CPU"], ["CUDA"]),
        ("gpu", ["Tensorrt", "CUDA", "CPU"], ["CUDA"]),
        ("gpu:1", ["Dml", "CPU"], ["Dml"]),
        ("tensorrt", ["Tensorrt", "CUDA", "CPU"], ["Tensorrt", "CUDA"]),
        ("cpu", ["CUDA", "CPU"], ["CPU"]),
        ("auto", ["Azure", "CPU"], ["CPU"]),
    ],
)
def test_providers_of_a_device(
    device: str, listed: list[str], chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TensorRT cannot run, CUDA does."""
    names = [f"{name}ExecutionProvider" for name in listed]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    providers = choose_provider(device).providers
    assert [name.removesuffix("ExecutionProvider") for name, _ in providers] == chosen
    number = device.partition(":")[2] or "0"
    assert all(options == ({} if name.startswith("CPU") else {"device_id": number}) for name, options in providers)


# --- resuming


@pytest.mark.slow
def test_resumed_run_is_as_if_it_had_not_been_interrupted(model: Path, frames: Path, tmp_path: Path) -> None:
    """After the first of three windows, in tiles; the state comes from the work folder."""
    wanted = options(model, window=4, tile=32, overlap=8, segment=0)
    whole, target = tmp_path / "whole", tmp_path / "target"
    run(prepare(frames, whole, wanted))
    interrupted_run(frames, target, wanted)
    job = prepare(frames, target, wanted)
    assert 0 < job.kept < 9
    run(job)
    pixels = [[iio.imread(path) for path in sorted(folder.iterdir())] for folder in (whole, target)]
    assert len(pixels[1]) == 9
    np.testing.assert_array_equal(pixels[1], pixels[0])


def interrupted_run(source: Path, target: Path, wanted: UpscaleOptions) -> None:
    """A run that is asked to stop in its first window."""
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt):
        run(prepare(source, target, wanted), lambda progress: setattr(interruption, "requested", True), interruption)


@pytest.mark.slow
def test_a_run_is_not_resumed_by_another_runtime(
    model: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels differ by a level here and there, and one video should be of one piece."""
    monkeypatch.setattr("rvrt_cli.upscale.exported.exported_file", lambda options: model)
    weights = tmp_path / "bare.safetensors"
    save_weights(weights, weights_of(BARE), BARE, CARD)
    wanted = UpscaleOptions(weights=str(weights), runtime="onnx", window=4, tile=0, segment=0)
    interrupted_run(frames, tmp_path / "target.mkv", wanted)
    with pytest.raises(
        MediaError, match="--runtime changed since an interrupted run, which had 4 frames done; give the same"
    ):
        prepare(frames, tmp_path / "target.mkv", replace(wanted, runtime="auto"))
    again = prepare(frames, tmp_path / "target.mkv", replace(wanted, runtime="auto", overwrite=True))
    assert again.kept == 0
