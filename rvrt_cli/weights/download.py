# SPDX-License-Identifier: Apache-2.0
"""Resumable HTTP download of one file into a `.part` file."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rvrt_cli.errors import WeightsError
from rvrt_cli.weights.safe_pickle import sanitize

DownloadProgress = Callable[[int, "int | None"], None]  # bytes received, total bytes if known

_CHUNK_BYTES = 1 << 18
_MAX_DOWNLOAD_BYTES = 1 << 30
_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # HTTP errors worth a retry


def download(
    url: str,
    part: Path,
    progress: DownloadProgress | None = None,
    *,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download `url` into `part`, resuming what is there; returns when the file is complete.

    The server's description of the file (ETag or date, size) is kept beside it as `<part>.json`, so that two versions
    of the file are never mixed.

    Args:
        attempts: consecutive attempts that may bring no new bytes.
        wait: delay before the second attempt [s], doubled for each further one.
        timeout: a connection that sends nothing for this long counts as broken [s].
    Raises:
        WeightsError: the server lacks the file, sends something else, or cannot be reached. Received bytes are kept,
            and the next call resumes from them.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url}: unsupported address; only http and https can be downloaded")
    transfer = _Transfer(url, part, progress, timeout)
    failures, best = 0, _bytes_received(part)
    while True:
        try:
            if transfer.attempt():
                return
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code not in _TRANSIENT_STATUSES:
                raise WeightsError(
                    f"{url}: HTTP error {error.code} {error.reason}; get the file elsewhere and give it with --from"
                ) from None
            reason = f"HTTP error {error.code} {error.reason}"
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
            reason = sanitize(getattr(error, "reason", None) or str(error) or type(error).__name__, 200)
        failures = failures + 1 if _bytes_received(part) <= best else 1
        best = max(best, _bytes_received(part))
        if failures >= attempts:
            raise WeightsError(
                f"{url}: {reason}; {best} bytes are kept, and the same command resumes from there. "
                "On a machine without network access, give --from FILE"
            )
        time.sleep(wait * 2 ** (failures - 1))


def discard_download(part: Path) -> None:
    """Delete a partial download."""
    part.unlink(missing_ok=True)
    _notes_path(part).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Transfer:
    """One file from one address; each attempt is one request."""

    url: str
    part: Path
    progress: DownloadProgress | None
    timeout: float

    def attempt(self) -> bool:
        """Send one request and receive what comes; True once the file is complete."""
        received, notes = _bytes_received(self.part), self._read_notes()
        if received and received == notes.get("total"):
            return True  # a run was killed between download and conversion
        headers = {"User-Agent": "rvrt", "Accept-Encoding": "identity"}
        if received and notes:
            headers["Range"] = f"bytes={received}-"
            if notes.get("validator"):
                headers["If-Range"] = notes["validator"]
        try:
            answer = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            discard_download(self.part)  # the server's file is shorter than ours: a different version
            return False
        with answer:
            if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise WeightsError(
                    f"{self.url}: the server sends a web page instead of the file (a login or a proxy?); "
                    "get the file with a browser and give it with --from"
                )
            start, total = _content_range(answer)
            if answer.status == 206 and (start != received or total != notes.get("total")):
                discard_download(self.part)  # not the requested range
                return False
            if total is not None and total > _MAX_DOWNLOAD_BYTES:
                raise WeightsError(
                    f"{self.url}: the server offers {total} bytes, far more than the weights have; check the address"
                )
            return self._receive(answer, start, total)

    def _receive(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> bool:
        """Append the body to the part file, or start the file over if `start` is 0; True if it is complete."""
        etag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
        validator = etag if etag.startswith('"') else date  # RFC 9110: no weak ETag in If-Range
        with _disk_errors(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            file = self.part.open("ab" if start else "wb")
        received = start
        with file:
            with _disk_errors(self.part):
                notes = {"url": self.url, "validator": validator, "total": total}
                _notes_path(self.part).write_text(json.dumps(notes))
            while True:
                if self.progress:
                    self.progress(received, total)
                chunk = answer.read1(_CHUNK_BYTES)
                if not chunk:
                    return total is None or received == total
                received += len(chunk)
                if received > (_MAX_DOWNLOAD_BYTES if total is None else total):
                    discard_download(self.part)
                    raise WeightsError(
                        f"{self.url}: the server sends more than it announced; give the file with --from"
                    )
                with _disk_errors(self.part):
                    file.write(chunk)
                    file.flush()  # so that a killed process loses nothing

    def _read_notes(self) -> dict:
        """The server's description of the file that the part belongs to; empty if unknown or of another address."""
        try:
            notes = json.loads(_notes_path(self.part).read_text())
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) and notes.get("url") == self.url else {}


def _content_range(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of the answer within the file, and the size of the whole file [bytes] if known."""
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,15}", length) else None


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    """Report an OSError as the disk's: outside, it counts as the network's and is retried."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{part}: cannot be written ({error.strerror or error}); "
            "free some disk space, or choose another folder with RVRT_CACHE"
        ) from None


def _bytes_received(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _notes_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")
