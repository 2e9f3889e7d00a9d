# SPDX-License-Identifier: Apache-2.0
"""Small synthetic clips."""

import numpy as np


def moving_scene(frames: int, height: int, width: int) -> np.ndarray:
    """A moving pattern of soft shapes and edges, (T, H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    out = []
    for t in range(frames):
        wave = np.sin((x + 3 * t) / 9) * np.cos((y - t) / 7)
        image = np.stack([wave, wave > 0.2, -wave], -1)
        out.append(np.clip(128 + 70 * image, 0, 255))
    return np.array(out).astype(np.uint8)
