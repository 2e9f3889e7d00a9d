# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels have that the CPU's have not: float16, a compiler, an emulator that must find mistakes.

Their results in float32 are compared with float64 beside those of the CPU kernels: the fixture `kernels` has both.
"""

from __future__ import annotations

import ctypes
import importlib.util
import locale
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.comparison import assert_close
from helpers.flow_reference import moved_texture
from helpers.kernel_calls import CudaKernels, attributes
from helpers.kernel_checks import displacements, normal
from helpers.null_gpu import build_emulated_driver

from rvrt_cli.ops.kernels import cuda

Call = tuple[str, list[np.ndarray], list[int], list[tuple[int, ...]]]  # name, inputs, attributes, output shapes


def calls() -> Iterator[Call]:
    """Every kernel once, at sizes that no block divides."""
    rng = np.random.default_rng(3)
    n, t, h, w, c = 1, 2, 5, 9, 24
    clip, image, heads = (n, t, h, w, c), (t, h, w, c), 2
    x, g = normal(rng, *clip), normal(rng, *clip)
    kv, offset, flow = (
        normal(rng, n, t, h, w, 2 * c),
        displacements(rng, n, t, h, w, t, 4, 9, 2),
        2 * normal(rng, t, h, w, 2),
    )
    flow[flow % 1 == 0] += 0.25
    offset = np.clip(offset, -20, 20)
    yield "warp_forward", [x[0], flow], [0], [image]
    yield "warp_backward", [x[0], flow, g[0]], [0], [image, flow.shape]
    yield "neighborhood_attention_forward", [x, kv], [heads, 3, 3], [clip]
    yield "neighborhood_attention_backward", [x, kv, g], [heads, 3, 3], [clip, kv.shape]
    yield "deformable_attention_forward", [x, kv, offset], [heads, 3, 3], [clip]
    yield "deformable_attention_backward", [x, kv, offset, g], [heads, 3, 3], [clip, kv.shape, offset.shape]
    qkv, pad, bias = normal(rng, n, t, h, w, 3 * c), normal(rng, 3 * c), normal(rng, heads, 32, 32)
    window = [heads, 2, 4, 4, 0, 2, 2, 1]
    yield "window_attention_forward", [qkv, pad, bias], window, [clip]
    yield "window_attention_backward", [qkv, pad, bias, g], window, [qkv.shape, pad.shape, bias.shape]
    weight, vector, wide = normal(rng, 2 * c, c) / 5, normal(rng, c), normal(rng, 2 * c)
    back, kernel = normal(rng, c, 2 * c) / 7, normal(rng, c, c, 3, 3) / 15
    large = normal(rng, n, t, h, w, 2 * c)
    shapes = [clip, vector.shape, vector.shape, weight.shape, wide.shape]
    yield "linear_forward", [x, weight, wide, large], [1, 1, 1], [large.shape]
    yield "linear_backward", [x, weight, wide, large], [4, 1, 0], [clip, weight.shape, wide.shape]
    yield "norm_linear_forward", [x, vector, vector, weight, wide], [4, 1], [large.shape]
    yield "norm_linear_backward", [x, vector, vector, weight, wide, large], [4, 1], shapes
    yield "mlp_forward", [x, vector, vector, weight, wide, back, vector], [], [clip]
    yield "mlp_backward", [x, vector, vector, weight, wide, back, g], [], [*shapes, back.shape, vector.shape]
    yield "layer_norm_forward", [x, vector, vector], [], [clip]
    yield "layer_norm_backward", [x, vector, g], [], shapes[:3]
    yield "conv2d_forward", [x, kernel, vector, g], [1, 1, 1], [clip]
    yield "conv2d_backward", [x, kernel, g, g], [1, 1, 0], [clip, kernel.shape, vector.shape]
    shuffled = (t, 2 * h, 2 * w, c // 4)
    yield "pixel_shuffle_forward", [x[0]], [2, 1], [shuffled]
    yield "pixel_shuffle_backward", [normal(rng, *shuffled), normal(rng, *shuffled)], [2, 1], [image]
    yield "add_upsampled_forward", [x[0], normal(rng, t, 4 * h, 4 * w, c)], [], [(t, 4 * h, 4 * w, c)]
    yield "reverse_time_forward", [x], [], [clip]
    first, second = moved_texture(2, 21, 30)
    yield "lucas_kanade_forward", [first, second], [4, 2], [(2, 21, 30, 2), (2, 21, 30)]
    moves, matches = (
        normal(rng, 2, 1, 21, 30, 2),
        rng.uniform(0, 1, (2, 1, 21, 30)).astype(np.float16).astype(np.float32),
    )
    yield "fuse_frames_forward", [first, second[:, None], moves, matches], [], [(2, 21, 30, 64)]


@pytest.mark.parametrize("call", list(calls()), ids=lambda call: call[0])
def test_float16_is_float32_rounded(cuda_kernels: CudaKernels, call: Call) -> None:
    """Inputs that float16 holds exactly: what differs is the rounding of results and, within a kernel, of stored ones."""
    name, inputs, numbers, shapes = call
    half = [value.astype(np.float16) for value in inputs]
    attribute = [attributes(*numbers)] if numbers else []
    ours = cuda_kernels(name, *half, *attribute, like=shapes)
    expected = cuda_kernels(name, *(value.astype(np.float32) for value in half), *attribute, like=shapes)
    for i, (value, wanted) in enumerate(zip(ours, expected, strict=True)):
        assert value.dtype == np.float16
        assert_close(value, wanted.astype(np.float64), 2e-3, f"output {i}", floor=1e-3)


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((1, 2, 10, 16), (2, 8, 8), (1, 4, 4)),  # 128 queries, padded below
        ((2, 1, 9, 7), (1, 4, 4), (0, 2, 1)),  # fewer than a chunk of keys, padded on both sides
        ((1, 2, 9, 9), (2, 9, 9), (0, 0, 0)),  # 162: more than a block of queries, no whole chunk
    ],
)
@pytest.mark.parametrize("width", [24, 32, 5])
def test_window_attention_on_tensor_cores(
    cuda_kernels: CudaKernels, size: tuple, window: tuple, shift: tuple, width: int
) -> None:
    """In float16 a matrix product of whole warps, for which the emulator has the fragments of mma.m16n8k16."""
    rng, heads, length = np.random.default_rng(width), 2, int(np.prod(window))
    qkv, pad = normal(rng, *size, 3 * heads * width), normal(rng, 3 * heads * width)
    half = [value.astype(np.float16) for value in (qkv, pad, normal(rng, heads, length, length))]
    numbers, shape = attributes(heads, *window, *shift, 1), (*size, heads * width)
    [ours] = cuda_kernels("window_attention_forward", *half, numbers, like=[shape])
    [wanted] = cuda_kernels("window_attention_forward", *[x.astype(np.float32) for x in half], numbers, like=[shape])
    assert_close(ours, wanted.astype(np.float64), 2e-3)


@pytest.mark.parametrize("call", list(calls()), ids=lambda call: call[0])
def test_wrong_calls_are_refused_before_a_launch(cuda_kernels: CudaKernels, call: Call) -> None:
    name, inputs, numbers, shapes = call
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    attribute = [attributes(*numbers)] if numbers else []
    bad = {
        "a missing output": ([*inputs, *attribute], outputs[:-1]),
        "float64": ([inputs[0].astype(np.float64), *inputs[1:], *attribute], outputs),
        "mixed types": ([inputs[0].astype(np.float16), *inputs[1:], *attribute], outputs),
        "another shape": ([inputs[0][..., :-1].copy(), *inputs[1:], *attribute], outputs),
        "another output": ([*inputs, *attribute], [*outputs[:-1], np.zeros((2, 2), np.float32)]),
    }
    if numbers:
        bad["attributes missing"] = ([*inputs, attribute[0][:-1]], outputs)
    before = cuda_kernels.driver.emulated_gpu_launches()
    for what, (values, results) in bad.items():
        assert cuda_kernels.status(name, values, results) != 0, f"{name} accepts {what}"
    assert cuda_kernels.driver.emulated_gpu_launches() == before
    assert not any(result.any() for result in outputs)


def test_a_refused_allocation_is_an_error_and_the_next_call_works(cuda_kernels: CudaKernels) -> None:
    rng = np.random.default_rng(0)
    x, vector = normal(rng, 4000, 96), normal(rng, 96)  # more scratch memory than any call before
    weights = [vector, vector, normal(rng, 192, 96), normal(rng, 192), normal(rng, 96, 192), vector]
    cuda_kernels.driver.emulated_gpu_fail_after(ctypes.c_long(0))
    try:
        assert cuda_kernels.status("mlp_forward", [x, *weights], [np.zeros_like(x)]) == 5
    finally:
        cuda_kernels.driver.emulated_gpu_fail_after(ctypes.c_long(-1))
    assert np.isfinite(cuda_kernels("mlp_forward", x, *weights, like=[x])[0]).all()


def test_gradients_do_not_depend_on_the_order_of_blocks_where_that_is_promised(cuda_kernels: CudaKernels) -> None:
    """The emulator runs threads forwards in one block and backwards in the next: a second run turns the order round."""
    for name, inputs, numbers, shapes in calls():
        attribute = [attributes(*numbers)] if numbers else []
        first = cuda_kernels(name, *inputs, *attribute, like=shapes)
        cuda_kernels("reverse_time_forward", np.zeros((1, 1, 1), np.float32), like=[(1, 1, 1)])  # one block
        second = cuda_kernels(name, *inputs, *attribute, like=shapes)
        if name not in ("warp_backward", "deformable_attention_backward"):  # atomic additions
            for one, two in zip(first, second, strict=True):
                np.testing.assert_array_equal(one, two, err_msg=name)


@pytest.mark.slow
def test_a_lost_barrier_is_found(cuda_kernels: CudaKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product without the barrier between storing a step and reading it gives wrong results in the emulator."""
    import helpers.null_gpu

    for source in [*cuda.CUDA_SOURCES.glob("*.cu"), *cuda.CUDA_SOURCES.glob("*.h")]:
        if source.name in ("product.cu", "portable.h", "arguments.h"):
            (tmp_path / source.name).write_bytes(source.read_bytes())
    text = (tmp_path / "product.cu").read_text(encoding="utf-8")
    barrier = "    __syncthreads();\n    if (step + 1 < steps) fetch(step + 1);"
    assert text.count(barrier) == 1
    (tmp_path / "product.cu").write_text(text.replace(barrier, "    if (step + 1 < steps) fetch(step + 1);"), "utf-8")
    monkeypatch.setattr(helpers.null_gpu, "KERNELS", tmp_path)
    broken = build_emulated_driver(tmp_path, "libbroken_gpu.so")
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from helpers.kernel_calls import CudaKernels\n"
        "from helpers.kernel_checks import check_linear\n"
        "check_linear(CudaKernels(Path(sys.argv[1]), Path(sys.argv[2])), (50, 40, 50, 0))"
    )
    command = ["python", "-c", code, str(cuda_kernels.path), str(broken)]
    monkeypatch.setenv("NULL_GPU_COMPUTES", "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "AssertionError: y" in done.stderr, done.stderr


# --- compiled for real cards


def _pip_library(name: str) -> Path | None:
    """A file of NVIDIA's packages for CUDA 11, which the tests need no GPU for."""
    found = importlib.util.find_spec("nvidia")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / name).exists():
            return Path(folder) / name
    return None


@pytest.fixture(scope="module")
def nvrtc() -> cuda.Nvrtc:
    path = _pip_library("cuda_nvrtc/lib/libnvrtc.so.11.2")
    if path is None:
        pytest.skip("nvidia-cuda-nvrtc-cu11 is not installed")
    return cuda.Nvrtc(str(path))


# sm_70 and sm_80 have different code in these, as matrix products on tensor cores came between them
_ARCHITECTURE_DEPENDENT = ("product", "window_attention")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kernels"),
    [
        ("sm_70", _ARCHITECTURE_DEPENDENT),
        ("sm_80", ("*",)),
        pytest.param("sm_70", ("*",), marks=pytest.mark.soak),
        pytest.param("sm_90", ("*",), marks=pytest.mark.soak),  # the code is that of sm_80
    ],
    ids=["sm_70 where the code is its own", "sm_80", "sm_70", "sm_90"],
)
def test_every_kernel_compiles_without_spilling_registers(
    nvrtc: cuda.Nvrtc, target: str, kernels: tuple[str, ...], tmp_path: Path
) -> None:
    """As PTX for the architecture, and from that as machine code, whose use of registers ptxas tells."""
    ptxas = _pip_library("cuda_nvcc/bin/ptxas")
    if ptxas is None:
        pytest.skip("nvidia-cuda-nvcc-cu11 is not installed")

    def spilled(source: Path) -> list[str]:
        ptx = tmp_path / f"{source.stem}.ptx"
        ptx.write_bytes(nvrtc.compile(source, target.replace("sm", "compute")).rstrip(b"\0"))
        command = [str(ptxas), f"-arch={target}", "-v", str(ptx), "-o", str(ptx.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return [line for line in told.splitlines() if "spill" in line and "0 bytes spill stores" not in line]

    ptxas.chmod(0o755)  # some versions of pip lose the mode
    sources = [source for name in kernels for source in sorted(cuda.CUDA_SOURCES.glob(f"{name}.cu"))]
    assert len(sources) > 1
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(spilled, sources))
    assert not any(found), found


def test_nvrtc_names_the_error(nvrtc: cuda.Nvrtc, tmp_path: Path) -> None:
    (tmp_path / "broken.cu").write_text('extern "C" __global__ void broken() { missing(); }', encoding="utf-8")
    with pytest.raises(cuda.RvrtError, match=r"broken\.cu for sm_80.*missing"):
        nvrtc.compile(tmp_path / "broken.cu", "sm_80")


def test_a_new_card_gets_ptx_an_old_one_is_refused(
    nvrtc: cuda.Nvrtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one.cu").write_text('extern "C" __global__ void one(int *p) { *p = 1; }', encoding="utf-8")
    for header in ("portable.h", "arguments.h"):
        (tmp_path / header).write_bytes((cuda.CUDA_SOURCES / header).read_bytes())
    monkeypatch.setattr(cuda, "CUDA_SOURCES", tmp_path)
    encoding = locale.getpreferredencoding(False)
    [newer] = cuda.compile_kernels(nvrtc, 120)
    assert b".target sm_90" in newer
    assert locale.getpreferredencoding(False) == encoding, "NVRTC changes the locale"
    [known] = cuda.compile_kernels(nvrtc, 86)
    assert known.startswith(b"\x7fELF")
    monkeypatch.setattr(nvrtc, "compile", None)  # what follows comes from the cache
    assert cuda.compile_kernels(nvrtc, 86) == [known]
    with pytest.raises(cuda.RvrtError, match=r"6\.1"):
        cuda.compile_kernels(nvrtc, 61)
