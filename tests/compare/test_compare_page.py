# SPDX-License-Identifier: Apache-2.0
"""The comparison page: what is in the file, and what it does in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.chromium import Page, needs_chromium
from helpers.commands import refusal, rvrt
from helpers.video_clips import ffmpeg, make_clip, write_video

from rvrt_cli.compare import compare_videos as compare_videos_module, curves, layer_media
from rvrt_cli.compare.aligned_frames import Comparison
from rvrt_cli.compare.compare_options import CompareOptions
from rvrt_cli.compare.compare_videos import MAX_PAGE_BYTES, compare_videos
from rvrt_cli.compare.curves import CurveSet
from rvrt_cli.compare.layer_media import detail_window, encode_still, encode_video, layer_pitch, stack_layers
from rvrt_cli.compare.write_page import page_html
from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video.ffmpeg import has_filter
from rvrt_cli.video.read.probe import probe

FRAMES, STEP = 24, 8  # gray levels from frame to frame, so that a picture tells its number
RED, BLUE = (200, 40, 40), (40, 40, 200)


def numbered_frames(height: int, width: int, color: tuple[int, int, int]) -> list[np.ndarray]:
    """Frames of one color, with a gray square in the middle whose level is the number of the frame times STEP."""
    frames = []
    for number in range(FRAMES):
        frame = np.full((height, width, 3), color, np.uint8)
        frame[height // 4 : -height // 4, width // 4 : -width // 4] = 20 + STEP * number
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A red source, a blue "upscaled" video and a truth of the same frames."""
    folder = tmp_path_factory.mktemp("videos")
    before, after, truth = (folder / f"{name}.mp4" for name in ("before", "after", "truth"))
    write_video(before, numbered_frames(32, 48, RED), lossless=True)
    write_video(after, numbered_frames(128, 192, BLUE), lossless=True)
    write_video(truth, numbered_frames(128, 192, RED), lossless=True)
    return before, after, truth


@pytest.fixture(scope="module")
def page_file(videos: tuple[Path, Path, Path]) -> Path:
    before, after, truth = videos
    path = before.with_name("report.html")
    path.write_text(compare_videos(before, after, truth, CompareOptions(excerpts=2, seconds=0.4)))
    return path


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.slow
def test_page_is_one_file_without_addresses(page_file: Path) -> None:
    page = page_file.read_text()
    assert len(page.encode()) <= MAX_PAGE_BYTES
    text = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) == {
        "http://www.w3.org/2000/svg"
    }  # the name of SVG, no request
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_curves_are_those_of_the_frames(page_file: Path) -> None:
    data = data_of(page_file.read_text())
    curves = {curve["name"].split(",")[0]: curve for curve in data["curves"]}
    expected = {"PSNR", "SSIM", "Temporal flicker"} | ({"VMAF"} if has_filter("libvmaf") else set())
    assert set(curves) == expected
    bicubic, upscaled = curves["PSNR"]["lines"]
    assert len(upscaled["points"]) == FRAMES
    # Three quarters of the px are blue instead of red: the difference of luma is that of the two colors
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = 0.75 * float((np.subtract(RED, BLUE) @ weights) ** 2)
    assert upscaled["mean"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.15)
    assert bicubic["mean"] > upscaled["mean"] + 10
    assert [point[0] for point in upscaled["points"]] == pytest.approx(
        [number / 25 for number in range(FRAMES)], abs=1e-4
    )


def test_without_a_truth_there_is_a_flicker_curve(tmp_path: Path) -> None:
    before, after = tmp_path / "before.mp4", tmp_path / "after.mp4"
    steady = np.full((32, 48, 3), 90, np.uint8)
    write_video(before, [steady] * 12, lossless=True)
    flickering = [np.full((128, 192, 3), 90 + 4 * (number % 2), np.uint8) for number in range(12)]
    write_video(after, flickering, lossless=True)
    data = data_of(compare_videos(before, after))
    [curve] = data["curves"]
    assert curve["name"] == "Temporal flicker"
    [line] = curve["lines"]
    assert line["mean"] == pytest.approx(4 * (235 - 16) / 255, abs=0.01)  # four levels of gray, on the Y channel


def test_curves_of_a_long_video_are_those_of_some_segments(
    videos: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap between segments is no line; equal frames, whose PSNR is infinite, are no points."""
    before, after, truth = map(probe, videos)
    whole = CurveSet(Comparison(before, after, truth))
    whole.measure()
    for name, value in (("_MAX_CURVE_PIXELS", 1), ("_SEGMENT_FRAMES", 4), ("_VMAF_BYTES", 1)):
        monkeypatch.setattr(curves, name, value)
    some = CurveSet(Comparison(before, after, truth))
    some.measure()
    assert (whole.frames, some.frames) == (FRAMES, 8)
    assert ("vmaf", 1) not in some.points
    for name in ("psnr", "ssim"):
        points = dict(whole.points[name, 1])
        assert [points[seconds] for seconds, _ in some.points[name, 1]] == [value for _, value in some.points[name, 1]]
        assert [round(25 * seconds) for seconds, _ in some.points[name, 1]] == [0, 1, 2, 3, 20, 21, 22, 23]
    assert some.gap == pytest.approx(1.5 * 20 / 25)
    equal = CurveSet(Comparison(before, truth, truth))
    equal.measure()
    assert ("psnr", 1) not in equal.points
    assert len(equal.points["psnr", 0]) == 8


def test_layers_of_an_excerpt_show_the_same_frame(page_file: Path, tmp_path: Path) -> None:
    data = data_of(page_file.read_text())
    assert data["layers"] == ["bicubic", "upscaled", "truth"]
    scene = data["scenes"][0]
    path = tmp_path / "scene.mp4"
    path.write_bytes(base64.b64decode(scene["video"]["base64"]))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == scene["frames"]
    first = round(scene["begin"] * 25)
    for number, frame in enumerate(frames):
        levels = [frame[scene["pitch"] * layer + 64, 96].astype(int).mean() for layer in range(3)]
        assert levels == pytest.approx([20 + STEP * (first + number)] * 3, abs=3)


def test_names_cannot_leave_the_data(videos: tuple[Path, Path, Path], tmp_path: Path) -> None:
    odd = tmp_path / "<script>alert(1)<!--.mp4"
    odd.write_bytes(videos[1].read_bytes())
    page = page_html({"title": odd.name})
    assert "<script>alert" not in page
    assert data_of(page)["title"] == odd.name


@pytest.mark.slow
def test_a_noisy_large_video_stays_within_the_limit(tmp_path: Path) -> None:
    noise = "noise=alls=100:allf=t"
    base = ["-f", "lavfi", "-i", "testsrc2=s=1280x720:r=10:d=0.3"]
    after = make_clip(*base, "-vf", noise, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", tmp_path / "a.mp4")
    before = make_clip(*base, "-vf", "scale=320:180", "-c:v", "libx264", "-preset", "ultrafast", tmp_path / "b.mp4")
    page = compare_videos(before, after, None, CompareOptions(excerpts=1, seconds=0.2))
    assert len(page.encode()) <= MAX_PAGE_BYTES
    scene = data_of(page)["scenes"][0]
    assert (scene["width"], scene["height"]) == (960, 540)


def test_media_keep_their_budget() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    video = encode_video([noise] * 12, Fraction(25), 6_000)
    assert 3 * len(video["base64"]) // 4 <= 6_000
    shortened = encode_video([noise] * 12, Fraction(25), 1)  # which nothing fits into
    assert shortened["frames"] == 1
    still = encode_still(noise, 6_000)
    assert still["type"] == "image/webp"
    assert 3 * len(still["base64"]) // 4 <= 6_000
    assert encode_still(noise, 40_000)["type"] == "image/png"


def test_an_ffmpeg_without_encoders_for_browsers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.zeros((32, 48, 3), np.uint8)
    monkeypatch.setattr(layer_media, "video_encoders", lambda: {"libvpx-vp9": "VP9"})
    assert encode_video([frame] * 2, Fraction(25), 6_000)["type"] == "video/webm"
    monkeypatch.setattr(layer_media, "video_encoders", lambda: {"libx265": "HEVC"})
    with pytest.raises(MediaError, match="this ffmpeg has neither libx264 or libvpx-vp9; set IMAGEIO_FFMPEG_EXE"):
        encode_video([frame] * 2, Fraction(25), 6_000)


def test_frames_too_tall_for_a_video_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a source of 10 bits is shown in 8, which the page says."""
    deep = ["-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.2,format=yuv420p10le", "-c:v", "ffv1"]
    before, after = make_clip(*deep, tmp_path / "a.mkv"), make_clip(*deep, "-vf", "scale=64:48", tmp_path / "b.mkv")
    options = CompareOptions(excerpts=1, seconds=0.2)
    assert "Shown in 8 bits, without tone mapping." in compare_videos(before, after, None, options)
    monkeypatch.setattr(compare_videos_module, "_VIDEO_LIMIT", 90)
    with pytest.raises(MediaError, match=r"b\.mkv: frames of this shape cannot be shown; crop the videos first"):
        compare_videos(before, after, None, options)


def test_layers_are_stacked_on_coding_blocks() -> None:
    layers = [np.full((21, 33, 3), level, np.uint8) for level in (10, 200)]
    stacked = stack_layers(layers)
    assert layer_pitch(21) == 32
    assert stacked.shape == (64, 34, 3)
    assert (stacked[:32] == 10).all()
    assert (stacked[32:] == 200).all()


def test_detail_window_finds_the_texture() -> None:
    frame = np.full((200, 300, 3), 120, np.uint8)
    frame[120:160, 200:240] = np.random.default_rng(1).integers(90, 150, (40, 40, 3))
    rows, columns = detail_window(frame, (48, 48))
    assert rows.start <= 120
    assert rows.stop >= 160
    assert columns.start <= 200
    assert columns.stop >= 240


def test_times_are_those_of_every_option() -> None:
    assert CompareOptions(at="42,0:42.5,1:02:03").times == [42, 42.5, 3723]
    with pytest.raises(OptionError, match="'a' is not a time"):
        CompareOptions(at="42,a")


def test_command(
    videos: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before, after, _ = videos
    page, both = tmp_path / "report.html", tmp_path / "both.mp4"
    call = ["compare", before, after, "-o", page, "--seconds", "0.3", "--side-by-side", both]
    assert rvrt(monkeypatch, *call) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    assert "exists; choose another name" in refusal(monkeypatch, capsys, *call)
    assert "name the page to write" in refusal(monkeypatch, capsys, "compare", before, after)
    with av.open(str(both)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    assert frames[0].shape == (128, 384, 3)
    assert frames[5][4, 4] == pytest.approx(np.array(RED), abs=12)
    assert frames[5][4, -4] == pytest.approx(np.array(BLUE), abs=12)


@pytest.mark.parametrize(
    ("before", "target", "options", "words"),
    [
        ("before.mp4", "both.webm", [], "both.webm: choose one of .mp4 .mkv .mov"),
        ("before.mp4", "there.mp4", [], "there.mp4: exists; choose another name, or --overwrite"),
        ("image.png", "both.mp4", [], "image.png: only videos are put side by side; name a video"),
        ("-", "", [], "-: a comparison reads its videos more than once; write the stream to a file first"),
        ("before.mp4", "", ["--at", "1,2"], "--at 1: the video lasts 0.96 s; give an earlier time"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    videos: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    before: str,
    target: str,
    options: list[str],
    words: str,
) -> None:
    (tmp_path / "there.mp4").write_text("precious")
    if before == "image.png":
        ffmpeg("-i", videos[0], "-frames:v", "1", tmp_path / before)
    first = {"-": "-", "image.png": tmp_path / before}.get(before, videos[0])
    made = ["--side-by-side", tmp_path / target] if target else ["-o", tmp_path / "page.html"]
    assert words in refusal(monkeypatch, capsys, "compare", first, videos[1], *made, *options)
    assert (tmp_path / "there.mp4").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} <= {"there.mp4", "image.png"}


def test_videos_without_common_times_are_refused(
    videos: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    late = tmp_path / "late.mkv"
    ffmpeg("-itsoffset", "100", "-i", videos[1], "-c", "copy", "-copyts", late)
    said = refusal(monkeypatch, capsys, "compare", videos[0], late, "-o", tmp_path / "page.html")
    assert "no frame at a time of" in said


# In a browser

_PIXEL = "Array.from(document.querySelector('canvas').getContext('2d').getImageData({}, {}, 1, 1).data.slice(0, 3))"


@pytest.fixture(scope="module")
def page(page_file: Path) -> Iterator[Page]:
    with Page(page_file, 1600) as opened:
        yield opened


def colors(page: Page) -> tuple[list[int], list[int]]:
    """Colors near the left and the right edge of the frame that is shown."""
    place = page.value("(() => { const p = placement(); return [(p.box - p.seenX * p.scale) / 2, p.box] })()")
    left, width = place
    return page.value(_PIXEL.format(left + 6, 30)), page.value(_PIXEL.format(width - left - 8, 30))


def is_like(color: list[int], expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 25 for a, b in zip(color, expected, strict=True))


@needs_chromium
@pytest.mark.slow
def test_divider_moves_by_keys_and_pointer(page: Page) -> None:
    left, right = colors(page)
    assert is_like(left, RED)
    assert is_like(right, BLUE)
    page.press("End")
    assert page.value("document.getElementById('divider').getAttribute('aria-valuenow')") == "100"
    assert all(is_like(color, RED) for color in colors(page))
    page.press("Home")
    assert all(is_like(color, BLUE) for color in colors(page))
    for _ in range(5):
        page.press("ArrowRight")
    assert page.value("document.getElementById('divider').getAttribute('aria-valuenow')") == "10"
    box = page.value("(({x, y, width}) => [x, y, width])(document.getElementById('stage').getBoundingClientRect())")
    x, y, width = box
    page.drag((x + 0.1 * width, y + 60), (x + 0.8 * width, y + 60))
    assert abs(int(page.value("document.getElementById('divider').getAttribute('aria-valuenow')")) - 80) <= 1
    assert page.problems == []


@needs_chromium
@pytest.mark.slow
def test_both_sides_show_one_frame_and_steps_move_by_one(page: Page) -> None:
    page.value("choose(0), split(0.5)")
    page.wait_for("video.readyState >= 2 && !video.seeking")
    first = page.value("Math.round(scene().begin * 25)")
    for number in range(1, 5):
        page.press(".")
        page.wait_for(f"!video.seeking && state.frame === {number}")
        page.wait_for(f"Math.abs(Math.floor(video.currentTime * 25) - {number}) === 0")
        middle = "(() => { const p = placement(); return [p.box / 2 - 12, p.box / 2 + 12, p.tall / 2] })()"
        left, right, height = page.value(middle)
        page.wait_for(f"Math.abs({_PIXEL.format(left, height)}[0] - {20 + STEP * (first + number)}) <= {STEP // 2}")
        levels = [page.value(_PIXEL.format(x, height))[0] for x in (left, right)]
        assert levels == pytest.approx([20 + STEP * (first + number)] * 2, abs=STEP // 2)
    assert page.problems == []


@needs_chromium
@pytest.mark.slow
def test_playing_zoom_excerpts_and_theme(page: Page) -> None:
    page.value("document.activeElement.blur(), choose(0)")
    page.wait_for("video.readyState >= 2")
    page.press(" ")
    page.wait_for("!video.paused && state.frame > 2")
    page.press(" ")
    page.wait_for("video.paused")
    for key, scale in (("1", 1), ("4", 4)):
        page.press(key)
        assert page.value("placement().scale") == scale
    page.press("0")
    before = page.value("state.scene")
    page.press("]")
    assert page.value("state.scene") == (before + 1) % page.value("data.scenes.length")
    page.value("choose(data.scenes.findIndex(scene => scene.image))")
    page.wait_for("scene().element?.complete")
    page.wait_for(
        f"{_PIXEL.format('Math.round(placement().box / 2 - placement().seenX * placement().scale / 2 + 6)', 30)}[0] > 150"
    )
    themes = [page.value("document.documentElement.dataset.theme")]
    page.press("d")
    themes.append(page.value("document.documentElement.dataset.theme"))
    page.press("d")
    assert themes == ["light", "dark"]
    assert page.problems == []


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1600])
def test_page_fits_the_window(page: Page, width: int) -> None:
    page.resize(width, 900)
    page.wait_for(f"innerWidth === {width}")
    assert page.value("document.documentElement.scrollWidth") <= width
    # no text smaller than 11 px, and nothing sticks out of the window
    small = "[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 11)"
    assert page.value(f"{small}.length") == 0
    outside = "[...document.querySelectorAll('button, select, img, svg, td, p')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.value(f"{outside}.length") == 0
    assert page.problems == []


@needs_chromium
@pytest.mark.slow
def test_dark_by_preference(page_file: Path) -> None:
    with Page(page_file, 800, dark=True) as opened:
        assert opened.value("document.documentElement.dataset.theme") == "dark"
        background = opened.value("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background))) < 60
        assert opened.problems == []
