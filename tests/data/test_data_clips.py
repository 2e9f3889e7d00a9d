# SPDX-License-Identifier: Apache-2.0
"""Training clips from photos and videos: real pixels, cuts, repeats, licenses, the same result for any workers."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.fuzzing import damaged, little_memory, searching
from helpers.video_clips import ffmpeg, write_video
from hypothesis import given, strategies as st
from PIL import Image

from rvrt_cli.cli.preprocess import preprocess_group
from rvrt_cli.data import camera_motion as motion
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.data.clip_store import CLIP_MANIFEST, ClipStore, write_shard
from rvrt_cli.data.crop_detail import detail, worth_keeping
from rvrt_cli.data.make_clips import clip_windows, make_clips
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.sources import Source, find_sources, read_licenses, read_photo, read_video
from rvrt_cli.data.vimeo import read_png
from rvrt_cli.data.worker_pool import map_unordered
from rvrt_cli.errors import MediaError, OptionError, RvrtError

OPTIONS = ClipOptions(frames=4, size=64, per_photo=3, per_video=6, seed=7)


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Detail at every scale: noise repeated over 1, 2, 4 … px, summed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(6):
        step = 2**octave
        noise = rng.standard_normal((height // step + 1, width // step + 1, 3))
        total += np.kron(noise, np.ones((step, step, 1)))[:height, :width] * step**0.5
    total -= total.min()
    return (255 * total / total.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos and a video of a moving texture."""
    folder = tmp_path_factory.mktemp("material")
    for index in range(2):
        Image.fromarray(texture(420, 500, index)).save(folder / f"photo{index}.png")
    wide = texture(200, 400, 5)
    write_video(folder / "pan.mp4", [wide[:, 4 * t : 4 * t + 240] for t in range(40)])
    return folder


def test_shifted_frames_are_pixels_of_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame of a shifted clip is found, pixel for pixel, in the photo or in its antialiased half."""
    monkeypatch.setattr(motion, "_MOTION_SHARES", (1.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(motion, "_BLURRED_SHARE", 0.0)
    photo = motion.Photo.of(texture(300, 400, 0))
    for seed in range(4):
        kind, clip = motion.photo_clip(photo, 5, 64, np.random.default_rng(seed)) or pytest.fail("did not fit")
        assert kind == "shift"
        assert len({frame.tobytes() for frame in clip}) > 1, "nothing moves"
        for frame in clip:
            found = False
            for image in (photo.full, photo.half):
                rows, columns = image.shape[0] - 63, image.shape[1] - 63
                corners = np.argwhere((image[:rows, :columns] == frame[0, 0]).all(-1))
                found |= any(np.array_equal(image[y : y + 64, x : x + 64], frame) for y, x in corners)
            assert found


def test_warped_frames_keep_the_detail_of_a_reduced_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warped at twice the size and reduced, a clip is about as sharp as the photo's own half; not blurred."""
    photo = motion.Photo.of(texture(600, 700, 1))
    expected = detail(photo.half)
    for shares in ((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)):
        monkeypatch.setattr(motion, "_MOTION_SHARES", shares)
        clips = [motion.photo_clip(photo, 4, 64, np.random.default_rng(seed)) for seed in range(6)]
        sharpness = [detail(frame) for made in clips if made for frame in made[1]]
        assert len(sharpness) >= 8
        assert np.mean(sharpness) > 0.8 * expected


@pytest.mark.slow
def test_the_foreground_moves_independently_of_the_background() -> None:
    """One clip with and without its foreground: equal outside of it, and a patch inside moves differently."""
    photo, moves = texture(700, 700, 3), []
    for seed in range(40):
        both, alone = (
            motion._warped_clip(photo, 3, 64, np.random.default_rng(seed), foreground) for foreground in (True, False)
        )
        if both is None or alone is None:
            continue
        inside = (both != alone).any(-1)  # (T, S, S)
        y, x = (int(place.mean()) for place in np.nonzero(inside[0])) if inside[0].any() else (0, 0)
        if not (min(y, x) >= 16 and max(y, x) < 48 and inside[0, y - 5 : y + 6, x - 5 : x + 6].mean() > 0.95):
            continue  # too small, or at the border
        assert inside.mean() < 0.8
        moves.append([displacement(clip, y, x) for clip in (both, alone)])
    assert len(moves) >= 4
    differences = [np.hypot(*(np.array(ours) - theirs)) for ours, theirs in moves]
    assert np.median(differences) >= 2, differences


def displacement(clip: np.ndarray, y: int, x: int) -> tuple[int, int]:
    """Where the 11×11 px around (y, x) of the first frame lie in the next frame, searched within 10 px."""
    patch, after = clip[0, y - 5 : y + 6, x - 5 : x + 6].astype(float), clip[1]
    reach = [(dy, dx) for dy in range(-10, 11) for dx in range(-10, 11)]
    errors = [np.abs(after[y + dy - 5 : y + dy + 6, x + dx - 5 : x + dx + 6] - patch).mean() for dy, dx in reach]
    return reach[int(np.argmin(errors))]


def test_on_a_tripod_only_the_foreground_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "_MOTION_SHARES", (0.0, 0.0, 0.0, 1.0))
    photo, moved = motion.Photo.of(texture(700, 700, 4)), []
    for seed in range(12):
        made = motion.photo_clip(photo, 5, 64, np.random.default_rng(seed))
        if made is None:
            continue
        assert made[0] == "tripod"
        moved.append((made[1] != made[1][0]).any((0, -1)).mean())
    assert len(moved) >= 6
    assert max(moved) < 1, "some of the background must be static"
    assert np.median(moved) > 0.05, "nothing moves"


def test_motion_that_does_not_fit_gives_nothing() -> None:
    photo = motion.Photo.of(texture(60, 300, 2))
    assert all(motion.photo_clip(photo, 7, 64, np.random.default_rng(seed)) is None for seed in range(12))


def test_windows_hold_no_cut_and_no_repeated_frame() -> None:
    scenes = [texture(96, 160, seed) for seed in (10, 11)]
    frames, marks = [], []
    for number, scene in enumerate(scenes):
        for t in range(30):
            repeat = t % 3 == 2  # a repeated frame, with a little noise as from a codec
            shown = scene[:, 3 * (t - repeat) : 3 * (t - repeat) + 64].copy()
            shown[0, 0] = (number, t, repeat)
            frames.append(shown)
            marks.append(t == 0)
    found = list(clip_windows(zip(frames, marks, strict=True), 4, np.random.default_rng(0)))
    assert len(found) >= 4
    for window in found:
        tags = [tuple(int(v) for v in frame[0, 0]) for frame in window]
        assert len({number for number, _, _ in tags}) == 1, f"a scene cut within {tags}"
        assert not any(repeat for _, _, repeat in tags), f"a repeated frame within {tags}"
        assert len({t for _, t, _ in tags}) == 4


def test_static_video_gives_no_windows() -> None:
    still = texture(64, 64, 3)
    assert not list(clip_windows(((still, index == 0) for index in range(50)), 4, np.random.default_rng(0)))


def test_flat_crops_are_skipped_nine_times_of_ten() -> None:
    rng = np.random.default_rng(0)
    flat, rich = np.full((64, 64, 3), 90, np.uint8), texture(64, 64, 4)
    assert detail(flat) == 0
    assert 60 < sum(worth_keeping(flat, rng) for _ in range(1000)) < 140
    assert all(worth_keeping(rich, rng) for _ in range(50))


@pytest.fixture(scope="module")
def made(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "clips"
    make_clips(find_sources([material], license="CC0"), output, OPTIONS, workers=1)
    return output


def test_store_reads_what_was_made(made: Path) -> None:
    store = ClipStore(made)
    manifest = json.loads((made / CLIP_MANIFEST).read_text())
    names = {source["name"]: source for source in manifest["sources"]}
    assert sorted(name.split("/")[1] for name in names) == ["pan.mp4", "photo0.png", "photo1.png"]
    assert all(source["license"] == "CC0" for source in manifest["sources"])
    assert len(store) == manifest["clips"] == sum(source["clips"] for source in names.values())
    assert manifest["clips"] >= 8
    for index in range(len(store)):
        clip = store[index]
        assert clip.shape == (4, 64, 64, 3)
        assert clip.dtype == np.uint8
        assert isinstance(clip, np.memmap)
        assert detail(clip[0]) > 0
    assert not list(made.rglob("*.part"))


@pytest.mark.slow
def test_clips_do_not_depend_on_the_number_of_workers(material: Path, made: Path, tmp_path: Path) -> None:
    make_clips(find_sources([material], license="CC0"), tmp_path / "again", OPTIONS, workers=2)
    first, second = ({p.name: p.read_bytes() for p in folder.rglob("*.*")} for folder in (made, tmp_path / "again"))
    assert first == second


def test_video_clips_are_the_halved_video(material: Path, tmp_path: Path) -> None:
    make_clips([Source(material / "pan.mp4", "pan.mp4", "video", "x")], tmp_path, OPTIONS)
    halves = [imresize(frame, 0.5) for frame in read_video(material / "pan.mp4")[1]]
    assert len(halves) == 40
    store = ClipStore(tmp_path)
    for index in range(len(store)):
        corners = np.argwhere([(image[:-63, :-63] == store[index][0, 0, 0]).all(-1) for image in halves])[:, 1:]
        assert any(in_order(store[index], [image[y : y + 64, x : x + 64] for image in halves]) for y, x in corners)


def test_clips_of_a_video_lie_within_its_shots(tmp_path: Path) -> None:
    shots = [texture(160, 240, seed) // 2 + 120 * seed for seed in (0, 1)]  # a dark one and a bright one
    write_video(tmp_path / "film.mp4", [shot[:, 3 * t : 3 * t + 160] for shot in shots for t in range(14)])
    options = ClipOptions(frames=4, size=64, per_video=200, reduce=1, seed=1)
    manifest = make_clips([Source(tmp_path / "film.mp4", "film.mp4", "video", "x")], tmp_path / "out", options)
    store = ClipStore(tmp_path / "out")
    bright = np.array([store[index].mean((1, 2, 3)) > 122 for index in range(len(store))])
    assert manifest["clips"] == len(bright) > 4
    assert (bright == bright[:, :1]).all(), "a clip goes across the cut"
    assert 0 < bright[:, 0].mean() < 1, "one of the shots gave nothing"


def in_order(clip: np.ndarray, video: list[np.ndarray]) -> bool:
    """Whether every frame of `clip` is a frame of `video`, each later than the one before."""
    remaining = iter(video)
    return all(any(np.array_equal(frame, image) for image in remaining) for frame in clip)


def test_licenses_by_pattern(material: Path, tmp_path: Path) -> None:
    table = tmp_path / "licenses.csv"
    table.write_text('pattern,license\n# mine\n*/photo0*,"CC-BY-4.0, by A. Person"\n*.mp4,MIT\n')
    pairs = read_licenses(table)
    licenses = {source.path.name: source.license for source in find_sources([material], pairs, license="CC0")}
    assert licenses == {"photo0.png": "CC-BY-4.0, by A. Person", "photo1.png": "CC0", "pan.mp4": "MIT"}
    with pytest.raises(OptionError, match=r"photo1\.png: no pattern"):
        find_sources([material], pairs)
    as_json = tmp_path / "licenses.json"
    as_json.write_text('{"*": "CC0"}')
    assert read_licenses(as_json) == [("*", "CC0")]
    as_json.write_text("[1]")
    with pytest.raises(OptionError, match="expected lines"):
        read_licenses(as_json)


def test_folders_without_photos_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OptionError, match=r"no photos or videos in .*; name files or folders that contain some"):
        find_sources([tmp_path], license="CC0")
    with pytest.raises(OptionError, match=r"gone\.png: no such file or folder"):
        find_sources([tmp_path / "gone.png"], license="CC0")


def test_command_reports_what_it_cannot_use(material: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((material / "photo0.png").read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("not a video")
    output = tmp_path / "out"
    arguments = [
        "clips",
        str(material / "photo1.png"),
        str(broken),
        str(tmp_path / "text.mp4"),
        "--output",
        str(output),
    ]
    arguments += ["--size", "64", "--frames", "4", "--per-photo", "2", "--workers", "1"]
    result = CliRunner().invoke(preprocess_group, arguments)
    assert result.exit_code == 0, result.output  # && rvrt train goes on
    assert "2 clips" in result.output
    assert "2 photos and 1 video: " in result.output
    listed = "\nrvrt: warning: 2 sources could not be used to the end:\n  broken.jpg: cannot be read as an image"
    assert listed in result.output
    assert "\n  text.mp4: cannot be read as a video" in result.output
    assert len(ClipStore(output)) == 2
    assert len(json.loads((output / CLIP_MANIFEST).read_text())["problems"]) == 2
    strict = CliRunner().invoke(preprocess_group, [*arguments, "--overwrite", "--strict"])
    assert (strict.exit_code, len(ClipStore(output))) == (1, 2)
    arguments.remove(str(material / "photo1.png"))
    nothing = CliRunner().invoke(preprocess_group, [*arguments, "--overwrite"])
    assert nothing.exit_code == 1
    assert isinstance(nothing.exception, OptionError)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"size": 128}, "its frames are 120x100 px after --reduce 2, and clips 128 px; give a smaller --size or"),
        ({"size": 204, "reduce": 1}, "its frames are 240x200 px, and clips 204 px; give a smaller --size$"),
        ({"frames": 41}, "no 41 frames of one shot that show detail and movement; give fewer --frames"),
    ],
)
def test_a_video_without_clips_names_the_option(material: Path, tmp_path: Path, options: dict, problem: str) -> None:
    with pytest.raises(OptionError, match=rf"none of 1 source gave a clip; the first: pan\.mp4: {problem}"):
        make_clips(
            [Source(material / "pan.mp4", "pan.mp4", "video", "x")], tmp_path, ClipOptions(**{"size": 64, **options})
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "--frames 1: give 2 or more"),
        ({"size": 60}, "--size 60: give a multiple of 4 px, 64 or more"),
        ({"size": 66}, "--size 66: give a multiple of 4 px, 64 or more"),
        ({"per_photo": 0}, "--per-photo and --per-video: give 1 or more"),
        ({"per_video": -1}, "--per-photo and --per-video: give 1 or more"),
        ({"reduce": 5}, "--reduce 5: choose 1, 2, 3 or 4"),
        ({"seed": -1}, "--seed -1: give 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        ClipOptions(**options)
    assert str(caught.value) == message


def test_16_bit_gray_is_reduced_and_32_bits_per_channel_are_refused(tmp_path: Path) -> None:
    gray = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    expected = np.rint(gray / 257).astype(np.uint8)
    for name in ("gray.png", "gray.tif"):
        Image.fromarray(gray).save(tmp_path / name)
        for read in (read_photo, read_png):
            assert np.array_equal(read(tmp_path / name), np.stack([expected] * 3, -1)), name
    for name, array in {"float.tif": (gray / 65535).astype(np.float32), "whole.tif": gray.astype(np.int32)}.items():
        Image.fromarray(array).save(tmp_path / name)
        for read in (read_photo, read_png):
            with pytest.raises(MediaError, match=rf"{name}: cannot be read.*convert it to 8 or 16"):
                read(tmp_path / name)


def test_a_decompression_bomb_is_listed_and_the_rest_is_done(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(texture(900, 1000, 2)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900 * 1000 // 3)  # Pillow refuses twice this
    sources = find_sources([material / "photo0.png", tmp_path / "huge.png"])
    manifest = make_clips(sources, tmp_path / "out", OPTIONS)
    assert [source["name"] for source in manifest["sources"]] == ["photo0.png"]
    [problem] = manifest["problems"]
    assert "huge.png: cannot be read as an image" in problem


def test_hidden_files_and_folders_are_skipped(material: Path, tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".trash/b.png", "c/._d.mp4", "c/.e/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((material / "photo0.png").read_bytes())
    assert [source.path.name for source in find_sources([tmp_path])] == ["a.png"]
    assert len(find_sources([tmp_path / "._a.png"])) == 1  # named by the user


def test_a_file_name_that_looks_like_a_protocol_is_read(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "-a.mp4", "http:a.mp4"):
        Path(name).write_bytes((material / "pan.mp4").read_bytes())
        assert len(list(read_video(Path(name))[1])) == 40


def test_a_rotated_video_is_read_upright_without_a_warning(
    material: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", material / "pan.mp4", "-c", "copy", turned)
    [first, *_] = read_video(turned)[1]
    assert first.shape == (240, 200, 3)
    assert capfd.readouterr() == ("", "")


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_a_killed_worker_is_one_error() -> None:
    with pytest.raises(RvrtError, match=r"a worker process died; is there enough memory\? .* fewer --workers"):
        list(map_unordered(die, range(50), 2))


def test_existing_clips_are_kept_without_overwrite(material: Path, made: Path) -> None:
    with pytest.raises(OptionError, match="--overwrite"):
        make_clips(find_sources([material]), made, OPTIONS)


def test_store_refuses_other_folders(tmp_path: Path, made: Path) -> None:
    with pytest.raises(OptionError, match="rvrt preprocess clips"):
        ClipStore(tmp_path)
    manifest = json.loads((made / CLIP_MANIFEST).read_text())
    manifest["size"] = 128
    (tmp_path / CLIP_MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "shards").symlink_to(made / "shards")
    with pytest.raises(OptionError, match="not uint8"):
        ClipStore(tmp_path)


@searching(60)
@given(data=st.data())
def test_damaged_clips_raise_one_error_only(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "shards").mkdir(exist_ok=True)
    write_shard(tmp_path / "shards" / "a.npy", np.zeros((2, 4, 8, 8, 3), np.uint8))
    shards = [{"file": "shards/a.npy", "clips": 2}]
    manifest = {"format": 1, "frames": 4, "size": 8, "sources": [{"name": "a", "shards": shards}]}
    (tmp_path / CLIP_MANIFEST).write_text(json.dumps(manifest))
    path = tmp_path / data.draw(st.sampled_from([CLIP_MANIFEST, "shards/a.npy"]))
    path.write_bytes(data.draw(damaged(path.read_bytes(), is_json=path.name == CLIP_MANIFEST)))
    with little_memory(50 << 20), suppress(OptionError):
        store = ClipStore(tmp_path)
        assert store[len(store) - 1].shape == (store.frames, store.size, store.size, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00v\x00\x00'descr': '|u1', 'shape': (2, 4, 8, 8, 3), }".ljust(128) + b"\n",
        b"PK\x03\x04",
    ],
    ids=["cut short", "as a zip file begins"],
)
def test_a_file_that_is_not_npy_is_refused(tmp_path: Path, content: bytes) -> None:
    """Found by the test above: NumPy's own reader runs into Python's tokenizer, or takes the file for an archive."""
    (tmp_path / "a.npy").write_bytes(content)
    manifest = {"format": 1, "frames": 4, "size": 8, "sources": [{"shards": [{"file": "a.npy", "clips": 2}]}]}
    (tmp_path / CLIP_MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(OptionError, match=r"a\.npy"):
        ClipStore(tmp_path)
