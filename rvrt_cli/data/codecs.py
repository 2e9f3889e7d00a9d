# SPDX-License-Identifier: Apache-2.0
"""Real compression of small clips, in this process: each encoder of PyAV's FFmpeg, and JPEG, followed by its decoder.

T frames, h×w px. Clips are uint8 RGB (T, h, w, 3). The same clip gives the same result every time: encoders have one
thread, and the parts of x264 and x265 whose vector code reaches past its buffers are off.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from rvrt_cli.errors import MediaError

# swscale flags: bicubic, accurate rounding, full chroma. Its default rounding darkens each pass by over one level.
_CODEC_SWS_FLAGS = 0x4 | 0x40000 | 0x2000
_X265_MARGIN, _X265_STEP = 16, 32  # px: frames for x265 have 16 + 32 k px a side, see `h265`


class _Coder(NamedTuple):
    """An encoder and the decoder of its format, by their names in FFmpeg, and the encoder's options."""

    encoder: str
    decoder: str
    options: dict[str, str]


def jpeg(clip: np.ndarray, quality: int) -> np.ndarray:
    """Compress each frame of (T, h, w, 3) uint8 as JPEG (4:2:0) of `quality` 1…95, and decode it."""
    out = np.empty_like(clip)
    for source, target in zip(clip, out, strict=True):
        coded = io.BytesIO()
        Image.fromarray(source).save(coded, "JPEG", quality=quality)
        target[:] = np.asarray(Image.open(coded))
    return out


def h264(clip: np.ndarray, crf: float, preset: str = "medium", mbtree: bool = True) -> np.ndarray:
    """Encode (T, h, w, 3) uint8 with x264 (4:2:0, constant rate factor `crf`) and decode it.

    The same clip gives the same result every time. That takes plain C for the macroblock tree (on by default), several
    times slower: x264's vector code of it reads past the end of its buffers. With `mbtree=False` the vector code is used.
    Odd sides are extended by repeating the last pixel.
    """
    options = {"crf": f"{crf:.2f}", "preset": preset, "x264-params": "mbtree=1:asm=0" if mbtree else "mbtree=0"}
    return _code(clip, _Coder("libx264", "h264", options))


def h265(clip: np.ndarray, crf: float, preset: str) -> np.ndarray:
    """Encode (T, h, w, 3) uint8 with x265 (4:2:0, constant rate factor `crf`) and decode it.

    The same clip gives the same result every time. That takes two precautions, for small frames. Without cutree, since on
    48×48 px, for instance, x265's vector code of it writes past the end of its buffers and destroys the heap (found with
    Valgrind; https://github.com/Multicorewareinc/x265/issues/774 may be the same). And with sides extended to 48, 80,
    112, … px by repeating the last pixel: at 8, 32 and 64 px, among others, the result depended on what the memory had held
    before; at those sizes, 288 clips gave the same three times.
    """
    height, width = clip.shape[1:3]
    rows, columns = (
        _X265_MARGIN + _X265_STEP * max(1, -(-(side - _X265_MARGIN) // _X265_STEP)) for side in (height, width)
    )
    extended = np.pad(clip, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    parameters = "log-level=none:pools=none:frame-threads=1:wpp=0:cutree=0"
    coder = _Coder("libx265", "hevc", {"crf": f"{crf:.2f}", "preset": preset, "x265-params": parameters})
    return _code(extended, coder)[:, :height, :width]


def mpeg4(clip: np.ndarray, quantizer: int, b_frames: int = 0) -> np.ndarray:
    """Encode (T, h, w, 3) uint8 as MPEG-4 part 2 (DivX, Xvid, early phones) at a `quantizer` of 1…31, and decode it."""
    return _code(clip, _Coder("mpeg4", "mpeg4", _fixed_quantizer(quantizer, b_frames)))


def mpeg2(clip: np.ndarray, quantizer: int, b_frames: int = 2) -> np.ndarray:
    """Encode (T, h, w, 3) uint8 as MPEG-2 (DVD, television) at a `quantizer` of 1…31, and decode it."""
    return _code(clip, _Coder("mpeg2video", "mpeg2video", _fixed_quantizer(quantizer, b_frames)))


def _fixed_quantizer(quantizer: int, b_frames: int) -> dict[str, str]:
    return {"qmin": str(quantizer), "qmax": str(quantizer), "bf": str(b_frames)}


def _code(clip: np.ndarray, coder: _Coder) -> np.ndarray:
    """Encode and decode, frame by frame.

    Raises:
        MediaError: this PyAV lacks the encoder.
    """
    frames, height, width, _ = clip.shape
    even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    import av  # slow to import, and every command's help imports this module by way of the options

    try:
        encoder, decoder = av.CodecContext.create(coder.encoder, "w"), av.CodecContext.create(coder.decoder, "r")
    except ValueError:
        raise MediaError(
            f"{coder.encoder}: this build of PyAV lacks the codec; install the wheel of PyPI: pip install --force-reinstall av"
        ) from None
    encoder.height, encoder.width = even.shape[1:3]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.thread_count = decoder.thread_count = 1
    encoder.options = coder.options
    out = np.empty_like(clip)
    done = 0
    for index in range(frames + 1):
        frame = None
        if index < frames:
            frame = av.VideoFrame.from_ndarray(even[index], "rgb24").reformat(
                format="yuv420p", interpolation=_CODEC_SWS_FLAGS
            )
            frame.pts = index
        packets = encoder.encode(frame)
        decoded = [image for packet in packets for image in decoder.decode(packet)]
        if frame is None:
            decoded += decoder.decode(None)
        for image in decoded:
            out[done] = image.reformat(format="rgb24", interpolation=_CODEC_SWS_FLAGS).to_ndarray()[:height, :width]
            done += 1
    if done != frames:
        raise RuntimeError(f"{coder.encoder} returned {done} of {frames} frames")
    return out
