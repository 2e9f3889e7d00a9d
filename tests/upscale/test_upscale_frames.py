# SPDX-License-Identifier: Apache-2.0
"""Frames in memory: as the network gives them, in windows and tiles, read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from helpers.upscale_runs import Echo

from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import load_network, upscale_frames


@pytest.fixture
def echo(tmp_path: Path) -> Echo:
    return Echo(str(tmp_path / "calls"), seconds=0)


def moving_frames(number: int, dtype: type = np.uint8) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    wide = rng.integers(0, np.iinfo(dtype).max, (12, 16 + number, 3)).astype(dtype).repeat(2, 0).repeat(2, 1)
    return [wide[:, t : t + 32] for t in range(number)]


@pytest.mark.slow
def test_frames_are_those_of_the_network() -> None:
    """The whole clip untiled, and in windows and tiles, whose borders differ a little."""
    network = load_network("rvrt-tiny", device="cpu")
    frames = moving_frames(6)
    whole, _ = network(np.stack(frames)[None].astype(np.float32) / 255, None, emit=6)
    expected = np.clip(np.rint(whole[0] * 255), 0, 255).astype(np.uint8)
    found = list(upscale_frames(frames, UpscaleOptions(window=0, tile=0), network))
    assert [frame.dtype for frame in found] == [np.uint8] * 6
    np.testing.assert_array_equal(np.stack(found), expected)


def test_windows_carry_the_past_and_a_network_serves_twice(echo: Echo, tmp_path: Path) -> None:
    frames = moving_frames(7, np.uint16)
    mean, expected = np.zeros_like(frames[0], np.float64), []
    for frame in frames:  # the formula of `Echo`
        mean = 0.75 * mean + 0.25 * frame
        expected.append((0.5 * frame + 0.5 * mean).repeat(4, 0).repeat(4, 1))
    for _ in range(2):
        found = list(upscale_frames(frames, UpscaleOptions(window=2, lookahead=2), echo))
        assert {frame.dtype for frame in found} == {np.dtype(np.uint16)}
        assert np.abs(np.stack(found) - np.stack(expected)).max() <= 1  # level of 65 535
    assert (tmp_path / "calls").read_text().split() == ["2", "2", "3"] * 2  # the last one needs no lookahead


def test_tiles_are_blended_to_the_same_frames(echo: Echo, tmp_path: Path) -> None:
    frames = [frame.repeat(4, 0).repeat(4, 1) for frame in moving_frames(3)]  # 128×96 px
    whole, tiled = (list(upscale_frames(frames, UpscaleOptions(tile=tile), echo)) for tile in (0, 64))
    assert len((tmp_path / "calls").read_text().split()) == 1 + 6
    assert np.abs(np.stack(whole).astype(int) - np.stack(tiled)).max() <= 1


def test_frames_are_read_as_they_are_needed(echo: Echo) -> None:
    """From an endless source, such as a camera."""
    read = []

    def endless() -> Iterator[np.ndarray]:
        for number in count():
            read.append(number)
            yield moving_frames(1)[0]

    stream = upscale_frames(endless(), UpscaleOptions(window=2, lookahead=2), echo)
    assert read == []
    assert len(list(islice(stream, 20))) == 20
    assert len(read) < 20 + 10


def test_the_output_size_is_that_of_the_options(echo: Echo) -> None:
    for options, shape in (({"scale": 2}, (48, 64, 3)), ({"size": "100x50"}, (50, 100, 3))):
        assert [frame.shape for frame in upscale_frames(moving_frames(2), UpscaleOptions(**options), echo)] == [
            shape
        ] * 2
    assert list(upscale_frames([], network=echo)) == []


def test_floats_reach_any_size_as_integers_do(echo: Echo) -> None:
    """A uniform frame, of a value that no level has, is the same at half the size."""
    gray = np.full((24, 32, 3), 0.3, np.float32)
    (native,) = upscale_frames([gray], UpscaleOptions(), echo)
    (found,) = upscale_frames([gray], UpscaleOptions(scale=2), echo)
    assert found.dtype == np.float32
    assert found.shape == (48, 64, 3)
    np.testing.assert_allclose(found, native[::2, ::2], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "libx265"}, "--codec: has no effect on upscale_frames, only upscale_video has it"),
        ({"start": 3.0}, "--start"),
        ({"ranks": 2}, "--ranks"),
        ({"model": "rvrt-bi-reds"}, "--model: has no effect on upscale_frames, the network is given"),
    ],
)
def test_options_without_effect_are_refused(echo: Echo, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        upscale_frames(moving_frames(2), UpscaleOptions(**options), echo)


def test_unusable_frames_are_refused(echo: Echo) -> None:
    small, tall = np.zeros((4, 32, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)
    for frames, error, message in (
        ([np.zeros((24, 32, 3))], ValueError, r"\(H, W, 3\) uint8 or uint16, or float32, not \(24, 32, 3\) float64"),
        ([np.zeros((24, 32), np.uint8)], ValueError, r"\(H, W, 3\) uint8 or uint16"),
        ([small], MediaError, "32x4 px"),
        ([*moving_frames(3), tall], MediaError, "frame 3 is 32x64 uint8, those before 32x24"),
    ):
        with pytest.raises(error, match=message):
            list(upscale_frames(frames, network=echo))
    with pytest.raises(OutOfMemoryError, match="more --memory"):
        list(upscale_frames(moving_frames(3), UpscaleOptions(memory="1K"), echo))
