"""`rvrt train` as people run it: killed and resumed, asked to stop, on two ranks, a rank killed."""

import json
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.bench_sets import write_vimeo as vimeo
from helpers.train_runs import NETWORK, finish, make_store, prepared, read_steps, small_run, start, wait_for_steps
from PIL import Image

from rvrt_cli.cli.display import LineDisplay
from rvrt_cli.cli.train import TrainingReport
from rvrt_cli.data import batches as loader
from rvrt_cli.data.batches import Batch, BatchSpec, make_batch
from rvrt_cli.data.clip_store import ClipStore
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.train.loop import train
from rvrt_cli.train.train_options import TrainOptions, read_recipe
from rvrt_cli.train.training_state import checkpoints, load_checkpoint
from rvrt_cli.train.validation_split import HeldOut
from rvrt_cli.weights import load_weights, save_weights

TIMES = ("seconds", "waited", "trained")  # what may differ between two runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "clips")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 steps on one rank, never interrupted; all checkpoints are kept."""
    folder = tmp_path_factory.mktemp("straight")
    finish(start(small_run(data, folder / "run", **{"save-every": 1, "keep": 30, "val-every": 12}), folder))
    assert sorted(path.name for path in folder.iterdir()) == ["run"]  # MindSpore leaves nothing lying about
    return folder / "run"


def without_times(records: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_a_run_learns_and_leaves_what_it_promises(straight: Path) -> None:
    records = read_steps(straight)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 31))
    gains = {record["step"]: record["gain"]["held-out"] for record in records if "gain" in record}
    assert list(gains) == [12, 24, 30]
    assert gains[30] > gains[12] + 0.1  # dB
    weights = load_weights(straight / "weights.safetensors")
    assert weights.card["steps"] == 30
    assert weights.config.widths == (8, 8, 8)
    assert load_weights(straight / "best.safetensors").card["scores"]["gain"].keys() == {"held-out"}
    with Image.open(straight / "curve.png") as curve:
        assert len(curve.convert("RGB").getcolors(1 << 20)) > 10


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(straight: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(small_run(data, output, **{"val-every": 12}), tmp_path)
    wait_for_steps(process, output, 10)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with (output / "log.jsonl").open("a") as log:
        log.write('{"step": 11, "lo')  # as a machine that loses power may leave it

    resumed = start(["train", "--output", str(output), "--resume"], tmp_path)
    wait_for_steps(resumed, output, 18)
    resumed.send_signal(signal.SIGTERM)
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 130
    assert "--resume" in said.splitlines()[-1]
    stopped_at = int(checkpoints(output)[-1].stem)
    assert stopped_at == read_steps(output)[-1]["step"]  # nothing is lost

    said = finish(start(["train", "--output", str(output), "--resume"], tmp_path))
    assert "step 30 of 30" in said
    assert without_times(read_steps(output)) == without_times(read_steps(straight))
    arrays, counters, _ = load_checkpoint(checkpoints(output)[-1])
    expected, expected_counters, _ = load_checkpoint(checkpoints(straight)[-1])
    assert arrays.keys() == expected.keys()
    assert [name for name in arrays if not np.array_equal(arrays[name], expected[name])] == []
    assert counters.trained > 0
    assert counters == replace(expected_counters, trained=counters.trained)
    assert len(checkpoints(output)) == 3


IN_RANKS = {"ranks": 2, "steps": 4, "save-every": 1, "keep": 4, "threads": 2}


@pytest.fixture(scope="module")
def in_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 steps on two ranks of one machine."""
    folder = tmp_path_factory.mktemp("ranks")
    finish(start(small_run(data, folder / "run", **IN_RANKS), folder))
    assert sorted(path.name for path in folder.iterdir()) == ["run"]
    return folder / "run"


def test_two_ranks_equal_one_with_twice_the_batch(straight: Path, in_ranks: Path) -> None:
    output = in_ranks
    first, *_ = load_checkpoint(checkpoints(output)[0])
    expected, *_ = load_checkpoint(checkpoints(straight)[0])
    gradients = {name for name in expected if name.startswith("m.")}  # a tenth of the gradient, after one step
    largest = max(np.abs(expected[name]).max() for name in gradients)
    errors = {name: np.abs(first[name] - expected[name]).max() / largest for name in gradients}
    worst = max(errors, key=lambda name: errors[name])
    assert largest > 0
    assert errors[worst] < 1e-5, f"{worst}: {errors[worst]:.1e} of the largest gradient {10 * largest:.2e}"
    sizes = {name: np.abs(expected[name]).max() for name in gradients}
    apart = {name: errors[name] * largest / size for name, size in sizes.items() if size > 1e-5 * largest}
    assert len(apart) > 0.8 * sum(size > 0 for size in sizes.values())
    worst = max(apart, key=lambda name: apart[name])
    assert apart[worst] < 1e-5, f"{worst}: {apart[worst]:.1e} of the largest gradient in it"
    losses = [[record["loss"] for record in read_steps(run) if "loss" in record][:4] for run in (output, straight)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_two_machines_share_an_output_folder(straight: Path, in_ranks: Path, data: Path, tmp_path: Path) -> None:
    """Both on this one, with a rank each; the second one's first weights are others, and do not count."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    output = tmp_path / "run"
    shared = {**IN_RANKS, "local-ranks": 1, "threads": 1, "master": master}
    arguments = [
        small_run(data, output, node=0, **shared),
        small_run(data, output, node=1, init=straight / "weights.safetensors", **shared),
    ]
    machines = [start(line, tmp_path) for line in arguments]
    for machine in machines:
        finish(machine)
    texts = [(output / f"ranks-{node}" / f"outcome-00000{node}.json").read_text() for node in (0, 1)]
    assert texts[0] == texts[1]
    assert read_recipe(output / "recipe.toml")["node"] == 0
    arrays, *_ = load_checkpoint(checkpoints(output)[-1])
    expected, *_ = load_checkpoint(checkpoints(in_ranks)[-1])
    assert [name for name in arrays if not np.array_equal(arrays[name], expected[name])] == []


def test_a_killed_rank_ends_all_with_one_line(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(small_run(data, output, ranks=2, steps=100_000), tmp_path)
    wait_for_steps(process, output, 2)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if child.environ().get("MS_ROLE") == "MS_WORKER" and child.num_threads() > 4]
    assert len(workers) == 2
    workers[-1].kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    complaint = [line for line in said.splitlines() if line.startswith("rvrt:")]
    assert len(complaint) == 1
    assert "a rank has died" in complaint[0]
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_ranks_end_with_the_command_that_started_them(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(small_run(data, output, ranks=2, steps=100_000), tmp_path)
    until = time.monotonic() + 120
    while not (output / "ranks-0" / "worker_1.log").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(straight: Path, data: Path, tmp_path: Path) -> None:
    weights = load_weights(straight / "weights.safetensors")
    arrays = {name: 1e30 * array for name, array in weights.arrays.items()}
    save_weights(tmp_path / "huge.safetensors", arrays, weights.config, weights.card)
    options = {"init": tmp_path / "huge.safetensors", "max-skipped": 2}
    process = start(small_run(data, tmp_path / "run", **options), tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    [line] = [line for line in said.splitlines() if line.startswith("rvrt:")]
    assert "3 of the last 100 steps gave no finite loss or gradient" in line
    assert "Traceback" not in said
    assert [record["loss"] for record in read_steps(tmp_path / "run")] == [None, None]


def test_a_resume_refused_by_the_device_leaves_the_recipe(straight: Path, tmp_path: Path) -> None:
    before = (straight / "recipe.toml").read_bytes()
    process = start(["train", "--output", str(straight), "--resume", "--device", "ascend", "--steps", "40"], tmp_path)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "ascend" in said
    assert (straight / "recipe.toml").read_bytes() == before


def test_what_cannot_be_validated_on_is_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    val, output = tmp_path / "val", tmp_path / "run"
    val.mkdir()
    city = Path(__file__).parents[1] / "media" / "city-truth.mp4"
    (val / "a.mp4").write_bytes(city.read_bytes()[:20_000])
    process = start(small_run(data, output, val=val, **{"val-every": 2, "save-every": 2}), tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    [line] = [line for line in said.splitlines() if line.startswith("rvrt:")]
    assert "a.mp4" in line
    assert not (output / "recipe.toml").exists()
    assert read_steps(output) == []

    root = vimeo(tmp_path / "set", low=True)
    (root / "sep_trainlist.txt").write_text((root / "sep_testlist.txt").read_text())
    (root / "sep_testlist.txt").write_text("")
    options = TrainOptions(data=str(root), output=str(tmp_path / "other"), frames=3, crop=32, network=NETWORK)
    with pytest.raises(OptionError, match=r"sep_testlist\.txt: lists no septuplets"):
        train(prepared(options), lambda record: None)


def short_run(data: Path, folder: Path, **options: object) -> TrainOptions:
    """A run in this process."""
    small = {"network": NETWORK, "frames": 3, "batch": 2, "crop": 32, "device": "cpu", "steps": 4, "save_every": 2}
    return TrainOptions(data=str(data), output=str(folder / "run"), workers=0, **{**small, **options})


def test_a_validation_that_fails_does_not_cost_the_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(HeldOut, "score", fail)
    with pytest.raises(MemoryError):
        train(prepared(short_run(data, tmp_path, val_every=2)), lambda record: None)
    [saved] = checkpoints(tmp_path / "run")
    assert load_checkpoint(saved)[1].step == 2


def test_data_that_cannot_be_read_costs_no_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(store: ClipStore, spec: BatchSpec, step: int, samples: range) -> Batch:
        if step == 3:
            raise MediaError("im3.png: missing")
        return make_batch(store, spec, step, samples)

    monkeypatch.setattr(loader, "make_batch", make)
    with pytest.raises(MediaError, match="im3"):
        train(prepared(short_run(data, tmp_path)), lambda record: None)
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1])[1].step == 3


def test_the_best_is_of_the_same_validation_and_finite(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = iter([5.0, float("nan"), None, 1.0, 0.5])

    def score(*_: object) -> dict:
        gain = next(gains)
        if gain is None:
            raise FloatingPointError  # as the learner does
        return {"held-out": {"clips": {}, "mean": {"psnr_y": 30.0, "bicubic_psnr_y": 30.0 - gain, "gain": gain}}}

    monkeypatch.setattr(HeldOut, "score", score)
    records: list[dict] = []
    options = short_run(data, tmp_path, steps=3, val_every=1, save_every=1)
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


def test_the_recipe_of_a_run_repeats_it(straight: Path) -> None:
    options = TrainOptions(**read_recipe(straight / "recipe.toml"))
    assert options.steps == 30
    assert json.loads(json.dumps(options.config.to_dict()))["upsampler_width"] == 8
