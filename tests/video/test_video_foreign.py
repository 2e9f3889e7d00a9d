# SPDX-License-Identifier: Apache-2.0
"""Metadata that other programs and devices write: what is known is read, the rest is skipped."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.foreign_files import TILE, heic, stereo_video
from helpers.video_clips import ffmpeg, read_all, upscale_clip
from PIL import Image, ImageCms

from rvrt_cli.data.sources import read_photo
from rvrt_cli.errors import MediaError
from rvrt_cli.video.read.image_files import read_image_header
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.write.fidelity_notes import unread

ROTATED = Image.Exif()
ROTATED[0x0112] = 6
DAMAGED = [
    b"Exif\0\0garbage",
    ROTATED.tobytes()[:20],
    b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHI", 1, 0x0112, 3, 70_000) + b"\0\6\0\0\0\0\0\0",
    b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHI", 1, 0x0112, 99, 1) + b"\0\6\0\0\0\0\0\0",
]


def side_data_types(path: Path) -> set[int]:
    with av.open(str(path)) as container:
        return {data.type.value for data in next(container.decode(video=0)).side_data}


def test_heic_and_avif_with_exif_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (250, 20, 20)).save(tmp_path / "a.avif", exif=ROTATED)
    image = heic(tmp_path / "a.heic", ["red"], exif=ROTATED.tobytes()[6:], thumbnail=True)
    assert 31 in side_data_types(image), "ffmpeg delivers Exif with the frame"
    for path, size in ((image, (TILE, TILE)), (tmp_path / "a.avif", (32, 48))):
        info = probe(path)
        assert (info.width, info.height) == size
        [frame] = read_all(path)
        assert np.abs(frame.pixels.mean((0, 1)) - (250, 10, 10)).max() < 20
        assert unread(info) == []


@pytest.mark.parametrize("thumbnail", [False, True])
def test_an_image_in_tiles_is_refused_not_read_in_part(tmp_path: Path, thumbnail: bool) -> None:
    colors = ["red", "green", "blue", "white"]
    image = heic(tmp_path / "a.heic", colors, columns=2, exif=ROTATED.tobytes()[6:], thumbnail=thumbnail)
    with pytest.raises(MediaError, match=r"a\.heic: an image in 4 tiles, .*; convert it to PNG first"):
        probe(image)


def test_the_base_view_of_a_stereo_video_is_read_and_the_other_reported(tmp_path: Path) -> None:
    path = stereo_video(tmp_path / "a.mov")
    assert 29 in side_data_types(path), "ffmpeg delivers the number of the view with the frame"
    info = probe(path)
    assert (info.width, info.height, info.frame_count) == (64, 48, 3)
    assert unread(info) == [f"{path}: a stereo video; its base view is upscaled, and the other view is dropped"]
    assert len(read_all(path)) == 3
    assert len(np.unique(read_all(path)[0].pixels)) > 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exif", DAMAGED, ids=["garbage", "cut short", "70 000 values", "unknown type"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".16.png"])
def test_a_damaged_exif_costs_no_pixels(tmp_path: Path, suffix: str, exif: bytes) -> None:
    rng = np.random.default_rng(1)
    if suffix == ".16.png":
        image = Image.fromarray(rng.integers(0, 65536, (12, 16)).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    plain, damaged = tmp_path / f"plain{suffix}", tmp_path / f"damaged{suffix}"
    image.save(plain)
    image.save(damaged, exif=exif)
    assert exif[6:] in damaged.read_bytes()
    assert probe(damaged).bit_depth == (16 if suffix == ".16.png" else 8)
    [expected], [found] = read_all(plain), read_all(damaged)
    turns = (0, 3) if exif == DAMAGED[2] else (0,)  # the first of its values is a rotation
    assert any(np.array_equal(found.pixels, np.rot90(expected.pixels, turn)) for turn in turns)
    assert read_photo(damaged).size == read_photo(plain).size


def test_a_damaged_color_profile_hides_nothing_else(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    rng, names = np.random.default_rng(2), set()
    for _ in range(40):
        damaged = bytearray(profile[: rng.integers(1, len(profile) + 1)])
        for place in rng.integers(0, len(damaged), 8):
            damaged[place] = rng.integers(256)
        Image.fromarray(np.zeros((12, 16), np.uint16)).save(tmp_path / "a.png", icc_profile=bytes(damaged))
        header = read_image_header(tmp_path / "a.png")
        assert (header.bits, header.format) == (16, "PNG")
        names.add(header.icc_profile)
    assert "damaged" in names


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_titles_that_are_not_utf8_are_replaced(tmp_path: Path, suffix: str) -> None:
    """As older programs write them, in the code page of their machine."""
    (tmp_path / "meta.txt").write_text(
        ";FFMETADATA1\ntitle=A####B\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=C####D\n"
    )
    path = tmp_path / f"a.{suffix}"
    source = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5", "-i", tmp_path / "meta.txt")
    ffmpeg(*source, "-map_metadata", 1, "-metadata:s:v", "title=E####F", "-c:v", "mpeg4", path)
    content = path.read_bytes()
    assert b"####" in content
    path.write_bytes(content.replace(b"####", "Äöü".encode("latin-1") + b"!"))
    info = probe(path)
    assert info.metadata["title"] == "A\ufffd\ufffd\ufffd!B"
    assert len(read_all(path)) == 5
    upscale_clip(path, tmp_path / "out.mkv")
    assert probe(tmp_path / "out.mkv").metadata["title"] == info.metadata["title"]
