# SPDX-License-Identifier: Apache-2.0
"""The plot of a sweep: time and memory over frames and over frame size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL.ImageDraw import ImageDraw

from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.speed import LOAD_THRESHOLD
from rvrt_cli.bench.sweep import Point, peak_memory_mb, split_points
from rvrt_cli.plot import Axes, PlotLine, canvas, draw_diagram, png

# px
_SWEEP_IMAGE_SIZE = (960, 640)
_MARGIN_LEFT, _MARGIN_TOP = 75, 60
_DIAGRAM_SIZE, _DIAGRAM_STEP = (375, 220), (480, 310)

_DIAGRAM_ROWS: tuple[tuple[Callable[[Point], float], str], ...] = (
    (lambda point: point["seconds_per_call"], "time of a call [s]"),
    (peak_memory_mb, "peak memory [MB]"),
)


def draw_sweep(result: dict[str, Any], options: BenchOptions) -> bytes:
    """A PNG of time and memory over frames and over px; beside the time, what linear growth would be."""
    image, draw = canvas(*_SWEEP_IMAGE_SIZE)
    machine = result["machine"]
    weights = "" if result["weights"] == "trained" else f", {result['weights']} weights"
    title = f"{result['network']}{weights} on {machine['name']}, {machine['threads']} threads, {machine['precision']}"
    draw.text((_MARGIN_LEFT, 10), title, fill="black")
    load = max((point["other_load"] for point in result["sweep"]), default=0.0)
    if load > LOAD_THRESHOLD:
        draw.text((_MARGIN_LEFT, 24), f"other programs took up to {load:.0%} of the processors", fill="gray")
    by_frames, by_pixels = split_points(result["sweep"], options)
    width, height = options.width_height
    frames = [float(point["frames"]) for point in by_frames]
    pixels = [point["width"] * point["height"] / 1000 for point in by_pixels]
    _draw_column(draw, 0, by_frames, frames, f"frames of {width}x{height} px")
    _draw_column(draw, 1, by_pixels, pixels, f"thousand px per frame, {options.frames} frames")
    return png(image)


def _draw_column(draw: ImageDraw, column: int, points: list[Point], xs: list[float], x_name: str) -> None:
    left = _MARGIN_LEFT + column * _DIAGRAM_STEP[0]
    if not points:
        draw.text((left, _MARGIN_TOP), "no point fits the memory", fill="gray")
        return
    for row, (value, name) in enumerate(_DIAGRAM_ROWS):
        top = _MARGIN_TOP + row * _DIAGRAM_STEP[1]
        right, bottom = left + _DIAGRAM_SIZE[0], top + _DIAGRAM_SIZE[1]
        values = [value(point) for point in points]
        lines: dict[str, PlotLine] = {name: list(zip(xs, values, strict=True))}
        if row == 0:
            lines["linear"] = [(0.0, 0.0), (xs[-1], values[-1])]
        axes = Axes((left, top, right, bottom), (0.0, xs[-1]), _axis_number, x_title=x_name, ticks=xs, from_zero=True)
        draw_diagram(draw, axes, lines)


def _axis_number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
