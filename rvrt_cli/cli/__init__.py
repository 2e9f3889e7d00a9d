# SPDX-License-Identifier: Apache-2.0
"""The command line: one file per command; parse, call one function, print. Heavy imports are inside the functions.

- `upscale`, `restore`, `preview`, `check`, `compare`, `preprocess`, `train`, `bench`, `weights`, `export`, `doctor`, `cache`:
  the commands; `completion` completes them in a shell.
- `generated_options` makes their options from the options dataclasses; `option_files` reads those that stand in files.
- `run_queue` does the jobs of several sources; `job_reports` is what is shown of each.
- `display` shows how far they are; `formatting` and `bench_tables` print numbers and results.
- `interrupt` handles Ctrl-C.
"""

from __future__ import annotations

import os
import re
import signal
import sys

import click

from rvrt_cli.cli.bench import bench_command
from rvrt_cli.cli.cache import cache_group
from rvrt_cli.cli.check import check_command
from rvrt_cli.cli.compare import compare_command
from rvrt_cli.cli.completion import complete_file_names, completion_command
from rvrt_cli.cli.doctor import doctor_command
from rvrt_cli.cli.export import export_command
from rvrt_cli.cli.interrupt import exit_after_interrupt, interrupt
from rvrt_cli.cli.preprocess import preprocess_group
from rvrt_cli.cli.preview import preview_command
from rvrt_cli.cli.restore import restore_command
from rvrt_cli.cli.train import train_command
from rvrt_cli.cli.upscale import upscale_command
from rvrt_cli.cli.weights import weights_group
from rvrt_cli.errors import RvrtError, in_one_line


class _OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they were added, not by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_OrderedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rvrt", prog_name="rvrt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Video super-resolution, deblurring and denoising with RVRT on MindSpore: CPU, NVIDIA GPU, Ascend NPU.

    \b
    Examples:
      rvrt upscale in.mp4 out.mp4
      rvrt weights list
      rvrt bench --protocol clips
    """


for _command in (
    upscale_command,
    restore_command,
    preview_command,
    check_command,
    compare_command,
    weights_group,
    export_command,
    bench_command,
    preprocess_group,
    train_command,
    doctor_command,
    cache_group,
    completion_command,
):
    cli.add_command(_command)
complete_file_names(cli)


def main() -> None:
    """Run the command line; a user sees one line for an error, and exit status 1."""
    _keep_standard_streams()
    # Clean up on SIGTERM as on Ctrl-C; MindSpore, once it has compiled something, turns the latter into the former.
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    try:
        status = cli.main(prog_name="rvrt", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("rvrt: interrupted", err=True)
        exit_after_interrupt()
    except click.ClickException as error:
        status = error.exit_code
        click.echo(_usage_message(error), err=True)
    except BrokenPipeError:  # the reader of our output is gone
        status = 1
        sys.stderr.close()
    except (RvrtError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"rvrt: {in_one_line(error)}", err=True)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _keep_standard_streams() -> None:
    """Open the standard streams that are closed (2>&-): else the next file opened would take the number of one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number; writing to it fails as before
    try:
        os.write(2, b"")
    except OSError:  # it was closed, or is the script that called us, which a shell has opened under this number
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the program runs


def _usage_message(error: click.ClickException) -> str:
    """What is wrong with a command line, in one line; a group without a command gets its help."""
    if isinstance(error, click.UsageError) and error.ctx and error.message == error.ctx.get_help():
        return error.message
    text = " ".join(error.format_message().split()).replace(". (", " (").rstrip(".")
    if isinstance(error, click.NoSuchOption):
        files = [word for word in sys.argv[1:] if re.fullmatch(r"-[^-].*\.\w+", word)]
        text += "".join(f"; a file of this name is ./{word}" for word in files[:1])
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "rvrt"
    return f"rvrt: {text}; see {command} --help"
