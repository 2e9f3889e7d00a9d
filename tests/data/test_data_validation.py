# SPDX-License-Identifier: Apache-2.0
"""The validation protocol on small videos with known scores."""

from pathlib import Path

import numpy as np
import pytest
from helpers.video_clips import write_video

from rvrt_cli.data.degradation import MIXES
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.validation import ValidationSet, bicubic_upscale, each_degradation, variants_of
from rvrt_cli.errors import OptionError
from rvrt_cli.metrics import psnr, rgb_to_y


def scene(seed: int, frames: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    wide = imresize(rng.random((height // 5, width // 5, 3)) * 255, size=(height, width + 4 * frames))
    wide = np.clip(wide, 0, 255).astype(np.uint8)
    return [wide[:, 4 * t : 4 * t + width] for t in range(frames)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless video of two shots, 12 and 8 frames of 90×122 px; and one of a single shot of 720 rows, 3 frames."""
    folder = tmp_path_factory.mktemp("val")
    for name, frames in {
        "two": scene(0, 12, 90, 122) + [255 - frame for frame in scene(1, 8, 90, 122)],
        "large": scene(2, 3, 720, 160),
    }.items():
        write_video(folder / f"{name}.mkv", frames, lossless=True)
    return folder


def test_bicubic_gains_nothing_and_matches_a_direct_calculation(folder: Path) -> None:
    scores = ValidationSet(folder).score(bicubic_upscale)
    assert list(scores) == ["clean", "h264"]
    assert list(scores["clean"]["clips"]) == ["large", "two-1", "two-2"]
    expected = []
    for frame in scene(0, 12, 90, 122):
        target = frame[:88, :120]
        upscaled = imresize(imresize(target, 0.25), 4)
        expected.append(psnr(rgb_to_y(upscaled), rgb_to_y(target)))
    clean = scores["clean"]["clips"]["two-1"]
    assert clean["psnr_y"] == pytest.approx(np.mean(expected), abs=1e-9)
    for variant in scores.values():
        assert variant["mean"]["gain"] == 0
        assert variant["chroma_gain"] == {"cb": 0, "cr": 0}
        shots = [shot["psnr_y"] for shot in variant["clips"].values()]
        assert variant["mean"]["psnr_y"] == pytest.approx(np.mean(shots))
    assert scores["h264"]["mean"]["psnr_y"] < scores["clean"]["mean"]["psnr_y"] - 0.01


def test_network_sees_low_resolution_and_is_scored_on_the_frames_it_returns(folder: Path) -> None:
    seen = []

    def upscale(frames: np.ndarray) -> np.ndarray:
        seen.append(frames.shape)
        return np.zeros((len(frames), 4 * frames.shape[1], 4 * frames.shape[2], 3), np.uint8)

    scores = ValidationSet(folder, variants=["clean"]).score(upscale)
    assert seen == [(3, 90, 20, 3), (12, 22, 30, 3), (8, 22, 30, 3)]
    target = [frame[:88, :120] for frame in scene(0, 12, 90, 122)]
    expected = np.mean([psnr(np.full((88, 120), 16.0), rgb_to_y(frame)) for frame in target])
    shot = scores["clean"]["clips"]["two-1"]
    assert shot["psnr_y"] == pytest.approx(expected)
    assert all(gain < -5 for gain in scores["clean"]["chroma_gain"].values())
    assert shot["gain"] == pytest.approx(shot["psnr_y"] - shot["bicubic_psnr_y"])
    assert shot["gain"] < -5


def test_scores_of_sampled_windows(folder: Path) -> None:
    lengths = []

    def upscale(frames: np.ndarray) -> np.ndarray:
        lengths.append(len(frames))
        return bicubic_upscale(frames)

    whole = ValidationSet(folder, variants=["clean"]).score(bicubic_upscale)
    sample = ValidationSet(folder, windows=2, frames=4, variants=["clean"]).score(upscale)
    assert lengths == [3, 4, 4, 4, 4]
    difference = sample["clean"]["clips"]["two-1"]["psnr_y"] - whole["clean"]["clips"]["two-1"]["psnr_y"]
    assert 0 < abs(difference) < 1


def test_frames_that_bicubic_restores_exactly_are_excluded(tmp_path: Path) -> None:
    black = [np.zeros((48, 64, 3), np.uint8)] * 2
    for name, frames in {"fade": black + scene(3, 4, 48, 64), "black": black}.items():
        write_video(tmp_path / f"{name}.mkv", frames, lossless=True)
    made = ValidationSet(tmp_path, variants=["clean"])
    scores = made.score(lambda frames: bicubic_upscale(frames) // 2)["clean"]
    (tmp_path / "fade.mkv").unlink()
    assert scores["clips"]
    assert "black" not in scores["clips"]
    assert all(np.isfinite(score) for score in scores["mean"].values())
    assert all(np.isfinite(gain) for gain in scores["chroma_gain"].values())
    assert scores["mean"]["gain"] < 0
    with pytest.raises(OptionError, match=r"nothing to validate on.*give other videos"):
        ValidationSet(tmp_path)
    write_video(tmp_path / "other.mkv", scene(4, 4, 48, 64), lossless=True)
    assert ValidationSet(tmp_path, variants=["clean"]).identity != made.identity


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no videos"):
        ValidationSet(tmp_path)


@pytest.mark.parametrize(("windows", "frames"), [(0, 12), (-1, 12), (None, 0)])
def test_windows_without_frames_are_refused(folder: Path, windows: int | None, frames: int) -> None:
    with pytest.raises(OptionError, match=f"{windows} windows of {frames} frames: give 1 or more of each"):
        ValidationSet(folder, windows, frames)


def test_variants_follow_what_is_trained() -> None:
    assert variants_of("bi") == variants_of("bd") == variants_of("video") == ("clean", "h264")
    assert variants_of("real") == ("clean", "h264", "real")
    assert (variants_of("blur"), variants_of("noise")) == (("blur",), ("noise",))


@pytest.mark.slow
def test_real_scores_the_middle_of_each_shot_after_every_degradation(folder: Path) -> None:
    seen = []

    def upscale(frames: np.ndarray) -> np.ndarray:
        seen.append(frames)
        return bicubic_upscale(frames)

    made = ValidationSet(folder, windows=1, frames=4, variants=("clean", "real"))
    scores = made.score(upscale)
    kinds = [entry.name for entry in MIXES["real"] if entry.name != "clean"]
    assert list(scores["clean"]["clips"]) == ["large", "two-1", "two-2"]
    assert list(scores["real"]["clips"]) == [
        f"{shot}, {kind}" for shot in ("large", "two-1", "two-2") for kind in kinds
    ]
    assert scores["real"]["mean"]["gain"] == 0
    assert scores["real"]["mean"]["psnr_y"] < scores["clean"]["mean"]["psnr_y"]
    inputs = seen[len(scores["clean"]["clips"]) :]
    middle = imresize(np.stack(scene(0, 12, 90, 122))[4:8, :88, :120], 0.25)
    for kind, low in zip(kinds, inputs[len(kinds) :], strict=False):  # those of two-1
        assert low.shape == middle.shape
        assert 15 < psnr(low, middle) < 60, kind
    again = ValidationSet(folder, windows=1, frames=4, variants=("clean", "real"))
    assert again.identity == made.identity
    assert again.score(bicubic_upscale) == scores


def test_each_degradation_depends_on_the_name_of_the_shot() -> None:
    high = np.stack(scene(0, 6, 96, 128))
    first, second = (list(each_degradation(shot, high, 4)) for shot in ("a", "b"))
    assert all(np.array_equal(target, high[1:5]) for _, _, target in first)
    assert sum(np.array_equal(one[1], other[1]) for one, other in zip(first, second, strict=True)) <= 1
