"""Image sequences as sources: which files, in which order, and the pixels of one."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rvrt_cli.errors import MediaError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".tga"})
_DEEP = re.compile(r"(RGB[AXa]?|LA);16[BLN]")  # Pillow's layouts of 16 bits a channel
_PRINTF = re.compile(r"%(0?)(\d*)d")


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that counts: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts]


def is_pattern(source: str) -> bool:
    """Whether `source`, which names no existing file, is a printf or glob pattern for images."""
    return bool(_PRINTF.search(Path(source).name)) or any(sign in source for sign in "*?[")


def list_images(source: str | Path) -> list[Path]:
    """The images of a folder, of a glob pattern ("in/*.png") or of a printf pattern ("in/%04d.png"), naturally sorted.

    Raises:
        MediaError: there is none.
    """
    path = Path(source)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != "."]
        if not found:
            raise MediaError(f"{source}: no images in this folder; PNG, JPEG, TIFF, BMP, WebP and PPM are read")
    elif _PRINTF.search(path.name):
        pattern = re.compile(_PRINTF.sub(_digits, re.escape(path.name).replace("\\%", "%")))
        folder = path.parent
        found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)] if folder.is_dir() else []
    else:
        found = [Path(p) for p in glob.glob(str(source)) if os.path.isfile(p)]
    if not found:
        raise MediaError(f"{source}: no such file, and no image fits it as a pattern")
    return sorted(found, key=natural_key)


def _digits(match: re.Match[str]) -> str:
    """What printf's %d, %4d and %04d produce, as a regular expression."""
    width = int(match[2] or 1)
    return rf"(?:\d{{{width}}}|[1-9]\d{{{width},}})" if match[1] else r"\d+"


def read_image(path: Path, *, deep: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of one image, upright, and its alpha.

    Args:
        deep: 16 bits a channel, else 8. An image that has 16 is read through PyAV, since Pillow cannot.

    Returns:
        RGB (H, W, 3) and alpha (H, W) or None; uint8 or, for `deep`, uint16 on the full scale.

    Raises:
        MediaError: it cannot be read.
    """
    import imageio.v3 as iio
    from PIL import Image, ImageOps

    try:
        if deep and header(path).bits != 8:
            rgba = np.asarray(iio.imread(path, plugin="pyav", index=0, format="rgba64le"))
            rgba = _upright(path, rgba.astype(np.uint16, copy=False))
            alpha = rgba[..., 3]
            return np.ascontiguousarray(rgba[..., :3]), None if alpha.min() == 65535 else alpha
        # Not by its name: Pillow would map the file into memory, and scrambles a TIFF then that has to be turned
        with path.open("rb") as file, Image.open(file) as image:
            transparent = "A" in image.mode or "transparency" in image.info
            # imageio would mirror the channels in place of the picture where the file has but one
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGBA" if transparent else "RGB"))
    except MemoryError:
        raise
    except Exception as error:  # imageio's plugins raise whatever the libraries below them raise
        raise MediaError(f"{path}: this image cannot be read ({_first_line(error)}); remove or replace it") from error
    if deep:
        pixels = pixels * np.uint16(257)
    if pixels.shape[-1] == 4:
        return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    return pixels, None


@dataclass(frozen=True)
class Header:
    """What an image says before its pixels; `bits` a channel are 8 or 16, and 0 where Pillow cannot tell."""

    alpha: bool = False
    bits: int = 0
    format: str = ""
    more: int = 0  # pictures after the first one: pages, or an animation
    profile: str = ""  # name of its colors, unless they are those of sRGB


def header(path: Path) -> Header:
    """Look into an image; nothing is known where it cannot be read, which `read_image` will say."""
    from PIL import Image

    try:
        with Image.open(path) as image:  # reads no pixels
            alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
            # The mode is that of 8 bits even where the file's own layout, which comes with its data's place, has 16
            layouts = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
            deep = image.mode[0] in "IF" or any(
                _DEEP.match(str(name)) or (image.format == "PPM" and more[:1] > [255]) for name, *more in layouts
            )
            # What follows the first picture of a JPEG are its depth, its brightness or the like
            pages = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "TIFF") else 1
            profile = _profile(image.info.get("icc_profile") or b"")
            return Header(alpha, 16 if deep else 8, image.format or "", pages - 1, profile)
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise whatever they like
        return Header()


def _profile(data: bytes) -> str:
    """The name of an ICC profile, "" for that of sRGB."""
    from PIL import ImageCms

    if not data:
        return ""
    try:
        name = " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data))).split())
    except (ImageCms.PyCMSError, OSError):
        return "damaged"
    return "" if "srgb" in name.casefold() else name or "unnamed"


def _upright(path: Path, pixels: np.ndarray) -> np.ndarray:
    """`pixels`, stored lines first, turned as the image's Exif wants, which PyAV does not tell."""
    from PIL import Image

    orientation = 1
    with contextlib.suppress(OSError), Image.open(path) as image:
        orientation = image.getexif().get(0x0112, 1)
    if orientation in (5, 6, 7, 8):  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
