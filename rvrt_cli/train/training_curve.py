# SPDX-License-Identifier: Apache-2.0
"""curve.png: training loss and validation gain over bicubic, by step."""

from __future__ import annotations

import math
from pathlib import Path

from rvrt_cli.files import write_atomically
from rvrt_cli.plot import Axes, PlotLine, canvas, draw_diagram, png
from rvrt_cli.train.training_log import read_log
from rvrt_cli.train.training_state import RESUME_REMEDY

_IMAGE_SIZE, _LEFT_MARGIN, _RIGHT_MARGIN, _PANEL_MARGIN = (960, 720), 70, 20, 40  # px
_MAX_POINTS = 400  # per line; more are averaged


def draw_curve(log: Path, target: Path) -> None:
    """Plot the log's losses (logarithmic) and validation gains [dB] as a PNG; no file while no loss is finite."""
    records = read_log(log)
    losses = [(r["step"], math.log10(r["loss"])) for r in records if _is_plausible(r.get("loss")) and r["loss"] > 0]
    if not losses:
        return
    gains: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        found = record.get("gain")
        for name, gain in found.items() if isinstance(found, dict) else ():
            if _is_plausible(gain):
                gains.setdefault(name, []).append((record["step"], gain))
    image, draw = canvas(*_IMAGE_SIZE)
    steps = (losses[0][0], max(losses[-1][0], losses[0][0] + 1))
    half, right = _IMAGE_SIZE[1] // 2, _IMAGE_SIZE[0] - _RIGHT_MARGIN
    loss = {"loss (Charbonnier, logarithmic)": _downsample_line(losses)}
    upper = (_LEFT_MARGIN, _PANEL_MARGIN, right, half - _PANEL_MARGIN)
    draw_diagram(draw, Axes(upper, steps, lambda y: f"{10**y:.4f}"), loss)
    named = {f"{name}: Y-PSNR over bicubic [dB]": line for name, line in gains.items()}
    lower = (_LEFT_MARGIN, half + _PANEL_MARGIN, right, _IMAGE_SIZE[1] - _PANEL_MARGIN)
    draw_diagram(draw, Axes(lower, steps, lambda y: f"{y:+.2f}", empty="no validation yet"), named)
    write_atomically(target, png(image), RESUME_REMEDY)


def _is_plausible(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6  # not NaN either: the log may be damaged


def _downsample_line(line: PlotLine) -> PlotLine:
    """At most `_MAX_POINTS` points, each the mean of consecutive ones."""
    size = -(-len(line) // _MAX_POINTS)
    parts = [line[k : k + size] for k in range(0, len(line), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
