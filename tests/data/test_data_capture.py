# SPDX-License-Identifier: Apache-2.0
"""What cameras leave in video: noise with the variance it should have, halos, smeared texture, combing."""

import numpy as np
import pytest

from rvrt_cli.data.capture_artifacts import DEINTERLACERS, SensorNoise, interlace, night_noise, sharpen, smear, soften

QUIET = SensorNoise(shot=0, read=0, grain=0.3, blotch=0, blotch_size=1)


def flat(level: int, size: int = 96, frames: int = 3) -> np.ndarray:
    return np.full((frames, size, size, 3), level, np.uint8)


def light(clip: np.ndarray) -> np.ndarray:
    return (clip / 255.0) ** 2.2


def test_soften_blurs_and_adds_noise_of_the_given_deviation() -> None:
    made = soften(flat(128), 0.5, 3.0, np.random.default_rng(0))
    assert made.std() == pytest.approx((9 + 1 / 12) ** 0.5, rel=0.02)  # rounding adds a twelfth
    point = flat(0, 9, 1)
    point[0, 4, 4] = 255
    side = np.exp(-2) / (1 + 2 * np.exp(-2))  # of the Gaussian of σ 0.5, normalized over three taps
    blurred = soften(point, 0.5, 0.0, np.random.default_rng(0))[0, 4, :, 0]
    middle = 255 * (1 - 2 * side)  # of the row, after the blur along columns
    assert blurred[3:6].tolist() == pytest.approx([middle * side, middle * (1 - 2 * side), middle * side], abs=0.5)


@pytest.mark.parametrize(("shot", "read"), [(1e-3, 0.0), (0.0, 4e-3), (1e-3, 4e-3)])
def test_variance_of_night_noise_grows_with_light(shot: float, read: float) -> None:
    """shot * light + read², in units of light, and the variance of rounding to levels, a twelfth of a squared level."""
    rng = np.random.default_rng(0)
    for level in (90, 130, 180):
        made = night_noise(flat(level), SensorNoise(shot, read, 0.5, 0, 1), rng)
        step = (light(flat(level + 1)).mean() - light(flat(level - 1)).mean()) / 2
        expected = shot * light(flat(level)).mean() + read**2 + step**2 / 12
        assert light(made).var() == pytest.approx(expected, rel=0.05)


def test_night_noise_is_correlated_between_neighbors_and_not_between_frames() -> None:
    noise = light(night_noise(flat(130), SensorNoise(1e-3, 4e-3, 0.8, 0, 1), np.random.default_rng(0)))
    noise -= noise.mean()
    for a, b, expected in (
        (noise[:, :, :-1], noise[:, :, 1:], np.exp(-1 / (4 * 0.8**2))),  # a Gaussian filtered by itself
        (noise[:, :-1], noise[:, 1:], np.exp(-1 / (4 * 0.8**2))),
        (noise[:, :, :-6], noise[:, :, 6:], 0.0),
        (noise[:-1], noise[1:], 0.0),
        (noise[..., 0], noise[..., 1], 0.0),
    ):
        assert np.mean(a * b) / noise.var() == pytest.approx(expected, abs=0.03)


def test_chroma_blotches_are_wide_and_leave_luma() -> None:
    noise = SensorNoise(0, 0, 0.3, 4.0, 2.0)
    made = night_noise(flat(128, 128, 6), noise, np.random.default_rng(0)).astype(float)
    luma = made @ [0.299, 0.587, 0.114]
    cb, cr = (made[..., 2] - luma) / 1.772, (made[..., 0] - luma) / 1.402
    assert luma.std() < 0.5
    for chroma in (cb, cr):
        assert chroma.std() == pytest.approx(4, rel=0.1)
        near = np.mean(chroma[:, :, :-2] * chroma[:, :, 2:]) / chroma.var()
        assert near == pytest.approx(np.exp(-4 / (4 * 2.0**2)), abs=0.08)


def test_without_noise_nothing_changes() -> None:
    clip = np.random.default_rng(0).integers(256, size=(2, 25, 31, 3), dtype=np.uint8)
    assert np.array_equal(night_noise(clip, QUIET, np.random.default_rng(0)), clip)
    assert np.array_equal(sharpen(clip, 0.8, 0.0), clip)
    assert np.array_equal(smear(clip, 0.0), clip)


def test_sharpening_overshoots_at_edges_only() -> None:
    clip = flat(90, 33, 1)
    clip[:, :, 17:] = 150
    row = sharpen(clip, 0.8, 1.0)[0, 16, :, 1].astype(int)
    assert row[16] < 90 - 5
    assert row[17] > 150 + 5
    assert row[16] - 90 == pytest.approx(150 - row[17], abs=1)
    assert (row[:13] == 90).all()
    assert (row[21:] == 150).all()
    assert sharpen(clip, 0.8, 0.5)[0, 16, 17, 1] == pytest.approx((150 + row[17]) / 2, abs=1)


def test_smearing_flattens_weak_texture_and_keeps_edges() -> None:
    rng = np.random.default_rng(0)
    clip = flat(70, 48, 2).astype(float)
    clip[:, :, 24:] = 180
    textured = np.clip(clip + rng.normal(0, 3, clip.shape), 0, 255).astype(np.uint8)
    made = smear(textured, 4.0)
    assert made[:, :, 4:20].std() < textured[:, :, 4:20].std() / 2
    assert made[:, :, 24].mean() - made[:, :, 23].mean() > 100


def half_moving(step: int) -> np.ndarray:
    """(5, 32, 48, 3): a wave that moves by `step` px a frame on the right half, and stands still on the left."""
    x = np.arange(48)
    frames = [np.where(x < 24, 128 + 80 * np.sin(x / 2), 128 + 80 * np.sin((x + step * t) / 2)) for t in range(5)]
    return np.broadcast_to(np.array(frames)[:, None, :, None], (5, 32, 48, 3)).astype(np.uint8)


def combing(clip: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each column's rows from their neighbors, (48,)."""
    rows = clip[:4].astype(float)
    return np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean((0, 1, 3))


@pytest.mark.parametrize("deinterlacer", DEINTERLACERS)
@pytest.mark.parametrize("parity", [0, 1])
def test_interlacing_changes_only_what_moves(deinterlacer: str, parity: int) -> None:
    clip = half_moving(2)
    made = interlace(clip, deinterlacer, parity, 1)
    assert np.array_equal(made[:, :, :24], clip[:, :, :24])
    if deinterlacer != "bob":  # these rows have no vertical detail for it to lose
        assert not np.array_equal(made[:4, :, 24:], clip[:4, :, 24:])
    own = made[:, 1 - parity :: 2]
    assert np.array_equal(own, clip[:, 1 - parity :: 2]) == (deinterlacer != "blend")


def test_combing_is_left_by_the_deinterlacers_that_leave_it() -> None:
    clip = half_moving(2)
    left = {name: combing(interlace(clip, name, 1, 1)) for name in DEINTERLACERS}
    assert left["comb"][:24].max() == left["bob"].max() == left["blend"].max() == 0
    assert left["comb"][24:].mean() > 20
    assert 0 < left["adaptive"][24:].mean() < left["comb"][24:].mean() / 4


def test_blending_mixes_two_frames_and_bobbing_halves_vertical_detail() -> None:
    clip = half_moving(2)
    mean = (clip[:4].astype(float) + clip[1:]) / 2
    assert np.abs(interlace(clip, "blend", 0, 1)[:4] - mean).max() <= 1
    stripes = np.zeros((2, 16, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (interlace(stripes, "bob", 0, 1) == 0).all()
    assert (interlace(stripes, "bob", 1, 1) == 200).all()


def test_the_other_field_comes_from_the_given_side() -> None:
    clip = np.stack([flat(10 * t, 8, 1)[0] for t in range(4)])
    assert interlace(clip, "comb", 1, 1)[:, :2, 0, 0].tolist() == [[0, 10], [10, 20], [20, 30], [30, 30]]
    assert interlace(clip, "comb", 0, -1)[:, :2, 0, 0].tolist() == [[0, 0], [0, 10], [10, 20], [20, 30]]
