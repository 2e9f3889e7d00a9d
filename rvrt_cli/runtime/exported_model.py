# SPDX-License-Identifier: Apache-2.0
"""What an exported model says about itself, and the names of its inputs and outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.outline import FRAMES_STATE
from rvrt_cli.options import PRECISIONS, SMALLEST_FRAME

WINDOW_INPUT, OUTPUT = "window", "output"  # the frames of a window; the upscaled ones
NEXT_PREFIX = "next_"  # of the outputs that are the next window's state: next_frames goes to frames, and so on
_MODEL_KEY = "rvrt"
_FORMAT = 2  # raised when inputs, outputs or their meaning change
_FORMAT_WITHOUT_FUSION_LOOKAHEAD = 1  # which is read as well
_LARGEST_WINDOW = 4096  # frames, and px of a side: bounds of what a file may ask for
_LARGEST_SIDE = 1 << 16


@dataclass(frozen=True)
class ExportedModel:
    """A window of the streaming network as a model of its own.

    Attributes:
        config: sizes of the network.
        card: model card of its weights.
        frames: that a window emits; whole clips.
        lookahead: frames that a window sees after them; whole clips.
        size: (height, width) of its frames [px]; None: any, from 8x8 px on.
        precision: in which it computes, "float32" or "float16"; inputs and outputs are float32.
        fusion_lookahead: frames after the lookahead that frame fusion alone sees; whole clips.

    Raises:
        WeightsError: windows that are not made of whole clips.
    """

    config: RVRTConfig
    card: dict[str, Any]
    frames: int
    lookahead: int
    size: tuple[int, int] | None
    precision: str = "float32"
    fusion_lookahead: int = 0

    def __post_init__(self) -> None:
        clip = self.config.clip_size
        for value, least in ((self.frames, clip), (self.lookahead, 0), (self.fusion_lookahead, 0)):
            if not isinstance(value, int) or not least <= value <= _LARGEST_WINDOW or value % clip:
                lookahead = f"{self.lookahead} + {self.fusion_lookahead}"
                raise WeightsError(f"a window of {self.frames} + {lookahead} frames: give multiples of {clip}")
        if self.size is not None and not all(
            isinstance(n, int) and SMALLEST_FRAME <= n <= _LARGEST_SIDE for n in self.size
        ):
            raise WeightsError(f"frames of {self.size} px: give at least 8x8")
        if self.precision not in PRECISIONS:
            raise WeightsError(f"precision {self.precision!r}: known are {', '.join(PRECISIONS)}")

    @property
    def length(self) -> int:
        """Frames of a window, lookahead included; without those that frame fusion alone sees."""
        return self.frames + self.lookahead

    @property
    def input_length(self) -> int:
        """Frames of the input."""
        return self.length + self.fusion_lookahead

    def input_shapes(self, height: Any, width: Any) -> dict[str, tuple[Any, ...]]:
        """Shapes of the inputs by name; those of the state are the shapes of its outputs too."""
        features = (1, self.config.clip_size, height, width, self.config.width)
        return {
            WINDOW_INPUT: (1, self.input_length, height, width, 3),
            FRAMES_STATE: (1, self.config.history, height, width, 3),
            **dict.fromkeys(self.config.branches, features),
        }

    @property
    def structure(self) -> dict[str, Any]:
        """Everything but the weights and what is said of them, for JSON."""
        return {
            "format": _FORMAT,
            "config": self.config.to_dict(),
            "frames": self.frames,
            "lookahead": self.lookahead,
            "fusion_lookahead": self.fusion_lookahead,
            "size": self.size,
            "precision": self.precision,
        }

    def to_metadata(self) -> dict[str, str]:
        """The entries for the file's metadata: one that `from_metadata` reads, the others for people."""
        return {
            _MODEL_KEY: json.dumps({**self.structure, "card": self.card}, sort_keys=True),
            "name": str(self.card["name"]),
            "license": str(self.card.get("license", "unknown")),
            "scores": json.dumps(self.card.get("scores", {}), sort_keys=True),
            "usage": "docs/export.md of rvrt",
        }

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], path: Path) -> ExportedModel:
        """The description that `to_metadata` wrote.

        Raises:
            WeightsError: the file is not an export of this program, or of an incompatible version.
        """
        foreign = f"{path}: not a model of `rvrt export`, or a damaged one; export it again"
        try:
            about = json.loads(metadata[_MODEL_KEY])
            version, card, size = about["format"], about["card"], about["size"]
            name = card["name"]
        except (KeyError, TypeError, ValueError, RecursionError):
            raise WeightsError(foreign) from None
        if version == _FORMAT_WITHOUT_FUSION_LOOKAHEAD:
            about["fusion_lookahead"] = 0
        elif version != _FORMAT:
            raise WeightsError(f"{path}: exported by another version of rvrt (format {version!r}); export it again")
        if not isinstance(name, str):
            raise WeightsError(foreign)
        try:
            config = RVRTConfig.from_dict(about["config"])
            size = None if size is None else (size[0], size[1])
            frames, lookahead, fusion_lookahead = (about[key] for key in ("frames", "lookahead", "fusion_lookahead"))
            return cls(config, card, frames, lookahead, size, about["precision"], fusion_lookahead)
        except (WeightsError, KeyError, TypeError, IndexError) as error:
            raise WeightsError(f"{foreign} ({error})") from None
