# SPDX-License-Identifier: Apache-2.0
"""Options of a job that stand in files: `rvrt.toml` beside the source, and in the user's configuration folder.

A value on the command line prevails over one beside the source, that one over the user's, and that one over the default.
The files are untrusted input: bounded and validated.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from rvrt_cli.cli.generated_options import shown_default
from rvrt_cli.errors import OptionError
from rvrt_cli.files import config_folder, tomllib
from rvrt_cli.options import JobOptions, RestoreOptions, UpscaleOptions, option_flag

Chosen = TypeVar("Chosen", bound=JobOptions)
OPTION_FILE = "rvrt.toml"
COMMAND_LINE, DEFAULT = "the command line", "default"
_MAX_BYTES = 64 << 10
_COMMANDS: dict[str, type[JobOptions]] = {"upscale": UpscaleOptions, "restore": RestoreOptions}  # with their own tables
_COMMAND_LINE_ONLY = {"overwrite"}  # a file that came with a video must not delete others
# Only one of each is used: one that prevails sets the others aside
_ALTERNATIVES = ({"crf", "quality", "lossless"}, {"model", "weights"}, {"scale", "size"}, {"deinterlace", "ivtc"})
# What is chosen for one encoder, and set aside by another --codec
_OF_THE_ENCODER = {"crf", "preset", "pix_fmt", "encoder_option"}
_EXPECTED_VALUES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class SourcedOptions(Generic[Chosen]):
    """Options of a job, and where each of them comes from: `COMMAND_LINE`, the path of a file, or `DEFAULT`."""

    options: Chosen
    origins: dict[str, str]

    def lines(self) -> list[str]:
        """Every option and its value, one line for each origin."""
        found: dict[str, list[str]] = {}
        unset = []
        for entry in fields(self.options):
            origin, value = self.origins[entry.name], getattr(self.options, entry.name)
            text = shown_default(entry) if origin == DEFAULT else _written(value)
            if text:
                found.setdefault(origin, []).append(f"{option_flag(entry.name)} {text}")
            else:
                unset.append(option_flag(entry.name))
        places = sorted(found, key=lambda origin: (origin == DEFAULT, origin != COMMAND_LINE))
        lines = [f"{'' if place == DEFAULT else 'from '}{place}: {', '.join(found[place])}" for place in places]
        return [*lines, f"not set: {', '.join(unset)}"]

    def notes(self) -> list[str]:
        """Which options come from files, one line for each."""
        return [
            line for line in self.lines() if line.startswith("from ") and not line.startswith(f"from {COMMAND_LINE}:")
        ]

    def to_dict(self) -> dict[str, Any]:
        """Value and origin by the name of the option, for JSON."""
        return {
            entry.name.replace("_", "-"): {"value": getattr(self.options, entry.name), "from": self.origins[entry.name]}
            for entry in fields(self.options)
        }


def sourced_options(kind: type[Chosen], values: Mapping[str, Any], source: str) -> SourcedOptions[Chosen]:
    """The options of a command, from its command line and the files that apply to `source`.

    Args:
        values: of the fields of `kind`, as click has them, defaults included.

    Raises:
        OptionError: a value cannot be used, or a file has an unknown option; it names the file.
    """
    context = click.get_current_context()
    names = [entry.name for entry in fields(kind)]
    given = {name: values[name] for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    chosen, origins = dict(given), dict.fromkeys(given, COMMAND_LINE)
    for path in find_option_files(source):
        found = _still_open(read_option_file(path, kind), chosen)
        chosen |= found
        origins |= dict.fromkeys(found, str(path))
    with explain_origin(origins):
        return SourcedOptions(kind(**chosen), {name: origins.get(name, DEFAULT) for name in names})


def _still_open(found: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """The entries of a file that nothing which prevails over it sets aside."""
    closed = set(chosen)
    for group in _ALTERNATIVES:
        if any(chosen.get(name) not in (None, False) for name in group):
            closed |= group
    if "codec" in chosen and found.get("codec", chosen["codec"]) != chosen["codec"]:
        closed |= _OF_THE_ENCODER
    return {name: value for name, value in found.items() if name not in closed}


@contextlib.contextmanager
def explain_origin(origins: Mapping[str, str]) -> Iterator[None]:
    """Inside, an error about an option that a file sets names that file."""
    try:
        yield
    except OptionError as error:
        words = str(error).replace(",", " ").replace(":", " ").replace(";", " ").split()
        for name, origin in origins.items():
            if option_flag(name) in words and origin not in (COMMAND_LINE, DEFAULT):
                raise OptionError(f"{error} ({option_flag(name)} is set in {origin})") from error
        raise


def find_option_files(source: str) -> list[Path]:
    """The files that apply to `source`, the one that prevails first.

    That beside the source is in its folder; for a folder of images it may be within, too.
    """
    folders = [config_folder()]
    if source != "-":
        path = Path(source).absolute()
        folders = [path.parent, *folders]
        if path.is_dir() and (path / OPTION_FILE).is_file():
            folders[0] = path
    found = [folder / OPTION_FILE for folder in dict.fromkeys(folders)]
    return [path for path in found if path.is_file()]


def read_option_file(path: Path, kind: type[JobOptions]) -> dict[str, Any]:
    """The options for a command in a file, by the name of the field; those of the command's own table prevail.

    Raises:
        OptionError: it cannot be read, or has an unknown option or one of another type.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise OptionError(f"{path}: larger than {_MAX_BYTES >> 10} KiB; options need less, check what it is")
        content = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror}); change its permissions or remove it") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"{path}: not TOML ({error}); write lines such as crf = 18") from error
    tables = {name: content.pop(name) for name in _COMMANDS if isinstance(content.get(name), dict)}
    found = _checked_entries(path, content, tuple(_COMMANDS.values()))
    for name, table in tables.items():
        own = _checked_entries(path, table, (_COMMANDS[name],))
        if _COMMANDS[name] is kind:
            found = {**_still_open(found, own), **own}
    return {name: value for name, value in found.items() if name in {entry.name for entry in fields(kind)}}


def _checked_entries(path: Path, table: Mapping[str, Any], kinds: tuple[type[JobOptions], ...]) -> dict[str, Any]:
    """Values by field; each must be an option of one of the commands."""
    hints = {name: (entry, hint) for kind in kinds for name, entry, hint in _fields_of(kind)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in _COMMAND_LINE_ONLY:
            raise OptionError(f"{path}: {key} can be given on the command line alone; remove it from the file")
        if name not in hints:
            similar = difflib.get_close_matches(name, hints, 1, cutoff=0.5)
            hint = f"; did you mean {similar[0].replace('_', '-')}?" if similar else "; see rvrt upscale --help"
            raise OptionError(f"{path}: there is no option {key!r}{hint}")
        found[name] = _converted(path, key, value, *hints[name])
    return found


def _fields_of(kind: type[JobOptions]) -> Iterator[tuple[str, Any, Any]]:
    types = get_type_hints(kind)
    for entry in fields(kind):
        yield entry.name, entry, types[entry.name]


def _converted(path: Path, key: str, value: Any, entry: Any, hint: Any) -> Any:
    """A value of TOML as the option has it: text for numbers where the option is text, and a table of an encoder's options."""
    if get_origin(hint) is tuple:
        if isinstance(value, dict):
            value = [f"{name}={number}" for name, number in value.items()]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise OptionError(f"{path}: {key}: write a table, such as {key} = {{ aq-mode = 3 }}")
    kind = next((part for part in get_args(hint) if part is not NoneType), hint)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    parse = entry.metadata["parse"]
    if parse is not None and isinstance(value, str):
        try:
            return parse(value)
        except OptionError as error:
            raise OptionError(f"{path}: {key}: {error}") from error
    fits = {
        bool: isinstance(value, bool),
        int: number and isinstance(value, int),
        float: number,
        str: isinstance(value, str) or number,
    }
    if not fits[kind]:
        raise OptionError(f"{path}: {key} = {value!r}: write {_EXPECTED_VALUES[kind]}")
    return kind(value)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
