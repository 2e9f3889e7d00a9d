# SPDX-License-Identifier: Apache-2.0
"""Downloads from a local HTTP server: interrupted, killed, resumed, changed, or a wrong file."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.checkpoint_files import checkpoint, published_arrays

from rvrt_cli import model
from rvrt_cli.cli.weights import weights_group as command
from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import PRESETS, RVRTConfig
from rvrt_cli.weights import find_published, find_weights, load_weights, pull_weights
from rvrt_cli.weights.download import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
FILE = "002_RVRT_videosr_bi_Vimeo_14frames.pth"


@dataclass
class Site:
    """The server's behavior; `asked` collects Range, If-Range and the first byte of each answer."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    date: str | None = None
    ranges: bool = True
    sized: bool = True
    kind: str = "application/octet-stream"
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections break
    statuses: list[int] = field(default_factory=list)  # of the next answers
    pause: float = 0.0  # s between pieces of 100 kB
    asked: list[tuple[str | None, str | None, int]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def _handler(site: Site) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked, condition = self.headers["Range"], self.headers["If-Range"]
            status = site.statuses.pop(0) if site.statuses else 200
            if status != 200:
                site.asked.append((asked, condition, -1))
                return self.send_error(status)
            start = 0
            if site.ranges and asked and condition in (None, site.etag, site.date):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            site.asked.append((asked, condition, start))
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            body = site.content[start:]
            self.send_response(206 if start else 200)
            if start:
                end = len(site.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.send_header("Content-Type", site.kind)
            for name, value in (("ETag", site.etag), ("Last-Modified", site.date)):
                if value:
                    self.send_header(name, value)
            if site.sized:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._send(body[: site.cuts.pop(0)] if site.cuts else body)

        def _send(self, body: bytes) -> None:
            try:
                for start in range(0, len(body), 100_000):
                    self.wfile.write(body[start : start + 100_000])
                    time.sleep(site.pause)
            except OSError:
                pass  # the client went away
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# ---- one file


def test_download_is_complete_and_reports_progress(site: Site, tmp_path: Path) -> None:
    seen = []
    download(f"{site.url}/a", tmp_path / "a.part", lambda have, total: seen.append((have, total)))
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)


def test_broken_connections_are_resumed(site: Site, tmp_path: Path) -> None:
    site.cuts = [1_000_000, 500_000, 0, 700_000]
    download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert [start for *_, start in site.asked] == [0, 1_000_000, 1_500_000, 1_500_000, 2_200_000]
    assert site.asked[1][:2] == ("bytes=1000000-", '"one"')


def test_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts = [1_000_000]
    download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert [start for *_, start in site.asked] == [0, 0]


def test_server_that_never_gets_further_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts = [1_000_000] * 50
    with pytest.raises(WeightsError, match=r"broke.*the same command resumes.*--from"):
        download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert len(site.asked) < 10


@pytest.mark.parametrize("sized", [True, False])
def test_far_more_bytes_than_the_weights_have_are_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sized: bool
) -> None:
    """Whether the server says so, or just goes on sending."""
    site.sized = sized
    monkeypatch.setattr("rvrt_cli.weights.download._MAX_DOWNLOAD_BYTES", 2_000_000)
    message = "offers 3000000 bytes, far more" if sized else "sends more than it announced; give the file with --from"
    with pytest.raises(WeightsError, match=message):
        download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert sized or not (tmp_path / "a.part").exists()
    assert len(site.asked) == 1


@pytest.mark.parametrize("how", ["etag", "date", "size alone", "weak etag"])
def test_versions_of_a_changed_file_are_not_mixed(site: Site, tmp_path: Path, how: str) -> None:
    site.etag = {"etag": '"one"', "weak etag": 'W/"one"'}.get(how)
    site.date = "Wed, 01 Jun 2022 00:00:00 GMT" if how == "date" else None
    site.cuts = [1_000_000] * 4
    with pytest.raises(WeightsError):
        download(f"{site.url}/a", tmp_path / "a.part", wait=0.01, attempts=1)
    assert 0 < (tmp_path / "a.part").stat().st_size < len(CONTENT)
    site.content = bytes(reversed(CONTENT)) + b"longer"
    site.etag, site.date, site.cuts = site.etag and '"two"', site.date and "Thu, 02 Jun 2022 00:00:00 GMT", []
    download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == site.content


def test_file_that_became_shorter_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    site.etag, site.cuts = None, [2_000_000]
    with pytest.raises(WeightsError):
        download(f"{site.url}/a", tmp_path / "a.part", wait=0.01, attempts=1)
    site.content = CONTENT[:1000]
    download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1000]
    assert site.asked[1][2] == 2_000_000, "the server should have answered 416"


def test_partial_file_of_another_address_is_not_resumed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    download(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    download(f"{site.url}/b", tmp_path / "a.part")
    assert [asked for asked, *_ in site.asked] == [None, None]


def test_complete_partial_file_needs_no_request(site: Site, tmp_path: Path) -> None:
    download(f"{site.url}/a", tmp_path / "a.part")
    download(f"{site.url}/a", tmp_path / "a.part")
    assert len(site.asked) == 1


def test_killed_download_resumes(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    site.pause = 0.05
    load = "from pathlib import Path; from rvrt_cli.weights.download import download"
    code = f"{load}; download({site.url!r} + '/a', Path({str(part)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 300_000):
            assert process.poll() is None, "the download ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    have = part.stat().st_size
    assert have < len(CONTENT)
    site.pause = 0
    download(f"{site.url}/a", part)
    assert part.read_bytes() == CONTENT
    assert site.asked[-1] == (f"bytes={have}-", '"one"', have)


def test_file_of_unknown_size_is_downloaded(site: Site, tmp_path: Path) -> None:
    site.sized = False
    download(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_transient_server_errors_are_retried(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    download(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 410])
def test_missing_file_is_reported_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status] * 3
    with pytest.raises(WeightsError, match=rf"{site.url}/a.*{status}.*--from"):
        download(f"{site.url}/a", tmp_path / "a.part", wait=60)
    assert len(site.asked) == 1


def test_web_page_instead_of_the_file_is_reported(site: Site, tmp_path: Path) -> None:
    site.content, site.kind = b"<!DOCTYPE html><html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="web page"):
        download(f"{site.url}/a", tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_web_page_does_not_destroy_a_partial_download(site: Site, tmp_path: Path) -> None:
    site.cuts = [1_000_000]
    with pytest.raises(WeightsError):
        download(f"{site.url}/a", tmp_path / "a.part", attempts=1)
    site.kind = "text/html"
    with pytest.raises(WeightsError, match="web page"):
        download(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1_000_000]


def test_silent_server_times_out(site: Site, tmp_path: Path) -> None:
    site.pause = 30
    with pytest.raises(WeightsError, match="timed out"):
        download(f"{site.url}/a", tmp_path / "a.part", attempts=1, timeout=0.2)
    site.pause = 0


def test_refused_connections_and_other_schemes_are_reported(tmp_path: Path, site: Site) -> None:
    with pytest.raises(WeightsError, match=r"refused.*--from"):
        download("http://127.0.0.1:9/a", tmp_path / "a.part", wait=0.01)
    secret = tmp_path / "secret"
    secret.write_text("x")
    for url in (secret.as_uri(), "ftp://127.0.0.1/a", "secret"):
        with pytest.raises(WeightsError, match="only http"):
            download(url, tmp_path / "a.part")


def test_unwritable_cache_is_reported(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="RVRT_CACHE"):
        download(f"{site.url}/a", tmp_path / "file" / "a.part")


# ---- published weights


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("genuine") / FILE, published_arrays(3))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_pull_downloads_checks_converts_and_cleans_up(site: Site, cache: Path, genuine: Path) -> None:
    site.content = genuine.read_bytes()
    site.cuts = [20_000_000]
    path = pull_weights(find_published("rvrt-bi-vimeo"), url=site.url + "/", wait=0.01)
    assert [file.name for file in cache.iterdir()] == ["rvrt-bi-vimeo.safetensors"]
    weights = load_weights(path)
    np.testing.assert_array_equal(weights.arrays["conv_last.weight"], published_arrays(3)["conv_last.weight"])
    assert weights.card["name"] == "rvrt-bi-vimeo"
    assert weights.card["source"] == f"{site.url}/{FILE}"
    assert weights.card["scores"]["Vid4"] == [27.99, 0.8462]
    assert find_weights("rvrt-bi-vimeo") == path
    assert pull_weights(find_published("rvrt-bi-vimeo"), url=site.url) == path
    assert len(site.asked) == 2, "what is in the cache is not fetched again"


def test_pull_command_prints_the_license_and_takes_a_file(cache: Path, genuine: Path) -> None:
    before = genuine.read_bytes()
    run = CliRunner().invoke(command, ["pull", "002_RVRT_videosr_bi_Vimeo_14frames", "--from", str(genuine)])
    assert run.exit_code == 0, run.output
    assert "CC-BY-NC-4.0" in run.output
    assert "non-commercial" in run.output
    assert load_weights(cache / "rvrt-bi-vimeo.safetensors").card["source"] == FILE
    assert genuine.read_bytes() == before
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo"])
    assert "already" in run.output


def test_pull_command_downloads_from_a_mirror(site: Site, cache: Path, genuine: Path) -> None:
    site.content = genuine.read_bytes()
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo"], env={"RVRT_WEIGHTS_URL": site.url})
    assert run.exit_code == 0, run.output
    assert run.output.index("non-commercial") < run.output.index(str(cache)), "the license comes first"
    assert (cache / "rvrt-bi-vimeo.safetensors").is_file()


def test_interrupted_pull_command_says_how_to_resume(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvrt_cli.weights.download._CHUNK_BYTES", 100_000)
    monkeypatch.setattr("rvrt_cli.cli.display.LineDisplay.update", _stop_at(1.0))
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo", "--url", site.url])
    assert isinstance(run.exception, WeightsError)
    assert "rvrt weights pull rvrt-bi-vimeo" in str(run.exception)
    assert (cache / f"{FILE}.part").stat().st_size >= 1_000_000


def _stop_at(megabytes: float) -> Callable:
    def update(self: object, done: float, total: float | None, text: str) -> None:
        if done >= megabytes:
            raise KeyboardInterrupt

    return update


@pytest.mark.parametrize("kind", ["page", "other size", "damaged"])
def test_download_of_a_wrong_file_is_deleted(site: Site, cache: Path, tmp_path: Path, genuine: Path, kind: str) -> None:
    if kind == "other size":
        config = RVRTConfig(widths=(36, 36, 36))
        arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
        site.content = checkpoint(tmp_path / "a.pth", arrays).read_bytes()
    else:
        site.content = b"<html>sign in</html>" if kind == "page" else genuine.read_bytes()[:-70_000]
    with pytest.raises(WeightsError, match=r"has been deleted.*--from") as caught:
        pull_weights(find_published("rvrt-bi-vimeo"), url=site.url)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_wrong_file_given_with_from_is_kept(cache: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        pull_weights(find_published("rvrt"), file=wrong)
    assert wrong.read_bytes() == b"<html>"
    assert not (cache / "rvrt-bi-reds.safetensors").exists()


def test_unknown_name_lists_the_published_ones() -> None:
    with pytest.raises(WeightsError, match="rvrt-bi-reds, rvrt-bi-vimeo, rvrt-bd-vimeo"):
        find_published("007_RVRT_videodeblurring_16frames")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [("rvrt-deblur-dvd", "deblur"), ("rvrt-deblur-gopro", "deblur"), ("rvrt-denoise-davis", "denoise")],
)
def test_published_weights_for_restoration_are_pulled(cache: Path, tmp_path: Path, name: str, task: str) -> None:
    entry = find_published(name)
    assert find_published(entry.file) is entry
    assert re.fullmatch(r"00[456]_RVRT_video(deblurring|denoising)_(DVD|GoPro|DAVIS)_16frames\.pth", entry.file)
    shapes = model.parameter_shapes(PRESETS[f"rvrt-{task}"])
    file = checkpoint(tmp_path / entry.file, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    wrong = find_published("rvrt-denoise-davis" if task == "deblur" else "rvrt-deblur-dvd")
    with pytest.raises(WeightsError, match="other sizes"):
        pull_weights(wrong, file=file)
    done = CliRunner().invoke(command, ["pull", name, "--from", str(file)])
    assert done.exit_code == 0, done.output
    how = "restore --sigma auto" if task == "denoise" else "restore"
    assert f"use it with: rvrt {how} --model {name} SOURCE TARGET" in done.output
    weights = load_weights(cache / f"{name}.safetensors")
    assert weights.config == PRESETS[f"rvrt-{task}"]
    assert (weights.card["name"], weights.card["degradation"]) == (name, "noise" if task == "denoise" else "blur")
