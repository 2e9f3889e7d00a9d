# SPDX-License-Identifier: Apache-2.0
"""Curves in a PNG: axes, lines and their names, drawn with Pillow, so that no plotting library is needed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from PIL import Image, ImageDraw

PlotLine = Sequence[tuple[float, float]]

_COLORS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (150, 60, 160))
_GRID_COLOR = (225, 225, 225)
_PALE = 0.3  # strength of the color of a line in the background
_TICKS = 6
_LABEL_WIDTH = 70  # px left of the axes, for the numbers
_TITLE_WIDTH = 20  # px left of them, for the title of the y axis
_MAX_MARKERS = 60  # a line of more points has none of them marked


@dataclass(frozen=True)
class Axes:
    """Place and scale of one diagram.

    Attributes:
        box: left, top, right, bottom of the axes [px]; numbers and titles are left of and below it, names above.
        span: first and last x.
        label: text of a number on the y axis.
        x_title, y_title: what the axes show, with the unit; empty for no title.
        ticks: x of the numbers on the x axis; None: evenly spaced.
        from_zero: the y axis starts at 0, not near the smallest value, and has round numbers.
    """

    box: tuple[int, int, int, int]
    span: tuple[float, float]
    label: Callable[[float], str]
    x_title: str = ""
    y_title: str = ""
    ticks: Sequence[float] | None = None
    from_zero: bool = False

    def y_range(self, values: Sequence[float]) -> tuple[float, float]:
        """First and last y of an axis that shows `values`."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if self.from_zero:
            return 0.0, _round_up(high)
        margin = 0.05 * (high - low) or 0.05
        return low - margin, high + margin


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white image of `width` × `height` px, and its drawing interface."""
    image = Image.new("RGB", (width, height), "white")
    return image, ImageDraw.Draw(image)


def png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def draw_diagram(
    draw: ImageDraw.ImageDraw, axes: Axes, lines: Mapping[str, PlotLine], behind: Mapping[str, PlotLine] | None = None
) -> None:
    """Draw axes and lines, which are points (x, y) by name.

    Args:
        behind: lines that are drawn first, thin and pale, in the colors of those in front.
    """
    left, top, right, bottom = axes.box
    first, last = axes.span
    behind = behind or {}
    low, high = axes.y_range([y for line in (*lines.values(), *behind.values()) for _, y in line])

    def x_pixel(x: float) -> float:
        return left + (right - left) * (x - first) / (last - first)

    def y_pixel(y: float) -> float:
        return bottom - (bottom - top) * (y - low) / (high - low)

    for value in _evenly(low, high):
        draw.line((left, y_pixel(value), right, y_pixel(value)), fill=_GRID_COLOR)
        draw.text((left - _LABEL_WIDTH + 6, y_pixel(value) - 6), axes.label(value), fill="black")
    for x in axes.ticks or _evenly(first, last):
        draw.text((x_pixel(x) - 12, bottom + 6), f"{x:.3g}" if axes.ticks else f"{x:.0f}", fill="black")
    _draw_titles(draw, axes)
    name_left = left + 10.0
    drawn = [(entry, 1, _pale(color)) for entry, color in zip(behind.items(), cycle(_COLORS), strict=False)]
    drawn += [(entry, 2, color) for entry, color in zip(lines.items(), cycle(_COLORS), strict=False)]
    for (name, line), width, color in drawn:
        points = [(x_pixel(x), y_pixel(y)) for x, y in line]
        if len(points) > 1:
            draw.line(points, fill=color, width=width)
        for x, y in points if len(points) < _MAX_MARKERS else ():
            draw.ellipse((x - width, y - width, x + width, y + width), fill=color)
        draw.text((name_left, top - 18), name, fill=color)
        name_left += draw.textlength(name) + 30


def _pale(color: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(round(255 - _PALE * (255 - part)) for part in color)


def _draw_titles(draw: ImageDraw.ImageDraw, axes: Axes) -> None:
    """The title of the x axis below its numbers, and that of the y axis, turned, left of its own."""
    left, top, right, bottom = axes.box
    if axes.x_title:
        draw.text((right - draw.textlength(axes.x_title), bottom + 22), axes.x_title, fill="black")
    if axes.y_title:
        text = Image.new("L", (math.ceil(draw.textlength(axes.y_title)), _TITLE_WIDTH - 4))
        ImageDraw.Draw(text).text((0, 0), axes.y_title, fill=255)
        turned = text.transpose(Image.Transpose.ROTATE_90)
        place = (left - _LABEL_WIDTH - _TITLE_WIDTH, (top + bottom - turned.height) // 2)
        draw.bitmap(place, turned, fill="black")


def _evenly(first: float, last: float) -> list[float]:
    return [first + (last - first) * k / (_TICKS - 1) for k in range(_TICKS)]


def _round_up(value: float) -> float:
    """The smallest end of an axis from 0 that includes `value` > 0 and gives round numbers at its ticks."""
    step = value / (_TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return (_TICKS - 1) * next(
        size * unit for size in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if size * unit >= 0.999 * step
    )
