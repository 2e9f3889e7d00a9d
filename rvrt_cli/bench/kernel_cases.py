# SPDX-License-Identifier: Apache-2.0
"""Calls of every kernel at the sizes at which the networks make them, with random input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rvrt_cli.bench.kernel_cost import Shape
from rvrt_cli.model.config import PRESETS
from rvrt_cli.model.weight_shapes import transformer_shapes

_CASE_FRAMES = 2  # a clip
_CASE_WINDOW = (2, 8, 8)
_UPSAMPLER_WIDTH = 64  # channels


@dataclass(frozen=True)
class KernelCase:
    """A function of `rvrt_cli.ops` and its arguments.

    Arrays become tensors, towards which the gradient is taken. They come first; an argument may be a tuple of arrays, like
    the sources of a convolution or the weights of a Swin layer.
    """

    name: str
    function: str
    arguments: list[Any]
    has_gradient: bool = True

    @property
    def tensors(self) -> list[np.ndarray]:
        """The arrays, those of a tuple one by one."""
        return [array for argument in self.arguments if _holds_arrays(argument) for array in _arrays_of(argument)]

    @property
    def spans(self) -> tuple[tuple[int, int, bool], ...]:
        """Of each argument of arrays: the first and one past the last of `tensors`, and whether it is a tuple of them."""
        spans, begin = [], 0
        for argument in filter(_holds_arrays, self.arguments):
            end = begin + len(_arrays_of(argument))
            spans.append((begin, end, isinstance(argument, tuple)))
            begin = end
        return tuple(spans)

    @property
    def settings(self) -> list[Any]:
        """The other arguments."""
        return [argument for argument in self.arguments if not _holds_arrays(argument)]

    @property
    def shapes(self) -> list[Shape]:
        """Of `tensors`."""
        return [array.shape for array in self.tensors]


def _holds_arrays(argument: Any) -> bool:
    return isinstance(_arrays_of(argument)[0], np.ndarray)


def _arrays_of(argument: Any) -> tuple:
    return argument if isinstance(argument, tuple) else (argument,)


@dataclass(frozen=True)
class CaseSizes:
    """Sizes of the cases: of the published network, and of the frames that rvrt-tiny gets.

    Attributes:
        edge: LR px of both sides of the published network's frames.
        width: its channels.
        heads: of its windows; its alignment has twice as many, and twice the channels.
        tiny_height, tiny_width: LR px of rvrt-tiny's frames.
        neighbors: frames that are fused onto each of rvrt-tiny's, even.
    """

    edge: int = 64
    width: int = PRESETS["rvrt"].width
    heads: int = PRESETS["rvrt"].heads[1]
    tiny_height: int = 180
    tiny_width: int = 320
    neighbors: int = 2 * PRESETS["rvrt-tiny"].fused_neighbors

    def part(self) -> CaseSizes:
        """A quarter of each side, for the definitions: of whole frames that of deformable attention takes 30 GB.

        And two neighbors: the fusion of 16 is compiled for 30 s.
        """
        height, width = self.tiny_height // 4, self.tiny_width // 4
        return replace(self, edge=self.edge // 4, tiny_height=height, tiny_width=width, neighbors=2)


def kernel_cases(sizes: CaseSizes) -> list[KernelCase]:
    """Every kernel with random input, and convolutions of several sizes."""
    rng = np.random.default_rng(0)
    return [
        *_attention_cases(sizes, rng),
        *_swin_cases(sizes, rng),
        *_alignment_cases(sizes, rng),
        *_convolution_cases(sizes, rng),
        *_layer_cases(sizes, rng),
        *_image_cases(sizes, rng),
    ]


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def _attention_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    plane, triple = (_CASE_FRAMES, sizes.edge, sizes.edge), 3 * sizes.width
    align_width, heads, points = 2 * sizes.width, 2 * sizes.heads, 9
    query, key_value = _normal(rng, 1, *plane, align_width), _normal(rng, 1, *plane, 2 * align_width)
    offsets = _normal(rng, 1, *plane, _CASE_FRAMES, heads, points, 2, scale=3)
    length = int(np.prod(_CASE_WINDOW))
    windows = [_normal(rng, 1, *plane, triple), _normal(rng, triple), _normal(rng, sizes.heads, length, length)]
    return [
        KernelCase("guided deformable attention", "deformable_attention", [query, key_value, offsets, heads, (3, 3)]),
        KernelCase("neighborhood attention", "neighborhood_attention", [query, key_value, heads, (3, 3)]),
        KernelCase("window attention", "window_attention", [*windows, sizes.heads, _CASE_WINDOW, (0, 4, 4)]),
    ]


def _swin_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    """A layer of a branch, whose windows span a clip; the last one of a residual group."""
    clip = _normal(rng, 1, _CASE_FRAMES, sizes.edge, sizes.edge, sizes.width)
    shapes = transformer_shapes("", sizes.width, sizes.heads, _CASE_WINDOW, PRESETS["rvrt"].mlp_ratio, True)
    weights = tuple(_normal(rng, *shape, scale=1 / np.sqrt(shape[-1])) for _, shape in shapes)
    width, settings = sizes.width, [sizes.heads, _CASE_WINDOW, True]
    linear = [_normal(rng, width, width, scale=1 / np.sqrt(width)), _normal(rng, width)]
    return [
        KernelCase("Swin layer", "swin_layer", [clip, weights, *settings]),
        KernelCase("Swin layer, dense layer, residual", "swin_layer_onto", [clip, clip, weights, *linear, *settings]),
    ]


def _alignment_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    """What predicts the offsets, before and after its convolutions."""

    def of_network(name: str, plane: tuple[int, int], width: int) -> list[KernelCase]:
        config = PRESETS[name]
        groups, points, hidden = config.deformable_groups, config.align_kernel**2, config.offset_width
        outputs = 2 * _CASE_FRAMES * groups * points
        flows = _normal(rng, 1, _CASE_FRAMES, _CASE_FRAMES, *plane, 2, scale=3)
        features = _normal(rng, 1, _CASE_FRAMES, *plane, hidden)
        layer = [_normal(rng, outputs, hidden, scale=1 / np.sqrt(hidden)), _normal(rng, outputs)]
        offsets = [features, *layer, flows, (groups, points), config.max_offset]
        attended = config.align_width
        matrices = [(attended, width)] * 3 + [(width, attended), (2 * width, width), (width, 2 * width)]
        dense = [part for shape in matrices for part in (_normal(rng, *shape, scale=0.1), _normal(rng, shape[0]))]
        clips = [_normal(rng, 1, _CASE_FRAMES, *plane, width) for _ in range(3)]
        heads_edge_groups = (config.align_heads, config.align_kernel, groups)
        places = _normal(rng, 1, _CASE_FRAMES, *plane, _CASE_FRAMES, groups, points, 2, scale=3)
        alignment = [(*clips, features), flows, (*layer, *dense), heads_edge_groups, config.max_offset]
        onto = [clips[0], clips[1], _normal(rng, width, width - width // 4, 3, 3, scale=0.1), _normal(rng, width)]
        return [
            KernelCase(f"{name}: guided attention with its layers", "guided_attention", alignment),
            KernelCase(
                f"{name}: attention at offsets with its layers",
                "attend_at_offsets",
                [*clips, places, tuple(dense), heads_edge_groups],
            ),
            KernelCase(f"{name}: features plus a convolution", "convolve_onto", onto),
            KernelCase(f"{name}: warp of a clip", "warp_clip", [_normal(rng, 1, _CASE_FRAMES, *plane, width), flows]),
            KernelCase(f"{name}: guided offsets, {hidden} to {outputs}", "guided_offsets", offsets),
        ]

    tiny_plane = (sizes.tiny_height, sizes.tiny_width)
    return [
        *of_network("rvrt", (sizes.edge, sizes.edge), sizes.width),
        *of_network("rvrt-tiny", tiny_plane, PRESETS["rvrt-tiny"].width),
    ]


def _convolution_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    def convolution(
        owner: str, frame: tuple[int, int], inputs: int, outputs: int, kernel: int = 3, sources: int = 1
    ) -> KernelCase:
        depth = sources * inputs
        weight = _normal(rng, outputs, depth, kernel, kernel, scale=1 / (kernel * np.sqrt(depth)))
        features = tuple(_normal(rng, _CASE_FRAMES, *frame, inputs) for _ in range(sources))
        name = f"{owner}: convolution {kernel}x{kernel}, {f'{sources}x' if sources > 1 else ''}{inputs} to {outputs}"
        x = features if sources > 1 else features[0]
        return KernelCase(name, "conv2d", [x, weight, _normal(rng, outputs)])

    def grouped(name: str, branch: int) -> KernelCase:
        """The convolution that a branch of a network for restoration begins with; 5 is the reconstruction."""
        config, outputs = PRESETS[name], sizes.width
        groups = config.conv_groups[branch]
        inputs = min(branch + 1, 5) * outputs
        weight = _normal(rng, outputs, inputs // groups, 3, 3, scale=1 / (3 * np.sqrt(inputs // groups)))
        x = _normal(rng, _CASE_FRAMES, *frame, inputs)
        title = f"{name}: convolution 3x3, {inputs} to {outputs} in {groups} groups"
        return KernelCase(title, "conv2d", [x, weight, _normal(rng, outputs)])

    def strided(name: str) -> KernelCase:
        """The second convolution that reduces the frames."""
        x = _normal(rng, _CASE_FRAMES, 2 * edge, 2 * edge, width)
        weight = _normal(rng, width, width, 3, 3, scale=1 / (3 * np.sqrt(width)))
        title = f"{name}: convolution 3x3 of stride 2, {width} to {width}"
        return KernelCase(title, "conv2d", [x, weight, _normal(rng, width), "none", None, 2])

    edge, width, hidden = sizes.edge, sizes.width, _UPSAMPLER_WIDTH
    frame, tiny_frame, tiny = (edge, edge), (sizes.tiny_height, sizes.tiny_width), PRESETS["rvrt-tiny"]
    return [
        convolution("rvrt", frame, width, width),  # not in the network: what others measure
        convolution("rvrt", frame, width, width, sources=2),  # the input of the first branch
        convolution("rvrt", frame, width, width, sources=5),  # that of the last branch, and of reconstruction
        convolution("rvrt", frame, hidden, hidden),  # the offsets
        convolution("rvrt", (2 * edge, 2 * edge), hidden, 4 * hidden),  # the second shuffle of the upsampler
        convolution("rvrt", frame, 32, 64, 7),  # SpyNet
        grouped("rvrt-deblur", 5),
        grouped("rvrt-denoise", 4),
        strided("rvrt-deblur"),
        convolution("rvrt-tiny", tiny_frame, tiny.width, tiny.width),
        _branch_body("rvrt-tiny", tiny_frame, rng),
        convolution("rvrt-tiny", tiny_frame, tiny.width, tiny.width, sources=2),  # the input of the first branch
        convolution("rvrt-tiny", tiny_frame, tiny.width, tiny.width, sources=3),  # of the second, and of reconstruction
        convolution("rvrt-tiny", tiny_frame, tiny.offset_width, tiny.offset_width),  # the offsets
        _offset_chain("rvrt-tiny", tiny_frame, rng),  # all of them
    ]


def _branch_body(name: str, frame: tuple[int, int], rng: np.random.Generator) -> KernelCase:
    """The convolutions of the second branch: of the features side by side, and of the residual blocks."""
    config = PRESETS[name]
    channels, sources, blocks = config.width, 3, config.groups[1] * config.depths[1]
    scale = 1 / (3 * np.sqrt(channels))
    first = _normal(rng, channels, sources * channels, 3, 3, scale=scale), _normal(rng, channels)
    layer = _normal(rng, channels, channels, 3, 3, scale=scale), _normal(rng, channels)
    clips = tuple(_normal(rng, 1, _CASE_FRAMES, *frame, channels) for _ in range(sources))
    title = f"{name}: convolution 3x3, {sources}×{channels} to {channels}, and {blocks} residual blocks"
    return KernelCase(title, "conv_body", [clips, first + layer * 2 * blocks, config.carry, True])


def _offset_chain(name: str, frame: tuple[int, int], rng: np.random.Generator) -> KernelCase:
    """The convolutions between the first and the last of those that predict the offsets."""
    channels = PRESETS[name].offset_width
    layer = _normal(rng, channels, channels, 3, 3, scale=1 / (3 * np.sqrt(channels))), _normal(rng, channels)
    x = _normal(rng, _CASE_FRAMES, *frame, channels)
    return KernelCase(f"{name}: four convolutions 3x3, {channels} to {channels}", "conv_chain", [x, layer * 4, False])


def _layer_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    width = sizes.width
    scale = 1 / np.sqrt(width)  # keeps the magnitude of what a dense layer gets
    clip = _normal(rng, 1, _CASE_FRAMES, sizes.edge, sizes.edge, width)
    norm = [_normal(rng, width), _normal(rng, width)]
    to_triple = [_normal(rng, 3 * width, width, scale=scale), _normal(rng, 3 * width)]
    square = [_normal(rng, width, width, scale=scale), _normal(rng, width)]
    hidden = [_normal(rng, 2 * width, width, scale=scale), _normal(rng, 2 * width)]
    output = [_normal(rng, width, 2 * width, scale=scale), _normal(rng, width)]
    shuffled = _normal(rng, _CASE_FRAMES, 2 * sizes.edge, 2 * sizes.edge, 4 * _UPSAMPLER_WIDTH)
    return [
        KernelCase(f"dense layer, {width} to {3 * width}", "linear", [clip, *to_triple]),
        KernelCase(f"dense layer, {width} to {width}", "linear", [clip, *square]),
        KernelCase(f"norm and dense layer, {width} to {3 * width}", "norm_linear", [clip, *norm, *to_triple]),
        KernelCase("feed-forward", "mlp", [clip, *norm, *hidden, *output]),
        KernelCase("projection and feed-forward", "project_mlp", [clip, *square, *hidden, *output]),
        KernelCase(f"two dense layers, {width} to {width}", "linear_pair", [clip, clip, *square, *square]),
        KernelCase("layer norm", "layer_norm", [clip, *norm]),
        KernelCase("pixel shuffle", "pixel_shuffle", [shuffled, 2, "leaky_relu"]),
        KernelCase("time reversal", "reverse_time", [clip]),
    ]


def _image_cases(sizes: CaseSizes, rng: np.random.Generator) -> list[KernelCase]:
    edge, width = sizes.edge, sizes.width
    plane, tiny_plane = (_CASE_FRAMES, edge, edge), (_CASE_FRAMES, sizes.tiny_height, sizes.tiny_width)
    neighbors = sizes.neighbors

    def colors(*shape: int) -> np.ndarray:
        return rng.uniform(0, 1, (*shape, 3)).astype(np.float32)

    def upscaled() -> np.ndarray:
        return colors(_CASE_FRAMES, 4 * edge, 4 * edge)

    stack = (_CASE_FRAMES, neighbors, *tiny_plane[1:])
    fusion = [colors(*tiny_plane), colors(*stack), _normal(rng, *stack, 2), rng.uniform(0, 1, stack).astype(np.float32)]
    clip = [colors(1, _CASE_FRAMES + neighbors, *tiny_plane[1:]), neighbors // 2]
    return [
        KernelCase("warp", "warp", [_normal(rng, *plane, width), _normal(rng, *plane, 2, scale=3)]),
        KernelCase("bilinear residual", "add_upsampled", [upscaled(), colors(*plane)]),
        KernelCase("Charbonnier loss", "charbonnier", [upscaled(), upscaled()]),
        KernelCase(
            "rvrt-tiny: optical flow",
            "lucas_kanade",
            [colors(*tiny_plane), colors(*tiny_plane)],
            has_gradient=False,
        ),
        KernelCase("rvrt-tiny: frame fusion", "fuse_frames", fusion, has_gradient=False),
        KernelCase("rvrt-tiny: flow and frame fusion of a clip", "fuse_clip", clip, has_gradient=False),
    ]
