# SPDX-License-Identifier: Apache-2.0
"""Steps at tile borders, found where there are some and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from rvrt_cli.check.seam_findings import SeamProfiles, seam_findings
from rvrt_cli.check.verdict import Finding
from rvrt_cli.data.resize import imresize

HEIGHT, WIDTH, SCALE = 48, 64, 4


def gradient(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: a ramp between two random levels along a random line, flat beyond its ends."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    (x0, x1), (y0, y1) = rng.integers(WIDTH, size=2), rng.integers(HEIGHT, size=2)
    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(1, (x1 - x0) ** 2 + (y1 - y0) ** 2)
    low, high = rng.integers(256, size=2)
    return np.rint(low + (high - low) * along.clip(0, 1)).astype(np.uint8)[..., None].repeat(3, 2)


def border_finding(source: np.ndarray, target: np.ndarray) -> Finding:
    """What is said of a target (4H, 4W, 3) of a source (H, W, 3)."""
    clips = SimpleNamespace(
        source=SimpleNamespace(height=HEIGHT, width=WIDTH),
        target=SimpleNamespace(height=SCALE * HEIGHT, width=SCALE * WIDTH),
        frame_seconds=0.04,
    )
    profiles = SeamProfiles(clips, 0.0, [], [])  # type: ignore[arg-type]
    luma, enlarged = (pixels[..., 1].astype(np.float32) for pixels in (target, imresize(source, SCALE)))
    profiles.columns.add(luma, enlarged)
    profiles.rows.add(np.ascontiguousarray(luma.T), np.ascontiguousarray(enlarged.T))
    return next(iter(seam_findings(profiles)))


@pytest.mark.slow
@pytest.mark.parametrize("method", [Resampling.BICUBIC, Resampling.LANCZOS, Resampling.HAMMING])
def test_no_gradient_has_a_tile_border(method: Resampling) -> None:
    """Near the frame's edge interpolation bends what is smooth, by its own idea of what lies beyond; so does a ramp's end."""
    rng = np.random.default_rng(11)
    for number in range(200):
        source = gradient(rng)
        target = np.asarray(Image.fromarray(source).resize((SCALE * WIDTH, SCALE * HEIGHT), method))
        found = border_finding(source, target)
        assert found.status != "fail", f"gradient {number}: {found.text}"


@pytest.mark.parametrize(("axis", "place"), [("x", 32), ("x", 208), ("y", 64), ("y", 96)])
def test_a_step_of_a_tile_is_found_in_a_gradient(axis: str, place: int) -> None:
    found = stepped_gradient(axis, place)
    assert found.status == "fail"
    assert f"{axis} = {place} px" in found.text


@pytest.mark.parametrize(("axis", "place"), [("x", 10), ("x", 248), ("y", 31), ("y", 184)])
def test_no_tile_ends_within_8_px_of_the_edge_of_the_source(axis: str, place: int) -> None:
    assert stepped_gradient(axis, place).status == "ok"


def stepped_gradient(axis: str, place: int) -> Finding:
    """What is said of a smooth source, of whose target all from column or row `place` on is three levels brighter."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = np.rint(60 + 0.4 * x + 0.6 * y).astype(np.uint8)[..., None].repeat(3, 2)
    target = imresize(source, SCALE)
    tile = target[:, place:] if axis == "x" else target[place:]
    tile += 3
    return border_finding(source, target)
