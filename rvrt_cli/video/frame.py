"""One picture with its time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One picture and when it is shown.

    Attributes:
        pixels: RGB, (H, W, 3), uint8 in 0..255, or uint16 in 0..65535 for sources over 8 bits; may be read-only.
        pts: presentation time on the source's own clock, in units of the reader's `time_base`.
        alpha: (H, W), same type as `pixels`, opaque at its maximum; None where there is none.
    """

    pixels: np.ndarray
    pts: int
    alpha: np.ndarray | None = None
