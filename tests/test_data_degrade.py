"""Degradations of training: what they do to pixels, and that they repeat."""

import numpy as np
import pytest

from rvrt_cli.data.degrade import degrade, h264, jpeg
from rvrt_cli.data.resize import blur_downsample, imresize
from rvrt_cli.metrics import psnr


def scene(frames: int, height: int, width: int) -> np.ndarray:
    """A moving pattern of soft shapes and edges."""
    y, x = np.mgrid[:height, :width]
    out = []
    for t in range(frames):
        wave = np.sin((x + 3 * t) / 9) * np.cos((y - t) / 7)
        image = np.stack([wave, wave > 0.2, -wave], -1)
        out.append(np.clip(128 + 70 * image, 0, 255))
    return np.array(out).astype(np.uint8)


def test_bi_and_bd_are_the_published_ones() -> None:
    clip = scene(3, 64, 96)
    rng = np.random.default_rng(0)
    assert np.array_equal(degrade(clip, "bi", rng), imresize(clip, 0.25))
    assert np.array_equal(degrade(clip, "bd", rng), blur_downsample(clip))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (45, 33)])
def test_h264_returns_every_frame_in_order(height: int, width: int) -> None:
    clip = scene(9, height, width)
    coded = h264(clip, 12)
    assert coded.shape == clip.shape
    match = [int(np.argmax([psnr(frame, other) for other in clip])) for frame in coded]
    assert match == list(range(9))


def test_codecs_lose_more_when_told_to() -> None:
    clip = scene(6, 64, 96)
    for scores in (
        [psnr(h264(clip, crf), clip) for crf in (10, 23, 35)],
        [psnr(jpeg(clip, quality), clip) for quality in (95, 75, 20)],
    ):
        assert scores[0] > scores[1] + 0.3
        assert scores[1] > scores[2] + 0.3
        assert scores[2] > 20


def test_codecs_do_not_shift_brightness() -> None:
    clip = scene(4, 64, 96)
    for coded in (h264(clip, 10), jpeg(clip, 95)):
        assert np.abs(coded.mean((0, 1, 2)) - clip.mean((0, 1, 2))).max() < 0.7


def test_video_mix_has_all_its_parts_and_repeats() -> None:
    clip = scene(4, 128, 128)
    clean = imresize(clip, 0.25)
    losses = []
    for seed in range(60):
        made = degrade(clip, "video", np.random.default_rng(seed))
        assert np.array_equal(made, degrade(clip, "video", np.random.default_rng(seed))), f"seed {seed} differs"
        losses.append(psnr(made, clean))
    assert 9 <= sum(loss == float("inf") for loss in losses) <= 27  # three in ten are clean
    assert min(losses) > 20
    assert len({loss for loss in losses if loss < 40}) > 15


def test_h264_gives_the_same_pixels_every_time() -> None:
    """x264's default settings do not, with vector code: scores on compressed clips would not repeat."""
    clip = scene(30, 101, 180)
    first = h264(clip, 23)
    churn = []
    for size in range(1, 5):
        churn.append(np.full(size * 100_000, size, np.uint8))
        assert np.array_equal(h264(clip, 23), first)
