# SPDX-License-Identifier: Apache-2.0
"""`rvrt export`: the streaming network as a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rvrt_cli.cli.display import open_display
from rvrt_cli.cli.formatting import megabytes
from rvrt_cli.cli.generated_options import dataclass_options, options_of
from rvrt_cli.errors import printable
from rvrt_cli.export.export_options import ExportOptions


@click.command("export", short_help="Export a network to ONNX or MindIR.")
@click.argument("target", type=click.Path(path_type=Path))
@dataclass_options(ExportOptions)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def export_command(target: Path, debug: bool, **values: Any) -> None:
    """Export a network to TARGET, an ONNX file for other runtimes, or a MindIR file for Ascend and MindSpore Lite.

    The model upscales one window of a video. Its inputs are the frames and the recurrent state of the window before, its
    outputs the upscaled frames and the next state; docs/export.md describes them.

    \b
    Examples:
      rvrt export rvrt-tiny.onnx
      rvrt export rvrt-tiny.onnx --frames 6 --size 320x180
      rvrt export rvrt.onnx --model rvrt-bi-vimeo
      rvrt export rvrt-tiny.mindir --size 320x180
    """
    options = options_of(ExportOptions, values)
    from rvrt_cli.export.export_network import check_export, export_network

    check_export(target, options)
    with open_display("", lines=False, transient=True).working("exporting the network"):
        model = export_network(target, options)
    size = "any size" if model.size is None else f"{model.size[1]}x{model.size[0]} px"
    click.echo(
        printable(
            f"wrote {target}: {model.card['name']}, windows of {model.frames} + {model.lookahead} frames of {size}, "
            f"{model.precision}, {megabytes(target.stat().st_size)}"
        )
    )
