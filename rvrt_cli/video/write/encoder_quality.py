# SPDX-License-Identifier: Apache-2.0
"""One scale of quality for all encoders: which of their options gets which number for --quality and --lossless.

docs/formats.md shows these tables to the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rvrt_cli.errors import OptionError
from rvrt_cli.video import color
from rvrt_cli.video.ffmpeg import always_lossless
from rvrt_cli.video.write.target import Target

USUAL_QUALITY = 75  # a little better than ffmpeg's defaults, so that upscaled detail is not quantized away


@dataclass(frozen=True)
class QualityScale:
    """The options that set an encoder's quality.

    Attributes:
        options: get the number for the quality.
        worst, usual, best: that number at quality 1, at `USUAL_QUALITY` and at 100; linear in between.
        others: options that go with it.
    """

    options: tuple[str, ...]
    worst: int
    usual: int
    best: int
    others: dict[str, str] = field(default_factory=dict)

    def number(self, quality: int) -> int:
        """The encoder's number for `quality` [1 to 100]."""
        if quality <= USUAL_QUALITY:
            share = (quality - 1) / (USUAL_QUALITY - 1)
            return round(self.worst + share * (self.usual - self.worst))
        share = (quality - USUAL_QUALITY) / (100 - USUAL_QUALITY)
        return round(self.usual + share * (self.best - self.usual))


_NO_LIMIT = {"b": "0"}  # else a default bit rate of 200 kb/s to 2 Mb/s limits the quality
_CQ, _CQP = {"rc": "vbr", **_NO_LIMIT}, {"rc": "cqp"}
_VAAPI_CQP, _VULKAN_CQP = {"rc_mode": "CQP"}, {"rc_mode": "cqp"}
_H26X, _H26X_HARDWARE, _AV1_INDEX = (45, 18, 8), (45, 19, 8), (230, 90, 30)
QUALITY_SCALES = {
    "libx264": QualityScale(("crf",), *_H26X),
    "libx264rgb": QualityScale(("crf",), *_H26X),
    "libx265": QualityScale(("crf",), 47, 20, 10),
    "libvpx-vp9": QualityScale(("crf",), 60, 24, 8, _NO_LIMIT),
    "libvpx": QualityScale(("crf",), 60, 10, 4, {"b": "100M"}),  # of VP8, where 0 would not mean without limit
    "libaom-av1": QualityScale(("crf",), 60, 24, 8, _NO_LIMIT),
    "libsvtav1": QualityScale(("crf",), 60, 26, 8),
    "librav1e": QualityScale(("qp",), *_AV1_INDEX),
    "h264_nvenc": QualityScale(("cq",), *_H26X_HARDWARE, _CQ),
    "hevc_nvenc": QualityScale(("cq",), *_H26X_HARDWARE, _CQ),
    "av1_nvenc": QualityScale(("cq",), 60, 26, 8, _CQ),
    **{
        f"{codec}_qsv": QualityScale(("global_quality",), *_H26X_HARDWARE) for codec in ("h264", "hevc", "av1", "mpeg2")
    },
    "h264_vaapi": QualityScale(("qp",), *_H26X_HARDWARE, _VAAPI_CQP),
    "hevc_vaapi": QualityScale(("qp",), *_H26X_HARDWARE, _VAAPI_CQP),
    "vp9_vaapi": QualityScale(("global_quality",), *_AV1_INDEX, _VAAPI_CQP),
    "av1_vaapi": QualityScale(("global_quality",), *_AV1_INDEX, _VAAPI_CQP),
    "h264_vulkan": QualityScale(("qp",), *_H26X_HARDWARE, _VULKAN_CQP),
    "hevc_vulkan": QualityScale(("qp",), *_H26X_HARDWARE, _VULKAN_CQP),
    "av1_vulkan": QualityScale(("qp",), *_AV1_INDEX, _VULKAN_CQP),
    "h264_amf": QualityScale(("qp_i", "qp_p"), *_H26X_HARDWARE, _CQP),
    "hevc_amf": QualityScale(("qp_i", "qp_p"), *_H26X_HARDWARE, _CQP),
    "av1_amf": QualityScale(("qp_i", "qp_p"), *_AV1_INDEX, _CQP),
    **{f"{codec}_videotoolbox": QualityScale(("q",), 1, USUAL_QUALITY, 100) for codec in ("h264", "hevc")},
    **{
        name: QualityScale(("q",), 31, 3, 2)
        for name in ("mpeg4", "libxvid", "mpeg1video", "mpeg2video", "mjpeg", "h263", "rv10", "rv20")
    },
    "cfhd": QualityScale(("quality",), 12, 3, 0),
}
# Encoders whose quality is that of a profile, from low to high; what follows is for 4:4:4 and RGB
_PRORES = (("0", "1", "2", "3"), ("4", "5"))  # proxy, LT, standard, HQ; 4444, 4444 XQ
QUALITY_PROFILES = {
    **dict.fromkeys(("prores_ks", "prores", "prores_aw", "prores_ks_vulkan"), _PRORES),
    "dnxhd": (("dnxhr_lb", "dnxhr_sq", "dnxhr_hq"), ("dnxhr_444",)),
}
_DEEP_PROFILES = {"dnxhd": (("dnxhr_hqx",), ("dnxhr_444",))}  # for more than 8 bits
LOSSLESS_OPTIONS = {
    "libx264": {"qp": "0"},  # crf 0 is lossless at 8 bits only
    "libx264rgb": {"qp": "0"},
    "libx265": {"x265-params": "lossless=1"},
    "libvpx-vp9": {"lossless": "1"},
    "libaom-av1": {"aom-params": "lossless=1"},
    "libsvtav1": {"svtav1-params": "lossless=1"},
    "h264_nvenc": {"tune": "lossless"},
    "hevc_nvenc": {"tune": "lossless"},
    "libopenjpeg": {},  # its default
}
# Options that choose between quality and bit rate: next to one of them, none is chosen here
RATE_OPTIONS = frozenset(
    ("b", "q", "crf", "qp", "cq", "rc", "rc_mode", "global_quality", "qp_i", "qp_p", "bits_per_mb")
)


def quality_options(target: Target, crf: int | None, quality: int | None) -> dict[str, str]:
    """Options that give `target`'s encoder the CRF, or the quality [1 to 100], that is asked for; else the usual quality.

    Raises:
        OptionError: the encoder has no scale for --quality.
    """
    encoder, scale = target.encoder, QUALITY_SCALES.get(target.encoder)
    if crf is not None:
        others = scale.others if scale is not None and scale.options == ("crf",) else {}
        return {"crf": str(crf), **others}
    if scale is not None:
        number = str(scale.number(quality or USUAL_QUALITY))
        return {**dict.fromkeys(scale.options, number), **scale.others}
    if encoder in QUALITY_PROFILES:
        # Without a wish, encoders choose a good profile themselves; that of dnxhd accepts some sizes and rates only
        return {} if quality is None and encoder != "dnxhd" else {"profile": _profile(target, quality or 100)}
    if quality is not None:
        why = f"{target.codec} is always lossless; omit it" if always_lossless(target.codec) else _remedy(target)
        raise OptionError(f"--quality {quality}: {why}")
    return {}


def _remedy(target: Target) -> str:
    return (
        f"{target.encoder} has no scale of quality here; give one of its own options, such as --encoder-option b=20M, or "
        "another --codec"
    )


def _profile(target: Target, quality: int) -> str:
    """The profile for `quality` of an encoder that has such ones."""
    profiles = QUALITY_PROFILES[target.encoder]
    if color.bit_depth(target.pix_fmt) > 8:
        profiles = _DEEP_PROFILES.get(target.encoder, profiles)
    names = profiles[color.subsampling(target.pix_fmt) == (1, 1)]
    return names[(quality - 1) * len(names) // 100]


def lossless_options(target: Target) -> dict[str, str]:
    """Options that make `target`'s encoder lossless.

    Raises:
        OptionError: it cannot be.
    """
    if target.encoder in LOSSLESS_OPTIONS:
        return LOSSLESS_OPTIONS[target.encoder]
    if always_lossless(target.codec):
        return {}
    known = ", ".join(["ffv1", *(name for name in LOSSLESS_OPTIONS if name.startswith("lib"))])
    raise OptionError(
        f"--lossless: {target.encoder} cannot encode without loss here; choose for example --codec {known}"
    )


def lossless_notes(target: Target) -> list[str]:
    """A note on what is lost before the encoder: the conversion from RGB."""
    if color.is_rgb(target.pix_fmt):
        return []
    return [
        f"{target.name}: --lossless keeps {target.pix_fmt} exactly, to which the frames are converted from RGB; --codec ffv1 "
        "--pix-fmt bgr0 keeps RGB (gbrp16le above 8 bits)"
    ]
