# SPDX-License-Identifier: Apache-2.0
"""`rvrt preprocess vimeo90k` on a small data set in the published layout."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rvrt_cli.cli.preprocess import preprocess_group
from rvrt_cli.data.resize import blur_downsample, imresize
from rvrt_cli.data.vimeo_preprocess import make_low_resolution
from rvrt_cli.errors import MediaError, OptionError

TRAIN, TEST = ["00001/0001", "00001/0003"], ["00002/0001"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in TRAIN + TEST:
        folder = tmp_path / "set" / "sequences" / name
        folder.mkdir(parents=True)
        for frame in range(7):
            image = np.kron(rng.integers(0, 256, (64, 112, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            Image.fromarray(image).save(folder / f"im{frame + 1}.png")
    (tmp_path / "set" / "sep_trainlist.txt").write_text("\n".join(TRAIN) + "\n")
    (tmp_path / "set" / "sep_testlist.txt").write_text("\n".join(TEST) + "\n\n")
    return tmp_path / "set"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(preprocess_group, ["vimeo90k", *arguments, "--workers", "1"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_everything_is_written(root: Path) -> None:
    code, output = run(str(root))
    assert code == 0, output
    assert "21 images made, 0 already there" in output
    line = re.search(
        r"(\d+) images/s per core \((\d+) % reading, (\d+) % resizing, (\d+) % writing\); "
        r"the whole set of 641907 images: ([\d.]+) h",
        output,
    )
    assert line, output
    assert int(line[1]) > 0
    assert sum(map(int, line.groups()[1:4])) == pytest.approx(100, abs=2)
    for name in TRAIN + TEST:
        for frame in range(1, 8):
            high, low = (pixels(root / folder / name / f"im{frame}.png") for folder in ("sequences", "BIx4"))
            assert low.shape == (64, 112, 3)
            assert np.array_equal(low, imresize(high, 0.25))
    train, test = ((root / f"meta_info_Vimeo90K_{kind}_GT.txt").read_text() for kind in ("train", "test"))
    assert train == "00001/0001 (256, 448, 3)\n00001/0003 (256, 448, 3)\n"
    assert test == "00002/0001 (256, 448, 3)\n"
    assert not list(root.rglob("*.part"))


def test_blur_downsampling_into_another_folder_with_workers(root: Path, tmp_path: Path) -> None:
    before = set(root.rglob("*"))
    work = make_low_resolution(root, ("test",), "bd", output=tmp_path / "out", workers=2)
    assert (work.images, work.problems) == (7, [])
    low = pixels(tmp_path / "out/BDx4/00002/0001/im7.png")
    assert np.array_equal(low, blur_downsample(pixels(root / "sequences/00002/0001/im7.png")))
    assert not (tmp_path / "out/BDx4/00001").exists()
    assert not (tmp_path / "out/meta_info_Vimeo90K_train_GT.txt").exists()
    assert set(root.rglob("*")) == before


def test_second_run_makes_only_what_is_missing(root: Path) -> None:
    run(str(root), "--lists", "train")
    made = root / "BIx4/00001/0001/im1.png"
    marker = made.read_bytes() + b"left alone"
    made.write_bytes(marker)
    (root / "BIx4/00001/0003/im5.png").unlink()
    (root / "BIx4/00001/0003/im6.png").write_bytes(b"")  # a power cut
    (root / "BIx4/00001/0003/im5.png.part").write_bytes(b"half")  # of a run that was killed
    code, output = run(str(root), "--lists", "train")
    assert code == 0
    assert "2 images made, 12 already there" in output
    assert made.read_bytes() == marker
    assert (
        pixels(root / "BIx4/00001/0003/im5.png").shape == pixels(root / "BIx4/00001/0003/im6.png").shape == (64, 112, 3)
    )
    assert not list(root.rglob("*.part"))


def test_bad_images_are_listed_and_the_rest_is_done(root: Path) -> None:
    (root / "sequences/00001/0001/im2.png").unlink()
    damaged = root / "sequences/00002/0001/im6.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    code, output = run(str(root))
    assert code == 1
    assert "2 images could not be made" in output
    assert "00001/0001/im2.png: missing" in output
    assert "00002/0001/im6.png: cannot be read" in output
    assert len(list((root / "BIx4").rglob("im*.png"))) == 19
    assert (root / "meta_info_Vimeo90K_train_GT.txt").read_text() == "00001/0003 (256, 448, 3)\n"
    assert (root / "meta_info_Vimeo90K_test_GT.txt").read_text() == ""


def test_decompression_bomb_is_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((700, 700, 3), np.uint8)).save(root / "sequences/00002/0001/im6.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)  # Pillow refuses twice this
    code, output = run(str(root), "--lists", "test")
    assert code == 1
    assert "1 image could not be made" in output
    assert "00002/0001/im6.png: cannot be read" in output
    assert len(list((root / "BIx4").rglob("im*.png"))) == 6


def test_scale_two(root: Path) -> None:
    code, _ = run(str(root), "--lists", "test", "--scale", "2")
    assert code == 0
    assert pixels(root / "BIx2/00002/0001/im1.png").shape == (128, 224, 3)


def test_wrong_layouts_and_options_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"sequences: no such folder; expected Vimeo-90K as ROOT/sequences"):
        make_low_resolution(tmp_path)
    with pytest.raises(OptionError, match="defined for 4 only"):
        make_low_resolution(root, degradation="bd", scale=2)
    (root / "sep_testlist.txt").write_text("00001/0001/im1.png\n")
    with pytest.raises(OptionError, match=r"sep_testlist\.txt: expected lines such as 00001/0001"):
        make_low_resolution(root)
    (root / "sep_testlist.txt").unlink()
    with pytest.raises(OptionError, match=r"sep_testlist\.txt: cannot be read"):
        make_low_resolution(root)


@pytest.mark.parametrize(("degradation", "scale"), [("bx", 4), ("bi", 5), ("bi", 1)])
def test_unknown_reductions_are_refused(root: Path, degradation: str, scale: int) -> None:
    with pytest.raises(
        OptionError, match=f"--degradation {degradation} --scale {scale}: choose bi or bd, and 2, 3 or 4"
    ):
        make_low_resolution(root, degradation=degradation, scale=scale)


def test_output_that_cannot_be_written_ends_the_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MediaError, match="cannot be written"):
        make_low_resolution(root, ("test",), output=tmp_path / "file")
