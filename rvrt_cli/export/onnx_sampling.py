# SPDX-License-Identifier: Apache-2.0
"""Warping, frame fusion and optical flow as ONNX nodes; see `sampling`, `frame_fusion` and `lucas_kanade_flow` of `rvrt_cli.ops`.

B batch, T frames of a clip, K neighbors, H×W frame size [px], C channels.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np

from rvrt_cli.cubic_kernel import keys_kernel
from rvrt_cli.export.graph_builder import Size, known, shape_name, size_name
from rvrt_cli.export.onnx_layers import OnnxLayers
from rvrt_cli.export.onnx_messages import DataType
from rvrt_cli.export.symbolic_tensor import END, SymbolicTensor, concatenate
from rvrt_cli.ops.frame_fusion import (
    COLOR_SIGMA,
    CUBIC,
    FADE,
    FUSION_SCALE,
    OWN_WEIGHTS,
    POSITION_SIGMA,
    REACH,
    SUBPIXEL_POSITIONS,
    SUBPIXELS,
    fuse_clip_of,
)
from rvrt_cli.ops.lucas_kanade_flow import (
    DAMPING,
    DETAIL_SIGMA,
    FLOW_SIGMA,
    ITERATIONS_PER_LEVEL,
    LARGEST_ERROR,
    LUMA_WEIGHTS,
    MATCHING_ERROR,
    PYRAMID_LEVELS,
    TRIED_DISTANCE,
    TRYING_LEVELS,
    match_taps,
    window_taps,
)
from rvrt_cli.ops.sampling import FAR_OUTSIDE

_OUTSIDE = 3.0  # in GridSample's coordinates the frame is [-1, 1]; 3 is a pixel or more outside, however small it is


class OnnxSampling(OnnxLayers):
    """Positions and flows are float32 whatever the precision, as in the definitions."""

    # --- warping

    def warp(self, x: SymbolicTensor, flow: SymbolicTensor, border: bool = False) -> SymbolicTensor:
        _, height, width, _ = x.shape
        return self._sample(x, self._positions(flow, height, width), "border" if border else "zeros")

    def warp_clip(self, x: SymbolicTensor, flows: SymbolicTensor) -> SymbolicTensor:
        time = known(x.shape[1])
        fields = [flows[:, :, n] for n in range(time)]
        warped = []
        for n in range(time):
            frames = self.roll(x, n, 1).reshape(*x.shape[1:])
            warped.append(self.warp(frames, fields[n].reshape(*fields[n].shape[1:])).reshape(*x.shape))
        return concatenate([*warped, *fields], -1)

    def _positions(self, flow: SymbolicTensor, height: Size, width: Size) -> str:
        """GridSample's coordinates (B, H, W, 2) of every pixel plus its flow (B, H, W, 2) px."""
        return self._normalized(flow.astype(ms.float32).value, self._pixel_centers(height, width), height, width)

    def _normalized(self, offset: str, centers: str, height: Size, width: Size, margin: int = 0) -> str:
        """GridSample's coordinates of offsets (..., 2) px from pixel centers of a frame with a margin [px] around it.

        Without aligned corners a frame is [-1, 1] from edge to edge. Far positions are clamped: they are outside all the same,
        and converting them to whole numbers would overflow.
        """
        graph = self.graph
        sizes = graph.node("Concat", [size_name(graph, width), size_name(graph, height)], axis=0)
        sizes, position = graph.node("Cast", [sizes], to=DataType.FLOAT32), graph.node("Add", [offset, centers])
        if margin:
            sizes = graph.node("Add", [sizes, self._number(2 * margin, ms.float32)])
            position = graph.node("Add", [position, self._number(margin, ms.float32)])
        scale = graph.node("Div", [self._number(2, ms.float32), sizes])
        at = graph.node("Sub", [graph.node("Mul", [position, scale]), self._one])
        bounds = [self._number(bound, ms.float32) for bound in (-_OUTSIDE, _OUTSIDE)]
        return graph.node("Clip", [at, *bounds])

    def _pixel_centers(self, height: Size, width: Size) -> str:
        """(H, W, 2) float32: (x, y) of the pixels' centers from the frame's corner [px]."""
        graph = self.graph
        x, y = self._centers(width), self._centers(height)
        shape = graph.node("Concat", [size_name(graph, height), size_name(graph, width)], axis=0)
        columns = graph.node("Expand", [x, shape])
        rows = graph.node("Expand", [graph.node("Unsqueeze", [y, graph.integers(1)]), shape])
        last = graph.integers(2)
        return graph.node("Concat", [graph.node("Unsqueeze", [axis, last]) for axis in (columns, rows)], axis=2)

    def _centers(self, length: Size) -> str:
        """0.5, 1.5, …: (length,) float32."""
        graph = self.graph
        if isinstance(length, int):
            return graph.constant(np.arange(length, dtype=np.float32) + np.float32(0.5))
        limit = graph.node("Squeeze", [size_name(graph, length)])
        start, step = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
        numbers = graph.node("Cast", [graph.node("Range", [start, limit, step])], to=DataType.FLOAT32)
        return graph.node("Add", [numbers, self._number(0.5, ms.float32)])

    def _sample(self, x: SymbolicTensor, positions: str, padding: str, mode: str = "bilinear") -> SymbolicTensor:
        wide = x.astype(ms.float32)
        planes = self.graph.node(
            "GridSample", [wide.planes, positions], mode=mode, padding_mode=padding, align_corners=0
        )
        return wide.like(planes=planes).astype(x.dtype)

    @property
    def _zero(self) -> str:
        return self._number(0, ms.float32)

    @property
    def _one(self) -> str:
        return self._number(1, ms.float32)

    # --- optical flow by Lucas and Kanade

    def lucas_kanade(
        self, reference: SymbolicTensor, neighbor: SymbolicTensor
    ) -> tuple[SymbolicTensor, SymbolicTensor]:
        batch, height, width, _ = reference.shape
        pyramid = [(self._padded_luma(reference), self._padded_luma(neighbor))]
        for _ in range(PYRAMID_LEVELS - 1):
            pyramid.append((self.halve(pyramid[-1][0]), self.halve(pyramid[-1][1])))
        flow = self.zeros((*pyramid[-1][0].shape[:3], 2), ms.float32)
        for level in range(PYRAMID_LEVELS - 1, -1, -1):
            first, second = (self._detail(image) for image in pyramid[level])
            if level < PYRAMID_LEVELS - 1:
                flow = 2 * self.resize_bilinear(flow, first.shape[1], first.shape[2])
            for _ in range(ITERATIONS_PER_LEVEL):
                flow = flow - self._flow_step(first, second, flow)
            if level < TRYING_LEVELS:
                flow = self._try_flows_around(first, second, flow)
        found = []
        for result, channels in ((flow, 2), (self._match_of(first, second, flow), 1)):
            cut = result.narrow(1, slice(0, height)).narrow(2, slice(0, width))
            found.append(cut.like(cut._value, cut._planes, (batch, height, width, channels)).astype(reference.dtype))
        return found[0], found[1].reshape(batch, height, width)

    def _flow_step(self, first: SymbolicTensor, second: SymbolicTensor, flow: SymbolicTensor) -> SymbolicTensor:
        warped = self._warp_luma(second, flow)
        inside = self._inside(flow)
        across = 0.5 * (self._slope(first, 2) + self._slope(warped, 2))
        down = 0.5 * (self._slope(first, 1) + self._slope(warped, 1))
        change = inside * (warped - first)
        seen = (inside * across, inside * down)
        products = (seen[0] * across, seen[0] * down, seen[1] * down, across * change, down * change)
        sums = self._window_sums(concatenate(products, -1), window_taps())
        xx, xy, yy, xt, yt = (sums.narrow(3, slice(c, c + 1)) for c in range(5))
        xx, yy = xx + DAMPING, yy + DAMPING
        determinant = xx * yy - xy * xy
        step = concatenate([(yy * xt - xy * yt) / determinant, (xx * yt - xy * xt) / determinant], -1)
        return step.map("Clip", *(self._number(bound, ms.float32) for bound in (-1, 1)))

    def _try_flows_around(self, first: SymbolicTensor, second: SymbolicTensor, flow: SymbolicTensor) -> SymbolicTensor:
        """All tried flows in one pass, as more pairs of the batch: a fifth of the nodes."""
        flows = [flow, *self._flows_around(flow)]
        tried = concatenate(flows, 0)  # (5·B, h, w, 2)
        errors = self._error_of(concatenate([first] * len(flows), 0), second, tried)
        error = self._window_sums(errors, match_taps()) + MATCHING_ERROR
        share = (error * error).map("Reciprocal")
        parts = concatenate([share * tried, share], -1).reshape(len(flows), *flow.shape[:3], 3)
        planes = self.graph.node("ReduceSum", [parts.planes, self.graph.integers(0)], keepdims=0)
        sums = flow.like(planes=planes, shape=(*flow.shape[:3], 3))
        return sums.narrow(3, slice(0, 2)) / sums.narrow(3, slice(2, 3))

    def _error_of(self, first: SymbolicTensor, second: SymbolicTensor, flow: SymbolicTensor) -> SymbolicTensor:
        """(n·B, h, w, 1): as in the definition, by n flows of each pair (n·B, h, w, 2)."""
        change = self._warp_luma(second, flow) - first
        squared = (change * change).map("Min", self._number(LARGEST_ERROR, ms.float32))
        inside = self._inside(flow)
        return inside * squared + (inside - 1) * -LARGEST_ERROR

    def _match_of(self, first: SymbolicTensor, second: SymbolicTensor, flow: SymbolicTensor) -> SymbolicTensor:
        """(B, h, w, 1)."""
        across, down = self._slope(first, 2), self._slope(first, 1)
        parts = concatenate([self._error_of(first, second, flow), across * across + down * down], -1)
        sums = self._window_sums(parts, match_taps())
        error, energy = (sums.narrow(3, slice(c, c + 1)) for c in (0, 1))
        return (error / (energy * -(FLOW_SIGMA**2) + -(DETAIL_SIGMA**2))).map("Exp")

    def _flows_around(self, flow: SymbolicTensor) -> list[SymbolicTensor]:
        """The flow of the pixel at the distance left, right, above and below; the edge repeats."""
        graph, near, far = self.graph, TRIED_DISTANCE, 2 * TRIED_DISTANCE
        pads = graph.integers(0, 0, near, near, 0, 0, near, near)
        padded = graph.node("Pad", [flow.planes, pads], mode="edge")
        middle, before, after = (near, -near), (0, -far), (far, END)
        around = []
        for parts in ((middle, before), (middle, after), (before, middle), (after, middle)):  # of rows and columns
            starts, stops = (graph.integers(*ends) for ends in zip(*parts, strict=True))
            around.append(flow.like(planes=graph.node("Slice", [padded, starts, stops, graph.integers(2, 3)])))
        return around

    def _warp_luma(self, luma: SymbolicTensor, flow: SymbolicTensor) -> SymbolicTensor:
        """(B, h, w, 1) warped by (n·B, h, w, 2) px, n flows of each; the edge repeats.

        By gathering, since GridSample's coordinates are rounded. The flow of a still scene has to stay exactly zero, as in
        the definition: `fuse_frames` takes other samples as soon as it is below.
        """
        graph, (batch, height, width, _) = self.graph, luma.shape
        columns, rows = (
            self._neighbor_pixels(flow, axis, side, graph.integers(*shape))
            for axis, side, shape in ((0, width, (1, 1, 1, -1)), (1, height, (1, 1, -1, 1)))
        )
        pixels = graph.node("Reshape", [luma.planes, graph.integers(-1)])
        clips = graph.constant((np.arange(known(flow.shape[0])) % known(batch)).reshape(-1, 1, 1, 1))
        first = graph.node("Mul", [clips, size_name(graph, height * width)])  # index of each frame's first pixel
        lines = []
        for row in rows[:2]:
            start = graph.node("Add", [first, graph.node("Mul", [row, size_name(graph, width)])])
            ends = [graph.node("Gather", [pixels, graph.node("Add", [start, column])]) for column in columns[:2]]
            lines.append(self._blend(ends, columns[2]))
        return luma.like(planes=self._blend(lines, rows[2]), shape=(*flow.shape[:3], 1))

    def _neighbor_pixels(self, flow: SymbolicTensor, axis: int, side: Size, shape: str) -> tuple[str, str, str]:
        """Along one axis: numbers of the pixels before and after where the flow leads, and the share of the latter."""
        graph = self.graph
        grid = graph.node("Sub", [self._centers(side), self._number(0.5, ms.float32)])
        part = graph.node("Slice", [flow.planes, *map(graph.integers, (axis, axis + 1, 1))])
        last = graph.node("Cast", [size_name(graph, side - 1)], to=DataType.FLOAT32)
        at = graph.node("Max", [graph.node("Add", [part, graph.node("Reshape", [grid, shape])]), self._zero])
        at = graph.node("Min", [at, last])
        before = graph.node("Floor", [at])
        after = graph.node("Min", [graph.node("Add", [before, self._one]), last])
        numbers = [graph.node("Cast", [value], to=DataType.INT64) for value in (before, after)]
        return numbers[0], numbers[1], graph.node("Sub", [at, before])

    def _blend(self, ends: list[str], share: str) -> str:
        """Of two values, the share of the second one given."""
        graph = self.graph
        rest = graph.node("Sub", [self._one, share])
        return graph.node("Add", [graph.node("Mul", [ends[0], rest]), graph.node("Mul", [ends[1], share])])

    def _inside(self, flow: SymbolicTensor) -> SymbolicTensor:
        """(B, H, W, 1): by how much the pixel plus its flow lies inside the frame, a frame of ones warped with zeros around."""
        graph, (_, height, width, _) = self.graph, flow.shape
        centers = graph.node("Transpose", [self._pixel_centers(height, width)], perm=(2, 0, 1))
        at = graph.node("Add", [flow.planes, centers])  # 0.5 is the first pixel's center
        sizes = graph.node("Concat", [size_name(graph, width), size_name(graph, height)], axis=0)
        sizes = graph.node("Unsqueeze", [graph.node("Cast", [sizes], to=DataType.FLOAT32), graph.integers(1, 2)])
        nearest = graph.node("Min", [at, graph.node("Sub", [sizes, at])])
        nearest = graph.node("Add", [nearest, self._number(0.5, ms.float32)])
        weights = flow.like(planes=graph.node("Clip", [nearest, self._zero, self._one]))
        x, y = (weights.narrow(3, slice(c, c + 1)) for c in (0, 1))
        return x * y

    def _padded_luma(self, frames: SymbolicTensor) -> SymbolicTensor:
        """(B, H, W, 3) → (B, h, w, 1) float32, padded at the bottom and right to whole pixels of the coarsest level."""
        weights = np.array(LUMA_WEIGHTS, np.float32).reshape(1, 3, 1, 1)
        luma = self.conv2d(frames.astype(ms.float32), weights, np.zeros(1, np.float32))
        batch, height, width, _ = luma.shape
        missing = [-side % 2 ** (PYRAMID_LEVELS - 1) for side in (height, width)]
        ends = [size_name(self.graph, side) for side in missing]
        zeros = self.graph.integers(0, 0)
        pads = self.graph.node("Concat", [zeros, zeros, zeros, *ends], axis=0)
        planes = self.graph.node("Pad", [luma.planes, pads], mode="edge")
        return luma.like(planes=planes, shape=(batch, height + missing[0], width + missing[1], 1))

    def _detail(self, luma: SymbolicTensor) -> SymbolicTensor:
        """Through the low-pass filter 1 2 1 along both axes, minus its local mean over the window."""
        smooth = self._along_both(luma, (0.25, 0.5, 0.25))
        return smooth - self._along_both(smooth, window_taps())

    def _along_both(self, luma: SymbolicTensor, taps: tuple[float, ...]) -> SymbolicTensor:
        return self._along(self._along(luma, 1, taps), 2, taps)

    def _slope(self, luma: SymbolicTensor, axis: int) -> SymbolicTensor:
        return self._along(luma, axis, (-0.5, 0.0, 0.5))

    def _along(self, luma: SymbolicTensor, axis: int, taps: tuple[float, ...]) -> SymbolicTensor:
        """(B, h, w, 1) through a filter of an odd number of taps along one axis; the edge repeats."""
        pads = [0, 0, 0, 0]
        pads[axis + 1] = len(taps) // 2  # of planes, rows are axis 2
        planes = self.graph.node("Pad", [luma.planes, self.graph.integers(*pads, *pads)], mode="edge")
        kernel = np.array(taps, np.float32).reshape((1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1))
        return luma.like(planes=self.graph.node("Conv", [planes, self.graph.constant(kernel)]))

    def _window_sums(self, x: SymbolicTensor, taps: tuple[float, ...]) -> SymbolicTensor:
        """Weighted sums around each pixel of (B, h, w, C), by the weights of a window along one axis."""
        channels = known(x.shape[-1])
        kernel, bias = np.tile(np.array(taps, np.float32), (channels, 1, 1, 1)), np.zeros(channels, np.float32)
        down = self.conv2d(x, kernel.transpose(0, 1, 3, 2), bias, groups=channels)
        return self.conv2d(down, kernel, bias, groups=channels)

    # --- frame fusion

    def fuse_frames(
        self, frame: SymbolicTensor, neighbors: SymbolicTensor, flows: SymbolicTensor, matches: SymbolicTensor
    ) -> SymbolicTensor:
        dtype, frame = frame.dtype, frame.astype(ms.float32)
        batch, count, height, width, _ = neighbors.shape
        batch, count = known(batch), known(count)
        pairs = (batch * count, height, width)
        planes = neighbors.astype(ms.float32).reshape(*pairs, 3).planes
        flow = flows.astype(ms.float32).reshape(*pairs, 2).planes
        match = matches.astype(ms.float32).reshape(*pairs, 1).planes
        own = weight = self.graph.constant(OWN_WEIGHTS.reshape(1, SUBPIXELS, 1, 1))
        sums: list[list[str]] = [[], [], []]
        padded = self._edge_repeated(frame)
        for down in (0, 1):
            for right in (0, 1):
                difference, share = self._neighbor_samples(padded, frame.shape, planes, flow, (right, down), count)
                share = self.graph.node("Mul", [share, match])
                for c in range(3):
                    color = self.graph.node("Slice", [difference, *map(self.graph.integers, (c, c + 1, 1))])
                    weighted = self.graph.node("Mul", [share, color])
                    sums[c].append(self._sum_of_neighbors(weighted, batch, count))
                weight = self.graph.node("Add", [weight, self._sum_of_neighbors(share, batch, count)])
        fused = self._regression(frame, padded, [self.graph.node("Sum", parts) for parts in sums], weight, own)
        return frame.like(planes=fused, shape=(batch, height, width, 4 * SUBPIXELS)).astype(dtype)

    def fuse_clip(self, frames: SymbolicTensor, reach: int) -> SymbolicTensor:
        return fuse_clip_of(self.lucas_kanade, self.fuse_frames, self.stack)(frames, reach)

    def _edge_repeated(self, frame: SymbolicTensor) -> str:
        """(B, 3, H + 2 REACH, W + 2 REACH): the frame, its edge repeated."""
        around = self.graph.integers(0, 0, REACH, REACH, 0, 0, REACH, REACH)
        return self.graph.node("Pad", [frame.planes, around], mode="edge")

    def _regression(self, frame: SymbolicTensor, padded: str, sums: list[str], weight: str, own: str) -> str:
        """Weighted means (B, S², H, W) of differences from the frame, plus the frame at the subpixels, minus its pixels,
        channel by channel; and the neighbors' share of the weight."""
        offsets = np.arange(-REACH, REACH + 1, dtype=np.float32)
        along = keys_kernel(SUBPIXEL_POSITIONS[:, None] - offsets, CUBIC)  # (S, 2 REACH + 1)
        kernel = (along[:, None, :, None] * along[None, :, None, :]).reshape(SUBPIXELS, 1, offsets.size, offsets.size)
        kernel[:, :, REACH, REACH] -= 1
        at_subpixels = self.graph.constant(kernel)
        parts = []
        for c in range(3):
            channel = self.graph.node("Slice", [padded, *map(self.graph.integers, (c, c + 1, 1))])
            frame_there = self.graph.node("Conv", [channel, at_subpixels])
            parts.append(self.graph.node("Add", [self.graph.node("Div", [sums[c], weight]), frame_there]))
        share = self.graph.node("Sub", [self._one, self.graph.node("Div", [own, weight])])
        return self.graph.node("Concat", [*parts, share], axis=1)

    def _neighbor_samples(
        self,
        padded: str,
        shape: tuple[Size, ...],
        neighbors: str,
        flow: str,
        corner: tuple[int, int],
        count: int,
    ) -> tuple[str, str]:
        """One of the four samples of each neighbor around the place where the flow leads.

        Args:
            padded: the frame, see `_edge_repeated`; shape: (B, H, W, 3) of the frame itself.
            neighbors: (B·K, 3, H, W); flow: (B·K, 2, H, W) px.
            corner: (right, down), 0 or 1 each.

        Returns:
            what they differ by from the frame (B·K, 3, H, W), and their weights at the subpixels (B·K, S², H, W).
        """
        graph, (batch, height, width, _) = self.graph, shape
        bounds = [self._number(bound, ms.float32) for bound in (-FAR_OUTSIDE, FAR_OUTSIDE)]
        clamped = graph.node("Clip", [flow, *bounds])
        step = graph.constant(np.array(corner, np.float32).reshape(1, 2, 1, 1))
        whole = graph.node("Add", [graph.node("Floor", [clamped]), step])
        offset = graph.node("Sub", [whole, clamped])  # of the sample from the frame's pixel
        centers = self._pixel_centers(height, width)

        at = self._normalized(graph.node("Transpose", [whole], perm=(0, 2, 3, 1)), centers, height, width)
        sample = graph.node("GridSample", [neighbors, at], mode="nearest", padding_mode="border", align_corners=0)
        # The frame's own colors there, for all neighbors in one call: they are stacked as rows.
        pairs = shape_name(graph, (batch, count, height, width, 2))
        rows = graph.node("Reshape", [graph.node("Transpose", [offset], perm=(0, 2, 3, 1)), pairs])
        rows = self._normalized(rows, centers, height, width, margin=REACH)
        rows = graph.node("Reshape", [rows, shape_name(graph, (batch, count * height, width, 2))])
        expected = graph.node("GridSample", [padded, rows], mode="bicubic", align_corners=0)
        expected = graph.node("Reshape", [expected, shape_name(graph, (batch, 3, count, height, width))])
        expected = graph.node("Transpose", [expected], perm=(0, 2, 1, 3, 4))
        expected = graph.node("Reshape", [expected, shape_name(graph, (batch * count, 3, height, width))])
        difference = graph.node("Sub", [sample, expected])
        squared = graph.node("Mul", [difference, difference])
        distance = graph.node("ReduceMean", [squared], axes=[1], keepdims=1)
        similar = graph.node("Exp", [graph.node("Mul", [distance, self._number(-0.5 / COLOR_SIGMA**2, ms.float32)])])
        trust = graph.node("Mul", [similar, self._seen(whole, centers, height, width)])
        trust = graph.node("Mul", [trust, self._presence(offset)])
        return difference, graph.node("Mul", [self._subpixel_weights(offset, (batch * count, height, width)), trust])

    def _seen(self, whole: str, centers: str, height: Size, width: Size) -> str:
        """(B·K, 1, H, W): 1 where the pixel plus `whole` (B·K, 2, H, W) px is in the frame, else 0."""
        graph = self.graph
        at = graph.node("Add", [whole, graph.node("Transpose", [centers], perm=(2, 0, 1))])
        sizes = graph.node(
            "Cast", [graph.node("Concat", [size_name(graph, s) for s in (width, height)], axis=0)], to=DataType.FLOAT32
        )
        ends = graph.node("Unsqueeze", [sizes, graph.integers(1, 2)])
        inside = graph.node("And", [graph.node("Greater", [at, self._zero]), graph.node("Less", [at, ends])])
        return graph.node("ReduceMin", [graph.node("Cast", [inside], to=DataType.FLOAT32)], axes=[1], keepdims=1)

    def _presence(self, offset: str) -> str:
        """(B·K, 1, H, W): by how much samples at an offset (B·K, 2, H, W) px take part, see `FADE`."""
        graph = self.graph
        left = graph.node("Sub", [self._one, graph.node("Abs", [offset])])
        along = graph.node("Clip", [graph.node("Div", [left, self._number(FADE, ms.float32)]), self._zero, self._one])
        return graph.node("ReduceProd", [along], axes=[1], keepdims=1)

    def _subpixel_weights(self, offset: str, pairs: tuple[Size, Size, Size]) -> str:
        """Weights (B·K, S², H, W) of samples at an offset (B·K, 2, H, W) px."""
        graph = self.graph
        subpixels = graph.constant(SUBPIXEL_POSITIONS.reshape(1, FUSION_SCALE, 1, 1))
        weights = []
        for axis in (0, 1):
            along = graph.node("Slice", [offset, *map(graph.integers, (axis, axis + 1, 1))])
            distance = graph.node(
                "Div", [graph.node("Sub", [subpixels, along]), self._number(POSITION_SIGMA, ms.float32)]
            )
            squared = graph.node("Mul", [distance, distance])
            weights.append(graph.node("Exp", [graph.node("Mul", [squared, self._number(-0.5, ms.float32)])]))
        across, down = weights
        grid = graph.node(
            "Mul",
            [
                graph.node("Unsqueeze", [down, graph.integers(2)]),
                graph.node("Unsqueeze", [across, graph.integers(1)]),
            ],
        )  # (B·K, S, S, H, W)
        return graph.node("Reshape", [grid, shape_name(graph, (pairs[0], SUBPIXELS, *pairs[1:]))])

    def _sum_of_neighbors(self, x: str, batch: int, count: int) -> str:
        """(B·K, S², H, W) → (B, S², H, W)."""
        graph, rows = self.graph, []
        for b in range(batch):
            part = graph.node("Slice", [x, *map(graph.integers, (b * count, (b + 1) * count, 0))])
            rows.append(graph.node("ReduceSum", [part, graph.integers(0)], keepdims=1))
        return graph.node("Concat", rows, axis=0)
