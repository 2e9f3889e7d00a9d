# SPDX-License-Identifier: Apache-2.0
"""Codecs and channel layouts for audio that a container cannot hold as it is."""

from __future__ import annotations

from typing import Any

import av

# Matroska holds nearly every codec, some under its own codec names and others under those of Windows. PyAV copies only
# the former; the latter are re-encoded losslessly.
_FALLBACK_ENCODERS = {"mp4": "aac", "mov": "aac", "matroska": "flac", "webm": "libopus"}
_LOSSLESS_FALLBACK_ENCODERS = {"mp4": "alac", "mov": "alac"}
# The layouts that libopus accepts; 5.1(side), which AC-3 uses, is not among them
_OPUS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")


def fallback_encoder(codec: str, muxer: str) -> str:
    """The encoder for audio of `codec` that the container cannot hold: a lossless one for lossless audio, if possible."""
    lossless = bool(av.Codec(codec, "r").lossless)
    return (lossless and _LOSSLESS_FALLBACK_ENCODERS.get(muxer)) or _FALLBACK_ENCODERS[muxer]


def opus_layout(layout: Any) -> tuple[str, bool]:
    """(smallest Opus layout with a place for every channel of `layout`, whether there is one)."""
    if layout.name.endswith(" channels"):  # unnamed channels: the default layout of this count
        layout = av.AudioLayout(f"{layout.nb_channels}c")
    channels = {channel.name for channel in layout.channels}
    side_as_back = {channel.replace("S", "B") if channel in ("SL", "SR") else channel for channel in channels}
    for name in _OPUS_LAYOUTS:
        available = {channel.name for channel in av.AudioLayout(name).channels}
        if channels <= available or (len(side_as_back) == len(channels) and side_as_back <= available):
            return name, True
    return _OPUS_LAYOUTS[-1], False
