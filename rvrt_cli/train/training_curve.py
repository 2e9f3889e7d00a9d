# SPDX-License-Identifier: Apache-2.0
"""curve.png: training loss and validation gain over bicubic, by step."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path

from rvrt_cli.files import write_atomically
from rvrt_cli.plot import Axes, PlotLine, canvas, draw_diagram, png
from rvrt_cli.train.training_log import read_log
from rvrt_cli.train.training_state import RESUME_REMEDY

_IMAGE_SIZE, _LEFT_MARGIN, _RIGHT_MARGIN, _PANEL_MARGIN = (960, 720), 95, 20, 45  # px
_MAX_POINTS = 400  # per line; more are averaged
_SMOOTHED_SHARE = 0.05  # of the steps, which each point of the smoothed loss is the mean of


def draw_curve(log: Path, target: Path) -> None:
    """Plot the log's losses (logarithmic, or the negative PSNR in dB), also smoothed, and below them validation gains [dB], if there are any, as a PNG.

    No file is written while no loss is finite.
    """
    records = read_log(log)
    losses = [(record["step"], record["loss"]) for record in records if _is_plausible(record.get("loss"))]
    if not losses:
        return
    logarithmic = all(loss > 0 for _, loss in losses)
    if logarithmic:
        losses = [(step, math.log10(loss)) for step, loss in losses]
    gains: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        found = record.get("gain")
        for name, gain in found.items() if isinstance(found, dict) else ():
            if _is_plausible(gain):
                gains.setdefault(name, []).append((record["step"], gain))
    image, draw = canvas(*_IMAGE_SIZE)
    steps = (losses[0][0], max(losses[-1][0], losses[0][0] + 1))
    panels = 2 if gains else 1
    boxes = [
        (
            _LEFT_MARGIN,
            _IMAGE_SIZE[1] * panel // panels + _PANEL_MARGIN,
            _IMAGE_SIZE[0] - _RIGHT_MARGIN,
            _IMAGE_SIZE[1] * (panel + 1) // panels - _PANEL_MARGIN,
        )
        for panel in range(panels)
    ]
    if logarithmic:
        axes = Axes(boxes[0], steps, lambda y: f"{10**y:.4f}", x_title="step", y_title="Charbonnier loss, logarithmic")
    else:
        axes = Axes(boxes[0], steps, lambda y: f"{y:.1f}", x_title="step", y_title="negative PSNR [dB]")
    smoothed = {"training loss, smoothed": _downsample_line(_smooth_line(losses))}
    draw_diagram(draw, axes, smoothed, behind={"training loss": _downsample_line(losses)})
    if gains:
        axes = Axes(boxes[1], steps, lambda y: f"{y:+.2f}", x_title="step", y_title="Y-PSNR over bicubic [dB]")
        draw_diagram(draw, axes, {f"validation, {name}": line for name, line in gains.items()})
    write_atomically(target, png(image), RESUME_REMEDY)


def _is_plausible(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6  # not NaN either: the log may be damaged


def _downsample_line(line: PlotLine) -> PlotLine:
    """At most `_MAX_POINTS` points, each the mean of consecutive ones."""
    size = -(-len(line) // _MAX_POINTS)
    parts = [line[k : k + size] for k in range(0, len(line), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _smooth_line(line: PlotLine) -> PlotLine:
    """Each point the mean of those around it, `_SMOOTHED_SHARE` of all; fewer near the ends."""
    reach = int(_SMOOTHED_SHARE * len(line) / 2)
    sums = [0.0, *accumulate(y for _, y in line)]
    smoothed = []
    for k, (x, _) in enumerate(line):
        first, end = max(0, k - reach), min(len(line), k + reach + 1)
        smoothed.append((x, (sums[end] - sums[first]) / (end - first)))
    return smoothed
