# SPDX-License-Identifier: Apache-2.0
"""Files of a run: checkpoints that are complete or absent, a log truncated to the checkpoint, the curve."""

import json
import random
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzzing import damaged, little_memory, searching
from hypothesis import given, strategies as st
from PIL import Image

from rvrt_cli.errors import RvrtError
from rvrt_cli.model.config import PRESETS
from rvrt_cli.train.training_counters import TrainingCounters
from rvrt_cli.train.training_curve import draw_curve
from rvrt_cli.train.training_log import TrainingLog, read_log
from rvrt_cli.train.training_state import TrainingState, list_checkpoints, load_checkpoint, save_checkpoint

SMALL = PRESETS["rvrt-tiny"]


def test_a_checkpoint_reads_back_and_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        arrays = {"value.a": np.full((2, 3), step, np.float32), "m.b": np.arange(6, dtype=np.float32)[::2]}
        counters = TrainingCounters(step=step, best=0.1 + 0.2, updates=[step, 0])
        save_checkpoint(tmp_path, TrainingState(arrays, counters, SMALL), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00000010.safetensors", "00000100.safetensors"]
    state = load_checkpoint(list_checkpoints(tmp_path)[-1])
    assert np.array_equal(state.arrays["value.a"], np.full((2, 3), 100, np.float32))
    assert np.array_equal(state.arrays["m.b"], [0, 2, 4])
    assert state.counters == TrainingCounters(step=100, best=0.1 + 0.2, updates=[100, 0])
    assert state.config == SMALL


@pytest.mark.parametrize("best", [float("inf"), float("-inf"), float("nan")])
def test_a_best_score_that_is_not_finite_is_dropped(best: float) -> None:
    assert TrainingCounters.from_dict({"step": 3, "best": best}) == TrainingCounters(step=3)
    with pytest.raises(ValueError, match="validation_id"):
        TrainingCounters.from_dict({"judged": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "its counters are damaged"),
        ([["step", 3]], "its counters are damaged"),
        ({"steps": 3}, "its counters are damaged"),
        ({"step": [3]}, "its counter step is damaged"),
        ({"updates": 3}, "its counter updates is damaged"),
        ({"updates": [3, -1]}, "its counter updates is damaged"),
        ({"step": True}, "its counter step is damaged"),
        ({"validation_id": 3}, "its counter validation_id is damaged"),
    ],
)
def test_damaged_counters_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        TrainingCounters.from_dict(values)


def test_counters_of_earlier_versions_are_read() -> None:
    assert TrainingCounters.from_dict({"judged": "abc"}) == TrainingCounters(validation_id="abc")
    with pytest.raises(ValueError, match="trained"):
        TrainingCounters.from_dict({"trained": 10**400})


def test_a_partial_checkpoint_is_ignored_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(
        tmp_path, TrainingState({"value.a": np.ones(4, np.float32)}, TrainingCounters(step=5), SMALL), keep=3
    )
    path.with_name("00000010.safetensors.part").write_bytes(path.read_bytes()[:50])
    assert list_checkpoints(tmp_path) == [path]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RvrtError, match=r"00000005.*delete it"):
        load_checkpoint(path)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from rvrt_cli.model.config import PRESETS
from rvrt_cli.train.training_state import TrainingState, save_checkpoint
from rvrt_cli.train.training_counters import TrainingCounters

for step in range(int(sys.argv[2]), 1_000_000):
    arrays = {"value.a": np.full(1_000_000, step, np.float32)}
    state = TrainingState(arrays, TrainingCounters(step=step), PRESETS["rvrt-tiny"])
    save_checkpoint(Path(sys.argv[1]), state, keep=2)
    print(step, flush=True)
"""


def kill_writer(folder: Path, wait: float) -> bool:
    """Kill a process that writes checkpoints `wait` s after its first one; whether that cut a write short.

    Whatever the moment, all checkpoints are complete, and none that was finished is lost.
    """
    done = int(list_checkpoints(folder)[-1].stem) if list_checkpoints(folder) else 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(done + 1)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        first = writer.stdout.readline()
        time.sleep(wait)
        writer.kill()
        said = [int(line) for line in (first + writer.stdout.read()).splitlines()]
    for path in list_checkpoints(folder):
        state = load_checkpoint(path)
        assert path.stem == f"{state.counters.step:08d}"
        assert (state.arrays["value.a"] == state.counters.step).all()
    assert state.counters.step >= said[-1], "a complete checkpoint disappeared"
    return bool(list((folder / "checkpoints").glob("*.part")))


def test_killed_while_writing_the_last_complete_checkpoint_remains(tmp_path: Path) -> None:
    """Killed until one kill cuts a write short."""
    wait = random.Random(0)
    assert any(kill_writer(tmp_path, wait.uniform(0, 0.05)) for _ in range(30)), "no kill fell into a write"


@pytest.mark.slow
@pytest.mark.soak
def test_killed_many_times_while_writing_the_last_complete_checkpoint_remains(tmp_path: Path) -> None:
    wait = random.Random(1)
    cut_short = [kill_writer(tmp_path, wait.uniform(0, 0.05)) for _ in range(200)]
    assert any(cut_short), "no kill fell into a write"


def test_a_checkpoint_that_cannot_be_written_keeps_the_previous_one(tmp_path: Path) -> None:
    path = save_checkpoint(
        tmp_path, TrainingState({"value.a": np.ones(4, np.float32)}, TrainingCounters(step=5), SMALL), keep=3
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as on a full disk
    try:
        with pytest.raises(RvrtError, match=r"cannot be written.*free some space"):
            save_checkpoint(
                tmp_path,
                TrainingState({"value.a": np.ones(10_000, np.float32)}, TrainingCounters(step=6), SMALL),
                keep=1,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "checkpoints").iterdir()) == [path]


def test_a_log_is_truncated_to_the_checkpoint_and_continued(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step, "loss": 0.1 * step})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 6, "lo')
    log = TrainingLog(tmp_path, 3)
    log.write({"step": 4, "loss": 9.0})
    log.close()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [*({"step": step, "loss": 0.1 * step} for step in (1, 2, 3)), {"step": 4, "loss": 9.0}]
    assert read_log(log.path) == lines


@pytest.mark.parametrize("start", [0.0, -30.0])
def test_the_curve_falls_where_the_loss_does(tmp_path: Path, start: float) -> None:
    """Charbonnier's, and the negative PSNR [dB]."""
    log = TrainingLog(tmp_path, 0)
    for step in range(1, 1001):
        log.write({"step": step, "loss": start + 0.1 * 0.995**step if step != 500 else None})
        if step % 100 == 0:
            log.write({"step": step, "gain": {"clean": step / 500 - 1, "h264": 0.0}})
    log.close()
    draw_curve(log.path, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels == (31, 119, 180)).all(-1)
    blue[:45] = blue[360 - 45 : 360 + 45] = False  # names, numbers and titles
    upper, lower = blue[:360], blue[360:]
    rows = [np.nonzero(upper[:, column])[0].mean() for column in (100, 500, 900)]
    assert rows[0] < rows[1] < rows[2]
    rows = [np.nonzero(lower[:, column])[0].mean() for column in (200, 500, 900)]
    assert rows[0] > rows[1] > rows[2]
    draw_curve(tmp_path / "none.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def _curve(folder: Path, records: list[dict]) -> np.ndarray:
    """The pixels (H, W, 3) of the curve of a log."""
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    draw_curve(folder / "log.jsonl", folder / "curve.png")
    with Image.open(folder / "curve.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_curve_shows_a_smooth_line_in_front_of_the_noise(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 400)
    losses = 0.1 * 2.0 ** (noise + np.where(np.arange(400) < 200, 1, -1))
    pixels = _curve(tmp_path, [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])
    blue, pale = (pixels == (31, 119, 180)).all(-1), (pixels == (188, 214, 232)).all(-1)
    heights = [np.ptp(np.nonzero(line[45:675, 150:450])[0]) for line in (blue, pale)]
    assert heights[0] < heights[1] / 3
    left, right = (np.nonzero(blue[45:675, part])[0].mean() for part in (slice(150, 450), slice(600, 900)))
    assert right - left == pytest.approx(0.5 * 630 / 1.1, rel=0.15)  # a factor of 4 where all of it is 16


def test_the_curve_has_axis_titles_and_no_empty_panel(tmp_path: Path) -> None:
    records = [{"step": step, "loss": 0.1 / step} for step in range(1, 100)]
    grid = (225, 225, 225)
    for gain, lines in (([], 6), ([{"step": 99, "gain": {"clean": 0.5}}], 12)):
        pixels = _curve(tmp_path, records + gain)
        assert (pixels[:, 500:520] == grid).all((1, 2)).sum() >= lines - 2, "a curve may cover some of the lines"
        assert (pixels[:, 500:520] == grid).all((1, 2)).sum() <= lines
        titles = pixels[:, :25].min((1, 2)) < 128  # turned, left of the numbers
        for panel in np.split(titles, lines // 6):
            rows = np.nonzero(panel)[0]
            assert abs(rows.mean() - len(panel) / 2) < 20, "centered"
            assert np.ptp(rows) > 100


@searching(50)
@given(data=st.data())
def test_a_damaged_checkpoint_raises_one_error_only(tmp_path: Path, data: st.DataObject) -> None:
    arrays = {f"{kind}.a": np.arange(6, dtype=np.float32).reshape(2, 3) for kind in ("value", "m", "v", "ema")}
    counters = TrainingCounters(step=5, best=0.5, recent_skips=[3], updates=[5])
    path = save_checkpoint(tmp_path, TrainingState(arrays, counters, SMALL), keep=3)
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = data.draw(damaged(good[8 : 8 + length], is_json=True))
    in_header = header + b" " * (-len(header) % 8)
    path.write_bytes(
        data.draw(damaged(good) | st.just(len(in_header).to_bytes(8, "little") + in_header + good[8 + length :]))
    )
    with little_memory(50 << 20), suppress(RvrtError):
        state = load_checkpoint(path)
        assert {array.dtype for array in state.arrays.values()} <= {np.dtype(np.float32)}
        state.counters.count_step(skipped=True, scaled=True, max_skipped=100)


@pytest.mark.slow
@searching(50)
@given(data=st.data())
def test_a_damaged_log_loses_only_its_damaged_lines(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "log.jsonl").unlink(missing_ok=True)
    log = TrainingLog(tmp_path, 0)
    log.write({"step": 1, "loss": 0.5, "psnr": 20.0})
    log.write({"step": 1, "gain": {"clean": 1.0, "h264": 0.5}})
    log.close()
    lines = log.path.read_bytes().splitlines(keepends=True)
    lines[data.draw(st.integers(0, 1))] = data.draw(damaged(lines[0], is_json=True) | damaged(lines[1], is_json=True))
    log.path.write_bytes(b"".join(lines) + b'\n{"step": 1, "loss": 0.25}\n')
    TrainingLog(tmp_path, 9).close()
    draw_curve(log.path, tmp_path / "curve.png")
    assert {"step": 1, "loss": 0.25} in read_log(log.path)


def test_an_absurd_gain_does_not_break_the_curve(tmp_path: Path) -> None:
    """Found by the test above."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 1, "gain": {"": 562949953421313.0}}\n')
    draw_curve(tmp_path / "log.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").exists()
