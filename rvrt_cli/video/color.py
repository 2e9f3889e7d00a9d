# SPDX-License-Identifier: Apache-2.0
"""Color descriptions, and the ffmpeg filters that convert to RGB and back.

Color codes are those of ITU-T H.273, which ffmpeg shares. Conversions go through zimg (`zscale`) where ffmpeg has it:
it rounds correctly at every depth, while swscale is off by up to 4 codes of 1023 at 10 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import av

from rvrt_cli.video.ffmpeg import has_zscale

MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "jedec-p22",
}
TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
RANGES = {1: "tv", 2: "pc"}

# Names of the matrices in the two scalers; an unsupported one is converted like the nearest supported one
_ZSCALE_MATRIX = {
    "bt709": "709",
    "fcc": "fcc",
    "bt470bg": "470bg",
    "smpte170m": "170m",
    "smpte240m": "240m",
    "ycgco": "ycgco",
    "bt2020nc": "2020_ncl",
    "bt2020c": "2020_ncl",
    "ictcp": "2020_ncl",
}
_SWSCALE_MATRIX = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt470bg": "bt601",
    "smpte170m": "bt601",
    "smpte240m": "smpte240m",
    "ycgco": "bt709",
    "bt2020nc": "bt2020",
    "bt2020c": "bt2020",
    "ictcp": "bt2020",
}
_APPROXIMATED_MATRICES = {"bt2020c", "ictcp"}
_SWSCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_ZSCALE_RANGE = {"tv": "limited", "pc": "full"}


@dataclass(frozen=True)
class ColorDescription:
    """Color description of a video in ffmpeg's names; "unknown" where it is not tagged.

    `matrix` and `range` are always resolved (see `resolve_color`); `tagged` names those of the four that the source states.
    """

    matrix: str
    range: str
    primaries: str = "unknown"
    transfer: str = "unknown"
    tagged: frozenset[str] = frozenset()

    @property
    def approximated(self) -> bool:
        """Whether conversion uses a similar matrix, since this one is not linear (constant luminance, ICtCp)."""
        return self.matrix in _APPROXIMATED_MATRICES


def resolve_color(codes: dict[str, int], pix_fmt: str, height: int) -> ColorDescription:
    """Color description from the tags and, where they are missing, the customary defaults.

    Untagged matrix: BT.601 up to 576 lines, BT.709 above. Untagged range: limited, but full for RGB and "yuvj" formats.

    Args:
        codes: H.273 codes under "matrix", "range" (1 limited, 2 full), "primaries", "transfer"; unknown ones are ignored.
        pix_fmt: ffmpeg's name of the pixel format.
        height: lines as stored.
    """
    rgb = is_rgb(pix_fmt)
    matrix = MATRICES.get(codes.get("matrix", 2))
    rng = RANGES.get(codes.get("range", 0))
    primaries = PRIMARIES.get(codes.get("primaries", 2))
    transfer = TRANSFERS.get(codes.get("transfer", 2))
    if matrix == "gbr" and not rgb:
        matrix = None
    tagged = {"matrix": matrix, "range": rng, "primaries": primaries, "transfer": transfer}
    if rgb:
        matrix = "gbr"
    elif matrix is None:
        matrix = ("bt2020nc" if primaries == "bt2020" else "bt709") if height > 576 else "smpte170m"
    if rgb or pix_fmt.startswith("yuvj"):
        rng = "pc"
    return ColorDescription(
        matrix=matrix,
        range=rng or "tv",
        primaries=primaries or "unknown",
        transfer=transfer or "unknown",
        tagged=frozenset(name for name, value in tagged.items() if value),
    )


def is_rgb(pix_fmt: str) -> bool:
    """Whether the format holds RGB, or indices into an RGB palette."""
    fmt = av.VideoFormat(pix_fmt)
    return bool(fmt.is_rgb or fmt.has_palette)


def is_gray(pix_fmt: str) -> bool:
    """Whether the format holds luma only (with or without alpha)."""
    return pix_fmt.startswith(("gray", "ya", "monow", "monob"))


def has_alpha(pix_fmt: str) -> bool:
    """Whether the format has an alpha component."""
    return len(av.VideoFormat(pix_fmt).components) in (2, 4)


def is_device_memory(pix_fmt: str) -> bool:
    """Whether the format, such as "vaapi", stands for frames in a device's memory, whatever their format there."""
    try:
        return not av.VideoFormat(pix_fmt).components
    except ValueError:  # ffmpeg knows it, and PyAV does not
        return False


def bit_depth(pix_fmt: str) -> int:
    """Bits of the largest component."""
    fmt = av.VideoFormat(pix_fmt)
    return 8 if fmt.has_palette else max(component.bits for component in fmt.components)


def subsampling(pix_fmt: str) -> tuple[int, int]:
    """(horizontal, vertical) px of luma per px of chroma: (2, 2) for 4:2:0, (1, 1) for 4:4:4, RGB and gray."""
    fmt = av.VideoFormat(pix_fmt, 64, 64)
    if is_rgb(pix_fmt) or is_gray(pix_fmt) or len(fmt.components) < 3:
        return 1, 1
    return 64 // fmt.chroma_width(64), 64 // fmt.chroma_height(64)


def to_rgb(
    pix_fmt: str, color: ColorDescription, width: int, height: int, *, alpha: bool = False, as_tagged: bool = False
) -> tuple[str, str]:
    """(filter chain, pixel format) that convert frames of `pix_fmt` to packed full-range RGB of `width` x `height` px.

    Frames of another size are scaled to this one: some streams change theirs midway.
    All frames are read as `color` says. With `as_tagged`, those of its values that come from tags are read from each
    frame's own tags instead, and zimg refuses a frame that has none ("no path between colorspaces").
    With `alpha`, which `pix_fmt` must have then, the result is RGBA, and zimg turns fully transparent YUV black. Without
    it, alpha is removed first: zimg would blend the colors with black.
    """
    deep = bit_depth(pix_fmt) > 8
    if alpha:
        packed, planar = ("rgba64le", "gbrap16le") if deep else ("rgba", "gbrap")
    else:
        packed, planar = ("rgb48le", "gbrp16le") if deep else ("rgb24", "gbrp")
    step_x, step_y = subsampling(pix_fmt)
    exact = has_zscale() and not pix_fmt.startswith(("xyz", "bayer", "mono", "pal")) and "f32" not in pix_fmt
    size = f"w={width}:h={height}"
    matrix_in, range_in = f"matrixin={_ZSCALE_MATRIX.get(color.matrix)}:", f"rangein={_ZSCALE_RANGE[color.range]}:"
    if as_tagged and "matrix" in color.tagged and not color.approximated:
        matrix_in = ""
    if as_tagged and "range" in color.tagged and not pix_fmt.startswith("yuvj"):
        range_in = ""
    if is_rgb(pix_fmt):
        if deep and exact:
            opaque = "" if alpha or not has_alpha(pix_fmt) else "lutrgb=r=val:g=val:b=val:a=maxval,"
            return f"{opaque}zscale={size}:rangein=full:range=full,format={planar},format={packed}", packed
        return f"scale={size}:{_SWSCALE_FLAGS},format={packed}", packed
    if is_gray(pix_fmt):
        gray = "gray16le" if deep else "gray"
        if exact and not has_alpha(pix_fmt):  # zimg has no gray with alpha
            return f"zscale={size}:{range_in}range=full,format={gray},format={packed}", packed
        return f"scale={size}:in_range={color.range}:out_range=pc:{_SWSCALE_FLAGS},format={packed}", packed
    first = ""
    if pix_fmt.startswith("yuva") and not alpha:
        pix_fmt = pix_fmt.replace("yuva", "yuv")
        first = f"format={pix_fmt},"
    if (width % step_x or height % step_y) if exact else (deep and step_x * step_y > 1):
        # zimg needs whole chroma samples; swscale wraps black to white and back when it converts to 16 bits directly
        levels = f"in_range={color.range}:out_range={color.range}:" if range_in else ""
        first += f"scale={size}:{levels}{_SWSCALE_FLAGS},"
        first += f"format={_full_chroma(pix_fmt, alpha)},"
    if exact:
        matrix = f"{matrix_in}{range_in}matrix=gbr:range=full"
        return f"{first}zscale={size}:{matrix}:filter=spline36,format={planar},format={packed}", packed
    matrix = f"in_color_matrix={_SWSCALE_MATRIX[color.matrix]}:in_range={color.range}:out_range=pc"
    return f"{first}scale={size}:{matrix}:{_SWSCALE_FLAGS},format={packed}", packed


def _full_chroma(pix_fmt: str, alpha: bool = False) -> str:
    """The planar 4:4:4 format of the same depth."""
    bits = bit_depth(pix_fmt)
    return f"yuv{'a' if alpha else ''}444p" + (f"{bits}le" if bits > 8 else "")


def from_rgb(pix_fmt: str, color: ColorDescription, width: int, height: int) -> str:
    """Filter chain from packed full-range RGB of `width` x `height` px to `pix_fmt`, tagged with `color`."""
    step_x, step_y = subsampling(pix_fmt)
    if is_rgb(pix_fmt):
        convert = f"scale={_SWSCALE_FLAGS}"
    elif has_zscale() and not is_gray(pix_fmt):
        matrix = f"matrix={_ZSCALE_MATRIX[color.matrix]}:range={_ZSCALE_RANGE[color.range]}"
        convert = f"zscale=matrixin=gbr:rangein=full:{matrix}:chromal=left:filter=spline36"
        if width % step_x or height % step_y:
            levels = f"in_range={color.range}:out_range={color.range}"
            convert += f",format={_full_chroma(pix_fmt)},scale={levels}:{_SWSCALE_FLAGS}"
    else:
        matrix = f"out_color_matrix={_SWSCALE_MATRIX[color.matrix]}:out_range={color.range}"
        convert = f"scale=in_range=pc:{matrix}:{_SWSCALE_FLAGS}"
    return f"{convert},format={pix_fmt},{_setparams(color)}"


def _setparams(color: ColorDescription) -> str:
    tags = {
        "colorspace": color.matrix,
        "range": color.range,
        "color_primaries": color.primaries,
        "color_trc": color.transfer,
    }
    return "setparams=" + ":".join(f"{key}={value}" for key, value in tags.items())


def tag_options(color: ColorDescription) -> list[str]:
    """Encoder options that repeat the tags, for ffmpeg versions that do not take them from the frames."""
    options = ["-colorspace", "rgb" if color.matrix == "gbr" else color.matrix, "-color_range", color.range]
    return [*options, "-color_primaries", color.primaries, "-color_trc", color.transfer]


def jpeg_color(color: ColorDescription) -> ColorDescription:
    """`color` with the matrix and range of JPEG, which has only one, whatever the tags say."""
    return replace(color, matrix="bt470bg", range="pc")


def output_color(color: ColorDescription, pix_fmt: str) -> ColorDescription:
    """Description to convert to and to tag when a source with description `color` is stored as `pix_fmt`."""
    if is_rgb(pix_fmt):
        return replace(color, matrix="gbr", range="pc")
    if color.matrix != "gbr":
        rng = "pc" if pix_fmt.startswith("yuvj") else color.range
        matrix = "bt2020nc" if color.approximated else color.matrix
        return replace(color, matrix=matrix, range=rng)
    # RGB to YUV: what players assume of large untagged video, tagged explicitly
    primaries = "bt709" if color.primaries == "unknown" else color.primaries
    transfer = "bt709" if color.transfer == "unknown" else color.transfer
    matrix = "bt2020nc" if primaries == "bt2020" else "bt709"
    rng = "pc" if pix_fmt.startswith("yuvj") else "tv"
    return replace(color, matrix=matrix, range=rng, primaries=primaries, transfer=transfer)
