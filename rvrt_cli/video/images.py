"""Image sequences as sources: which files, in which order, and the pixels of one."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

import numpy as np

from rvrt_cli.errors import MediaError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".tga"})
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
        deep: read 16 bits a channel (through PyAV, since Pillow cannot), else 8.

    Returns:
        RGB (H, W, 3) and alpha (H, W) or None; uint8 or, for `deep`, uint16 on the full scale.

    Raises:
        MediaError: it cannot be read.
    """
    import imageio.v3 as iio

    try:
        if deep:
            rgba = np.asarray(iio.imread(path, plugin="pyav", index=0, format="rgba64le"))
            rgba = rgba.astype(np.uint16, copy=False)
            alpha = rgba[..., 3]
            return np.ascontiguousarray(rgba[..., :3]), None if alpha.min() == 65535 else alpha
        with iio.imopen(path, "r", plugin="pillow") as file:
            mode = file.metadata(index=0).get("mode", "RGB")
            transparent = "A" in mode or "transparency" in file.metadata(index=0)
            pixels = np.asarray(file.read(index=0, mode="RGBA" if transparent else "RGB", rotate=True))
    except MemoryError:
        raise
    except Exception as error:  # imageio's plugins raise whatever the libraries below them raise
        raise MediaError(f"{path}: this image cannot be read ({_first_line(error)}); remove or replace it") from error
    if pixels.shape[-1] == 4:
        return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    return pixels, None


def has_alpha(path: Path) -> bool:
    """Whether the image's header speaks of alpha; not where it cannot be read, which `read_image` will say."""
    from PIL import Image

    try:
        with Image.open(path) as image:  # reads no pixels
            return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise whatever they like
        return False


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
