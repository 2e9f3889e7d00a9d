# SPDX-License-Identifier: Apache-2.0
"""All versions of frames, one below the other in one video or image: they cannot drift apart."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import file_url, video_encoders
from rvrt_cli.video.write.encoder import Encoder, RawFormat

MAX_WIDTH, MAX_HEIGHT = 960, 540  # px of a layer at 1:1; larger frames are cropped where there is most detail
_CODING_BLOCK = 16  # px: layers begin on the encoder's blocks, so that none bleeds into the next
_QUALITIES = (17, 21, 25, 30, 36)  # CRF, from the best; the first that fits is taken
_STILL_QUALITIES = (92, 84, 74, 60, 40, 15)
# Encoders that browsers can decode, the first one there is taken: (encoder, options, muxer, MIME type)
_ENCODERS = (
    ("libx264", ["-preset", "medium", "-g", "12"], "mp4", "video/mp4"),
    ("libvpx-vp9", ["-b:v", "0", "-row-mt", "1", "-cpu-used", "4", "-g", "12"], "webm", "video/webm"),
)
_COLOR = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
_COLOR_TAGS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]


def layer_pitch(height: int) -> int:
    """Distance from one layer to the next [px]."""
    return -(-height // _CODING_BLOCK) * _CODING_BLOCK


def stack_layers(layers: Sequence[np.ndarray]) -> np.ndarray:
    """Layers (H, W, 3) one below the other, at `layer_pitch`, at an even width; edges are repeated between them."""
    height, width = layers[0].shape[:2]
    below, beside = layer_pitch(height) - height, width % 2
    return np.concatenate([np.pad(layer, ((0, below), (0, beside), (0, 0)), mode="edge") for layer in layers])


def crop_window(frame: np.ndarray) -> tuple[slice, slice]:
    """The part of a frame (H, W, 3) of at most MAX_WIDTH × MAX_HEIGHT px with most detail."""
    return detail_window(frame, (min(frame.shape[0], MAX_HEIGHT), min(frame.shape[1], MAX_WIDTH)))


def detail_window(
    frame: np.ndarray, size: tuple[int, int], taken: Sequence[tuple[slice, slice]] = ()
) -> tuple[slice, slice]:
    """The window of `size` (height, width) px with most detail that overlaps none of `taken`, or else the first one."""
    luma = frame.astype(np.float32).mean(-1)
    detail = np.zeros_like(luma)
    detail[:, 1:] += np.abs(np.diff(luma, axis=1))
    detail[1:] += np.abs(np.diff(luma, axis=0))
    # differences of more than an edge's are text or noise: they count no more
    total = np.pad(np.minimum(detail, 60).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    height, width = size
    step = max(4, min(height, width) // 8)
    best, found = -1.0, (slice(0, height), slice(0, width))
    for top in range(0, luma.shape[0] - height + 1, step):
        for left in range(0, luma.shape[1] - width + 1, step):
            window = slice(top, top + height), slice(left, left + width)
            if any(_overlap(window[0], other[0]) and _overlap(window[1], other[1]) for other in taken):
                continue
            inside = total[top + height, left + width] - total[top, left + width] - total[top + height, left]
            inside += total[top, left]
            if inside > best:
                best, found = float(inside), window
    return found


def _overlap(first: slice, second: slice) -> bool:
    return first.start < second.stop and second.start < first.stop


def encode_video(frames: Sequence[np.ndarray], rate: Fraction, budget: int) -> dict[str, Any]:
    """Frames (H, W, 3) uint8 as a video that browsers play: its "type", "base64" and number of "frames".

    It has at most `budget` bytes; where the lowest quality does not suffice, it is shortened.

    Raises:
        MediaError: this ffmpeg has no encoder whose videos browsers play, or it fails.
    """
    known = video_encoders()
    encoder = next((entry for entry in _ENCODERS if entry[0] in known), None)
    if encoder is None:
        names = " or ".join(entry[0] for entry in _ENCODERS)
        raise MediaError(f"this ffmpeg has neither {names}; set IMAGEIO_FFMPEG_EXE to one that has")
    qualities = iter(_QUALITIES)
    quality = next(qualities)
    while True:
        data = _encode(frames, rate, encoder, quality)
        if len(data) <= budget or len(frames) == 1:
            return {"type": encoder[3], "base64": base64.b64encode(data).decode(), "frames": len(frames)}
        better = next(qualities, None)
        if better is None:
            frames = frames[: max(1, len(frames) // 2)]
        else:
            quality = better


def _encode(
    frames: Sequence[np.ndarray], rate: Fraction, encoder: tuple[str, list[str], str, str], quality: int
) -> bytes:
    name, options, muxer, _ = encoder
    height, width = frames[0].shape[:2]
    with tempfile.TemporaryDirectory(prefix="rvrt-compare-") as folder:
        path = Path(folder) / f"excerpt.{muxer}"
        output = ["-c:v", name, "-crf", str(quality), *options, *_COLOR_TAGS, "-f", muxer, file_url(path)]
        writer = Encoder("the excerpt", RawFormat(width, height), 1 / rate, _COLOR, output)
        try:
            for number, pixels in enumerate(frames):
                writer.write(Frame(pixels, number))
            writer.finish()
        finally:
            writer.abort()
        return path.read_bytes()


def encode_still(pixels: np.ndarray, budget: int) -> dict[str, Any]:
    """An image (H, W, 3) uint8 of at most `budget` bytes: PNG where that fits, else WebP; its "type" and "base64"."""
    lossless = encode_png(pixels)
    if 3 * len(lossless["base64"]) // 4 <= budget:
        return lossless
    image, qualities = Image.fromarray(pixels), list(_STILL_QUALITIES)
    while True:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=qualities.pop(0))
        if buffer.tell() <= budget or not qualities:
            return {"type": "image/webp", "base64": base64.b64encode(buffer.getvalue()).decode()}


def encode_png(pixels: np.ndarray) -> dict[str, Any]:
    """An image (H, W, 3) uint8, without loss: its "type" and "base64"."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return {"type": "image/png", "base64": base64.b64encode(buffer.getvalue()).decode()}
