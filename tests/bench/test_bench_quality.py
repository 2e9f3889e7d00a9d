# SPDX-License-Identifier: Apache-2.0
"""Scores with known answers, resuming, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.bench_sets import RepeatNetwork, textured_clip, textured_frame, write_frames, write_vid4
from PIL import Image
from skimage.metrics import structural_similarity

from rvrt_cli import device
from rvrt_cli.bench import quality, resume_log
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import ClipPair, Dataset, SetEntry, open_dataset
from rvrt_cli.bench.flicker import mean_change, still_footage
from rvrt_cli.bench.quality import (
    QualityProgress,
    check_degradation,
    measure_quality,
    score_frames,
    upscale_center_frame,
)
from rvrt_cli.bench.report import KEYS, to_json
from rvrt_cli.bench.resume_log import resume_log_path
from rvrt_cli.data.resize import imresize
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.metrics import psnr, rgb_to_y

ONE_LEVEL = 48.1308  # dB


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, and a digest of weights that are in no file."""
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resume_log, "file_sha256", lambda *_: "0" * 64)
    monkeypatch.setattr(quality, "network_facts", lambda network: {"network": network.card["name"], "notes": []})
    return tmp_path / "cache"


def flat(frames: int, level: int) -> ClipPair:
    low = np.full((frames, 16, 16, 3), level, np.uint8)
    return ClipPair(f"flat-{level}", low, low.repeat(4, 1).repeat(4, 2))


def dataset(
    pairs: list[ClipPair], channel: str = "y", center: bool = False, total: int | None = None, protocol: str = "vid4"
) -> Dataset:
    entries = tuple(SetEntry(pair.name, lambda pair=pair: iter([pair])) for pair in pairs)
    return Dataset(
        protocol=protocol,
        degradation="bi",
        channel=channel,
        center=center,
        description="made",
        low_resolution="made",
        entries=entries,
        total=total or len(entries),
    )


def options(**values: object) -> BenchOptions:
    return BenchOptions(protocol="clips", **values)


# --- known answers


def test_one_level_everywhere_is_48_13_db() -> None:
    result = measure_quality(options(), dataset([flat(3, 100), flat(1, 60)], "rgb"), RepeatNetwork(1 / 255))
    assert result["psnr_rgb"] == pytest.approx(ONE_LEVEL, abs=1e-4)
    assert result["psnr_y"] is None
    result = measure_quality(options(), dataset([flat(3, 100)]), RepeatNetwork(-1 / 255))
    assert result["psnr_y"] == pytest.approx(ONE_LEVEL + 20 * np.log10(255 / 219), abs=1e-4)  # Y has 219 levels
    assert result["bicubic_psnr_y"] == float("inf")
    assert json.loads(to_json(result))["bicubic_psnr_y"] is None


def test_for_clips_frames_that_bicubic_upscales_exactly_are_excluded_from_psnr() -> None:
    """Two black frames of five, and a clip of nothing else."""
    high = np.stack([textured_frame(number, 64, 64) for number in range(5)])
    high[:2] = 0
    from rvrt_cli.data.resize import imresize

    pairs = [
        ClipPair("fade", imresize(high, 0.25), high),
        ClipPair("rest", imresize(high[2:], 0.25), high[2:]),
        flat(3, 100),
    ]
    made = replace(dataset(pairs), protocol="clips")
    fade, rest, black = (result := measure_quality(options(), made, RepeatNetwork()))["clips"]
    for key in ("psnr_y", "bicubic_psnr_y"):
        assert fade[key] == rest[key] == result[key] < 60
        assert black[key] is None
    assert (fade["exact"], rest["exact"], black["exact"], black["ssim_y"]) == (2, 0, 3, 1.0)
    assert "excluded from every PSNR: 5 of 11" in " ".join(result["notes"])
    whole = measure_quality(options(), dataset(pairs), RepeatNetwork())  # the field's protocols have every frame
    assert whole["bicubic_psnr_y"] == float("inf")
    alone = measure_quality(options(), replace(dataset(pairs[2:]), protocol="clips"), RepeatNetwork())
    assert json.loads(to_json(alone))["psnr_y"] is None


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_ssim_of_a_clip_equals_scikit_image(channel: str) -> None:
    high = np.stack([textured_frame(number, 40, 48) for number in range(3)])
    noisy = np.clip(high + np.random.default_rng(0).normal(0, 9, high.shape), 0, 255).astype(np.uint8)
    expected = []
    for pair in zip(noisy, high, strict=True):
        a, b = (rgb_to_y(frame) if channel == "y" else frame.astype(float) for frame in pair)
        axis = None if channel == "y" else -1
        expected.append(
            structural_similarity(
                a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=axis
            )
        )
    assert score_frames(noisy, high, channel)[1] == pytest.approx(np.mean(expected), abs=1e-9)


def test_every_clip_counts_the_same_however_long() -> None:
    pairs = [flat(6, 100), flat(2, 50)]
    pairs[1].high[:] += 3  # three levels off in the short clip, one in the long one
    result = measure_quality(options(), dataset(pairs, "rgb"), RepeatNetwork(1 / 255))
    long, short = ONE_LEVEL, ONE_LEVEL - 20 * np.log10(2)
    assert [clip["psnr_rgb"] for clip in result["clips"]] == pytest.approx([long, short], abs=1e-4)
    assert result["psnr_rgb"] == pytest.approx((long + short) / 2, abs=1e-4)
    assert (result["clips_scored"], result["frames_scored"], result["sample"]) == (2, 8, False)


def test_bicubic_is_scored_too() -> None:
    high = np.stack([textured_frame(number, 64, 64) for number in range(2)])
    pair = ClipPair("one", imresize(high, 0.25), high)
    result = measure_quality(options(), dataset([pair]), RepeatNetwork())
    expected = np.mean([psnr(rgb_to_y(imresize(a, 4)), rgb_to_y(b)) for a, b in zip(pair.low, pair.high, strict=True)])
    assert result["bicubic_psnr_y"] == pytest.approx(expected)
    assert result["bicubic_psnr_y"] > result["psnr_y"]  # repeating pixels is worse


# --- Vimeo-90K-T


def test_vimeo_mirrors_and_averages_the_two_centers() -> None:
    """By hand: LR level 100; frames 3 and 10 come out 0.6 and 1.8 levels brighter, in the mean 101.2, so 101."""
    low = np.stack([np.full((8, 8, 3), 100 + number, np.uint8) for number in range(7)])
    low[3] = 100
    add = [0.0] * 14
    add[3], add[10] = 0.6 / 255, 1.8 / 255
    network = RepeatNetwork(add)
    center = upscale_center_frame(network, low)
    assert center.shape == (1, 32, 32, 3)
    assert (center == 101).all()  # rounded before averaging it would be 101 and 102, and 101.5 to 102
    [(frames, emit, mirrored)] = network.seen
    assert (emit, mirrored) == (14, True)
    levels = np.rint(frames[0, :, 0, 0, 0] * 255).astype(int).tolist()
    assert levels == [100, 101, 102, 100, 104, 105, 106, 106, 105, 104, 100, 102, 101, 100]


def test_vimeo_averages_before_it_clips() -> None:
    """250 levels: one output 20 levels too bright and one as much too dark are 250 in the mean; clipped first, 242."""
    add = [0.0] * 14
    add[3], add[10] = 20 / 255, -20 / 255
    assert (upscale_center_frame(RepeatNetwork(add), np.full((7, 8, 8, 3), 250, np.uint8)) == 250).all()


def test_vimeo_scores_the_center_alone(tmp_path: Path) -> None:
    pair = ClipPair("00001/0001", np.full((7, 8, 8, 3), 100, np.uint8), np.full((1, 32, 32, 3), 101, np.uint8))
    save = tmp_path / "frames"
    result = measure_quality(options(save=str(save)), dataset([pair], "rgb", center=True), RepeatNetwork())
    assert result["psnr_rgb"] == pytest.approx(ONE_LEVEL, abs=1e-4)
    assert result["frames_scored"] == 1
    assert [path.relative_to(save).as_posix() for path in save.rglob("*.png")] == ["00001/0001/im4.png"]


def test_output_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RvrtError, match="not finite"):
        upscale_center_frame(RepeatNetwork(float("nan")), np.full((7, 8, 8, 3), 100, np.uint8))


# --- saving, resuming, samples


def test_saved_frames_are_what_was_scored(tmp_path: Path) -> None:
    save = tmp_path / "frames"
    measure_quality(options(save=str(save)), dataset([flat(2, 100)]), RepeatNetwork(5 / 255))
    files = sorted(path.relative_to(save).as_posix() for path in save.rglob("*"))
    assert files == ["flat-100", "flat-100/00000000.png", "flat-100/00000001.png"]
    assert (np.asarray(Image.open(save / files[1])) == 105).all()
    with pytest.raises(OptionError, match="not empty"):
        measure_quality(options(save=str(save)), dataset([flat(2, 100)]), RepeatNetwork())


def test_an_interrupted_run_resumes(cache: Path, tmp_path: Path) -> None:
    pairs = [flat(1, 100), flat(1, 60), flat(1, 30)]
    chosen = options(save=str(tmp_path / "frames"))

    def stop() -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    progress = QualityProgress(3)
    with pytest.raises(KeyboardInterrupt):
        measure_quality(chosen, dataset(pairs), RepeatNetwork(1 / 255), progress, stop)
    [log] = (cache / "bench").iterdir()
    log.write_text(log.read_text() + '\n{"entry": "flat-30", "cl')  # cut short by a crash
    network = RepeatNetwork(1 / 255)
    result = measure_quality(chosen, dataset(pairs), network)
    assert len(network.seen) == 1
    assert result["clips_scored"] == 3
    assert "2 of 3 clips were scored by an earlier, interrupted run" in " ".join(result["notes"])
    whole = measure_quality(options(), dataset(pairs), RepeatNetwork(1 / 255))
    assert result["psnr_y"] == whole["psnr_y"]
    assert not (cache / "bench").exists()


def test_a_sample_keeps_the_log_of_an_interrupted_run(cache: Path) -> None:
    pairs = [flat(1, 100), flat(1, 60), flat(1, 30), flat(1, 80)]
    progress = QualityProgress(4)

    def stop() -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_quality(options(), dataset(pairs), RepeatNetwork(), progress, stop)
    sample = measure_quality(options(limit=1), dataset(pairs).sample(1), RepeatNetwork())
    assert (sample["sample"], sample["clips_scored"]) == (True, 1)
    network = RepeatNetwork()
    measure_quality(options(), dataset(pairs), network)
    assert [round(float(frames.mean()) * 255) for frames, *_ in network.seen] == [30, 80]
    assert not (cache / "bench").exists()
    measure_quality(options(limit=1), dataset(pairs).sample(1), RepeatNetwork())
    assert not (cache / "bench").exists()  # a sample alone is complete too


def test_scores_of_files_that_have_changed_are_not_reused(tmp_path: Path) -> None:
    progress, made = QualityProgress(4), open_dataset("vid4", write_vid4(tmp_path / "Vid4", 1, 32, 32))

    def stop() -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_quality(options(), made, RepeatNetwork(), progress, stop)
    write_frames(tmp_path / "Vid4" / "GT" / "city", textured_clip(9, 1, 32, 32))
    result = measure_quality(options(), made, RepeatNetwork())
    assert "2 of 4 clips were scored by an earlier, interrupted run" in " ".join(result["notes"])
    assert result["clips"][1]["psnr_y"] == measure_quality(options(), made, RepeatNetwork())["clips"][1]["psnr_y"]


def test_a_run_stopped_in_its_first_clip_may_be_saved_again(tmp_path: Path) -> None:
    chosen = options(save=str(tmp_path / "frames"))

    def broken() -> None:
        write_frames(tmp_path / "frames" / "flat-100", textured_clip(0, 1, 16, 16))
        raise KeyboardInterrupt

    entries = (SetEntry("flat-100", lambda: broken()),)  # type: ignore[arg-type,return-value]
    made = dataset([flat(1, 100)])
    with pytest.raises(KeyboardInterrupt):
        measure_quality(chosen, Dataset(**{**vars(made), "entries": entries}), RepeatNetwork())
    assert measure_quality(chosen, made, RepeatNetwork())["clips_scored"] == 1


@pytest.mark.parametrize("change", [{"vmaf": True}, {"save": "frames"}])
def test_another_run_has_another_log(change: dict) -> None:
    network, made = RepeatNetwork(), dataset([flat(1, 100)])
    assert resume_log_path(options(), made, network) == resume_log_path(options(limit=1), made, network)
    assert resume_log_path(options(), made, network) != resume_log_path(options(**change), made, network)


def test_a_sample_is_marked() -> None:
    result = measure_quality(options(), dataset([flat(1, 100)], total=4), RepeatNetwork())
    assert (result["sample"], result["clips_scored"], result["clips_total"]) == (True, 1, 4)


def test_a_video_of_several_shots_is_one_clip() -> None:
    pairs = [flat(1, 100), flat(2, 60), flat(1, 30)]
    entries = (SetEntry("film", lambda: iter(pairs)), SetEntry("other", lambda: iter(pairs[:1])))
    made = replace(dataset(pairs[:2]), protocol="clips", entries=entries)
    counts = ("sample", "clips_scored", "clips_total", "shots_scored", "frames_scored")
    result = measure_quality(options(), made, RepeatNetwork())
    assert [result[key] for key in counts] == [False, 2, 2, 4, 5]
    result = measure_quality(options(limit=1), made.sample(1), RepeatNetwork())
    assert [result[key] for key in counts] == [True, 1, 2, 3, 4]


def test_a_clip_too_large_for_the_memory_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "host_free_bytes", lambda: 100 << 20)
    network = RepeatNetwork(1 / 255)
    network.memory = lambda frames, height, width: (80 << 20) if frames > 20 else 1  # type: ignore[method-assign]
    result = measure_quality(options(), replace(dataset([flat(40, 100)], "rgb"), protocol="reds4"), network)
    assert result["clips"][0]["window"] == 14
    [note] = json.loads(to_json(result))["notes"]
    assert "1 of 1 clips did not fit the memory whole" in note
    whole = measure_quality(options(), replace(dataset([flat(20, 100)], "rgb"), protocol="reds4"), network)
    assert (whole["clips"][0]["window"], whole["notes"]) == (0, [])
    assert result["psnr_rgb"] == pytest.approx(ONE_LEVEL, abs=1e-4)


def test_clips_are_streamed_as_upscale_does() -> None:
    network = RepeatNetwork(1 / 255)
    made = replace(dataset([flat(20, 100)]), protocol="clips")
    result = measure_quality(options(), made, network)
    assert result["clips"][0]["window"] == 14
    assert "streamed in windows, as `rvrt upscale` does" in " ".join(result["notes"])
    assert [emit for _, emit, _ in network.seen] == [14, 6, 14, 14]  # the last two: still footage


def test_scores_of_several_degradations_are_averaged_by_degradation() -> None:
    low = np.full((2, 16, 16, 3), 100, np.uint8)
    high = low.repeat(4, 1).repeat(4, 2)
    pairs = [ClipPair(f"{add}-{kind}", low, high + np.uint8(add), kind) for add in (1, 2) for kind in ("h265", "night")]
    pairs[3] = replace(pairs[3], high=high + np.uint8(4))
    network = RepeatNetwork()
    result = measure_quality(options(), dataset(pairs, protocol="clips"), network)
    level = 10 * np.log10(255**2 / (219 / 255) ** 2)  # of an error of one level of RGB in Y
    assert list(result["degradations"]) == ["h265", "night"]
    for kind, errors in (("h265", (1, 2)), ("night", (1, 4))):
        expected = np.mean([level - 20 * np.log10(error) for error in errors])
        assert result["degradations"][kind]["psnr_y"] == pytest.approx(expected, abs=0.01)
    assert result["psnr_y"] == pytest.approx(np.mean([entry["psnr_y"] for entry in result["degradations"].values()]))
    assert result["flicker"] is None
    assert len(network.seen) == 4  # no still footage
    plain = measure_quality(options(), dataset([flat(2, 100)]), RepeatNetwork(1 / 255))
    assert plain["degradations"] is None


# --- degradations


FITTING = [
    ("bi", "bi"),
    ("bd", "bd"),
    *((made, data) for made in ("video", "real") for data in ("bi", "video", "real")),
]


@pytest.mark.parametrize(("made_for", "data"), FITTING)
def test_weights_fit_their_data(made_for: str, data: str) -> None:
    assert check_degradation({"name": "n", "degradation": made_for}, data, False) is None


@pytest.mark.parametrize(
    ("made_for", "data"), [("bi", "bd"), ("bd", "bi"), ("bi", "video"), ("video", "bd"), ("bi", "real")]
)
def test_weights_for_other_data_are_refused_unless_forced(made_for: str, data: str) -> None:
    card = {"name": "n", "degradation": made_for}
    with pytest.raises(OptionError, match=rf"n were trained for {made_for} and the data is {data}.*--force"):
        check_degradation(card, data, False)
    assert "forced" in str(check_degradation(card, data, True))


def test_weights_that_do_not_say_are_noted() -> None:
    assert "do not say" in str(check_degradation({"name": "n", "degradation": "none"}, "bd", False))


# --- the report


def test_a_report_has_all_keys_in_order() -> None:
    result = measure_quality(options(), dataset([flat(1, 100)]), RepeatNetwork(1 / 255))
    assert list(json.loads(to_json(result))) == list(KEYS)
    assert {
        "seconds_per_call",
        "seconds_per_frame",
        "gflop_per_call",
        "gflops",
        "gemm_gflops",
        "efficiency",
        "peak_rss_mb",
        "compile_seconds",
        "psnr_y",
        "ssim_y",
        "bicubic_psnr_y",
    } <= set(KEYS)


def test_published_figures_are_marked() -> None:
    from rvrt_cli.bench.published_figures import published_quality, published_speed

    scores = {entry["network"]: entry["psnr"] for entry in published_quality("vid4", "bi")}
    assert scores == {"rvrt-bi-vimeo": 27.99, "bicubic": 23.78}
    assert published_quality("udm10", "bd")[0]["psnr"] == 40.90
    assert published_quality("udm10", "bi") == published_quality("clips", "bi") == []
    speed = published_speed(14, 112, 64)
    assert sorted(entry["seconds_per_call"] for entry in speed) == [0.40, 0.74, 1.9, 2.32]
    assert all(entry["published"] for entry in speed)
    assert published_speed(7, 112, 64) == []


def test_vmaf_of_equal_and_of_blurred_frames() -> None:
    from rvrt_cli.bench.vmaf import vmaf
    from rvrt_cli.data.resize import imresize
    from rvrt_cli.video.ffmpeg import has_filter

    if not has_filter("libvmaf"):
        pytest.skip("this ffmpeg has no libvmaf")
    high = np.stack([textured_frame(7, 128, 192)] * 3)
    blurred = imresize(imresize(high, 0.25), 4)
    assert vmaf(high, high) > 90
    assert vmaf(blurred, high) < vmaf(high, high) - 5


def test_vmaf_is_refused_where_ffmpeg_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rvrt_cli.bench import vmaf

    monkeypatch.setattr(vmaf, "has_filter", lambda name: False)
    with pytest.raises(OptionError, match="no libvmaf"):
        vmaf.check_vmaf()


def test_chroma_is_scored_on_own_clips() -> None:
    pairs = [flat(2, 100), flat(2, 50)]
    pairs[0].high[..., 2] += 51  # a fifth of the range: Cb rises by 112 / 5 levels, Cr falls by 18.214 / 5
    result = measure_quality(options(), dataset(pairs, protocol="clips"), RepeatNetwork())
    assert result["psnr_cb"] == pytest.approx(20 * np.log10(255 / 22.4), abs=1e-6)
    assert result["psnr_cr"] == pytest.approx(20 * np.log10(255 / 3.6428), abs=1e-6)
    assert result["clips"][1]["psnr_cb"] is None  # gray and exact
    assert json.loads(to_json(result))["bicubic_psnr_cb"] == pytest.approx(result["psnr_cb"])
    assert measure_quality(options(), dataset(pairs), RepeatNetwork())["psnr_cb"] is None


def test_flicker_is_measured_on_still_footage(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = textured_frame(0, 64, 64)
    smooth = np.linspace(40, 200, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    footage = still_footage(smooth)
    assert footage.shape == (28, 64, 64, 3)
    assert np.abs(footage.mean(0) - smooth).mean() < 1
    assert mean_change(np.stack([frame] * 3)) == 0
    brighter = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (10, 20, 10)])
    assert mean_change(brighter) == pytest.approx(10 * 219 / 255)  # luma has 219 levels
    monkeypatch.setattr(quality, "still_footage", lambda frame: np.stack([frame, frame + np.uint8(10), frame]))
    result = measure_quality(options(), dataset([flat(2, 100)], protocol="clips"), RepeatNetwork())
    assert result["flicker"] == result["bicubic_flicker"] == pytest.approx(10 * 219 / 255)
