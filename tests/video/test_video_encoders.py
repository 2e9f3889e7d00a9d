# SPDX-License-Identifier: Apache-2.0
"""Which encoder a name means, and encoders that read a device's memory."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from helpers.video_clips import FAST, VIDEO, ffmpeg, make_clip, request_for, slow_after, upscale_clip

from rvrt_cli.errors import OptionError
from rvrt_cli.video.ffmpeg import encoder_option_names, opens_device, video_encoders
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.write import target_check
from rvrt_cli.video.write.encoder_quality import LOSSLESS_OPTIONS, QUALITY_SCALES
from rvrt_cli.video.write.encoder_settings import choose_encoder
from rvrt_cli.video.write.target import Target
from rvrt_cli.video.write.target_check import check_target

FASTEST = {"libvpx-vp9": "8", "libvpx": "8", "libaom-av1": "8", "libsvtav1": "12"}
FASTEST |= dict.fromkeys(("libx264", "libx264rgb", "libx265"), "ultrafast")


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Four frames of 96×64 px of detail and noise, without loss."""
    pattern = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25,noise=alls=40:all_seed=7:allf=t"]
    return make_clip(*pattern, "-frames:v", "4", "-pix_fmt", "yuv420p", "-c:v", "ffv1", tmp_path / "noise.mkv")


def decided(source: Path, target: Path, **options: Any) -> Target:
    info = probe(source)
    return check_target(info, request_for(info, target, **options))


def raw_frames(path: Path, pix_fmt: str) -> np.ndarray:
    """All samples of all frames, as ffmpeg decodes them."""
    return np.frombuffer(ffmpeg("-i", path, "-pix_fmt", pix_fmt, "-f", "rawvideo", "-"), np.uint8)


needs_hardware_encoders = pytest.mark.skipif(
    not {"h264_vaapi", "hevc_vaapi", "hevc_qsv", "h264_vulkan"} <= set(video_encoders()),
    reason="this ffmpeg has no hardware encoders",
)


@needs_hardware_encoders
@pytest.mark.parametrize("encoder", ["h264_vaapi", "hevc_qsv", "h264_vulkan"])
def test_a_hardware_encoder_without_its_device_is_refused_in_one_line(tmp_path: Path, encoder: str) -> None:
    if opens_device(encoder.partition("_")[2]):
        pytest.skip("this machine has the device")
    source = make_clip(*VIDEO, "-frames:v", "2", *FAST, tmp_path / "in.mp4")
    info = probe(source)
    with pytest.raises(OptionError, match=f"--codec {encoder}: ffmpeg cannot open a device of type .* libx264$"):
        check_target(info, request_for(info, tmp_path / "out.mp4", codec=encoder))
    with pytest.raises(OptionError, match=r"--pix-fmt vaapi: .* leave it out"):
        check_target(info, request_for(info, tmp_path / "out.mp4", codec=encoder, pix_fmt="vaapi"))


@needs_hardware_encoders
@pytest.mark.parametrize(
    ("encoder", "pix_fmt", "uploaded"),
    [
        ("h264_vaapi", "yuv420p", "nv12"),
        ("h264_vaapi", "yuv420p10le", "nv12"),
        ("hevc_vaapi", "yuv420p10le", "p010le"),
        ("hevc_vulkan", "yuv444p", "nv12"),
    ],
)
def test_frames_are_uploaded_to_the_device_that_an_encoder_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, pix_fmt: str, uploaded: str
) -> None:
    """Without the device, so that the encoder cannot be tried."""
    monkeypatch.setattr(target_check, "preflight", lambda info, target: None)
    source = tmp_path / "in.mkv"
    make_clip(*VIDEO, "-frames:v", "2", "-pix_fmt", pix_fmt, "-c:v", "ffv1", source)
    info = probe(source)
    target = check_target(info, request_for(info, tmp_path / "out.mp4", codec=encoder))
    assert target.pix_fmt == uploaded
    device = encoder.partition("_")[2]
    words = " ".join(target.options)
    assert f"-init_hw_device {device}=rvrt -filter_hw_device rvrt -c:v {encoder}" in words
    assert f"format={uploaded}," in target.filter_chain
    assert target.filter_chain.endswith(",hwupload")


@pytest.mark.parametrize(
    ("asked", "suggested"), [("h264", "libx264"), ("H265", "libx265"), ("x264", "libx264"), ("av1", "libsvtav1")]
)
def test_the_name_of_a_codec_suggests_the_encoder_that_runs_everywhere(
    tmp_path: Path, asked: str, suggested: str
) -> None:
    with pytest.raises(OptionError, match=f"--codec {asked}: .* for example {suggested}"):
        choose_encoder(asked, tmp_path / "out.mkv")


def test_every_listed_encoder_has_a_name_and_a_codec() -> None:
    assert all(re.fullmatch(r"\w[\w.-]*", name) for name in video_encoders())


@pytest.mark.parametrize("encoder", ["h264_nvenc", "hevc_amf", "h264_v4l2m2m"])
def test_missing_hardware_is_said_in_one_line(tmp_path: Path, noise: Path, encoder: str) -> None:
    device = {"nvenc": "cuda", "amf": "amf"}.get(encoder.partition("_")[2])
    if encoder not in video_encoders() or (device and opens_device(device)) or list(Path("/dev").glob("video*")):
        pytest.skip("this ffmpeg has no such encoder, or this machine the device")
    why = f"cannot open a device of type {device} on this machine" if device else "this machine has no hardware for it"
    with pytest.raises(OptionError, match=f"^--codec {encoder}: .*{why}.* such as libx264$") as error:
        decided(noise, tmp_path / "out.mp4", codec=encoder, preset=None)
    assert "\n" not in str(error.value)


def test_an_encoder_of_another_system_is_said_to_be_one(tmp_path: Path) -> None:
    if "h264_videotoolbox" in video_encoders():
        pytest.skip("this is macOS")
    with pytest.raises(OptionError, match=r"h264_videotoolbox: .* \(ffmpeg for macOS may have it\); .* libx264"):
        choose_encoder("h264_videotoolbox", tmp_path / "out.mkv")


# Options of the encoder


def test_options_reach_the_encoder(tmp_path: Path, noise: Path) -> None:
    upscale_clip(noise, tmp_path / "out.mkv", encoder_options={"g": "2", "x264-params": "annexb=1"})
    with av.open(str(tmp_path / "out.mkv")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [True, False, True, False]


def test_lists_of_options_are_added_to_those_that_keep_hdr_metadata(tmp_path: Path, noise: Path) -> None:
    source = tmp_path / "hdr.mkv"
    hdr = "max-cll=1000,400:log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    make_clip("-i", noise, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", hdr, source)
    options = {"x265-params": "keyint=1:log-level=none"}
    upscale_clip(source, tmp_path / "out.mkv", codec="libx265", encoder_options=options)
    after = probe(tmp_path / "out.mkv")
    assert after.mastering is not None
    assert (after.mastering, after.light_level) == (probe(source).mastering, (1000, 400))
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


@pytest.mark.parametrize(
    ("codec", "options", "words"),
    slow_after(
        5,
        [
            ("libx264", {"aqmode": "3"}, r"aqmode=3: libx264 has no option of this name; did you mean aq-mode\?"),
            ("libx264", {"vf": "null"}, "vf=null: libx264 has no option of this name"),
            ("libx264", {"colorspace": "bt709"}, "colorspace=bt709: is taken from the source"),
            ("libx264", {"aq-mode": "many"}, r"Error setting option aq-mode to value many.*change .*--encoder-option"),
            ("libx264", {"x264-params": "nonsense=1"}, "x264-params=nonsense=1: libx264 ignores this"),
            ("libx264", {"q": "3"}, "--encoder-option q=3: libx264 ignores this"),
            ("libx265", {"x265-params": "aq-mode=1:nonsense=1"}, "nonsense=1: libx265 ignores this"),
            ("libsvtav1", {"svtav1-params": "nonsense=1"}, "nonsense=1: libsvtav1 ignores this"),
            ("libaom-av1", {"aom-params": "nonsense=1"}, "nonsense"),
            ("ffv1", {"aq-mode": "1"}, "aq-mode=1: ffv1 has no option of this name"),
        ],
    ),
)
def test_options_that_the_encoder_does_not_know_are_refused(
    tmp_path: Path, noise: Path, codec: str, options: dict[str, str], words: str
) -> None:
    if codec not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    with pytest.raises(OptionError, match=words) as error:
        decided(noise, tmp_path / "out.mkv", codec=codec, encoder_options=options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wish", [{"crf": 20}, {"quality": 50}, {"lossless": True}])
def test_two_options_that_decide_on_the_quality_are_refused(tmp_path: Path, noise: Path, wish: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"--encoder-option b: contradicts --{next(iter(wish))}"):
        decided(noise, tmp_path / "out.mkv", encoder_options={"b": "2M"}, **wish)
    with pytest.raises(OptionError, match="preset=fast: contradicts --preset"):
        decided(noise, tmp_path / "out.mkv", preset="slow", encoder_options={"preset": "fast"})


def test_images_say_that_encoder_options_have_no_effect(tmp_path: Path, noise: Path) -> None:
    target = decided(noise, tmp_path / "frames", quality=50, lossless=True, encoder_options={"g": "2"})
    assert target.notes == ("frames: --quality 50, --encoder-option g=2: for videos, and without effect here",)


# Quality


@pytest.mark.parametrize(
    "encoder",
    slow_after(
        3, ["libx264", "mpeg4", "prores_ks", "libx265", "libvpx-vp9", "libsvtav1", "libaom-av1", "libvpx", "librav1e"]
    ),
)
def test_more_quality_gives_better_frames_and_a_larger_file(tmp_path: Path, noise: Path, encoder: str) -> None:
    if encoder not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    before = raw_frames(noise, "yuv420p").astype(float)
    sizes, psnrs = [], []
    for quality in (10, 60, 95):
        target = tmp_path / f"{quality}.mkv"
        upscale_clip(noise, target, codec=encoder, quality=quality, preset=FASTEST.get(encoder))
        sizes.append(target.stat().st_size)
        error = np.mean((raw_frames(target, "yuv420p") - before) ** 2)
        psnrs.append(10 * math.log10(255**2 / error))
    assert sizes == sorted(sizes), sizes
    assert psnrs == sorted(psnrs), psnrs
    assert psnrs[2] > psnrs[0] + 3, psnrs


def test_the_usual_quality_is_what_is_chosen_without_a_wish(tmp_path: Path, noise: Path) -> None:
    for encoder in ("libx264", "mpeg4"):
        wanted, unasked = (
            decided(noise, tmp_path / "out.mkv", codec=encoder, quality=quality).options for quality in (75, None)
        )
        assert wanted == unasked


@pytest.mark.slow
def test_every_option_of_the_scales_is_one_of_the_encoder() -> None:
    """For encoders that need hardware: this ffmpeg lists their options, and the names of values."""
    checked = 0
    for encoder, scale in QUALITY_SCALES.items():
        if encoder not in video_encoders():
            continue
        known = encoder_option_names(encoder) | {"q"}
        assert {*scale.options, *scale.others} <= known, encoder
        help_text = ffmpeg_help(encoder)
        for name in {"rc", "rc_mode"} & set(scale.others):
            value = scale.others[name]
            section = re.search(rf"^  -{name} .*\n((?:     .*\n)+)", help_text, re.MULTILINE)
            assert section, encoder
            assert re.search(rf"^     {value} ", section[1], re.MULTILINE), f"{encoder}: {name} {value}"
        checked += 1
    assert checked >= 8
    for encoder, options in LOSSLESS_OPTIONS.items():
        if encoder in video_encoders():
            assert set(options) <= encoder_option_names(encoder), encoder


def ffmpeg_help(encoder: str) -> str:
    import subprocess

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-h", f"encoder={encoder}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("ffv1", "--quality 50: ffv1 is always lossless; omit it"),
        ("snow", "--quality 50: snow has no scale of quality here; .*--encoder-option b=20M"),
    ],
)
def test_quality_is_refused_by_encoders_without_a_scale(tmp_path: Path, noise: Path, codec: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        decided(noise, tmp_path / "out.mkv", codec=codec, quality=50)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(
    "encoder", slow_after(2, ["libx264", "ffv1", "libx265", "libvpx-vp9", "libaom-av1", "libsvtav1", "libopenjpeg"])
)
def test_lossless_keeps_every_sample(tmp_path: Path, encoder: str, pix_fmt: str) -> None:
    """Two encoders that share no code agree in every sample of noise, after which there is nothing left to lose."""
    if encoder not in video_encoders():
        pytest.skip("this ffmpeg has no such encoder")
    source = tmp_path / "in.mkv"
    pattern = ["-f", "lavfi", "-i", "testsrc2=s=192x128:r=25,noise=alls=90:all_seed=7:allf=t,scale=96:64"]
    make_clip(*pattern, "-frames:v", "4", "-pix_fmt", pix_fmt, "-c:v", "ffv1", source)
    [note] = upscale_clip(source, tmp_path / "out.mkv", codec=encoder, lossless=True, preset=FASTEST.get(encoder))
    assert f"--lossless keeps {pix_fmt} exactly" in note
    reference = "ffv1" if encoder != "ffv1" else "libx264"
    upscale_clip(source, tmp_path / "other.mkv", codec=reference, lossless=True, preset=FASTEST.get(reference))
    ours, others = (raw_frames(tmp_path / name, pix_fmt) for name in ("out.mkv", "other.mkv"))
    assert ours.size == others.size > 4 * 96 * 64
    assert np.array_equal(ours, others), f"{np.count_nonzero(ours != others)} of {others.size} bytes differ"


def test_lossless_rgb_keeps_the_frames_of_the_network(tmp_path: Path, noise: Path) -> None:
    assert upscale_clip(noise, tmp_path / "out.mkv", codec="libx264rgb", lossless=True) == []
    upscale_clip(noise, tmp_path / "bgr0.mkv", codec="ffv1", pix_fmt="bgr0", lossless=True, preset=None)
    ours, others = (raw_frames(tmp_path / name, "rgb24") for name in ("out.mkv", "bgr0.mkv"))
    assert np.array_equal(ours, others)


def test_lossless_is_refused_where_the_encoder_cannot_do_it(tmp_path: Path, noise: Path) -> None:
    with pytest.raises(OptionError, match="--lossless: prores_ks cannot encode without loss here; choose for example"):
        decided(noise, tmp_path / "out.mov", codec="prores_ks", lossless=True)
