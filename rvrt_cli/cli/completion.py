# SPDX-License-Identifier: Apache-2.0
"""`rvrt completion`: commands, options and file names on the Tab key."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
_FILE_ARGUMENTS = {"source", "sources", "target", "before", "after", "truth"}


@click.command("completion", short_help="Print shell completion for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and file names in SHELL.

    \b
    Examples:
      rvrt completion bash > ~/.local/share/bash-completion/completions/rvrt
      rvrt completion zsh > ~/.zfunc/_rvrt
      rvrt completion fish > ~/.config/fish/completions/rvrt.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # its template, and not `source()`, which for bash runs bash to see whether it is new enough
    script = kind(context.find_root().command, {}, "rvrt", "_RVRT_COMPLETE")
    click.echo(kind.source_template % script.source_vars())


def complete_file_names(command: click.Command) -> None:
    """Let the shell complete file names for arguments and options that name a file, of a command and those below it."""
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        complete_file_names(part)
    for parameter in command.params:
        is_argument = isinstance(parameter, click.Argument) and parameter.name in _FILE_ARGUMENTS
        names_file = any(word in (parameter.metavar or "") for word in ("FILE", "FOLDER"))
        if parameter.type is click.STRING and (is_argument or names_file):
            parameter.type = click.Path()  # which passes on the same text, whatever it names
