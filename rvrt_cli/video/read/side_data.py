# SPDX-License-Identifier: Apache-2.0
"""What a decoded frame says of itself: orientation, color codes, HDR10 metadata.

The structs are libavutil's: AVMasteringDisplayMetadata, AVContentLightMetadata and the display matrix.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

from av.sidedata import sidedata

from rvrt_cli.video.read.source import MasteringDisplay

_VIEW_ID = 29  # AV_FRAME_DATA_VIEW_ID: the frame belongs to one of several views
_DISPLAY_MATRIX_BYTES, _MASTERING_BYTES, _LIGHT_LEVEL_BYTES, _DOVI_HEADER_BYTES = 36, 88, 8, 32


def _unknown_type(cls: Any, value: int) -> Any:
    """A stand-in for a side data type that PyAV does not list, such as Exif (31) and the view of MV-HEVC (29)."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# Without it, one unknown type ("ValueError: 31 is not a valid Type") hides all side data of the frame
_side_data_type: Any = sidedata.Type
_side_data_type._missing_ = classmethod(_unknown_type)


def _find_side_data(frame: Any, name: str, min_bytes: int) -> bytes | None:
    """Content of the frame's side data of type `name`; None where it is absent or too short."""
    for data in frame.side_data:
        if data.type.name == name and data.buffer_size >= min_bytes:
            return bytes(data)
    return None


def orientation(frame: Any) -> tuple[int, str]:
    """(degrees counterclockwise, filters) that display the frame as its display matrix says, in steps of 90 degrees.

    The matrix maps stored (x, y) to displayed (a x + c y, b x + d y), y downwards, in units of 1/65536.
    """
    matrix = _find_side_data(frame, "DISPLAYMATRIX", _DISPLAY_MATRIX_BYTES)
    if matrix is None:
        return 0, ""
    a, b, _, c, d = struct.unpack("@5i", matrix[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):  # includes all zeros, which players ignore
        filters = {(1, 1): (0, ""), (-1, -1): (180, "hflip,vflip"), (-1, 1): (0, "hflip"), (1, -1): (0, "vflip")}
        return filters[_sign(a), _sign(d)]
    filters = {
        (-1, 1): (90, "transpose=cclock"),
        (1, -1): (270, "transpose=clock"),
        (1, 1): (90, "transpose=cclock_flip"),
        (-1, -1): (90, "transpose=clock_flip"),
    }
    return filters[_sign(b), _sign(c)]


def _sign(value: int) -> int:
    return 1 if value >= 0 else -1


def is_view(frame: Any) -> bool:
    """Whether the frame is of one of several views, as in MV-HEVC; decoders deliver the base view."""
    return any(data.type.value == _VIEW_ID for data in frame.side_data)


def color_codes(frame: Any) -> dict[str, int]:
    """H.273 codes of the frame's matrix, range, primaries and transfer, for `resolve_color`."""
    return {
        "matrix": int(frame.colorspace),
        "range": int(frame.color_range),
        "primaries": int(frame.color_primaries),
        "transfer": int(frame.color_trc),
    }


def mastering_display(frame: Any) -> MasteringDisplay | None:
    """HDR10 mastering display, where both its primaries and its luminance are given."""
    data = _find_side_data(frame, "MASTERING_DISPLAY_METADATA", _MASTERING_BYTES)
    if data is None:
        return None
    *numbers, has_primaries, has_luminance = struct.unpack("@20i2i", data[:_MASTERING_BYTES])
    if not (has_primaries and has_luminance):
        return None
    values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[::2], numbers[1::2], strict=True)]
    red, green, blue, white = ((values[i], values[i + 1]) for i in range(0, 8, 2))
    return MasteringDisplay(
        red=red, green=green, blue=blue, white=white, min_luminance=values[8], max_luminance=values[9]
    )


def has_hdr10_plus(frame: Any) -> bool:
    """Whether the frame has HDR10+ metadata."""
    return any(data.type.name == "DYNAMIC_HDR_PLUS" for data in frame.side_data)


def dolby_vision_profile(frame: Any) -> int | None:
    """Profile of the frame's Dolby Vision metadata, 0 where it cannot be told, None without.

    Of AVDOVIMetadata, which begins with the offset of AVDOVIRpuDataHeader; that has the RPU's own profile, 0 or 1, at byte 4,
    the full-range flag at byte 10, and at 13 to 16 the depth and the flags that tell an enhancement layer.
    """
    if not any(data.type.name in ("DOVI_RPU_BUFFER", "DOVI_METADATA") for data in frame.side_data):
        return None
    data = _find_side_data(frame, "DOVI_METADATA", _DOVI_HEADER_BYTES)
    offset = struct.unpack("@N", data[: struct.calcsize("@N")])[0] if data is not None else 0
    if data is None or not 0 < offset <= len(data) - 17:
        return 0
    header = data[offset : offset + 17]
    if header[4] == 0 and header[10]:
        return 5
    if header[4] != 1:
        return 0
    if header[15] and not header[16]:
        return 7 if header[13] == 12 else 4
    return 8


def light_level(frame: Any) -> tuple[int, int] | None:
    """HDR10 content light level, (MaxCLL, MaxFALL) in cd/m²."""
    data = _find_side_data(frame, "CONTENT_LIGHT_LEVEL", _LIGHT_LEVEL_BYTES)
    return struct.unpack("@2I", data[:_LIGHT_LEVEL_BYTES]) if data is not None else None
