# SPDX-License-Identifier: Apache-2.0
"""The jobs of a queue: which sources its arguments name, and where each target goes. Refused as a whole before any work."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.options import JobOptions, QueueOptions
from rvrt_cli.video.read.image_files import SUFFIXES, is_pattern, list_images
from rvrt_cli.video.read.video_files import VIDEO_SUFFIXES, find_videos
from rvrt_cli.video.write.encoder_settings import choose_encoder
from rvrt_cli.video.write.image_targets import IMAGE_ENCODERS
from rvrt_cli.video.write.target import MUXERS

_HOLDS_EVERYTHING = ".mkv"


@dataclass(frozen=True)
class QueueItem:
    """One job of a queue.

    Attributes:
        source, target: as those of `rvrt_cli.upscale.prepare`; a folder of images as a target ends in "/".
        files: that the source consists of.
        options: for this source.
    """

    source: str
    target: str
    files: tuple[Path, ...]
    options: JobOptions


@dataclass(frozen=True)
class ListedSources:
    """The jobs that arguments ask for, and notes on what is left out, one line each."""

    items: tuple[QueueItem, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A source, the folder of its target below the output folder, and the target's name without suffix and file type."""

    path: str
    files: tuple[Path, ...]
    below: Path
    stem: str
    is_sequence: bool = False


def list_queue(
    arguments: Sequence[str], queue: QueueOptions, options_for: Callable[[str], JobOptions]
) -> ListedSources:
    """The jobs for the sources that `arguments` name: videos, images, folders of videos, folders and patterns of images.

    Args:
        options_for: the options for a source.

    Raises:
        OptionError: an argument or option that no queue can have, or an encoder that does not exist.
        MediaError: a folder has no video, or targets are their sources or each other.
    """
    assert queue.output_dir is not None
    if os.path.lexists(queue.output_dir) and not os.path.isdir(queue.output_dir):
        raise OptionError(f"--output-dir {queue.output_dir}: exists and is not a folder; choose another name")
    notes: list[str] = []
    items: dict[str, QueueItem] = {}
    for argument in arguments:
        for source in _find_sources(argument, queue, notes):
            options = options_for(source.path)
            _check_queue_options(options, queue)
            item = QueueItem(source.path, _target(source, queue, options.codec), source.files, options)
            items.setdefault(_key(source.path), item)  # named twice
    _check_targets(list(items.values()), queue)
    return ListedSources(tuple(items.values()), tuple(notes))


def _check_queue_options(options: JobOptions, queue: QueueOptions) -> None:
    if options.master is not None or options.node:
        raise OptionError(
            "--output-dir: one machine does a queue; omit --master, or give each machine files of its own"
        )
    if options.overwrite and queue.skip_existing:
        raise OptionError("--skip-existing: contradicts --overwrite; give one of them")
    if options.codec is not None:
        choose_encoder(options.codec, Path(f"any{_HOLDS_EVERYTHING}"))  # refuses unknown names before any work


def _find_sources(argument: str, queue: QueueOptions, notes: list[str]) -> Iterator[_Source]:
    if argument in ("", "-"):
        raise OptionError(f"{argument!r}: no source for --output-dir; name videos, images or folders")
    path = Path(argument)
    if path.is_dir():
        yield from _search_folder(argument, queue, notes)
    elif not os.path.lexists(path) and is_pattern(argument):
        files = list_images(argument)
        if all(file.suffix.lower() in VIDEO_SUFFIXES for file in files):
            yield from (_single_file(file) for file in files)
        else:
            yield _Source(argument, tuple(files), Path(), path.absolute().parent.name, is_sequence=True)
    else:
        yield _single_file(path)


def _single_file(path: Path, below: Path = Path()) -> _Source:
    return _Source(str(path), (path,), below, path.stem)


def _search_folder(argument: str, queue: QueueOptions, notes: list[str]) -> Iterator[_Source]:
    """The videos of a folder, or else its images as one sequence."""
    folder = Path(argument)
    found = list(find_videos(folder, recursive=queue.recursive, leave_out=[Path(queue.output_dir or "")]))
    results = [path for path in found if queue.suffix and path.stem.endswith(queue.suffix)]
    images = sum(path.suffix.lower() in SUFFIXES and path.name[0] != "." for path in folder.iterdir())
    if results:
        notes.append(
            f"{argument}: {len(results)} of its videos left out as results, since their names end in {queue.suffix}; name "
            "them one by one to take them"
        )
    if found:
        if images:
            notes.append(f"{argument}: images beside the videos left out ({images}); name them one by one to take them")
        for path in found:
            if path not in results:
                yield _single_file(path, path.parent.relative_to(folder))
    elif images:
        yield _Source(argument, tuple(list_images(folder)), Path(), folder.absolute().resolve().name, is_sequence=True)
    else:
        remedy = "name another one" if queue.recursive else "--recursive searches the folders below it"
        raise MediaError(f"{argument}: no videos or images in this folder; {remedy}")


def _target(source: _Source, queue: QueueOptions, codec: str | None) -> str:
    suffix = source.files[0].suffix.lower()
    name = f"{source.stem}{queue.suffix}"
    if source.is_sequence:
        name += f".{queue.container}" if queue.container else os.sep
    elif suffix in SUFFIXES:
        name += suffix if suffix in IMAGE_ENCODERS else ".png"
    else:
        name += f".{queue.container}" if queue.container else _container(suffix, codec)
    return f"{Path(queue.output_dir or '') / source.below}{os.sep}{name}"


def _container(suffix: str, codec: str | None) -> str:
    """The file type of a video's target: its own, or one that can hold everything."""
    if suffix not in MUXERS:
        return suffix if suffix == ".gif" else _HOLDS_EVERYTHING
    try:
        choose_encoder(codec, Path(f"any{suffix}"))
    except MediaError:
        return _HOLDS_EVERYTHING
    return suffix


def _check_targets(items: Sequence[QueueItem], queue: QueueOptions) -> None:
    """Refuse targets that are the same, that are sources, or that the next search would take for sources."""
    sources = {_key(item.source) for item in items}
    taken: dict[str, QueueItem] = {}
    collisions = []
    for item in items:
        target = Path(item.target)
        beside = os.path.realpath(Path(item.source).parent) == os.path.realpath(target.parent)
        if _key(item.target) in sources or (beside and not queue.suffix):
            raise MediaError(
                f"{item.source}: its target {item.target} would be a source, or lie beside its source under the same name; "
                "give a --suffix, such as -x4, or another --output-dir"
            )
        other = taken.setdefault(_folded(item.target), item)
        if other is not item:
            collisions.append(f"{other.source} and {item.source}")
    if collisions:
        more = f" (and {len(collisions) - 1} more of such pairs)" if len(collisions) > 1 else ""
        raise MediaError(
            f"{collisions[0]}: have the same target in {queue.output_dir}{more}; rename one, or run them separately into "
            "different folders"
        )


def _key(path: str) -> str:
    """What tells paths apart, however they are written; links to files stay what they are."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def _folded(path: str) -> str:
    """The key of a target on file systems that do not distinguish case, such as those of memory cards."""
    return unicodedata.normalize("NFC", _key(path)).casefold()
