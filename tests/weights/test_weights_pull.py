"""Downloads against a real local server: cut, killed, resumed, changed, or not the file at all."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.checkpoint_files import checkpoint, published_arrays

from rvrt_cli import model
from rvrt_cli.cli.weights import weights_group as command
from rvrt_cli.errors import WeightsError
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.weights import find_published, load_weights, pull, resolve
from rvrt_cli.weights.download import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
FILE = "002_RVRT_videosr_bi_Vimeo_14frames.pth"


@dataclass
class Site:
    """What the server does next; `asked` collects Range, If-Range and the byte where each answer began."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    date: str | None = None
    ranges: bool = True
    sized: bool = True
    kind: str = "application/octet-stream"
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections break off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    pause: float = 0.0  # s between pieces of 100 kB
    asked: list[tuple[str | None, str | None, int]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
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
        def do_GET(self):
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

        def log_message(self, *_):
            pass

    return Handler


# ---- one file


def test_a_file_arrives_whole_with_progress(site, tmp_path):
    seen = []
    fetch(f"{site.url}/a", tmp_path / "a.part", lambda have, total: seen.append((have, total)))
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)


def test_cut_connections_are_continued(site, tmp_path):
    site.cuts = [1_000_000, 500_000, 0, 700_000]
    fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert [start for *_, start in site.asked] == [0, 1_000_000, 1_500_000, 1_500_000, 2_200_000]
    assert site.asked[1][:2] == ("bytes=1000000-", '"one"')


def test_a_server_without_ranges_sends_everything_again(site, tmp_path):
    site.ranges = False
    site.cuts = [1_000_000]
    fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert [start for *_, start in site.asked] == [0, 0]


def test_a_server_that_never_gets_further_is_given_up(site, tmp_path):
    site.ranges = False
    site.cuts = [1_000_000] * 50
    with pytest.raises(WeightsError, match=r"cut.*the same command goes on.*--from"):
        fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert len(site.asked) < 10


@pytest.mark.parametrize("how", ["etag", "date", "size alone", "weak etag"])
def test_a_file_that_changed_in_between_is_not_mixed(site, tmp_path, how):
    site.etag = {"etag": '"one"', "weak etag": 'W/"one"'}.get(how)
    site.date = "Wed, 01 Jun 2022 00:00:00 GMT" if how == "date" else None
    site.cuts = [1_000_000] * 4
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01, attempts=1)
    assert 0 < (tmp_path / "a.part").stat().st_size < len(CONTENT)
    site.content = bytes(reversed(CONTENT)) + b"longer"
    site.etag, site.date, site.cuts = site.etag and '"two"', site.date and "Thu, 02 Jun 2022 00:00:00 GMT", []
    fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == site.content


def test_a_file_that_became_shorter_is_fetched_anew(site, tmp_path):
    site.etag, site.cuts = None, [2_000_000]
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01, attempts=1)
    site.content = CONTENT[:1000]
    fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1000]
    assert site.asked[1][2] == 2_000_000, "the server was to answer 416"


def test_a_part_of_another_address_or_of_nobody_is_not_continued(site, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    fetch(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    fetch(f"{site.url}/b", tmp_path / "a.part")
    assert [asked for asked, *_ in site.asked] == [None, None]


def test_a_complete_part_needs_no_request(site, tmp_path):
    fetch(f"{site.url}/a", tmp_path / "a.part")
    fetch(f"{site.url}/a", tmp_path / "a.part")
    assert len(site.asked) == 1


def test_a_download_that_was_killed_goes_on(site, tmp_path):
    part = tmp_path / "a.part"
    site.pause = 0.05
    load = "from pathlib import Path; from rvrt_cli.weights.download import fetch"
    code = f"{load}; fetch({site.url!r} + '/a', Path({str(part)!r}))"
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
    fetch(f"{site.url}/a", part)
    assert part.read_bytes() == CONTENT
    assert site.asked[-1] == (f"bytes={have}-", '"one"', have)


def test_a_file_of_unknown_size_arrives(site, tmp_path):
    site.sized = False
    fetch(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_passing_server_errors_are_waited_for(site, tmp_path):
    site.statuses = [503, 429]
    fetch(f"{site.url}/a", tmp_path / "a.part", wait=0.01)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_missing_file_is_said_at_once(site, tmp_path, status):
    site.statuses = [status] * 3
    with pytest.raises(WeightsError, match=rf"{site.url}/a.*{status}.*--from"):
        fetch(f"{site.url}/a", tmp_path / "a.part", wait=60)
    assert len(site.asked) == 1


def test_a_web_page_instead_of_the_file_is_named(site, tmp_path):
    site.content, site.kind = b"<!DOCTYPE html><html>log in</html>", "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="web page"):
        fetch(f"{site.url}/a", tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_a_web_page_does_not_destroy_what_had_arrived(site, tmp_path):
    site.cuts = [1_000_000]
    with pytest.raises(WeightsError):
        fetch(f"{site.url}/a", tmp_path / "a.part", attempts=1)
    site.kind = "text/html"
    with pytest.raises(WeightsError, match="web page"):
        fetch(f"{site.url}/a", tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1_000_000]


def test_a_silent_server_is_not_waited_for_for_ever(site, tmp_path):
    site.pause = 30
    with pytest.raises(WeightsError, match="timed out"):
        fetch(f"{site.url}/a", tmp_path / "a.part", attempts=1, timeout=0.2)
    site.pause = 0


def test_nobody_listening_and_other_schemes(tmp_path, site):
    with pytest.raises(WeightsError, match=r"refused.*--from"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a.part", wait=0.01)
    secret = tmp_path / "secret"
    secret.write_text("x")
    for url in (secret.as_uri(), "ftp://127.0.0.1/a", "secret"):
        with pytest.raises(WeightsError, match="only http"):
            fetch(url, tmp_path / "a.part")


def test_an_unwritable_cache_is_the_disks_fault(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="RVRT_CACHE"):
        fetch(f"{site.url}/a", tmp_path / "file" / "a.part")


# ---- published weights


@pytest.fixture(scope="module")
def genuine(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("genuine") / FILE, published_arrays(3))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pull_downloads_checks_converts_and_cleans_up(site, cache, genuine):
    site.content = genuine.read_bytes()
    site.cuts = [20_000_000]
    path = pull(find_published("rvrt-bi-vimeo"), url=site.url + "/", wait=0.01)
    assert [file.name for file in cache.iterdir()] == ["rvrt-bi-vimeo.safetensors"]
    weights = load_weights(path)
    np.testing.assert_array_equal(weights.arrays["conv_last.weight"], published_arrays(3)["conv_last.weight"])
    assert weights.card["name"] == "rvrt-bi-vimeo"
    assert weights.card["source"] == f"{site.url}/{FILE}"
    assert weights.card["scores"]["Vid4"] == [27.99, 0.8462]
    assert resolve("rvrt-bi-vimeo") == path
    assert pull(find_published("rvrt-bi-vimeo"), url=site.url) == path
    assert len(site.asked) == 2, "what is in the cache is not fetched again"


def test_the_command_names_the_license_and_takes_a_file(cache, genuine):
    before = genuine.read_bytes()
    run = CliRunner().invoke(command, ["pull", "002_RVRT_videosr_bi_Vimeo_14frames", "--from", str(genuine)])
    assert run.exit_code == 0, run.output
    assert "CC-BY-NC-4.0" in run.output
    assert "non-commercial" in run.output
    assert load_weights(cache / "rvrt-bi-vimeo.safetensors").card["source"] == FILE
    assert genuine.read_bytes() == before
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo"])
    assert "already" in run.output


def test_the_command_downloads_from_a_mirror(site, cache, genuine):
    site.content = genuine.read_bytes()
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo"], env={"RVRT_WEIGHTS_URL": site.url})
    assert run.exit_code == 0, run.output
    assert run.output.index("non-commercial") < run.output.index(str(cache)), "the license comes first"
    assert (cache / "rvrt-bi-vimeo.safetensors").is_file()


def test_stopping_the_command_says_how_to_go_on(site, cache, monkeypatch):
    monkeypatch.setattr("rvrt_cli.weights.download._CHUNK", 100_000)
    monkeypatch.setattr("rvrt_cli.cli.display.LineDisplay.update", _stop_at(1.0))
    run = CliRunner().invoke(command, ["pull", "rvrt-bi-vimeo", "--url", site.url])
    assert isinstance(run.exception, WeightsError)
    assert "rvrt weights pull rvrt-bi-vimeo" in str(run.exception)
    assert (cache / f"{FILE}.part").stat().st_size >= 1_000_000


def _stop_at(megabytes: float):
    def update(self, done, total, text):
        if done >= megabytes:
            raise KeyboardInterrupt

    return update


@pytest.mark.parametrize("kind", ["page", "other size", "damaged"])
def test_a_download_that_is_not_what_was_published_is_thrown_away(site, cache, tmp_path, genuine, kind):
    if kind == "other size":
        config = RVRTConfig(widths=(36, 36, 36))
        arrays = {name: np.ones(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
        site.content = checkpoint(tmp_path / "a.pth", arrays).read_bytes()
    else:
        site.content = b"<html>sign in</html>" if kind == "page" else genuine.read_bytes()[:-70_000]
    with pytest.raises(WeightsError, match=r"thrown away.*--from") as caught:
        pull(find_published("rvrt-bi-vimeo"), url=site.url)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_wrong_file_given_with_from_is_left_alone(cache, tmp_path):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        pull(find_published("rvrt"), file=wrong)
    assert wrong.read_bytes() == b"<html>"
    assert not (cache / "rvrt-bi-reds.safetensors").exists()


def test_an_unknown_name_lists_the_known():
    with pytest.raises(WeightsError, match="rvrt-bi-reds, rvrt-bi-vimeo, rvrt-bd-vimeo"):
        find_published("004_RVRT_videodeblurring_DVD_16frames")
