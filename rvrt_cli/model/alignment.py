# SPDX-License-Identifier: Apache-2.0
"""Clip-to-clip alignment (section 4.3): guided deformable attention, and the plain neighborhood attention of RVRT Light.

N batch, T frames of a clip, H×W frame size [px], C channels, A channels of query, key and value, G offset groups,
K sampling points per frame.
"""

from __future__ import annotations

from mindspore import Tensor, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.blocks import Weights

_OFFSET_WEIGHTS = 12  # of the six convolutions that predict the offsets


@ops.compiled
def compose_flows(adjacent: Tensor, clip: int) -> Tensor:
    """Flows from every frame of a clip to every frame of the previous clip, composed of those between adjacent frames.

    Args:
        adjacent: (N, 2T-1, H, W, 2) px, the flow from each frame of the two clips to the frame before it.
        clip: T.

    Returns:
        (N, T, T, H, W, 2) px: field n of frame b leads to frame (n + b) % T of the previous clip.
    """
    to_frames: list = []  # to_frames[i]: the flow from frame j to frame i of the previous clip
    fields = []
    for j in range(1, 2 * clip):
        step = adjacent[:, j - 1]
        to_frames = [step + ops.warp(flow, step) for flow in to_frames]
        if j <= clip:
            to_frames = [*to_frames, step]
        if j >= clip:
            fields.append(ops.stack([to_frames[(n + j - clip) % clip] for n in range(clip)], 1))
    return ops.stack(fields, 1)


# --- attention


def _project_inputs(query: Tensor, key: Tensor, value: Tensor, heads: int, weights: Weights) -> tuple[Tensor, Tensor]:
    """Projected query (N, T, H, W, A), scaled for attention, and key | value (N, T, H, W, 2A)."""
    q_w, q_b, k_w, k_b, v_w, v_b, _, _, _, _, _, _ = weights
    scale = (q_w.shape[0] // heads) ** -0.5
    query = ops.linear(query, scale * q_w, scale * q_b)
    key = ops.linear(key, k_w, k_b)
    return query, msops.concat((key, ops.linear(value, v_w, v_b)), -1)


def _project_output(attended: Tensor, weights: Weights) -> Tensor:
    """Projection and MLP: (N, T, H, W, A) → (N, T, H, W, C)."""
    _, _, _, _, _, _, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b = weights
    x = ops.linear(attended, proj_w, proj_b)
    return ops.mlp(x, None, None, fc1_w, fc1_b, fc2_w, fc2_b)


@ops.compiled
def align_neighborhood(query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int], *weights: Tensor) -> Tensor:
    """Align by attention to the neighborhood in every frame of the previous clip: RVRT Light, without flow and offsets.

    Args:
        query: (N, T, H, W, C), features of the current clip.
        key: (N, T, H, W, C), features of the previous clip, from the same source as `query`.
        value: (N, T, H, W, C), propagated features of the previous clip.
        sizes: heads, edge of the neighborhood [px].
        weights: see `attend_shapes`.

    Returns:
        aligned features (N, T, H, W, C).
    """
    heads, edge = sizes
    query, key_value = _project_inputs(query, key, value, heads, weights)
    return _project_output(ops.neighborhood_attention(query, key_value, heads, (edge, edge)), weights)


# --- guided deformable attention


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
    """Align by guided deformable attention (equations 6 to 10).

    Args:
        query, key, value: as in `align_neighborhood`.
        flows: (N, T, T, H, W, 2) px, see `compose_flows`.
        sizes: heads, edge of the sampling kernel [px], offset groups.
        max_offset: largest residue of the flow [px].
        weights: see `deformable_shapes`.

    Returns:
        aligned features (N, T, H, W, C); `flows` corrected by the mean offset.
    """
    batch, time, height, width, _ = query.shape
    fields = [flows[:, :, n].reshape(batch * time, height, width, 2) for n in range(time)]
    frames = _rolled_frames(value)
    warped = [ops.warp(frames[n], fields[n]) for n in range(time)]
    residue = _offset_residue(query, [*warped, *fields], sizes, max_offset, weights[:_OFFSET_WEIGHTS])
    guide = _swap_xy(flows.transpose(0, 1, 3, 4, 2, 5))  # (N, T, H, W, T, 2) as (y, x)
    offset = residue + guide.expand_dims(5).expand_dims(5)  # (N, T, H, W, T, G, K, 2)
    corrected = _swap_xy(offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5))
    return _attend_at_offsets(query, key, value, offset, sizes, weights[_OFFSET_WEIGHTS:]), corrected


@ops.compiled
def align_unguided(
    query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int, int], max_offset: float, *weights: Tensor
) -> Tensor:
    """`align_deformable` without optical flow: the residue is the offset, and nothing is warped to predict it."""
    offset = _offset_residue(query, _rolled_frames(value), sizes, max_offset, weights[:_OFFSET_WEIGHTS])
    return _attend_at_offsets(query, key, value, offset, sizes, weights[_OFFSET_WEIGHTS:])


def _swap_xy(field: Tensor) -> Tensor:
    """(..., 2) from (x, y) to (y, x), or back."""
    return ops.stack([field[..., 1], field[..., 0]], -1)


def _rolled_frames(value: Tensor) -> list[Tensor]:
    """For n = 0 … T-1: frame (n + b) % T of the previous clip, for every frame b of the current clip; (N·T, H, W, C)."""
    batch, time, height, width, channels = value.shape
    rolled = [ops.stack([value[:, (n + b) % time] for b in range(time)], 1) for n in range(time)]
    return [frames.reshape(batch * time, height, width, channels) for frames in rolled]


def _offset_residue(
    query: Tensor, guides: list[Tensor], sizes: tuple[int, int, int], max_offset: float, weights: Weights
) -> Tensor:
    """Residue of the flow, by six convolutions (equation 7): (N, T, H, W, T, G, K, 2) px, as (y, x)."""
    conv1_w, conv1_b, conv2_w, conv2_b, conv3_w, conv3_b, conv4_w, conv4_b, conv5_w, conv5_b, conv6_w, conv6_b = weights
    _, edge, groups = sizes
    batch, time, height, width, channels = query.shape
    x = msops.concat([query.reshape(batch * time, height, width, channels), *guides], -1)
    x = ops.conv2d(x, conv1_w, conv1_b, "leaky_relu")
    x = ops.conv2d(x, conv2_w, conv2_b, "leaky_relu")
    x = ops.conv2d(x, conv3_w, conv3_b, "leaky_relu")
    x = ops.conv2d(x, conv4_w, conv4_b, "leaky_relu")
    x = ops.conv2d(x, conv5_w, conv5_b, "leaky_relu")
    x = ops.conv2d(x, conv6_w, conv6_b)
    return (max_offset * msops.tanh(x)).reshape(batch, time, height, width, time, groups, edge * edge, 2)


def _attend_at_offsets(
    query: Tensor, key: Tensor, value: Tensor, offset: Tensor, sizes: tuple[int, int, int], weights: Weights
) -> Tensor:
    """Attention to the sampled keys and values, projection and MLP (equations 8 to 10): (N, T, H, W, C)."""
    heads, edge, _ = sizes
    query, key_value = _project_inputs(query, key, value, heads, weights)
    return _project_output(ops.deformable_attention(query, key_value, offset, heads, (edge, edge)), weights)
