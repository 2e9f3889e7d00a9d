# SPDX-License-Identifier: Apache-2.0
"""Training batches: contents; equal for any number of workers, ranks and restarts; and worker processes that end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvrt_cli.data.batch_loader import BatchLoader
from rvrt_cli.data.batch_spec import BatchSpec
from rvrt_cli.data.batches import mirrored, open_store
from rvrt_cli.data.clip_options import ClipOptions
from rvrt_cli.data.clip_store import CLIP_MANIFEST
from rvrt_cli.data.make_clips import make_clips
from rvrt_cli.data.resize import imresize
from rvrt_cli.data.sources import Source
from rvrt_cli.data.vimeo import VimeoStore
from rvrt_cli.data.vimeo_preprocess import make_low_resolution
from rvrt_cli.errors import OptionError, RvrtError

SPEC = BatchSpec(batch=4, frames=3, crop=48, degradation="video", seed=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    noise = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((440, 360), Image.Resampling.BICUBIC).save(folder / "photo.png")
    source = Source(folder / "photo.png", "photo.png", "photo", "CC0")
    make_clips([source], folder / "clips", ClipOptions(frames=5, size=64, per_photo=6))
    return folder / "clips"


@pytest.fixture(scope="module")
def vimeo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vimeo")
    rng = np.random.default_rng(1)
    for name in ("00001/0001", "00001/0002"):
        folder = root / "sequences" / name
        folder.mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((112, 80))
        for frame in range(7):
            Image.fromarray(np.roll(np.asarray(image), frame, 1)).save(folder / f"im{frame + 1}.png")
    (root / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n")
    make_low_resolution(root, ("train",))
    return root


def take(folder: Path, spec: BatchSpec, count: int, **options: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with BatchLoader(folder, spec, **options) as loader:
        return [next(loader) for _ in range(count)]


def same(first: list[tuple[np.ndarray, np.ndarray]], second: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    return all(
        np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.slow
def test_batches_do_not_depend_on_workers_or_on_where_they_start(clips: Path) -> None:
    straight = take(clips, SPEC, 6, workers=0)
    low, high = straight[0]
    assert low.shape == (4, 3, 12, 12, 3)
    assert high.shape == (4, 3, 48, 48, 3)
    assert low.dtype == high.dtype == np.float32
    assert 0 <= low.min() < 0.3 < 0.7 < low.max() <= 1
    assert not np.array_equal(straight[0][1], straight[1][1])
    assert same(straight, take(clips, SPEC, 6, workers=1))
    assert same(straight[2:], take(clips, SPEC, 4, workers=3, first_step=2, prefetch=1))


def test_ranks_share_one_batch(clips: Path) -> None:
    whole = take(clips, SPEC, 2, workers=0)
    halves = [take(clips, SPEC, 2, workers=0, rank=rank, ranks=2) for rank in (0, 1)]
    joined = [tuple(np.concatenate(pair) for pair in zip(*steps, strict=True)) for steps in zip(*halves, strict=True)]
    assert same(whole, joined)
    with pytest.raises(OptionError, match="multiple of the 3 ranks"):
        BatchLoader(clips, SPEC, ranks=3, workers=0)


def test_low_resolution_is_the_reduced_high_resolution(clips: Path) -> None:
    """Away from the border, the low-resolution crop is MATLAB's reduction of the high-resolution one."""
    for low, high in take(clips, BatchSpec(batch=8, frames=3, crop=48, seed=1), 3, workers=0):
        pixels = np.rint(255 * high).astype(np.uint8)
        errors = np.abs(low - imresize(pixels, 0.25) / np.float32(255))[..., 2:-2, 2:-2, :]
        worst = np.unravel_index(errors.argmax(), errors.shape)
        assert errors.max() < 1e-6, f"{errors.max():.1e} at {worst} of (N, T, h, w, 3), 2 px border excluded"


def test_a_share_of_the_samples_is_still(clips: Path) -> None:
    """A fifth of the samples repeat their middle frame; the others are the same as without the option."""
    moving = [
        sample for _, high in take(clips, BatchSpec(batch=8, frames=3, crop=48), 25, workers=0) for sample in high
    ]
    spec = BatchSpec(batch=8, frames=3, crop=48, still=0.2)
    mixed = [pair for low, high in take(clips, spec, 25, workers=0) for pair in zip(low, high, strict=True)]
    still = 0
    for (low, high), before in zip(mixed, moving, strict=True):
        if np.array_equal(high, before):
            continue
        still += 1
        assert np.array_equal(high, before[[1, 1, 1]])
        assert np.array_equal(low, low[[1, 1, 1]])
    assert 24 <= still <= 56, still  # 200 samples, 40 expected, 5.7 the standard deviation
    (_, every), *_ = take(clips, replace(spec, still=1.0), 1, workers=0)
    assert np.array_equal(every, every[:, [0, 0, 0]])


@pytest.mark.parametrize("degradation", ["video", "real"])
def test_clean_share_reaches_the_samples(clips: Path, degradation: str) -> None:
    spec = BatchSpec(batch=8, frames=3, crop=48, degradation=degradation, seed=1)
    reduced = [low for low, _ in take(clips, replace(spec, degradation="bi"), 2, workers=0)]

    def unchanged(share: float | None) -> int:
        made = [low for low, _ in take(clips, replace(spec, clean_share=share), 2, workers=0)]
        same = (one == other for one, other in zip(np.concatenate(made), np.concatenate(reduced), strict=True))
        return sum(bool(equal.all()) for equal in same)

    assert (unchanged(0.0), unchanged(1.0)) == (0, 16)
    assert 2 <= unchanged(None) <= 14


@pytest.mark.parametrize("still", [-0.1, 1.1])
def test_share_of_still_samples_is_validated(still: float) -> None:
    with pytest.raises(OptionError, match="still"):
        BatchSpec(still=still)


def test_crops_are_clips_in_all_eight_orientations(clips: Path) -> None:
    store = open_store(clips)
    known = {store[index][t].tobytes() for index in range(len(store)) for t in range(5)}
    seen = set()
    for _, high in take(clips, BatchSpec(batch=8, frames=1, crop=64), 6, workers=0):
        for sample in high:
            frame = np.rint(255 * sample[0]).astype(np.uint8)
            orientations = {
                (flip_rows, flip_columns, transpose)
                for flip_rows in (1, -1)
                for flip_columns in (1, -1)
                for transpose in (0, 1)
                if (frame.transpose(1, 0, 2) if transpose else frame)[::flip_rows, ::flip_columns].tobytes() in known
            }
            assert len(orientations) == 1
            seen |= orientations
    assert len(seen) == 8, f"only {seen}"


def test_samples_run_forwards_and_backwards(clips: Path) -> None:
    store = open_store(clips)
    known = {np.stack(store[k][t : t + 3]).tobytes(): 1 for k in range(len(store)) for t in range(3)}
    known |= {np.stack(store[k][t : t + 3][::-1]).tobytes(): -1 for k in range(len(store)) for t in range(3)}
    seen = []
    for _, high in take(clips, BatchSpec(batch=8, frames=3, crop=64), 4, workers=0):
        for sample in np.rint(255 * high).astype(np.uint8):
            turned = [sample.transpose(0, 2, 1, 3) if transpose else sample for transpose in (0, 1)]
            flipped = [
                clip[:, ::rows, ::columns].tobytes() for clip in turned for rows in (1, -1) for columns in (1, -1)
            ]
            [direction] = {known[pixels] for pixels in flipped if pixels in known}
            seen.append(direction)
    assert 8 <= seen.count(-1) <= 24, "of 32, about half"


def test_bad_data_and_specs_are_refused_at_once(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"sequences/00001/0001"):
        BatchLoader(tmp_path, SPEC)
    with pytest.raises(OptionError, match="clips have 5"):
        BatchLoader(clips, BatchSpec(frames=6, crop=48))
    with pytest.raises(OptionError, match="64x64 px"):
        BatchLoader(clips, BatchSpec(frames=2, crop=128))
    with pytest.raises(OptionError, match="choose one of bi, bd, video, real"):
        BatchSpec(degradation="bicubic")


def test_vimeo_reads_its_low_resolution_from_disk(vimeo: Path) -> None:
    marker = np.asarray(Image.open(vimeo / "BIx4/00001/0001/im4.png"))
    assert marker.shape == (20, 28, 3)
    spec = BatchSpec(batch=4, frames=7, crop=80, degradation="bi")
    store = open_store(vimeo)
    assert isinstance(store, VimeoStore)
    for low, high in take(vimeo, spec, 2, workers=1):
        assert low.shape == (4, 7, 20, 20, 3)
        for small, large in zip(low, high, strict=True):
            frames = np.rint(255 * large).astype(np.uint8)
            # A transposed sample was reduced before it was transposed, so its axes were rounded in the other order.
            straight = imresize(frames, 0.25)
            crosswise = imresize(frames.transpose(0, 2, 1, 3), 0.25).transpose(0, 2, 1, 3)
            errors = [np.abs(255 * small - e)[:, 2:-2, 2:-2].max() for e in (straight, crosswise)]
            assert min(errors) < 1e-3, f"{min(errors):.1e} levels off the reduction of either order"
    low, high = mirrored((low, high))
    assert low.shape[1] == high.shape[1] == 14
    assert np.array_equal(high[:, 13], high[:, 0])
    assert np.array_equal(high[:, 7], high[:, 6])
    with pytest.raises(OptionError, match="--degradation bd"):
        BatchLoader(vimeo, BatchSpec(frames=7, crop=64, degradation="bd"))
    assert take(vimeo, BatchSpec(batch=1, frames=4, crop=64, degradation="video"), 1, workers=0)[0][0].shape[1] == 4


def test_missing_image_is_named(vimeo: Path, tmp_path: Path) -> None:
    for name in ("sequences", "BIx4"):
        shutil.copytree(vimeo / name / "00001" / "0001", tmp_path / name / "00001" / "0001")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n" + "00001/0009\n" * 50)
    with pytest.raises(
        OptionError, match=rf"BIx4: no low resolution for 00001/0009; .*preprocess vimeo90k {tmp_path} "
    ):
        BatchLoader(tmp_path, BatchSpec(batch=4, frames=7, crop=64))
    (tmp_path / "BIx4" / "00001" / "0009").mkdir()
    with pytest.raises(RvrtError, match=r"sequences/00001/0009/im\d\.png: missing; unpack the set again"):
        take(tmp_path, BatchSpec(batch=4, frames=7, crop=64), 3, workers=1)
    shutil.copytree(vimeo / "sequences" / "00001" / "0001", tmp_path / "sequences" / "00001" / "0009")
    with pytest.raises(RvrtError, match=rf"BIx4/00001/0009/im\d\.png: missing; .*rvrt preprocess vimeo90k {tmp_path} "):
        take(tmp_path, BatchSpec(batch=4, frames=7, crop=64), 3, workers=0)


def test_images_of_another_size_are_named_and_not_used(vimeo: Path, tmp_path: Path) -> None:
    for name in ("sequences", "BIx4"):
        shutil.copytree(vimeo / name, tmp_path / name)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n" + "00001/0002\n" * 50)

    def resize(folder: str, size: tuple[int, int]) -> None:
        for path in (tmp_path / folder).iterdir():
            Image.open(path).resize(size).save(path)

    resize("sequences/00001/0002", (96, 48))
    for degradation in ("bi", "video"):
        spec = BatchSpec(batch=4, frames=7, crop=64, degradation=degradation)
        with pytest.raises(RvrtError, match=r"sequences/00001/0002/im\d\.png: is 96x48 px, not 112x80"):
            take(tmp_path, spec, 3, workers=1)
    resize("sequences/00001/0002", (112, 80))
    spec = BatchSpec(batch=4, frames=7, crop=64)
    resize("BIx4/00001/0002", (56, 40))
    with pytest.raises(RvrtError, match=r"BIx4/00001/0002/im\d\.png: is 56x40 px, not 28x20.*delete .*preprocess"):
        take(tmp_path, spec, 3, workers=0)
    resize("BIx4/00001/0001", (56, 40))
    with pytest.raises(RvrtError, match=r"BIx4/00001/0001/im1\.png: is 56x40 px"):
        BatchLoader(tmp_path, spec)


def children_end(pids: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(
            Path(f"/proc/{pid}/cmdline").is_file() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
        ):
            return True
        time.sleep(0.05)
    return False


SCRIPT = """
import sys
from pathlib import Path
from rvrt_cli.data.batch_loader import BatchLoader
from rvrt_cli.data.batch_spec import BatchSpec
if __name__ == "__main__":
    loader = BatchLoader(Path(sys.argv[1]), BatchSpec(batch=4, frames=3, crop=48), workers=2)
    next(loader)
    print(*(process.pid for process, _ in loader._workers), flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_workers_end_with_the_process_that_started_them(clips: Path, tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(clips), "wait" if end == "kill" else "return"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if end == "kill":
            process.send_signal(signal.SIGKILL)
        assert process.wait(30) == (-signal.SIGKILL if end == "kill" else 0)
        assert children_end(pids)


def test_death_of_a_worker_is_reported(clips: Path) -> None:
    with BatchLoader(clips, SPEC, workers=1) as loader:
        next(loader)
        worker = loader._workers[0][0]
        worker.kill()
        with pytest.raises(RvrtError, match=r"a worker process that makes training batches died.*--resume"):
            list(islice(loader, 50))
    assert not worker.is_alive()


def test_sigterm_to_the_whole_job_leaves_the_workers_to_the_process_that_trains(clips: Path) -> None:
    """As `timeout` and batch systems send it: the next batches still come, so that a checkpoint can be written."""
    with BatchLoader(clips, SPEC, workers=1) as loader:
        next(loader)
        [(worker, _)] = loader._workers
        os.kill(worker.pid, signal.SIGTERM)
        assert len(list(islice(loader, 12))) == 12  # more than were ready
    assert not worker.is_alive()


def test_manifest_is_needed(clips: Path, tmp_path: Path) -> None:
    (tmp_path / CLIP_MANIFEST).write_text("{}")
    with pytest.raises(OptionError, match="no training clips here"):
        open_store(tmp_path)
