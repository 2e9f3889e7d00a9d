# SPDX-License-Identifier: Apache-2.0
"""Small test sets in the layouts in which people unpack the usual ones, and a network whose scores are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from rvrt_cli.data.resize import imresize
from rvrt_cli.device import Device
from rvrt_cli.model.config import PRESETS

VID4 = ("calendar", "city", "foliage", "walk")


def textured_frame(seed: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth with some texture; no level near black or white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 9) + c) * np.cos(y / rng.uniform(3, 9)) for c in range(3)]
    return np.clip(128 + 50 * np.stack(waves, -1) + rng.normal(0, 5, (height, width, 3)), 20, 235).astype(np.uint8)


def textured_clip(seed: int, frames: int, height: int, width: int) -> list[np.ndarray]:
    """Frames that have nothing in common."""
    return [textured_frame(100 * seed + number, height, width) for number in range(frames)]


def write_frames(folder: Path, frames: list[np.ndarray], name: str = "{:08d}.png", first: int = 0) -> None:
    """Write frames as images, numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number + first))


def write_vid4(root: Path, frames: int, height: int, width: int) -> Path:
    """A set of Vid4's layout, without low resolution of its own."""
    for index, name in enumerate(VID4):
        write_frames(root / "GT" / name, textured_clip(index, frames, height, width))
    return root


def write_vimeo(
    root: Path, septuplets: tuple[str, ...] = ("00001/0266", "00002/0003"), low_resolution: bool = False
) -> Path:
    """A set of Vimeo-90K's layout: septuplets of 32×48 px and their test list."""
    for index, name in enumerate(septuplets):
        frames = textured_clip(index, 7, 32, 48)
        write_frames(root / "sequences" / name, frames, "im{}.png", first=1)
        if low_resolution:
            write_frames(root / "BIx4" / name, [imresize(frame, 0.25) for frame in frames], "im{}.png", first=1)
    (root / "sep_testlist.txt").write_text("\n".join(septuplets) + "\n\n")
    return root


class RepeatNetwork:
    """A network without MindSpore: every LR pixel becomes 4×4 equal ones, plus `add` (of 1), by frame if it is a list."""

    config = PRESETS["rvrt-tiny"]
    device = Device("cpu")
    notes = ()
    scale, reduction, clip_size = 4, 1, 2
    cell = SimpleNamespace(get_parameters=lambda: iter(()))

    def __init__(self, add: float | list[float] = 0.0, degradation: str = "bi", name: str = "repeat") -> None:
        self.add = add
        self.card: dict[str, Any] = {"name": name, "trained": True, "degradation": degradation}
        self.seen: list[tuple[np.ndarray, int, bool]] = []

    def fusion_lookahead(self, lookahead: int) -> int:
        return 0

    def memory(self, frames: int, height: int, width: int) -> int:
        return 1

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {}

    def __call__(
        self, frames: np.ndarray, state: dict | None, emit: int, mirrored: bool = False, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, dict]:
        """(N, T, H, W, 3) → (N, emit, 4H, 4W, 3)."""
        self.seen.append((frames.copy(), emit, mirrored))
        output = frames[:, :emit].repeat(4, 2).repeat(4, 3)
        add = np.broadcast_to(np.asarray(self.add, np.float32), (emit,))
        return output + add[None, :, None, None, None], {}
