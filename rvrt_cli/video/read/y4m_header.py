"""The header of a y4m stream ("YUV4MPEG2"), read from foreign hands: bounded, checked, nothing believed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction

import av

from rvrt_cli.errors import MediaError

MAX_HEADER = 1024  # bytes; real ones have about 80
MAX_SIDE = 16384  # px
_DEFAULT_RATE = Fraction(25)

_FORMATS = {
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
    """What a y4m header says. Sizes in px; `rate` in frames/s; `range` "tv", "pc" or None where it does not say."""

    raw: bytes
    width: int
    height: int
    rate: Fraction
    sample_aspect: Fraction
    interlaced: bool
    pix_fmt: str
    range: str | None


def read_header(descriptor: int) -> Y4mHeader:
    """Read a y4m header from an open file descriptor, and not one byte more.

    Raises:
        MediaError: it is none, has no end within 1 KiB, or asks for something absurd or unknown.
    """
    raw = bytearray()
    while not raw.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte or len(raw) >= MAX_HEADER or (len(raw) == 10 and not raw.startswith(b"YUV4MPEG2 ")):
            break
        raw += byte
    return parse_header(bytes(raw))


def parse_header(raw: bytes) -> Y4mHeader:
    """The meaning of a header line, its newline included.

    Raises:
        MediaError: see `read_header`.
    """
    if not raw:
        raise MediaError("-: nothing came on standard input; pipe a y4m stream into it")
    if not raw.startswith(b"YUV4MPEG2 ") or not raw.endswith(b"\n"):
        raise MediaError("-: standard input is not a y4m stream; make one with `ffmpeg -i FILE -f yuv4mpegpipe -`")
    fields: dict[str, str] = {}
    for word in raw[10:].decode("ascii", "replace").split():
        fields["X" + word[1:].partition("=")[0] if word[0] == "X" else word[0]] = word[1:]
    width, height = _side(fields.get("W", "")), _side(fields.get("H", ""))
    chroma = fields.get("C", "420")
    if chroma not in _FORMATS:
        raise MediaError(
            f"-: the y4m stream has pixel format C{chroma[:20]}, which is not known; convert it to C420 or C444"
        )
    return Y4mHeader(
        raw,
        width,
        height,
        _ratio(fields.get("F", ""), Fraction(1, 1000), Fraction(100_000)) or _DEFAULT_RATE,
        _ratio(fields.get("A", ""), Fraction(1, 100), Fraction(100)) or Fraction(1),
        fields.get("I", "p")[:1] in ("t", "b", "m"),
        _FORMATS[chroma],
        {"FULL": "pc", "LIMITED": "tv"}.get(fields.get("XCOLORRANGE", "").rpartition("=")[2]),
    )


def picture_bytes(pix_fmt: str, width: int, height: int) -> int:
    """How many bytes follow each line "FRAME"."""
    components = av.VideoFormat(pix_fmt, width, height).components
    return sum(part.width * part.height * ((part.bits + 7) // 8) for part in components)


def _side(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_SIDE:
        raise MediaError(
            f"-: the y4m header asks for a side of {text[:20] or 'nothing'} px; 1 to {MAX_SIDE} can be read"
        )
    return int(text)


def _ratio(text: str, low: Fraction, high: Fraction) -> Fraction | None:
    """`text` as a ratio; None when it is missing or 0 ("unknown" in y4m)."""
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not match or not int(match[1]) or not int(match[2]):
        return None
    value = Fraction(int(match[1]), int(match[2]))
    if not low <= value <= high:
        raise MediaError(f"-: the y4m header has an absurd ratio {text}; rates from 1/1000 to 100000 can be read")
    return value
