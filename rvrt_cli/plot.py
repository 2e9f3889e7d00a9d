"""Curves in a PNG: axes, lines and their names, drawn with Pillow, so that no plotting library is needed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw

Line = Sequence[tuple[float, float]]

_COLORS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (150, 60, 160))
_GRID = (225, 225, 225)
_TICKS = 6
_LABELS = 70  # px left of the axes, for the numbers
_MARKED = 60  # points of a line at most that are marked


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white image of `width` × `height` px, and what draws on it."""
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def panel(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    span: tuple[float, float],
    lines: Mapping[str, Line],
    label: Callable[[float], str],
    *,
    ticks: Sequence[float] | None = None,
    from_zero: bool = False,
    empty: str = "nothing measured",
) -> None:
    """Axes and lines.

    Args:
        box: left, top, right, bottom of the axes [px]; numbers stand left of and below it, names above.
        span: first and last x.
        lines: points (x, y) by name.
        label: text of a number on the y axis.
        ticks: where numbers stand on the x axis; None: evenly spread.
        from_zero: whether the y axis begins at 0, not near the smallest value, and has round numbers.
        empty: written where there are no lines.
    """
    left, top, right, bottom = box
    values = [y for line in lines.values() for _, y in line]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05
    low, high = (0.0, _round_up(high)) if from_zero else (low - margin, high + margin)

    def across(x: float) -> float:
        return left + (right - left) * (x - span[0]) / (span[1] - span[0])

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - low) / (high - low)

    for k in range(_TICKS):
        value = low + (high - low) * k / (_TICKS - 1)
        draw.line((left, up(value), right, up(value)), fill=_GRID)
        draw.text((left - _LABELS + 6, up(value) - 6), label(value), fill="black")
    for x in ticks or [span[0] + (span[1] - span[0]) * k / (_TICKS - 1) for k in range(_TICKS)]:
        draw.text((across(x) - 12, bottom + 6), f"{x:.3g}" if ticks else f"{x:.0f}", fill="black")
    name_at = left + 10.0
    for index, (name, line) in enumerate(lines.items()):
        color = _COLORS[index % len(_COLORS)]
        points = [(across(x), up(y)) for x, y in line]
        if len(points) > 1:
            draw.line(points, fill=color, width=2)
        for x, y in points if len(points) < _MARKED else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
        draw.text((name_at, top - 18), name, fill=color)
        name_at += draw.textlength(name) + 30
    if not lines:
        draw.text((left + 10, top + 10), empty, fill="gray")


def _round_up(value: float) -> float:
    """The smallest end of an axis that holds `value` > 0 and whose numbers are round."""
    step = value / (_TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return (_TICKS - 1) * next(
        size * unit for size in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if size * unit >= 0.999 * step
    )
