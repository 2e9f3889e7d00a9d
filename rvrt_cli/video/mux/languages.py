# SPDX-License-Identifier: Apache-2.0
"""Language codes that a container can store."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av

# Pairs of ISO 639-2 codes for one language; Swedish has a third in Apple's table, which ffmpeg follows
_CODE_PAIRS = (
    "alb sqi, arm hye, baq eus, bur mya, chi zho, cze ces, dut nld, fre fra, geo kat, ger deu, gre ell, ice isl, mac mkd, "
    "may msa, per fas, rum ron, slo slk, sve swe, tib bod, wel cym"
)
_OTHER_CODE = {a: b for pair in _CODE_PAIRS.split(", ") for a, b in (pair.split(), reversed(pair.split()))}


@lru_cache(maxsize=256)
def stored_language(language: str, muxer: str) -> str | None:
    """The code under which the container stores a language; None when it cannot.

    QuickTime numbers about a hundred languages, and ffmpeg accepts each under only one of its two codes; mp4 stores every
    three-letter code.
    """
    if muxer not in ("mov", "mp4") or language == "und":
        return language
    for code in (language, _OTHER_CODE.get(language)):
        if code and _round_trip(code, muxer) == code:
            return code
    return None


def _round_trip(code: str, muxer: str) -> str | None:
    """The language of a track that was written with `code` and read again."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream: Any = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        stream.metadata["language"] = code
        packet: Any = av.Packet(b"\0\0")  # a track without packets is not written
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 8000), 0, 0
        output.mux(packet)
    file.seek(0)
    with av.open(file) as written:
        return written.streams[0].metadata.get("language")
