# SPDX-License-Identifier: Apache-2.0
"""Training samples for deblurring and denoising: noise, blur made of neighboring frames, pairs of a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import textured_clip, write_frames
from helpers.train_runs import make_store, make_vimeo

from rvrt_cli.data.batch_loader import BatchLoader
from rvrt_cli.data.batch_spec import BatchSpec
from rvrt_cli.data.batches import check_spec, make_sample, open_store
from rvrt_cli.data.make_clips import clip_windows
from rvrt_cli.data.pair_store import PairStore
from rvrt_cli.data.restoration_pairs import blurred, input_pixels, noisy, random_blur, random_noise
from rvrt_cli.data.validation import baseline_frames
from rvrt_cli.errors import MediaError, OptionError

NOISE = BatchSpec(batch=2, frames=3, crop=32, degradation="noise")
BLUR = BatchSpec(batch=2, frames=3, crop=32, degradation="blur")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of 17 frames, which move by one pixel per frame."""
    return make_store(tmp_path_factory.mktemp("store") / "clips", frames=17)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for index in range(2):
        frames = textured_clip(index, 5, 40, 56)
        write_frames(tmp_path / "train" / f"clip{index}" / "sharp", frames)
        write_frames(tmp_path / "train" / f"clip{index}" / "blur", [255 - frame for frame in frames])
    return tmp_path


def test_noise_has_a_uniform_standard_deviation_that_the_input_names() -> None:
    clip, levels = np.full((2, 40, 40, 3), 250, np.uint8), []
    for seed in range(200):
        low, high = random_noise(clip, np.random.default_rng(seed))
        assert low.dtype == np.float32
        assert np.ptp(low[..., 3]) == 0
        noise = 255 * low[..., :3] - high
        assert noise.std() == pytest.approx(255 * low[0, 0, 0, 3], rel=0.05)
        levels.append(255 * low[0, 0, 0, 3])
    assert high is clip
    assert low[..., :3].max() > 1  # not clipped
    assert 0 <= min(levels) < 2
    assert 48 < max(levels) <= 50
    assert np.mean(levels) == pytest.approx(25, abs=3)


def test_blur_averages_light_of_neighboring_frames() -> None:
    levels = np.array([0, 0, 255, 30, 60, 90, 9, 9, 9], np.uint8)
    clip = np.broadcast_to(levels[:, None, None, None], (9, 8, 8, 3))
    low, high = blurred(clip, 3, 3)
    assert high[:, 0, 0, 0].tolist() == [0, 60, 9]
    light = [np.mean((levels[k : k + 3] / 255) ** 2.2) for k in (0, 3, 6)]
    np.testing.assert_array_equal(low[:, 0, 0, 0], np.rint(255 * np.array(light) ** (1 / 2.2)))
    with pytest.raises(ValueError, match="9 frames, for 4 means of 3"):
        blurred(clip, 3, 4)


def test_the_number_of_averaged_frames_is_odd_and_as_large_as_the_clip_allows() -> None:
    clip = np.arange(17, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    middles = {int(random_blur(clip, 3, np.random.default_rng(seed))[1][0, 0, 0, 0]) for seed in range(40)}
    assert middles == {1, 2}  # of three and of five frames


def test_samples_are_of_the_size_of_their_targets(clips: Path) -> None:
    store = open_store(clips)
    low, high = make_sample(store, NOISE, 3, 0)
    assert (low.shape, high.shape) == ((3, 32, 32, 4), (3, 32, 32, 3))
    again, _ = make_sample(store, NOISE, 3, 0)
    np.testing.assert_array_equal(low, again)
    low, high = make_sample(store, BLUR, 3, 0)
    assert low.shape == high.shape == (3, 32, 32, 3)
    assert 1 < np.abs(low.astype(int) - high).mean() < 30


def test_batches_reach_the_loop_as_floats(clips: Path) -> None:
    for spec, channels in ((NOISE, 4), (BLUR, 3)):
        with BatchLoader(clips, spec, workers=0) as loader:
            low, high = next(loader)
        assert low.shape == (2, 3, 32, 32, channels)
        assert low.dtype == high.dtype == np.float32
        assert high.max() <= 1


def test_pairs_of_a_set_are_cropped_and_turned_alike(pairs: Path) -> None:
    store = open_store(pairs)
    assert isinstance(store, PairStore)
    assert (len(store), store.frames, store.size) == (2, 5, (40, 56))
    for index in range(4):
        low, high = make_sample(store, BLUR, 0, index)
        assert low.shape == (3, 32, 32, 3)
        np.testing.assert_array_equal(low, 255 - high)


def test_published_folders_of_pairs_are_known(tmp_path: Path) -> None:
    frames = textured_clip(1, 4, 40, 40)
    write_frames(tmp_path / "train_GT_blurred" / "a", frames)
    write_frames(tmp_path / "train_GT" / "a", frames)
    assert open_store(tmp_path).frames == 4


def test_data_that_does_not_fit_is_refused(clips: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="choose --task deblur"):
        check_spec(open_store(pairs), NOISE)
    with pytest.raises(OptionError, match="--high-rate"):
        check_spec(open_store(clips), BatchSpec(frames=6, crop=32, degradation="blur"))
    with pytest.raises(OptionError, match="--high-rate"):
        check_spec(open_store(make_vimeo(tmp_path / "vimeo")), BatchSpec(frames=3, crop=32, degradation="blur"))
    with pytest.raises(OptionError, match="still frames have no blur"):
        BatchSpec(degradation="blur", still=0.5)
    (pairs / "train" / "clip0" / "blur" / "00000000.png").unlink()
    with pytest.raises(OptionError, match="4 frames for 5 sharp ones"):
        open_store(pairs)
    with pytest.raises(OptionError, match="no training data here"):
        open_store(tmp_path / "nothing")


def test_folders_without_pairs_or_with_unreadable_ones_are_refused(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="empty: no training pairs here; expected"):
        PairStore(tmp_path / "empty")
    for image in pairs.rglob("sharp/00000000.png"):
        image.write_bytes(b"no image")
    with pytest.raises(OptionError, match=r"00000000\.png: cannot be read"):
        PairStore(pairs)


def test_a_small_frame_is_refused(tmp_path: Path) -> None:
    frames = [*textured_clip(1, 2, 40, 40), *textured_clip(1, 2, 24, 24)]
    for part in ("blur", "sharp"):
        write_frames(tmp_path / "clip" / part, frames)
    with pytest.raises(MediaError, match="24x24 px"):
        PairStore(tmp_path).sample(np.random.default_rng(0), 4, 32)


def test_the_baseline_of_restoration_is_its_input() -> None:
    clip = np.full((2, 8, 8, 3), 100, np.uint8)
    low, _ = noisy(clip, 20, np.random.default_rng(0))
    expected = np.clip(np.rint(255 * low[..., :3].astype(np.float64)), 0, 255)
    np.testing.assert_array_equal(baseline_frames(low, clip), expected)
    np.testing.assert_array_equal(input_pixels(clip), clip)
    assert baseline_frames(clip, np.zeros((2, 32, 32, 3))).shape == (2, 32, 32, 3)


def test_high_rate_windows_have_every_frame() -> None:
    frames = [np.full((16, 16, 3), number // 4, np.uint8) for number in range(9)]  # hardly any movement
    marked = [(frame, number == 0) for number, frame in enumerate(frames)]
    windows = list(clip_windows(marked, 4, np.random.default_rng(0), every_frame=True))
    assert [[int(frame[0, 0, 0]) for frame in window] for window in windows] == [[0, 0, 0, 0], [1, 1, 1, 1]]
