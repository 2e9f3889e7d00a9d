"""Clip-to-clip alignment: guided deformable attention, and the plain neighbourhood attention of RVRT Light.

N batch, T frames of a clip, H×W frame size [px], C channels, G offset groups, K kernel points.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.layers import MLP, Conv, Linear


def compose_flows(adjacent: Tensor, clip: int) -> Tensor:
    """Flows from every frame of a clip to every frame of the clip before it (RVRT, section 4.3).

    Args:
        adjacent: (N, 2T-1, H, W, 2) px, the flow from each frame of the two clips to the frame before it.
        clip: T.

    Returns:
        (N, T, T, H, W, 2) px: field n of frame b leads to frame (n + b) % T of the clip before.
    """
    # reach[i]: the flow to frame i of the first clip, from the frame that the loop has come to
    reach: list = []
    fields = []
    for j in range(1, 2 * clip):
        step = adjacent[:, j - 1]
        reach = [step + ops.warp(flow, step) for flow in reach]
        if j <= clip:
            reach = [*reach, step]
        if j >= clip:
            fields.append(msops.stack([reach[(n + j - clip) % clip] for n in range(clip)], 1))
    return msops.stack(fields, 1)


class DeformableAlignment(nn.Cell):
    """Aligns the propagated features with the current clip by guided deformable attention (RVRT, equations 6 to 10)."""

    def __init__(self, name: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        width, self.clip = config.width, config.clip_size
        self.kernel = (config.align_kernel, config.align_kernel)
        self.groups, self.heads, self.max_offset = config.deformable_groups, config.align_heads, config.max_offset
        points = self.clip * self.groups * self.kernel[0] * self.kernel[1]
        hidden = 64  # published, whatever the network's width
        sizes = [(width * (1 + self.clip) + 2 * self.clip, hidden, 1), *[(hidden, hidden, 3)] * 4, (hidden, 2 * points, 1)]
        self.conv_offset = nn.CellList(
            [
                Conv(f"{name}.conv_offset.{2 * i}", *size, "leaky_relu" if i < len(sizes) - 1 else "none")
                for i, size in enumerate(sizes)
            ],
            auto_prefix=False,
        )
        self.attend = Attend(name, config)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, flows: Tensor) -> tuple[Tensor, Tensor]:
        """Align `value`, the features propagated so far, with the current clip.

        Args:
            query: (N, T, H, W, C), the current clip; key: the clip before, from the same branch's input.
            value: (N, T, H, W, C), the propagated features at the clip before.
            flows: (N, T, T, H, W, 2) px as `compose_flows` makes them.

        Returns:
            aligned features (N, T, H, W, C); `flows` corrected by the mean offset.
        """
        batch, time, height, width, channels = query.shape
        warped = []
        for n in range(time):
            source = msops.stack([value[:, (n + b) % time] for b in range(time)], 1)
            frames = source.reshape(batch * time, height, width, channels)
            field = flows[:, :, n].reshape(batch * time, height, width, 2)
            warped.append(ops.warp(frames, field).reshape(query.shape))
        guide = msops.concat([query, *warped, *[flows[:, :, n] for n in range(time)]], -1)
        for conv in self.conv_offset:
            guide = conv(guide)
        residue = self.max_offset * msops.tanh(guide)
        residue = residue.reshape(batch, time, height, width, time, self.groups, -1, 2)  # (y, x)
        field = flows.transpose(0, 1, 3, 4, 2, 5)  # (N, T, H, W, T, 2)
        field = msops.stack((field[..., 1], field[..., 0]), -1).expand_dims(5).expand_dims(5)
        offset = residue + field
        mean = offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5)
        updated = msops.stack((mean[..., 1], mean[..., 0]), -1)

        query, key_value = self.attend.project(query, key, value)
        attended = ops.deformable_attention(query, key_value, offset, self.heads, self.kernel)
        return self.attend.finish(attended), updated


class NeighbourhoodAlignment(nn.Cell):
    """Aligns by attention to the 3x3 neighbourhood in every frame of the clip before: RVRT Light, no flow, no offsets."""

    def __init__(self, name: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.kernel, self.heads = (config.align_kernel, config.align_kernel), config.align_heads
        self.attend = Attend(name, config)

    def construct(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `DeformableAlignment`, without flows: four (N, T, H, W, C)."""
        query, key_value = self.attend.project(query, key, value)
        return self.attend.finish(ops.neighbourhood_attention(query, key_value, self.heads, self.kernel))


class Attend(nn.Cell):
    """What both alignments share: projections before the attention, projection and MLP after it."""

    def __init__(self, name: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        width, wide = config.width, config.align_width
        self.scale = (wide // config.align_heads) ** -0.5
        self.proj_q = Linear(f"{name}.proj_q.1", width, wide)
        self.proj_k = Linear(f"{name}.proj_k.1", width, wide)
        self.proj_v = Linear(f"{name}.proj_v.1", width, wide)
        self.proj = Linear(f"{name}.proj.1", wide, width)
        self.mlp = MLP(f"{name}.mlp.1", width, config.mlp_ratio)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled query (..., A) and key | value (..., 2A)."""
        return self.scale * self.proj_q(query), msops.concat((self.proj_k(key), self.proj_v(value)), -1)

    def finish(self, attended: Tensor) -> Tensor:
        """(..., A) → (..., C)."""
        return self.mlp(self.proj(attended))
