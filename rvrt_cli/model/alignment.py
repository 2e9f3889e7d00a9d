# SPDX-License-Identifier: Apache-2.0
"""Clip-to-clip alignment: guided deformable attention, and the plain neighborhood attention of RVRT Light.

N batch, T frames of a clip, H×W frame size [px], C channels of a branch, A channels of query, key and value, G offset groups,
K kernel points. The "previous clip" is the one that a branch has just come from: the next one in time in a backward branch.
"""

from __future__ import annotations

from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Shapes, Weights, conv_shapes, linear_shapes, mlp_shapes
from rvrt_cli.model.config import RVRTConfig

OFFSET_CONVS = 6  # conv_offset.0, .2, .4, .6, .8 and .10
_OFFSET_WEIGHTS = 2 * OFFSET_CONVS


@ops.compiled
def compose_flows(adjacent: Tensor, clip: int) -> Tensor:
    """Flows from every frame of a clip to every frame of the previous clip (RVRT, section 4.3).

    Args:
        adjacent: (N, 2T-1, H, W, 2) px, the flow from each frame of the two clips to the frame before it.
        clip: T.

    Returns:
        (N, T, T, H, W, 2) px: field n of frame b points to frame (n + b) % T of the previous clip.
    """
    # reach[i]: the flow to frame i of the previous clip, from the frame that the loop has come to
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


def attention_shapes(name: str, config: RVRTConfig) -> Shapes:
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
    """Query (..., A), scaled for attention, and key | value (..., 2A); weights of `attention_shapes`."""
    q_w, q_b, k_w, k_b, v_w, v_b, _, _, _, _, _, _ = weights
    scale = (q_w.shape[0] // heads) ** -0.5
    query = ops.linear(query, scale * q_w, scale * q_b)
    return query, msops.concat((ops.linear(key, k_w, k_b), ops.linear(value, v_w, v_b)), -1)


def _project_back(attended: Tensor, weights: Weights) -> Tensor:
    """Projection and MLP, (..., A) → (..., C); weights of `attention_shapes`."""
    _, _, _, _, _, _, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b = weights
    return ops.mlp(ops.linear(attended, proj_w, proj_b), None, None, fc1_w, fc1_b, fc2_w, fc2_b)


@ops.compiled
def align_neighborhood(query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int], *weights: Tensor) -> Tensor:
    """Align by attention to the neighborhood in every frame of the previous clip: RVRT Light, no flow, no offsets.

    Args:
        query: (N, T, H, W, C), the current clip; key: the previous clip, from the same branch's input.
        value: (N, T, H, W, C), the propagated features at the previous clip.
        sizes: heads, edge of the neighborhood [px].
        weights: `attention_shapes`.

    Returns:
        aligned features (N, T, H, W, C).
    """
    heads, edge = sizes
    query, key_value = _project(query, key, value, heads, weights)
    return _project_back(ops.neighborhood_attention(query, key_value, heads, (edge, edge)), weights)


def deformable_shapes(name: str, config: RVRTConfig) -> Shapes:
    """Six convolutions for the offsets, then `attention_shapes`."""
    points = config.clip_size * config.deformable_groups * config.align_kernel**2
    inputs, hidden = config.width * (1 + config.clip_size), config.offset_width
    if config.flow:
        inputs += 2 * config.clip_size
    sizes = [(inputs, hidden, 1), *[(hidden, hidden, 3)] * (OFFSET_CONVS - 2), (hidden, 2 * points, 1)]
    convs = [conv_shapes(f"{name}.conv_offset.{2 * i}", *size) for i, size in enumerate(sizes)]
    return [*[shape for conv in convs for shape in conv], *attention_shapes(name, config)]


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
    offset_weights, attention_weights = weights[:_OFFSET_WEIGHTS], weights[_OFFSET_WEIGHTS:]
    batch, time, height, width, _ = query.shape
    fields = [flows[:, :, n].reshape(batch * time, height, width, 2) for n in range(time)]
    frames = _previous_frames(value)
    warped = [ops.warp(frames[n], fields[n]) for n in range(time)]
    residue = _offset_residue(query, [*warped, *fields], sizes, max_offset, offset_weights)
    field = flows.transpose(0, 1, 3, 4, 2, 5)  # (N, T, H, W, T, 2)
    field = ops.stack([field[..., 1], field[..., 0]], -1).expand_dims(5).expand_dims(5)  # (y, x), for all G and K
    offset = residue + field  # (N, T, H, W, T, G, K, 2)
    mean = offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5)
    updated = ops.stack([mean[..., 1], mean[..., 0]], -1)
    return _attend(query, key, value, offset, sizes, attention_weights), updated


@ops.compiled
def align_unguided(
    query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int, int], max_offset: float, *weights: Tensor
) -> Tensor:
    """`align_deformable` without optical flow: offsets start at zero, and nothing is warped to find them."""
    offset_weights, attention_weights = weights[:_OFFSET_WEIGHTS], weights[_OFFSET_WEIGHTS:]
    offset = _offset_residue(query, _previous_frames(value), sizes, max_offset, offset_weights)
    return _attend(query, key, value, offset, sizes, attention_weights)


def _previous_frames(value: Tensor) -> list[Tensor]:
    """For n = 0 … T-1: frame (n + b) % T of the previous clip, for every frame b of this one; (N·T, H, W, C)."""
    batch, time, height, width, channels = value.shape
    rolled = [ops.stack([value[:, (n + b) % time] for b in range(time)], 1) for n in range(time)]
    return [frames.reshape(batch * time, height, width, channels) for frames in rolled]


def _offset_residue(
    query: Tensor, guides: list[Tensor], sizes: tuple[int, int, int], max_offset: float, weights: Weights
) -> Tensor:
    """What the convolutions add to the flow (equation 7): (N, T, H, W, T, G, K, 2) px, as (y, x)."""
    in_w, in_b, conv1_w, conv1_b, conv2_w, conv2_b, conv3_w, conv3_b, conv4_w, conv4_b, out_w, out_b = weights
    _, edge, groups = sizes
    batch, time, height, width, channels = query.shape
    x = msops.concat([query.reshape(batch * time, height, width, channels), *guides], -1)  # (N·T, H, W, (1+T)·C [+ 2T])
    x = ops.conv2d(x, in_w, in_b, "leaky_relu")
    x = ops.conv2d(x, conv1_w, conv1_b, "leaky_relu")
    x = ops.conv2d(x, conv2_w, conv2_b, "leaky_relu")
    x = ops.conv2d(x, conv3_w, conv3_b, "leaky_relu")
    x = ops.conv2d(x, conv4_w, conv4_b, "leaky_relu")
    x = ops.conv2d(x, out_w, out_b)
    return (max_offset * msops.tanh(x)).reshape(batch, time, height, width, time, groups, edge * edge, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, offset: Tensor, sizes: tuple[int, int, int], weights: Weights
) -> Tensor:
    """Attention at the offsets, projection and MLP (equations 8 to 10): (N, T, H, W, C)."""
    heads, edge, _ = sizes
    query, key_value = _project(query, key, value, heads, weights)
    return _project_back(ops.deformable_attention(query, key_value, offset, heads, (edge, edge)), weights)
