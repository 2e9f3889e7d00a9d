# SPDX-License-Identifier: Apache-2.0
"""Clip-to-clip alignment (section 4.3): guided deformable attention, and the plain neighborhood attention of RVRT Light.

N batch, T frames of a clip, H×W frame size [px], C channels, A channels of query, key and value, G offset groups,
K sampling points per frame.
"""

from __future__ import annotations

from mindspore import Tensor

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
    batch, _, height, width, _ = adjacent.shape
    to_frames: list = []  # to_frames[i]: the flow from frame j to frame i of the previous clip
    fields = []
    steps = ops.split(adjacent, 1, 1)  # much faster than slices: see `estimate_flow`
    for j in range(1, 2 * clip):
        step = steps[j - 1].reshape(batch, height, width, 2)
        to_frames = [step + ops.warp(flow, step) for flow in to_frames]
        if j <= clip:
            to_frames = [*to_frames, step]
        if j >= clip:
            fields.append(ops.stack([to_frames[(n + j - clip) % clip] for n in range(clip)], 1))
    return ops.stack(fields, 1)


@ops.compiled
def still_flows(features: Tensor) -> Tensor:
    """The flows from a clip (N, T, H, W, C) to one that shows the same: zeros (N, T, T, H, W, 2)."""
    return ops.stack([ops.zeros_like(features[..., :2])] * features.shape[1], 2)


# --- attention


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
    q_w, q_b, k_w, k_b, v_w, v_b, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b = weights
    scale = (q_w.shape[0] // heads) ** -0.5
    query, key_value = ops.linear(query, scale * q_w, scale * q_b), ops.linear_pair(key, value, k_w, k_b, v_w, v_b)
    attended = ops.neighborhood_attention(query, key_value, heads, (edge, edge))
    return ops.project_mlp(attended, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b)


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
    hidden = _offset_features((query, ops.warp_clip(value, flows)), weights)
    last_w, last_b = weights[_OFFSET_WEIGHTS - 2 : _OFFSET_WEIGHTS]
    last_w = last_w.reshape(last_w.shape[0], last_w.shape[1])
    layers = (last_w, last_b, *weights[_OFFSET_WEIGHTS:])
    return ops.guided_attention((query, key, value, hidden), flows, layers, sizes, max_offset)


@ops.compiled
def align_unguided(
    query: Tensor, key: Tensor, value: Tensor, sizes: tuple[int, int, int], max_offset: float, *weights: Tensor
) -> Tensor:
    """`align_deformable` without optical flow: the residue is the offset, and nothing is warped to predict it."""
    _, edge, groups = sizes
    batch, time, height, width, _ = query.shape
    x = _offset_features((query, *_rolled_frames(value)), weights)
    last_w, last_b = weights[_OFFSET_WEIGHTS - 2 : _OFFSET_WEIGHTS]
    residue = max_offset * ops.tanh(ops.linear(x, last_w.reshape(last_w.shape[0], last_w.shape[1]), last_b))
    offset = residue.reshape(batch, time, height, width, time, groups, edge * edge, 2)
    return ops.attend_at_offsets(query, key, value, offset, weights[_OFFSET_WEIGHTS:], sizes)


def _rolled_frames(value: Tensor) -> list[Tensor]:
    """For n = 0 … T-1: frame (n + b) % T of the previous clip, for every frame b of the current clip; (N, T, H, W, C)."""
    return [ops.roll(value, n, 1) for n in range(value.shape[1])]


def _offset_features(guides: tuple[Tensor, ...], weights: Weights) -> Tensor:
    """What the offsets are predicted from, by five of the six convolutions: guides (N, T, H, W, …) → (N, T, H, W, I)."""
    conv1_w, conv1_b, *others = weights[: _OFFSET_WEIGHTS - 2]
    x = ops.linear(guides, conv1_w.reshape(conv1_w.shape[0], conv1_w.shape[1]), conv1_b, "leaky_relu")
    batch, time, height, width, hidden = x.shape
    x = ops.conv_chain(x.reshape(batch * time, height, width, hidden), tuple(others), False)
    return x.reshape(batch, time, height, width, hidden)
