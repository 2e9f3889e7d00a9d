# SPDX-License-Identifier: Apache-2.0
"""The documentation: commands that the program accepts, files and links that exist, figures that agree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from rvrt_cli.cli import cli
from rvrt_cli.video.read.video_files import VIDEO_SUFFIXES
from rvrt_cli.weights import find_weights, read_about

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
MAX_README_LINES = 120


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of these languages."""
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """The `rvrt` commands of a page's `bash` blocks, without comments."""
    return [
        part.split("#")[0].strip()
        for block in blocks(page, "bash")
        for line in block.splitlines()
        for part in line.split("&&")
        if part.strip().startswith("rvrt ")
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_readme_is_short_and_has_commands() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
    assert len(commands(PAGES[0])) >= 8
    assert sum(len(commands(page)) for page in PAGES) >= 30


@pytest.mark.parametrize(
    "command", [pytest.param(text, id=f"{name(page)}: {text}") for page in PAGES for text in commands(page)]
)
def test_documented_command_is_valid(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # some options take existing files
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
    needed = sum(argument.required for argument in arguments)
    if "--output-dir" in options:  # SOURCE and TARGET without it, any number of sources with it
        needed = 1 if "--output-dir" in command else 2
    assert positional >= needed, f"{command!r} lacks an argument"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_documented_paths_exist(page: Path) -> None:
    """Repository paths in code, such as `rvrt_cli/ops/kernels/*.cc`, also behind a CHECKOUT/."""
    text = page.read_text(encoding="utf-8")
    code = [*re.findall(r"`([^`\n]+)`", text), *blocks(page, "bash", "sh")]
    for part in code:
        for path in re.findall(
            r"(?<![\w./-])(?:CHECKOUT/)?((?:tests|weights|docs|rvrt_cli|\.ci|\.github)/[\w./*-]*)", part
        ):
            assert list(ROOT.glob(path.rstrip("/") or ".")), f"{name(page)}: {path} does not exist"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_relative_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith(("http://", "https://", "#")):
            target = page.parent / link.split("#")[0]
            assert target.exists(), f"{name(page)}: {link} does not resolve"


def test_every_docs_page_is_linked_from_the_readme() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert f"({name(page)})" in text


def test_file_types_that_a_queue_searches_for_are_listed() -> None:
    [paragraph] = re.findall(r"`\.3g2`.*?\n\n", (ROOT / "docs" / "resume.md").read_text(encoding="utf-8"), re.DOTALL)
    assert set(re.findall(r"`(\.\w+)`", paragraph)) == VIDEO_SUFFIXES


def test_ci_runs_the_test_command_of_the_readme() -> None:
    [line] = [line for block in blocks(PAGES[0], "bash") for line in block.splitlines() if "pytest" in line]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in line.split(" && "):
        assert command.split()[0] in script
        assert re.sub(r"^pip install ", "", command).strip() in script
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_model_card_front_matter_agrees_with_the_embedded_weights() -> None:
    front_matter = (ROOT / "weights" / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    card = read_about(find_weights("rvrt-tiny")).card
    gains = [float(value) for value in re.findall(r"above bicubic.*\n\s+value: (\S+)", front_matter)]
    assert gains == pytest.approx([card["scores"]["gain"]["clean"], card["scores"]["gain"]["h264"]], abs=5e-3)
    assert re.search(r"^license: (\S+)$", front_matter, re.MULTILINE)[1] == card["license"].lower()
    assert f"- name: {card['name']}\n" in front_matter
