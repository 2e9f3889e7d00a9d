# SPDX-License-Identifier: Apache-2.0
"""The three attentions of RVRT in plain MindSpore: shifted window and its Swin layer, guided deformable, neighborhood.

N batch, T frames per clip, H×W frame size [px], C channels, G offset groups, K kernel points, L pixels of a window.
Channels come last.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from rvrt_cli.ops.layers import linear, linear_pair, mlp, norm_linear, project_mlp, roll, stack, widen_half
from rvrt_cli.ops.sampling import bilinear_corners, index_range, pixel_grid
from rvrt_cli.position_index import relative_position_index

SHIFT_MASK = -100.0  # added to the score of pixels that only the cyclic shift made neighbors; as published, not -inf


@ops.constexpr
def window_and_shift(size: tuple[int, int, int], window: tuple[int, int, int], shifted: bool) -> tuple:
    """The window and cyclic shift for features of `size` (T, H, W).

    An axis that is not longer than the window is used whole and not shifted; otherwise a shifted layer shifts by half a
    window.
    """
    fitted = tuple(min(length, edge) for length, edge in zip(size, window, strict=True))
    shift = tuple(edge // 2 if shifted and length > edge else 0 for length, edge in zip(size, window, strict=True))
    return fitted, shift


def window_attention(
    qkv: Tensor,
    pad: Tensor,
    bias: Tensor | None,
    heads: int,
    window: tuple[int, int, int],
    shift: tuple[int, int, int],
) -> Tensor:
    """Multi-head self-attention inside (shifted) windows (Swin, equation 4; RVRT section 4.2).

    Args:
        qkv: (N, T, H, W, 3C), query | key | value, head after head; the query is not scaled yet.
        pad: (3C,), value of the pixels that pad the frame to a multiple of the window. The network pads with zeros before
            its qkv layer, so this is that layer's bias.
        bias: (heads, L, L) relative position bias, or None.
        heads: number of attention heads; divides C.
        window: window size (time, height, width) [px]; at most the length of each axis.
        shift: cyclic shift [px] before the partition, undone afterwards.

    Returns:
        (N, T, H, W, C).
    """
    batch, time, height, width, channels = qkv.shape
    channels = channels // 3
    for axis in range(3):
        missing = -qkv.shape[axis + 1] % window[axis]
        if missing:
            shape = qkv.shape[: axis + 1] + (missing,) + qkv.shape[axis + 2 :]  # noqa: RUF005  graph mode cannot unpack
            qkv = ops.concat((qkv, ops.broadcast_to(pad, shape)), axis + 1)
    padded = qkv.shape[1:4]
    for axis in range(3):
        qkv = roll(qkv, shift[axis], axis + 1)

    counts = (padded[0] // window[0], padded[1] // window[1], padded[2] // window[2])
    windows, length = counts[0] * counts[1] * counts[2], window[0] * window[1] * window[2]
    head_width = channels // heads
    x = qkv.reshape(
        batch, counts[0], window[0], counts[1], window[1], counts[2], window[2], 3, heads, head_width
    ).transpose(7, 0, 1, 3, 5, 8, 2, 4, 6, 9)
    x = x.reshape(3, batch, windows, heads, length, head_width)
    query, key, value = x[0] * head_width**-0.5, x[1], x[2]

    scores = ops.matmul(query, key.swapaxes(-1, -2))  # (N, windows, heads, L, L)
    if bias is not None:
        scores = scores + bias
    if shift[0] + shift[1] + shift[2] > 0:
        scores = scores + _shift_mask(padded, window, shift).astype(scores.dtype)
    out = ops.matmul(_softmax(scores, -1), value)

    out = out.reshape(
        batch, counts[0], counts[1], counts[2], heads, window[0], window[1], window[2], head_width
    ).transpose(0, 1, 5, 2, 6, 3, 7, 4, 8)
    out = out.reshape(batch, padded[0], padded[1], padded[2], channels)
    for axis in range(3):
        out = roll(out, padded[axis] - shift[axis] if shift[axis] else 0, axis + 1)
    return out[:, :time, :height, :width]


@ops.constexpr
def _shift_mask(padded: tuple, window: tuple, shift: tuple) -> Tensor:
    """(windows, 1, L, L) float32: SHIFT_MASK where two pixels of a window come from different regions of the frame, else 0.

    A shifted axis has three regions (Swin, figure 4). Built once per shape, while compiling.
    """
    region = np.zeros(padded, np.int32)
    for axis, (length, edge, moved) in enumerate(zip(padded, window, shift, strict=True)):
        place = np.arange(length)
        label = (place >= length - edge).astype(np.int32) + (place >= length - moved) if moved else 0 * place
        region = region * 3 + label.reshape([-1 if i == axis else 1 for i in range(3)])
    counts = [length // edge for length, edge in zip(padded, window, strict=True)]
    region = region.reshape(counts[0], window[0], counts[1], window[1], counts[2], window[2])
    region = region.transpose(0, 2, 4, 1, 3, 5).reshape(int(np.prod(counts)), 1, -1)
    return Tensor((SHIFT_MASK * (region[..., :, None] != region[..., None, :])).astype(np.float32))


def guided_offsets_of(linear: Callable) -> Callable:
    """`guided_offsets` made of this function: the definition of `linear`, or its kernel."""

    def offsets_of_flows(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        flows: Tensor,
        sizes: tuple[int, int],
        max_offset: float,
    ) -> tuple[Tensor, Tensor]:
        """Offsets of the sampling points: a last dense layer predicts their residue of the flow (equation 7).

        Args:
            x: (N, T, H, W, I), features from which the offsets are predicted.
            weight: (T·G·K·2, I).
            bias: (T·G·K·2,).
            flows: (N, T, T, H, W, 2) px, as (x, y).
            sizes: offset groups G, sampling points K.
            max_offset: largest residue [px].

        Returns:
            offsets (N, T, H, W, T, G, K, 2) px, as (y, x), for `deformable_attention`; `flows` corrected by the mean residue.
        """
        batch, time, height, width, _ = x.shape
        residue = max_offset * ops.tanh(linear(x, weight, bias))
        residue = residue.reshape(batch, time, height, width, time, sizes[0], sizes[1], 2)
        guide = swap_xy(flows.transpose(0, 1, 3, 4, 2, 5))  # (N, T, H, W, T, 2) as (y, x)
        offset = residue + guide.expand_dims(5).expand_dims(5)
        return offset, swap_xy(offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5))

    return offsets_of_flows


guided_offsets = guided_offsets_of(linear)


def swap_xy(field: Tensor) -> Tensor:
    """(..., 2) from (x, y) to (y, x), or back."""
    return stack([field[..., 1], field[..., 0]], -1)


SWIN_WEIGHTS = 12  # of a Swin layer, and the table of relative position biases if it has one


def swin_layer_of(norm_linear: Callable, window_attention: Callable, linear: Callable, mlp: Callable) -> Callable:
    """`swin_layer` made of these functions: definitions or kernels."""

    def swin(x: Tensor, weights: tuple[Tensor, ...], heads: int, window: tuple[int, int, int], shifted: bool) -> Tensor:
        """Swin layer over (T, H, W): shifted-window attention and feed-forward part, each with a residual connection.

        Swin, equation 3; RVRT section 4.2.

        Args:
            x: (N, T, H, W, C).
            weights: gamma and beta (C,) of the LayerNorm before attention, weight and bias of query | key | value (3C, C)
                and (3C,), of the projection (C, C) and (C,), gamma and beta (C,) of the LayerNorm before the feed-forward
                part, weights and biases of that, (hidden, C), (hidden,), (C, hidden), (C,). Optionally the table of position
                biases ((2 * time - 1) * (2 * height - 1) * (2 * width - 1), heads): see `relative_position_index`.
            heads: number of attention heads; divides C.
            window: window size (time, height, width) [px], shortened to the frame: see `window_and_shift`.
            shifted: whether windows are shifted by half their size.

        Returns:
            (N, T, H, W, C).
        """
        layer = weights[:SWIN_WEIGHTS]
        norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b = layer
        fitted, shift = window_and_shift(x.shape[1:4], window, shifted)
        bias = None
        if len(weights) > SWIN_WEIGHTS:
            bias = position_bias(weights[SWIN_WEIGHTS], position_index(window, fitted))
        qkv = norm_linear(x, norm1_g, norm1_b, qkv_w, qkv_b)  # (N, T, H, W, 3C)
        attended = window_attention(qkv, qkv_b, bias, heads, fitted, shift)
        x = linear(attended, proj_w, proj_b, "none", x)
        return mlp(x, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b)

    return swin


swin_layer = swin_layer_of(norm_linear, window_attention, linear, mlp)


def swin_layer_onto(
    x: Tensor,
    residual: Tensor,
    weights: tuple[Tensor, ...],
    linear_w: Tensor,
    linear_b: Tensor,
    heads: int,
    window: tuple[int, int, int],
    shifted: bool,
) -> Tensor:
    """`swin_layer` and a dense layer, the end of a residual group: linear_w swin_layer(x) + linear_b + residual.

    Args:
        residual: (N, T, H, W, C).
        linear_w, linear_b: (C, C) and (C,).
    """
    return linear(swin_layer(x, weights, heads, window, shifted), linear_w, linear_b, "none", residual)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Biases (heads, L, L) from the table (rows, heads) and its row for each pair of pixels (L, L)."""
    return ops.gather(table, index, 0).transpose(2, 0, 1)


def position_bias_gradient(gradient: Tensor, index: Tensor, rows: int) -> Tensor:
    """Gradient of the table (rows, heads) from that of the biases (heads, L, L)."""
    heads = gradient.shape[0]
    return ops.unsorted_segment_sum(gradient.transpose(1, 2, 0).reshape(-1, heads), index.reshape(-1), rows)


@ops.constexpr
def position_index(window: tuple[int, int, int], fitted: tuple[int, int, int]) -> Tensor:
    """As published: a window that was shortened to the frame uses the top left part of the index."""
    length = fitted[0] * fitted[1] * fitted[2]
    return Tensor(relative_position_index(window)[:length, :length])


def deformable_attention(
    query: Tensor, key_value: Tensor, offset: Tensor, heads: int, kernel: tuple[int, int]
) -> Tensor:
    """Guided deformable attention (RVRT, equations 8 to 10).

    Every query pixel attends to T * K points: a kernel around its own position in each frame, each point displaced by its
    offset. Outside the frame key and value are zero, and their score of 0 takes part in the softmax.

    Args:
        query: (N, T, H, W, C), scaled by head width ** -0.5.
        key_value: (N, T, H, W, 2C), key | value of the frames attended to.
        offset: (N, T, H, W, T, G, K, 2) px as (y, x), flow included. Field n of frame b reads frame (n + b) % T. The G
            groups divide the 2C channels of key | value, so that keys and values have separate offsets.
        heads: number of attention heads; divides C.
        kernel: (height, width) of the sampling kernel [px], odd.

    Returns:
        (N, T, H, W, C).
    """
    batch, time, height, width, channels = query.shape
    groups, points = offset.shape[5:7]
    group_width = 2 * channels // groups

    rows, columns = pixel_grid(height, width)
    kernel_y, kernel_x = (axis.astype(ms.float32) for axis in _kernel_points(kernel))
    y = rows.reshape(height, 1, 1, 1, 1) + kernel_y + offset[..., 0]  # (N, T, H, W, T, G, K)
    x = columns.reshape(width, 1, 1, 1) + kernel_x + offset[..., 1]

    source = _source_offsets(batch, time, height * width).reshape(batch, time, 1, 1, time, 1, 1)
    group = index_range(groups).reshape(groups, 1)

    table = key_value.reshape(batch * time * height * width * groups, group_width)
    samples: Tensor = None
    for index, weight in bilinear_corners(y, x, height, width):
        sample = ops.gather(table, (source + index) * groups + group, 0) * weight.astype(table.dtype).expand_dims(-1)
        samples = sample if samples is None else samples + sample  # (N, T, H, W, T, G, K, group_width)

    # Channels of [key, value] in order: a point's groups side by side again.
    samples = samples.transpose(0, 1, 2, 3, 4, 6, 5, 7).reshape(batch, time, height, width, time * points, 2, heads, -1)
    return _attend(query, samples, heads)


@ops.constexpr
def _kernel_points(kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the kernel's points relative to its center [px]: (K,) each."""
    rows, columns = np.mgrid[: kernel[0], : kernel[1]].astype(np.int32)
    return Tensor(rows.ravel() - kernel[0] // 2), Tensor(columns.ravel() - kernel[1] // 2)


@ops.constexpr
def _source_offsets(batch: int, time: int, pixels: int) -> Tensor:
    """Index in the batch of the first pixel of the frame that field n of frame b reads: (N, b, n) int32."""
    clip, frame, field = np.ogrid[:batch, :time, :time]
    return Tensor(((clip * time + (frame + field) % time) * pixels).astype(np.int32))


def attend_at_offsets_of(
    linear: Callable, linear_pair: Callable, deformable_attention: Callable, project_mlp: Callable
) -> Callable:
    """`attend_at_offsets` made of these functions: definitions or kernels."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        offset: Tensor,
        weights: tuple[Tensor, ...],
        sizes: tuple[int, int, int],
    ) -> Tensor:
        """Guided deformable attention with its dense layers and feed-forward part (RVRT, equations 8 to 10).

        Args:
            query: (N, T, H, W, C), features of the current clip.
            key, value: (N, T, H, W, C), features of the previous clip.
            offset: as in `deformable_attention`.
            weights: weight and bias of query, key, value, projection and the two layers of the feed-forward part.
            sizes: heads, edge of the sampling kernel [px], offset groups.

        Returns:
            (N, T, H, W, C).
        """
        q_w, q_b, k_w, k_b, v_w, v_b, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b = weights
        heads, edge, _ = sizes
        scale = (q_w.shape[0] // heads) ** -0.5
        projected = linear(query, scale * q_w, scale * q_b)
        key_value = linear_pair(key, value, k_w, k_b, v_w, v_b)
        attended = deformable_attention(projected, key_value, offset, heads, (edge, edge))
        return project_mlp(attended, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b)

    return attend


def guided_attention_of(guided_offsets: Callable, attend_at_offsets: Callable) -> Callable:
    """`guided_attention` made of these functions: definitions or kernels."""

    def guided(
        features: tuple[Tensor, Tensor, Tensor, Tensor],
        flows: Tensor,
        weights: tuple[Tensor, ...],
        sizes: tuple[int, int, int],
        max_offset: float,
    ) -> tuple[Tensor, Tensor]:
        """`guided_offsets`, then `attend_at_offsets`.

        Args:
            features: query, key and value as in `attend_at_offsets`; those from which the offsets are predicted,
                (N, T, H, W, I).
            flows: (N, T, T, H, W, 2) px, as (x, y).
            weights: weight and bias of the layer that predicts the offsets, then those of `attend_at_offsets`.
            sizes: heads, edge of the sampling kernel [px], offset groups.
            max_offset: largest residue of the flow [px].

        Returns:
            aligned features (N, T, H, W, C); `flows` corrected by the mean residue.
        """
        query, key, value, hidden = features
        _, edge, groups = sizes
        offset, corrected = guided_offsets(hidden, weights[0], weights[1], flows, (groups, edge * edge), max_offset)
        return attend_at_offsets(query, key, value, offset, weights[2:], sizes), corrected

    return guided


attend_at_offsets = attend_at_offsets_of(linear, linear_pair, deformable_attention, project_mlp)
guided_attention = guided_attention_of(guided_offsets, attend_at_offsets)


def neighborhood_attention(query: Tensor, key_value: Tensor, heads: int, kernel: tuple[int, int]) -> Tensor:
    """Attention over a kernel at the query's own position in every frame of the clip (RVRT Light).

    Outside the frame key and value are zero, and their score of 0 takes part in the softmax.

    Args:
        query: (N, T, H, W, C), scaled by head width ** -0.5.
        key_value: (N, T, H, W, 2C), key | value.
        heads: number of attention heads; divides C.
        kernel: (height, width) of the neighborhood [px], odd.

    Returns:
        (N, T, H, W, C).
    """
    batch, time, height, width, channels = query.shape
    up, left = kernel[0] // 2, kernel[1] // 2
    column = ops.zeros((batch, time, height, left, 2 * channels), key_value.dtype)
    padded = ops.concat((column, key_value, column), 3) if left else key_value
    row = ops.zeros((batch, time, up, width + 2 * left, 2 * channels), key_value.dtype)
    padded = ops.concat((row, padded, row), 2) if up else padded
    shifted = []
    for point in range(kernel[0] * kernel[1]):
        i, j = point // kernel[1], point % kernel[1]
        shifted.append(padded[:, :, i : i + height, j : j + width])
    samples = stack(shifted, 4)  # (N, T, H, W, K, 2C)
    # every query frame sees all T frames: (N, 1, H, W, T * K, 2, heads, head width)
    samples = samples.transpose(0, 2, 3, 1, 4, 5).reshape(batch, 1, height, width, -1, 2, heads, channels // heads)
    return _attend(query, samples, heads)


def _attend(query: Tensor, samples: Tensor, heads: int) -> Tensor:
    """Softmax attention of each pixel over its own samples.

    Args:
        query: (N, T, H, W, C); samples: (N, T or 1, H, W, points, key | value, heads, head width).
    """
    batch, time, height, width, channels = query.shape
    key, value = samples[..., 0, :, :], samples[..., 1, :, :]
    query = query.reshape(batch, time, height, width, 1, heads, channels // heads)
    scores = _softmax((query * key).sum(-1), -2)  # (N, T, H, W, points, heads)
    return (scores.expand_dims(-1) * value).sum(-3).reshape(batch, time, height, width, channels)


def _softmax(scores: Tensor, axis: int) -> Tensor:
    """Softmax. For float16 scores it is computed in float32, or the small weights of many keys would be lost."""
    return ops.softmax(widen_half(scores), axis).astype(scores.dtype)
