# SPDX-License-Identifier: Apache-2.0
"""Scene cuts: found where there are some, and not where light, motion or grain only look like it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from rvrt_cli.engine.scenes import DELAY, mark_scenes

HEIGHT, WIDTH = 90, 160


def texture(seed: int, width: int = WIDTH) -> np.ndarray:
    """A view with coarse and fine detail, float 0-255 (HEIGHT, width, 3)."""
    rng = np.random.default_rng(seed)
    view = np.zeros((HEIGHT, width, 3))
    for block, strength in ((30, 1.0), (10, 0.6), (2, 0.2)):
        coarse = rng.standard_normal((-(-HEIGHT // block), -(-width // block), 3)) * strength
        view += coarse.repeat(block, 0).repeat(block, 1)[:HEIGHT, :width]
    return np.clip(128 + 45 * view, 0, 255)


def pixels(view: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(view), 0, 255).astype(np.uint8)


def cuts(frames: Iterable[np.ndarray]) -> list[int]:
    """Indices of the frames that start a scene, the first one excepted, after checking that nothing else happened."""
    frames = list(frames)
    marked = list(mark_scenes(iter(frames)))
    assert len(marked) == len(frames)
    assert all(out is frame for (out, _), frame in zip(marked, frames, strict=True))
    assert marked[0][1]
    return [number for number, (_, cut) in enumerate(marked) if cut][1:]


def shot(seed: int, length: int) -> list[np.ndarray]:
    return [pixels(texture(seed))] * length


def test_a_cut_is_found_at_its_frame() -> None:
    assert cuts(shot(1, 9) + shot(2, 7)) == [9]


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (200, 50)])
def test_cuts_are_found_in_small_and_upright_frames(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    # quadrants of different gray: something to see even at 8×8 px
    views = [
        np.kron(gray, np.ones((shape[0] // 2, shape[1] // 2)))[..., None].repeat(3, 2)
        for gray in (np.array([[20, 220], [180, 60]]), np.array([[200, 40], [30, 240]]))
    ]
    frames = [pixels(views[number >= 6] + rng.normal(0, 2, (*shape, 3))) for number in range(12)]
    assert cuts(frames) == [6]


def test_several_cuts_short_shots_included() -> None:
    assert cuts(shot(1, 6) + shot(2, 2) + shot(3, 4) + shot(4, 3) + shot(5, 8)) == [6, 8, 12, 15]


def test_cuts_at_the_second_and_at_the_last_frame() -> None:
    assert cuts(shot(1, 1) + shot(2, 8) + shot(3, 1)) == [1, 9]


def test_16_bit_frames_cut_where_8_bit_frames_do() -> None:
    frames = shot(1, 5) + shot(2, 5)
    assert cuts(frame.astype(np.uint16) * 257 for frame in frames) == [5]


def test_a_cut_to_a_dark_shot_is_found() -> None:
    assert cuts(shot(1, 6) + [pixels(texture(2) * 0.3)] * 6) == [6]


def test_a_cut_between_moving_grainy_shots_is_found() -> None:
    rng = np.random.default_rng(4)
    wide = [texture(seed, 3 * WIDTH) for seed in (1, 2)]
    frames = [wide[i >= 8][:, 4 * i : 4 * i + WIDTH] + rng.normal(0, 12, (HEIGHT, WIDTH, 3)) for i in range(16)]
    assert cuts(map(pixels, frames)) == [8]


def test_a_static_video_has_no_cut() -> None:
    assert cuts(shot(1, 20)) == []


@pytest.mark.parametrize("length", range(1, DELAY + 1))
def test_a_flash_is_no_cut(length: int) -> None:
    view = texture(1)
    lit = range(8, 8 + length)
    assert cuts(pixels(view * 2.5 + 120 if i in lit else view) for i in range(20)) == []
    assert cuts(pixels(np.full_like(view, 255) if i in lit else view) for i in range(20)) == []


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_fades_are_no_cuts(steps: int) -> None:
    down = np.linspace(1, 0, steps + 1)
    gains = [1] * 5 + [*down] + [0] * 5 + [*down[::-1]] + [1] * 5
    assert cuts(pixels(texture(1) * gain) for gain in gains) == []


@pytest.mark.parametrize("steps", [8, 16])
def test_a_dissolve_is_no_cut(steps: int) -> None:
    a, b = texture(1), texture(2)
    mix = [0] * 5 + [*np.linspace(0, 1, steps + 1)] + [1] * 5
    assert cuts(pixels(a * (1 - share) + b * share) for share in mix) == []


@pytest.mark.parametrize("step", [3, 10, 25])  # px of 160 a frame
def test_a_pan_that_starts_and_stops_is_no_cut(step: int) -> None:
    view = texture(1, 12 * 25 + WIDTH)
    places = [step * max(0, min(i - 5, 10)) for i in range(22)]
    assert cuts(pixels(view[:, x : x + WIDTH]) for x in places) == []


@pytest.mark.parametrize("level", [10, 40])
def test_grain_is_no_cut(level: int) -> None:
    rng = np.random.default_rng(5)
    assert cuts(pixels(texture(1) + rng.normal(0, level, (HEIGHT, WIDTH, 3))) for _ in range(15)) == []


def test_pure_noise_is_no_cut() -> None:
    rng = np.random.default_rng(6)
    assert cuts(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(15)) == []


def test_frames_come_out_only_so_late() -> None:
    read = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in shot(1, 10):
            read += 1
            yield frame

    for number, _ in enumerate(mark_scenes(frames())):
        assert read <= number + 1 + DELAY


def test_no_frames_no_scenes() -> None:
    assert list(mark_scenes([])) == []
