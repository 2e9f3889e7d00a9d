# SPDX-License-Identifier: Apache-2.0
"""Whether frames that are stored with more than 8 bits hold more than 8-bit levels.

Stored without loss, 8-bit frames in 10 bits have only every fourth level. A lossy encoder blurs that, but not this: where
the source is smooth, the target's error follows the part of each level that 8 bits cannot hold, a sawtooth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np

from rvrt_cli.check.paired_frames import SourceAndTarget
from rvrt_cli.check.verdict import Finding
from rvrt_cli.video import color
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.source import SourceInfo

_FRAMES = 6  # that are looked at
_ONE_REMAINDER = 0.9  # share of samples with the same lowest bits
_SAWTOOTH = 0.5  # slope of the error: 1 where all below 8 bits is lost, 0 where nothing is
_SMOOTH_STEPS = 1.5  # 8-bit levels by which the source may change around a sample
_FEWEST_SAMPLES = 400


class _Luma(NamedTuple):
    seconds: float
    samples: np.ndarray  # (H, W) int32


def depth_finding(clips: SourceAndTarget, seconds: list[tuple[float, float]]) -> Finding:
    """Finding "true depth".

    Args:
        seconds: (source, target) timestamps of paired frames, on the clock of an output.
    """
    target = clips.target
    if target.bit_depth <= 8:
        return Finding("true depth", "ok", "8 bits")
    if target.kind != "video" or not _readable(target) or not seconds:
        return Finding("true depth", "skipped", "the levels of this pixel format are not looked at")
    chosen = [seconds[place] for place in np.unique(np.linspace(0, len(seconds) - 1, _FRAMES).astype(int))]
    frames = list(_luma_at(target, [pair[1] for pair in chosen], 0.0))
    step = 1 << (target.bit_depth - 8)
    remainders = sum(np.bincount((frame.samples % step).ravel(), minlength=step) for frame in frames)
    share = float(np.max(remainders) / max(1, np.sum(remainders)))
    slope = None
    if share < _ONE_REMAINDER and clips.source.bit_depth == target.bit_depth and _readable(clips.source):
        befores = _luma_at(clips.source, [pair[0] for pair in chosen], clips.options.start)
        slope = _sawtooth(list(befores), frames, step)
    values = {"share_of_one_remainder": share, "sawtooth": slope}
    text = f"stored with {target.bit_depth} bits, but they hold 8-bit levels"
    if share >= _ONE_REMAINDER:
        status = "fail" if clips.source.bit_depth > 8 else "note"
        return Finding("true depth", status, f"{text}: {100 * share:.0f} % of all luma is a multiple of {step}", values)  # type: ignore[arg-type]
    if slope is not None and slope > _SAWTOOTH:
        return Finding("true depth", "fail", f"{text}, blurred by the encoder: smooth gradients are stepped", values)
    return Finding("true depth", "ok", f"{target.bit_depth} bits are used", values)


def _readable(info: SourceInfo) -> bool:
    """Whether the first plane of this pixel format holds luma, or green, as 16-bit integers."""
    return info.kind == "video" and info.pix_fmt.startswith(("yuv", "gray", "gbrp", "p0")) and "f32" not in info.pix_fmt


def _luma_at(info: SourceInfo, seconds: list[float], start: float) -> Iterator[_Luma]:
    """The stored luma of the frames that are shown at these times."""
    zero = float(info.output_zero(start))
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        stream = container.streams[info.stream_index]
        for wanted in seconds:
            pts = round((wanted + zero) / stream.time_base)
            container.seek(pts, stream=stream)
            frame = _decode_until(container, stream, pts)
            if frame is not None:
                yield _Luma(wanted, _luma_plane(frame))


def _decode_until(container: Any, stream: Any, pts: int) -> Any:
    for packet in demux_packets(container, stream):
        for frame in packet.decode():
            if frame.pts is not None and frame.pts >= pts - 1:
                return frame
    return None


def _luma_plane(frame: Any) -> np.ndarray:
    plane = frame.planes[0]
    deep = frame.format.components[0].bits > 8
    dtype = np.dtype("<u2") if deep else np.dtype(np.uint8)
    samples = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[: frame.height, : frame.width]
    luma = np.asarray(samples, np.int32)
    return luma >> (16 - color.bit_depth(frame.format.name)) if frame.format.name.startswith("p0") else luma


def _sawtooth(befores: list[_Luma], afters: list[_Luma], step: int) -> float | None:
    """Slope of the target's error against the remainder of the source's level; None where too little is smooth."""
    remainders, errors = [], []
    for before, after in zip(befores, afters, strict=False):
        (height, width), (tall, wide) = before.samples.shape, after.samples.shape
        scale = tall // height
        if scale < 1 or (tall, wide) != (height * scale, width * scale):
            return None
        blocks = after.samples.reshape(height, scale, width, scale)
        mean, spread = blocks.mean((1, 3)), np.ptp(blocks, (1, 3))
        smooth = spread[1:-1, 1:-1] <= step
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            beside = before.samples[dy : height - 2 + dy, dx : width - 2 + dx]
            smooth &= np.abs(beside - before.samples[1:-1, 1:-1]) <= _SMOOTH_STEPS * step
        level = before.samples[1:-1, 1:-1][smooth]
        remainders.append(level % step)
        errors.append(mean[1:-1, 1:-1][smooth] - level)
    if sum(map(len, remainders)) < _FEWEST_SAMPLES:
        return None
    remainder, error = np.concatenate(remainders), np.concatenate(errors)
    slopes = []
    for offset in (0, step // 2):  # levels cut off, or rounded
        tooth = (remainder + offset) % step
        if tooth.std() == 0:
            return None
        slopes.append(-float(np.cov(tooth, error)[0, 1] / tooth.var()))
    return max(slopes)
