# SPDX-License-Identifier: Apache-2.0
"""Build, convert and time the networks of others; run by compare.py in the environment of requirements.txt.

Nothing of the published code is part of this file: it is imported from a checkout that the user names. Every command prints
one JSON object. Clips are (1, T, H, W, 3) and images (1, H, W, 3), float32 in [0, 1]; the networks take channels first.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
import time
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

PYTORCH_POINTS, OPENVINO_POINTS = 3, 9  # kernel points per grid_sample with which each is fastest
WIDER_THAN_AVX2 = ("avx512", "amx", "mlas")  # in the names of OpenVINO's kernels; MLAS heeds no setting
Result = dict[str, Any]


def published_rvrt(checkout: Path, points_per_call: int) -> Any:
    """The published network with the weights of tests/golden/named_weights.py, and attention by `grid_sample`.

    The checkout's module of attention compiles a CUDA extension when it is imported: that one call is replaced.
    """
    import torch
    from sampled_attention import SampledAttention
    from torch.utils import cpp_extension

    sys.path[:0] = [str(checkout), str(Path(__file__).resolve().parents[1] / "golden")]
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))  # imported, never used
    with mock.patch.object(cpp_extension, "load"):
        published: Any = importlib.import_module("models.network_rvrt")
    published.deform_attn = SampledAttention(points_per_call)
    network = published.RVRT().eval()
    named_array = importlib.import_module("named_weights").named_array
    for name, tensor in network.state_dict().items():
        array = named_array(name, tuple(tensor.shape)) if tensor.is_floating_point() else None
        if array is not None:  # not a constant
            tensor.copy_(torch.from_numpy(array))
    return network


def published_rfdn(checkout: Path) -> Any:
    """RFDN with random weights."""
    import torch

    sys.path.insert(0, str(checkout))
    torch.manual_seed(0)
    return importlib.import_module("RFDN").RFDN().eval()


def prepare_rvrt(options: Namespace) -> Result:
    """Write checkpoint.pth and rvrt.xml for clips of `frames` frames of `size` px."""
    import torch

    network = published_rvrt(options.checkout, OPENVINO_POINTS)
    torch.save({"params": network.state_dict()}, options.folder / "checkpoint.pth")
    width, height = options.size
    clip = torch.rand(1, options.frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    _convert(network, clip, options.folder / "rvrt.xml")
    return {}


def prepare_rfdn(options: Namespace) -> Result:
    """Write rfdn.xml for images of `size` px, and count the operations of its convolutions."""
    import torch

    network = published_rfdn(options.checkout)
    width, height = options.size
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    operations = 0

    def count(layer: Any, _inputs: Any, output: Any) -> None:
        nonlocal operations
        operations += 2 * output.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    _convert(network, image, options.folder / "rfdn.xml")
    return {"gflop": operations / 1e9}


def _convert(network: Any, example: Any, target: Path) -> None:
    """Trace the network and save it for OpenVINO, with static shapes and float32 weights."""
    import openvino
    import torch

    with torch.no_grad():
        network(example)  # fills the published code's cache of masks, which become constants
        traced = torch.jit.trace(network, example, check_trace=False)
    model = openvino.convert_model(traced, example_input=example, input=list(example.shape))
    openvino.save_model(model, target, compress_to_fp16=False)  # the default halves the weights' precision


def time_pytorch(options: Namespace) -> Result:
    """Time the published RVRT in PyTorch, eager as published."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    network = published_rvrt(options.checkout, PYTORCH_POINTS)
    clip = torch.from_numpy(_channels_first(options.input))
    bfloat16 = torch.autocast("cpu", torch.bfloat16) if options.precision == "bfloat16" else nullcontext()
    with torch.inference_mode(), bfloat16:
        result, output = _time_calls(lambda: network(clip), options.repeat)
    np.save(options.output, np.moveaxis(output.float().numpy(), -3, -1))
    return {**result, "version": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}


def time_openvino(options: Namespace) -> Result:
    """Time a converted network in OpenVINO."""
    import openvino

    properties = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[
            options.precision
        ],  # by default bf16 if it can
        "PERFORMANCE_HINT": "LATENCY",
        **({"INFERENCE_NUM_THREADS": options.threads} if options.threads else {}),
    }
    core = openvino.Core()
    request = core.compile_model(options.model, "CPU", properties).create_infer_request()
    clip = _channels_first(options.input)
    result, output = _time_calls(lambda: request.infer({0: clip})[0], options.repeat)
    np.save(options.output, np.moveaxis(output, -3, -1))
    request = core.compile_model(options.model, "CPU", {**properties, "PERF_COUNT": True}).create_infer_request()
    request.infer({0: clip})
    return {**result, "version": openvino.__version__, **_kernel_shares(request.profiling_info)}


def _kernel_shares(profile: list[Any]) -> Result:
    """The instruction set in which OpenVINO spends most of its time, and the share of kernels wider than AVX2, by their names."""
    total, wide = 0.0, 0.0
    by_isa: dict[str, float] = {}
    for node in profile:
        kernel, spent = node.exec_type, node.real_time.total_seconds()
        total += spent
        wide += spent if any(mark in kernel for mark in WIDER_THAN_AVX2) else 0
        for part in kernel.split("_"):
            if part.startswith("avx"):
                by_isa[part] = by_isa.get(part, 0.0) + spent
    return {"isa": max(by_isa, key=lambda isa: by_isa[isa], default="unknown"), "wider_than_avx2": wide / total}


def _time_calls(call: Callable[[], Any], repeat: int) -> tuple[Result, Any]:
    """Seconds of each call after two to warm up, peak memory of this process, and the last output."""
    call()
    call()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        output = call()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "peak_mb": peak}, output


def _channels_first(path: Path) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(np.load(path), -1, -3))


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(name: str, action: Callable[[Namespace], Result]) -> ArgumentParser:
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        return command

    for name, action in (("prepare-rvrt", prepare_rvrt), ("prepare-rfdn", prepare_rfdn)):
        command = add(name, action)
        command.add_argument("checkout", type=Path)
        command.add_argument("folder", type=Path)
        command.add_argument("--frames", type=int)
        command.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), required=True)
    for name, action in (("pytorch", time_pytorch), ("openvino", time_openvino)):
        command = add(name, action)
        if name == "pytorch":
            command.add_argument("checkout", type=Path)
        else:
            command.add_argument("model", type=Path)
        command.add_argument("input", type=Path)
        command.add_argument("output", type=Path)
        command.add_argument("--repeat", type=int, required=True)
        command.add_argument("--precision", required=True)
        command.add_argument("--threads", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    parsed = _parse()
    print(json.dumps(parsed.action(parsed)))
