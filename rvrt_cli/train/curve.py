"""curve.png: loss, and validation gain over bicubic, over the steps."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from rvrt_cli.train.checkpoint import write_atomically
from rvrt_cli.train.log import read_log

_SIZE, _LEFT, _RIGHT, _GAP = (960, 720), 70, 20, 40  # px
_POINTS = 400  # of a line at most; more are averaged
_COLOURS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (150, 60, 160))

Line = list[tuple[float, float]]


def draw_curve(log: Path, target: Path) -> None:
    """Draw the log's losses (logarithmic) and validation gains [dB] into a PNG; nothing while it has no finite loss."""
    records = read_log(log)
    losses = [(r["step"], math.log10(r["loss"])) for r in records if r.get("loss")]
    if not losses:
        return
    gains: dict[str, Line] = {}
    for record in records:
        for name, gain in record.get("gain", {}).items():
            gains.setdefault(name, []).append((record["step"], gain))
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    steps = (losses[0][0], max(losses[-1][0], losses[0][0] + 1))
    half = _SIZE[1] // 2
    _panel(
        draw,
        (_GAP, half - _GAP),
        steps,
        {"loss (Charbonnier, logarithmic)": _averaged(losses)},
        lambda y: f"{10**y:.4f}",
    )
    named = {f"{name}: Y-PSNR over bicubic [dB]": line for name, line in gains.items()}
    _panel(draw, (half + _GAP, _SIZE[1] - _GAP), steps, named, lambda y: f"{y:+.2f}")
    png = io.BytesIO()
    image.save(png, "PNG")
    write_atomically(target, png.getvalue())


def _averaged(line: Line) -> Line:
    """At most `_POINTS` points, each the mean of its stretch."""
    size = -(-len(line) // _POINTS)
    parts = [line[k : k + size] for k in range(0, len(line), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _panel(
    draw: ImageDraw.ImageDraw,
    rows: tuple[int, int],
    steps: tuple[float, float],
    lines: dict[str, Line],
    label: Callable[[float], str],
) -> None:
    """Axes and lines between two rows of the image."""
    top, bottom = rows
    left, right = _LEFT, _SIZE[0] - _RIGHT
    values = [y for line in lines.values() for _, y in line]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05
    low, high = low - margin, high + margin

    def place(point: Sequence[float]) -> tuple[float, float]:
        x = left + (right - left) * (point[0] - steps[0]) / (steps[1] - steps[0])
        return x, bottom - (bottom - top) * (point[1] - low) / (high - low)

    for k in range(6):
        share = k / 5
        y, x = bottom - (bottom - top) * share, left + (right - left) * share
        draw.line((left, y, right, y), fill=(225, 225, 225))
        draw.text((6, y - 6), label(low + (high - low) * share), fill="black")
        draw.text((x - 12, bottom + 6), f"{steps[0] + (steps[1] - steps[0]) * share:.0f}", fill="black")
    for index, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [place(point) for point in line]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points if len(points) < 60 else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.text((left + 10 + 300 * index, top - 18), name, fill=colour)
    if not lines:
        draw.text((left + 10, top + 10), "no validation yet", fill="gray")
