# SPDX-License-Identifier: Apache-2.0
"""The video encoder and its options: codec, pixel format, quality, color tags, HDR10 metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video import color
from rvrt_cli.video.ffmpeg import encoder_pix_fmts, video_encoders
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.fidelity_notes import output_chroma
from rvrt_cli.video.write.target import MUXERS, Target

_DEFAULT_ENCODERS = {"webm": "libvpx-vp9"}
_COMMON_ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1")
_CODEC_ALIASES = {"avc": "h264", "h.264": "h264", "x264": "h264", "h265": "hevc", "h.265": "hevc", "x265": "hevc"}
# A little better than ffmpeg's defaults, so that upscaled detail is not quantized away
_DEFAULT_CRF = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 26, "libaom-av1": 24}
_MAX_CRF = 63
_VP9_DEFAULT_PRESET = "2"
_CPU_USED_ENCODERS = {"libvpx-vp9", "libvpx", "libaom-av1"}  # -cpu-used is their preset
# Encoders that can write HDR10 metadata, and the option that carries it
HDR_OPTIONS = {"libx264": "-x264-params", "libx265": "-x265-params", "libsvtav1": "-svtav1-params"}
_LIGHT_LEVEL_KEYS = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}
_CHROMA_PREFERENCES = {"420": ("420", "422", "444"), "422": ("422", "444", "420"), "444": ("444", "422", "420")}
# Pixel formats that stand for frames in a device's memory, and the type of that device for ffmpeg
_UPLOADS = {"vaapi": "vaapi", "vulkan": "vulkan"}
_COMPUTED_CODECS = {"ffv1", "prores"}  # by shaders, from planar formats; the others by video engines
_8_BIT_CODECS = {"h264", "mjpeg", "mpeg2video", "vp8"}  # in which devices encode 8 bits only
_RGB_ENCODERS = ("ffv1", "utvideo", "magicyuv", "huffyuv")


def choose_encoder(codec: str | None, path: Path) -> tuple[str, str]:
    """(encoder, codec that it writes) for the container at `path`; `codec` is what the user asked for.

    Raises:
        OptionError: this ffmpeg has no such encoder.
        MediaError: the container cannot hold what it writes.
    """
    muxer = MUXERS[path.suffix.lower()]
    encoder = codec or _DEFAULT_ENCODERS.get(muxer, "libx264")
    known = video_encoders()
    if encoder not in known:
        examples = ", ".join(_similar_encoders(encoder, known) or _COMMON_ENCODERS)
        raise OptionError(f"--codec {encoder}: this ffmpeg has no such video encoder; choose for example {examples}")
    written = known[encoder]
    if not _muxer_supports(muxer, written):
        fits = [suffix for suffix, other in MUXERS.items() if suffix != ".m4v" and _muxer_supports(other, written)]
        remedy = f"choose {' or '.join(fits)}" if fits else "choose another --codec"
        raise MediaError(f"{path.name}: video codec {written!r} is not supported in {path.suffix}; {remedy}")
    return encoder, written


def _similar_encoders(name: str, known: Mapping[str, str]) -> list[str]:
    """Encoders that write the codec of this name, or are named similarly; those that run everywhere come first."""
    codec = _CODEC_ALIASES.get(name.lower(), name.lower())
    similar = [encoder for encoder, writes in known.items() if codec in (writes, encoder) or codec in encoder]
    return sorted(similar, key=lambda encoder: (encoder not in _COMMON_ENCODERS, encoder))[:4]


def _muxer_supports(muxer: str, codec: str) -> bool:
    with av.open(os.devnull, "w", format=muxer) as container:
        return codec in container.supported_codecs


def upload_device(encoder: str) -> str:
    """Type of the device ("vaapi") into whose memory frames are uploaded for `encoder`; "" where it takes them itself."""
    return next((_UPLOADS[name] for name in encoder_pix_fmts(encoder) if name in _UPLOADS), "")


def choose_pix_fmt(info: SourceInfo, encoder: str, wanted: str | None) -> str:
    """`wanted`, or the pixel format nearest to the source's in depth, then in chroma, that the encoder accepts.

    For an encoder that reads a device's memory, the format in which frames are uploaded to it.

    Raises:
        OptionError: the encoder does not accept `wanted`, or nothing suitable.
    """
    supported = tuple(name for name in encoder_pix_fmts(encoder) if not color.is_device_memory(name))
    if wanted is not None and color.is_device_memory(wanted):
        formats = ", ".join(supported) or "nv12, p010le"
        raise OptionError(
            f"--pix-fmt {wanted}: frames are uploaded to the device by rvrt; leave it out, or choose one of {formats}"
        )
    if wanted is not None:
        if supported and wanted not in supported:
            raise OptionError(
                f"--pix-fmt {wanted}: {encoder} does not support it; choose one of {', '.join(supported)}"
            )
        try:
            av.VideoFormat(wanted)
        except ValueError as error:
            raise OptionError(f"--pix-fmt {wanted}: ffmpeg has no such pixel format; try yuv420p") from error
        return wanted
    if upload_device(encoder) and video_encoders()[encoder] not in _COMPUTED_CODECS:
        return "nv12" if info.bit_depth <= 8 or video_encoders()[encoder] in _8_BIT_CODECS else "p010le"
    for name in _pix_fmt_preferences(info, encoder, supported):
        if not supported or name in supported:
            return name
    raise OptionError(f"--codec {encoder}: choose its --pix-fmt, one of {', '.join(supported)}")


def _pix_fmt_preferences(info: SourceInfo, encoder: str, supported: tuple[str, ...]) -> list[str]:
    """Pixel formats for the source, the best first."""
    depths: tuple[str, ...] = ("", "10le", "12le")
    if info.bit_depth > 12:
        depths = ("16le", "12le", "10le", "")
    elif info.bit_depth > 10:
        depths = ("12le", "16le", "10le", "")
    elif info.bit_depth > 8:
        depths = ("10le", "12le", "16le", "")
    chromas = _CHROMA_PREFERENCES[output_chroma(info)]
    names = [f"yuv{chroma}p{depth}" for depth in depths for chroma in chromas]
    for planar, interleaved in (("yuv420p", "nv12"), ("yuv420p10le", "p010le")):
        names.insert(names.index(planar) + 1, interleaved)
    if color.is_rgb(info.pix_fmt) and info.kind == "video" and encoder in _RGB_ENCODERS:
        names = (["gbrp", "bgr0", "rgb24"] if info.bit_depth <= 8 else ["gbrp16le"]) + names
    if supported and supported[0].startswith("yuvj"):  # JPEG is full range
        names = [f"yuvj{chroma}p" for chroma in chromas] + names
    return [*names, "rgb24", "bgr24", "gbrp", "bgr0"]


def encoder_options(info: SourceInfo, target: Target, crf: int | None, preset: str | None) -> list[str]:
    """ffmpeg's arguments for the encoder of `target`.

    Raises:
        OptionError: `crf` is out of range.
    """
    encoder = target.encoder
    if crf is not None and not 0 <= crf <= _MAX_CRF:
        raise OptionError(f"--crf {crf}: give 0 (best) to 51, or to {_MAX_CRF} for VP9 and AV1")
    options = ["-c:v", encoder]
    if target.upload:
        options = ["-init_hw_device", f"{target.upload}=rvrt", "-filter_hw_device", "rvrt", *options]
    quality = _DEFAULT_CRF.get(encoder) if crf is None else crf
    if quality is not None:
        options += ["-crf", str(quality)]
        if encoder in _CPU_USED_ENCODERS:
            options += ["-b:v", "0"]  # else the default bit rate of 256 kb/s limits the quality
    if encoder == "libvpx-vp9":
        options += ["-row-mt", "1"]
        preset = preset or _VP9_DEFAULT_PRESET
    if preset is not None:
        options += ["-cpu-used" if encoder in _CPU_USED_ENCODERS else "-preset", preset]
    if target.codec == "hevc" and target.muxer in ("mp4", "mov"):
        options += ["-tag:v", "hvc1"]  # Apple's players reject hev1
    options += _private_options(info, encoder)
    return [*options, *color.tag_options(target.color)]


def _private_options(info: SourceInfo, encoder: str) -> list[str]:
    """The frame rate, which raw frames do not carry, and HDR10's static metadata, in the encoder's own syntax."""
    option = HDR_OPTIONS.get(encoder)
    if option is None:
        return []
    rate = info.frame_rate.limit_denominator(1001)
    words = []
    if encoder != "libsvtav1" and rate > 0:
        words.append(f"fps={rate.numerator}/{rate.denominator}")
    if encoder == "libx265":
        words.append("log-level=error")
    if info.mastering is not None:
        key = "master-display" if encoder == "libx265" else "mastering-display"
        words.append(f"{key}={_format_mastering_display(info, in_units=encoder != 'libsvtav1')}")
    if info.light_level is not None:
        words.append(f"{_LIGHT_LEVEL_KEYS[encoder]}={info.light_level[0]},{info.light_level[1]}")
    return [option, ":".join(words)] if words else []


def _format_mastering_display(info: SourceInfo, *, in_units: bool) -> str:
    """The mastering display as integers (units of 0.00002 in xy and 0.0001 cd/m²), or as decimal numbers."""
    display = info.mastering
    assert display is not None

    def number(value: Fraction, units: int) -> str:
        return str(round(value * units)) if in_units else f"{float(value):.5f}"

    def point(xy: tuple[Fraction, Fraction]) -> str:
        return f"({number(xy[0], 50_000)},{number(xy[1], 50_000)})"

    luminance = f"({number(display.max_luminance, 10_000)},{number(display.min_luminance, 10_000)})"
    return f"G{point(display.green)}B{point(display.blue)}R{point(display.red)}WP{point(display.white)}L{luminance}"
