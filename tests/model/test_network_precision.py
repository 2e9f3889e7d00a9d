# SPDX-License-Identifier: Apache-2.0
"""Networks whose products have bfloat16 operands, against the same networks in float32."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from golden.named_weights import named_array
from helpers.video_clips import read_all

from rvrt_cli.device import Device
from rvrt_cli.errors import OptionError
from rvrt_cli.model import PRESETS, Network, parameter_shapes
from rvrt_cli.ops import kernels
from rvrt_cli.weights import embedded_folder, load_weights

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.problem()))

FLOAT32, EMULATED, EMULATED_PAIRS, BEST = 0, 1, 4, -1  # arguments of rvrt_kernels_bfloat16
ENOUGH = 45  # dB between outputs in the two precisions: far below the network's own error


def choose(level: int) -> int:
    return ctypes.CDLL(str(kernels.library())).rvrt_kernels_bfloat16(level)


@pytest.fixture(autouse=True)
def _float32_again() -> Iterator[None]:
    yield
    choose(FLOAT32)


@pytest.fixture
def _bfloat16() -> None:
    if choose(BEST) == FLOAT32:
        pytest.skip("this processor has neither AMX nor AVX512-BF16")
    choose(FLOAT32)


@pytest.fixture
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run stages operation by operation: the shapes here occur once."""
    monkeypatch.setenv("MS_JIT", "0")


def city(frames: int, height: int, width: int) -> np.ndarray:
    """(1, frames, height, width, 3) in [0, 1]."""
    read = read_all(Path(__file__).parents[1] / "media" / "city.mp4", duration=0.5)[:frames]
    assert len(read) == frames
    return np.stack([frame.pixels[30 : 30 + height, 60 : 60 + width] for frame in read])[None].astype(np.float32) / 255


def tiny(precision: str) -> Network:
    loaded = load_weights(embedded_folder() / "rvrt-tiny.safetensors")
    return Network(loaded.config, loaded.arrays, loaded.card, Device("cpu", precision))


def published(precision: str) -> Network:
    """The published structure at the width of the golden vectors, with their weights."""
    config = replace(PRESETS["rvrt"], widths=(36, 36, 36))
    arrays = {name: named_array(name, shape) for name, shape in parameter_shapes(config).items()}
    return Network(config, arrays, {"name": "rvrt"}, Device("cpu", precision))


def decibels(ours: np.ndarray, expected: np.ndarray) -> float:
    """PSNR for a peak of 1, or for the spread of the values where a network without training exceeds it."""
    peak = max(1.0, float(expected.max() - expected.min()))
    return 10 * np.log10(peak**2 / np.mean((ours.astype(np.float64) - expected) ** 2))


@pytest.mark.slow
@pytest.mark.usefixtures("_bfloat16", "_not_compiled")
@pytest.mark.parametrize(
    ("build", "size"), [(tiny, (4, 32, 40)), (published, (2, 16, 24))], ids=["rvrt-tiny", "published"]
)
def test_bfloat16_is_close_to_float32(build: object, size: tuple) -> None:
    """And each network of a process computes in its own precision, whichever was made or called last."""
    frames = city(*size)
    exact, half = build("float32"), build("bfloat16")
    first, _ = exact(frames, None, size[0])
    of_half, _ = half(frames, None, size[0])
    again, _ = exact(frames, None, size[0])
    np.testing.assert_array_equal(again, first)
    for ours, expected in zip(of_half[0], first[0], strict=True):  # frame by frame: errors do not grow along the clip
        assert ENOUGH < decibels(ours, expected) < 100, "100 dB is rounding in float32: nothing became bfloat16"


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
@pytest.mark.parametrize("level", [EMULATED, EMULATED_PAIRS], ids=["AMX", "pairs"])
def test_emulated_bfloat16_is_close_to_float32(level: int) -> None:
    frames, cell = ms.Tensor(city(2, 12, 16)), tiny("float32").cell
    exact = cell(frames).asnumpy()
    assert choose(level) == level
    assert ENOUGH < decibels(cell(frames).asnumpy(), exact) < 100


def test_a_network_in_bfloat16_is_refused_where_the_kernels_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ctypes.CDLL(str(kernels.library())).rvrt_kernels_isa(0)
    try:
        with pytest.raises(
            OptionError, match=r"--precision bfloat16: this CPU has neither .* or RVRT_ISA excludes them"
        ):
            tiny("bfloat16")
    finally:
        ctypes.CDLL(str(kernels.library())).rvrt_kernels_isa(-1)
    monkeypatch.setattr(kernels, "_locate_library", lambda: (None, "CPU kernels are missing"))
    kernels.library.cache_clear()
    try:
        with pytest.raises(OptionError, match="--precision bfloat16: CPU kernels are missing"):
            tiny("bfloat16")
        tiny("float32")
    finally:
        monkeypatch.undo()
        kernels.library.cache_clear()
