"""Test sets made small, in the layouts in which people unpack the field's; and networks whose scores are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from rvrt_cli.device import Device
from rvrt_cli.model.config import PRESETS

STEP = 0.02  # what `Bright` adds, of 1


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth with some texture; no level near black or white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 9) + c) * np.cos(y / rng.uniform(3, 9)) for c in range(3)]
    return np.clip(128 + 50 * np.stack(waves, -1) + rng.normal(0, 5, (height, width, 3)), 20, 235).astype(np.uint8)


def write(folder: Path, frames: list[np.ndarray], name: str = "{:08d}.png", first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number + first))


def clip(seed: int, frames: int, height: int, width: int) -> list[np.ndarray]:
    return [picture(100 * seed + number, height, width) for number in range(frames)]


class Repeat:
    """A network without MindSpore: every LR pixel becomes 4×4 equal ones, plus `add` (of 1), by frame if it is a list."""

    config = PRESETS["rvrt-tiny"]
    device = Device("cpu")
    notes = ()
    scale, clip_size = 4, 2
    cell = SimpleNamespace(get_parameters=lambda: iter(()))

    def __init__(self, add: float | list[float] = 0.0, degradation: str = "bi", name: str = "repeat") -> None:
        self.add = add
        self.card: dict[str, Any] = {"name": name, "trained": True, "degradation": degradation}
        self.seen: list[tuple[np.ndarray, int, bool]] = []

    def memory(self, frames: int, height: int, width: int) -> int:
        return 1

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        return {}

    def __call__(
        self, frames: np.ndarray, state: dict | None, emit: int, mirrored: bool = False
    ) -> tuple[np.ndarray, dict]:
        self.seen.append((frames.copy(), emit, mirrored))
        output = frames[:, :emit].repeat(4, 3).repeat(4, 4)
        add = np.broadcast_to(np.asarray(self.add, np.float32), (emit,))
        return output + add[None, :, None, None, None], {}
