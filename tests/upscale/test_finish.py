# SPDX-License-Identifier: Apache-2.0
"""--strength and --grain: the source's bicubic enlargement, and its grain, on upscaled frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import rvrt
from helpers.upscale_runs import Echo
from helpers.video_clips import ffmpeg, read_all

import rvrt_cli.upscale.job
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.validation import bicubic_upscale
from rvrt_cli.errors import OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import upscale_frames
from rvrt_cli.upscale.finish import Finish
from rvrt_cli.upscale.grain import GrainCurve, GrainPainter, measure_grain

FLAT = GrainCurve((4.0,) * 8)


@pytest.fixture
def echo(tmp_path: Path) -> Echo:
    return Echo(str(tmp_path / "calls"), seconds=0)


def view(height: int = 144, width: int = 176) -> np.ndarray:
    """Luma (H, W) of 40 to 210 levels: a ramp over all of them, edges, and a textured quarter."""
    y, x = np.mgrid[:height, :width]
    luma = 40 + 170 * x / width
    luma[(y // 24 + x // 30) % 3 == 0] -= 12
    luma[: height // 2, : width // 2] += 8 * np.sin(1.1 * x + 0.7 * y)[: height // 2, : width // 2]
    return luma


def footage(count: int, sigma: Callable[[np.ndarray], np.ndarray], pan: int = 0, seed: int = 1) -> list[np.ndarray]:
    """Gray frames (H, W, 3) uint8 that pan by `pan` px a frame, with white noise of `sigma` at each luma."""
    rng = np.random.default_rng(seed)
    wide = view(width=176 + pan * count)
    frames = []
    for number in range(count):
        luma = wide[:, pan * number : pan * number + 176]
        noisy = luma + sigma(luma) * rng.standard_normal(luma.shape)
        frames.append(np.rint(noisy.clip(0, 255)).astype(np.uint8)[..., None].repeat(3, 2))
    return frames


def runs(frames: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [frames[start : start + 3] for start in range(0, len(frames), 3)]


def at_scale(frames: list[np.ndarray], dtype: type) -> list[np.ndarray]:
    if dtype == np.uint8:
        return frames
    return [(frame.astype(np.float32) / 255 * (65535 if dtype == np.uint16 else 1)).astype(dtype) for frame in frames]


# Strength


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_strength_0_is_the_bicubic_baseline(echo: Echo, dtype: type) -> None:
    frames = at_scale(footage(3, np.zeros_like), dtype)
    found = np.stack(list(upscale_frames(frames, UpscaleOptions(strength=0.0), echo)))
    assert found.dtype == dtype
    if dtype == np.uint16:
        expected = np.rint(np.stack([imresize(frame.astype(np.float32), 4) for frame in frames])).clip(0, 65535)
    else:
        expected = bicubic_upscale(np.stack(frames))  # that of `rvrt bench`
    np.testing.assert_array_equal(found, expected)


def test_strength_0_is_the_bicubic_baseline_at_other_sizes(echo: Echo) -> None:
    frames = footage(2, np.zeros_like)
    found = list(upscale_frames(frames, UpscaleOptions(strength=0.0, size="300x250"), echo))
    for ours, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(ours, imresize(frame, size=(250, 300)))


@pytest.mark.slow
def test_strength_blends_linearly(echo: Echo) -> None:
    frames = footage(3, np.zeros_like)
    none, some, all_of_it = (
        np.stack(list(upscale_frames(frames, UpscaleOptions(strength=strength), echo))).astype(float)
        for strength in (0.0, 0.3, 1.0)
    )
    assert np.abs(none - all_of_it).mean() > 1
    assert np.abs(some - (none + 0.3 * (all_of_it - none))).max() <= 0.5 + 1e-3


def test_the_default_leaves_frames_alone() -> None:
    finish = Finish((8, 8))
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert not finish.needs_source
    assert finish.bytes == 0
    assert finish(Frame(pixels, 0)).pixels is pixels


@pytest.mark.parametrize("option", ["strength", "grain"])
@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan")])
def test_shares_outside_their_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"--{option} .*: give 0 to 1"):
        UpscaleOptions(**{option: value})


# Measuring the grain


@pytest.mark.parametrize("levels", [1.5, 4, 10])
@pytest.mark.parametrize("pan", [0, 1], ids=["still", "pan"])
def test_the_grain_of_noisy_footage_is_found(levels: float, pan: int) -> None:
    found = measure_grain(runs(footage(9, lambda luma: np.full_like(luma, levels), pan)))
    assert found.levels == pytest.approx([levels] * 8, rel=0.12)


def test_the_grain_depends_on_luma_as_that_of_the_source() -> None:
    def sigma(luma: np.ndarray) -> np.ndarray:
        return 2 + 6 * luma / 255

    found = measure_grain(runs(footage(12, sigma)))
    centers = np.arange(16, 256, 32)
    assert found.levels[1:7] == pytest.approx(sigma(centers)[1:7], rel=0.15)


@pytest.mark.parametrize("pan", [0, 1, 3])
def test_clean_footage_has_no_grain(pan: int) -> None:
    found = measure_grain(runs(footage(9, np.zeros_like, pan)))
    assert max(found.levels) < 0.5
    assert str(found).startswith("hardly any was found" if max(found.levels) else "none in the source")


def test_fast_motion_of_fine_texture_is_no_grain() -> None:
    """Frames that have nothing in common, of details of two px or more: water, leaves."""
    rng = np.random.default_rng(6)
    details = imresize(rng.normal(128, 20, (9, 72, 88, 1)), 2).clip(0, 255)
    frames = np.rint(details).astype(np.uint8).repeat(3, 3)
    assert max(measure_grain(runs(list(frames))).levels) < 1


def test_a_photo_is_judged_by_its_texture() -> None:
    [frame] = footage(1, lambda luma: np.full_like(luma, 6))
    found = measure_grain([[frame]])
    assert found.levels == pytest.approx([6] * 8, rel=0.15)
    assert max(measure_grain([[np.zeros((12, 12, 3), np.uint8)]]).levels) == 0  # too small to tell


# Drawing it


@pytest.mark.slow
def test_drawn_grain_is_that_of_the_source(echo: Echo) -> None:
    """As strong, as white in time, in luma alone; and not coarser than its px."""
    source = footage(24, lambda luma: np.full_like(luma, 5.0))
    drawn = np.stack(list(upscale_frames(source, UpscaleOptions(grain=1.0), echo))).astype(float)
    plain = np.stack(list(upscale_frames(source, UpscaleOptions(), echo))).astype(float)
    grain = drawn - plain
    assert np.abs(grain[..., 0] - grain[..., 1]).max() <= 1  # rounding
    grain = grain[..., 1]
    noise = np.stack(source)[..., 1] - np.mean(np.stack(source)[..., 1], 0)

    def in_time(values: np.ndarray) -> float:
        return float((values[1:] * values[:-1]).mean() / (values**2).mean())

    assert grain.std() == pytest.approx(noise.std(), rel=0.08)
    assert abs(grain.mean()) < 0.03
    assert abs(in_time(noise)) < 0.06  # the mean that was subtracted makes it -1/23
    assert abs(in_time(grain)) < 0.01
    for axis in (1, 2):  # a Gaussian blur of 1 px: exp(-d²/4)
        near, far = (
            float((np.take(grain, range(8, 128), axis) * np.take(grain, range(8 + d, 128 + d), axis)).mean())
            for d in (1, 4)
        )
        assert near / grain.var() == pytest.approx(np.exp(-1 / 4), abs=0.03)
        assert abs(far / grain.var()) < 0.03


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("amount", [0.25, 1.0])
def test_grain_in_every_depth_keeps_mean_and_alpha(dtype: type, amount: float) -> None:
    white = np.iinfo(dtype).max
    pixels = np.full((64, 96, 3), white // 2, dtype)
    alpha = np.arange(64 * 96).reshape(64, 96).astype(dtype)
    done = Finish((64, 96), grain=GrainPainter(FLAT, amount, 4))(Frame(pixels, 7, alpha))
    np.testing.assert_array_equal(done.alpha, alpha)
    levels = done.pixels[..., 0] / white * 255
    assert done.pixels.dtype == dtype
    assert levels.std() == pytest.approx(4 * amount, rel=0.1)
    assert levels.mean() == pytest.approx(white // 2 / white * 255, abs=0.1)


def test_black_and_white_have_no_grain() -> None:
    """Letterbox bars stay black, and clipping changes no mean."""
    painter = GrainPainter(FLAT, 1.0, 4)
    for level in (0.0, 1.0):
        values = np.full((32, 32, 3), level, np.float32)
        painter.add(values, 3)
        assert (values == level).all()
    dark = np.full((64, 64, 3), 3 / 255, np.float32)
    painter.add(dark, 3)
    assert 255 * dark.std() == pytest.approx(1.5, rel=0.1)
    assert 255 * dark.clip(0, 1).mean() == pytest.approx(3, abs=0.15)


def test_grain_is_drawn_by_timestamp_alone() -> None:
    finish = Finish((32, 32), grain=GrainPainter(FLAT, 1.0, 4))
    pixels = np.full((32, 32, 3), 128, np.uint8)
    forward = [finish(Frame(pixels, pts)).pixels for pts in (-3, 0, 1, 2)]
    backward = [finish(Frame(pixels, pts)).pixels for pts in (2, 1, 0, -3)][::-1]
    np.testing.assert_array_equal(forward, backward)
    for a in range(4):
        for b in range(a):
            assert (forward[a] != forward[b]).mean() > 0.5


class Enlarge(Echo):
    """Each frame enlarged by itself, whatever the window."""

    def __call__(
        self, frames: np.ndarray, state: dict[str, np.ndarray] | None, emit: int, *, fusion_lookahead: int = 0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        _, state = super().__call__(frames, state, emit)
        return frames[:, :emit].repeat(4, 2).repeat(4, 3), state


@pytest.mark.slow
def test_every_cut_of_a_video_has_the_same_grain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Windows, segments, tiles and excerpts of a 10-bit video; and without grain, other pixels."""
    source = tmp_path / "in.mkv"
    noisy = "testsrc2=s=96x64:r=25:d=0.6,noise=alls=14:allf=t,format=yuv420p10le"
    ffmpeg("-f", "lavfi", "-i", noisy, "-c:v", "ffv1", source)
    monkeypatch.setattr(rvrt_cli.upscale.job, "load_network", lambda *_: Enlarge(str(tmp_path / "calls"), 0.0))
    look = ["--strength", "0.8", "--grain", "0.9", "--segment", "0"]

    def frames_of(name: str, *options: object) -> np.ndarray:
        assert rvrt(monkeypatch, "upscale", source, f"{tmp_path / name}/", *look, *options) == 0, capsys.readouterr()
        return np.stack([frame.pixels for frame in read_all(tmp_path / name)])

    whole = frames_of("whole")
    assert whole.dtype == np.uint16
    assert len(whole) == len(read_all(source)) == 15
    np.testing.assert_array_equal(frames_of("cut", "--window", "4", "--tile", "48"), whole)
    np.testing.assert_array_equal(frames_of("part", "--start", "0.2", "--duration", "0.2"), whole[5:10])
    assert (frames_of("plain", "--grain", "0") != whole).mean() > 0.9


def test_grain_is_said_and_streams_are_refused(
    upscale: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.4,noise=alls=14:allf=t", "-c:v", "ffv1", source)
    said = upscale(source, tmp_path / "out.mkv", "--grain", "0.5", "--dry-run")
    assert "grain: standard deviation" in said
    assert "of 255 levels, measured on the source" in said
    info = rvrt_cli.upscale.job.probe(source)
    monkeypatch.setattr(
        "rvrt_cli.upscale.job.probe", lambda path, fps=None: rvrt_cli.upscale.job.replace(info, kind="y4m")
    )
    said = upscale("-", tmp_path / "out.mkv", "--grain", "0.5", status=1)
    assert "--grain 0.5: a stream cannot be read twice" in said
