# SPDX-License-Identifier: Apache-2.0
"""Help: fast, complete, and generated from the options dataclasses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields

import click
import pytest
from click.testing import CliRunner

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.check.check_options import CheckOptions
from rvrt_cli.cli import cli
from rvrt_cli.cli.generated_options import dataclass_options
from rvrt_cli.compare.compare_options import CompareOptions
from rvrt_cli.compare.preview_options import PreviewOptions
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.options import RestoreOptions, UpscaleOptions, option_flag, setting
from rvrt_cli.train.train_options import TrainOptions

DATACLASSES = {
    "upscale": UpscaleOptions,
    "restore": RestoreOptions,
    "check": CheckOptions,
    "compare": CompareOptions,
    "preview": PreviewOptions,
    "bench": BenchOptions,
    "preprocess clips": ClipOptions,
    "train": TrainOptions,
}


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands())


def test_help_does_not_import_mindspore() -> None:
    code = """
import sys
from rvrt_cli.cli import main
sys.argv = ["rvrt", "--help"]
try:
    main()
except SystemExit:
    slow = {"mindspore", "numpy", "av", "imageio", "rich"} & set(sys.modules)
    assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "upscale" in done.stdout


def test_commands_are_listed_in_the_order_of_their_use() -> None:
    lines = CliRunner().invoke(cli, ["--help"]).output.partition("Commands:\n")[2].splitlines()
    expected = "upscale restore preview check compare weights export bench preprocess train doctor cache completion"
    assert [line.split()[0] for line in lines] == expected.split()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_has_a_help_text_and_an_example(words: str) -> None:
    shown = CliRunner().invoke(cli, [*words.split(), "--help"], terminal_width=100)
    assert shown.exit_code == 0, shown.output
    assert f"rvrt {words}" in shown.output.partition("Example")[2]
    assert "default: (" not in shown.output, "click's parentheses"
    for parameter in COMMANDS[words].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has none"
            assert parameter.help.partition("  [default: ")[0].endswith("."), parameter.help


@pytest.mark.parametrize("words", DATACLASSES)
def test_every_field_is_an_option(words: str) -> None:
    options = {name: option for option in COMMANDS[words].params for name in option.opts}
    missing = [field.name for field in fields(DATACLASSES[words]) if option_flag(field.name) not in options]
    assert not missing


@dataclass(frozen=True)
class Sample:
    """Every kind of field."""

    count: int = setting(5_000, "Count.")
    small: float = setting(1e-9**0.5, "Small number.")
    rooted: float = setting(1e-9**0.5, "Root.", shown="√1e-9")
    share: float = setting(0.25, "Share.")
    zero: int = setting(0, "Cores.", shown="all")
    name: str | None = setting(None, "File.", metavar="FILE")
    kind: str = setting("b", "Kind.", choices=("a", "b"))
    flag: bool = setting(False, "Flag.")
    internal: int = 3


def _invoke(*arguments: str, recipes: list[dict] | None = None) -> tuple[dict, str]:
    seen: dict = {}

    @click.command()
    @dataclass_options(Sample, recipes)
    def command(**values: object) -> None:
        seen.update(values)

    assert CliRunner().invoke(command, arguments).exit_code == 0
    return seen, CliRunner().invoke(command, ["--help"], terminal_width=200).output


def test_options_have_the_types_and_defaults_of_their_fields() -> None:
    values, shown = _invoke()
    assert values == {
        "count": 5000,
        "small": 1e-9**0.5,
        "rooted": 1e-9**0.5,
        "share": 0.25,
        "zero": 0,
        "name": None,
        "kind": "b",
        "flag": False,
    }
    for line in (
        "--count INTEGER Count. [default: 5000]",
        "--small FLOAT Small number. [default: 3.16e-5]",
        "--rooted FLOAT Root. [default: √1e-9]",
        "--share FLOAT Share. [default: 0.25]",
        "--zero INTEGER Cores. [default: all]",
        "--name FILE File. --kind",
        "--kind [a|b] Kind. [default: b]",
        "--flag Flag. --help",
    ):
        assert line in " ".join(shown.split())
    given, _ = _invoke("--count", "7", "--kind", "a", "--name", "x", "--flag", "--small", "2")
    assert (given["count"], given["kind"], given["name"], given["flag"], given["small"]) == (7, "a", "x", True, 2.0)


def test_options_of_recipes_are_none_unless_given() -> None:
    recipes = [{"count": 1, "flag": True, "share": 2e-4}, {"count": 2, "share": 2e-4}]
    values, shown = _invoke(recipes=recipes)
    assert set(values.values()) == {None}
    flat = " ".join(shown.split())
    for line in (
        "--count INTEGER Count. [default: set by the recipe]",
        "--share FLOAT Share. [default: 2e-4]",  # all recipes agree
        "--rooted FLOAT Root. [default: √1e-9]",
        "--flag / --no-flag Flag. [default: set by the recipe]",
    ):
        assert line in flat
    given, _ = _invoke("--no-flag", "--count", "3", recipes=recipes)
    assert (given["flag"], given["count"], given["share"]) == (False, 3, None)
