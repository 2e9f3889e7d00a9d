# SPDX-License-Identifier: Apache-2.0
"""Files as phones write them, of a few kilobytes: HEIC images, whole or in tiles, and stereo video (MV-HEVC)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from helpers.video_clips import ffmpeg

TILE = 64  # px, both ways
_HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none:bframes=0", "-pix_fmt", "yuv420p")
_VPS, _LAYER_SETS = 32, 2  # type of a NAL unit; one for each view


def heic(path: Path, colors: list[str], columns: int = 1, exif: bytes = b"", thumbnail: bool = False) -> Path:
    """Write a HEIC image (ISO/IEC 23008-12): a tile of each color, row by row, and Exif and a small image beside them."""
    tiles = [_still(path.parent, color, TILE) for color in colors]
    items = [_Item(b"hvc1", picture, [1, 2]) for _, picture in tiles]
    properties = [tiles[0][0], _image_size(TILE, TILE)]
    references, primary = b"", 1
    if len(tiles) > 1:
        rows = len(tiles) // columns
        grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, TILE * columns, TILE * rows)
        properties.append(_image_size(TILE * columns, TILE * rows))
        items.append(_Item(b"grid", grid, [3]))
        primary = len(items)
        references += _reference(b"dimg", primary, list(range(1, primary)))
    if exif:
        items.append(_Item(b"Exif", struct.pack(">I", 0) + exif))
        references += _reference(b"cdsc", len(items), [primary])
    if thumbnail:
        settings, picture = _still(path.parent, "gray", TILE // 2)
        properties += [settings, _image_size(TILE // 2, TILE // 2)]
        items.append(_Item(b"hvc1", picture, [len(properties) - 1, len(properties)]))
        references += _reference(b"thmb", len(items), [primary])
    start = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    length = len(_meta(items, properties, references, primary, 0))
    meta = _meta(items, properties, references, primary, len(start) + length + 8)
    path.write_bytes(start + meta + _box(b"mdat", *[item.data for item in items]))
    return path


@dataclass(frozen=True)
class _Item:
    kind: bytes
    data: bytes
    properties: list[int] = field(default_factory=list)  # numbers, from 1


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full_box(kind: bytes, *parts: bytes, version: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24), *parts)


def _image_size(width: int, height: int) -> bytes:
    return _full_box(b"ispe", struct.pack(">II", width, height))


def _reference(kind: bytes, item: int, others: list[int]) -> bytes:
    return _box(kind, struct.pack(f">HH{len(others)}H", item, len(others), *others))


def _meta(items: list[_Item], properties: list[bytes], references: bytes, primary: int, first: int) -> bytes:
    """The metadata of the items, whose data begin at byte `first` of the file."""
    places, names = struct.pack(">BBH", 0x44, 0, len(items)), []
    uses = struct.pack(">I", sum(bool(item.properties) for item in items))
    for number, item in enumerate(items, 1):
        places += struct.pack(">HHHII", number, 0, 1, first, len(item.data))
        first += len(item.data)
        names.append(_full_box(b"infe", struct.pack(">HH4s", number, 0, item.kind) + b"\0", version=2))
        if item.properties:
            uses += struct.pack(">HB", number, len(item.properties)) + bytes(item.properties)
    return _full_box(
        b"meta",
        _full_box(b"hdlr", b"\0\0\0\0pict" + b"\0" * 13),
        _full_box(b"pitm", struct.pack(">H", primary)),
        _full_box(b"iloc", places),
        _full_box(b"iinf", struct.pack(">H", len(items)), *names),
        _full_box(b"iref", references) if references else b"",
        _box(b"iprp", _box(b"ipco", *properties), _full_box(b"ipma", uses)),
    )


def _still(folder: Path, color: str, side: int) -> tuple[bytes, bytes]:
    """(decoder configuration box, coded image) of a square of one color."""
    ffmpeg("-f", "lavfi", "-i", f"color={color}:s={side}x{side}", "-frames:v", 1, *_HEVC, folder / "still.mp4")
    data = (folder / "still.mp4").read_bytes()
    (folder / "still.mp4").unlink()
    boxes = []
    for kind in (b"hvcC", b"mdat"):
        start = data.index(kind) - 4
        boxes.append(data[start : start + int.from_bytes(data[start : start + 4], "big")])
    return boxes[0], boxes[1][8:]


def stereo_video(path: Path, frames: int = 3) -> Path:
    """Write a video whose stream announces a second view, as MV-HEVC (ITU-T H.265, annex G); only the base view is in it."""
    plain = path.with_suffix(".hevc")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10", "-frames:v", frames, *_HEVC, plain)
    units = re.split(rb"\x00\x00\x00?\x01", plain.read_bytes())[1:]
    units = [_two_layer_vps(64, 48) if unit[0] >> 1 == _VPS else unit for unit in units]
    plain.write_bytes(b"".join(b"\0\0\0\1" + unit for unit in units))
    ffmpeg("-r", 10, "-i", plain, "-c", "copy", "-tag:v", "hvc1", path)
    plain.unlink()
    return path


def _two_layer_vps(width: int, height: int) -> bytes:
    """A video parameter set with the extension for two views, F.7.3.2.1: (bits, value) in the order of the standard."""
    level, main = 30, [(2, 0), (1, 0), (5, 1), (32, 3 << 29), (4, 9), (44, 0), (8, 30)]
    one = [(1, 1)]  # ue(0)
    buffering = [(5, 5), (3, 3), *one]  # ue(4) frames, ue(2) reordered, no limit of latency
    base = [(4, 0), (2, 3), (6, 1), (3, 0), (1, 1), (16, 0xFFFF), *main, (1, 1), *buffering]
    base += [(6, 1), (3, _LAYER_SETS), (2, 3), (1, 0), (1, 1)]  # layer sets: ue(1); no timing; an extension follows
    views = [(8, level), (1, 0), (16, 0x4000), (3, 0), (1, 0), (1, 1)]  # scalability: multiview; the layer's view order
    views += [(4, 1), (1, 0), (1, 1)]  # view identifiers 0 and 1
    views += [(1, 1), (1, 0), (1, 0), (1, 1), (3, 2), *one, (2, 0), (1, 0), (1, 1)]  # dependency, profiles, output
    views += [*one, (16, width), (16, height), (1, 1), (2, 1), (4, 0), (4, 0), (1, 0)]  # one format of frames
    views += [(1, 1), (1, 0), (1, 0), (5, 5), *buffering]
    views += [*one, (1, 1), (2, 2), *one, (1, 0), (1, 0)]  # types of dependency; no further extension
    bits = _bits(base)
    bits += "1" * (-len(bits) % 8) + _bits([*views, (1, 1)])
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\x40\x01" + re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", data)


def _bits(fields: list[tuple[int, int]]) -> str:
    return "".join(f"{value:0{length}b}" for length, value in fields)
