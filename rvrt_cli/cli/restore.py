# SPDX-License-Identifier: Apache-2.0
"""`rvrt restore`: deblur or denoise a video or images."""

from __future__ import annotations

from typing import Any

import click

from rvrt_cli.cli.generated_options import dataclass_options
from rvrt_cli.cli.upscale import job_flags, run_sources, source_arguments
from rvrt_cli.options import QueueOptions, RestoreOptions


@click.command("restore", short_help="Deblur or denoise videos or images.")
@source_arguments
@dataclass_options(RestoreOptions)
@dataclass_options(QueueOptions)
@job_flags
def restore_command(sources: tuple[str, ...], **values: Any) -> None:
    """Deblur or denoise SOURCE into TARGET at its own size, keeping timestamps, audio and colors.

    SOURCE, TARGET, several sources and resuming are as for rvrt upscale. The networks for it are published, not embedded:
    rvrt weights pull rvrt-deblur-gopro. For denoising, --sigma says how noisy the frames are; auto estimates it from
    frames spread over SOURCE, by the method of Chen, Zhu and Heng (ICCV 2015), and prints it.

    \b
    Examples:
      rvrt restore in.mp4 out.mp4 --model rvrt-deblur-gopro
      rvrt restore in.mp4 out.mp4 --model rvrt-denoise-davis --sigma 25
      rvrt restore frames/ restored/ --model rvrt-denoise-davis --sigma auto
    """
    run_sources(RestoreOptions, sources, values)
