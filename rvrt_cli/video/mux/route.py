# SPDX-License-Identifier: Apache-2.0
"""How one stream of the source reaches the output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """The way of one stream into the output.

    `how` is one of

    - "copy": its packets are copied.
    - "attach": Matroska stores cover art as an attached file.
    - "transcode": ffmpeg re-encodes it with the encoder `codec`.
    - "relay": ffmpeg remuxes it, since it knows how Matroska marks encoder delay (AAC's priming samples).
    """

    index: int
    how: str
    codec: str = ""
    channels: int = 0  # of audio to transcode
    layout: str = ""  # ffmpeg's name of the output channel layout, where the encoder does not accept every layout
