# SPDX-License-Identifier: Apache-2.0
"""Command-line options generated from the options dataclasses, which hold the defaults and the help texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

from rvrt_cli.errors import OptionError
from rvrt_cli.options import option_flag

Command = TypeVar("Command", bound=Callable)
Options = TypeVar("Options")


def dataclass_options(
    options: type, recipes: Sequence[Mapping[str, Any]] | None = None
) -> Callable[[Command], Command]:
    """A decorator that gives a command one option per field of `options` that has a help text, in order.

    The metadata of a field is that of `rvrt_cli.options.setting`.

    Args:
        recipes: entries by field name, where the defaults come from recipes: an option that is not given is then None,
            and its help shows a default only where all recipes agree on it.
    """
    types = get_type_hints(options)

    def decorate(command: Command) -> Command:
        for entry in reversed([entry for entry in fields(options) if "help" in entry.metadata]):
            command = _click_option(entry, types[entry.name], recipes)(command)
        return command

    return decorate


def options_of(options: type[Options], values: Mapping[str, Any]) -> Options:
    """The dataclass `options`, of a command's values by parameter name; a command may have others besides.

    Raises:
        OptionError: a value cannot be used.
    """
    return options(**{field.name: values[field.name] for field in fields(options)})  # type: ignore[arg-type]


def with_default(help: str, default: str) -> str:
    """A help text with its default: click itself would put words in parentheses, as in [default: (5000)]."""
    return f"{help}  [default: {default}]"


def _click_option(entry: Field, hint: Any, recipes: Sequence[Mapping[str, Any]] | None) -> Callable:
    parts = [part for part in get_args(hint) if part not in (NoneType, Ellipsis)]
    kind = parts[0] if parts else hint  # str of `str | None` and of `tuple[str, ...]`
    name, help = option_flag(entry.name), entry.metadata["help"]
    shown = shown_default(entry) if recipes is None else _shown_by_recipes(entry, recipes)
    if shown:
        help = with_default(help, shown)
    default = None if recipes is not None or entry.default is MISSING else entry.default
    if kind is bool:
        if recipes is not None:  # a recipe may say yes, so that there has to be a way to say no
            return click.option(f"{name}/--no-{name[2:]}", default=None, help=help)
        negation = f"/--no-{name[2:]}" if entry.metadata.get("negatable") else ""
        return click.option(name + negation, is_flag=True, default=default, help=help)
    choices, parse = entry.metadata.get("choices"), entry.metadata.get("parse")
    return click.option(
        name,
        type=click.Choice(choices) if choices else _Parsed(kind, parse) if parse else kind,
        default=default,
        multiple=get_origin(hint) is tuple,
        metavar=entry.metadata.get("metavar"),
        help=help,
    )


class _Parsed(click.ParamType):
    """Values of a type of their own, made from text by a function that raises OptionError."""

    def __init__(self, kind: type, parse: Callable[[str], Any]) -> None:
        self.name = kind.__name__
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # the default
            return value
        try:
            return self._parse(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


def shown_default(entry: Field) -> str:
    """The default as people write it; empty where there is none to speak of."""
    shown = entry.metadata.get("shown")
    return _as_written(entry.default) if shown is None else shown


def _shown_by_recipes(entry: Field, recipes: Sequence[Mapping[str, Any]]) -> str:
    values = {recipe.get(entry.name, entry.default) for recipe in recipes}
    if len(values) > 1:
        return "set by the recipe"
    value = values.pop()
    return shown_default(entry) if value == entry.default else _as_written(value)


def _as_written(value: Any) -> str:
    """0.25, 2e-4, 30: no more than three significant digits of a float; empty for flags and where nothing is set."""
    if value in (None, "", (), MISSING) or isinstance(value, bool):
        return ""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
