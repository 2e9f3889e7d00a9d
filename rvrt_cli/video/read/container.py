# SPDX-License-Identifier: Apache-2.0
"""Containers through PyAV: opening one safely, and demuxing damaged ones."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video.ffmpeg import file_url

# Formats that are scripts for opening other files or addresses, or that accept any text as video
_REFUSED_FORMATS = {"tty", "concat", "hls", "dash", "applehttp", "sdp", "rtsp", "lavfi", "imf", "webm_dash_manifest"}
# Formats whose timestamps start anywhere; only differences mean something
_FREE_CLOCK_FORMATS = {"mpegts", "mpeg", "mpegtsraw", "rtp", "vob"}
# Nor do these formats list their streams at the beginning: audio that starts late is known by its first packet
DEEP_PROBE_OPTIONS = {"analyzeduration": "600000000", "probesize": str(64 << 20)}
_MAX_INDEX_ERRORS = 100


@contextlib.contextmanager
def open_container(path: str | Path, content: bytes | None = None) -> Iterator[Any]:
    """A PyAV container on the file of exactly this name; nothing else is ever opened (no address, no playlist).

    Args:
        content: what to read in place of the file.

    Raises:
        MediaError: it cannot be opened as audio or video.
    """
    options = {"protocol_whitelist": "file"}
    try:
        source = file_url(path) if content is None else io.BytesIO(content)
        container = av.open(source, metadata_errors="replace", options=options)
        if has_free_clock(container):
            container.close()
            container = av.open(file_url(path), metadata_errors="replace", options={**options, **DEEP_PROBE_OPTIONS})
    except PermissionError as error:
        raise MediaError(f"{path}: no permission to read this file; change its permissions") from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{path}: not a video that ffmpeg can read ({reason(error)})") from error
    with container:
        if set(container.format.name.split(",")) & _REFUSED_FORMATS:
            raise MediaError(f"{path}: not a video, but text or a list of other files; name the video itself")
        yield container


def has_free_clock(container: Any) -> bool:
    """Whether the format's timestamps start anywhere, as in MPEG-TS."""
    return bool(set(container.format.name.split(",")) & _FREE_CLOCK_FORMATS)


def demux_packets(container: Any, streams: Any) -> Iterator[Any]:
    """The packets of one stream or a list of them, to the end of the file.

    PyAV raises IndexError at packets of a stream that was not announced in the header (FLV), and again at the end.
    """
    errors = 0
    while errors < _MAX_INDEX_ERRORS:
        try:
            for packet in container.demux(streams):
                errors = 0 if packet.size else errors
                yield packet
            return
        except IndexError:
            errors += 1


def disposition(stream: Any) -> int:
    """ffmpeg's disposition flags of a stream; an enumeration in PyAV up to version 17, a number since."""
    flags = stream.disposition
    return int(getattr(flags, "value", flags))


def reason(error: BaseException) -> str:
    """The text of a PyAV error without its number and file name."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0]
