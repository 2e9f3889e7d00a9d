# SPDX-License-Identifier: Apache-2.0
"""Which sources are recognized, the order of images, and what is refused in one line."""

from __future__ import annotations

import itertools
import os
import re
import struct
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av.sidedata.sidedata import Type
from helpers.fuzzing import refusals, searching
from helpers.video_clips import (
    AUDIO,
    FAST,
    VIDEO,
    ffmpeg,
    leftovers,
    make_clip,
    read_all,
    request_for,
    slow_after,
    upscale_clip,
    write_target,
)
from hypothesis import given, strategies as st
from PIL import Image, ImageCms

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.ffmpeg import video_encoders
from rvrt_cli.video.mux.stream_plan import plan_streams
from rvrt_cli.video.read import side_data, y4m_header as y4m
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.fidelity_notes import unread
from rvrt_cli.video.write.target import Target
from rvrt_cli.video.write.target_check import check_target


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(*VIDEO, "-t", "0.2", *FAST, tmp_path / "clip.mp4")


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_video_is_described(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    ffmpeg(*VIDEO, *AUDIO, "-metadata:s:a:0", "language=deu", *FAST, "-c:a", "aac", path)
    info = probe(path)
    assert (info.kind, info.width, info.height, info.pix_fmt) == ("video", 64, 48, "yuv420p")
    assert info.frame_rate == Fraction(30000, 1001)
    assert (info.frame_count, info.exact_count) == (30, True)
    assert info.duration == pytest.approx(30 * 1001 / 30000)
    assert [(s.type, s.codec, s.language) for s in info.streams] == [("video", "h264", "und"), ("audio", "aac", "deu")]


@pytest.mark.parametrize(
    "name",
    [
        "two words.mp4",
        "-i.mp4",
        'it\'s "quoted".mp4',
        "Füße 映画.mp4",
        "concat:a.mp4|b.mp4",
        "http:x.mp4",
        "100%d.mp4",
        "[x]*?.mp4",
        "a,b=c;d\\e.mp4",
    ],
)
def test_a_path_is_a_name_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    clip.rename(name)
    target = Path("out " + name).with_suffix(".mkv")
    upscale_clip(name, target)
    assert len(read_all(target)) == 6
    folder = "dir " + name.replace(".mp4", "") + "/"
    upscale_clip(name, folder)
    assert len(os.listdir(folder)) == 6
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["concat:clip.mp4|clip.mp4", "http://localhost/x.mp4", "file:clip.mp4", "nix.mp4"])
def test_an_address_that_is_no_file_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="no such file") as error:
        probe(name)
    one_line(error)


def test_bad_sources_are_refused_in_one_line(tmp_path: Path, clip: Path) -> None:
    text, sound, script = tmp_path / "t.txt", tmp_path / "s.m4a", tmp_path / "list.txt"
    playlist, empty, cut = tmp_path / "p.m3u8", tmp_path / "empty.mp4", tmp_path / "cut.mp4"
    text.write_text("only words\n" * 50)
    script.write_text(f"ffconcat version 1.0\nfile '{clip.name}'\n")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n")
    ffmpeg(*AUDIO, "-c:a", "aac", sound)
    empty.touch()
    cut.write_bytes(clip.read_bytes()[:2000])  # the index stands at the end of this file
    (tmp_path / "none").mkdir()
    for path, words in [
        (text, "not a video, but text"),
        (script, "not a video, but text or a list"),
        (playlist, "not a video"),
        (sound, "no video in this file, but audio"),
        (empty, "not a video that ffmpeg can read"),
        (cut, "not a video that ffmpeg can read"),
        (tmp_path / "none", "no images in this folder"),
        (tmp_path / "none" / "*.png", "no such file, and no image matches"),
        (tmp_path / "none" / "%03d.png", "no such file, and no image matches"),
    ]:
        with pytest.raises(MediaError, match=words) as error:
            probe(path)
        assert str(path) in one_line(error)


SUFFIXES = ("mp4", "mkv", "ts", "flv")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clip with audio in each container, by suffix; subtitles and a chapter in the first two."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "s.srt").write_text("1\n00:00:00,010 --> 00:00:00,100\nHi\n")
    (folder / "c.txt").write_text(";FFMETADATA1\ntitle=T\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=100\ntitle=One\n")
    sources = ["-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=0.2", "-f", "lavfi", "-i", "sine=d=0.2"]
    more = ["-i", folder / "s.srt", "-i", folder / "c.txt", "-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3"]
    for suffix in SUFFIXES:
        rich = suffix in ("mp4", "mkv")
        words = ["-c:s", "mov_text" if suffix == "mp4" else "srt", "-movflags", "+faststart"] if rich else []
        ffmpeg(*sources, *(more if rich else []), *FAST, "-c:a", "aac", *words, folder / f"in.{suffix}")
    return {suffix: (folder / f"in.{suffix}").read_bytes() for suffix in SUFFIXES}


@pytest.mark.parametrize("suffix", slow_after(1, SUFFIXES))
def test_a_damaged_header_is_understood_or_refused(tmp_path: Path, small: dict[str, bytes], suffix: str) -> None:
    path = tmp_path / f"in.{suffix}"

    @searching(60)
    @given(st.lists(st.tuples(st.integers(0, 2999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
    def look_at(patches: list[tuple[int, bytes]]) -> None:
        data = bytearray(small[suffix])
        for place, patch in patches:
            data[place : place + len(patch)] = patch
        path.write_bytes(data)
        with refusals(MediaError):
            plan_streams(probe(path), "matroska", tmp_path / "out.mkv")

    look_at()


def test_a_stream_that_the_header_does_not_announce_is_harmless(tmp_path: Path) -> None:
    """Audio at the end of an FLV whose header announces only video."""
    path, audio = tmp_path / "in.flv", b"\x2e" + bytes(400)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=20", *FAST, path)
    tag = b"\x08" + len(audio).to_bytes(3, "big") + (200).to_bytes(3, "big") + bytes(4) + audio
    path.write_bytes(path.read_bytes() + tag + len(tag).to_bytes(4, "big"))
    with open_container(path) as container:
        assert len(container.streams) == 1
        assert sum(packet.size > 0 for packet in demux_packets(container, container.streams.video[0])) == 500


AVIS = {  # how an AVI is made, and its number of frames
    "steady": ([], 25),
    "gaps": (["-vf", "select='not(between(n,10,15)+between(n,20,22))'", "-fps_mode", "vfr"], 16),
    "gaps and reordering": (["-vf", "select='not(between(n,10,15))'", "-fps_mode", "vfr", "-bf", "2"], 19),
    "late start": (["-vf", "setpts=PTS+0.2/TB", "-copyts"], 25),
}


@pytest.mark.parametrize("name", slow_after(1, AVIS))
def test_the_frames_of_an_avi_are_counted(tmp_path: Path, name: str) -> None:
    """AVI counts frame periods: one that repeats the frame before has an empty chunk."""
    options, count = AVIS[name]
    path, cut, piped = (tmp_path / f"{word}.avi" for word in ("in", "cut", "piped"))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", *AUDIO, *options, *FAST, path)
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    piped.write_bytes(ffmpeg("-i", path, "-c", "copy", "-f", "avi", "-"))  # its header is not completed at the end
    for source, warnings in ((path, 0), (piped, 0), (cut, 1)):
        with open_reader(probe(source)) as reader:
            frames = list(reader)
        assert (len(frames) == count, len(reader.warnings)) == (not warnings, warnings), source.name
        assert reader.end_pts - frames[-1].pts <= 25, "the last frame is not extended"
    assert probe(path).frame_count == count


@pytest.mark.parametrize("codec", slow_after(1, ["libx264", "mpeg2video"]))
def test_video_that_starts_late_has_its_frame_rate(tmp_path: Path, codec: Any) -> None:
    path, audio = tmp_path / "in.ts", ["-f", "lavfi", "-i", "sine=d=10:r=48000"]
    ffmpeg(
        "-itsoffset", 8, "-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=1", *audio, "-c:v", codec, "-c:a", "mp2", path
    )
    assert probe(path).frame_rate == 25
    assert len(read_all(path)) == 25


def test_a_display_matrix_of_zeros_is_ignored(tmp_path: Path, clip: Path) -> None:
    path, data = tmp_path / "in.mp4", clip.read_bytes()
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))  # after the movie's own
    path.write_bytes(data[:at] + bytes(36) + data[at + 36 :])
    info = probe(path)
    assert (info.width, info.height, info.upright) == (64, 48, "")
    assert read_all(path)[0].pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(("size", "rate"), [("720x480", Fraction(30000, 1001)), ("720x576", Fraction(25))])
def test_raw_dv_has_its_frame_rate(tmp_path: Path, size: str, rate: Fraction) -> None:
    path = tmp_path / "in.dv"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s={size}:r={rate}",
        "-frames:v",
        6,
        "-c:v",
        "dvvideo",
        "-pix_fmt",
        "yuv411p" if size == "720x480" else "yuv420p",
        path,
    )
    info = probe(path)
    assert (info.frame_rate, info.frame_count, len(read_all(path))) == (rate, 6, 6)


def test_an_unknown_video_codec_is_refused_in_one_line(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "unknown.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(MediaError, match="ffmpeg does not know its video codec") as error:
        probe(path)
    assert str(path) in one_line(error)


def make_images(folder: Path, names: list[str], size: str = "10x8") -> None:
    """One gray image per name, its level the position in the list."""
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            f"color=0x{level:02x}{level:02x}{level:02x}:s={size},format=rgb24",
            "-frames:v",
            "1",
            folder / name,
        )


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    make_images(tmp_path / "in", ["f1.png", "f2.png", "f9.png", "f10.png", "f100.png"])
    for source in (tmp_path / "in", tmp_path / "in" / "f*.png", tmp_path / "in" / "f%d.png"):
        info = probe(source, fps=Fraction(10))
        frames = read_all(source)
        assert [int(f.pixels[0, 0, 0]) for f in frames] == [0, 1, 2, 3, 4]
        assert (info.time_base, info.frame_count, [f.pts for f in frames]) == (Fraction(1, 10), 5, [0, 1, 2, 3, 4])
    assert probe(tmp_path / "in").frame_rate == 24
    assert [int(f.pixels[0, 0, 0]) for f in read_all(tmp_path / "in", start=1 / 24, duration=2 / 24)] == [1, 2]
    assert len(probe(tmp_path / "in" / "f%03d.png").files) == 1


def test_images_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    make_images(tmp_path / "in", ["a.png"])
    make_images(tmp_path / "in", ["b.png"], "12x8")
    with pytest.raises(MediaError, match=r"b\.png: 12x8 px, but the first image of the sequence has 10x8"):
        read_all(tmp_path / "in")
    (tmp_path / "in" / "b.png").write_bytes(b"not an image")
    with pytest.raises(MediaError, match=r"b\.png: this image cannot be read"):
        read_all(tmp_path / "in")


@pytest.mark.parametrize(
    ("pix_fmt", "suffix"),
    slow_after(
        1,
        [
            ("gray16be", "png"),
            ("rgb48be", "png"),
            ("rgba64be", "png"),
            ("ya16be", "png"),
            ("rgb48le", "tif"),
            ("gray16le", "tif"),
            ("rgb48be", "ppm"),
            ("gray16be", "pgm"),
        ],
    ),
)
def test_one_16_bit_image_among_8_bit_ones_keeps_its_depth(tmp_path: Path, pix_fmt: str, suffix: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["1.png", f"2.{suffix}", "3.jpg"]
    for name, made in zip(names, ("rgb24", pix_fmt, "yuvj420p"), strict=True):
        image = "gradients=s=64x48:x0=0:x1=63:y0=0:y1=47:nb_colors=3,format=rgba64le"
        ffmpeg("-f", "lavfi", "-i", image, "-frames:v", 1, "-pix_fmt", made, folder / name)
    info, frames = probe(folder), read_all(folder)
    assert (info.bit_depth, info.pix_fmt) == (16, "rgb24")
    alone = [read_all(folder / name)[0].pixels for name in names]
    assert [pixels.dtype for pixels in alone] == [np.uint8, np.uint16, np.uint8]
    assert len(np.unique(alone[1])) > 256
    for frame, pixels in zip(frames, alone, strict=True):
        wanted = pixels * np.uint16(257 if pixels.dtype == np.uint8 else 1)
        assert frame.pixels.dtype == np.uint16
        assert np.array_equal(frame.pixels, wanted)
    upscale_clip(folder, tmp_path / "out.mkv", codec="ffv1", preset=None)
    assert probe(tmp_path / "out.mkv").bit_depth == 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied_at_8_and_16_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    levels = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    seen = []
    for pixels in (levels, levels * np.uint16(257)):
        path = tmp_path / f"{pixels.dtype}{suffix}"
        Image.fromarray(pixels).save(path, exif=exif)
        seen.append(read_all(path)[0].pixels)
    assert seen[0].shape == ((16, 12, 3) if orientation > 4 else (12, 16, 3))
    assert seen[1].dtype == np.uint16
    assert np.array_equal(seen[0] * np.uint16(257), seen[1])


def test_side_data_of_unknown_type_is_skipped(tmp_path: Path) -> None:
    """ffmpeg delivers Exif as side data of type 31, which PyAV's enumeration does not know; the rest must be read."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    frames = [Image.fromarray(np.full((12, 16, 3), 60 * number, np.uint8)) for number in range(3)]
    frames[0].save(tmp_path / "in.apng", save_all=True, append_images=frames[1:], duration=100, exif=exif)
    info = probe(tmp_path / "in.apng")
    assert (info.kind, info.width, info.height) == ("video", 12, 16)
    assert [frame.pixels[0, 0, 0] for frame in read_all(tmp_path / "in.apng")] == [0, 60, 120]


def test_known_side_data_is_found_among_unknown_types() -> None:
    """As in MV-HEVC, whose frames carry type 29."""

    class Data:
        def __init__(self, number: int, content: bytes) -> None:
            self.type, self.buffer_size, self._content = Type(number), len(content), content

        def __bytes__(self) -> bytes:
            return self._content

    level = Data(Type.CONTENT_LIGHT_LEVEL.value, struct.pack("@2I", 1000, 400))
    frame = SimpleNamespace(side_data=[Data(29, b"view"), level, Data(31, b"Exif")])
    assert side_data.light_level(frame) == (1000, 400)
    assert side_data.orientation(frame) == (0, "")
    assert side_data.mastering_display(frame) is None


def test_further_images_of_a_file_are_read_or_reported(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((12, 16, 3), 60 * number, np.uint8)) for number in range(4)]
    for name in ("in.png", "in.tif", "in.webp", "in.apng"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], duration=100)
    (tmp_path / "folder").mkdir()
    for name in ("in.png", "in.tif"):
        (tmp_path / "folder" / name).write_bytes((tmp_path / name).read_bytes())
    for name in ("in.png", "in.apng"):
        info = probe(tmp_path / name)
        assert (info.kind, [int(frame.pixels[0, 0, 0]) for frame in read_all(tmp_path / name)]) == (
            "video",
            [0, 60, 120, 180],
        )
        assert unread(info) == []
    for name, count in (("in.tif", 3), ("folder", 6)):
        (note,) = unread(probe(tmp_path / name))
        assert (
            f"only the first image of each file is read, {count} more images are dropped; save each as a file" in note
        )
    with pytest.raises(MediaError, match=r"in\.webp: animated WebP cannot be read; convert it to \.apng") as error:
        probe(tmp_path / "in.webp")
    one_line(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_color_profiles_other_than_srgb_are_reported(tmp_path: Path, suffix: str) -> None:
    for name, profile in (("lab", "LAB"), ("srgb", "sRGB")):
        data = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
        Image.new("RGB", (16, 12)).save(tmp_path / f"{name}.{suffix}", icc_profile=data)
    (note,) = unread(probe(tmp_path / f"lab.{suffix}"))
    assert re.search(r"the color profile \(Lab .*\) is dropped and the colors are taken for sRGB; convert", note)
    assert unread(probe(tmp_path / f"srgb.{suffix}")) == []


def test_a_gif_is_a_video_with_its_own_timestamps(tmp_path: Path) -> None:
    source, target = tmp_path / "in.gif", tmp_path / "out.mp4"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=32x24:r=20:d=1",
        "-vf",
        "setpts=N*N/20/TB*0.1+N/20/TB",
        "-fps_mode",
        "vfr",
        source,
    )
    times = [f.pts * probe(source).time_base for f in read_all(source)]
    assert len({b - a for a, b in itertools.pairwise(times)}) > 2
    upscale_clip(source, target, scale=2)
    assert [f.pts * probe(target).time_base for f in read_all(target)] == times


def test_what_a_gif_and_an_image_drop_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = ["-f", "lavfi", "-i", "testsrc2=s=32x24:r=60:d=0.2,format=yuva420p", "-c:v", "ffv1"]
    info = probe(make_clip(*alpha, tmp_path / "in.mkv"))
    notes = check_target(info, request_for(info, tmp_path / "out.gif")).notes
    assert "out.gif: 60 frames/s; most players slow GIFs of more than 50/s down" in notes
    assert "out.gif: alpha is dropped; images (.png) keep it" in notes
    still = probe(make_clip(*alpha[:3], "testsrc2=s=32x24,format=rgba", "-frames:v", "1", tmp_path / "in.png"))
    request = request_for(still, tmp_path / "out.jpg", frame_count=1)
    assert "out.jpg: alpha is dropped; .png keeps it" in check_target(still, request).notes
    monkeypatch.setattr("rvrt_cli.video.write.image_targets.video_encoders", lambda: {"png": "PNG"})
    with pytest.raises(MediaError, match=r"out\.jpg: this ffmpeg cannot write \.jpg; choose \.png") as error:
        check_target(still, request)
    one_line(error)


# Targets


def check(source: Path, target: str | Path, **options: Any) -> Target:
    info = probe(source)
    return check_target(info, request_for(info, target, 4, **options))


def test_bad_targets_are_refused_before_the_work(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "link.mp4").symlink_to(clip)
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "gone.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    for target, words in [
        (tmp_path / "there.mp4", "exists already; choose another name, or --overwrite"),
        (clip, "target and source are the same"),
        (tmp_path / "link.mp4", "target and source are the same"),
        (tmp_path / "nowhere" / "out.mp4", "does not exist; create it first"),
        (tmp_path / "there.mp4" / "out.mp4", "the folder .*there.mp4 is a file; choose another one"),
        (tmp_path / "broken.mp4", "a broken symbolic link; remove it or choose another name"),
        (tmp_path / "pipe.mp4", "exists and is not a regular file; choose another name"),
        (f"{tmp_path / 'there.mp4'}/", "exists and is not a folder; choose another name"),
        (tmp_path / "out.xyz", "unknown file type '.xyz'; choose one of .mp4"),
        (tmp_path / "full", r"the folder holds other files \('thesis.txt'\)"),
    ]:
        with pytest.raises(MediaError, match=words) as error:
            check(clip, target)
        one_line(error)
    with pytest.raises(MediaError, match="are the same"):
        check(clip, clip, overwrite=True)
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    with pytest.raises(MediaError, match=r"no permission to write into the folder .*; choose another one") as error:
        check(clip, tmp_path / "out.mp4")
    one_line(error)


def test_the_working_directory_is_refused_as_a_folder_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    """A new folder takes its place in the end, and a shell in the old one would not see the images."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (".", "./", tmp_path / "here"):
        with pytest.raises(MediaError, match=r"choose a new folder in it, such as (.*here/)?frames/$") as error:
            check(clip, target)
        one_line(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("kind", ["another file system", "another folder"])
def test_a_mount_point_is_refused_as_a_folder_for_images(tmp_path: Path, clip: Path, kind: str) -> None:
    mount, other = tmp_path / "mounted hëre", tmp_path / "other"
    mount.mkdir()
    other.mkdir()
    how = ["-t", "tmpfs", "none"] if kind == "another file system" else ["--bind", other]
    if subprocess.run(["mount", *how, mount], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(MediaError, match=r"a mount.* choose a new folder in it, such as .*hëre/frames/$") as error:
            check(clip, mount)
        one_line(error)
        upscale_clip(clip, mount / "frames")
        assert len(os.listdir(mount / "frames")) == 6
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "libx999"}, "no such video encoder; choose for example"),
        ({"codec": "h264"}, "no such video encoder; choose for example h264_|libx264"),
        ({"preset": "warp"}, "change --codec, --preset"),
        ({"crf": 4000}, "give 0 .best. to 51"),
        ({"pix_fmt": "yuv999p"}, "--pix-fmt yuv999p"),
        ({"codec": "mpeg4", "crf": 20}, "does not support --crf"),
        ({"codec": "h264_nvenc", "crf": None}, "--codec h264_nvenc"),
        ({"codec": "libtheora"}, "drops frames that equal the one before"),
        ({"codec": "libvvenc"}, "this encoder loses timestamps"),
    ],
)
def test_bad_encoder_options_are_refused_before_the_work(
    tmp_path: Path, clip: Path, options: dict[str, Any], words: str
) -> None:
    if options.get("codec") == "libvvenc" and "libvvenc" not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    suffix = ".mkv" if options.get("codec") in ("libtheora", "libvvenc") else ".mp4"
    with pytest.raises(OptionError, match=words) as error:
        check(clip, tmp_path / f"out{suffix}", **options)
    one_line(error)
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path, clip: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(MediaError, match="no permission to write"):
        check(clip, locked / "out.mp4")


# y4m

PIPE_TO_PIPE = """
from helpers.video_clips import request_for, write_target
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
info = probe("-")
with open_reader(info) as reader:
    write_target(info, request_for(info, "-"), reader)
"""


def write_y4m(monkeypatch: pytest.MonkeyPatch, data: bytes, target: Path) -> list[str]:
    """Write the frames of a y4m stream on standard input to `target`; the reader's warnings."""
    with tempfile.TemporaryFile() as stdin:
        stdin.write(data)
        stdin.seek(0)
        monkeypatch.setattr(sys, "stdin", stdin)
        info = probe("-")
        with open_reader(info) as reader:
            write_target(info, request_for(info, target, preset="ultrafast"), reader)
            return reader.warnings


@pytest.mark.parametrize("pix_fmt", slow_after(1, ["yuv420p", "yuv444p", "yuv422p10le"]))
def test_y4m_goes_through_from_pipe_to_pipe(pix_fmt: str) -> None:
    video = "testsrc2=s=64x48:r=30000/1001:d=0.5,gblur=3,hue=s=0.3"  # within the gamut of RGB
    raw = ["-pix_fmt", pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    source = ffmpeg("-f", "lavfi", "-i", video, "-color_range", "tv", "-chroma_sample_location", "left", *raw)
    command = [sys.executable, "-c", PIPE_TO_PIPE]
    done = subprocess.run(command, input=source, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    header, header_out = source.partition(b"\n")[0].split(), done.stdout.partition(b"\n")[0].split()
    assert [w for w in header_out if w[:1] in b"WHFAC"] == [w for w in header if w[:1] in b"WHFAC"]
    assert len(done.stdout) == len(source) + len(b" ".join(header_out)) - len(b" ".join(header))
    kind = "<u2" if "10" in pix_fmt else np.uint8
    a, b = (np.frombuffer(d[d.index(b"FRAME\n") + 6 :][: 64 * 48 * 2], kind).astype(int) for d in (source, done.stdout))
    assert np.abs(a - b).max() <= (2 if "444" not in pix_fmt else 1)


@pytest.mark.parametrize(
    ("size", "pix_fmt"), slow_after(1, [("63x47", "yuv420p"), ("64x48", "yuv420p"), ("32x32", "yuv422p10le")])
)
def test_a_truncated_y4m_stream_gives_what_it_has_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, pix_fmt: str
) -> None:
    raw = ["-pix_fmt", pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    source = ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", 10, *raw)
    header = len(source.partition(b"\n")[0]) + 1
    frame = (len(source) - header) // 10
    for length, frames, missing in ((header + 4 * frame, 4, 0), (header + 5 * frame - 1, 4, 1), (len(source), 10, 0)):
        target = tmp_path / f"{length}.mkv"
        warnings = write_y4m(monkeypatch, source[:length], target)
        assert len(read_all(target)) == frames
        warning = f"-: {missing} frame missing, the stream is truncated or damaged ({frames} could be read)"
        assert warnings == ([warning] if missing else [])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "standard input is empty"),
        (b"RIFFxxxxxxxxxxxxxxxx", "not a y4m stream"),
        (b"YUV4MPEG2 W64 H48 F25:1", "not a y4m stream"),
        (b"YUV4MPEG2 " + b"X" * 5000 + b"\n", "not a y4m stream"),
        (b"YUV4MPEG2 W999999 H999999 F25:1\n", "gives a side of 999999 px"),
        (b"YUV4MPEG2 W-5 H48 F25:1\n", "gives a side of -5 px"),
        (b"YUV4MPEG2 H48 F25:1\n", "gives a side of no px"),
        (b"YUV4MPEG2 W64 H48 F25:1 Cweird\n", "pixel format Cweird"),
        (b"YUV4MPEG2 W64 H48 F999999999:1\n", "a ratio out of range"),
        (b"YUV4MPEG2 W64 H48 F25:1\n", "^-: the y4m stream holds no complete frame; check"),
        (b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n" + bytes(10), "^-: the y4m stream holds no complete frame; check"),
        (b"YUV4MPEG2 W64 H48 F25:1\nnonsense" + b"x" * 9000, "no frame can be decoded|cannot be decoded"),
    ],
)
def test_invalid_y4m_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    with pytest.raises(MediaError, match=words) as error:
        write_y4m(monkeypatch, data, tmp_path / "out.mkv")
    one_line(error)
    assert list(tmp_path.iterdir()) == []


@searching(200)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: b"YUV4MPEG2 W64 H48 " + b + b"\n"))
def test_any_y4m_header_is_understood_or_refused(raw: bytes) -> None:
    try:
        header = y4m.parse_header(raw)
    except MediaError:
        return
    assert 1 <= header.width <= y4m.MAX_SIDE
    assert 1 <= header.height <= y4m.MAX_SIDE
    assert header.rate > 0
