"""Get published weights: download or take a file, check, convert into the user's cache."""

from __future__ import annotations

from pathlib import Path

from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import PRESETS
from rvrt_cli.weights.catalog import PUBLISHED, RELEASE, Published, cache_folder, published
from rvrt_cli.weights.convert import read_published
from rvrt_cli.weights.download import Progress, discard, fetch
from rvrt_cli.weights.safe_pickle import shown
from rvrt_cli.weights.weights_file import save_weights


def find_published(name: str) -> Published:
    """The published checkpoint of this name.

    Raises:
        WeightsError: there is none; the message lists the names.
    """
    entry = published(name)
    if entry is None:
        names = ", ".join(known.name for known in PUBLISHED)
        raise WeightsError(f"{shown(name)}: no published x4 weights of this name; choose one of {names}")
    return entry


def pull(
    entry: Published,
    *,
    file: Path | None = None,
    url: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    wait: float = 1.0,
) -> Path:
    """Bring published weights into the cache and return the weights file; at once if they are there.

    Args:
        file: the checkpoint, where it is on this machine already; it is left alone.
        url: folder of another server that has the published files.
        wait: s before a failed request is tried again.
    Raises:
        WeightsError: it cannot be fetched, or is not what was published: every name and shape is checked. A
            download that is cut stays for the next call, one that turns out wrong is thrown away.
    """
    target = cache_folder() / f"{entry.name}.safetensors"
    if target.is_file() and not overwrite:
        return target
    if file is not None:
        _accept(file, file.name, entry, target)
        return target
    address = f"{(url or RELEASE).rstrip('/')}/{entry.file}"
    part = cache_folder() / f"{entry.file}.part"
    fetch(address, part, progress, wait=wait)
    try:
        _accept(part, address, entry, target)
    except _Wrong as error:
        discard(part)
        raise WeightsError(
            f"{error}; the download from {address} was thrown away, try again or give --from FILE"
        ) from None
    discard(part)
    return target


class _Wrong(WeightsError):
    """The file is not the published checkpoint."""


def _accept(source: Path, origin: str, entry: Published, target: Path) -> None:
    try:
        weights = read_published(source)
    except WeightsError as error:
        raise _Wrong(str(error)) from None
    if weights.config != PRESETS["rvrt"]:
        raise _Wrong(f"{source}: an RVRT of another size than {entry.name}")
    save_weights(target, weights.arrays, weights.config, entry.card(origin, weights.card["source_sha256"]))
