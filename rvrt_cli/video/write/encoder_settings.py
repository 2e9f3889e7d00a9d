# SPDX-License-Identifier: Apache-2.0
"""The video encoder and its options: codec, pixel format, quality, color tags, HDR10 metadata."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video import color
from rvrt_cli.video.ffmpeg import encoder_option_names, encoder_pix_fmts, video_encoders
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.encoder_quality import RATE_OPTIONS, lossless_options, quality_options
from rvrt_cli.video.write.fidelity_notes import output_chroma
from rvrt_cli.video.write.target import MUXERS, OutputRequest, Target

_DEFAULT_ENCODERS = {"webm": "libvpx-vp9"}
_COMMON_ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1")
_CODEC_ALIASES = {"avc": "h264", "h.264": "h264", "x264": "h264", "h265": "hevc", "h.265": "hevc", "x265": "hevc"}
_MAX_CRF = 63
_VP9_DEFAULT_PRESET = "2"
_CPU_USED_ENCODERS = {"libvpx-vp9", "libvpx", "libaom-av1"}  # -cpu-used is their preset
# Encoders that can write HDR10 metadata, and the option that carries it
HDR_OPTIONS = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}
_LIGHT_LEVEL_KEYS = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}
_CHROMA_PREFERENCES = {"420": ("420", "422", "444"), "422": ("422", "444", "420"), "444": ("444", "422", "420")}
# Pixel formats that stand for frames in a device's memory, and the type of that device for ffmpeg
_UPLOADS = {"vaapi": "vaapi", "vulkan": "vulkan"}
_COMPUTED_CODECS = {"ffv1", "prores"}  # by shaders, from planar formats; the others by video engines
_8_BIT_CODECS = {"h264", "mjpeg", "mpeg2video", "vp8"}  # in which devices encode 8 bits only
_SOURCE_OPTIONS = {"colorspace", "color_primaries", "color_trc", "color_range", "aspect", "sar"}
_SHARED_NAMES = {"b", "q", "profile"}
_SYSTEMS = {"videotoolbox": "macOS", "mf": "Windows", "d3d12va": "Windows", "mediacodec": "Android"}
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
        system = _SYSTEMS.get(encoder.rpartition("_")[2])
        where = f" (ffmpeg for {system} may have it)" if system else ""
        raise OptionError(
            f"--codec {encoder}: this ffmpeg has no such video encoder{where}; choose for example {examples}"
        )
    written = known[encoder]
    if not _muxer_supports(muxer, written):
        fits = [suffix for suffix, other in MUXERS.items() if suffix != ".m4v" and _muxer_supports(other, written)]
        remedy = f"choose {' or '.join(fits)}" if fits else "choose another --codec"
        raise MediaError(f"{path.name}: video codec {written!r} is not supported in {path.suffix}; {remedy}")
    return encoder, written


def _similar_encoders(name: str, known: Mapping[str, str]) -> list[str]:
    """Encoders that write the codec of this name, or are named similarly; those that run everywhere come first."""
    words = [name.lower(), name.lower().partition("_")[0]]
    codec = next((word for word in words if any(word in encoder for encoder in known)), words[0])
    codec = _CODEC_ALIASES.get(words[0], codec)
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


def encoder_options(info: SourceInfo, target: Target, request: OutputRequest) -> list[str]:
    """ffmpeg's arguments for the encoder of `target`.

    Raises:
        OptionError: a value is out of range, or the encoder does not have what is asked of it.
    """
    encoder = target.encoder
    asked = _checked_options(target, request)
    options = _chosen_quality(target, request, asked)
    if encoder == "libvpx-vp9":
        options["row-mt"] = "1"
    preset = _VP9_DEFAULT_PRESET if request.preset is None and encoder == "libvpx-vp9" else request.preset
    if preset is not None:
        options["cpu-used" if encoder in _CPU_USED_ENCODERS else "preset"] = preset
    _merge_options(options, _private_options(info, encoder))
    _merge_options(options, asked)
    # Without the specifier, ffmpeg takes some names for those of audio too
    words = [word for name, value in options.items() for word in (f"-{name}{':v' * (name in _SHARED_NAMES)}", value)]
    if target.codec == "hevc" and target.muxer in ("mp4", "mov"):
        words += ["-tag:v", "hvc1"]  # Apple's players reject hev1
    device = ["-init_hw_device", f"{target.upload}=rvrt", "-filter_hw_device", "rvrt"] if target.upload else []
    return [*device, "-c:v", encoder, *words, *color.tag_options(target.color)]


def _chosen_quality(target: Target, request: OutputRequest, asked: Mapping[str, str]) -> dict[str, str]:
    if request.crf is not None and not 0 <= request.crf <= _MAX_CRF:
        raise OptionError(f"--crf {request.crf}: give 0 (best) to 51, or to {_MAX_CRF} for VP9 and AV1")
    rate = sorted(RATE_OPTIONS & set(asked))
    given = {"--crf": request.crf is not None, "--quality": request.quality is not None, "--lossless": request.lossless}
    for name in (name for name, there in given.items() if there and rate):
        raise OptionError(f"--encoder-option {rate[0]}: contradicts {name}; give one of them")
    if request.lossless:
        return lossless_options(target)
    return {} if rate else quality_options(target, request.crf, request.quality)


def _checked_options(target: Target, request: OutputRequest) -> dict[str, str]:
    """The user's options of the encoder.

    Raises:
        OptionError: the encoder does not know one, or another option decides on it.
    """
    encoder, asked = target.encoder, request.encoder_options
    if not asked:
        return {}
    known = encoder_option_names(encoder) | {"q"}
    for name, value in asked.items():
        entry = f"--encoder-option {name}={value}"
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise OptionError(f"{entry}: {encoder} has no option of this name{hint} (ffmpeg -h encoder={encoder})")
        if name in _SOURCE_OPTIONS:
            raise OptionError(f"{entry}: is taken from the source, so that the pixels fit it; omit it")
        if name in ("preset", "cpu-used") and request.preset is not None:
            raise OptionError(f"{entry}: contradicts --preset; give one of them")
    return dict(asked)


def _merge_options(options: dict[str, str], others: Mapping[str, str]) -> None:
    """Add `others`, which prevail; lists such as x265-params are joined, and their later entries prevail."""
    for name, value in others.items():
        joined = name.endswith("-params") and name in options
        options[name] = f"{options[name]}:{value}" if joined else value


def _private_options(info: SourceInfo, encoder: str) -> dict[str, str]:
    """The frame rate, which raw frames do not carry, and HDR10's static metadata, in the encoder's own syntax."""
    option = HDR_OPTIONS.get(encoder)
    if option is None:
        return {}
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
    return {option: ":".join(words)} if words else {}


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
