# SPDX-License-Identifier: Apache-2.0
"""Whether the target has the source's colors for someone who reads both as their tags say, and if not, why.

Both videos are decoded by their tags, or by what players assume without (BT.601 up to 576 lines, BT.709 above). Where the
target's colors are off, its YCbCr is computed back and read by every other matrix and range: the reading that explains
the source's colors names the mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from rvrt_cli.check.verdict import Finding
from rvrt_cli.video.color import ColorDescription
from rvrt_cli.video.read.source import SourceInfo

_MAX_SHIFT = 1.0  # levels of 255, of the mean of a channel
_EXPLAINED = 0.5  # of the error that another reading must remove to be believed
_WORTH_EXPLAINING = 1.0  # levels, root of the mean squared error
# Luma weights (red, blue) of the matrices, ITU-R BT.601, BT.709, BT.2020 and SMPTE 240M
_WEIGHTS = {
    "smpte170m": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
}
_SAME_WEIGHTS = {"bt470bg": "smpte170m", "bt2020c": "bt2020nc"}
_SHOWN = {"smpte170m": "BT.601", "bt709": "BT.709", "bt2020nc": "BT.2020", "smpte240m": "SMPTE 240M"}
_SHOWN_RANGE = {"tv": "limited", "pc": "full"}
# What looks the same where tags are missing
_COMMON = {
    "primaries": {"unknown", "bt709", "bt470bg", "smpte170m"},
    "transfer": {"unknown", "bt709", "smpte170m", "bt470bg", "iec61966-2-1"},
}


def color_findings(
    source: SourceInfo, target: SourceInfo, samples: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[Finding]:
    """Findings "color" and "color tags".

    Args:
        samples: pairs of small frames (H, W, 3), levels 0…255, as `paired_frames` reads them.
    """
    yield _shift_finding(target, samples)
    yield _tag_finding(source, target)


def _shift_finding(target: SourceInfo, samples: list[tuple[np.ndarray, np.ndarray]]) -> Finding:
    if not samples:
        return Finding("color", "skipped", "no frames of both videos coincide")
    before = np.stack([pair[0] for pair in samples]).reshape(-1, 3).astype(np.float64)
    after = np.stack([pair[1] for pair in samples]).reshape(-1, 3).astype(np.float64)
    shift = (after - before).mean(0)
    largest = float(np.abs(shift).max())
    reading, share = _better_reading(before, after, target.color)
    explained = reading is not None and share < _EXPLAINED
    values = {
        "shift": [float(value) for value in shift],
        "reading": list(reading) if explained and reading else None,
    }
    if largest <= _MAX_SHIFT and not explained:
        return Finding("color", "ok", f"mean color within {largest:.2f} levels of the source's", values)
    amounts = ", ".join(f"{name} {value:+.1f}" for name, value in zip(("red", "green", "blue"), shift, strict=True))
    text = f"mean color is shifted: {amounts} levels"
    if explained and reading:
        text = f"{_explanation(target, *reading)}; {text}"
    return Finding("color", "fail", text, values)


def _explanation(target: SourceInfo, matrix: str, levels: str) -> str:
    """What the pixels are, and what the target says that they are."""
    tags = target.color
    pixels, read = [], []
    if matrix != _SAME_WEIGHTS.get(tags.matrix, tags.matrix):
        own = _SAME_WEIGHTS.get(tags.matrix, tags.matrix)
        how = "tagged" if "matrix" in tags.tagged else "untagged, which players read as"
        pixels.append(_SHOWN[matrix])
        read.append(f"{how} {_SHOWN[own]}")
    if levels != tags.range:
        how = "tagged" if "range" in tags.tagged else "untagged, which players read as"
        pixels.append(f"of {_SHOWN_RANGE[levels]} range")
        read.append(f"{how} {_SHOWN_RANGE[tags.range]} range")
    return f"the pixels are {' '.join(pixels)}, but {' and '.join(read)}"


def _better_reading(
    before: np.ndarray, after: np.ndarray, tags: ColorDescription
) -> tuple[tuple[str, str] | None, float]:
    """(matrix and range that explain the source's colors best, the share of the squared error that then remains)."""
    matrix = _SAME_WEIGHTS.get(tags.matrix, tags.matrix)
    error = float(np.mean((after - before) ** 2))
    if matrix not in _WEIGHTS or error < _WORTH_EXPLAINING**2:
        return None, 1.0
    ycc = _to_ycc(after, matrix, tags.range)
    readings = [reading for reading in itertools.product(_WEIGHTS, _SHOWN_RANGE) if reading != (matrix, tags.range)]
    errors = {reading: float(np.mean((_to_rgb(ycc, *reading) - before) ** 2)) for reading in readings}
    best = min(errors, key=errors.__getitem__)
    return best, errors[best] / error


def _matrix(name: str) -> np.ndarray:
    """RGB to YCbCr of full range, luma 0…1 and chroma ±0.5 for RGB in 0…1 (ITU-T H.273, equations 38 to 40)."""
    red, blue = _WEIGHTS[name]
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])


def _scales(levels: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of 8-bit Y, Cb, Cr."""
    if levels == "pc":
        return np.array([255.0, 255.0, 255.0]), np.array([0.0, 128.0, 128.0])
    return np.array([219.0, 224.0, 224.0]), np.array([16.0, 128.0, 128.0])


def _to_ycc(rgb: np.ndarray, matrix: str, levels: str) -> np.ndarray:
    scale, offset = _scales(levels)
    return (rgb / 255) @ _matrix(matrix).T * scale + offset


def _to_rgb(ycc: np.ndarray, matrix: str, levels: str) -> np.ndarray:
    scale, offset = _scales(levels)
    return np.clip((ycc - offset) / scale @ np.linalg.inv(_matrix(matrix)).T, 0, 1) * 255


def _tag_finding(source: SourceInfo, target: SourceInfo) -> Finding:
    before, after = source.color, target.color
    values = {"source": _tags(before), "target": _tags(after)}
    changed = [
        f"{name} {getattr(before, name)} is now {_tag(after, name)}"
        for name in ("primaries", "transfer")
        if getattr(before, name) != getattr(after, name)
        and not {getattr(before, name), getattr(after, name)} <= _COMMON[name]
    ]
    if changed:
        return Finding("color tags", "fail", "; ".join(changed), values)
    lost = sorted(before.tagged - after.tagged - ({"matrix"} if after.matrix == "gbr" else set()))
    if lost:
        text = f"{', '.join(lost)} tagged in the source, and no longer"
        return Finding("color tags", "note", text, values)
    if not after.tagged & {"matrix"} and before.matrix != after.matrix and "gbr" not in (before.matrix, after.matrix):
        text = f"untagged: players read the source as {before.matrix}, and a target of this size as {after.matrix}"
        return Finding("color tags", "note", text, values)
    return Finding("color tags", "ok", ", ".join(f"{name} {value}" for name, value in _tags(after).items()), values)


def _tag(color: ColorDescription, name: str) -> str:
    return str(getattr(color, name)) if name in color.tagged else "untagged"


def _tags(color: ColorDescription) -> dict[str, str]:
    return {name: _tag(color, name) for name in ("matrix", "range", "primaries", "transfer")}
