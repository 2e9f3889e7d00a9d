# SPDX-License-Identifier: Apache-2.0
"""Image sequences: which files, in which order, and header and pixels of one."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from rvrt_cli.errors import MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".tga"})
_DEEP_LAYOUT = re.compile(r"(RGB[AXa]?|LA);16[BLN]")  # Pillow's names of 16-bit raw modes
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_BYTES = 12  # of a chunk beside its data: length, type, checksum
_PRINTF_NUMBER = re.compile(r"%(0?)(\d*)d")


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Natural sort key: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]


def is_pattern(source: str) -> bool:
    """Whether `source`, which names no existing file, is a printf or glob pattern for images."""
    return bool(_PRINTF_NUMBER.search(Path(source).name)) or any(sign in source for sign in "*?[")


def list_images(source: str | Path) -> list[Path]:
    """The images of a folder, of a glob pattern ("in/*.png") or of a printf pattern ("in/%04d.png"), naturally sorted.

    Raises:
        MediaError: there is none.
    """
    path = Path(source)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != "."]
        if not found:
            raise MediaError(f"{source}: no images in this folder; PNG, JPEG, TIFF, BMP, WebP and PPM can be read")
    elif _PRINTF_NUMBER.search(path.name):
        pattern = re.compile(_PRINTF_NUMBER.sub(_printf_digits, re.escape(path.name).replace("\\%", "%")))
        folder = path.parent
        found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    else:
        found = [Path(p) for p in glob.glob(str(source)) if os.path.isfile(p)]
    if not found:
        raise MediaError(f"{source}: no such file, and no image matches it as a pattern; check the name")
    return sorted(found, key=natural_key)


def _printf_digits(match: re.Match[str]) -> str:
    """Regular expression for the output of printf's %d, %4d and %04d."""
    width = int(match[2] or 1)
    return rf"(?:\d{{{width}}}|[1-9]\d{{{width},}})" if match[1] else r"\d+"


def read_image(path: Path, *, deep: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of one image, upright, and its alpha.

    Args:
        deep: read 16 bits per channel, else 8. Images of 16 bits are read through PyAV, since Pillow reduces them to 8.

    Returns:
        RGB (H, W, 3) and alpha (H, W) or None; uint8 or, for `deep`, uint16 on the full scale.

    Raises:
        MediaError: the image cannot be read.
    """
    import imageio.v3 as iio

    try:
        if deep and read_image_header(path).bits != 8:
            content = png_without_exif(path)
            rgba = np.asarray(iio.imread(content or path, plugin="pyav", index=0, format="rgba64le"))
            rgba = _apply_exif_orientation(path, rgba.astype(np.uint16, copy=False))
            alpha = rgba[..., 3]
            return np.ascontiguousarray(rgba[..., :3]), None if alpha.min() == 65535 else alpha
        # A file object, not a name: Pillow memory-maps named files, and then scrambles a TIFF that has to be rotated
        with path.open("rb") as file, open_image(file) as image:
            transparent = "A" in image.mode or "transparency" in image.info
            # Not imageio: it mirrors the channels in place of the image where the file has only one
            pixels = np.asarray(upright_image(image).convert("RGBA" if transparent else "RGB"))
    except MemoryError:
        raise
    except Exception as error:  # the libraries below imageio and Pillow raise exceptions of any type
        raise MediaError(f"{path}: this image cannot be read ({_short_reason(error)}); remove or replace it") from error
    if deep:
        pixels = pixels * np.uint16(257)
    if pixels.shape[-1] == 4:
        return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    return pixels, None


@contextlib.contextmanager
def open_image(file: Path | IO[bytes]) -> Iterator[Any]:
    """An image as Pillow opens it, without Python's warnings, such as of damaged Exif, for the user to read."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            yield image


def upright_image(image: Image) -> Image:
    """A Pillow image, rotated and mirrored as its Exif says; as stored where its Exif is damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # Pillow's Exif reader raises exceptions of any type; damaged pixels are found again
        return image


def png_without_exif(path: Path) -> bytes | None:
    """The content of a PNG without its Exif, which ffmpeg decodes before the pixels and refuses them if it is damaged.

    None for a file that is not a PNG or has no Exif.
    """
    with path.open("rb") as file:
        if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
            return None
        data = file.read()
    kept, start, found = [_PNG_SIGNATURE], 0, False
    while start < len(data):
        end = start + _PNG_CHUNK_BYTES + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] == b"eXIf":
            found = True
        else:
            kept.append(data[start:end])
        start = end
    return b"".join(kept) if found else None


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says before its pixels; `bits` per channel are 8 or 16, and 0 when unknown."""

    alpha: bool = False
    bits: int = 0
    format: str = ""
    extra_images: int = 0  # after the first one: pages, or frames of an animation
    icc_profile: str = ""  # its name, unless it is sRGB


def read_image_header(path: Path) -> ImageHeader:
    """Header of an image; all unknown where it cannot be read, which `read_image` reports."""
    try:
        with open_image(path) as image:  # reads no pixels
            alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
            # The mode says 8 bits even where the raw mode of the file's tiles has 16
            layouts = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
            deep = image.mode[0] in "IF" or any(
                _DEEP_LAYOUT.match(str(name)) or (image.format == "PPM" and arguments[:1] > [255])
                for name, *arguments in layouts
            )
            # Further images in a JPEG are depth maps, gain maps and the like
            pages = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "TIFF") else 1
            return ImageHeader(
                alpha=alpha,
                bits=16 if deep else 8,
                format=image.format or "",
                extra_images=pages - 1,
                icc_profile=_icc_profile_name(image.info.get("icc_profile") or b""),
            )
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise exceptions of any type
        return ImageHeader()


def _icc_profile_name(data: bytes) -> str:
    """Name of an ICC profile, "" for sRGB."""
    from PIL import ImageCms

    if not data:
        return ""
    try:
        name = " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data))).split())
    except (ImageCms.PyCMSError, OSError):
        return "damaged"
    return "" if "srgb" in name.casefold() else name or "unnamed"


def _apply_exif_orientation(path: Path, pixels: np.ndarray) -> np.ndarray:
    """`pixels` as stored, rotated and mirrored as the image's Exif says, which PyAV does not apply."""
    orientation = 1
    with contextlib.suppress(Exception), open_image(path) as image:  # as in `upright_image`
        orientation = image.getexif().get(0x0112, 1)
    if orientation in (5, 6, 7, 8):  # rows become columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _short_reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
