# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the number of frames and with the frame size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.speed import MB, measure_speed
from rvrt_cli.errors import OutOfMemoryError
from rvrt_cli.options import SMALLEST_FRAME

FRAME_FACTORS = (0.25, 0.5, 1.0, 2.0)  # times --frames
SIDE_FACTORS = (0.5, 0.75, 1.0, 1.5)  # times each side of --size
_SIDE_MULTIPLE = 8  # px
_POINT_KEYS = (
    "frames",
    "width",
    "height",
    "seconds_per_call",
    "seconds_per_frame",
    "gflops",
    "compile_seconds",
    "peak_rss_mb",
    "peak_device_mb",
    "other_load",
)

Point = dict[str, Any]  # the keys above, of one measurement


def sweep_sizes(options: BenchOptions) -> list[tuple[int, int, int]]:
    """(frames, width, height) of every point: other frame counts at the base size, then other sizes at the base count."""
    width, height = options.width_height
    points = [(max(1, round(options.frames * factor)), width, height) for factor in FRAME_FACTORS]
    points += [
        (options.frames, _round_side(width * factor), _round_side(height * factor))
        for factor in SIDE_FACTORS
        if factor != 1
    ]
    return list(dict.fromkeys(points))


def _round_side(length: float) -> int:
    return max(SMALLEST_FRAME, round(length / _SIDE_MULTIPLE) * _SIDE_MULTIPLE)


def measure_sweep(options: BenchOptions, on_point: Callable[[Point], None] | None = None) -> dict[str, Any]:
    """Measure every point in a process of its own.

    Returns:
        the keys "sweep", "growth" and "memory_growth" of a report, and "notes", which name the points that are missing
        because they do not fit the memory.
    """
    points: list[Point] = []
    notes = []
    for frames, width, height in sweep_sizes(options):
        point_options = replace(options, frames=frames, size=f"{width}x{height}", sweep=False, pipeline=None)
        try:
            result = run_isolated(measure_speed, point_options, None, False)
        except OutOfMemoryError as error:
            notes.append(f"missing from the sweep: {frames} frames of {width}x{height} px ({error})")
            continue
        points.append({key: result[key] for key in _POINT_KEYS})
        if on_point is not None:
            on_point(points[-1])
    return {
        "sweep": points,
        "growth": growth_exponents(points, options),
        "memory_growth": memory_growth(points),
        "notes": notes,
    }


def growth_exponents(points: Sequence[Point], options: BenchOptions) -> dict[str, float | None]:
    """Exponents of time over frames and over px (1: linear), by least squares between the logarithms."""
    by_frames, by_pixels = split_points(points, options)
    return {
        "frames": _exponent([(p["frames"], p["seconds_per_call"]) for p in by_frames]),
        "pixels": _exponent([(p["width"] * p["height"], p["seconds_per_call"]) for p in by_pixels]),
    }


def memory_growth(points: Sequence[Point]) -> dict[str, float] | None:
    """The line of peak memory over LR px times frames, by least squares; None for fewer than two sizes.

    Returns:
        "bytes_per_pixel": slope, per LR px of each frame; "base_mb": memory at size 0; "off_line": largest distance of
        a point from the line, as a share of its memory.
    """
    pairs = [(p["frames"] * p["width"] * p["height"], peak_memory_mb(p)) for p in points]
    if len({x for x, _ in pairs}) < 2:
        return None
    sizes, memory = np.array(pairs, np.float64).T
    slope, base = np.polyfit(sizes, memory, 1)
    worst = max(abs(base + slope * x - y) / y for x, y in pairs)
    return {"bytes_per_pixel": float(slope) * MB, "base_mb": float(base), "off_line": float(worst)}


def peak_memory_mb(point: Point) -> float:
    """Peak memory where the network computes [MB]."""
    return point["peak_rss_mb"] if point["peak_device_mb"] is None else point["peak_device_mb"]


def split_points(points: Sequence[Point], options: BenchOptions) -> tuple[list[Point], list[Point]]:
    """Points of the base size, sorted by frames; points of the base frame count, sorted by px."""
    width, height = options.width_height
    by_frames = [p for p in points if (p["width"], p["height"]) == (width, height)]
    by_pixels = [p for p in points if p["frames"] == options.frames]
    return sorted(by_frames, key=lambda p: p["frames"]), sorted(by_pixels, key=lambda p: p["width"] * p["height"])


def _exponent(points: Sequence[tuple[float, float]]) -> float | None:
    if len({x for x, _ in points}) < 2:
        return None
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
