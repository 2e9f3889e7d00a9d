# SPDX-License-Identifier: Apache-2.0
"""Inverse telecine: film at 24 frames/s that was spread over the fields of 30 frames/s, four frames over five (3:2 pulldown)."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from rvrt_cli.errors import OptionError
from rvrt_cli.video.read.source import SourceInfo

_CYCLE, _KEPT = 5, 4  # frames
_RATES = (Fraction(30000, 1001), Fraction(30))  # frames/s of what is telecined
_RATE_TOLERANCE = Fraction(1, 50)


def inverse_telecined(info: SourceInfo) -> SourceInfo:
    """`info` of the film that a telecined source holds: what `open_reader` yields of it.

    Raises:
        OptionError: the source does not have 29.97 or 30 frames/s.
    """
    rate = next((rate for rate in _RATES if abs(info.frame_rate - rate) < _RATE_TOLERANCE), None)
    if rate is None or info.kind == "images":
        raise OptionError(
            f"--ivtc: {info.path} has {float(info.frame_rate):.6g} frames/s, and telecined film has 29.97; omit --ivtc"
        )
    film_rate = rate * _KEPT / _CYCLE
    return replace(
        info,
        telecined=True,
        interlaced=False,
        frame_rate=film_rate,
        time_base=_common_unit(info.time_base, 1 / film_rate),
        frame_count=None if info.frame_count is None else math.ceil(info.frame_count * Fraction(_KEPT, _CYCLE)),
        coded_frames=info.frame_count if info.exact_count else None,
        exact_count=False,
    )


def _common_unit(first: Fraction, second: Fraction) -> Fraction:
    """The largest unit of which both are multiples."""
    return Fraction(
        math.gcd(first.numerator * second.denominator, second.numerator * first.denominator),
        first.denominator * second.denominator,
    )


def ivtc_filters(info: SourceInfo, offset: int) -> str:
    """Filters that restore the film of a telecined source.

    Args:
        offset: added to the timestamps, in units of `info.time_base`.

    decimate numbers its frames instead of reading their timestamps, so they are counted from the source's first frame, and
    gaps are filled first: audio stays in sync.
    """
    rate, base, start = info.frame_rate * _CYCLE / _KEPT, info.time_base, info.start_time
    return ",".join(
        [
            f"setpts=PTS-{start.numerator}/{start.denominator}/TB",
            f"fps={rate.numerator}/{rate.denominator}",
            "fieldmatch=order=auto:combmatch=full",
            "bwdif=mode=send_frame:deint=interlaced",  # what has no match, such as titles of video over film
            "decimate",
            f"settb={base.numerator}/{base.denominator}",
            f"setpts=PTS+{round(start / base) + offset}",
        ]
    )
