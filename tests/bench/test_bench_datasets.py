# SPDX-License-Identifier: Apache-2.0
"""Small test sets in the layout of each protocol."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import VID4, RepeatNetwork, textured_clip, textured_frame, write_frames, write_vimeo
from helpers.video_clips import ffmpeg
from PIL import Image

from rvrt_cli.bench import datasets, quality, resume_log
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import CENTER, Dataset, open_dataset, sample_clip
from rvrt_cli.data import validation
from rvrt_cli.data.codecs import h264
from rvrt_cli.data.degradation import MIXES
from rvrt_cli.data.resize import blur_downsample, imresize
from rvrt_cli.errors import MediaError, OptionError


def names(dataset: Dataset) -> list[str]:
    return [pair.name for entry in dataset.entries for pair in entry.load()]


@pytest.mark.parametrize("low", [True, False])
def test_vimeo(tmp_path: Path, low: bool) -> None:
    dataset = open_dataset("vimeo90k-t", write_vimeo(tmp_path, low_resolution=low))
    assert (dataset.channel, dataset.center, dataset.degradation, dataset.total) == ("y", True, "bi", 2)
    assert "sep_testlist.txt, 2 septuplets" in dataset.description
    assert ("the set's BIx4" if low else "made") in dataset.low_resolution
    [pair] = dataset.entries[1].load()
    frames = textured_clip(1, 7, 32, 48)
    np.testing.assert_array_equal(pair.high, frames[CENTER][None])
    np.testing.assert_array_equal(pair.low, [imresize(frame, 0.25) for frame in frames])


def test_vimeo_with_a_septuplet_missing(tmp_path: Path) -> None:
    write_vimeo(tmp_path)
    (tmp_path / "sequences" / "00002" / "0003" / "im4.png").unlink()
    with pytest.raises(MediaError, match=r"im4\.png: missing"):
        names(open_dataset("vimeo90k-t", tmp_path))


def test_vimeo_with_low_resolution_of_the_other_list_or_size(tmp_path: Path) -> None:
    write_vimeo(tmp_path, low_resolution=True)
    missing, remedy = (
        tmp_path / "BIx4" / "00002" / "0003" / "im2.png",
        f"rvrt preprocess vimeo90k {tmp_path} --lists test",
    )
    missing.unlink()
    with pytest.raises(MediaError, match=rf"im2\.png: missing; make it with: {remedy}"):
        names(open_dataset("vimeo90k-t", tmp_path))
    missing.write_bytes(b"no image")
    with pytest.raises(MediaError, match=rf"im2\.png: cannot be read.*delete it, and make it with: {remedy}"):
        names(open_dataset("vimeo90k-t", tmp_path))
    write_frames(tmp_path / "BIx4" / "00002" / "0003", textured_clip(1, 7, 16, 24), "im{}.png", first=1)
    with pytest.raises(OptionError, match="7 frames of 24x16 px do not match 7 targets of 48x32 px"):
        names(open_dataset("vimeo90k-t", tmp_path))
    Image.fromarray(textured_frame(0, 8, 8)).save(tmp_path / "BIx4" / "00002" / "0003" / "im2.png")
    with pytest.raises(OptionError, match="images of different sizes"):
        names(open_dataset("vimeo90k-t", tmp_path))
    shutil.rmtree(tmp_path / "BIx4" / "00002")  # as `rvrt preprocess vimeo90k ROOT --lists train` leaves the test list
    with pytest.raises(OptionError, match=rf"0003: missing.*rvrt preprocess vimeo90k {tmp_path} --lists test"):
        open_dataset("vimeo90k-t", tmp_path)


@pytest.mark.parametrize("inside", ["GT", "."])
def test_vid4(tmp_path: Path, inside: str) -> None:
    for index, name in enumerate(VID4):
        write_frames(tmp_path / inside / name, textured_clip(index, 2, 34, 50))
    dataset = open_dataset("vid4", tmp_path)
    assert names(dataset) == ["calendar", "city", "foliage", "walk"]
    assert (dataset.channel, dataset.center, dataset.degradation) == ("y", False, "bi")
    [pair] = dataset.entries[0].load()
    assert pair.high.shape == (2, 32, 48, 3)  # multiples of 4
    np.testing.assert_array_equal(pair.low, imresize(pair.high, 0.25))


def test_frames_are_in_numerical_order_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    made = {name: textured_clip(index, 12, 32, 48) for index, name in enumerate(VID4)}
    for name, frames in made.items():
        write_frames(tmp_path / "GT" / name, frames, "{}.png", first=1)
        (tmp_path / "GT" / name / "._1.png").write_bytes(b"as macOS leaves them")
    for entry in open_dataset("vid4", tmp_path).entries:
        [pair] = entry.load()
        np.testing.assert_array_equal(pair.high, made[entry.name])


def test_vid4_with_its_own_low_resolution(tmp_path: Path) -> None:
    for index, name in enumerate(VID4):
        frames = textured_clip(index, 2, 32, 48)
        write_frames(tmp_path / "GT" / name, frames)
        write_frames(tmp_path / "BDx4" / name, [blur_downsample(frame) for frame in frames])
    dataset = open_dataset("vid4", tmp_path, "bd")
    assert dataset.low_resolution == "the set's BDx4"
    [pair] = dataset.entries[2].load()
    np.testing.assert_array_equal(pair.low, blur_downsample(pair.high))
    assert open_dataset("vid4", tmp_path).low_resolution.startswith("made: MATLAB's bicubic")


def test_low_resolution_of_another_size_is_refused(tmp_path: Path) -> None:
    for index, name in enumerate(VID4):
        write_frames(tmp_path / "GT" / name, textured_clip(index, 2, 32, 48))
        write_frames(tmp_path / "BIx4" / name, textured_clip(index, 2, 16, 24))
    with pytest.raises(OptionError, match="24x16 px do not match 2 targets of 48x32 px"):
        names(open_dataset("vid4", tmp_path))


def test_low_resolution_of_only_some_clips_is_refused(tmp_path: Path) -> None:
    for index, name in enumerate(VID4):
        write_frames(tmp_path / "GT" / name, textured_clip(index, 2, 32, 48))
    for name in ("calendar", "foliage"):
        write_frames(tmp_path / "BIx4" / name, textured_clip(0, 2, 8, 12))
    with pytest.raises(OptionError, match=r"BIx4/city: missing.*unpack the set again"):
        open_dataset("vid4", tmp_path)


def test_reds4_takes_its_four_clips_from_the_training_set(tmp_path: Path) -> None:
    for index, name in enumerate(("000", "001", "011", "015", "020", "240")):
        frames = textured_clip(index, 2, 32, 48)
        write_frames(tmp_path / "train_sharp" / name, frames)
        write_frames(tmp_path / "train_sharp_bicubic" / "X4" / name, [imresize(frame, 0.25) for frame in frames])
    dataset = open_dataset("reds4", tmp_path)
    assert names(dataset) == ["000", "011", "015", "020"]
    assert (dataset.channel, dataset.low_resolution) == ("rgb", "the set's train_sharp_bicubic/X4")


@pytest.mark.parametrize("layout", ["GT", "truth"])
def test_udm10_is_blurred_by_default(tmp_path: Path, layout: str) -> None:
    for index in range(10):
        frames = textured_clip(index, 2, 32, 48)
        name = f"clip{index}"
        write_frames(tmp_path / "GT" / name if layout == "GT" else tmp_path / name / "truth", frames)
        if layout == "truth":
            write_frames(tmp_path / name / "blur4", [blur_downsample(frame) for frame in frames])
    dataset = open_dataset("udm10", tmp_path)
    assert (dataset.degradation, dataset.total) == ("bd", 10)
    assert ("made: Gaussian" if layout == "GT" else "the set's blur4") in dataset.low_resolution
    [pair] = dataset.entries[9].load()
    np.testing.assert_array_equal(pair.low, blur_downsample(pair.high))


@pytest.mark.parametrize("protocol", ["vid4", "reds4", "udm10", "vimeo90k-t"])
def test_a_folder_of_another_layout_is_refused(tmp_path: Path, protocol: str) -> None:
    write_frames(tmp_path / "GT" / "calendar", [textured_frame(0, 32, 48)])
    with pytest.raises(OptionError, match="expected"):
        open_dataset(protocol, tmp_path)


def test_a_folder_of_videos_without_videos_or_with_two_of_one_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OptionError, match=r"no videos; expected files such as \.mp4 or \.mkv"):
        open_dataset("clips", tmp_path)
    for name in ("city.mp4", "city.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(OptionError, match="two videos differ only in their suffix; rename one"):
        open_dataset("clips", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="empty: no images; unpack the set again"):
        datasets.read_frames(tmp_path / "empty")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such folder"):
        open_dataset("vid4", tmp_path / "none")


def test_clips_are_videos_split_into_shots(tmp_path: Path) -> None:
    for name, source in (("b", "testsrc2"), ("a", "testsrc")):
        ffmpeg(
            "-f", "lavfi", "-i", f"{source}=s=64x48:r=25", "-frames:v", "3", "-c:v", "ffv1", tmp_path / f"{name}.mkv"
        )
    dataset = open_dataset("clips", tmp_path)
    assert names(dataset) == ["a", "b"]
    [pair] = dataset.entries[0].load()
    assert pair.high.shape == (3, 48, 64, 3)
    np.testing.assert_array_equal(pair.low, imresize(pair.high, 0.25))
    [coded] = open_dataset("clips", tmp_path, "video").entries[0].load()
    np.testing.assert_array_equal(coded.low, h264(pair.low, 23))
    assert open_dataset("clips", tmp_path / "a.mkv").total == 1


def test_real_makes_a_clip_of_each_degradation_of_a_shot(tmp_path: Path) -> None:
    source = "testsrc2=s=96x96:r=25"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", "20", "-c:v", "ffv1", tmp_path / "a.mkv")
    [whole] = open_dataset("clips", tmp_path).entries[0].load()
    dataset = open_dataset("clips", tmp_path, "real")
    pairs = list(dataset.entries[0].load())
    kinds = [entry.name for entry in MIXES["real"][1:]]
    assert [(pair.name, pair.degradation) for pair in pairs] == [(f"a-{kind}", kind) for kind in kinds]
    for pair in pairs:
        np.testing.assert_array_equal(pair.high, whole.high[3:17])
        assert pair.low.shape == (14, 24, 24, 3)
    again = dataset.entries[0].load()
    assert all(np.array_equal(pair.low, other.low) for pair, other in zip(pairs, again, strict=True))


def test_shots_are_read_and_scored_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_of = [np.roll(textured_frame(shot, 96, 128), 2 * t, 1) for shot in range(3) for t in range(12)]
    rate = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "128x96", "-r", "25"]
    (tmp_path / "raw").write_bytes(np.stack(picture_of).tobytes())
    ffmpeg(*rate, "-i", tmp_path / "raw", "-c:v", "libx264rgb", "-crf", "0", tmp_path / "film.mkv")
    read, alive = [], []  # frames read, and whether the shot before still lies in memory, when each is downsampled
    shots, read_video = [], validation.read_video

    def counted(path: Path) -> tuple[int, Iterator[np.ndarray]]:
        estimate, frames = read_video(path)
        return estimate, (read.append(1) or frame for frame in frames)  # type: ignore[func-returns-value]

    def noted(high: np.ndarray, kind: str) -> np.ndarray:
        alive.append((len(read), [shot() is not None for shot in shots]))
        shots.append(weakref.ref(high))
        return imresize(high, 0.25)

    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resume_log, "file_sha256", lambda *_: "0" * 64)
    monkeypatch.setattr(quality, "network_facts", lambda network: {"notes": []})
    monkeypatch.setattr(validation, "read_video", counted)
    monkeypatch.setattr(datasets, "downsample_clip", noted)
    result = quality.measure_quality(
        BenchOptions(protocol="clips"), open_dataset("clips", tmp_path / "film.mkv"), RepeatNetwork()
    )
    assert [(clip["clip"], clip["frames"]) for clip in result["clips"]] == [(f"film-{k}", 12) for k in (1, 2, 3)]
    assert [kept for _, kept in alive] == [[], [False], [False, False]]
    assert alive[0][0] < 24, "the first shot waited for the second to end"


def test_clips_without_data_are_the_sample_clip() -> None:
    dataset = open_dataset("clips", None)
    assert "sample clip" in dataset.description
    [pair] = dataset.entries[0].load()
    assert pair.high.shape == (30, 200, 360, 3)
    assert pair.low.shape == (30, 50, 90, 3)


def test_an_installed_program_brings_the_sample_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = tmp_path / "rvrt_cli" / "embedded"
    embedded.mkdir(parents=True)
    (embedded / "city-truth.mp4").write_bytes(sample_clip().read_bytes())
    monkeypatch.setattr("rvrt_cli.bench.datasets.embedded_folder", lambda: embedded)
    assert sample_clip() == embedded / "city-truth.mp4"
    (embedded / "city-truth.mp4").unlink()
    with pytest.raises(OptionError, match="reinstall rvrt"):
        sample_clip()


def test_a_sample_is_spread_over_the_set(tmp_path: Path) -> None:
    septuplets = tuple(f"00001/{number:04d}" for number in range(10))
    (tmp_path / "sequences").mkdir()
    (tmp_path / "sep_testlist.txt").write_text("\n".join(septuplets))
    dataset = open_dataset("vimeo90k-t", tmp_path)
    assert [entry.name[-1] for entry in dataset.sample(5).entries] == ["0", "2", "4", "6", "8"]
    assert (len(dataset.sample(99).entries), dataset.sample(3).total) == (10, 10)
