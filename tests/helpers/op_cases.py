# SPDX-License-Identifier: Apache-2.0
"""Every op that has kernels and gradients, called through MindSpore with random tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mindspore as ms
import numpy as np
from mindspore import Tensor

from rvrt_cli import ops
from rvrt_cli.ops import attention, layers, sampling

N, T, H, W, C = 2, 2, 9, 7, 6
X, WIDE = (N, T, H, W, C), (N, T, H, W, 10)
IMAGE = (N, H, W, C)
VECTOR, HIDDEN = (C,), (10,)
SWIN = [VECTOR, VECTOR, (3 * C, C), (3 * C,), (C, C), VECTOR, VECTOR, VECTOR, (10, C), HIDDEN, (C, 10), VECTOR]

FLOWS = (N, T, T, H, W, 2)
ALIGNMENT = [
    *[(8, C), (8,)] * 3,
    (C, 8),
    VECTOR,
    (10, C),
    HIDDEN,
    (C, 10),
    VECTOR,
]  # 8 channels of query, key and value

# name: (definitions, shapes of the tensors, a list where the op takes a tuple of them, what follows them)
CASES = {
    "linear": (layers, [X, (10, C), HIDDEN], ()),
    "linear gelu": (layers, [X, (10, C), HIDDEN], ("gelu",)),
    "linear residual": (layers, [X, (10, C), HIDDEN, WIDE], ("leaky_relu",)),
    "norm_linear": (layers, [X, VECTOR, VECTOR, (10, C), HIDDEN], ("relu",)),
    "mlp": (layers, [X, VECTOR, VECTOR, (10, C), HIDDEN, (C, 10), VECTOR], ()),
    "layer_norm": (layers, [X, VECTOR, VECTOR], ()),
    "conv2d": (layers, [IMAGE, (10, C, 1, 3, 3), HIDDEN], ("leaky_relu",)),
    "conv2d 5x3": (layers, [IMAGE, (10, C, 5, 3), HIDDEN], ()),
    "conv2d 1x1": (layers, [IMAGE, (10, C, 1, 1), HIDDEN], ("relu",)),
    "conv2d residual": (layers, [IMAGE, (C, C, 3, 3), VECTOR, IMAGE], ()),
    "conv2d relu residual": (layers, [IMAGE, (C, C, 3, 3), VECTOR, IMAGE], ("relu",)),
    "conv2d gelu": (layers, [IMAGE, (10, C, 3, 3), HIDDEN], ("gelu",)),
    "pixel_shuffle": (layers, [(N, H, W, 8)], (2, "leaky_relu")),
    "pixel_shuffle 4": (layers, [(N, H, W, 32)], (4, "leaky_relu")),
    "pixel_shuffle 3": (layers, [(N, H, W, 9)], (3,)),
    "reverse_time": (layers, [(N, 3, H, W, C)], ()),
    "add_upsampled": (layers, [(N, 4 * H, 4 * W, 3), (N, H, W, 3)], ()),
    "charbonnier": (layers, [IMAGE, IMAGE], ()),
    "window_attention": (attention, [(N, T, H, W, 3 * C), (3 * C,)], (None, 2, (2, 4, 4), (0, 2, 2))),
    "window_attention bias": (attention, [(N, T, H, W, 3 * C), (3 * C,), (3, 16, 16)], (3, (1, 4, 4), (0, 0, 0))),
    "swin_layer": (attention, [X, SWIN], (2, (2, 4, 4), True)),
    "swin_layer bias": (attention, [X, [*SWIN, (3 * 7 * 7, 3)]], (3, (2, 4, 4), False)),
    "swin_layer shortened": (attention, [X, [*SWIN, (3 * 15 * 15, 2)]], (2, (2, 8, 8), True)),
    "swin_layer_onto": (attention, [X, X, SWIN, (C, C), VECTOR], (2, (2, 4, 4), True)),
    "swin_layer_onto bias": (attention, [X, X, [*SWIN, (3 * 7 * 7, 3)], (C, C), VECTOR], (3, (2, 4, 4), False)),
    "neighborhood_attention": (attention, [X, (N, T, H, W, 2 * C)], (2, (3, 3))),
    "deformable_attention": (attention, [X, (N, T, H, W, 2 * C), (N, T, H, W, T, 4, 9, 2)], (2, (3, 3))),
    "warp": (sampling, [IMAGE, (N, H, W, 2)], ()),
    "warp border": (sampling, [IMAGE, (N, H, W, 2)], (True,)),
}
# The same; on a GPU, MindSpore's own kernels take part in these
CPU_CASES = {
    "linear two": (layers, [[X, WIDE], (10, C + 10), HIDDEN], ()),
    "linear three": (layers, [[X, WIDE, X], (C, 2 * C + 10), VECTOR], ("gelu",)),
    "conv_body": (layers, [[WIDE, X], [(C, C + 10, 3, 3), VECTOR, *[(C, C, 1, 3, 3), VECTOR] * 2]], (0.8, True)),
    "conv_body bare": (layers, [[X, X, X], [(20, 3 * C, 3, 3), (20,), *[(20, 20, 3, 3), (20,)] * 4]], (1.0, False)),
    "conv_chain": (layers, [IMAGE, [(C, C, 3, 3), VECTOR, (C, C, 1, 3, 3), VECTOR] * 2], (True,)),
    "conv_chain leaky": (layers, [IMAGE, [(C, C, 3, 3), VECTOR] * 4], (False,)),
    "convolve_onto": (layers, [WIDE, (N, T, H, W, C + 3), (10, C, 1, 3, 3), HIDDEN], ()),
    "convolve_onto all": (layers, [X, WIDE, (C, 10, 3, 3), VECTOR], ()),
    "attend_at_offsets": (attention, [X, X, X, (N, T, H, W, T, 4, 9, 2), ALIGNMENT], ((2, 3, 4),)),
    "guided_attention": (
        attention,
        [[X, X, X, X], FLOWS, [(T * 36 * 2, C), (T * 36 * 2,), *ALIGNMENT]],
        ((2, 3, 4), 5.0),
    ),
    "linear_pair": (layers, [X, WIDE, (10, C), HIDDEN, (C, 10), VECTOR], ()),
    "project_mlp": (layers, [WIDE, (C, 10), VECTOR, (10, C), HIDDEN, (C, 10), VECTOR], ()),
    "linear five": (layers, [[X, X, X, X, WIDE], (10, 4 * C + 10), HIDDEN], ("leaky_relu",)),
    "linear six": (layers, [[X] * 6, (10, 6 * C), HIDDEN], ()),  # one more than the kernel takes
    "linear two residual": (layers, [[X, WIDE], (10, C + 10), HIDDEN, WIDE], ()),
    "conv2d two": (layers, [[IMAGE, IMAGE], (10, 2 * C, 3, 3), HIDDEN], ("leaky_relu",)),
    "conv2d four": (layers, [[IMAGE] * 4, (20, 4 * C, 1, 3, 3), (20,)], ("relu",)),  # by Winograd's algorithm
    "conv2d five": (layers, [[IMAGE] * 5, (10, 5 * C, 5, 5), HIDDEN], ()),
    "conv2d six": (layers, [[IMAGE] * 6, (10, 6 * C, 3, 3), HIDDEN], ()),
    "conv2d three residual": (layers, [[IMAGE] * 3, (C, 3 * C, 3, 3), VECTOR, IMAGE], ("relu",)),
    "warp_clip": (sampling, [X, (N, T, T, H, W, 2)], ()),
    "warp_clip three": (sampling, [(1, 3, H, W, C), (1, 3, 3, H, W, 2)], ()),
    "guided_offsets": (attention, [X, (T * 12 * 2, C), (T * 12 * 2,), (N, T, T, H, W, 2)], ((4, 3), 5.0)),
    "guided_offsets one": (attention, [(N, 1, H, W, C), (36, C), (36,), (N, 1, 1, H, W, 2)], ((2, 9), 10.0)),
}


def arguments(name: str, shapes: list, rest: tuple) -> list:
    """Random tensors, always the same for a name, then what follows them; a residual comes after the activation."""
    rng = np.random.default_rng(len(name))

    def random(shape: tuple[int, ...] | list) -> Tensor | tuple[Tensor, ...]:
        if isinstance(shape, list):
            return tuple(random(part) for part in shape)
        return Tensor(rng.standard_normal(shape).astype(np.float32))

    tensors = [random(shape) for shape in shapes]
    if name.endswith(" residual"):
        return [*tensors[:3], *(rest or ("none",)), tensors[3]]
    return [*tensors, *rest]


def of_tensors(function: Callable, values: list) -> tuple[Callable, list[Tensor]]:
    """`function` as one of the tensors among its arguments `values` alone, and these tensors."""
    tensors: list[Tensor] = []
    single, first, last = [], [], []  # of each argument: whether it is one tensor, and its part of `tensors`
    for value in values:
        group = (value,) if isinstance(value, Tensor) else value if _is_tuple_of_tensors(value) else ()
        single.append(isinstance(value, Tensor))
        first.append(len(tensors))
        tensors += group
        last.append(len(tensors))
    constants = [value if first[i] == last[i] else None for i, value in enumerate(values)]

    def call(*tensors: Tensor) -> Tensor:  # graph mode compiles it
        filled: tuple = ()
        for i in range(len(constants)):
            if single[i]:
                filled = filled + (tensors[first[i]],)  # noqa: RUF005
            elif first[i] < last[i]:
                filled = filled + (tensors[first[i] : last[i]],)  # noqa: RUF005
            else:
                filled = filled + (constants[i],)  # noqa: RUF005
        return function(*filled)

    return call, tensors


def _is_tuple_of_tensors(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, Tensor) for part in value)


def values_and_gradients(function: Callable, values: list) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The outputs, and the gradient of their sum with random weights towards every tensor."""
    call, parts = of_tensors(function, values)

    def weighted(*tensors: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = call(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        rng, total = np.random.default_rng(1), 0.0
        for output in outputs:
            total = total + (output * Tensor(rng.standard_normal(output.shape), output.dtype)).sum()
        return total, outputs

    gradient = ms.value_and_grad(weighted, tuple(range(len(parts))), has_aux=True)
    (_, outputs), gradients = gradient(*parts)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return [output.asnumpy() for output in outputs], [g.asnumpy() for g in gradients]


def value_and_gradients(function: Callable, values: list) -> tuple[np.ndarray, list[np.ndarray]]:
    """`values_and_gradients` of a function with one output."""
    [output], gradients = values_and_gradients(function, values)
    return output, gradients


def results_of(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Outputs of the ops of some cases, and their gradients from a random one of the output: NAME/output, NAME/gradient i.

    Between the op and the result there is no other operation of MindSpore's.
    """
    results = {}
    for name in names:
        call, parts = of_tensors(getattr(ops, name.split()[0]), arguments(name, *CASES[name][1:]))
        output = results[f"{name}/output"] = call(*parts).asnumpy()
        dout = Tensor(np.random.default_rng(1).standard_normal(output.shape).astype(np.float32))
        gradient = ms.ops.GradOperation(get_all=True, sens_param=True)(call)
        results |= {f"{name}/gradient {i}": found.asnumpy() for i, found in enumerate(gradient(*parts, dout))}
    return results
