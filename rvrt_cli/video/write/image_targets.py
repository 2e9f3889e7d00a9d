# SPDX-License-Identifier: Apache-2.0
"""Targets that hold images: a folder of PNG, a single image, a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from rvrt_cli.errors import MediaError
from rvrt_cli.video import color
from rvrt_cli.video.ffmpeg import video_encoders
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.encoder import RawFormat
from rvrt_cli.video.write.fidelity_notes import frames_only_notes, precision_notes
from rvrt_cli.video.write.target import OutputRequest, Target

# Five times as fast as the default level (6), and 10 % larger
_PNG_OPTIONS = ("-c:v", "png", "-compression_level", "1", "-pred", "paeth")
_DEPTHS_AND_ALPHA = ((False, False), (True, False), (False, True), (True, True))
_FASTEST_GIF = Fraction(50)  # frames/s; players show frames of less than 20 ms far longer


class _ImageEncoder(NamedTuple):
    """How an image is written.

    Attributes:
        options: ffmpeg's.
        pix_fmts: by (more than 8 bits, alpha), as far as the format has them.
    """

    options: tuple[str, ...]
    pix_fmts: dict[tuple[bool, bool], str]

    def pix_fmt(self, deep: bool, alpha: bool) -> str:
        """The format that keeps most of what is asked for: alpha first."""
        return next(
            self.pix_fmts[kind] for kind in ((deep, alpha), (False, alpha), (False, False)) if kind in self.pix_fmts
        )


def _formats(*pix_fmts: str) -> dict[tuple[bool, bool], str]:
    return dict(zip(_DEPTHS_AND_ALPHA, pix_fmts, strict=False))


_PNG = _ImageEncoder(_PNG_OPTIONS, _formats("rgb24", "rgb48be", "rgba", "rgba64be"))
_JPEG = _ImageEncoder(("-c:v", "mjpeg", "-q:v", "2"), _formats("yuvj444p"))
_TIFF = _ImageEncoder(
    ("-c:v", "tiff", "-compression_algo", "deflate"), _formats("rgb24", "rgb48le", "rgba", "rgba64le")
)
IMAGE_ENCODERS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": _ImageEncoder(("-c:v", "libwebp", "-lossless", "1"), {(False, False): "bgra", (False, True): "bgra"}),
    ".bmp": _ImageEncoder(("-c:v", "bmp"), _formats("bgr24")),
}


def check_folder(info: SourceInfo, request: OutputRequest, path: Path) -> Target:
    """A folder of PNG; images keep their names."""
    names, notes = _kept_names(request.images)
    return _image_target(info, request, path, _PNG, notes, names)


def check_image(info: SourceInfo, request: OutputRequest, path: Path) -> Target:
    """A single image.

    Raises:
        MediaError: the source does not give exactly one, or this ffmpeg cannot write it.
    """
    suffix = path.suffix.lower()
    if request.frame_count != 1:
        count = f"{request.frame_count} frames" if request.frame_count else "an unknown number of frames"
        raise MediaError(
            f"{path}: one image, but the source has {count}; end the name in / for a folder of PNG images, or choose a video"
        )
    encoder = IMAGE_ENCODERS[suffix]
    if encoder.options[1] not in video_encoders():
        raise MediaError(f"{path}: this ffmpeg cannot write {suffix}; choose .png")
    return _image_target(info, request, path, encoder, [], None)


def check_gif(info: SourceInfo, request: OutputRequest, path: Path) -> Target:
    """A GIF, which is made of losslessly encoded segments at the end: its palette depends on all frames."""
    RawFormat(request.width, request.height).check_size(path.name)
    notes = frames_only_notes(info, path.name, "a GIF", request.copy_streams)
    notes.append(f"{path.name}: a GIF has 256 colors, and timestamps in 1/100 s")
    if info.frame_rate > _FASTEST_GIF:
        notes.append(
            f"{path.name}: {float(info.frame_rate):.4g} frames/s; most players slow GIFs of more than 50/s down"
        )
    if info.has_alpha:
        notes.append(f"{path.name}: alpha is dropped; images (.png) keep it")
    return Target(
        kind="gif",
        path=path,
        width=request.width,
        height=request.height,
        muxer="matroska",
        encoder="ffv1",
        codec="ffv1",
        pix_fmt="bgr0",
        color=color.output_color(info.color, "bgr0"),
        options=("-c:v", "ffv1"),
        notes=tuple(notes),
        overwrite=request.overwrite,
        copy_streams=False,
    )


def _image_target(
    info: SourceInfo,
    request: OutputRequest,
    path: Path,
    encoder: _ImageEncoder,
    notes: list[str],
    image_names: tuple[str, ...] | None,
) -> Target:
    """A folder of images with these names (empty: numbered), or a single image where there are none."""
    deep = info.bit_depth > 8
    readable_alpha = info.has_alpha and (info.kind == "images" or color.has_alpha(info.pix_fmt))
    RawFormat(request.width, request.height, deep, readable_alpha).check_size(path.name)
    pix_fmt = encoder.pix_fmt(deep, readable_alpha)
    format_name = "an image" if image_names is None else "a folder of PNG"
    notes = [*notes, *frames_only_notes(info, path.name, format_name, request.copy_streams)]
    if info.has_alpha and not readable_alpha:
        remedy = "set IMAGEIO_FFMPEG_EXE to one with libvpx"
        notes.append(f"{path.name}: alpha is dropped, this ffmpeg cannot decode it; {remedy}")
    elif info.has_alpha and not color.has_alpha(pix_fmt):
        notes.append(f"{path.name}: alpha is dropped; .png keeps it")
    if color.bit_depth(pix_fmt) < info.bit_depth and encoder is not _PNG:
        notes.append(f"{path.name}: {info.bit_depth} bits are reduced to {color.bit_depth(pix_fmt)}; .png keeps 16")
    else:
        notes += precision_notes(info, pix_fmt, path.name)
    tags = color.output_color(info.color, pix_fmt)
    return Target(
        kind="image" if image_names is None else "folder",
        path=path,
        width=request.width,
        height=request.height,
        muxer="image2",
        encoder=encoder.options[1],
        codec=encoder.options[1],
        pix_fmt=pix_fmt,
        color=color.jpeg_color(tags) if encoder is _JPEG else tags,
        options=encoder.options,
        notes=tuple(notes),
        overwrite=request.overwrite,
        image_names=image_names or (),
    )


def _kept_names(images: Sequence[Path]) -> tuple[tuple[str, ...], list[str]]:
    """The images' own names as .png, and a note where they are not unique; no names for frames of a video."""
    names = tuple(f"{image.stem}.png" for image in images)
    if len({name.casefold() for name in names}) < len(names):
        return (), ["images of the same name: the upscaled ones are numbered; upscale folders separately to keep names"]
    return names, []
