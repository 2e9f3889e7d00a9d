# SPDX-License-Identifier: Apache-2.0
"""Degradations that make the low-resolution input of training: `bi`, `bd` or `video`.

T frames, H×W px high resolution, h×w = H/4 × W/4. Clips are uint8 RGB (T, H, W, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
from PIL import Image

from rvrt_cli.data.resize import SCALE, blur_downsample, imresize
from rvrt_cli.frame import round_levels, to_float

# `video` imitates real low-resolution footage; shares of the clips.
_CLEAN_SHARE = 0.50  # bicubic reduction only
_NOISY_SHARE = 0.12  # blur and noise, not compressed
_JPEG_SHARE = 0.06  # each frame through JPEG; the remaining clips go through H.264
_NOISY_CODED_SHARE = 0.25  # share of the compressed clips that get blur and noise first
_CRF_RANGE = (18.0, 28.0)
_X264_PRESETS = ("superfast", "veryfast")
_JPEG_QUALITY = (50, 95)
_BLUR_SIGMA = (0.2, 0.6)  # LR px
_NOISE_SIGMA = (0.5, 4.0)  # levels

# swscale flags: bicubic, accurate rounding, full chroma. Its default rounding darkens each pass by over one level.
_CODEC_SWS_FLAGS = 0x4 | 0x40000 | 0x2000


def degrade(clip: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Reduce `clip` (T, H, W, 3) to low resolution (T, h, w, 3), both uint8; H and W are multiples of 4.

    `bi` is MATLAB's bicubic and `bd` the Gaussian blur of the published BD data. `video` draws per clip: clean bicubic,
    slight blur and noise, or real H.264 or JPEG compression of the small clip.
    """
    if kind == "bd":
        return blur_downsample(clip)
    small = imresize(clip, 1 / SCALE)
    return _degrade_as_video(small, rng) if kind == "video" else small


def _degrade_as_video(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < _CLEAN_SHARE:
        return clip
    if kind < _CLEAN_SHARE + _NOISY_SHARE or rng.random() < _NOISY_CODED_SHARE:
        clip = _blur_and_noise(clip, rng)
    if kind < _CLEAN_SHARE + _NOISY_SHARE:
        return clip
    if kind < _CLEAN_SHARE + _NOISY_SHARE + _JPEG_SHARE:
        return jpeg(clip, int(rng.integers(*_JPEG_QUALITY, endpoint=True)))
    # A window of a real video seldom begins at a key frame: encode part of the reversed clip first, and drop it.
    lead = int(rng.integers(len(clip)))
    coded = np.concatenate([clip[lead:0:-1], clip])
    return h264(coded, float(rng.uniform(*_CRF_RANGE)), str(rng.choice(_X264_PRESETS)), mbtree=False)[lead:]


def _blur_and_noise(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sigma = rng.uniform(*_BLUR_SIGMA)
    side = np.exp(-0.5 / sigma**2)  # three taps hold a Gaussian this narrow
    kernel = np.array([side, 1, side], np.float32) / np.float32(1 + 2 * side)
    pixels = np.pad(clip.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    pixels = kernel[0] * (pixels[:, :-2] + pixels[:, 2:]) + kernel[1] * pixels[:, 1:-1]
    pixels = kernel[0] * (pixels[:, :, :-2] + pixels[:, :, 2:]) + kernel[1] * pixels[:, :, 1:-1]
    pixels += np.float32(rng.uniform(*_NOISE_SIGMA)) * rng.standard_normal(pixels.shape, np.float32)
    return round_levels(pixels, np.uint8)


def jpeg(clip: np.ndarray, quality: int) -> np.ndarray:
    """Compress each frame of (T, h, w, 3) uint8 as JPEG (4:2:0) of `quality` 1…95, and decode it."""
    out = np.empty_like(clip)
    for source, target in zip(clip, out, strict=True):
        coded = io.BytesIO()
        Image.fromarray(source).save(coded, "JPEG", quality=quality)
        target[:] = np.asarray(Image.open(coded))
    return out


def add_noise(clip: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 (T, H, W, 3) with white Gaussian noise of that standard deviation [levels of 255], float32, 1 for white.

    Neither rounded nor clipped, as in the protocols of the literature.
    """
    noise = rng.standard_normal(clip.shape, np.float32) * np.float32(levels / 255)
    return to_float(clip) + noise


def h264(clip: np.ndarray, crf: float, preset: str = "medium", mbtree: bool = True) -> np.ndarray:
    """Encode (T, h, w, 3) uint8 with x264 (4:2:0, constant rate factor `crf`) and decode it, in this process.

    The same clip gives the same result every time. That takes a single thread, and plain C for the macroblock tree (on
    by default), several times slower: x264's vector code of it reads past the end of its buffers. With `mbtree=False`
    the vector code is used. Odd sides are extended by repeating the last pixel.
    """
    frames, height, width, _ = clip.shape
    even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    import av  # slow to import, and every command's help imports this module by way of the options

    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = even.shape[1:3]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.thread_count = 1
    encoder.options = {"crf": f"{crf:.2f}", "preset": preset, "x264-params": "mbtree=1:asm=0" if mbtree else "mbtree=0"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
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
        raise RuntimeError(f"x264 returned {done} of {frames} frames")
    return out
