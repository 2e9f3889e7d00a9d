# SPDX-License-Identifier: Apache-2.0
"""What can be said of a network before it is loaded: what it takes and needs. No MindSpore import."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

from rvrt_cli.device import Device
from rvrt_cli.model.config import UPSAMPLING, RVRTConfig
from rvrt_cli.model.weight_shapes import parameter_shapes

FRAMES_STATE = "frames"  # key of the state's input frames, beside the names of the branches
OUTPUT_STATE = "output"  # key of the last output frame, in the state of networks with steadying
MISSING_FRAME = -8.0  # pixel value of a missing frame: so far from any color that `fuse_neighbors` gives it no weight
_BASE_BYTES = 670 << 20  # MindSpore, its compiled stages and thread pools; the same with 16 cores
_CPU_KERNELS = Path(__file__).resolve().parents[1] / "ops" / "kernels" / "librvrt_kernels.so"


class ConfiguredNetwork:
    """What the configuration alone says of a network, whatever runs it."""

    config: RVRTConfig

    @property
    def scale(self) -> int:
        """Output px per LR px along each axis."""
        return self.config.scale

    @property
    def reduction(self) -> int:
        """LR px per px of the state along each axis."""
        return self.config.reduction

    @property
    def clip_size(self) -> int:
        """Frames that the network processes together."""
        return self.config.clip_size

    def fusion_lookahead(self, lookahead: int) -> int:
        """Frames past a lookahead of `lookahead` frames, whole clips, that frame fusion alone still sees: whole clips."""
        return self.config.fusion_lookahead(lookahead)

    def state_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the float32 arrays in the state of a call with N = 1, for sizes as `padded_size` gives them."""
        config = self.config
        height, width = height // config.reduction, width // config.reduction
        features = 1, config.clip_size, height, width, config.width
        shapes: dict[str, tuple[int, ...]] = {FRAMES_STATE: (1, config.history, height, width, 3)}
        shapes |= dict.fromkeys(config.branches, features)
        if config.steadying:
            shapes[OUTPUT_STATE] = 1, 1, height, width, 3 * UPSAMPLING**2
        return shapes


@dataclass(frozen=True)
class NetworkOutline(ConfiguredNetwork):
    """A network without its weights.

    Attributes:
        config: sizes of the network.
        card: model card from the weights file.
        device: where it is to run.
        uses_kernels: whether it runs on the device's kernels, not on the definitions.
    """

    config: RVRTConfig
    card: dict
    device: Device
    uses_kernels: bool

    @property
    def notes(self) -> list[str]:
        """Warnings for the user before work starts, one line each."""
        if self.card.get("trained") is not False:
            return []
        return [f"the network {self.card['name']} is untrained: the result is little better than bilinear upscaling"]

    def memory(self, frames: int, height: int, width: int) -> int:
        """Predicted peak bytes of one call with N = 1, T = `frames`; including input, output and weights.

        Features of all branches are kept for every frame, in both time directions; the largest stage processes one clip. Of
        the frames that frame fusion alone sees there are only pixels.
        """
        config, size = self.config, 2 if self.device.precision == "float16" else 4
        height, width = height // config.reduction, width // config.reduction  # of the features
        clips = -(-frames // config.clip_size)
        kept = 2 * (1 + config.passes) * config.width + 3 + 4 * config.clip_size * config.flow
        kept += (config.fused_channels + 7) * bool(config.fused_neighbors)  # and copies of frames and flows
        kept += (config.input_channels * config.reduction**2) * (config.reduction > 1)
        upsampled = 3 * UPSAMPLING**2
        stage = 10 * 16 * config.upsampler_width  # the upsampler at full size; measured on the CPU
        if config.alignment == "deformable":
            points = config.clip_size * config.align_kernel**2
            # Numbers per offset. Measured with kernels: 5 (rvrt-tiny, 320x180 and 640x360 px, 4 and 16 frames); the
            # definition holds residue, sum and mean at a time.
            copies = 20 if config.flow and not self.uses_kernels else 6
            offsets = copies * points * config.deformable_groups
            samples = (
                0 if self.uses_kernels else 4 * points * 2 * config.align_width
            )  # the definition stores every sample
            stage = max(stage, samples + offsets)
        beyond = 2 * 3 * self.fusion_lookahead(0) // config.clip_size  # given, and as a tensor
        per_clip = config.clip_size * height * width * size
        return int(per_clip * (clips * (kept + 2 * upsampled) + stage + beyond) + 2 * self._weight_bytes) + _BASE_BYTES

    @functools.cached_property
    def _weight_bytes(self) -> int:
        return sum(4 * math.prod(shape) for shape in parameter_shapes(self.config).values())


def has_cpu_kernels() -> bool:
    """Whether a network on the CPU runs on kernels for certain; without them `rvrt_cli.ops.kernels` may compile them."""
    return _CPU_KERNELS.is_file() and ":" not in str(_CPU_KERNELS)
