# SPDX-License-Identifier: Apache-2.0
"""Images in and out: sequences that keep their names, single images, GIFs; and targets whose kind is not clear."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
from helpers.video_clips import FAST, decoded_times, ffmpeg
from PIL import Image

from rvrt_cli.video.ffmpeg import video_encoders


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Five images of 32×24 px, three PNG and two JPEG."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("f001.png", "f002.png", "f010.png", "g.jpg", "h.jpg"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / name)
    return folder


NAMES = ["f001.png", "f002.png", "f010.png", "g.png", "h.png"]


def test_images_keep_their_names(tmp_path: Path, upscale: Callable[..., str], sequence: Path) -> None:
    target = tmp_path / "out"
    upscale(sequence, str(target))  # no / is needed: several images can only become a folder
    assert sorted(os.listdir(target)) == NAMES
    small, large = iio.imread(sequence / "f010.png"), iio.imread(target / "f010.png")
    assert large.shape == (96, 128, 3)
    means = large.reshape(24, 4, 32, 4, 3).mean((1, 3))
    others = [iio.imread(sequence / name) for name in ("f001.png", "f002.png")]
    assert abs(means - small).mean() < min(abs(means - other).mean() for other in others)
    upscale(sequence, target, "--overwrite")
    assert sorted(os.listdir(target)) == NAMES
    (target / "notes.txt").touch()
    assert "notes.txt" in upscale(sequence, target, "--overwrite", status=1)


def test_a_part_of_a_sequence_has_the_names_of_its_images(
    tmp_path: Path, upscale: Callable[..., str], sequence: Path
) -> None:
    upscale(sequence, tmp_path / "out", "--fps", "10", "--start", "0.1", "--duration", "0.3")
    assert sorted(os.listdir(tmp_path / "out")) == NAMES[1:4]


def test_images_whose_names_would_be_equal_are_numbered(
    tmp_path: Path, upscale: Callable[..., str], sequence: Path
) -> None:
    (sequence / "h.jpg").rename(sequence / "F001.jpg")  # the same on a file system that ignores case
    assert "numbered" in upscale(sequence, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [f"{number:06d}.png" for number in range(1, 6)]


def test_fps_is_the_frame_rate_of_images_and_of_nothing_else(
    tmp_path: Path, upscale: Callable[..., str], sequence: Path
) -> None:
    assert "24 frames/s; --fps" in upscale(sequence, tmp_path / "out.mp4", "--preset", "ultrafast")
    said = upscale(sequence, tmp_path / "slow.mp4", "--fps", "5/2", "--preset", "ultrafast")
    assert "--fps" not in said
    assert decoded_times(tmp_path / "slow.mp4") == [Fraction(2 * number, 5) for number in range(5)]
    said = upscale(tmp_path / "out.mp4", tmp_path / "more.mp4", "--fps", "30", status=1)
    assert "--fps 30: for images only" in said
    for bad in ("0", "x", "1/0", "5000"):
        assert f"--fps '{bad}'" in upscale(sequence, tmp_path / "bad.mp4", "--fps", bad, status=1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_a_single_image_becomes_one(tmp_path: Path, upscale: Callable[..., str], sequence: Path, suffix: str) -> None:
    if suffix == ".webp" and "libwebp" not in video_encoders():
        pytest.skip("this ffmpeg cannot write WebP")
    target = tmp_path / f"out{suffix}"
    upscale(sequence / "f001.png", target)
    exact = tmp_path / "exact.png"
    upscale(sequence / "f001.png", exact)
    with Image.open(target) as image:
        assert image.size == (128, 96)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    difference = np.abs(pixels - iio.imread(exact)[..., :3])
    assert difference.mean() < (4 if suffix == ".jpg" else 1e-9), f"{suffix}: off by {difference.mean():.2f} levels"
    assert "exists already" in upscale(sequence / "f001.png", target, status=1)


def test_alpha_and_16_bits_of_a_single_image(tmp_path: Path, upscale: Callable[..., str]) -> None:
    rgba = np.full((24, 32, 4), (200, 100, 50, 128), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "in.png")
    upscale(tmp_path / "in.png", tmp_path / "out.tif")
    assert (np.asarray(Image.open(tmp_path / "out.tif"))[..., 3] == 128).all()
    assert "alpha is dropped" in upscale(tmp_path / "in.png", tmp_path / "out.jpg")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", "1", "-pix_fmt", "rgb48be", tmp_path / "deep.png")
    upscale(tmp_path / "deep.png", tmp_path / "deep.tif")
    with av.open(str(tmp_path / "deep.tif")) as container:
        assert next(container.decode(video=0)).format.name == "rgb48le"
    assert "16 bits are reduced to 8" in upscale(tmp_path / "deep.png", tmp_path / "deep.bmp")


def test_an_image_of_a_video_is_refused(tmp_path: Path, upscale: Callable[..., str], sequence: Path) -> None:
    assert "the source has 5 frames" in upscale(sequence, tmp_path / "out.png", status=1)
    assert not (tmp_path / "out.png").exists()


def test_a_gif_has_every_frame_and_its_time(tmp_path: Path, upscale: Callable[..., str]) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=10", "-frames:v", "12", *FAST, source)
    said = upscale(source, target)
    assert "256 colors" in said
    with Image.open(target) as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((128, 96), 12, 0)
        assert image.info["duration"] == 100
    assert decoded_times(target) == decoded_times(source)
    assert len(iio.imread(target)) == 12


def test_a_forgotten_suffix_is_asked_about(tmp_path: Path, upscale: Callable[..., str], sequence: Path) -> None:
    source = tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", "3", *FAST, source)
    target = str(tmp_path / "out")
    said = upscale(source, target, status=1)
    assert f"a video, or a folder of images? name it {target}.mp4 for a video, or {target}/" in said
    said = upscale(sequence / "f001.png", target, status=1)
    assert f"an image, or a folder of images? name it {target}.png" in said
    assert not os.path.exists(target)
    os.mkdir(target)  # now it is clear
    upscale(source, target)
    assert len(os.listdir(target)) == 3
