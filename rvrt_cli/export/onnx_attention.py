# SPDX-License-Identifier: Apache-2.0
"""The attentions of RVRT as ONNX nodes; see `rvrt_cli.ops.attention` for what they compute.

T frames of a clip, H×W frame size [px], C channels, G offset groups, K sampling points, L pixels of a window. N is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np

from rvrt_cli.export.graph_builder import Dim, Size, known, shape_name, size_name
from rvrt_cli.export.onnx_messages import DataType
from rvrt_cli.export.onnx_sampling import OnnxSampling
from rvrt_cli.export.symbolic_tensor import END, SymbolicTensor, concatenate
from rvrt_cli.ops.attention import SHIFT_MASK, SWIN_WEIGHTS, attend_at_offsets_of, guided_attention_of
from rvrt_cli.position_index import relative_position_index

_NEIGHBORHOOD_PARTS = 4


class OnnxAttention(OnnxSampling):
    """Windows are padded and shifted for whatever size a frame has when the model runs."""

    # --- shifted windows

    def swin_layer(
        self, x: SymbolicTensor, weights: Sequence[Any], heads: int, window: tuple[int, int, int], shifted: bool
    ) -> SymbolicTensor:
        layer = weights[:SWIN_WEIGHTS]
        norm1_g, norm1_b, qkv_w, qkv_b, proj_w, proj_b, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b = layer
        time, rows, columns = (self._fitted(length, edge) for length, edge in zip(x.shape[1:4], window, strict=True))
        fitted = (time, rows, columns)
        shift = [self._shift(length, edge) if shifted else 0 for length, edge in zip(x.shape[1:4], fitted, strict=True)]
        bias = None
        if len(weights) > SWIN_WEIGHTS:
            pixels = time * rows * columns
            index = self.graph.constant(relative_position_index(window)[:pixels, :pixels].astype(np.int64))
            bias = self.graph.node("Gather", [self._weight(weights[SWIN_WEIGHTS], ms.float32), index], axis=0)
            bias = self.graph.node("Transpose", [bias], perm=(2, 0, 1))
        qkv = self.norm_linear(x, norm1_g, norm1_b, qkv_w, qkv_b)
        attended = self.window_attention(qkv, qkv_b, bias, heads, fitted, tuple(shift))
        x = self.linear(attended, proj_w, proj_b, "none", x)
        return self.mlp(x, norm2_g, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b)

    def swin_layer_onto(
        self,
        x: SymbolicTensor,
        residual: SymbolicTensor,
        weights: Sequence[Any],
        linear_w: Any,
        linear_b: Any,
        heads: int,
        window: tuple[int, int, int],
        shifted: bool,
    ) -> SymbolicTensor:
        return self.linear(self.swin_layer(x, weights, heads, window, shifted), linear_w, linear_b, "none", residual)

    @staticmethod
    def _fitted(length: Size, edge: int) -> int:
        """Frames have at least as many pixels as a window: `rvrt_cli.engine` refuses smaller ones."""
        return edge if isinstance(length, Dim) else min(length, edge)

    def _shift(self, length: Size, edge: int) -> Size:
        """Half a window where the axis is longer than one, else none."""
        if isinstance(length, int):
            return edge // 2 if length > edge else 0
        longer = self.graph.node("Greater", [length.name, self.graph.integers(edge)])
        choices = self.graph.integers(edge // 2), self.graph.integers(0)
        return Dim(self.graph, self.graph.node("Where", [longer, *choices]), f"shift({length}, {edge})")

    def window_attention(
        self,
        qkv: SymbolicTensor,
        pad: Any,
        bias: str | None,
        heads: int,
        window: tuple[int, int, int],
        shift: tuple[Size, ...],
    ) -> SymbolicTensor:
        graph, (_, time, height, width, wide) = self.graph, qkv.shape
        channels = known(wide) // 3
        size = qkv.shape[1:4]
        padded = [length + -length % edge for length, edge in zip(size, window, strict=True)]
        counts = [length // edge for length, edge in zip(padded, window, strict=True)]
        pixels, head_width = window[0] * window[1] * window[2], channels // heads
        value = self._padded(qkv, self._weight(pad, qkv.dtype), padded)
        for axis in range(3):
            value = self._rolled(value, axis + 1, shift[axis])

        split = [counts[0], window[0], counts[1], window[1], counts[2], window[2], 3, heads, head_width]
        x = graph.node("Reshape", [value, shape_name(graph, split)])
        x = graph.node("Transpose", [x], perm=(6, 0, 2, 4, 7, 1, 3, 5, 8))
        x = graph.node("Reshape", [x, graph.integers(3, -1, heads, pixels, head_width)])  # windows of all frames
        query, key, values = (
            graph.node("Squeeze", [part, graph.integers(0)]) for part in graph.node("Split", [x], outputs=3, axis=0)
        )
        query = graph.node("Mul", [query, self._number(head_width**-0.5, qkv.dtype)])
        scores = graph.node("MatMul", [query, graph.node("Transpose", [key], perm=(0, 1, 3, 2))])
        half = qkv.dtype == ms.float16
        if half:  # softmax in float32: float16 would lose the small weights of many keys
            scores = graph.node("Cast", [scores], to=DataType.FLOAT32)
        if bias is not None:
            scores = graph.node("Add", [scores, bias])
        if any(step != 0 for step in shift):
            mask = self._shift_mask(padded, window, shift, counts)
            scores = graph.node("Add", [scores, mask])
        shares = graph.node("Softmax", [scores], axis=3)
        if half:
            shares = graph.node("Cast", [shares], to=DataType.FLOAT16)
        attended = graph.node("MatMul", [shares, values])

        split = [*counts, heads, *window, head_width]
        x = graph.node("Reshape", [attended, shape_name(graph, split)])
        x = graph.node("Transpose", [x], perm=(0, 4, 1, 5, 2, 6, 3, 7))
        x = graph.node("Reshape", [x, shape_name(graph, [1, *padded, channels])])
        for axis in range(3):
            x = self._rolled(x, axis + 1, padded[axis] - shift[axis] if shift[axis] != 0 else 0)
        for axis, (length, whole) in enumerate(zip(size, padded, strict=True), 1):
            if length != whole:
                ends = [graph.integers(0), size_name(graph, length), graph.integers(axis)]
                x = graph.node("Slice", [x, *ends])
        return qkv.like(x, shape=[1, time, height, width, channels])

    def _padded(self, x: SymbolicTensor, pad: str, padded: Sequence[Size]) -> str:
        """(1, T, H, W, C) with pixels of value `pad` (C,) at the ends of the axes."""
        graph, value, shape = self.graph, x.value, list(x.shape)
        for axis, length in enumerate(padded, 1):
            if length == shape[axis]:
                continue
            block = shape_name(graph, [*shape[:axis], length - shape[axis], *shape[axis + 1 :]])
            value = graph.node("Concat", [value, graph.node("Expand", [pad, block])], axis=axis)
            shape[axis] = length
        return value

    def _rolled(self, value: str, axis: int, shift: Size) -> str:
        """Rolled towards the start of an axis."""
        if shift == 0:
            return value
        graph, at, cut = self.graph, self.graph.integers(axis), size_name(self.graph, shift)
        head = graph.node("Slice", [value, graph.integers(0), cut, at])
        tail = graph.node("Slice", [value, cut, graph.integers(END), at])
        return graph.node("Concat", [tail, head], axis=axis)

    def _shift_mask(
        self, padded: Sequence[Size], window: tuple[int, int, int], shift: Sequence[Size], counts: Sequence[Size]
    ) -> str:
        """(windows, 1, L, L) float32: SHIFT_MASK between pixels of different regions of the frame (Swin, figure 4)."""
        graph = self.graph
        region = graph.constant(np.zeros((1, 1, 1), np.int64))
        for axis, (length, edge, moved) in enumerate(zip(padded, window, shift, strict=True)):
            shape = graph.integers(*[-1 if i == axis else 1 for i in range(3)])
            label = graph.node("Reshape", [self._region_labels(length, edge, moved), shape])
            region = graph.node("Add", [graph.node("Mul", [region, graph.integers(3)]), label])
        split = [counts[0], window[0], counts[1], window[1], counts[2], window[2]]
        region = graph.node(
            "Transpose", [graph.node("Reshape", [region, shape_name(graph, split)])], perm=(0, 2, 4, 1, 3, 5)
        )
        region = graph.node("Reshape", [region, graph.integers(-1, 1, window[0] * window[1] * window[2])])
        rows, columns = (graph.node("Unsqueeze", [region, graph.integers(axis)]) for axis in (3, 2))
        same = graph.node("Equal", [rows, columns])
        return graph.node("Where", [same, self._number(0, ms.float32), self._number(SHIFT_MASK, ms.float32)])

    def _region_labels(self, length: Size, edge: int, moved: Size) -> str:
        """Number of the region of each pixel of an axis: (length,) int64."""
        graph = self.graph
        if isinstance(length, int) and isinstance(moved, int):
            place = np.arange(length)
            return graph.constant((place >= length - edge) * 1 + (place >= length - moved) if moved else 0 * place)
        start, step = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
        place = graph.node("Range", [start, graph.node("Squeeze", [size_name(graph, length)]), step])
        borders = [size_name(graph, length - edge), size_name(graph, length - moved)]
        beyond = [graph.node("GreaterOrEqual", [place, border]) for border in borders]  # of no shift: none
        return graph.node("Add", [graph.node("Cast", [places], to=DataType.INT64) for places in beyond])

    # --- attention to sampled keys

    def guided_offsets(
        self,
        x: SymbolicTensor,
        weight: Any,
        bias: Any,
        flows: SymbolicTensor,
        sizes: tuple[int, int],
        max_offset: float,
    ) -> tuple[SymbolicTensor, SymbolicTensor]:
        _, time, height, width, _ = x.shape
        residue = max_offset * self.tanh(self.linear(x, weight, bias))
        residue = residue.reshape(1, time, height, width, time, sizes[0], sizes[1], 2)
        guide = self.swap_xy(flows.transpose(0, 1, 3, 4, 2, 5))
        offset = residue + guide.expand_dims(5).expand_dims(5)
        return offset, self.swap_xy(offset.mean((5, 6)).transpose(0, 1, 4, 2, 3, 5))

    def swap_xy(self, field: SymbolicTensor) -> SymbolicTensor:
        return field.narrow(len(field.shape) - 1, slice(None, None, -1))

    def deformable_attention(
        self,
        query: SymbolicTensor,
        key_value: SymbolicTensor,
        offset: SymbolicTensor,
        heads: int,
        kernel: tuple[int, int],
    ) -> SymbolicTensor:
        """Heads and the groups that they read are independent of the others: one part after the other needs less memory."""
        graph, time, channels = self.graph, known(query.shape[1]), known(query.shape[4])
        groups, points = map(known, offset.shape[5:7])
        parts = min(heads, groups // 2)
        share, of_keys = channels // parts, groups // 2 // parts  # channels, and groups of the keys, of a part
        positions = self._sampling_positions(offset, kernel)
        fields = [self.roll(key_value, n, 1).reshape(*key_value.shape[1:]) for n in range(time)]
        attended = []
        for part in range(parts):
            places = [half + part * of_keys for half in (0, groups // 2)]  # first groups of keys and of values
            samples = []
            for n, field in enumerate(fields):
                at = self._group_positions(positions, n, [range(first, first + of_keys) for first in places], offset)
                samples.append(self._group_samples(self._part(field, part, share), at, 2 * of_keys, points))
            values = graph.node("Concat", samples, axis=2) if time > 1 else samples[0]
            attended.append(
                self._attend(query.narrow(4, _channels_of_part(part, share)), values, heads // parts, time * points)
            )
        return concatenate(attended, -1)

    def attend_at_offsets(
        self,
        query: SymbolicTensor,
        key: SymbolicTensor,
        value: SymbolicTensor,
        offset: SymbolicTensor,
        weights: Sequence[Any],
        sizes: tuple[int, int, int],
    ) -> SymbolicTensor:
        attend = attend_at_offsets_of(self.linear, self.linear_pair, self.deformable_attention, self.project_mlp)
        return attend(query, key, value, offset, weights, sizes)

    def guided_attention(
        self,
        features: tuple[SymbolicTensor, ...],
        flows: SymbolicTensor,
        weights: Sequence[Any],
        sizes: tuple[int, int, int],
        max_offset: float,
    ) -> tuple[SymbolicTensor, SymbolicTensor]:
        attend = guided_attention_of(self.guided_offsets, self.attend_at_offsets)
        return attend(features, flows, weights, sizes, max_offset)

    def _sampling_positions(self, offset: SymbolicTensor, kernel: tuple[int, int]) -> str:
        """GridSample's coordinates (T, T, G, K, H, W, 2) of the sampling points: field, frame, and so on."""
        graph, (_, _, height, width, *_) = self.graph, offset.shape
        points = np.indices(kernel).reshape(2, -1).T - np.array(kernel) // 2
        flipped = self.swap_xy(offset.astype(ms.float32)).value
        flipped = graph.node("Add", [flipped, graph.constant(points[:, ::-1].astype(np.float32))])
        centers = graph.node("Unsqueeze", [self._pixel_centers(height, width), graph.integers(2, 3, 4)])
        at = graph.node("Squeeze", [self._normalized(flipped, centers, height, width), graph.integers(0)])
        return graph.node("Transpose", [at], perm=(3, 0, 4, 5, 1, 2, 6))

    def _group_positions(self, positions: str, field: int, groups: list[range], offset: SymbolicTensor) -> str:
        """Those of one field and some groups, (T * groups, K * H, W, 2)."""
        graph, (_, time, height, width, _, _, points, _) = self.graph, offset.shape
        of_field = graph.node("Gather", [positions, graph.constant(np.array(field, np.int64))], axis=0)
        chosen = [number for part in groups for number in part]
        of_groups = graph.node("Gather", [of_field, graph.integers(*chosen)], axis=1)
        return graph.node("Reshape", [of_groups, shape_name(graph, (time * len(chosen), points * height, width, 2))])

    def _group_samples(self, field: SymbolicTensor, at: str, groups: int, points: int) -> str:
        """(T, H, W, channels) sampled at `_group_positions`, (T, channels, K, H, W) in float32."""
        graph, (time, height, width, channels) = self.graph, field.shape
        shape = shape_name(graph, (time * groups, channels // groups, height, width))
        planes = graph.node("Reshape", [field.astype(ms.float32).planes, shape])
        samples = graph.node("GridSample", [planes, at], mode="bilinear", padding_mode="zeros", align_corners=0)
        return graph.node("Reshape", [samples, shape_name(graph, (time, channels, points, height, width))])

    def neighborhood_attention(
        self, query: SymbolicTensor, key_value: SymbolicTensor, heads: int, kernel: tuple[int, int]
    ) -> SymbolicTensor:
        """Some heads after the others, which needs less memory."""
        graph, (_, _, height, width, _) = self.graph, query.shape
        time, channels = known(query.shape[1]), known(query.shape[4])
        parts = math.gcd(heads, _NEIGHBORHOOD_PARTS)
        share, (up, left) = channels // parts, (kernel[0] // 2, kernel[1] // 2)
        frames = key_value.reshape(*key_value.shape[1:])
        attended = []
        for part in range(parts):
            planes = self._part(frames, part, share).astype(ms.float32).planes
            padded = graph.node("Pad", [planes, graph.integers(0, 0, up, left, 0, 0, up, left)])
            shifted = []
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    start = graph.integers(i, j)
                    ends = [size_name(graph, height + i), size_name(graph, width + j)]
                    stop = graph.node("Concat", ends, axis=0)
                    shifted.append(graph.node("Slice", [padded, start, stop, graph.integers(2, 3)]))
            samples = graph.node("Concat", [graph.node("Unsqueeze", [x, graph.integers(2)]) for x in shifted], axis=2)
            # every frame attends to the points of all frames
            of_frames = graph.node("Split", [samples], outputs=time, axis=0) if time > 1 else [samples]
            values = graph.node("Concat", of_frames, axis=2)  # (1, channels, T * K, H, W)
            attended.append(
                self._attend(
                    query.narrow(4, _channels_of_part(part, share)),
                    values,
                    heads // parts,
                    time * kernel[0] * kernel[1],
                )
            )
        return concatenate(attended, -1)

    @staticmethod
    def _part(frames: SymbolicTensor, part: int, share: int) -> SymbolicTensor:
        """Keys and values of a part of the heads: of (T, H, W, key | value), (T, H, W, 2 * share)."""
        channels = known(frames.shape[3]) // 2
        return concatenate([frames.narrow(3, _channels_of_part(part, share, half)) for half in (0, channels)], -1)

    def _attend(self, query: SymbolicTensor, samples: str, heads: int, points: int) -> SymbolicTensor:
        """Softmax attention of each pixel over its own samples.

        Args:
            query: (1, T, H, W, C); samples: (T, or 1 for all frames, key | value, points, H, W), float32.
        """
        graph, (_, time, height, width, channels) = self.graph, query.shape
        head_width = channels // heads
        shape = shape_name(graph, (time, heads, head_width, 1, height, width))
        queries = graph.node("Reshape", [query.astype(ms.float32).planes, shape])
        keys, values = (
            graph.node("Reshape", [half, shape_name(graph, (-1, heads, head_width, points, height, width))])
            for half in graph.node("Split", [samples], outputs=2, axis=1)
        )
        products = graph.node("Mul", [queries, keys])
        scores = graph.node("ReduceSum", [products, graph.integers(2)], keepdims=1)  # (T, heads, 1, points, H, W)
        shares = graph.node("Softmax", [scores], axis=3)
        weighted = graph.node("Mul", [shares, values])
        attended = graph.node("ReduceSum", [weighted, graph.integers(3)], keepdims=0)
        planes = graph.node("Reshape", [attended, shape_name(graph, (1, time, channels, height, width))])
        wide = SymbolicTensor(graph, query.shape, ms.float32, planes=planes)
        return wide.astype(query.dtype)


def _channels_of_part(part: int, share: int, first: int = 0) -> slice:
    return slice(first + part * share, first + (part + 1) * share)
