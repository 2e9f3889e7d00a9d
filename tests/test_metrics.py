# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and luma against formulas and scikit-image."""

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from rvrt_cli.metrics import chroma_error, clip_means, psnr, rgb_to_cbcr, rgb_to_y, ssim


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with texture, and a noisy copy."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:47, :61]
    clean = 128 + 60 * np.sin(x / 7) * np.cos(y / 5) + rng.normal(0, 8, (47, 61))
    image = np.stack([clean, clean[::-1], 255 - clean], -1)
    return tuple(np.clip(np.rint(i), 0, 255).astype(np.uint8) for i in (image + rng.normal(0, 12, image.shape), image))


def test_one_level_everywhere_is_48_13_db() -> None:
    reference = np.full((20, 30, 3), 100, np.uint8)
    error = np.where(np.indices(reference.shape).sum(0) % 2, 1, -1)
    assert psnr((reference + error).astype(np.uint8), reference) == pytest.approx(48.1308, abs=1e-4)
    # one level of R, G and B together is 219/255 of a level of luma
    y, expected = rgb_to_y(reference + np.uint8(1)), 48.1308 + 20 * np.log10(255 / 219)
    assert psnr(y, rgb_to_y(reference)) == pytest.approx(expected, abs=1e-4)


def test_uint8_differences_do_not_wrap() -> None:
    black, white = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0


def test_equal_images() -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rgb", "luma"), [((0, 0, 0), 16.0), ((255, 255, 255), 235.0), ((255, 0, 0), 81.481), ((0, 255, 0), 144.553)]
)
def test_luma_of_known_colors(rgb: tuple[int, int, int], luma: float) -> None:
    assert rgb_to_y(np.array([[rgb]], np.uint8))[0, 0] == pytest.approx(luma, abs=1e-9)
    assert rgb_to_y(np.array([[rgb]]) + 0.4)[0, 0] == pytest.approx(luma, abs=1e-9)  # rounded before, not after


@pytest.mark.parametrize("channels", ["rgb", "y"])
def test_ssim_equals_scikit_image(pair: tuple[np.ndarray, np.ndarray], channels: str) -> None:
    image, reference = pair if channels == "rgb" else (rgb_to_y(pair[0]), rgb_to_y(pair[1]))
    expected = structural_similarity(
        image.astype(float),
        reference.astype(float),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1 if channels == "rgb" else None,
    )
    assert 0.3 < expected < 0.95
    assert ssim(image, reference) == pytest.approx(expected, abs=1e-9)


def test_every_clip_counts_the_same() -> None:
    clips, total = clip_means({"long": [30.0, 32.0, 34.0, 32.0], "short": [20.0]})
    assert clips == {"long": 32.0, "short": 20.0}
    assert total == 26.0
    with pytest.raises(ValueError, match="at least one frame"):
        clip_means({"empty": []})


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(4, 5\)"):
        psnr(np.zeros((4, 4)), np.zeros((4, 5)))


def test_chroma_matches_scikit_image() -> None:
    image = np.random.default_rng(3).integers(0, 256, (9, 11, 3), np.uint8)
    np.testing.assert_allclose(rgb_to_cbcr(image), rgb2ycbcr(image)[..., 1:], atol=1e-9)


def test_chroma_errors_are_of_each_channel_over_all_frames() -> None:
    gray = np.full((2, 8, 8, 3), 100, np.uint8)
    blue = gray.copy()
    blue[1, ..., 2] += 51  # a fifth of the range: Cb rises by 112 / 5 levels, Cr falls by 18.214 / 5
    np.testing.assert_allclose(chroma_error(blue, gray), [22.4**2 / 2, 3.6428**2 / 2], rtol=1e-9)
    assert not chroma_error(gray, gray + np.uint8(3)).any()  # luma alone
