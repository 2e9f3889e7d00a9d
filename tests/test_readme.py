"""Every command in the README is one that the program accepts, and CI runs the README's test command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from rvrt_cli.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    part.split("#")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    for part in line.split("&&")
    if part.strip().startswith("rvrt ")
]


def test_readme_has_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_is_valid(command: str) -> None:
    words = shlex.split(re.split(r" [<>] ?\S", command)[0])[1:]
    found: click.Command = cli
    while isinstance(found, click.Group):
        assert words, f"{command!r} stops at a group"
        assert words[0] in found.commands, f"{command!r}: there is no {words[0]!r}"
        found = found.commands[words.pop(0)]
    options = {name: option for option in found.params for name in (*option.opts, *option.secondary_opts)}
    positional = 0
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            assert word in options, f"{command!r}: {word} is not an option of {found.name}"
            option = options[word]
            if isinstance(option, click.Option) and not option.is_flag:
                option.type.convert(words.pop(0), option, None)
        else:
            positional += 1
    arguments = [parameter for parameter in found.params if isinstance(parameter, click.Argument)]
    assert positional >= sum(argument.required for argument in arguments), f"{command!r} lacks an argument"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    [line] = [line for block in BLOCKS for line in block.splitlines() if "pytest" in line]
    script = (ROOT / ".ci" / "run").read_text()
    for command in line.split(" && "):
        assert command.split()[0] in script
        assert re.sub(r"^pip install ", "", command).strip() in script


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`((?:tests|weights|\.ci)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name
