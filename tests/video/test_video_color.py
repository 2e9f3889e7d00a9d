# SPDX-License-Identifier: Apache-2.0
"""Flat patches against the formulas of BT.601/709/2020, and through a whole read and write."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_clips import ffmpeg, read_all, slow_after, upscale_clip

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video import color
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.target import OutputRequest
from rvrt_cli.video.write.target_check import check_target
from rvrt_cli.video.write.writers import SegmentWriter

# ffmpeg's name: (Kr, Kb), primaries, transfer
MATRICES = {
    "smpte170m": ((0.299, 0.114), "smpte170m", "smpte170m"),
    "bt709": ((0.2126, 0.0722), "bt709", "bt709"),
    "bt2020nc": ((0.2627, 0.0593), "bt2020", "arib-std-b67"),
}
PATCHES = np.array(list(itertools.product([0, 51, 128, 204, 255], repeat=3))) / 255  # RGB in 0..1
VARIANTS = [
    *itertools.product(MATRICES, ["tv", "pc"], [8, 10], ["420", "444"]),
    *itertools.product(["bt709", "bt2020nc"], ["tv", "pc"], [8, 10, 12], ["422"]),
    *itertools.product(["bt2020nc"], ["tv", "pc"], [12], ["420", "444"]),
]


def codes(rgb: np.ndarray, matrix: str, value_range: str, bits: int) -> np.ndarray:
    """Y, Cb, Cr of RGB in 0..1 by the definition, rounded, as (patches, 3)."""
    (kr, kb), _, _ = MATRICES[matrix]
    y = rgb @ [kr, 1 - kr - kb, kb]
    cb, cr = (rgb[:, 2] - y) / (2 - 2 * kb), (rgb[:, 0] - y) / (2 - 2 * kr)
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    if value_range == "tv":
        values = np.stack([(16 + 219 * y) * unit, (128 + 224 * cb) * unit, (128 + 224 * cr) * unit], 1)
    else:
        values = np.stack([top * y, top * cb + 2 ** (bits - 1), top * cr + 2 ** (bits - 1)], 1)
    return np.clip(np.rint(values), 0, top)


def rgb_of(values: np.ndarray, matrix: str, value_range: str, bits: int) -> np.ndarray:
    """RGB in 0..255 of Y, Cb, Cr by the definition, clipped, not rounded."""
    (kr, kb), _, _ = MATRICES[matrix]
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    if value_range == "tv":
        y, cb, cr = (values / unit - [16, 128, 128]).T / np.array([[219], [224], [224]])
    else:
        y, cb, cr = (values - [0, 2 ** (bits - 1), 2 ** (bits - 1)]).T / top
    red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], 1), 0, 1) * 255


def patch_clip(
    path: Path, values: np.ndarray, matrix: str, value_range: str, bits: int, chroma: str, edge: int = 8
) -> None:
    """A lossless clip with one frame per patch of the given codes, tagged."""
    kind, pix_fmt = (np.uint8, f"yuv{chroma}p") if bits == 8 else (np.dtype("<u2"), f"yuv{chroma}p{bits}le")
    half = (edge + 1) // 2
    small = {"420": half * half, "422": half * edge, "444": edge * edge}[chroma]
    raw = b"".join(
        np.full(size, value, kind).tobytes()
        for patch in values
        for size, value in zip((edge**2, small, small), patch, strict=True)
    )
    _, primaries, transfer = MATRICES[matrix]
    tags = ["-colorspace", matrix, "-color_range", value_range, "-color_primaries", primaries, "-color_trc", transfer]
    source = ["-f", "rawvideo", "-s", f"{edge}x{edge}", "-pix_fmt", pix_fmt, *tags, "-i", "pipe:0"]
    ffmpeg(*source, "-c:v", "ffv1", *tags, path, data=raw)


@pytest.mark.parametrize(("matrix", "value_range", "bits", "chroma"), slow_after(2, VARIANTS))
def test_a_flat_patch_is_read_by_the_formula_and_survives_a_round_trip(
    tmp_path: Path, matrix: str, value_range: str, bits: int, chroma: str
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    values = codes(PATCHES, matrix, value_range, bits)
    patch_clip(source, values, matrix, value_range, bits, chroma)
    info = probe(source)
    assert (info.color.matrix, info.color.range, info.bit_depth) == (matrix, value_range, bits)

    frames = read_all(source)
    got = np.stack([frame.pixels for frame in frames]).astype(float) / (1 if bits == 8 else 257)
    want = rgb_of(values, matrix, value_range, bits)
    error = np.abs(got - want[:, None, None]).max()
    assert error <= 0.51, f"read {error:.2f} levels off the formula"  # half a level is the rounding to 8 bits

    upscale_clip(source, target, codec="ffv1", preset=None)
    back = np.stack([frame.pixels for frame in read_all(target)]).astype(float) / (1 if bits == 8 else 257)
    error = np.abs(back - got).max()
    assert error <= 1, f"{error:.2f} levels off after a round trip"
    after = probe(target)
    assert after.color == info.color
    assert after.pix_fmt == info.pix_fmt


@pytest.mark.parametrize(
    ("matrix", "value_range", "bits"), slow_after(1, itertools.product(MATRICES, ["tv", "pc"], [8, 10]))
)
def test_odd_sizes_have_the_same_colors(tmp_path: Path, matrix: str, value_range: str, bits: int) -> None:
    """Half a chroma sample at the edge: zimg refuses it, and the detour must not cost accuracy."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    values = codes(PATCHES[::4], matrix, value_range, bits)
    patch_clip(source, values, matrix, value_range, bits, "420", edge=9)
    got = np.stack([frame.pixels for frame in read_all(source)]).astype(float) / (1 if bits == 8 else 257)
    assert got.shape[1:3] == (9, 9)
    assert np.abs(got - rgb_of(values, matrix, value_range, bits)[:, None, None]).max() <= 0.51
    upscale_clip(source, target, codec="ffv1", preset=None)
    back = np.stack([frame.pixels for frame in read_all(target)]).astype(float) / (1 if bits == 8 else 257)
    assert np.abs(back - got).max() <= 1


@pytest.mark.parametrize("bits", slow_after(1, [10, 8]))
def test_an_ffmpeg_without_zimg_stays_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """swscale rounds within 2 levels; its direct conversion of 10-bit 4:2:0 would wrap white to black."""
    monkeypatch.setattr(color, "has_zscale", lambda: False)
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    values = codes(PATCHES, "bt709", "tv", bits)
    patch_clip(source, values, "bt709", "tv", bits, "420")
    got = np.stack([frame.pixels for frame in read_all(source)]).astype(float) / (1 if bits == 8 else 257)
    assert np.abs(got - rgb_of(values, "bt709", "tv", bits)[:, None, None]).max() <= 2
    upscale_clip(source, target, codec="ffv1", preset=None)
    back = np.stack([frame.pixels for frame in read_all(target)]).astype(float) / (1 if bits == 8 else 257)
    assert np.abs(back - got).max() <= 2


@pytest.mark.parametrize(
    ("matrix", "value_range", "suffix"),
    slow_after(1, itertools.product(MATRICES, ["tv", "pc"], [".mp4", ".mov", ".mkv", ".webm"])),
)
def test_tags_are_in_container_and_bitstream(tmp_path: Path, matrix: str, value_range: str, suffix: str) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    patch_clip(source, codes(PATCHES[:3], matrix, value_range, 8), matrix, value_range, 8, "420")
    upscale_clip(source, target, scale=4)
    want = probe(source).color
    assert want.tagged == {"matrix", "range", "primaries", "transfer"}
    assert probe(target).color == want
    with av.open(str(target)) as container:  # the container's tags, before anything is decoded
        context = container.streams.video[0].codec_context
        assert color.MATRICES[context.colorspace] == matrix
        assert color.RANGES[context.color_range] == value_range
        assert color.PRIMARIES[context.color_primaries] == want.primaries
        assert color.TRANSFERS[context.color_trc] == want.transfer
    if suffix != ".webm":  # VP9 cannot store primaries and transfer
        stripped = tmp_path / "bare.h264"
        ffmpeg("-i", target, "-c", "copy", stripped)
        assert probe(stripped).color == want


@pytest.mark.parametrize(("matrix", "value_range"), slow_after(1, itertools.product(MATRICES, ["tv", "pc"])))
def test_motion_jpeg_gets_its_own_matrix_and_range(tmp_path: Path, matrix: str, value_range: str) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    patch_clip(source, codes(PATCHES[::4], matrix, value_range, 8), matrix, value_range, 8, "420")
    upscale_clip(source, target, codec="mjpeg", preset=None)
    assert (probe(target).color.matrix, probe(target).color.range) == ("bt470bg", "pc")
    want, got = (np.stack([f.pixels for f in read_all(path)]).astype(int) for path in (source, target))
    assert np.abs(want - got).max() <= 3, "more than quantization: another matrix or range"


@pytest.mark.parametrize(("height", "matrix"), slow_after(1, [(576, "smpte170m"), (480, "smpte170m"), (720, "bt709")]))
def test_an_untagged_source_gets_the_customary_matrix_and_a_tagged_output(
    tmp_path: Path, height: int, matrix: str
) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    video = f"testsrc2=s=32x{height}:d=0.08"
    ffmpeg("-f", "lavfi", "-i", video, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", source)
    info = probe(source)
    assert (info.color.matrix, info.color.range, info.color.tagged) == (matrix, "tv", frozenset())
    upscale_clip(source, target, scale=2)  # 960 lines: a player would guess BT.709 for all of them
    after = probe(target).color
    assert (after.matrix, after.range) == (matrix, "tv")
    assert {"matrix", "range"} <= after.tagged


def test_chroma_edges_keep_their_place(tmp_path: Path) -> None:
    """Colored edges, not only flat patches: chroma must be sited the same on the way in and out."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    bars = "color=black:s=64x64:d=0.1:r=20,drawbox=x=20:w=17:c=red:t=fill,drawbox=y=31:h=9:c=blue:t=fill"
    ffmpeg("-f", "lavfi", "-i", bars, "-vf", "format=yuv444p,gblur=4,format=yuv420p", "-c:v", "ffv1", source)
    upscale_clip(source, target, codec="ffv1", preset=None)
    planes = []
    for path in (source, target):
        with av.open(str(path)) as container:
            planes.append(next(container.decode(video=0)).to_ndarray().astype(int))
    before, after = (plane[64:].reshape(2, 32, 32) for plane in planes)  # Cb and Cr
    assert np.abs(before - after).max() <= 3
    for axis in (1, 2):  # a shift by half a sample would fail
        shifted = (before + np.roll(before, 1, axis)) / 2
        assert np.abs(before - shifted).max() > 8


def test_limited_range_gray_is_expanded(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    raw = np.repeat(np.array([16, 126, 235], np.uint8), 64).tobytes()
    shape = ["-f", "rawvideo", "-s", "8x8", "-pix_fmt", "gray", "-color_range", "tv"]
    ffmpeg(*shape, "-i", "pipe:0", "-c:v", "ffv1", "-color_range", "tv", source, data=raw)
    assert probe(source).color.range == "tv"
    assert [frame.pixels[4, 4].tolist() for frame in read_all(source)] == [[0] * 3, [128] * 3, [255] * 3]


def test_deep_rgb_uses_the_full_scale(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    raw = np.repeat(np.array([0, 512, 1023], "<u2"), 64 * 3).tobytes()
    ffmpeg("-f", "rawvideo", "-s", "8x8", "-pix_fmt", "gbrp10le", "-i", "pipe:0", "-c:v", "ffv1", source, data=raw)
    frames = read_all(source)
    assert frames[0].pixels.dtype == np.uint16
    assert [int(f.pixels[4, 4, 0]) for f in frames] == [0, round(512 * 65535 / 1023), 65535]


def test_a_folder_of_deep_png_is_exact(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out"
    patch_clip(source, codes(PATCHES[:7], "bt709", "tv", 10), "bt709", "tv", 10, "444")
    upscale_clip(source, target)
    assert sorted(path.name for path in target.iterdir()) == [f"{n:06}.png" for n in range(1, 8)]
    again = read_all(target)
    for a, b in zip(read_all(source), again, strict=True):
        assert b.pixels.dtype == np.uint16
        assert np.array_equal(a.pixels, b.pixels)


@pytest.mark.parametrize("deep", [False, True])
def test_images_keep_their_alpha(tmp_path: Path, deep: bool) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    kind, pix_fmt = ("<u2", "rgba64le") if deep else (np.uint8, "rgba")
    rng = np.random.default_rng(5)
    rgba = rng.integers(0, np.iinfo(kind).max, (3, 12, 10, 4), dtype=kind, endpoint=True)
    shape = ["-f", "rawvideo", "-s", "10x12", "-pix_fmt", pix_fmt]
    ffmpeg(*shape, "-i", "pipe:0", source / "f%d.png", data=rgba.tobytes())
    info = probe(source)
    assert info.has_alpha
    upscale_clip(source, target)
    frames = read_all(target)
    for number, frame in enumerate(frames):
        assert np.array_equal(frame.pixels, rgba[number, ..., :3])
        assert np.array_equal(frame.alpha, rgba[number, ..., 3])
    notes = upscale_clip(source, tmp_path / "out.mp4")
    coarser = ["out.mp4: 16 bits are reduced to 10; choose another --codec or --pix-fmt to keep them"] if deep else []
    assert notes == ["out.mp4: alpha is dropped; images (.png) keep it", *coarser]


def test_rgb_images_become_tagged_bt709(tmp_path: Path) -> None:
    """8-bit limited BT.709 cannot represent every RGB triple: rounding its three codes costs up to 2 levels."""
    source, target = tmp_path / "in", tmp_path / "out.mp4"
    source.mkdir()
    for number, patch in enumerate(PATCHES[::7]):
        raw = np.tile(np.rint(patch * 255).astype(np.uint8), 64).tobytes()
        shape = ["-f", "rawvideo", "-s", "8x8", "-pix_fmt", "rgb24"]
        ffmpeg(*shape, "-i", "pipe:0", source / f"{number}.png", data=raw)
    upscale_clip(source, target, scale=2, crf=0, preset="medium")
    after = probe(target)
    assert after.pix_fmt == "yuv420p"
    assert (after.color.matrix, after.color.range) == ("bt709", "tv")
    got = np.stack([frame.pixels[8, 8] for frame in read_all(target)]).astype(float)
    ideal = rgb_of(codes(PATCHES[::7], "bt709", "tv", 8), "bt709", "tv", 8)
    assert np.abs(got - ideal).max() <= 1
    assert np.abs(got - PATCHES[::7] * 255).max() <= 2


def refuse_wrong_frames(writer: SegmentWriter) -> None:
    with pytest.raises(ValueError, match=r"\(8, 16, 3\) uint8"):
        writer.write(Frame(np.zeros((8, 8, 3), np.uint8), 0))
    with pytest.raises(ValueError, match="uint16"):
        writer.write(Frame(np.zeros((8, 16, 3), np.uint16), 0))


def test_frames_of_the_wrong_size_or_depth_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    patch_clip(source, codes(PATCHES[:1], "bt709", "tv", 8), "bt709", "tv", 8, "444")
    work = tmp_path / "work"
    work.mkdir()
    info = probe(source)
    target = check_target(info, OutputRequest(tmp_path / "out.mkv", 16, 8))
    writer = SegmentWriter(target, info, work, time_base=info.time_base, start=0.0)
    with pytest.raises(MediaError, match="no frame was written"), writer, writer.segment(0):
        refuse_wrong_frames(writer)
    assert sorted(tmp_path.iterdir()) == [source, work]
    assert list(work.iterdir()) == []


def test_timestamps_of_an_excerpt_start_at_zero() -> None:
    info = color.ColorDescription("bt709", "tv")
    common = {"interlaced": False, "frame_rate": Fraction(25), "color": info, "has_alpha": False, "bit_depth": 8}
    late = SourceInfo(
        "video", "x", 8, 8, pix_fmt="yuv420p", time_base=Fraction(1, 1000), start_time=Fraction(1, 2), **common
    )
    assert late.output_zero() == 0
    assert late.output_zero(0.25) == Fraction(1, 4)


# pixel format: (encoder, suffix, depth, code of gray 128 and subsampling of each color plane)
ALPHA = {
    "yuva420p": ("ffv1", ".mkv", 8, [(126, 1), (128, 4), (128, 4)]),
    "yuva444p10le": ("ffv1", ".mkv", 10, [(126 * 4, 1), (512, 1), (512, 1)]),
    "yuva422p12le": ("ffv1", ".mkv", 12, [(126 * 16, 1), (2048, 2), (2048, 2)]),
    "gbrap": ("ffv1", ".mkv", 8, [(128, 1)] * 3),
    "gbrap10le": ("ffv1", ".mkv", 10, [(514, 1)] * 3),
    "gray8a": ("png", ".mov", 8, [(128, 1)]),
    "rgba64le": ("png", ".mov", 16, [(128 * 257, 1)] * 3),
    "rgba": ("qtrle", ".mov", 8, [(128, 1)] * 3),
    "vp9": ("libvpx-vp9", ".webm", 8, [(126, 1), (128, 4), (128, 4)]),
}
PACKED = {"gray8a", "rgba", "rgba64le"}


@pytest.mark.parametrize("pix_fmt", slow_after(2, ALPHA))
def test_a_video_with_alpha_keeps_it_in_a_folder_of_images(tmp_path: Path, pix_fmt: str) -> None:
    encoder, suffix, bits, planes = ALPHA[pix_fmt]
    source, target = tmp_path / f"in{suffix}", tmp_path / "out"
    levels = np.array([0, 1, 63, 128, 200, 254]) * (2**bits - 1) // 255
    kind = np.uint8 if bits == 8 else np.dtype("<u2")
    parts = [[np.full(256 // share, code, kind) for code, share in [*planes, (level, 1)]] for level in levels]
    data = b"".join((np.stack(p, 1) if pix_fmt in PACKED else np.concatenate(p)).tobytes() for p in parts)
    shape = ["-f", "rawvideo", "-s", "16x16", "-pix_fmt", pix_fmt.replace("vp9", "yuva420p"), "-r", "25"]
    options = {"vp9": ["-lossless", "1", "-auto-alt-ref", "0"], "rgba": ["-pix_fmt", "argb"]}.get(pix_fmt, [])
    ffmpeg(*shape, "-i", "pipe:0", "-c:v", encoder, *options, source, data=data)
    info = probe(source)
    assert info.has_alpha
    assert upscale_clip(source, target) == []
    frames = read_all(target)
    unit = 1 if bits == 8 else 257
    got = np.stack([frame.alpha for frame in frames]).astype(float) / unit
    want = levels[:, None, None] * 255 / (2**bits - 1)
    assert np.abs(got - want).max() <= 0.01, got[:, 3, 3]
    pixels = np.stack([frame.pixels for frame in frames]).astype(float) / unit
    assert np.abs(pixels[1:] - 128).max() <= 0.5  # fully transparent pixels may have any color
    bare = read_all(source, alpha=False)  # as for a video target
    assert [frame.alpha for frame in bare] == [None] * len(levels)
    assert np.abs(np.stack([frame.pixels for frame in bare]).astype(float) / unit - 128).max() <= 0.5
    notes = upscale_clip(source, tmp_path / "out.mkv")
    assert "out.mkv: alpha is dropped; images (.png) keep it" in notes


def test_alpha_that_appears_later_in_a_sequence_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rng = np.random.default_rng(6)
    rgba = rng.integers(0, 255, (4, 12, 10, 4), dtype=np.uint8, endpoint=True)
    for number, pix_fmt in enumerate(["rgb24", "rgb24", "rgba", "rgb24"]):
        image = rgba[number] if pix_fmt == "rgba" else rgba[number, ..., :3]
        shape = ["-f", "rawvideo", "-s", "10x12", "-pix_fmt", pix_fmt]
        ffmpeg(*shape, "-i", "pipe:0", source / f"{number}.png", data=np.ascontiguousarray(image).tobytes())
    assert upscale_clip(source, target) == []
    with av.open(str(target / "000001.png")) as container:
        assert next(container.decode(video=0)).format.name == "rgba"
    frames = read_all(target)
    for number, frame in enumerate(frames):
        assert np.array_equal(frame.pixels, rgba[number, ..., :3])
        opaque = frame.alpha is None or frame.alpha.min() == 255
        assert np.array_equal(frame.alpha, rgba[number, ..., 3]) if number == 2 else opaque


# matrix and range of the second half of a stream, after BT.601 limited, and whether it is tagged
COLOR_CHANGES = {
    "matrix": ("bt709", "tv", True),
    "range": ("smpte170m", "pc", True),
    "both": ("bt709", "pc", True),
    "tags end": ("smpte170m", "tv", False),
}


@pytest.mark.parametrize("name", slow_after(0, COLOR_CHANGES))
def test_a_change_of_matrix_or_range_midway_does_not_change_the_colors(tmp_path: Path, name: str) -> None:
    """ffmpeg's HEVC decoder forgets the tags of the first half; its H.264 decoder would keep them."""
    matrix, value_range, tagged = COLOR_CHANGES[name]
    kinds = {"601": (("smpte170m", "tv"), True), "other": ((matrix, value_range), tagged)}
    for part, ((part_matrix, part_range), has_tags) in kinds.items():
        convert = "zscale=matrixin=gbr:rangein=full:matrix={}:range={}:chromal=left".format(
            {"smpte170m": "170m", "bt709": "709"}[part_matrix], {"tv": "limited", "pc": "full"}[part_range]
        )
        tags = ["-colorspace", part_matrix, "-color_range", part_range] if has_tags else []
        unknown = "" if has_tags else ",setparams=colorspace=unknown:range=unknown"
        codec = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "qp=1:log-level=none"]
        flat = f"color=0xC8283C:s=64x48:r=10:d=0.5,format=gbrp,{convert},format=yuv444p{unknown}"
        ffmpeg("-f", "lavfi", "-i", flat, *codec, *tags, "-f", "hevc", tmp_path / part)
    source = tmp_path / "in.hevc"
    source.write_bytes(b"".join((tmp_path / part).read_bytes() for part in kinds))
    with open_reader(probe(source)) as reader:
        frames = list(reader)
    assert len(frames) == 10
    for number, frame in enumerate(frames):
        error = np.abs(frame.pixels.astype(int) - [200, 40, 60]).max()
        assert error <= 2, f"frame {number} is {error} levels off"
    assert [warning for warning in reader.warnings if "change" in warning] == (
        []
        if tagged
        else [
            f"{source}: the color matrix or range changes midway or is no longer tagged; all frames were read as "
            "smpte170m, tv, like the first one"
        ]
    )


# tags of the source, lines of the output, and those that the note lists
Y4M_TAGS = {
    "small": (("smpte170m", "smpte170m", "smpte170m"), 480, ""),
    "small made large": (("smpte170m", "smpte170m", "smpte170m"), 1080, "smpte170m"),
    "large": (("bt709", "bt709", "bt709"), 1080, ""),
    "HLG": (("bt2020nc", "bt2020", "arib-std-b67"), 2160, "bt2020nc, bt2020, arib-std-b67"),
    "P3": (("bt709", "smpte432", "iec61966-2-1"), 1080, "smpte432"),
}


@pytest.mark.parametrize("name", Y4M_TAGS)
def test_color_tags_that_y4m_cannot_carry_are_reported(tmp_path: Path, name: str) -> None:
    (matrix, primaries, transfer), height, listed = Y4M_TAGS[name]
    source = tmp_path / "in.mkv"
    tags = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:d=0.1,format=yuv420p,{tags}", "-c:v", "ffv1", source)
    note = f"standard output: y4m carries no color tags; set {listed} in the program that reads it"
    assert list(check_target(probe(source), OutputRequest("-", 64, height)).notes) == ([note] if listed else [])
