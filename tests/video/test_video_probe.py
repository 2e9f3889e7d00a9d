"""What sources are recognized, in which order images come, and what is refused in one line."""

import itertools
import os
import re
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzzing import refusals, searching
from helpers.video_clips import FAST, PICTURES, SOUND, enlarge, ffmpeg, leftovers, read_all
from hypothesis import given, strategies as st
from PIL import Image, ImageCms

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.ffmpeg import video_encoders
from rvrt_cli.video.mux.stream_plan import plan_streams
from rvrt_cli.video.read import y4m_header as y4m
from rvrt_cli.video.read.probe import open_container, packets, probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.fidelity_notes import unread
from rvrt_cli.video.write.target import check_target


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    ffmpeg(*PICTURES, "-t", "0.2", *FAST, path)
    return path


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_video_is_described(tmp_path):
    path = tmp_path / "in.mp4"
    ffmpeg(*PICTURES, *SOUND, "-metadata:s:a:0", "language=deu", *FAST, "-c:a", "aac", path)
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
def test_a_path_is_a_name_and_nothing_else(tmp_path, monkeypatch, clip, name):
    monkeypatch.chdir(tmp_path)
    clip.rename(name)
    target = Path("out " + name).with_suffix(".mkv")
    enlarge(name, target)
    assert len(read_all(target)) == 6
    folder = "dir " + name.replace(".mp4", "") + "/"
    enlarge(name, folder)
    assert len(os.listdir(folder)) == 6
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["concat:clip.mp4|clip.mp4", "http://localhost/x.mp4", "file:clip.mp4", "nix.mp4"])
def test_an_address_that_is_no_file_is_no_source(tmp_path, monkeypatch, clip, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match="no such file") as error:
        probe(name)
    one_line(error)


def test_bad_sources_are_refused_in_one_line(tmp_path, clip):
    text, sound, script = tmp_path / "t.txt", tmp_path / "s.m4a", tmp_path / "list.txt"
    playlist, empty, cut = tmp_path / "p.m3u8", tmp_path / "empty.mp4", tmp_path / "cut.mp4"
    text.write_text("only words\n" * 50)
    script.write_text(f"ffconcat version 1.0\nfile '{clip.name}'\n")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n")
    ffmpeg(*SOUND, "-c:a", "aac", sound)
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
        (tmp_path / "none" / "*.png", "no such file, and no image fits"),
        (tmp_path / "none" / "%03d.png", "no such file, and no image fits"),
    ]:
        with pytest.raises(MediaError, match=words) as error:
            probe(path)
        assert str(path) in one_line(error)


SUFFIXES = ("mp4", "mkv", "ts", "flv")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A clip with sound in each container, by suffix; subtitles and a chapter in the first two."""
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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_header_is_understood_or_refused(tmp_path, small, suffix):
    path = tmp_path / f"in.{suffix}"

    @searching(60)
    @given(st.lists(st.tuples(st.integers(0, 2999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
    def look_at(patches):
        data = bytearray(small[suffix])
        for place, patch in patches:
            data[place : place + len(patch)] = patch
        path.write_bytes(data)
        with refusals(MediaError):
            plan_streams(probe(path), "matroska", tmp_path / "out.mkv")

    look_at()


def test_a_stream_that_comes_up_on_the_way_does_no_harm(tmp_path):
    """Sound at the end of an FLV whose header speaks of pictures only."""
    path, sound = tmp_path / "in.flv", b"\x2e" + bytes(400)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=20", *FAST, path)
    tag = b"\x08" + len(sound).to_bytes(3, "big") + (200).to_bytes(3, "big") + bytes(4) + sound
    path.write_bytes(path.read_bytes() + tag + len(tag).to_bytes(4, "big"))
    with open_container(path) as container:
        assert len(container.streams) == 1
        assert sum(packet.size > 0 for packet in packets(container, container.streams.video[0])) == 500


AVIS = {  # how an AVI is made, and how many pictures it has
    "steady": ([], 25),
    "gaps": (["-vf", "select='not(between(n,10,15)+between(n,20,22))'", "-fps_mode", "vfr"], 16),
    "gaps and reordering": (["-vf", "select='not(between(n,10,15))'", "-fps_mode", "vfr", "-bf", "2"], 19),
    "late start": (["-vf", "setpts=PTS+0.2/TB", "-copyts"], 25),
}


@pytest.mark.parametrize("name", AVIS)
def test_an_avi_has_the_pictures_that_are_in_it(tmp_path, name):
    """It announces a chunk for each moment, and has an empty one where the picture stays."""
    options, count = AVIS[name]
    path, cut, piped = (tmp_path / f"{word}.avi" for word in ("in", "cut", "piped"))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", *SOUND, *options, *FAST, path)
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    piped.write_bytes(ffmpeg("-i", path, "-c", "copy", "-f", "avi", "-"))  # its header is not put right at the end
    for source, said in ((path, 0), (piped, 0), (cut, 1)):
        with open_reader(probe(source)) as reader:
            frames = list(reader)
        assert (len(frames) == count, len(reader.warnings)) == (not said, said), source.name
        assert reader.until - frames[-1].pts <= 25, "the last picture is not held"
    assert probe(path).frame_count == count


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_pictures_that_begin_late_have_their_rate(tmp_path, codec):
    path, sound = tmp_path / "in.ts", ["-f", "lavfi", "-i", "sine=d=10:r=48000"]
    ffmpeg(
        "-itsoffset", 8, "-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=1", *sound, "-c:v", codec, "-c:a", "mp2", path
    )
    assert probe(path).frame_rate == 25
    assert len(read_all(path)) == 25


def test_a_display_matrix_of_zeros_turns_nothing(tmp_path, clip):
    path, data = tmp_path / "in.mp4", clip.read_bytes()
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))  # the movie's own stands before
    path.write_bytes(data[:at] + bytes(36) + data[at + 36 :])
    info = probe(path)
    assert (info.width, info.height, info.upright) == (64, 48, "")
    assert read_all(path)[0].pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(("size", "rate"), [("720x480", Fraction(30000, 1001)), ("720x576", Fraction(25))])
def test_raw_dv_has_the_rate_of_its_pictures(tmp_path, size, rate):
    path = tmp_path / "in.dv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-frames:v", 6, "-c:v", "dvvideo",
           "-pix_fmt", "yuv411p" if size == "720x480" else "yuv420p", path)  # fmt: skip
    info = probe(path)
    assert (info.frame_rate, info.frame_count, len(read_all(path))) == (rate, 6, 6)


def test_pictures_of_an_unknown_kind_are_refused_in_one_line(tmp_path, clip):
    path = tmp_path / "unknown.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(MediaError, match="of a kind that ffmpeg does not know") as error:
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


def test_images_come_in_the_order_in_which_people_count(tmp_path):
    make_images(tmp_path / "in", ["f1.png", "f2.png", "f9.png", "f10.png", "f100.png"])
    for source in (tmp_path / "in", tmp_path / "in" / "f*.png", tmp_path / "in" / "f%d.png"):
        info = probe(source, fps=Fraction(10))
        frames = read_all(source)
        assert [int(f.pixels[0, 0, 0]) for f in frames] == [0, 1, 2, 3, 4]
        assert (info.time_base, info.frame_count, [f.pts for f in frames]) == (Fraction(1, 10), 5, [0, 1, 2, 3, 4])
    assert probe(tmp_path / "in").frame_rate == 24
    assert [int(f.pixels[0, 0, 0]) for f in read_all(tmp_path / "in", start=1 / 24, duration=2 / 24)] == [1, 2]
    assert len(probe(tmp_path / "in" / "f%03d.png").files) == 1


def test_images_of_different_sizes_are_refused_by_name(tmp_path):
    make_images(tmp_path / "in", ["a.png"])
    make_images(tmp_path / "in", ["b.png"], "12x8")
    with pytest.raises(MediaError, match=r"b\.png: 12x8 px, but the first image of the sequence has 10x8"):
        read_all(tmp_path / "in")
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    with pytest.raises(MediaError, match=r"b\.png: this image cannot be read"):
        read_all(tmp_path / "in")


@pytest.mark.parametrize(
    ("pix_fmt", "suffix"),
    [("gray16be", "png"), ("rgb48be", "png"), ("rgba64be", "png"), ("ya16be", "png"), ("rgb48le", "tif"),
     ("gray16le", "tif"), ("rgb48be", "ppm"), ("gray16be", "pgm")],
)  # fmt: skip
def test_one_image_of_16_bits_among_those_of_8_keeps_them(tmp_path, pix_fmt, suffix):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["1.png", f"2.{suffix}", "3.jpg"]
    for name, made in zip(names, ("rgb24", pix_fmt, "yuvj420p"), strict=True):
        picture = "gradients=s=64x48:x0=0:x1=63:y0=0:y1=47:nb_colors=3,format=rgba64le"
        ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", 1, "-pix_fmt", made, folder / name)
    info, frames = probe(folder), read_all(folder)
    assert (info.bit_depth, info.pix_fmt) == (16, "rgb24")
    alone = [read_all(folder / name)[0].pixels for name in names]
    assert [pixels.dtype for pixels in alone] == [np.uint8, np.uint16, np.uint8]
    assert len(np.unique(alone[1])) > 256
    for frame, pixels in zip(frames, alone, strict=True):
        wanted = pixels * np.uint16(257 if pixels.dtype == np.uint8 else 1)
        assert frame.pixels.dtype == np.uint16
        assert np.array_equal(frame.pixels, wanted)
    enlarge(folder, tmp_path / "out.mkv", codec="ffv1", preset=None)
    assert probe(tmp_path / "out.mkv").bit_depth == 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_of_8_and_16_bits_are_upright(tmp_path, suffix, orientation):
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


def test_pictures_beside_the_first_of_a_file_are_read_or_told(tmp_path):
    pages = [Image.fromarray(np.full((12, 16, 3), 60 * number, np.uint8)) for number in range(4)]
    for name in ("in.png", "in.tif", "in.webp", "in.apng"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], duration=100)
    (tmp_path / "folder").mkdir()
    for name in ("in.png", "in.tif"):
        (tmp_path / "folder" / name).write_bytes((tmp_path / name).read_bytes())
    for name in ("in.png", "in.apng"):
        info = probe(tmp_path / name)
        assert (info.kind, [int(frame.pixels[0, 0, 0]) for frame in read_all(tmp_path / name)]) == (
            "video", [0, 60, 120, 180]
        )  # fmt: skip
        assert unread(info) == []
    for name, count in (("in.tif", 3), ("folder", 6)):
        (told,) = unread(probe(tmp_path / name))
        assert (
            f"of each file the first picture is read, {count} more pictures are left out; make a file of each" in told
        )
    with pytest.raises(MediaError, match=r"in\.webp: an animated WebP, which cannot be read; make an \.apng") as error:
        probe(tmp_path / "in.webp")
    one_line(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_colors_of_another_kind_than_srgb_are_told(tmp_path, suffix):
    for name, profile in (("lab", "LAB"), ("srgb", "sRGB")):
        data = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
        Image.new("RGB", (16, 12)).save(tmp_path / f"{name}.{suffix}", icc_profile=data)
    (told,) = unread(probe(tmp_path / f"lab.{suffix}"))
    assert re.search(r"the color profile \(Lab .*\) is left out and the colors pass for sRGB; convert", told)
    assert unread(probe(tmp_path / f"srgb.{suffix}")) == []


def test_a_gif_is_a_video_with_its_own_times(tmp_path):
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
    enlarge(source, target, scale=2)
    assert [f.pts * probe(target).time_base for f in read_all(target)] == times


# Targets


def check(source, target, **options):
    info = probe(source)
    return check_target(info, target, width=info.width * 4, height=info.height * 4, **options)


def test_bad_targets_are_refused_before_the_work(tmp_path, clip):
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "link.mp4").symlink_to(clip)
    for target, words in [
        (tmp_path / "there.mp4", "exists already; choose another name, or --overwrite"),
        (clip, "target and source are the same"),
        (tmp_path / "link.mp4", "target and source are the same"),
        (tmp_path / "nowhere" / "out.mp4", "does not exist; create it first"),
        (tmp_path / "out.xyz", "unknown type of file '.xyz'; choose one of .mp4"),
        (tmp_path / "full", r"the folder holds other files \('thesis.txt'\)"),
    ]:
        with pytest.raises(MediaError, match=words) as error:
            check(clip, target)
        one_line(error)
    with pytest.raises(MediaError, match="are the same"):
        check(clip, clip, overwrite=True)
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


def test_the_working_directory_is_no_folder_for_images(tmp_path, monkeypatch, clip):
    """They appear in it all at once, as a new folder in its place, and whoever is in it would not see them."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (".", "./", tmp_path / "here"):
        with pytest.raises(MediaError, match=r"choose a new folder in it, such as (.*here/)?frames/$") as error:
            check(clip, target)
        one_line(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("kind", ["another file system", "another folder"])
def test_a_mount_is_no_folder_for_images(tmp_path, clip, kind):
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
        enlarge(clip, mount / "frames")
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
        ({"codec": "mpeg4", "crf": 20}, "has no --crf"),
        ({"codec": "h264_nvenc", "crf": None}, "--codec h264_nvenc"),
        ({"codec": "libtheora"}, "drops a picture that equals the one before"),
        ({"codec": "libvvenc"}, "loses the pictures' times"),
        ({"codec": "rawvideo"}, r"cannot be put into \.mkv"),
    ],
)
def test_bad_encoder_options_are_refused_before_the_work(tmp_path, clip, options, words):
    if options.get("codec") == "libvvenc" and "libvvenc" not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    suffix = ".mkv" if options.get("codec") in ("libtheora", "libvvenc", "rawvideo") else ".mp4"
    with pytest.raises(OptionError, match=words) as error:
        check(clip, tmp_path / f"out{suffix}", **options)
    one_line(error)
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, clip):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(MediaError, match="no permission to write"):
        check(clip, locked / "out.mp4")


# y4m

PASS_ON = """
import sys
from rvrt_cli.errors import RvrtError
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.writers import open_writer
try:
    info = probe("-")
    with open_reader(info) as reader, open_writer(sys.argv[1], info, width=info.width, height=info.height) as writer:
        for frame in reader:
            writer.write(frame)
        writer.finish()
    print(reader.warnings, file=sys.stderr)
except RvrtError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


def pass_on(data: bytes, target: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PASS_ON, target], input=data, capture_output=True, timeout=60)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_y4m_goes_through_from_pipe_to_pipe(pix_fmt):
    picture = "testsrc2=s=64x48:r=30000/1001:d=0.5,gblur=3,hue=s=0.3"  # within the gamut of RGB
    raw = ["-pix_fmt", pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    source = ffmpeg("-f", "lavfi", "-i", picture, "-color_range", "tv", "-chroma_sample_location", "left", *raw)
    done = pass_on(source, "-")
    assert done.returncode == 0, done.stderr.decode()
    header, header_out = source.partition(b"\n")[0].split(), done.stdout.partition(b"\n")[0].split()
    assert [w for w in header_out if w[:1] in b"WHFAC"] == [w for w in header if w[:1] in b"WHFAC"]
    assert len(done.stdout) == len(source) + len(b" ".join(header_out)) - len(b" ".join(header))
    kind = "<u2" if "10" in pix_fmt else np.uint8
    a, b = (np.frombuffer(d[d.index(b"FRAME\n") + 6 :][: 64 * 48 * 2], kind).astype(int) for d in (source, done.stdout))
    assert np.abs(a - b).max() <= (2 if "444" not in pix_fmt else 1)


@pytest.mark.parametrize(("size", "pix_fmt"), [("64x48", "yuv420p"), ("63x47", "yuv420p"), ("32x32", "yuv422p10le")])
def test_a_y4m_stream_that_breaks_off_gives_what_it_has_and_says_so(tmp_path, size, pix_fmt):
    raw = ["-pix_fmt", pix_fmt, "-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    source = ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", 10, *raw)
    header = len(source.partition(b"\n")[0]) + 1
    frame = (len(source) - header) // 10
    for length, frames, missing in ((header + 4 * frame, 4, 0), (header + 5 * frame - 1, 4, 1), (len(source), 10, 0)):
        target = tmp_path / f"{length}.mkv"
        done = pass_on(source[:length], str(target))
        assert done.returncode == 0, done.stderr.decode()
        assert len(read_all(target)) == frames
        told = f"['-: {missing} frame missing, the stream is truncated or damaged ({frames} could be read)']"
        assert done.stderr.decode().strip() == (told if missing else "[]")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "nothing came on standard input"),
        (b"RIFFxxxxxxxxxxxxxxxx", "not a y4m stream"),
        (b"YUV4MPEG2 W64 H48 F25:1", "not a y4m stream"),
        (b"YUV4MPEG2 " + b"X" * 5000 + b"\n", "not a y4m stream"),
        (b"YUV4MPEG2 W999999 H999999 F25:1\n", "asks for a side of 999999 px"),
        (b"YUV4MPEG2 W-5 H48 F25:1\n", "asks for a side of -5 px"),
        (b"YUV4MPEG2 H48 F25:1\n", "asks for a side of nothing px"),
        (b"YUV4MPEG2 W64 H48 F25:1 Cweird\n", "pixel format Cweird"),
        (b"YUV4MPEG2 W64 H48 F999999999:1\n", "absurd ratio"),
        (b"YUV4MPEG2 W64 H48 F25:1\n", "^-: the y4m stream holds no whole frame; check"),
        (b"YUV4MPEG2 W64 H48 F25:1\nFRAME\n" + bytes(10), "^-: the y4m stream holds no whole frame; check"),
        (b"YUV4MPEG2 W64 H48 F25:1\nnonsense" + b"x" * 9000, "no picture can be decoded|cannot be decoded"),
    ],
)
def test_absurd_y4m_is_refused_in_one_line(tmp_path, data, words):
    done = pass_on(data, str(tmp_path / "out.mkv"))
    assert done.returncode == 1
    message = done.stderr.decode().strip()
    assert "\n" not in message
    assert re.search(words, message), message
    assert list(tmp_path.iterdir()) == []


@searching(200)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: b"YUV4MPEG2 W64 H48 " + b + b"\n"))
def test_any_header_is_understood_or_refused(raw):
    try:
        header = y4m.parse_header(raw)
    except MediaError:
        return
    assert 1 <= header.width <= y4m.MAX_SIDE
    assert 1 <= header.height <= y4m.MAX_SIDE
    assert header.rate > 0
