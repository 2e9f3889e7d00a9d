# SPDX-License-Identifier: Apache-2.0
"""Published weights into the user's cache: download (or take a local file), check, convert."""

from __future__ import annotations

from pathlib import Path

from rvrt_cli.errors import WeightsError
from rvrt_cli.files import cache_folder
from rvrt_cli.model.config import PRESETS
from rvrt_cli.weights.catalog import PUBLISHED_URL, PublishedCheckpoint
from rvrt_cli.weights.convert import read_published
from rvrt_cli.weights.download import DownloadProgress, discard_download, download
from rvrt_cli.weights.weights_file import save_weights


def pull_weights(
    entry: PublishedCheckpoint,
    *,
    file: Path | None = None,
    url: str | None = None,
    overwrite: bool = False,
    progress: DownloadProgress | None = None,
    wait: float = 1.0,
) -> Path:
    """Put published weights into the cache and return the weights file; immediate if it is cached already.

    Args:
        file: a local copy of the checkpoint, used instead of a download and never modified.
        url: folder of a mirror that holds the published files.
        wait: delay before a failed request is retried [s].
    Raises:
        WeightsError: the download failed, or the file is not what was published (every name and shape is checked).
            An interrupted download is kept for the next call; a wrong one is deleted.
    """
    target = cache_folder() / f"{entry.name}.safetensors"
    if target.is_file() and not overwrite:
        return target
    if file is not None:
        _convert_published(file, file.name, entry, target)
        return target
    address = f"{(url or PUBLISHED_URL).rstrip('/')}/{entry.file}"
    part = cache_folder() / f"{entry.file}.part"
    download(address, part, progress, wait=wait)
    try:
        _convert_published(part, address, entry, target)
    except _NotAsPublished as error:
        discard_download(part)
        raise WeightsError(
            f"{error}; the download from {address} has been deleted, try again or give --from FILE"
        ) from None
    discard_download(part)
    return target


class _NotAsPublished(WeightsError):
    """The file is not the published checkpoint."""


def _convert_published(source: Path, origin: str, entry: PublishedCheckpoint, target: Path) -> None:
    try:
        weights = read_published(source)
    except WeightsError as error:
        raise _NotAsPublished(str(error)) from None
    if weights.config != PRESETS[entry.preset]:
        raise _NotAsPublished(f"{source}: an RVRT with other sizes than {entry.name}")
    save_weights(target, weights.arrays, weights.config, entry.card(origin, weights.card["source_sha256"]))
