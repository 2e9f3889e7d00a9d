# SPDX-License-Identifier: Apache-2.0
"""What sizes the network. Travels inside every weights file; no MindSpore import."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from rvrt_cli.errors import WeightsError

ALIGNMENTS = ("deformable", "neighborhood")
FLOW_ESTIMATORS = ("spynet", "lucas-kanade")
BODIES = ("attention", "convolution")
_RENAMED = {"fused_neighbours": "fused_neighbors"}  # in files of version 0.1
BRANCHES = ("backward_1", "forward_1", "backward_2", "forward_2")


@dataclass(frozen=True)
class RVRTConfig:
    """Sizes of RVRT (Liang et al., NeurIPS 2022, section 4); the defaults are the published x4 network.

    Three parts have a width, a number of residual groups and so on each: shallow feature extraction, the four recurrent
    branches, reconstruction.

    Raises:
        WeightsError: sizes that no network can have, such as a damaged or foreign file may claim.
    """

    clip_size: int = 2  # frames that are refined together
    passes: int = 4  # recurrent branches, the first so many of BRANCHES
    # What refines the features in each part: Swin layers, or (not in the paper) pairs of 3x3 convolutions
    bodies: tuple[str, str, str] = ("attention", "attention", "attention")
    widths: tuple[int, int, int] = (144, 144, 144)  # channels; equal, since the branches are concatenated
    groups: tuple[int, int, int] = (1, 2, 1)  # of layers; with Swin layers each is a residual one
    depths: tuple[int, int, int] = (2, 2, 2)  # transformer layers, or pairs of convolutions, in a group
    heads: tuple[int, int, int] = (6, 6, 6)
    window: int = 8  # px, height and width of an attention window; in time it spans the clip in the branches, else 1
    mlp_ratio: int = 2
    relative_position_bias: bool = True
    alignment: str = "deformable"  # learned offsets; "neighborhood": 3x3 in every frame (RVRT Light)
    flow_guided: bool = True  # whether optical flow is where the offsets of "deformable" start
    flow_estimator: str = "spynet"  # "lucas-kanade" (not in the paper) needs no weights, and costs next to nothing
    # Frames before and after each one whose pixels are fused with it on a finer grid, for the shallow features and, where
    # there is no upsampler, by one linear convolution for the output (not in the paper)
    fused_neighbors: int = 0
    align_ratio: int = 2  # width of query, key and value in the alignment, over the branch width
    align_heads: int = 12
    align_kernel: int = 3  # px; kernel x kernel sampling points per frame
    deformable_groups: int = 12  # offset groups over the channels of [key, value]
    max_offset: float = 10.0  # px that an offset may add to the flow (paper: learned residual)
    offset_width: int = 64  # of the convolutions that make the offsets
    # Factor on the propagated features, per clip. Below 1 the past decays: a network without norms that was trained on short
    # sequences may otherwise amplify it without bound in long ones.
    carry: float = 1.0
    upsampler_width: int = 64  # 0: no upsampler, one convolution to all 4x4 pixels at once
    scale: int = 4

    def __post_init__(self) -> None:
        for name in ("widths", "groups", "depths", "heads", "bodies"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise WeightsError(f"network configuration: {name} needs three entries, got {getattr(self, name)}")
        most_of = {"clip_size": 8, "window": 64, "mlp_ratio": 16, "align_ratio": 16, "align_kernel": 15}
        most_of |= {"align_heads": 256, "deformable_groups": 256, "offset_width": 4096, "passes": len(BRANCHES)}
        for name, most in most_of.items():
            _check_count(name, getattr(self, name), most)
        for name, most in (("widths", 4096), ("groups", 64), ("depths", 64), ("heads", 256)):
            for value in getattr(self, name):
                _check_count(name, value, most)
        if not isinstance(self.carry, int | float) or not 0 < self.carry <= 1:
            raise WeightsError(f"network configuration: carry {self.carry!r} is not above 0 and at most 1")
        if self.upsampler_width != 0:
            _check_count("upsampler_width", self.upsampler_width, 4096)
        if any(body not in BODIES for body in self.bodies):
            raise WeightsError(f"network configuration: bodies {self.bodies!r}; known: {', '.join(BODIES)}")
        if self.scale != 4:
            raise WeightsError(f"network configuration: scale {self.scale}; only x4 networks are supported")
        if self.alignment not in ALIGNMENTS:
            raise WeightsError(f"network configuration: alignment {self.alignment!r}; known: {', '.join(ALIGNMENTS)}")
        if self.flow_estimator not in FLOW_ESTIMATORS:
            known = ", ".join(FLOW_ESTIMATORS)
            raise WeightsError(f"network configuration: flow_estimator {self.flow_estimator!r}; known: {known}")
        if self.fused_neighbors != 0:
            _check_count("fused_neighbors", self.fused_neighbors, 16)
        if len(set(self.widths)) != 1:
            raise WeightsError(f"network configuration: widths {self.widths} must be equal")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise WeightsError(f"network configuration: widths {self.widths} do not divide by heads {self.heads}")
        if self.align_width % self.align_heads or self.align_kernel % 2 == 0:
            raise WeightsError("network configuration: the alignment's heads or kernel do not fit its width")
        if self.alignment == "deformable" and (
            self.deformable_groups % 2
            or 2 * self.align_width % self.deformable_groups
            or max(self.align_heads, self.deformable_groups // 2) % min(self.align_heads, self.deformable_groups // 2)
        ):
            raise WeightsError("network configuration: the deformable groups do not fit the width and heads")

    @property
    def width(self) -> int:
        """Channels of a branch's features."""
        return self.widths[1]

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the recurrent branches."""
        return BRANCHES[: self.passes]

    @property
    def history(self) -> int:
        """Frames before a window that the state keeps: whole clips."""
        return self.clip_size * max(1, -(-self.fused_neighbors // self.clip_size))

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
        """Whether that flow is a network's, with weights of its own."""
        return self.flow and self.flow_estimator == "spynet"

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> RVRTConfig:
        """The configuration that `to_dict` wrote.

        Raises:
            WeightsError: unknown or misshapen entries.
        """
        if not isinstance(values, dict):
            raise WeightsError("network configuration: not a table of values")
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        if values.get("alignment") == "neighbourhood":
            values["alignment"] = "neighborhood"
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            names = ", ".join(unknown)
            raise WeightsError(f"network configuration: unknown entries {names}; a newer rvrt may know them")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"network configuration: {error}") from None


def _check_count(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise WeightsError(f"network configuration: {name} {value!r} is not a whole number from 1 to {most}")


PRESETS = {
    "rvrt": RVRTConfig(),
    "rvrt-light": RVRTConfig(alignment="neighborhood", relative_position_bias=False),
    "rvrt-tiny": RVRTConfig(
        passes=2,
        bodies=("convolution", "convolution", "convolution"),
        widths=(32, 32, 32),
        groups=(1, 1, 1),
        depths=(4, 4, 4),
        heads=(2, 2, 2),
        flow_estimator="lucas-kanade",
        fused_neighbors=4,
        align_ratio=1,
        align_heads=2,
        deformable_groups=4,
        offset_width=16,
        carry=0.8,
        relative_position_bias=False,
        upsampler_width=0,
    ),
}
