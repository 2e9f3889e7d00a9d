"""curve.png: loss, and validation gain over bicubic, over the steps."""

from __future__ import annotations

import math
from pathlib import Path

from rvrt_cli.files import write_atomically
from rvrt_cli.plot import Axes, canvas, draw_diagram, png
from rvrt_cli.train.training_log import read_log
from rvrt_cli.train.training_state import FREE_SPACE

_SIZE, _LEFT, _RIGHT, _GAP = (960, 720), 70, 20, 40  # px
_POINTS = 400  # of a line at most; more are averaged

Line = list[tuple[float, float]]


def draw_curve(log: Path, target: Path) -> None:
    """Draw the log's losses (logarithmic) and validation gains [dB] into a PNG; nothing while it has no finite loss."""
    records = read_log(log)
    losses = [(r["step"], math.log10(r["loss"])) for r in records if _plausible(r.get("loss")) and r["loss"] > 0]
    if not losses:
        return
    gains: dict[str, Line] = {}
    for record in records:
        found = record.get("gain")
        for name, gain in found.items() if isinstance(found, dict) else ():
            if _plausible(gain):
                gains.setdefault(name, []).append((record["step"], gain))
    image, draw = canvas(*_SIZE)
    steps = (losses[0][0], max(losses[-1][0], losses[0][0] + 1))
    half, right = _SIZE[1] // 2, _SIZE[0] - _RIGHT
    loss = {"loss (Charbonnier, logarithmic)": _averaged(losses)}
    upper = (_LEFT, _GAP, right, half - _GAP)
    draw_diagram(draw, Axes(upper, steps, lambda y: f"{10**y:.4f}"), loss)
    named = {f"{name}: Y-PSNR over bicubic [dB]": line for name, line in gains.items()}
    lower = (_LEFT, half + _GAP, right, _SIZE[1] - _GAP)
    draw_diagram(draw, Axes(lower, steps, lambda y: f"{y:+.2f}", empty="no validation yet"), named)
    write_atomically(target, png(image), FREE_SPACE)


def _plausible(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6  # not NaN either; the log may be damaged


def _averaged(line: Line) -> Line:
    """At most `_POINTS` points, each the mean of its stretch."""
    size = -(-len(line) // _POINTS)
    parts = [line[k : k + size] for k in range(0, len(line), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
