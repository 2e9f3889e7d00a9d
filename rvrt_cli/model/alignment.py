"""Clip-to-clip alignment: guided deformable attention, and the plain neighborhood attention of RVRT Light.

N batch, T frames of a clip, H×W frame size [px], C channels, G offset groups, K kernel points.
"""

from __future__ import annotations

from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Shapes, Weights, conv_shapes, linear_shapes, mlp_shapes
from rvrt_cli.model.config import RVRTConfig

CONVS = 6  # that make the offsets


@ops.compiled
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
            fields.append(ops.stack([reach[(n + j - clip) % clip] for n in range(clip)], 1))
    return ops.stack(fields, 1)


def attend_shapes(name: str, config: RVRTConfig) -> Shapes:
    """What both alignments share: projections to query, key and value; projection and MLP after the attention."""
    width, wide = config.width, config.align_width
    return [
        *linear_shapes(f"{name}.proj_q.1", width, wide),
        *linear_shapes(f"{name}.proj_k.1", width, wide),
        *linear_shapes(f"{name}.proj_v.1", width, wide),
        *linear_shapes(f"{name}.proj.1", wide, width),
        *mlp_shapes(f"{name}.mlp.1", width, config.mlp_ratio),
    ]


def _project(query: Tensor, key: Tensor, value: Tensor, heads: int, weights: Weights) -> tuple[Tensor, Tensor]:
    """Scaled query (..., A) and key | value (..., 2A)."""
    scale = (weights[0].shape[0] // heads) ** -0.5
    query = ops.linear(query, scale * weights[0], scale * weights[1])
    key = ops.linear(key, weights[2], weights[3])
    return query, msops.concat((key, ops.linear(value, weights[4], weights[5])), -1)


def _finish(attended: Tensor, weights: Weights) -> Tensor:
    """(..., A) → (..., C)."""
    x = ops.linear(attended, weights[6], weights[7])
    return ops.mlp(x, None, None, weights[8], weights[9], weights[10], weights[11])


@ops.compiled
def align_neighborhood(query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int], *weights: Tensor) -> Tensor:
    """Align by attention to the neighborhood in every frame of the clip before: RVRT Light, no flow, no offsets.

    Args:
        query: (N, T, H, W, C), the current clip; key: the clip before, from the same branch's input.
        value: (N, T, H, W, C), the propagated features at the clip before.
        sizes: heads, edge of the neighborhood [px].
        weights: `attend_shapes`.

    Returns:
        aligned features (N, T, H, W, C).
    """
    heads, edge = sizes
    query, key_value = _project(query, key, value, heads, weights)
    return _finish(ops.neighborhood_attention(query, key_value, heads, (edge, edge)), weights)


def deformable_shapes(name: str, config: RVRTConfig) -> Shapes:
    """Six convolutions for the offsets, then `attend_shapes`."""
    points = config.clip_size * config.deformable_groups * config.align_kernel**2
    inputs, hidden = config.width * (1 + config.clip_size), config.offset_width
    if config.flow:
        inputs += 2 * config.clip_size
    sizes = [(inputs, hidden, 1), *[(hidden, hidden, 3)] * 4, (hidden, 2 * points, 1)]
    convs = [conv_shapes(f"{name}.conv_offset.{2 * i}", *size) for i, size in enumerate(sizes)]
    return [*[shape for conv in convs for shape in conv], *attend_shapes(name, config)]


@ops.compiled
def align_deformable(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    flows: Tensor,
    sizes: tuple[int, int, int],
    max_offset: float,
    *weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Align by guided deformable attention (RVRT, equations 6 to 10).

    Args:
        query, key, value: as in `align_neighborhood`.
        flows: (N, T, T, H, W, 2) px as `compose_flows` makes them.
        sizes: heads, edge of the sampling kernel [px], offset groups.
        max_offset: px that an offset may add to the flow.
        weights: `deformable_shapes`.

    Returns:
        aligned features (N, T, H, W, C); `flows` corrected by the mean offset.
    """
    batch, time, height, width, _ = query.shape
    fields = [flows[:, :, n].reshape(batch * time, height, width, 2) for n in range(time)]
    sources = _sources(value)
    warped = [ops.warp(sources[n], fields[n]) for n in range(time)]
    residue = _residue(query, [*warped, *fields], sizes, max_offset, weights)
    field = flows.transpose(0, 1, 3, 4, 2, 5)  # (N, T, H, W, T, 2)
    field = ops.stack([field[..., 1], field[..., 0]], -1).expand_dims(5).expand_dims(5)
    offset = residue + field
    mean = offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5)
    updated = ops.stack([mean[..., 1], mean[..., 0]], -1)
    return _sample(query, key, value, offset, sizes, weights), updated


@ops.compiled
def align_unguided(
    query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int, int], max_offset: float, *weights: Tensor
) -> Tensor:
    """`align_deformable` without optical flow: the offsets start at zero, and nothing is warped to find them."""
    return _sample(query, key, value, _residue(query, _sources(value), sizes, max_offset, weights), sizes, weights)


def _sources(value: Tensor) -> list[Tensor]:
    """For n = 0 … T-1: frame (n + b) % T of the clip before, for every frame b of this one; (N·T, H, W, C)."""
    batch, time, height, width, channels = value.shape
    rolled = [ops.stack([value[:, (n + b) % time] for b in range(time)], 1) for n in range(time)]
    return [frames.reshape(batch * time, height, width, channels) for frames in rolled]


def _residue(
    query: Tensor, guides: list[Tensor], sizes: tuple[int, int, int], max_offset: float, weights: Weights
) -> Tensor:
    """What six convolutions add to the flow (equation 7): (N, T, H, W, T, G, K, 2) px, as (y, x)."""
    _, edge, groups = sizes
    batch, time, height, width, channels = query.shape
    guide = msops.concat([query.reshape(batch * time, height, width, channels), *guides], -1)
    for i in range(CONVS):
        activation = "leaky_relu" if i < CONVS - 1 else "none"
        guide = ops.conv2d(guide, weights[2 * i], weights[2 * i + 1], activation)
    return (max_offset * msops.tanh(guide)).reshape(batch, time, height, width, time, groups, edge * edge, 2)


def _sample(
    query: Tensor, key: Tensor, value: Tensor, offset: Tensor, sizes: tuple[int, int, int], weights: Weights
) -> Tensor:
    """Attention at the offsets, projection and MLP (equations 8 to 10): (N, T, H, W, C)."""
    heads, edge, _ = sizes
    query, key_value = _project(query, key, value, heads, weights[2 * CONVS :])
    attended = ops.deformable_attention(query, key_value, offset, heads, (edge, edge))
    return _finish(attended, weights[2 * CONVS :])
