# SPDX-License-Identifier: Apache-2.0
"""MATLAB's imresize and the BD degradation, against golden vectors and direct sums."""

from pathlib import Path

import numpy as np
import pytest

from rvrt_cli.data.resize import blur_downsample, imresize

GOLDEN = Path(__file__).parents[1] / "golden" / "imresize_matlab.npz"


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("factor", [2, 4])
def test_imresize_equals_matlab(image: int, factor: int) -> None:
    with np.load(GOLDEN) as golden:
        small = imresize(golden[f"hr{image}"], 1 / factor)
        expected = golden[f"x{factor}_{image}"]
    wrong = small != expected
    worst = np.abs(small.astype(int) - expected).max()
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} pixels differ, by up to {worst}, first {np.argwhere(wrong)[0]}"
    )


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resize_by_definition(line: np.ndarray, length: int) -> np.ndarray:
    """Keys' kernel on a line, pixel centers at half integers, widened when reducing, mirrored ends: sums in a loop."""
    scale = length / len(line)
    shrink = min(scale, 1)
    padded = np.concatenate([line[::-1], line, line[::-1]]).astype(float)
    out = []
    for index in range(length):
        center = (index + 0.5) / scale - 0.5
        weights = np.array([keys((p - len(line) - center) * shrink) for p in range(len(padded))])
        out.append((weights * padded).sum() / weights.sum())
    return np.array(out)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 56, (10, 14)), (31, 23, (11, 30)), (9, 10, (36, 40)), (30, 40, (19, 31))]
)
def test_imresize_of_floats_equals_the_definition(height: int, width: int, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random((height, width, 2))
    expected = np.apply_along_axis(resize_by_definition, 1, image, size[1])
    expected = np.apply_along_axis(resize_by_definition, 0, expected, size[0])
    result = imresize(image, size=size)
    assert result.dtype == np.float32
    assert result.shape == (*size, 2)
    assert np.abs(result - expected).max() < 2e-6


def test_leading_axes_are_independent_frames() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (2, 3, 32, 24, 3), dtype=np.uint8)
    for degrade in (blur_downsample, lambda image: imresize(image, 0.25)):
        together = degrade(frames)
        assert together.shape == (2, 3, 8, 6, 3)
        assert np.array_equal(together[1, 2], degrade(frames[1, 2]))


@pytest.mark.parametrize(("taps", "center"), [(12, 1.5), (13, 1.0)])
def test_bd_kernel_anchor_and_phase(taps: int, center: float) -> None:
    """Every single HR pixel's weight in every LR pixel: a Gaussian about 4i + center, cut at `taps`."""
    height, width = 24, 32
    impulses = np.eye(height * width).reshape(height * width, height, width, 1)
    response = blur_downsample(impulses, taps)[..., 0].reshape(height, width, height // 4, width // 4)
    for row, column in ((2, 3), (3, 4)):  # away from the border
        y, x = np.mgrid[:height, :width]
        dy, dx = y - (4 * row + center), x - (4 * column + center)
        expected = np.exp(-(dy**2 + dx**2) / (2 * 1.6**2)) * ((abs(dy) <= (taps - 1) / 2) & (abs(dx) <= (taps - 1) / 2))
        expected /= expected.sum()
        assert np.count_nonzero(expected) == taps**2
        assert np.abs(response[:, :, row, column] - expected).max() < 1e-7


def test_bd_replicates_the_border_and_rounds_once() -> None:
    image = np.random.default_rng(3).integers(0, 256, (32, 36, 3), dtype=np.uint8)
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="edge").astype(np.float64)
    inner = blur_downsample(padded)[2:-2, 2:-2]
    assert np.array_equal(blur_downsample(image), np.rint(inner).astype(np.uint8))


def test_default_bd_is_aligned_with_bicubic() -> None:
    """The published BD data is centered on the 4×4 blocks: a symmetric image stays symmetric."""
    half = np.random.default_rng(4).random((32, 16, 3))
    small = blur_downsample(np.concatenate([half, half[:, ::-1]], 1))
    assert np.abs(small - small[:, ::-1]).max() < 1e-6


def test_bad_requests_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="either scale or size"):
        imresize(image)
    with pytest.raises(ValueError, match="int64"):
        imresize(image.astype(np.int64), 0.5)
    with pytest.raises(ValueError, match="2×8"):
        blur_downsample(image[:2])
