# SPDX-License-Identifier: Apache-2.0
"""Options in rvrt.toml: which value prevails, what is refused, and what a user is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from helpers.commands import refusal, rvrt
from helpers.fuzzing import refusals, searching
from helpers.video_clips import ffmpeg
from hypothesis import given, strategies as st

from rvrt_cli.cli.generated_options import dataclass_options
from rvrt_cli.cli.option_files import DEFAULT, SourcedOptions, read_option_file, sourced_options
from rvrt_cli.errors import OptionError
from rvrt_cli.files import config_folder
from rvrt_cli.options import JobOptions, RestoreOptions, UpscaleOptions


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """The file beside the source `tmp_path`/videos/in.mp4, in a folder that exists."""
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder / "rvrt.toml"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in the user's configuration folder, which exists."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config_folder().mkdir(parents=True)
    assert config_folder() == tmp_path / "config" / "rvrt"
    return config_folder() / "rvrt.toml"


def resolve(source: object, *words: str, kind: type[JobOptions] = UpscaleOptions) -> SourcedOptions[Any]:
    """The options of a command line with these words."""
    found = []

    @click.command()
    @dataclass_options(kind)
    def command(**values: Any) -> None:
        found.append(sourced_options(kind, values, str(source)))

    done = CliRunner().invoke(command, words, catch_exceptions=True)
    if isinstance(done.exception, OptionError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return found[0]


def test_the_command_line_prevails_over_the_source_over_the_user(beside: Path, own: Path) -> None:
    source = beside.with_name("in.mp4")
    own.write_text("crf = 30\nwindow = 8\ntile = 96\noverlap = 8\n")
    beside.write_text("crf = 20\nwindow = 6\n")
    sourced = resolve(source, "--crf", "10", "--lookahead", "2")
    options, origins = sourced.options, sourced.origins
    assert (options.crf, options.window, options.tile, options.lookahead) == (10, 6, 96, 2)
    assert (origins["crf"], origins["window"], origins["tile"]) == ("the command line", str(beside), str(own))
    assert origins["lookahead"] == "the command line", "given, though it is the default"
    assert (options.scale, origins["scale"]) == (4, DEFAULT)
    assert resolve("-", "--crf", "10").options.window == 8, "nothing is beside standard input"


def test_a_command_has_a_table_of_its_own(beside: Path) -> None:
    beside.write_text('crf = 20\nsigma = 25\nsize = "1080p"\n[restore]\ncrf = 12\n[upscale]\nscale = 2\n')
    source = beside.with_name("in.mp4")
    upscale, restore = (resolve(source, kind=kind).options for kind in (UpscaleOptions, RestoreOptions))
    assert (upscale.crf, upscale.scale, upscale.size) == (20, 2, None), "--scale of the table sets --size aside"
    assert (restore.crf, restore.sigma) == (12, "25")


def test_values_have_the_types_of_the_options(beside: Path) -> None:
    beside.write_text(
        'start = "1:30"\nduration = 10\nfps = 25\nlossless = true\nmemory = "4G"\nencoder-option = { g = 48, aq-mode = "3" }\n'
    )
    options = resolve(beside.with_name("in.mp4")).options
    assert (options.start, options.duration, options.fps, options.lossless) == (90.0, 10.0, "25", True)
    assert options.encoder_options == {"g": "48", "aq-mode": "3"}
    beside.write_text('encoder-option = ["g=24"]\nfps = "30000/1001"\n')
    options = resolve(beside.with_name("in.mp4")).options
    assert (options.encoder_option, options.fps) == (("g=24",), "30000/1001")


def test_a_value_that_prevails_sets_its_alternatives_aside(beside: Path, own: Path) -> None:
    own.write_text('quality = 90\nmodel = "rvrt"\n')
    beside.write_text("crf = 20\n")
    source = beside.with_name("in.mp4")
    options = resolve(source, "--weights", "mine.safetensors").options
    assert (options.crf, options.quality, options.lossless) == (20, None, False)
    assert (options.weights, options.model) == ("mine.safetensors", "rvrt-tiny")
    assert resolve(source, "--lossless").options.crf is None
    beside.write_text("lossless = true\n")
    options = resolve(source, "--no-lossless").options
    assert (options.quality, options.lossless) == (90, False)


def test_another_encoder_sets_aside_what_was_chosen_for_the_first(beside: Path) -> None:
    beside.write_text(
        'codec = "libx265"\npreset = "slow"\ncrf = 18\nsize = "1080p"\nencoder-option = { x265-params = "a=1" }\n'
    )
    source = beside.with_name("in.mp4")
    options = resolve(source, "--codec", "libsvtav1").options
    assert (options.preset, options.crf, options.encoder_option, options.size) == (None, None, (), "1080p")
    assert resolve(source, "--codec", "libx265").options.preset == "slow"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("codc = 'ffv1'", "there is no option 'codc'; did you mean codec?"),
        ("[upscale]\nsigma = 3", "there is no option 'sigma'"),
        ("crf = 'good'", "crf = 'good': write a whole number"),
        ("crf = 18.5", "crf = 18.5: write a whole number"),
        ("crf = true", "crf = True: write a whole number"),
        ("lossless = 1", "lossless = 1: write true or false"),
        ("model = ['a']", "write a text"),
        ("start = '1:99'", "start: '1:99' is not a time"),
        ("encoder-option = 'g=2'", "encoder-option: write a table"),
        ("overwrite = true", "overwrite can be given on the command line alone"),
        ("crf = = 3", "not TOML"),
        ("crf = 99", r"--crf 99: give 0 \(best\) to 63 \(--crf is set in .*rvrt.toml\)"),
        ("crf = 20\nquality = 3", r"--crf: contradicts --quality; .*\(--crf is set in .*rvrt.toml\)"),
        ("#" + "x" * 70_000, "larger than 64 KiB"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_name_of_the_file(beside: Path, text: str, words: str) -> None:
    beside.write_text(text)
    with pytest.raises(OptionError, match=words) as error:
        resolve(beside.with_name("in.mp4"))
    assert "rvrt.toml" in str(error.value)
    assert "\n" not in str(error.value)


@searching(200)
@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: f"crf = {text}\n[upscale]\n{text}".encode()))
def test_any_file_is_used_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "rvrt.toml"
    path.write_bytes(data)
    with refusals(OptionError):
        assert set(read_option_file(path, UpscaleOptions)) <= set(vars(UpscaleOptions()))


def test_a_folder_of_images_has_its_file_beside_it_or_within(beside: Path) -> None:
    folder = beside.parent / "frames"
    folder.mkdir()
    beside.write_text("crf = 20\n")
    assert resolve(folder).options.crf == 20
    assert resolve(folder / "*.png").options.crf is None
    (folder / "rvrt.toml").write_text("crf = 10\n")
    assert resolve(folder).options.crf == resolve(folder / "*.png").options.crf == 10


def test_a_dry_run_says_where_each_value_comes_from(
    beside: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    source, target = beside.with_name("in.mp4"), beside.with_name("out.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", "-frames:v", "3", "-c:v", "libx264", source)
    beside.write_text('preset = "ultrafast"\nencoder-option = { g = 2 }\n')
    assert rvrt(monkeypatch, "upscale", source, target, "--window", "3", "--quality", "60", "--dry-run") == 0
    said = capfd.readouterr().err.splitlines()
    assert "options from the command line: --window 3, --quality 60" in said
    assert f"options from {beside}: --encoder-option g=2, --preset ultrafast" in said
    [rest] = [line for line in said if line.startswith("options default: ")]
    assert "--model rvrt-tiny, " in rest
    assert "--tile as large as memory allows" in rest
    [unset] = [line for line in said if line.startswith("options not set: ")]
    mentioned = [line.partition(": ")[2] for line in said if line.startswith("options ")]
    named = {word for line in mentioned for word in line.replace(",", "").split() if word.startswith("--")}
    assert named == {"--" + name.replace("_", "-") for name in vars(UpscaleOptions())}
    assert "--lossless" in unset

    assert rvrt(monkeypatch, "upscale", source, target, "--window", "3", "--dry-run", "--json") == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    [settings] = [event for event in events if event["event"] == "settings"]
    assert settings["window"] == {"value": 3, "from": "the command line"}
    assert settings["encoder-option"] == {"value": ["g=2"], "from": str(beside)}
    assert settings["model"] == {"value": "rvrt-tiny", "from": "default"}


def test_an_encoder_that_refuses_what_a_file_sets_names_the_file(
    beside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, target = beside.with_name("in.mp4"), beside.with_name("out.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25", "-frames:v", "3", "-c:v", "libx264", source)
    beside.write_text("encoder-option = { gg = 2 }\n")
    line = refusal(monkeypatch, capsys, "upscale", source, target)
    assert "gg=2: libx264 has no option of this name" in line
    assert f"(--encoder-option is set in {beside})" in line
