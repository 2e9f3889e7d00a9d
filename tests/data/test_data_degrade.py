# SPDX-License-Identifier: Apache-2.0
"""Degradations of training data: their effect on pixels, and that they are reproducible."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from rvrt_cli.data import degradation as module
from rvrt_cli.data.degradation import degrade, h264, jpeg
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


def test_codecs_lose_more_at_lower_quality() -> None:
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


def test_video_mix_has_all_its_parts_and_is_reproducible() -> None:
    clip = scene(4, 128, 128)
    clean = imresize(clip, 0.25)
    losses = []
    for seed in range(60):
        made = degrade(clip, "video", np.random.default_rng(seed))
        assert np.array_equal(made, degrade(clip, "video", np.random.default_rng(seed))), f"seed {seed} differs"
        losses.append(psnr(made, clean))
    assert min(losses) > 20
    assert len({loss for loss in losses if loss < 40}) > 15


SHARES = {"clean": 0.50, "noise": 0.12, "jpeg": 0.06, "h264": 0.32}


def test_video_mix_has_each_part_in_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each count is within 4 standard deviations of the binomial mean; a quarter of the coded clips get noise first."""
    used: list[str] = []

    def spy(name: str, function: Callable) -> Callable:
        def call(clip: np.ndarray, *arguments: object, **options: object) -> np.ndarray:
            used.append(name)
            return function(clip, *arguments, **options) if name == "noise" else clip

        return call

    for name, function in (("noise", "_blur_and_noise"), ("jpeg", "jpeg"), ("h264", "h264")):
        monkeypatch.setattr(module, function, spy(name, getattr(module, function)))
    clip = scene(2, 16, 16)
    clean = imresize(clip, 0.25)
    draws, counts, noisy = 400, Counter[str](), 0
    for seed in range(draws):
        used.clear()
        made = degrade(clip, "video", np.random.default_rng(seed))
        counts[used[-1] if used else "clean"] += 1
        noisy += used[:-1] == ["noise"]
        assert len(used) <= 2
        assert used or np.array_equal(made, clean)
    assert sum(counts.values()) == draws
    coded = counts["jpeg"] + counts["h264"]
    for name, count, of, share in [
        *((n, counts[n], draws, p) for n, p in SHARES.items()),
        ("noisy", noisy, coded, 0.25),
    ]:
        spread = 4 * (of * share * (1 - share)) ** 0.5
        assert abs(count - of * share) < spread, f"{count} of {of} are {name}; {of * share:.0f} ± {spread:.0f} expected"


@pytest.mark.slow
def test_h264_is_deterministic() -> None:
    """x264's default settings with vector code are not: scores on compressed clips would not be reproducible."""
    clip = scene(30, 101, 180)
    first = h264(clip, 23)
    churn = []
    for size in range(1, 5):
        churn.append(np.full(size * 100_000, size, np.uint8))
        assert np.array_equal(h264(clip, 23), first)
