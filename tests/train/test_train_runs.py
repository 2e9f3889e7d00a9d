# SPDX-License-Identifier: Apache-2.0
"""Whole training runs: killed and resumed, stopped by a signal, on two ranks, with a rank killed."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.commands import rvrt
from helpers.train_runs import (
    command_line,
    finish,
    make_store,
    make_vimeo,
    prepared,
    read_steps,
    small_run,
    start,
    wait_for_steps,
)
from PIL import Image

from rvrt_cli.cli.display import LineDisplay
from rvrt_cli.cli.train import TrainingReport
from rvrt_cli.data import batch_loader
from rvrt_cli.data.batch_spec import BatchSpec
from rvrt_cli.data.batches import Batch, make_batch
from rvrt_cli.data.clip_store import ClipStore
from rvrt_cli.device import use_device
from rvrt_cli.errors import MediaError, OptionError, RvrtError
from rvrt_cli.train.loop import train
from rvrt_cli.train.setup import prepare_run
from rvrt_cli.train.train_options import TrainOptions, read_recipe
from rvrt_cli.train.training_state import list_checkpoints, load_checkpoint
from rvrt_cli.train.validation_split import ValidationSplit
from rvrt_cli.weights import load_weights

TIMES = ("seconds", "waited", "elapsed", "trained")  # these may differ between two runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "clips")


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 steps on one rank, in this process; all checkpoints are kept."""
    folder, before = tmp_path_factory.mktemp("uninterrupted"), Path.cwd()
    os.chdir(folder)
    try:
        train(prepared(small_run(data, folder / "run", save_every=1, keep=30, val_every=12)), lambda record: None)
    finally:
        os.chdir(before)
    assert [path.name for path in folder.iterdir()] == ["run"]  # MindSpore leaves no files behind
    return folder / "run"


def without_times(records: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


@pytest.mark.slow
def test_a_run_learns_and_writes_its_files(data: Path, tmp_path: Path) -> None:
    """On two clips, as the alignment of those that are validated must be learned too."""
    run = tmp_path / "run"
    train(prepared(small_run(data, run, frames=3, val_every=12)), lambda record: None)
    records = read_steps(run)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 31))
    gains = {record["step"]: record["gain"]["held-out"] for record in records if "gain" in record}
    assert list(gains) == [12, 24, 30]
    assert gains[30] > gains[12] + 0.1  # dB
    weights = load_weights(run / "weights.safetensors")
    assert weights.card["steps"] == 30
    assert weights.config.widths == (8, 8, 8)
    assert load_weights(run / "best.safetensors").card["scores"]["gain"].keys() == {"held-out"}
    with Image.open(run / "curve.png") as curve:
        assert len(curve.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.slow
def test_the_recipe_of_a_run_repeats_it(uninterrupted: Path) -> None:
    options = TrainOptions(**read_recipe(uninterrupted / "recipe.toml"))
    assert options.steps == 30
    assert json.loads(json.dumps(options.config.to_dict()))["upsampler_width"] == 8


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(uninterrupted: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = small_run(data, output, val_every=12, workers=1)
    process = start(command_line(options), tmp_path)
    wait_for_steps(process, output, 10)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with (output / "log.jsonl").open("a") as log:
        log.write('{"step": 11, "lo')  # as a machine that loses power may leave it

    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]  # MindSpore leaves no files behind

    outcome = train(prepared(options, resume=True), lambda record: None)
    assert (outcome["step"], outcome["steps"], outcome["resume"]) == (30, 30, False)
    assert without_times(read_steps(output)) == without_times(read_steps(uninterrupted))
    check_same_state(output, uninterrupted)
    assert len(list_checkpoints(output)) == 3


def check_same_state(output: Path, uninterrupted: Path) -> None:
    """The last checkpoints differ in the times that the runs took, and in nothing else."""
    state = load_checkpoint(list_checkpoints(output)[-1])
    expected = load_checkpoint(list_checkpoints(uninterrupted)[-1])
    assert state.arrays.keys() == expected.arrays.keys()
    assert [name for name in state.arrays if not np.array_equal(state.arrays[name], expected.arrays[name])] == []
    assert state.counters.trained > 0
    assert state.counters.elapsed > state.counters.trained
    times = {"trained": state.counters.trained, "elapsed": state.counters.elapsed}
    assert state.counters == replace(expected.counters, **times)


@dataclass(frozen=True)
class KilledRun:
    """A run on two ranks of one machine, of which one was killed after four steps or more."""

    output: Path
    status: int  # of the command
    said: str  # by the command, on standard error
    survivors: list[psutil.Process]


TWO_RANKS = {"ranks": 2, "schedule": "constant", "save_every": 1, "threads": 2, "workers": 1}


@pytest.fixture(scope="module")
def killed_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    folder = tmp_path_factory.mktemp("ranks")
    output = folder / "run"
    process = start(command_line(small_run(data, output, **TWO_RANKS, steps=100_000, keep=100_000)), folder)
    wait_for_steps(process, output, 5)
    family = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in family if child.environ().get("MS_ROLE") == "MS_WORKER" and child.num_threads() > 4]
    assert len(ranks) == 2
    ranks[-1].kill()
    _, said = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=10)
    return KilledRun(output, process.returncode, said, alive)


@pytest.mark.slow
def test_a_killed_rank_stops_all_with_one_line(killed_run: KilledRun) -> None:
    assert killed_run.status == 1
    complaint = [line for line in killed_run.said.splitlines() if line.startswith("rvrt:")]
    assert len(complaint) == 1
    assert "a rank died, and the others were stopped" in complaint[0]
    assert "Traceback" not in killed_run.said
    assert killed_run.survivors == []


@pytest.mark.slow
def test_two_ranks_equal_one_with_twice_the_batch(uninterrupted: Path, killed_run: KilledRun) -> None:
    first = load_checkpoint(list_checkpoints(killed_run.output)[0]).arrays
    expected = load_checkpoint(list_checkpoints(uninterrupted)[0]).arrays
    gradients = {name for name in expected if name.startswith("m.")}  # a tenth of the gradient, after one step
    largest = max(np.abs(expected[name]).max() for name in gradients)
    errors = {name: np.abs(first[name] - expected[name]).max() / largest for name in gradients}
    worst = max(errors, key=lambda name: errors[name])
    assert largest > 0
    assert errors[worst] < 1e-5, f"{worst}: {errors[worst]:.1e} of the largest gradient {10 * largest:.2e}"
    sizes = {name: np.abs(expected[name]).max() for name in gradients}
    relative = {name: errors[name] * largest / size for name, size in sizes.items() if size > 1e-5 * largest}
    assert len(relative) > 0.8 * sum(size > 0 for size in sizes.values())
    worst = max(relative, key=lambda name: relative[name])
    assert relative[worst] < 1e-5, f"{worst}: {relative[worst]:.1e} of the largest gradient in it"
    runs = (killed_run.output, uninterrupted)
    losses = [[record["loss"] for record in read_steps(run) if "loss" in record][:4] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_two_machines_share_an_output_folder(
    uninterrupted: Path, killed_run: KilledRun, data: Path, tmp_path: Path
) -> None:
    """Both are this one, with one rank each; the second starts from other weights, which have no effect."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    output = tmp_path / "run"
    shared = {**TWO_RANKS, "steps": 4, "keep": 4, "local_ranks": 1, "threads": 1, "master": master}
    weights = str(uninterrupted / "weights.safetensors")
    runs = [small_run(data, output, node=0, **shared), small_run(data, output, node=1, init=weights, **shared)]
    for machine in [start(command_line(run), tmp_path) for run in runs]:
        finish(machine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    texts = [(output / f"ranks-{node}" / f"outcome-00000{node}.json").read_text() for node in (0, 1)]
    assert texts[0] == texts[1]
    assert read_recipe(output / "recipe.toml")["node"] == 0
    arrays = load_checkpoint(list_checkpoints(output)[-1]).arrays
    expected = load_checkpoint(killed_run.output / "checkpoints" / "00000004.safetensors").arrays
    assert [name for name in arrays if not np.array_equal(arrays[name], expected[name])] == []


@pytest.mark.slow
def test_ranks_end_with_the_command_that_started_them(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(command_line(small_run(data, output, ranks=2, steps=100_000)), tmp_path)
    until = time.monotonic() + 120
    while not (output / "ranks-0" / "worker_1.log").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


@pytest.mark.slow
def test_a_resume_refused_by_the_device_keeps_the_recipe(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = (uninterrupted / "recipe.toml").read_bytes()
    arguments = ["train", "--output", str(uninterrupted), "--resume", "--device", "ascend", "--steps", "40"]
    assert rvrt(monkeypatch, *arguments) == 1
    assert "ascend" in capsys.readouterr().err
    assert (uninterrupted / "recipe.toml").read_bytes() == before


@pytest.fixture
def _fake_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that need no compiled network, where only the loop is tested."""
    use_device("cpu")
    from rvrt_cli.train.learner import Learner  # imports MindSpore, after the device is selected

    def gradients(
        learner: Learner, low: np.ndarray, high: np.ndarray, groups: list
    ) -> tuple[float, float, list[np.ndarray]]:
        return 0.1, 0.01, [np.full(group.size, 1e-3, np.float32) for group in groups]

    monkeypatch.setattr(Learner, "gradients", gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("_fake_gradients")
def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rvrt_cli.train.learner import Learner

    def gradients(
        learner: Learner, low: np.ndarray, high: np.ndarray, groups: list
    ) -> tuple[float, float, list[np.ndarray]]:
        """Of the samples and the weights, so that a wrong one of either shows."""
        return 0.1, 0.01, [group.value * low.mean() - high.mean() for group in groups]

    monkeypatch.setattr(Learner, "gradients", gradients)
    monkeypatch.setattr(ValidationSplit, "score", lambda *_: {})
    whole, output = tmp_path / "whole", tmp_path / "run"
    train(prepared(small_run(data, whole, val_every=12)), lambda record: None)

    step = Learner.step

    def step_and_signal(learner: Learner, *arguments: Any) -> Any:
        result = step(learner, *arguments)
        if learner.counters.step == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as signaled:
        signaled.setattr(Learner, "step", step_and_signal)
        assert rvrt(signaled, *command_line(small_run(data, output, val_every=12))) == 130
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]
    stopped_at = int(list_checkpoints(output)[-1].stem)
    assert 18 <= stopped_at < 30
    assert stopped_at == read_steps(output)[-1]["step"]  # no step is lost
    outcome = train(prepared(small_run(data, output, val_every=12), resume=True), lambda record: None)
    assert (outcome["step"], outcome["steps"], outcome["resume"]) == (30, 30, False)
    assert without_times(read_steps(output)) == without_times(read_steps(whole))
    check_same_state(output, whole)


@pytest.mark.usefixtures("_fake_gradients")
def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What huge weights give; test_train_learner computes such a loss."""
    from rvrt_cli.train.learner import Learner

    def gradients(
        learner: Learner, low: np.ndarray, high: np.ndarray, groups: list
    ) -> tuple[float, float, list[np.ndarray]]:
        return math.inf, math.inf, [np.full(group.size, np.nan, np.float32) for group in groups]

    monkeypatch.setattr(Learner, "gradients", gradients)
    options = small_run(data, tmp_path / "run", max_skipped=2)
    with pytest.raises(RvrtError, match="3 of the last 100 steps gave no finite loss or gradient") as error:
        train(prepared(options), lambda record: None)
    assert "\n" not in str(error.value)
    assert [record["loss"] for record in read_steps(tmp_path / "run")] == [None, None]


@pytest.mark.usefixtures("_fake_gradients")
def test_unusable_validation_data_is_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    val, output = tmp_path / "val", tmp_path / "run"
    val.mkdir()
    city = Path(__file__).parents[1] / "media" / "city-truth.mp4"
    (val / "a.mp4").write_bytes(city.read_bytes()[:20_000])
    with pytest.raises(RvrtError, match=r"a\.mp4"):
        train(prepared(small_run(data, output, val=str(val), val_every=2, save_every=2)), lambda record: None)
    assert not (output / "recipe.toml").exists()
    assert read_steps(output) == []

    options = small_run(make_vimeo(tmp_path / "set"), tmp_path / "other", val_every=5_000)
    with pytest.raises(OptionError, match=r"sep_testlist\.txt: lists no septuplets"):
        train(prepared(options), lambda record: None)


@pytest.mark.usefixtures("_fake_gradients")
def test_a_failed_validation_does_not_cost_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ValidationSplit, "score", fail)
    with pytest.raises(MemoryError):
        train(prepared(small_run(data, tmp_path / "run", val_every=2, save_every=2)), lambda record: None)
    [saved] = list_checkpoints(tmp_path / "run")
    assert load_checkpoint(saved).counters.step == 2


@pytest.mark.usefixtures("_fake_gradients")
def test_unreadable_data_costs_no_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(store: ClipStore, spec: BatchSpec, step: int, samples: range) -> Batch:
        if step == 3:
            raise MediaError("im3.png: missing")
        return make_batch(store, spec, step, samples)

    monkeypatch.setattr(batch_loader, "make_batch", make)
    with pytest.raises(MediaError, match="im3"):
        train(prepared(small_run(data, tmp_path / "run", save_every=2)), lambda record: None)
    assert load_checkpoint(list_checkpoints(tmp_path / "run")[-1]).counters.step == 3


@pytest.mark.usefixtures("_fake_gradients")
def test_the_best_score_is_finite_and_of_the_same_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = iter([5.0, float("nan"), None, 1.0, 0.5])

    def score(*_: object) -> dict:
        gain = next(gains)
        if gain is None:
            raise FloatingPointError  # as the learner does
        return {
            "held-out": {
                "clips": {},
                "mean": {"psnr_y": 30.0, "bicubic_psnr_y": 30.0 - gain, "gain": gain},
                "chroma_gain": {"cb": 0.5, "cr": None},
            }
        }

    monkeypatch.setattr(ValidationSplit, "score", score)
    records: list[dict] = []
    options = small_run(data, tmp_path / "run", steps=3, val_every=1, save_every=1)
    assert train(prepared(options), records.append)["best"] == 5.0
    other = replace(options, degradation="bd", steps=5)
    assert train(prepared(other, resume=True), records.append)["best"] == 1.0
    assert [record["best"] for record in records if "gain" in record] == [True, False, False, True, False]
    assert [record["gain"].get("held-out") for record in records if "gain" in record] == [5.0, None, None, 1.0, 0.5]
    lines = (tmp_path / "run" / "log.jsonl").read_text()
    assert "NaN" not in lines
    assert "Infinity" not in lines
    report = TrainingReport(LineDisplay("steps"), steps=5)
    for record in records:
        report.update(record)


@pytest.mark.usefixtures("_fake_gradients")
def test_the_schedule_and_the_run_end_with_the_minutes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 10 ms or more: 1 000 of them do not fit into 1.2 s."""
    from rvrt_cli.train.learner import Learner

    step = Learner.step
    monkeypatch.setattr(Learner, "step", lambda *arguments: (time.sleep(0.01), step(*arguments))[1])
    monkeypatch.setattr(ValidationSplit, "score", lambda *_: {})
    options = small_run(data, tmp_path / "run", steps=1000, minutes=0.02, val_every=1000, save_every=1000)
    outcome = train(prepared(options), lambda record: None)
    assert (outcome["reason"], outcome["resume"]) == ("", False)
    assert 10 < outcome["step"] < 150
    records = read_steps(tmp_path / "run")
    assert "gain" in records[-1], "the last step is validated"
    rates = [record["rate"] for record in records if "rate" in record]
    assert max(rates) > 0.9 * options.rate
    assert rates[-1] < 0.02 * options.rate
    saved = load_checkpoint(list_checkpoints(tmp_path / "run")[-1]).counters
    assert saved.step == outcome["step"]
    assert saved.elapsed >= 1.2
    with pytest.raises(OptionError, match=r"--minutes 0\.02: the run has had 0\.0; give more"):
        prepare_run(options, resume=True)
    longer = prepare_run(replace(options, minutes=0.04), resume=True)
    assert longer.minutes == 0.04
