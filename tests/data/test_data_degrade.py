# SPDX-License-Identifier: Apache-2.0
"""Degradations of training data: the published ones and the mixes, and that they are reproducible."""

import hashlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from helpers.moving_scenes import moving_scene

from rvrt_cli.data import degradation as module
from rvrt_cli.data.batch_spec import MIXED_DEGRADATIONS
from rvrt_cli.data.degradation import MIXES, degrade, draw_degradation
from rvrt_cli.data.resize import blur_downsample, imresize
from rvrt_cli.metrics import psnr


def test_bi_and_bd_are_the_published_ones() -> None:
    clip = moving_scene(3, 64, 96)
    rng = np.random.default_rng(0)
    assert np.array_equal(degrade(clip, "bi", rng), imresize(clip, 0.25))
    assert np.array_equal(degrade(clip, "bd", rng), blur_downsample(clip))


@pytest.mark.slow
def test_video_mix_has_all_its_parts_and_is_reproducible() -> None:
    clip = moving_scene(4, 128, 128)
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

    for name, function in (("noise", "soften"), ("jpeg", "jpeg"), ("h264", "h264")):
        monkeypatch.setattr(module, function, spy(name, getattr(module, function)))
    clip = moving_scene(2, 16, 16)
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


# What the mix did before it was a table, with 24 random seeds: arguments of each codec, digests of the pixels that it got and of
# the result (the codecs return what they get), and the generator's next number. Runs are repeated by these.
VIDEO_DRAWS = [
    "jpeg 64 19e0ae948427; 19e0ae948427 43994986",
    "96683ec61daa 218421168",
    "19e0ae948427 117365849",
    "19e0ae948427 192673021",
    "h264 18.808360 veryfast False 9 f2e94531b5ea; 19e0ae948427 486966508",
    "h264 20.858014 veryfast False 7 e883a3a2213f; 19e0ae948427 1051755579",
    "e4c174041e71 515660336",
    "jpeg 76 19e0ae948427; 19e0ae948427 832886167",
    "19e0ae948427 251798750",
    "h264 25.775341 veryfast False 5 19e0ae948427; 19e0ae948427 690014881",
    "h264 26.347367 veryfast False 9 bfe0c000f4ca; 9cecf3f0022f 275399370",
    "19e0ae948427 855858841",
    "19e0ae948427 1044735402",
    "h264 20.614464 veryfast False 5 19e0ae948427; 19e0ae948427 182058290",
    "h264 26.601188 veryfast False 5 19e0ae948427; 19e0ae948427 363220860",
    "h264 18.448382 superfast False 6 2f0dfbcf0ed1; 19e0ae948427 475861893",
    "6775399410c0 377883309",
    "h264 19.673406 superfast False 8 e7a81804eef8; 9fb8863970d1 996729398",
    "19e0ae948427 228939871",
    "19e0ae948427 382992568",
    "19e0ae948427 280933031",
    "h264 18.890979 veryfast False 7 e883a3a2213f; 19e0ae948427 315854798",
    "19e0ae948427 708556016",
    "h264 19.137081 superfast False 6 2f0dfbcf0ed1; 19e0ae948427 128981420",
]


def digest(clip: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest()[:12]


def test_video_mix_draws_what_it_always_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def note_jpeg(clip: np.ndarray, quality: int) -> np.ndarray:
        calls.append(f"jpeg {quality} {digest(clip)}")
        return clip

    def note_h264(clip: np.ndarray, crf: float, preset: str, mbtree: bool) -> np.ndarray:
        calls.append(f"h264 {crf:.6f} {preset} {mbtree} {len(clip)} {digest(clip)}")
        return clip

    monkeypatch.setattr(module, "jpeg", note_jpeg)
    monkeypatch.setattr(module, "h264", note_h264)
    monkeypatch.setattr(module, "imresize", lambda clip, scale: clip[:, ::4, ::4])  # its rounding depends on the BLAS
    y, x = np.mgrid[:48, :64]
    levels = [np.stack([7 * x + 11 * y + 5 * t, 3 * x * y + t, x + 13 * y + 29 * t], -1) for t in range(5)]
    clip = (np.stack(levels) % 256).astype(np.uint8)
    for share in (None, 0.5):
        drawn = []
        for seed in range(len(VIDEO_DRAWS)):
            calls.clear()
            rng = np.random.default_rng(seed)
            made = degrade(clip, "video", rng, share)
            drawn.append("; ".join([*calls, f"{digest(made)} {rng.integers(1 << 30)}"]))
        assert drawn == VIDEO_DRAWS


def test_every_mix_begins_with_clean_clips_and_adds_up() -> None:
    assert tuple(MIXES) == MIXED_DEGRADATIONS
    for mix in MIXES.values():
        assert mix[0].name == "clean"
        assert sum(entry.share for entry in mix) == pytest.approx(1)
        assert len({entry.name for entry in mix}) == len(mix)


@pytest.mark.parametrize("share", [None, 0.0, 0.75, 1.0])
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_clean_share_leaves_the_proportions_of_the_others(mix: tuple, share: float | None) -> None:
    """Each count is within 4.5 standard deviations of the binomial mean."""
    draws, rng = 20_000, np.random.default_rng(0)
    counts = Counter(draw_degradation(mix, rng, share).name for _ in range(draws))
    clean = 0.5 if share is None else share
    for entry in mix:
        wanted = clean if entry.name == "clean" else entry.share * (1 - clean) / 0.5
        spread = 4.5 * (draws * wanted * (1 - wanted)) ** 0.5
        assert abs(counts[entry.name] - draws * wanted) <= spread, f"{counts[entry.name]} of {draws} are {entry.name}"


@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 31)])
@pytest.mark.parametrize("entry", MIXES["real"], ids=lambda entry: entry.name)
def test_real_degradations_change_clips_of_any_size_reproducibly(
    entry: module.Degradation, height: int, width: int
) -> None:
    clip = moving_scene(5, height, width)
    for seed in range(2):
        made = entry.apply(clip, np.random.default_rng(seed))
        assert (made.shape, made.dtype) == (clip.shape, np.uint8)
        assert np.array_equal(made, entry.apply(clip, np.random.default_rng(seed)))
        assert np.array_equal(made, clip) == (entry.name == "clean")
        assert psnr(made, clip) > 12


def test_two_encodings_lose_more_than_one() -> None:
    clip = moving_scene(6, 48, 64)
    parts = {entry.name: entry for entry in MIXES["real"]}

    def loss(name: str) -> float:
        return float(np.mean([psnr(parts[name].apply(clip, np.random.default_rng(seed)), clip) for seed in range(8)]))

    twice = loss("twice")
    for name in ("h264", "h265", "mpeg4", "mpeg2"):
        assert twice < loss(name) - 0.3


def test_degradations_work_on_a_single_frame() -> None:
    clip = moving_scene(1, 24, 32)
    for entry in MIXES["real"]:
        assert entry.apply(clip, np.random.default_rng(0)).shape == clip.shape
