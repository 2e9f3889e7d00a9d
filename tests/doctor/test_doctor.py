# SPDX-License-Identifier: Apache-2.0
"""`rvrt doctor`, `rvrt cache` and `rvrt completion`."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import click
import pytest
from helpers.commands import rvrt

from rvrt_cli.cli import cli
from rvrt_cli.cli.completion import SHELLS
from rvrt_cli.device import use_device
from rvrt_cli.doctor import machine_report
from rvrt_cli.doctor.cache_contents import clear_cache
from rvrt_cli.doctor.machine_report import examine
from rvrt_cli.errors import RvrtError
from rvrt_cli.ops import kernels
from rvrt_cli.options import usable_cores
from rvrt_cli.version import __version__


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with something of each kind, and files that are not the cache's."""
    folder = tmp_path / "cache"
    for name, size in (
        ("compiled-stages/a/stage.bin", 3_000_000),
        ("cuda-kernels/b.ptx", 10),
        ("bench/c.jsonl", 20),
        ("rvrt-bi-vimeo.safetensors", 2_000_000),
        ("notes.txt", 5),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    monkeypatch.setenv("RVRT_CACHE", str(folder))
    return folder


def test_report_names_what_there_is(cache: Path) -> None:
    report = examine()
    assert report["rvrt"] == __version__
    assert report["devices"]["chosen"] == "cpu"
    assert set(report["devices"]["missing"]) == {"gpu", "ascend"}
    assert report["processor"]["usable_cores"] == usable_cores()
    assert report["packages"]["numpy"].startswith("1.")
    assert "libx264" in report["ffmpeg"]["encoders"]
    assert report["cache"]["parts"]["weights"] == {"files": 1, "bytes": 2_000_000}
    assert 0 < report["memory"]["free"] <= report["memory"]["total"]


def test_advice_names_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVRT_ISA", "portable")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine_report, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine_report, "host_free_bytes", lambda: 1 << 29)
    monkeypatch.setattr(machine_report, "has_filter", lambda name: False)
    advice = "\n".join(examine()["advice"])
    for part in ("unset it", "OMP_NUM_THREADS allows 1 of 8", "only 0.5 GiB", "no zscale", "no libvmaf"):
        assert part in advice


def test_what_is_missing_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: str) -> None:
        raise RvrtError("MindSpore is too old; install 2.10")

    def version(package: str) -> str:
        if package == "safetensors":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    missing = {"gpu": "MindSpore finds no GPU; see docs/devices.md", "ascend": None}
    monkeypatch.setattr(machine_report, "use_device", refuse)
    monkeypatch.setattr(machine_report.metadata, "version", version)
    monkeypatch.setattr(machine_report, "video_encoders", lambda: {"libsvtav1": "AV1"})
    monkeypatch.setattr(machine_report, "missing_accelerators", lambda kind: missing)
    monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(kernels, "problem", lambda: "no C++ compiler found; install g++")
    report = examine()
    assert report["packages"]["safetensors"] is None
    for line in ("MindSpore is too old; install 2.10", "no C++ compiler found; install g++"):
        assert line in report["advice"]
    assert any("this ffmpeg has no libx264, the default encoder" in line for line in report["advice"])
    monkeypatch.setattr(machine_report, "use_device", use_device)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: path == Path("/dev/nvidiactl"))
        advice = examine()["advice"]
    assert "gpu: MindSpore finds no GPU; see docs/devices.md" in advice


def test_a_broken_installation_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(device: str) -> None:
        raise ImportError("libmindspore.so: cannot open shared object file")

    monkeypatch.setattr(machine_report, "use_device", fail)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    report = examine()
    assert report["devices"]["chosen"] is None
    assert "libmindspore.so" in report["devices"]["problem"]
    assert report["ffmpeg"]["program"] is None
    assert "IMAGEIO_FFMPEG_EXE" in "\n".join(report["advice"])


def test_doctor_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, cache: Path) -> None:
    assert rvrt(monkeypatch, "doctor") == 0
    shown = capsys.readouterr().out
    for name in ("processor", "memory", "device", "kernels", "ffmpeg", "encoders", "cache", "numpy"):
        assert name in shown
    assert rvrt(monkeypatch, "doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["devices"]["chosen"] == "cpu"
    assert isinstance(report["advice"], list)


def test_cache_is_listed_and_cleared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, cache: Path
) -> None:
    assert rvrt(monkeypatch, "cache", "list") == 0
    shown = capsys.readouterr().out
    assert "3.0 MB  compiled-stages" in shown
    assert "2.0 MB  weights" in shown
    assert rvrt(monkeypatch, "cache", "clear") == 0
    assert "removed compiled-stages, 3.0 MB" in capsys.readouterr().out
    assert sorted(path.name for path in cache.iterdir()) == ["notes.txt", "rvrt-bi-vimeo.safetensors"]
    assert rvrt(monkeypatch, "cache", "clear", "--weights") == 0
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]
    assert rvrt(monkeypatch, "cache", "clear") == 0
    assert capsys.readouterr().out.endswith("nothing to remove\n")


def test_a_missing_cache_folder_is_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("RVRT_CACHE", str(tmp_path / "none"))
    assert rvrt(monkeypatch, "cache", "clear") == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_cannot_be_removed_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(RvrtError, match="compiled-stages: cannot be removed"):
        clear_cache()


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_script(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert rvrt(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    assert "_RVRT_COMPLETE" in script
    program = shutil.which(shell)
    if program:  # it is at least correct syntax
        check = [program, "-n"] if shell != "fish" else [program, "--no-execute"]
        assert subprocess.run(check, input=script.encode(), check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "current", "expected"),
    [
        ("rvrt up", 1, "plain,upscale"),
        ("rvrt upscale --dev", 2, "plain,--device"),
        ("rvrt upscale in", 2, "file,in"),
        ("rvrt completion z", 2, "plain,zsh"),
        ("rvrt upscale --weights x", 3, "file,x"),
        ("rvrt upscale --output-dir x", 3, "file,x"),
        ("rvrt upscale a.mp4 b.mp4 x", 4, "file,x"),
    ],
)
def test_tab(
    words: str, current: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("_RVRT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(current))
    rvrt(monkeypatch)
    assert expected in capsys.readouterr().out.splitlines()


def test_every_file_option_completes_file_names() -> None:
    def parameters(command: click.Command) -> list[click.Parameter]:
        inside = command.commands.values() if isinstance(command, click.Group) else ()
        return [*command.params, *(parameter for part in inside for parameter in parameters(part))]

    plain = [item.name for item in parameters(cli) if "FILE" in (item.metavar or "") and item.type is click.STRING]
    assert not plain
