# SPDX-License-Identifier: Apache-2.0
"""Which encoder a name means, and encoders that read a device's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.video_clips import FAST, VIDEO, make_clip, request_for

from rvrt_cli.errors import OptionError
from rvrt_cli.video.ffmpeg import opens_device, video_encoders
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.write import target_check
from rvrt_cli.video.write.encoder_settings import choose_encoder
from rvrt_cli.video.write.target_check import check_target

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
    with pytest.raises(OptionError, match=f"--codec {encoder}: ffmpeg cannot open a .* device .* libx264$"):
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
