"""From high-resolution clips to the low-resolution input of training: `bi`, `bd` or `video`.

T frames, H×W px high resolution, h×w = H/4 × W/4. Clips are uint8 RGB (T, H, W, 3); randomness is a NumPy generator.
"""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
from PIL import Image

from rvrt_cli.data.resize import SCALE, blur_downsample, imresize
from rvrt_cli.frame import round_levels

DEGRADATIONS = ("bi", "bd", "video")

# `video`: what real low-resolution footage went through, as shares of the clips.
_CLEAN = 0.50  # bicubic alone
_DIRTY = 0.12  # blur and noise, not compressed
_JPEG = 0.06  # each frame through JPEG; the rest through H.264
_DIRTY_BEFORE_CODEC = 0.25  # of the compressed clips
_CRF = (18.0, 28.0)
_PRESETS = ("superfast", "veryfast")
_JPEG_QUALITY = (50, 95)
_BLUR_SIGMA = (0.2, 0.6)  # LR px
_NOISE_SIGMA = (0.5, 4.0)  # levels

# swscale: bicubic, accurate rounding, full chroma. Its default rounding darkens every pass by more than a level.
_SWS = 0x4 | 0x40000 | 0x2000


def degrade(clip: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Low-resolution clip (T, h, w, 3) of `clip` (T, H, W, 3), both uint8; H and W are multiples of 4.

    `bi` is MATLAB's bicubic, `bd` the Gaussian blur of the published BD data, `video` a random mix over clips of clean
    bicubic, slight blur and noise, and real H.264 or JPEG compression of the small clip.
    """
    if kind == "bd":
        return blur_downsample(clip)
    small = imresize(clip, 1 / SCALE)
    return _as_video(small, rng) if kind == "video" else small


def _as_video(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < _CLEAN:
        return clip
    if kind < _CLEAN + _DIRTY or rng.random() < _DIRTY_BEFORE_CODEC:
        clip = _blur_and_noise(clip, rng)
    if kind < _CLEAN + _DIRTY:
        return clip
    if kind < _CLEAN + _DIRTY + _JPEG:
        return jpeg(clip, int(rng.integers(*_JPEG_QUALITY, endpoint=True)))
    # A window of a real video seldom begins at a key frame: code the clip's own mirror image before it, and drop that.
    lead = int(rng.integers(len(clip)))
    coded = np.concatenate([clip[lead:0:-1], clip])
    return h264(coded, float(rng.uniform(*_CRF)), str(rng.choice(_PRESETS)), mbtree=False)[lead:]


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
    """Each frame of (T, h, w, 3) uint8 through JPEG (4:2:0) of `quality` 1…95."""
    out = np.empty_like(clip)
    for source, target in zip(clip, out, strict=True):
        coded = io.BytesIO()
        Image.fromarray(source).save(coded, "JPEG", quality=quality)
        target[:] = np.asarray(Image.open(coded))
    return out


def h264(clip: np.ndarray, crf: float, preset: str = "medium", mbtree: bool = True) -> np.ndarray:
    """(T, h, w, 3) uint8 through x264 and back: 4:2:0, constant rate factor `crf`, in this process.

    The same clip gives the same result each time. For that x264 has one thread; and its macroblock tree, on by default,
    runs in plain C, several times slower, because the vector code of it reads past the end of its buffers. Without it
    (`mbtree=False`) the vector code serves. Odd sides are extended by repeating the last pixel.
    """
    frames, height, width, _ = clip.shape
    even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    import av  # options, and so every command's help, come past this module

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
            frame = av.VideoFrame.from_ndarray(even[index], "rgb24").reformat(format="yuv420p", interpolation=_SWS)
            frame.pts = index
        packets = encoder.encode(frame)
        decoded = [image for packet in packets for image in decoder.decode(packet)]
        if frame is None:
            decoded += decoder.decode(None)
        for image in decoded:
            out[done] = image.reformat(format="rgb24", interpolation=_SWS).to_ndarray()[:height, :width]
            done += 1
    if done != frames:
        raise RuntimeError(f"x264 gave back {done} of {frames} frames")
    return out
