# SPDX-License-Identifier: Apache-2.0
"""Every op as ONNX nodes, in ONNX Runtime, against its definition in MindSpore; for fixed and for dynamic frame sizes."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from helpers.comparison import assert_close

from rvrt_cli.export.graph_builder import Dim, GraphBuilder
from rvrt_cli.export.onnx_attention import OnnxAttention
from rvrt_cli.export.symbolic_tensor import SymbolicTensor
from rvrt_cli.ops import attention, backend, layers

T, H, W, C = 2, 9, 13, 8
CLIP, IMAGE, FLOWS = (1, T, H, W, C), (T, H, W, C), (1, T, T, H, W, 2)
V, HIDDEN = (C,), (12,)
SWIN = [V, V, (3 * C, C), (3 * C,), (C, C), V, V, V, (12, C), HIDDEN, (C, 12), V]
DEFINITIONS = {
    **backend.DEFINITIONS,
    "halve": layers.halve,
    "resize_bilinear": layers.resize_bilinear,
    "roll": layers.roll,
    "swap_xy": attention.swap_xy,
}
# name: (op, shapes of the frames, shapes of weights, what follows them)
CASES: dict[str, tuple[str, list, list, tuple]] = {
    "linear": ("linear", [CLIP], [(12, C), HIDDEN], ("gelu",)),
    "norm_linear": ("norm_linear", [CLIP], [V, V, (12, C), HIDDEN], ("relu",)),
    "mlp": ("mlp", [CLIP], [V, V, (12, C), HIDDEN, (C, 12), V], ()),
    "linear_pair": ("linear_pair", [CLIP, CLIP], [(12, C), HIDDEN, (4, C), (4,)], ()),
    "project_mlp": ("project_mlp", [CLIP], [(C, C), V, (12, C), HIDDEN, (C, 12), V], ()),
    "layer_norm": ("layer_norm", [CLIP], [V, V], ()),
    "conv2d": ("conv2d", [IMAGE], [(12, C, 1, 3, 3), HIDDEN], ("leaky_relu",)),
    "conv_body": ("conv_body", [(CLIP, CLIP)], [[(C, 2 * C, 3, 3), V, *[(C, C, 1, 3, 3), V] * 2]], (0.8, True)),
    "conv_chain": ("conv_chain", [IMAGE], [[(C, C, 3, 3), V] * 2], (True,)),
    "conv_chain leaky": ("conv_chain", [IMAGE], [[(C, C, 3, 3), V] * 2], (False,)),
    "conv2d of two": ("conv2d", [(IMAGE, IMAGE)], [(12, 2 * C, 5, 3), HIDDEN], ()),
    "pixel_shuffle": ("pixel_shuffle", [IMAGE], [], (2, "leaky_relu")),
    "reverse_time": ("reverse_time", [(1, 3, H, W, C)], [], ()),
    "roll": ("roll", [(1, 3, H, W, C)], [], (2, 1)),
    "swap_xy": ("swap_xy", [(T, H, W, 2)], [], ()),
    "add_upsampled": ("add_upsampled", [(T, 4 * H, 4 * W, 3), (T, H, W, 3)], [], ()),
    "halve": ("halve", [(T, 10, 14, C)], [], ()),
    "warp": ("warp", [IMAGE, (T, H, W, 2)], [], ()),
    "warp border": ("warp", [IMAGE, (T, H, W, 2)], [], (True,)),
    "warp_clip": ("warp_clip", [CLIP, FLOWS], [], ()),
    "guided_offsets": ("guided_offsets", [CLIP], [(T * 12 * 2, C), (T * 12 * 2,)], (FLOWS, (4, 3), 5.0)),
    "convolve_onto": ("convolve_onto", [CLIP, (1, T, H, W, 8)], [(C, 5, 1, 3, 3), V], ()),
    "deformable_attention": (
        "deformable_attention",
        [CLIP, (1, T, H, W, 2 * C), (1, T, H, W, T, 4, 9, 2)],
        [],
        (4, (3, 3)),
    ),
    "deformable_attention two heads": (
        "deformable_attention",
        [CLIP, (1, T, H, W, 2 * C), (1, T, H, W, T, 8, 9, 2)],
        [],
        (2, (3, 3)),
    ),
    "neighborhood_attention": ("neighborhood_attention", [CLIP, (1, T, H, W, 2 * C)], [], (2, (3, 3))),
    "swin_layer": ("swin_layer", [CLIP], [SWIN], (2, (2, 4, 4), False)),
    "swin_layer shifted": ("swin_layer", [CLIP], [SWIN], (2, (1, 4, 4), True)),
    "swin_layer biased": ("swin_layer", [CLIP], [[*SWIN, (3 * 15 * 15, 2)]], (2, (2, 8, 8), True)),
    "swin_layer_onto": ("swin_layer_onto", [CLIP, CLIP], [SWIN, (C, C), V], (2, (2, 4, 4), False)),
    "swin_layer of one window": ("swin_layer", [(1, T, 4, 4, C)], [SWIN], (2, (2, 4, 4), True)),
    "lucas_kanade": ("lucas_kanade", [(3, H, W, 3), (3, H, W, 3)], [], ()),
    "fuse_frames": ("fuse_frames", [(T, H, W, 3), (T, 3, H, W, 3), (T, 3, H, W, 2), (T, 3, H, W)], [], ()),
}
SLOW_DEFINITIONS = ("lucas_kanade", "fuse_frames")  # hundreds of MindSpore's operations


class OnnxCall:
    """An op on tensors with these values, as a graph of its own."""

    def __init__(self, dynamic: bool) -> None:
        self.graph = GraphBuilder()
        self._dynamic, self._feeds, self._dims = dynamic, {}, {}

    def tensor(self, array: np.ndarray) -> SymbolicTensor:
        """An input; of a dynamic call, all sizes along H and W are unknown."""
        name = f"x{len(self._feeds)}"
        self._feeds[name] = array
        self.graph.add_input(name, array.shape)
        rows = array.ndim - (4 if array.shape[-1] == 2 and array.ndim == 8 else 0)
        axes = (2, 3) if array.ndim == 8 or array.shape[-1] == W else (rows - 3, rows - 2)
        shape = [self._size(name, axis, size) if axis in axes else size for axis, size in enumerate(array.shape)]
        return SymbolicTensor(self.graph, shape, ms.float32, name)

    def _size(self, name: str, axis: int, size: int) -> Any:
        if not self._dynamic:
            return size
        if size not in self._dims:  # equal sizes are one and the same
            bounds = [self.graph.integers(end) for end in (axis, axis + 1, 0)]
            value = self.graph.node("Slice", [self.graph.node("Shape", [name]), *bounds])
            self._dims[size] = Dim(self.graph, value, f"size{size}")
        return self._dims[size]

    def run(self, results: Any) -> list[np.ndarray]:
        """The values of the results."""
        results = results if isinstance(results, tuple) else (results,)
        for i, result in enumerate(results):
            self.graph.add_output(f"y{i}", result.value, [f"y{i}.{axis}" for axis in range(len(result.shape))])
        content = self.graph.template("").fill({}, {})
        return onnxruntime.InferenceSession(content).run(None, self._feeds)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * case.startswith(SLOW_DEFINITIONS)) for case in CASES]
)
def test_op_equals_its_definition(case: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # MindSpore's own tanh is wrong by up to 1e-4 on a CPU
    monkeypatch.setattr(attention.ops, "tanh", lambda x: ms.Tensor(np.tanh(x.asnumpy())))
    name, shapes, weight_shapes, rest = CASES[case]
    rng = np.random.default_rng(len(case))
    call = OnnxCall(dynamic)

    def values(shape: Any, scale: float = 1.0) -> Any:
        """Random arrays; pixels of optical flow and frame fusion are colors, their matches lie between 0 and 1 too."""
        if isinstance(shape, tuple) and shape and not isinstance(shape[0], int):
            return tuple(values(part, scale) for part in shape)
        if isinstance(shape, list):
            return [values(part, scale) for part in shape]
        if name in ("lucas_kanade", "fuse_frames") and shape[-1] in (3, W):
            return rng.uniform(0, 1, shape).astype(np.float32)
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def converted(value: Any, convert: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(converted(part, convert) for part in value)
        return convert(value)

    frames, weights = values(list(shapes), 1.5), values(list(weight_shapes), 0.5)
    more = [values(item) if item == FLOWS else item for item in rest]
    expected = DEFINITIONS[name](
        *converted(frames, ms.Tensor),
        *converted(weights, ms.Tensor),
        *[ms.Tensor(item) if isinstance(item, np.ndarray) else item for item in more],
    )
    results = call.run(
        getattr(OnnxAttention(call.graph), name)(
            *converted(frames, call.tensor),
            *converted(weights, ms.Tensor),
            *[call.tensor(item) if isinstance(item, np.ndarray) else item for item in more],
        )
    )
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        assert_close(result, wanted.asnumpy(), 1e-5, case)


def test_flow_of_a_still_scene_is_exactly_zero() -> None:
    """Just below zero, frame fusion would take other samples."""
    frames = np.random.default_rng(5).uniform(0, 1, (2, 19, 27, 3)).astype(np.float32)
    frames[:, :, :13] *= 0.01
    call = OnnxCall(dynamic=True)
    found = call.run(OnnxAttention(call.graph).lucas_kanade(call.tensor(frames), call.tensor(frames.copy())))
    np.testing.assert_array_equal(found[0], np.zeros((2, 19, 27, 2), np.float32))
    np.testing.assert_array_equal(found[1], np.ones((2, 19, 27), np.float32))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(18, 26), (5, 20)])
def test_resize_equals_its_definition(size: tuple[int, int], aligned: bool) -> None:
    call = OnnxCall(dynamic=True)
    x = np.random.default_rng(3).standard_normal((T, H, W, 2)).astype(np.float32)
    expected = layers.resize_bilinear(ms.Tensor(x), *size, align_corners=aligned).asnumpy()
    [result] = call.run(OnnxAttention(call.graph).resize_bilinear(call.tensor(x), *size, align_corners=aligned))
    assert_close(result, expected, 1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_parts_and_shapes_are_those_of_numpy(dynamic: bool) -> None:
    x = np.random.default_rng(4).standard_normal((1, T, 10, 14, 3)).astype(np.float32)
    call = OnnxCall(dynamic)
    tensor = call.tensor(x)
    height, width = tensor.shape[2:4]
    results = (
        tensor[:, :, ::2, 1::2],
        tensor[:, 0, :-3, 2:],
        tensor[..., -1, :, 1:],
        tensor[:, :, : height // 2, : width - 4],
        tensor.reshape(T, -1, 3),
        tensor.reshape(-1, width, 3),
        tensor.reshape(1, T, 1, height, width, 3),
        tensor.expand_dims(-1) - 1.5,
    )
    expected = (
        x[:, :, ::2, 1::2],
        x[:, 0, :-3, 2:],
        x[..., -1, :, 1:],
        x[:, :, :5, :10],
        x.reshape(T, -1, 3),
        x.reshape(-1, 14, 3),
        x[:, :, None],
        x[..., None] - np.float32(1.5),
    )
    for result, wanted in zip(call.run(results), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_arithmetic_with_unknown_sizes_rounds_like_python() -> None:
    call = OnnxCall(dynamic=True)
    x = call.tensor(np.zeros((1, 1, 9, 13, 1), np.float32))
    height, width = x.shape[2:4]
    sizes = [-height % 8, -(-height // 8) * 8, (height + width) // 4, 3 * width - 1, 40 - height]
    for i, size in enumerate(sizes):
        value = call.graph.node("Cast", [size.name], to=1)
        call.graph.add_output(f"y{i}", value, [1])
    content = call.graph.template("").fill({}, {})
    found = onnxruntime.InferenceSession(content).run(None, call._feeds)
    assert [int(value[0]) for value in found] == [-9 % 8, -(-9 // 8) * 8, (9 + 13) // 4, 3 * 13 - 1, 40 - 9]
