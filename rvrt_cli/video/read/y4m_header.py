# SPDX-License-Identifier: Apache-2.0
"""The header of a y4m stream ("YUV4MPEG2") on standard input; untrusted input: bounded and validated."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from fractions import Fraction

import av

from rvrt_cli.errors import MediaError

MAX_HEADER = 1024  # bytes; typical headers have about 80
MAX_SIDE = 16384  # px
_DEFAULT_Y4M_RATE = Fraction(25)

_Y4M_PIX_FMTS = {
    "420": "yuv420p",
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "411": "yuv411p",
    "422": "yuv422p",
    "444": "yuv444p",
    "mono": "gray",
    **{f"420p{bits}": f"yuv420p{bits}le" for bits in (9, 10, 12, 14, 16)},
    **{f"422p{bits}": f"yuv422p{bits}le" for bits in (9, 10, 12, 14, 16)},
    **{f"444p{bits}": f"yuv444p{bits}le" for bits in (9, 10, 12, 14, 16)},
    **{f"mono{bits}": f"gray{bits}le" for bits in (9, 10, 12, 16)},
}


@dataclass(frozen=True)
class Y4mHeader:
    """Content of a y4m header. Sizes in px; `rate` in frames/s; `range` "tv", "pc" or None where it is not given."""

    raw: bytes
    width: int
    height: int
    rate: Fraction
    sample_aspect: Fraction
    interlaced: bool
    pix_fmt: str
    range: str | None


def stdin_descriptor() -> int:
    """The file descriptor of standard input.

    Raises:
        MediaError: there is none.
    """
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise MediaError("-: this program has no standard input; name a file") from error


def read_header(descriptor: int) -> Y4mHeader:
    """Read a y4m header from an open file descriptor, and not one byte more.

    Raises:
        MediaError: it is not a y4m header, is longer than 1 KiB, or has values out of range or unknown.
    """
    raw = bytearray()
    while not raw.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte or len(raw) >= MAX_HEADER or (len(raw) == 10 and not raw.startswith(b"YUV4MPEG2 ")):
            break
        raw += byte
    return parse_header(bytes(raw))


def parse_header(raw: bytes) -> Y4mHeader:
    """Parse a header line, its newline included.

    Raises:
        MediaError: see `read_header`.
    """
    if not raw:
        raise MediaError("-: standard input is empty; pipe a y4m stream into it")
    if not raw.startswith(b"YUV4MPEG2 ") or not raw.endswith(b"\n"):
        raise MediaError("-: standard input is not a y4m stream; make one with `ffmpeg -i FILE -f yuv4mpegpipe -`")
    fields: dict[str, str] = {}
    for word in raw[10:].decode("ascii", "replace").split():
        fields["X" + word[1:].partition("=")[0] if word[0] == "X" else word[0]] = word[1:]
    width, height = _side_length(fields.get("W", "")), _side_length(fields.get("H", ""))
    chroma = fields.get("C", "420")
    if chroma not in _Y4M_PIX_FMTS:
        raise MediaError(
            f"-: the y4m stream has pixel format C{chroma[:20]}, which is not supported; convert it to C420 or C444"
        )
    return Y4mHeader(
        raw=raw,
        width=width,
        height=height,
        rate=_ratio(fields.get("F", ""), Fraction(1, 1000), Fraction(100_000)) or _DEFAULT_Y4M_RATE,
        sample_aspect=_ratio(fields.get("A", ""), Fraction(1, 100), Fraction(100)) or Fraction(1),
        interlaced=fields.get("I", "p")[:1] in ("t", "b", "m"),
        pix_fmt=_Y4M_PIX_FMTS[chroma],
        range={"FULL": "pc", "LIMITED": "tv"}.get(fields.get("XCOLORRANGE", "").rpartition("=")[2]),
    )


def y4m_frame_bytes(pix_fmt: str, width: int, height: int) -> int:
    """Number of bytes that follow each line "FRAME"."""
    components = av.VideoFormat(pix_fmt, width, height).components
    return sum(part.width * part.height * ((part.bits + 7) // 8) for part in components)


def _side_length(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_SIDE:
        raise MediaError(f"-: the y4m header gives a side of {text[:20] or 'no'} px; 1 to {MAX_SIDE} px can be read")
    return int(text)


def _ratio(text: str, low: Fraction, high: Fraction) -> Fraction | None:
    """`text` as a ratio; None when it is missing or 0, which means unknown in y4m."""
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not match or not int(match[1]) or not int(match[2]):
        return None
    value = Fraction(int(match[1]), int(match[2]))
    if not low <= value <= high:
        raise MediaError(f"-: the y4m header gives a ratio out of range, {text}; {low} to {high} can be read")
    return value
