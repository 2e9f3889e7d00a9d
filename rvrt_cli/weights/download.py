"""Fetch a file over HTTP into a `.part` file, and take up a broken download where it stopped."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rvrt_cli.errors import WeightsError
from rvrt_cli.weights.safe_pickle import shown

Progress = Callable[[int, "int | None"], None]  # bytes there, bytes in all where known

_CHUNK = 1 << 18
_MOST_BYTES = 1 << 30
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone in a moment


def fetch(
    url: str,
    part: Path,
    progress: Progress | None = None,
    *,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download `url` into `part`, continuing what is there; returns when all bytes are there.

    What the server says of the file (its ETag or date, its size) lies beside it as `<part>.json`, so that two versions
    of the file are never mixed.

    Args:
        attempts: tries in a row that may bring nothing new.
        wait: s before the second try, doubled for each further one.
        timeout: s without a byte after which a connection counts as cut.
    Raises:
        WeightsError: the server has no such file, answers with something else, or cannot be reached; what has arrived
            stays and the next call goes on from there.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"{url}: only http and https addresses can be fetched")
    failures, best = 0, _size(part)
    while True:
        try:
            if _attempt(url, part, progress, timeout):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING:
                raise WeightsError(
                    f"{url}: the server answers {error.code} {error.reason}; get the file elsewhere and give --from"
                ) from None
            reason = f"the server answers {error.code} {error.reason}"
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
            reason = shown(getattr(error, "reason", None) or str(error) or type(error).__name__, 200)
        failures = failures + 1 if _size(part) <= best else 1
        best = max(best, _size(part))
        if failures >= attempts:
            raise WeightsError(
                f"{url}: {reason}; {best} bytes are kept, the same command goes on from there. "
                "On a machine without a network: --from FILE"
            )
        time.sleep(wait * 2 ** (failures - 1))


def discard(part: Path) -> None:
    """Throw a partial download away."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, progress: Progress | None, timeout: float) -> bool:
    """One request; whether the file is complete now."""
    have, notes = _size(part), _read_notes(part, url)
    if have and have == notes.get("total"):
        return True  # only what follows a download was missing
    headers = {"User-Agent": "rvrt", "Accept-Encoding": "identity"}
    if have and notes:
        headers["Range"] = f"bytes={have}-"
        if notes.get("validator"):
            headers["If-Range"] = notes["validator"]
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        discard(part)  # the server's file is shorter than what we have: another one
        return False
    with answer:
        if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise WeightsError(
                f"{url}: the server answers with a web page instead of the file (a login or a proxy?); "
                "get the file with a browser and give it with --from"
            )
        start, total = _place(answer)
        if answer.status == 206 and (start != have or total != notes.get("total")):
            discard(part)  # not what was asked for
            return False
        if total is not None and total > _MOST_BYTES:
            raise WeightsError(
                f"{url}: the server offers {total} bytes, far more than the weights have; check the address"
            )
        return _receive(answer, part, url, start, total, progress)


def _place(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the size of the whole file [bytes]."""
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,15}", length) else None


def _receive(
    answer: http.client.HTTPResponse, part: Path, url: str, start: int, total: int | None, progress: Progress | None
) -> bool:
    """Append the answer's body to the part file, or begin it anew; whether it is complete."""
    etag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
    validator = etag if etag.startswith('"') else date  # a weak ETag must not stand in If-Range
    with _disk(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab" if start else "wb")
    have = start
    with file:
        with _disk(part):
            _notes(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}))
        while True:
            if progress:
                progress(have, total)
            chunk = answer.read1(_CHUNK)
            if not chunk:
                return total is None or have == total
            have += len(chunk)
            if have > (_MOST_BYTES if total is None else total):
                discard(part)
                raise WeightsError(f"{url}: the server sends more than it announced; give the file with --from")
            with _disk(part):
                file.write(chunk)
                file.flush()  # so that being killed loses nothing


@contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Tell the disk's errors from the network's."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{part}: cannot be written ({error.strerror or error}); make room, or choose a folder with RVRT_CACHE"
        ) from None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_notes(part: Path, url: str) -> dict:
    """What the server said of the file that the part belongs to; empty where it is not known or of another address."""
    try:
        notes = json.loads(_notes(part).read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) and notes.get("url") == url else {}
