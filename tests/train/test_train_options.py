# SPDX-License-Identifier: Apache-2.0
"""Recipes and options of `rvrt train`: contents, validation and precedence."""

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoint_files import checkpoint
from helpers.fuzzing import PLAIN, damaged, refusals, searching
from helpers.train_runs import make_store, prepared
from hypothesis import given, strategies as st

from rvrt_cli import device
from rvrt_cli.data.batches import check_spec, open_store
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.errors import OptionError, RvrtError, WeightsError
from rvrt_cli.model.config import PRESETS
from rvrt_cli.train.setup import locked_run, prepare_run, resolve_options
from rvrt_cli.train.starting_weights import starting_weights
from rvrt_cli.train.train_options import RECIPES, TrainOptions, preset_recipe, read_recipe, write_recipe
from rvrt_cli.train.training_counters import TrainingCounters
from rvrt_cli.train.training_state import TrainingState, list_checkpoints, load_checkpoint, save_checkpoint
from rvrt_cli.train.validation_split import data_folders
from rvrt_cli.weights import find_weights, load_weights, save_weights


def test_every_preset_has_a_recipe_and_that_of_rvrt_is_the_published_one() -> None:
    recipes = {model: TrainOptions(**read_recipe(preset_recipe(model))) for model in PRESETS}
    assert all(options.model == model for model, options in recipes.items())
    published = recipes["rvrt"]
    assert published.epsilon**2 == pytest.approx(1e-9)
    assert (published.beta1, published.beta2, published.rate, published.final_rate) == (0.9, 0.99, 2e-4, 1e-7)
    assert (published.schedule, published.steps, published.batch, published.crop) == ("cosine", 300_000, 8, 256)
    assert (published.frames, published.mirror, published.degradation) == (7, True, "bi")
    assert (published.spynet_frozen, published.spynet_rate) == (5_000, 0.25)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": "rvrt-huge"}, "--model"),
        ({"schedule": "step"}, "--schedule"),
        ({"precision": "bfloat16"}, "--precision 'bfloat16': choose one of float32, float16"),
        ({"steps": 0}, "--steps"),
        ({"steps": "many"}, "--steps"),
        ({"batch": True}, "--batch"),
        ({"rate": -1.0}, "--rate"),
        ({"epsilon": 0.0}, "--epsilon"),
        ({"chroma_weight": 0.0}, "--chroma-weight"),
        ({"rate": 1e-5, "final_rate": 1e-3}, "--final-rate"),
        ({"ema": 1.0}, "--ema"),
        ({"crop": 30}, "crop 30"),
        ({"degradation": "snow"}, "degradation"),
        ({"degradation": "real", "clean_share": 1.5}, "--clean-share 1.5: give a share from 0 to 1"),
        ({"degradation": "real", "clean_share": "half"}, "--clean-share 'half': expected float"),
        (
            {"degradation": "bi", "clean_share": 0.5},
            "--clean-share 0.5: bi is no mix; choose --degradation video or real",
        ),
        ({"loss": "l2"}, "--loss 'l2': choose one of charbonnier, psnr"),
        ({"frames": 12, "context": 3}, "--context 3, --frames 12: give multiples of the 2 frames of a clip"),
        ({"frames": 7, "context": 2}, "--context 2, --frames 7: give multiples of the 2"),
        ({"frames": 4, "context": 2}, "--context 2: leaves none of --frames 4; give less than half"),
        ({"frames": 8, "context": 2, "mirror": True}, "--context 2: not with --mirror"),
        ({"batch": 3, "ranks": 2}, "--batch"),
        ({"ranks": 2, "local_ranks": 1}, "--master"),
        ({"ranks": 2, "local_ranks": 1, "master": "host"}, "HOST:PORT"),
        ({"ranks": 2, "local_ranks": 1, "master": "host:2000", "node": 5}, "--node 5.*give 1 at most"),
        ({"minutes": float("nan")}, "--minutes"),
        ({"network": {"widths": [8, 8]}}, r"widths \[8, 8\]: give three numbers, .* such as \[144, 144, 144\]"),
        ({"network": {"widths": 24}}, r"widths 24: give three numbers, .* such as \[144, 144, 144\]"),
        ({"network": {"bodies": "abc"}}, r"bodies 'abc': give three names, .* such as \[\"attention\", "),
        ({"network": {"breadth": 8}}, "breadth"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_name(wrong: dict, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        TrainOptions(**wrong)


def test_clips_made_with_the_defaults_serve_every_recipe(tmp_path: Path) -> None:
    made = ClipOptions()
    store = open_store(make_store(tmp_path / "clips", sources=1, clips=1, frames=made.frames, size=made.size))
    recipes = [*RECIPES.glob("*.toml"), Path(__file__).parents[2] / "weights" / "rvrt-tiny" / "recipe.toml"]
    assert len(recipes) > len(PRESETS)
    for recipe in recipes:
        options = TrainOptions(**read_recipe(recipe))
        if options.task != "deblur":  # whose clips are of videos of a high rate, and longer
            check_spec(store, options.spec)


def test_command_line_over_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('model = "rvrt-tiny"\nsteps = 7\nrate = 0.5\n[network]\nupsampler_width = 8\n')
    options = resolve_options({"rate": 0.25, "network": {"widths": [16, 16, 16]}}, recipe, resume=False)
    assert (options.steps, options.rate, options.seed) == (7, 0.25, TrainOptions.seed)
    assert (options.config.upsampler_width, options.config.widths) == (8, (16, 16, 16))
    assert resolve_options({"model": "rvrt"}, None, resume=False).mirror  # from the preset's recipe


@pytest.mark.parametrize("model", [*PRESETS, None])
def test_a_recipe_leaves_the_rest_to_the_recipe_of_its_model(tmp_path: Path, model: str | None) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text((f'model = "{model}"\n' if model else "") + "steps = 7\n")
    expected = TrainOptions(**read_recipe(preset_recipe(model or TrainOptions.model)))
    assert resolve_options({}, recipe, resume=False) == replace(expected, steps=7)
    other = TrainOptions(**read_recipe(preset_recipe("rvrt-light")))
    assert resolve_options({"model": "rvrt-light"}, recipe, resume=False) == replace(other, steps=7)


def test_a_recipe_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    for text in ('model = "rvrt-huge"\n', "model = 3\n", "model = []\n"):
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(OptionError, match="--model"):
            resolve_options({}, tmp_path / "mine.toml", resume=False)


@pytest.mark.parametrize("text", ["steps = 7\nstep = 8\n", "steps = \n", "steps = '7'\n"])
def test_recipes_that_cannot_be_used_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(OptionError):
        resolve_options({}, tmp_path / "mine.toml", resume=False)


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    options = TrainOptions(
        data='a "quoted" folder\\ü',
        network={"widths": (8, 8, 8), "relative_position_bias": True},
        final_rate=1e-7,
        mirror=True,
        degradation="real",
        clean_share=0.75,
    )
    write_recipe(tmp_path / "recipe.toml", options)
    assert TrainOptions(**read_recipe(tmp_path / "recipe.toml")).config == options.config
    assert read_recipe(tmp_path / "recipe.toml")["data"] == options.data
    assert read_recipe(tmp_path / "recipe.toml")["final_rate"] == 1e-7
    assert TrainOptions(**read_recipe(tmp_path / "recipe.toml")).spec == options.spec


def test_a_written_recipe_keeps_its_network_when_the_preset_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(network={"widths": (16, 16, 16)})
    config = options.config
    write_recipe(tmp_path / "recipe.toml", options)
    monkeypatch.setitem(PRESETS, "rvrt-tiny", replace(config, carry=0.5, window=4, bodies=("attention",) * 3))
    assert resolve_options({}, tmp_path / "recipe.toml", resume=False).config == config
    wider = resolve_options({"network": {"widths": [24, 24, 24]}}, tmp_path / "recipe.toml", resume=False).config
    assert wider == replace(config, widths=(24, 24, 24))
    other = resolve_options({"model": "rvrt-light"}, tmp_path / "recipe.toml", resume=False).config
    assert other == PRESETS["rvrt-light"]  # the sizes written down are those of rvrt-tiny


def test_the_training_state_in_the_repository_belongs_to_its_recipe() -> None:
    folder = Path(__file__).parents[2] / "weights" / "rvrt-tiny"
    if not (folder / "checkpoints").exists():
        pytest.skip("a source distribution comes without the training state")
    config = load_checkpoint(list_checkpoints(folder)[-1]).config
    assert TrainOptions(**read_recipe(folder / "recipe.toml")).config == config


def test_wrong_data_and_folders_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = make_store(tmp_path / "clips", sources=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    output = tmp_path / "run"
    small = {"frames": 3, "crop": 32, "output": str(output)}
    cases = [
        ({"data": str(empty)}, r"manifest\.json and shards.*sequences/00001"),
        (
            {"data": str(data), "frames": 6},
            r"--frames 6: the clips have 5; give --frames 5, or .* rvrt preprocess clips --frames 6",
        ),
        (
            {"data": str(data), "crop": 64},
            r"--crop 64: the clips are 48x48 px; give --crop 48, or .* rvrt preprocess clips --size 64",
        ),
        ({"data": str(data), "val": str(empty)}, "no videos to validate on"),
        ({"data": str(data), "init": "none.safetensors"}, "no such file"),
        ({"data": str(data), "spynet": str(data / "manifest.json")}, "no SpyNet"),
        ({}, "--data is missing"),
    ]
    for values, message in cases:
        with pytest.raises(OptionError, match=message):
            prepare_run(TrainOptions(**{**small, **values}), resume=False)
        assert not output.exists()
    with pytest.raises(OptionError, match="no training run to resume"):
        resolve_options({"output": str(output)}, None, resume=True)
    prepared(TrainOptions(**small, data=str(data)))
    (output / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(OptionError, match="resume it with --resume"):
        prepare_run(TrainOptions(**small, data=str(data)), resume=False)


def test_missing_hardware_is_refused_before_any_rank_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_ascend_problem", lambda: "there is no Ascend driver")
    data, output = make_store(tmp_path / "clips"), tmp_path / "run"
    options = TrainOptions(data=str(data), output=str(output), frames=3, crop=32, batch=8, ranks=8, device="ascend")
    with pytest.raises(RvrtError, match=r"--device ascend: there is no Ascend driver; or choose --device cpu"):
        prepare_run(options, resume=False)
    assert not output.exists()


def test_a_refused_resume_leaves_the_run_unchanged(tmp_path: Path) -> None:
    data, output = make_store(tmp_path / "clips", sources=2), tmp_path / "run"
    options = prepared(TrainOptions(data=str(data), output=str(output), frames=3, crop=32))
    arrays = {"value.a": np.ones(4, np.float32)}
    save_checkpoint(output, TrainingState(arrays, TrainingCounters(step=5), options.config), keep=3)
    write_recipe(output / "recipe.toml", options)
    before = (output / "recipe.toml").read_bytes()
    given = {"output": str(output), "network": {"widths": [16, 16, 16]}}
    with pytest.raises(OptionError, match=r"00000005.*another network.*remove --network"):
        prepare_run(resolve_options(given, None, resume=True), resume=True)
    with pytest.raises(OptionError, match=r"--steps 4: 5 are already done; give more"):
        prepare_run(resolve_options({"output": str(output), "steps": 4}, None, resume=True), resume=True)
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(b"")
    for given in ({"init": str(weights)}, {"init_partial": True}):
        with pytest.raises(
            OptionError, match=r"--init.*: only applies to the start of a run, and .* is at step 5; remove it"
        ):
            prepare_run(resolve_options({"output": str(output), **given}, None, resume=True), resume=True)
    assert (output / "recipe.toml").read_bytes() == before
    again = prepare_run(resolve_options({"output": str(output)}, None, resume=True), resume=True)
    assert (again.config, again.data, again.frames) == (options.config, options.data, options.frames)


def test_a_run_starts_from_weights_of_another_network_only_with_init_partial(tmp_path: Path) -> None:
    from rvrt_cli.model import initial_weights

    tiny = PRESETS["rvrt-tiny"]
    other = replace(
        tiny, flow_guided=False, fused_neighbors=0
    )  # its offsets see no flow: one layer of each branch has another shape
    path = tmp_path / "other.safetensors"
    save_weights(
        path, initial_weights(other, seed=1), other, {"name": "other", "trained": False, "degradation": "none"}
    )
    with pytest.raises(WeightsError, match=r"conv_offset\.0\.weight"):
        starting_weights(TrainOptions(init=str(path)))
    weights, given, fresh = (
        starting_weights(TrainOptions(init=str(path), init_partial=True)),
        initial_weights(other, seed=1),
        initial_weights(tiny),
    )
    assert set(weights) == set(fresh)
    for name, array in weights.items():
        kept = name in given and given[name].shape == array.shape
        assert np.array_equal(array, given[name] if kept else fresh[name]), name
    with pytest.raises(WeightsError, match="backbone"):  # nothing fits: another network altogether
        starting_weights(TrainOptions(init=str(path), init_partial=True, model="rvrt"))


def test_training_continues_in_float32_from_weights_in_float16(tmp_path: Path) -> None:
    weights = load_weights(find_weights("rvrt-tiny"))
    halves, path = (
        {name: array.astype(np.float16) for name, array in weights.arrays.items()},
        tmp_path / "half.safetensors",
    )
    save_weights(path, halves, weights.config, weights.card)
    started = starting_weights(TrainOptions(init=str(path)))
    for name, array in started.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, halves[name]), name


@pytest.mark.parametrize("source", ["spynet.pth", "rvrt.pth", "rvrt.safetensors"])
def test_optical_flow_starts_from_a_file(tmp_path: Path, source: str) -> None:
    network = {"flow_estimator": "spynet"}
    config, path = replace(PRESETS["rvrt-tiny"], **network), tmp_path / source
    fresh = starting_weights(TrainOptions(network=network))
    rng = np.random.default_rng(0)
    flow = {
        name: rng.standard_normal(array.shape, np.float32) for name, array in fresh.items() if name[:7] == "spynet."
    }
    if source == "rvrt.safetensors":
        save_weights(path, {**fresh, **flow}, config, {"name": "other", "trained": False, "degradation": "none"})
    else:
        prefix = "" if source == "spynet.pth" else "spynet."
        arrays = {prefix + name.removeprefix("spynet."): array for name, array in flow.items()}
        checkpoint(path, {**arrays, "spynet.mean": np.zeros((1, 3, 1, 1), np.float32)}, nested=None)
    weights = starting_weights(TrainOptions(network=network, spynet=str(path)))
    assert set(weights) == set(fresh)
    for name, array in weights.items():
        assert np.array_equal(array, flow.get(name, fresh[name])), name
    if source == "spynet.pth":
        checkpoint(path, {"conv.weight": np.zeros((3, 3), np.float32)}, nested=None)
        with pytest.raises(WeightsError, match="no weights of SpyNet"):
            starting_weights(TrainOptions(network=network, spynet=str(path)))


def test_whole_sources_are_held_out(tmp_path: Path) -> None:
    data = make_store(tmp_path / "clips", sources=5)
    options = prepared(
        TrainOptions(data=str(data), output=str(tmp_path / "run"), frames=3, crop=32, held_out=0.4), resume=False
    )
    folders = data_folders(options)
    names = [{source["name"] for source in open_store(folder).manifest["sources"]} for folder in folders]
    assert len(names[1]) == 2
    assert names[0] | names[1] == {f"photo{k}" for k in range(5)}
    assert not names[0] & names[1]
    assert (open_store(folders[1])[0] == open_store(data)[3]).all()  # the second source's first clip
    whole = prepared(TrainOptions(**{**vars(options), "held_out": 0.0}))
    assert data_folders(whole) == (data, None)


def test_only_one_command_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    data, output = make_store(tmp_path / "clips", sources=5), tmp_path / "run"
    options = prepare_run(TrainOptions(data=str(data), output=str(output), frames=3, crop=32), resume=False)
    with locked_run(options):
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
        with pytest.raises(OptionError, match="another rvrt is training in it"), locked_run(options):
            pass
        assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
        machines = {"ranks": 2, "local_ranks": 1, "master": "host:2000", "node": 1, "batch": 2}
        with locked_run(replace(options, **machines)):  # another machine of the same run
            assert data_folders(replace(options, **machines))[1]
    with locked_run(options):
        assert data_folders(options)[1]


NUMBERS = st.integers(-2, 9) | st.integers() | st.floats()
VALUES = (
    PLAIN | NUMBERS | st.sampled_from(["rvrt", "rvrt-tiny", "bi", "video", "cosine", "cpu", "host:1", "host:99999"])
)


@searching(150)
@given(st.dictionaries(st.sampled_from([entry.name for entry in fields(TrainOptions)]), VALUES, max_size=4))
def test_any_values_are_accepted_or_refused_in_one_line(values: dict) -> None:
    with refusals(OptionError):
        options = TrainOptions(**values)
        assert options.steps >= 1
        assert 1 <= options.ranks_here <= options.ranks
        numbers = [getattr(options, entry.name) for entry in fields(options)]
        assert all(math.isfinite(number) for number in numbers if isinstance(number, float))


@searching(80)
@given(st.dictionaries(st.sampled_from(list(PRESETS["rvrt"].to_dict())), VALUES, min_size=1, max_size=3))
def test_any_network_is_accepted_or_refused_in_one_line(sizes: dict) -> None:
    with refusals(OptionError):
        config = TrainOptions(network=sizes).config
        assert config.width <= 4096
        assert 0 < config.carry <= 1


@searching(60)
@given(data=st.data())
def test_a_damaged_recipe_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_bytes(data.draw(damaged(preset_recipe("rvrt").read_bytes())))
    with refusals(OptionError):
        resolve_options({}, recipe, resume=False)
