# SPDX-License-Identifier: Apache-2.0
"""Which jobs the arguments of a queue ask for: files that are searched, names of targets, refusals."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rvrt_cli.errors import MediaError, OptionError, RvrtError
from rvrt_cli.options import QueueOptions, UpscaleOptions
from rvrt_cli.upscale.queue_items import ListedSources, list_queue

OUT = QueueOptions(output_dir="out")


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*arguments: str, queue: QueueOptions = OUT, **options: object) -> ListedSources:
    return list_queue(arguments, queue, lambda source: UpscaleOptions(**options))


def pairs(*arguments: str, queue: QueueOptions = OUT, **options: object) -> dict[str, str]:
    return {item.source: item.target for item in listed(*arguments, queue=queue, **options).items}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_targets_keep_names_and_file_types_that_can_be_written() -> None:
    names = ["a.MP4", "b.mkv", "c.webm", "d.avi", "e.m2ts", "f.gif", "g.2020.mov", "p.JPG", "q.tga"]
    expected = ["a.mp4", "b.mkv", "c.webm", "d.mkv", "e.mkv", "f.gif", "g.2020.mov", "p.jpg", "q.png"]
    assert pairs(*names) == dict(zip(names, [f"out/{name}" for name in expected], strict=True))
    assert pairs("a.mp4", queue=replace(OUT, suffix="-x4")) == {"a.mp4": "out/a-x4.mp4"}
    assert pairs("d.avi", "p.png", queue=replace(OUT, container="mp4")) == {"d.avi": "out/d.mp4", "p.png": "out/p.png"}


def test_a_codec_that_the_file_type_cannot_hold_goes_into_mkv() -> None:
    assert pairs("a.mp4", "c.webm", codec="libx264") == {"a.mp4": "out/a.mp4", "c.webm": "out/c.mkv"}
    with pytest.raises(OptionError, match="this ffmpeg has no such video encoder"):
        listed("a.mp4", codec="nocodec")


def test_a_folder_is_searched_for_videos_in_natural_order_without_hidden_ones() -> None:
    touch("in/v10.mp4", "in/v2.MOV", "in/._v2.mov", "in/.v2.mov.rvrt/00000000.mp4", "in/note.txt", "in/sub/w.ts")
    os.symlink("../in", "in/sub/again")
    assert list(pairs("in")) == ["in/v2.MOV", "in/v10.mp4"]
    everything = pairs("in/", queue=replace(OUT, recursive=True))
    assert list(everything) == ["in/v2.MOV", "in/v10.mp4", "in/sub/w.ts"]
    assert everything["in/sub/w.ts"] == "out/sub/w.mkv"


def test_images_are_a_sequence_only_where_a_folder_has_no_videos() -> None:
    touch("shots/f2.png", "shots/f10.png", "mixed/a.mp4", "mixed/photo.jpg")
    [item] = listed("shots").items
    assert (item.source, item.target) == ("shots", "out/shots/")
    assert [path.name for path in item.files] == ["f2.png", "f10.png"]
    assert pairs("shots/f%d.png") == {"shots/f%d.png": "out/shots/"}
    assert pairs("shots", queue=replace(OUT, container="mp4", suffix="-x4")) == {"shots": "out/shots-x4.mp4"}
    assert pairs("shots/f2.png") == {"shots/f2.png": "out/f2.png"}
    found = listed("mixed")
    assert [item.source for item in found.items] == ["mixed/a.mp4"]
    assert found.notes == ("mixed: images beside the videos left out (1); name them one by one to take them",)


def test_a_pattern_of_videos_is_each_of_them() -> None:
    touch("in/b.mp4", "in/a.mp4")
    assert list(pairs("in/*.mp4")) == ["in/a.mp4", "in/b.mp4"]


def test_a_source_that_is_named_twice_is_taken_once() -> None:
    touch("in/a.mp4", "in/b.mp4")
    os.symlink("in", "link")
    assert list(pairs("in/b.mp4", "in", "./in/a.mp4", "link/a.mp4")) == ["in/b.mp4", "in/a.mp4"]


def test_results_are_not_taken_for_sources() -> None:
    """The same command, run again in the folder of its sources, and with the folder of its targets below them."""
    touch("in/a.mp4", "in/a-x4.mp4", "in/out/b.mp4", "in/other/c.mp4")
    beside = QueueOptions(output_dir="in", suffix="-x4")
    found = listed("in", queue=beside)
    assert [item.source for item in found.items] == ["in/a.mp4"]
    assert "1 of its videos left out as results, since their names end in -x4" in found.notes[0]
    below = QueueOptions(output_dir="in/out", recursive=True)
    assert list(pairs("in", queue=below)) == ["in/a-x4.mp4", "in/a.mp4", "in/other/c.mp4"]
    assert list(pairs("in/a-x4.mp4", queue=QueueOptions(output_dir="out", suffix="-x4"))) == ["in/a-x4.mp4"]


@pytest.mark.parametrize(
    "sources",
    [("a/v.mp4", "b/v.mp4"), ("a/v.mkv", "b/v.avi"), ("a/v.mp4", "a/V.MP4"), ("a/é.mp4", "b/e\u0301.mp4")],
)
def test_equal_targets_are_refused(sources: tuple[str, str]) -> None:
    touch(*sources)
    with pytest.raises(MediaError, match="have the same target in out; rename one, or run them separately") as refused:
        listed(*sources)
    assert all(source in str(refused.value) for source in sources)


def test_the_same_name_with_another_file_type_is_another_target() -> None:
    assert pairs("a.mkv", "b/a.mp4") == {"a.mkv": "out/a.mkv", "b/a.mp4": "out/a.mp4"}


@pytest.mark.parametrize(
    ("sources", "queue"),
    [
        (("in/a.mp4",), QueueOptions(output_dir="in")),
        (("in/a.avi",), QueueOptions(output_dir="in/")),
        (("in",), QueueOptions(output_dir="link")),
        (("a.mp4", "out/a-x4.mp4"), QueueOptions(output_dir="out", suffix="-x4")),
        (("shots",), QueueOptions(output_dir=".")),
    ],
)
def test_targets_that_are_sources_are_refused(sources: tuple[str, ...], queue: QueueOptions) -> None:
    touch("in/a.mp4", "in/a.avi", "out/a-x4.mp4", "a.mp4", "shots/f1.png")
    os.symlink("in", "link")
    if sources == ("in",):
        Path("in/a.avi").unlink()
    with pytest.raises(MediaError, match="give a --suffix, such as -x4, or another --output-dir"):
        listed(*sources, queue=queue)


def test_what_no_queue_can_do_is_refused() -> None:
    touch("empty/note.txt", "file")
    cases: list[tuple[str, tuple[str, ...], QueueOptions, dict]] = [
        ("no source for --output-dir", ("-",), OUT, {}),
        ("no source for --output-dir", ("",), OUT, {}),
        ("no videos or images in this folder; --recursive", ("empty",), OUT, {}),
        ("no videos or images in this folder; name another", ("empty",), replace(OUT, recursive=True), {}),
        ("no image matches it as a pattern", ("nothing-*.mp4",), OUT, {}),
        ("exists and is not a folder", ("a.mp4",), QueueOptions(output_dir="file"), {}),
        ("contradicts --overwrite", ("a.mp4",), replace(OUT, skip_existing=True), {"overwrite": True}),
        ("one machine does a queue", ("a.mp4",), OUT, {"ranks": 2, "local_ranks": 1, "master": "host:8118"}),
    ]
    for said, sources, queue, options in cases:
        with pytest.raises(RvrtError, match=said):
            listed(*sources, queue=queue, **options)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"suffix": "-x4"}, "--suffix: for several sources; give --output-dir too"),
        ({"skip_existing": True}, "--skip-existing: for several sources"),
        ({"output_dir": "-"}, "is no folder"),
        ({"output_dir": "out", "suffix": "../x"}, "give it without folders"),
    ],
)
def test_options_of_queues_are_validated(values: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        QueueOptions(**values)
