# SPDX-License-Identifier: Apache-2.0
"""A GIF from a losslessly encoded video: one palette for all frames, found in a first pass."""

from __future__ import annotations

from pathlib import Path

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import FFmpeg, file_url


def write_gif(video: Path, palette: Path, output: Path) -> Path:
    """Write `output`, which repeats forever, and `palette`, an image of its 256 colors; returns `output`.

    Two passes: in one, ffmpeg would hold all frames until the palette is known.

    Raises:
        MediaError: ffmpeg has failed.
    """
    source = ["-y", "-copyts", "-i", file_url(video)]
    _run_ffmpeg(
        output,
        [*source, "-vf", "palettegen=reserve_transparent=0", "-frames:v", "1", "-update", "1", file_url(palette)],
    )
    dithered = ["-i", file_url(palette), "-lavfi", "[0:v][1:v]paletteuse=dither=sierra2_4a"]
    _run_ffmpeg(output, [*source, *dithered, "-fps_mode", "passthrough", "-loop", "0", "-f", "gif", file_url(output)])
    return output


def _run_ffmpeg(output: Path, arguments: list[str]) -> None:
    ffmpeg = FFmpeg(arguments)
    try:
        if ffmpeg.wait() != 0:
            raise MediaError(f"{output}: cannot be encoded: {ffmpeg.last_error()}; run it again")
    finally:
        ffmpeg.kill()
