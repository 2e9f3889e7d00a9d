"""How time and memory grow with the number of frames and with the frame's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rvrt_cli.bench.bench_options import SMALLEST, BenchOptions
from rvrt_cli.bench.isolated import apart
from rvrt_cli.bench.speed import MB, NOISE, measure_speed, smaller
from rvrt_cli.errors import OutOfMemoryError
from rvrt_cli.plot import Line, canvas, panel, png

FRAMES = (0.25, 0.5, 1.0, 2.0)  # times --frames
SIDES = (0.5, 0.75, 1.0, 1.5)  # times each side of --size
_KEPT = ("frames", "width", "height", "seconds_per_call", "seconds_per_frame", "gflops", "compile_seconds",
         "peak_rss_mb", "peak_device_mb", "other_load")  # fmt: skip
_SIZE, _LEFT, _TOP, _PANEL, _STEP = (960, 640), 75, 60, (375, 220), (480, 310)  # px


def sizes(options: BenchOptions) -> list[tuple[int, int, int]]:
    """(frames, width, height) of every point: frames vary at the base size, then sizes at the base frames."""
    width, height = options.width_height
    points = [(max(1, round(options.frames * share)), width, height) for share in FRAMES]
    points += [(options.frames, _side(width * share), _side(height * share)) for share in SIDES if share != 1]
    return list(dict.fromkeys(points))


def _side(length: float) -> int:
    return max(SMALLEST, round(length / 8) * 8)


def measure_sweep(options: BenchOptions, on_point: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Measure every point in a process of its own: the keys "sweep", "growth" and "memory_growth" of a report, and "notes".

    A point that does not fit the memory is left out, with a note.
    """
    points: list[dict[str, Any]] = []
    notes = []
    for frames, width, height in sizes(options):
        try:
            result = apart(measure_speed, smaller(options, frames, width, height), None, False)
        except OutOfMemoryError as error:
            notes.append(f"left out of the sweep: {frames} frames of {width}x{height} px ({error})")
            continue
        points.append({key: result[key] for key in _KEPT})
        if on_point is not None:
            on_point(points[-1])
    return {"sweep": points, "growth": growth(points, options), "memory_growth": memory_growth(points), "notes": notes}


def growth(points: Sequence[dict[str, Any]], options: BenchOptions) -> dict[str, float | None]:
    """Exponents of time over frames and over px (1: linear), by least squares between the logarithms."""
    by_frames, by_pixels = split(points, options)
    return {
        "frames": _exponent([(p["frames"], p["seconds_per_call"]) for p in by_frames]),
        "pixels": _exponent([(p["width"] * p["height"], p["seconds_per_call"]) for p in by_pixels]),
    }


def memory_growth(points: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """The line through peak memory over LR px times frames, by least squares; None where there are not two sizes.

    Returns:
        "bytes_per_pixel": of each LR px of each frame; "base_mb": whatever the size; "off_line": how far from that line
        the worst point lies, as a share of its memory.
    """
    pairs = [(p["frames"] * p["width"] * p["height"], _memory(p)) for p in points]
    if len({x for x, _ in pairs}) < 2:
        return None
    places, memory = np.array(pairs, np.float64).T
    slope, base = np.polyfit(places, memory, 1)
    worst = max(abs(base + slope * x - y) / y for x, y in pairs)
    return {"bytes_per_pixel": float(slope) * MB, "base_mb": float(base), "off_line": float(worst)}


def _memory(point: dict[str, Any]) -> float:
    """Peak memory [MB] where the network computes."""
    return point["peak_rss_mb"] if point["peak_device_mb"] is None else point["peak_device_mb"]


def split(points: Sequence[dict[str, Any]], options: BenchOptions) -> tuple[list[dict], list[dict]]:
    """Points of the base size by frames; points of the base number of frames by px."""
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


def draw_sweep(result: dict[str, Any], options: BenchOptions) -> bytes:
    """A PNG of time and memory against frames and against px; beside the time, what linear growth would be."""
    image, draw = canvas(*_SIZE)
    machine = result["machine"]
    weights = "" if result["weights"] == "trained" else f", {result['weights']} weights"
    title = f"{result['network']}{weights} on {machine['name']}, {machine['threads']} threads, {machine['precision']}"
    draw.text((_LEFT, 10), title, fill="black")
    load = max((point["other_load"] for point in result["sweep"]), default=0.0)
    if load > NOISE:
        draw.text((_LEFT, 24), f"other programs took up to {load:.0%} of the processors", fill="gray")
    by_frames, by_pixels = split(result["sweep"], options)
    frames = [float(p["frames"]) for p in by_frames]
    pixels = [p["width"] * p["height"] / 1000 for p in by_pixels]
    width, height = options.width_height
    for column, (xs, points, axis) in enumerate(
        (
            (frames, by_frames, f"frames of {width}x{height} px"),
            (pixels, by_pixels, f"thousand px a frame, {options.frames} frames"),
        )
    ):
        if not points:
            draw.text((_LEFT + column * _STEP[0], _TOP), "no point fits the memory", fill="gray")
            continue
        for row, (value, unit) in enumerate(((_seconds, "time of a call [s]"), (_memory, "peak memory [MB]"))):
            left, top = _LEFT + column * _STEP[0], _TOP + row * _STEP[1]
            values = [value(p) for p in points]
            lines: dict[str, Line] = {unit: list(zip(xs, values, strict=True))}
            if row == 0:
                rate = values[-1] / xs[-1]
                lines["linear"] = [(0.0, 0.0), (xs[-1], rate * xs[-1])]
            panel(
                draw, (left, top, left + _PANEL[0], top + _PANEL[1]), (0.0, xs[-1]), lines, _short, ticks=xs,
                from_zero=True,
            )  # fmt: skip
            draw.text((left + _PANEL[0] - draw.textlength(axis), top + _PANEL[1] + 22), axis, fill="black")
    return png(image)


def _seconds(point: dict[str, Any]) -> float:
    return point["seconds_per_call"]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
