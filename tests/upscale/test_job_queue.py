# SPDX-License-Identifier: Apache-2.0
"""The record of finished targets, and how long a queue will still take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.fuzzing import damaged, searching
from hypothesis import given, strategies as st

from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import queue_clock
from rvrt_cli.upscale.finished_files import RECORD_NAME, FinishedFiles
from rvrt_cli.upscale.job_queue import DONE, FAILED, FINISHED, QueueEntry
from rvrt_cli.upscale.progress import Progress
from rvrt_cli.upscale.queue_clock import QueueClock
from rvrt_cli.upscale.queue_items import QueueItem
from rvrt_cli.upscale.resume import identify_request
from rvrt_cli.upscale.workdir import About

ABOUT: About = {"source": {"bytes": 1}, "network": {"sha256": "0"}, "settings": {"--crf": 18}}


def test_what_is_recorded_is_found_again(tmp_path: Path) -> None:
    target, folder = tmp_path / "day1" / "a.mp4", tmp_path / "frames"
    target.parent.mkdir()
    folder.mkdir()
    target.write_bytes(b"video")
    (folder / "000001.png").write_bytes(b"image")
    record = FinishedFiles(str(tmp_path))
    record.add(str(target), ABOUT, 60)
    record.add(f"{folder}/", ABOUT, 1, failures=2)
    again = FinishedFiles(f"{tmp_path}/")
    found, images = again.find(str(target)), again.find(f"{folder}/")
    assert found is not None
    assert images is not None
    assert (found.frames, found.failures, images.failures) == (60, None, 2)
    assert found.differences(ABOUT) == []
    assert found.differences({**ABOUT, "source": {}, "settings": {"--preset": "fast"}}) == [
        "the source",
        "--crf",
        "--preset",
    ]
    target.write_bytes(b"another video")
    assert again.find(str(target)) is None
    assert again.find(str(tmp_path / "b.mp4")) is None


def test_the_last_line_counts_and_a_line_that_was_cut_short_does_no_harm(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.touch()
    FinishedFiles(str(tmp_path)).add(str(target), ABOUT, 1)
    with (tmp_path / RECORD_NAME).open("ab") as file:
        file.write(b'{"target": "b.mp')
    FinishedFiles(str(tmp_path)).add(str(target), ABOUT, 2)
    found = FinishedFiles(str(tmp_path)).find(str(target))
    assert found is not None
    assert found.frames == 2


@searching(200)
@given(data=st.data())
def test_a_damaged_record_is_passed_over(tmp_path: Path, data: st.DataObject) -> None:
    target = tmp_path / "a.mp4"
    target.touch()
    path = tmp_path / RECORD_NAME
    path.unlink(missing_ok=True)
    FinishedFiles(str(tmp_path)).add(str(target), ABOUT, 1)
    path.write_bytes(data.draw(damaged(path.read_bytes().strip(), is_json=True)).replace(b"\n", b" "))
    record = FinishedFiles(str(tmp_path))
    found = record.find(str(target))
    if found is not None:
        found.differences(ABOUT)
    record.add(str(target), ABOUT, 2)
    again = FinishedFiles(str(tmp_path)).find(str(target))
    assert again is not None
    assert again.frames == 2


def test_a_request_is_identified_by_files_and_by_options_that_matter(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(b"1")

    def about(**options: object) -> About:
        return identify_request(str(source), [source], UpscaleOptions(**options))

    first = about()
    assert first["settings"] == {}, "an option that a later version adds must not change what is finished"
    assert about(memory="4G", ranks=2, overwrite=True) == first
    assert about(crf=18)["settings"] == {"--crf": 18}
    assert json.loads(json.dumps(first)) == first
    source.write_bytes(b"12")
    assert about()["source"] != first["source"]


def entry(number: int, state: str = "new", frames: int | None = 10, width: int = 100, kept: int = 0) -> QueueEntry:
    item = QueueItem(f"{number}.mp4", f"out/{number}.mp4", (), UpscaleOptions())
    return QueueEntry(number, item, state=state, frames=frames, kept=kept, source_size=(width, 100))


def test_the_time_left_counts_pixels_and_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(queue_clock.time, "monotonic", lambda: now)
    small, large, finished = entry(1, kept=5), entry(2, width=200), entry(3, state=FINISHED, frames=10**6)
    clock = QueueClock([small, large, finished])  # 5 frames of 100 px width, then 10 of 200
    assert clock.seconds_left is None
    clock.begin(small)
    now = 2.0
    clock.update(Progress(10, frames=6, kept=5))  # a fifth of the first, a 25th of all
    assert clock.share == pytest.approx(1 / 25)
    assert clock.seconds_left == pytest.approx(48.0)
    small.state = DONE
    clock.end(small)
    now = 10.0
    clock.begin(large)
    assert (clock.share, clock.seconds_left) == (pytest.approx(0.2), pytest.approx(40.0))


def test_a_failed_job_takes_no_more_time_and_an_unknown_one_an_average(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(queue_clock.time, "monotonic", lambda: now)
    entries = [entry(1), entry(2), entry(3, frames=None)]
    clock = QueueClock(entries)
    clock.begin(entries[0])
    now = 1.0
    entries[0].fail("broken")
    clock.end(entries[0])
    assert entries[0].state == FAILED
    assert clock.seconds_left is None
    clock.begin(entries[1])
    now = 5.0
    clock.update(Progress(10, frames=10))
    assert clock.seconds_left == pytest.approx(5.0)
    assert QueueClock([entry(1, frames=None)]).share == 0
    assert QueueClock([]).share == 0
