# SPDX-License-Identifier: Apache-2.0
"""Sizes of the network: `RVRTConfig`, stored in every weights file. No MindSpore import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from rvrt_cli.errors import WeightsError

ALIGNMENTS = ("deformable", "neighborhood")
FLOW_ESTIMATORS = ("spynet", "lucas-kanade")
BODIES = ("attention", "convolution")
BRANCHES = ("backward_1", "forward_1", "backward_2", "forward_2")
_OLD_SPELLINGS = {"fused_neighbours": "fused_neighbors", "neighbourhood": "neighborhood"}  # in files of version 0.1

_PER_PART = ("widths", "groups", "depths", "heads", "bodies")
_CONVOLUTIONS = 2 + len(BRANCHES)  # first convolutions: of the extraction, each branch and the reconstruction
UPSAMPLING = 4  # px of the output per px of the features, along each axis
SCALES = (1, UPSAMPLING)
# Bounds of what a file may ask for; well above any network that fits a machine
_LARGEST_SIZES = {
    "clip_size": 8,
    "window": 64,
    "mlp_ratio": 16,
    "align_ratio": 16,
    "align_kernel": 15,
    "align_heads": 256,
    "deformable_groups": 256,
    "offset_width": 4096,
    "passes": len(BRANCHES),
    "widths": 4096,
    "groups": 64,
    "depths": 64,
    "heads": 256,
    "upsampler_width": 4096,
    "fused_neighbors": 16,
    "lead_in": 16,
}
_MAY_BE_ZERO = ("upsampler_width", "fused_neighbors", "lead_in")


@dataclass(frozen=True)
class RVRTConfig:
    """Sizes of RVRT (Liang et al., NeurIPS 2022, section 4); the defaults are the published x4 network.

    Tuples of three hold one value for each part: shallow feature extraction, the recurrent branches, reconstruction.

    Raises:
        WeightsError: invalid sizes, which a damaged or malicious file may hold.
    """

    clip_size: int = 2  # frames that are processed together
    passes: int = 4  # recurrent branches: the first ones of BRANCHES
    # Layers of each part: "attention" are Swin layers; "convolution" (not in the paper) are pairs of 3x3 convolutions
    bodies: tuple[str, str, str] = ("attention", "attention", "attention")
    widths: tuple[int, int, int] = (144, 144, 144)  # channels; all equal, since features of all parts are concatenated
    groups: tuple[int, int, int] = (1, 2, 1)  # groups of layers; groups of Swin layers are residual
    depths: tuple[int, int, int] = (2, 2, 2)  # transformer layers, or pairs of convolutions, per group
    heads: tuple[int, int, int] = (6, 6, 6)
    # Height and width of an attention window [px]; in time it spans a clip in the branches, one frame elsewhere
    window: int = 8
    mlp_ratio: int = 2
    relative_position_bias: bool = True
    alignment: str = "deformable"  # learned offsets; "neighborhood" attends to 3x3 pixels of every frame (RVRT Light)
    flow_guided: bool = True  # whether the offsets of "deformable" are added to optical flow
    flow_estimator: str = "spynet"  # "lucas-kanade" (not in the paper) has no weights and costs almost nothing
    # Frames before and after each frame that are fused onto its upscaled grid, as input of the shallow features and, without
    # an upsampler, of the output by a linear path (not in the paper)
    fused_neighbors: int = 0
    align_ratio: int = 2  # width of query, key and value in the alignment, relative to the width of the branches
    align_heads: int = 12
    align_kernel: int = 3  # edge of the kernel of sampling points in each frame [px]
    deformable_groups: int = 12  # offset groups over the channels of [key, value]
    max_offset: float = 10.0  # largest learned residue of the flow [px]
    offset_width: int = 64  # width of the convolutions that predict the offsets
    # Factor of the propagated features at each clip. Below 1 the past decays: a network without norms that was trained on
    # short sequences may otherwise amplify it without limit in long ones.
    carry: float = 1.0
    # Times that a branch sees its first clip, standing still, before it begins (not in the paper). Propagated features take
    # some clips to settle; with 0 they start from nothing, and the output drifts from clip to clip at both ends of a window.
    lead_in: int = 0
    # Share of the output frame before where the input does not change, so that still footage does not flicker; see
    # `steadying` (not in the paper)
    steadying: float = 0.0
    # Whether what the network adds to bicubic chroma is shrunk where the input gives no reason for it; see
    # `chroma_shrinkage` (not in the paper)
    chroma_shrinkage: bool = False
    upsampler_width: int = 64  # 0: no upsampler, one convolution predicts all 4x4 pixels
    # Output px per input px; 1: restoration, whose features have a quarter of the input's height and width
    scale: int = 4
    # Groups of the convolution that each part begins with: extraction, the branches of BRANCHES, reconstruction
    conv_groups: tuple[int, ...] = (1,) * _CONVOLUTIONS
    noise_input: bool = False  # whether the input has a fourth channel, the standard deviation of its noise [0 to 1]

    def __post_init__(self) -> None:
        for name in _PER_PART:
            value, example = getattr(self, name), json.dumps(getattr(RVRTConfig, name))
            if not isinstance(value, list | tuple) or len(value) != 3:
                raise WeightsError(
                    f"network configuration: {name} {value!r}: give three {'names' if name == 'bodies' else 'numbers'}, for "
                    f"feature extraction, branches and reconstruction, such as {example}"
                )
            object.__setattr__(self, name, tuple(value))
        groups = self.conv_groups
        if not isinstance(groups, list | tuple) or len(groups) != _CONVOLUTIONS:
            raise WeightsError(
                f"network configuration: conv_groups {groups!r}: give six numbers, for feature extraction, the four branches "
                "and reconstruction, such as [1, 1, 1, 1, 1, 1]"
            )
        object.__setattr__(self, "conv_groups", tuple(groups))
        self._check_ranges()
        self._check_choices()
        self._check_divisors()

    def _check_ranges(self) -> None:
        for name, largest in _LARGEST_SIZES.items():
            values = getattr(self, name) if name in _PER_PART else (getattr(self, name),)
            for value in values:
                if not (value == 0 and name in _MAY_BE_ZERO):
                    _check_whole_number(name, value, largest)
        for groups in self.conv_groups:
            _check_whole_number("conv_groups", groups, _LARGEST_SIZES["groups"])
        if not isinstance(self.carry, int | float) or not 0 < self.carry <= 1:
            raise WeightsError(f"network configuration: carry {self.carry!r} is not above 0 and at most 1")
        if not isinstance(self.steadying, int | float) or not 0 <= self.steadying < 1:
            raise WeightsError(f"network configuration: steadying {self.steadying!r} is not from 0 to below 1")

    def _check_choices(self) -> None:
        if any(body not in BODIES for body in self.bodies):
            raise WeightsError(f"network configuration: bodies {self.bodies!r}; known: {', '.join(BODIES)}")
        if self.scale not in SCALES or isinstance(self.scale, bool):
            raise WeightsError(f"network configuration: scale {self.scale!r}; known: 4, and 1 for restoration")
        if not isinstance(self.noise_input, bool) or (self.noise_input and self.scale != 1):
            raise WeightsError("network configuration: noise_input is for networks of scale 1")
        if not isinstance(self.chroma_shrinkage, bool):
            raise WeightsError(
                f"network configuration: chroma_shrinkage {self.chroma_shrinkage!r} is not true or false"
            )
        if (self.fused_neighbors or self.steadying or self.chroma_shrinkage) and self.scale == 1:
            raise WeightsError(
                "network configuration: fused_neighbors, steadying and chroma_shrinkage are for networks of scale 4"
            )
        if self.alignment not in ALIGNMENTS:
            raise WeightsError(f"network configuration: alignment {self.alignment!r}; known: {', '.join(ALIGNMENTS)}")
        if self.flow_estimator not in FLOW_ESTIMATORS:
            known = ", ".join(FLOW_ESTIMATORS)
            raise WeightsError(f"network configuration: flow_estimator {self.flow_estimator!r}; known: {known}")

    def _check_divisors(self) -> None:
        if len(set(self.widths)) != 1:
            raise WeightsError(f"network configuration: widths {self.widths} must be equal")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise WeightsError(f"network configuration: widths {self.widths} are not divisible by heads {self.heads}")
        channels = (self.width if self.scale == 1 else 3, *(self.width * (2 + k) for k in range(len(BRANCHES))))
        for groups, inputs in zip(self.conv_groups, (*channels, self.width * (1 + self.passes)), strict=True):
            if inputs % groups or self.width % groups:
                raise WeightsError(f"network configuration: conv_groups {self.conv_groups} do not divide the channels")
        if self.align_width % self.align_heads or self.align_kernel % 2 == 0:
            raise WeightsError("network configuration: the heads or kernel of the alignment do not fit its width")
        if self.alignment != "deformable":
            return
        key_groups = self.deformable_groups // 2  # the other half of the groups belongs to the values
        if (
            self.deformable_groups % 2
            or 2 * self.align_width % self.deformable_groups
            or max(self.align_heads, key_groups) % min(self.align_heads, key_groups)
        ):
            raise WeightsError("network configuration: the deformable groups do not fit the width and heads")

    @property
    def width(self) -> int:
        """Channels of a branch's features."""
        return self.widths[1]

    @property
    def reduction(self) -> int:
        """Input px per px of the features, along each axis."""
        return UPSAMPLING // self.scale

    @property
    def input_channels(self) -> int:
        """Channels of the input: RGB, and the noise level if there is one."""
        return 4 if self.noise_input else 3

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the recurrent branches."""
        return BRANCHES[: self.passes]

    @property
    def history(self) -> int:
        """Frames of the past that a window needs: whole clips."""
        return self.clip_size * max(1, -(-self.fused_neighbors // self.clip_size))

    def fusion_lookahead(self, lookahead: int) -> int:
        """Frames past a lookahead of whole clips that frame fusion alone still sees: whole clips."""
        return max(0, self.history - lookahead) if self.fused_neighbors else 0

    @property
    def fused_channels(self) -> int:
        """Channels of the fused neighbors: RGB and the share of the neighbors at each output pixel of an LR pixel."""
        return 4 * self.scale**2

    @property
    def align_width(self) -> int:
        """Channels of query, key and value in the alignment."""
        return self.width * self.align_ratio

    @property
    def flow(self) -> bool:
        """Whether optical flow guides the alignment."""
        return self.alignment == "deformable" and self.flow_guided

    @property
    def spynet(self) -> bool:
        """Whether SpyNet estimates that flow, with weights of its own."""
        return self.flow and self.flow_estimator == "spynet"

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> RVRTConfig:
        """The configuration that `to_dict` wrote.

        Raises:
            WeightsError: unknown or invalid entries.
        """
        if not isinstance(values, dict):
            raise WeightsError("network configuration: not a table of values")
        values = {_OLD_SPELLINGS.get(name, name): value for name, value in values.items()}
        if values.get("alignment") == "neighbourhood":
            values["alignment"] = _OLD_SPELLINGS["neighbourhood"]
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            names = ", ".join(unknown)
            raise WeightsError(f"network configuration: unknown entries {names}; a newer rvrt may know them")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"network configuration: {error}") from None


def _check_whole_number(name: str, value: object, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise WeightsError(f"network configuration: {name} {value!r} is not a whole number from 1 to {largest}")


PRESETS = {
    "rvrt": RVRTConfig(),
    "rvrt-light": RVRTConfig(alignment="neighborhood", relative_position_bias=False),
    "rvrt-deblur": RVRTConfig(widths=(192, 192, 192), scale=1, conv_groups=(1, 3, 3, 3, 3, 3)),
    "rvrt-denoise": RVRTConfig(widths=(192, 192, 192), scale=1, conv_groups=(1, 3, 4, 6, 8, 4), noise_input=True),
    "rvrt-tiny": RVRTConfig(
        passes=2,
        bodies=("convolution", "convolution", "convolution"),
        widths=(32, 32, 32),
        groups=(1, 1, 1),
        depths=(4, 4, 4),
        heads=(2, 2, 2),
        flow_estimator="lucas-kanade",
        fused_neighbors=8,
        align_ratio=1,
        align_heads=2,
        deformable_groups=4,
        offset_width=16,
        carry=0.8,
        lead_in=2,
        steadying=0.9,
        chroma_shrinkage=True,
        relative_position_bias=False,
        upsampler_width=0,
    ),
}
