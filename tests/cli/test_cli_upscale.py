"""`rvrt upscale` as a user meets it: real clips, the real network, the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import psutil
import pytest
from helpers.video_clips import decoded_times, ffmpeg, leftovers, look, read_all

from rvrt_cli.cli import main
from rvrt_cli.device import use_device
from rvrt_cli.model.config import PRESETS

FAST = ["-c:v", "libx264", "-preset", "ultrafast"]


def clip(path: Path, size: str = "32x24", frames: int = 6, *extra: str) -> Path:
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s={size}:r=25",
        *extra,
        "-frames:v",
        str(frames),
        *FAST,
        "-pix_fmt",
        "yuv444p",
        path,
    )
    return path


def rvrt(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["rvrt", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which the command ends, after a non-zero status."""
    assert rvrt(monkeypatch, "upscale", *arguments) != 0
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return lines[0]


def test_help_does_not_import_mindspore() -> None:
    code = """
import sys
from rvrt_cli.cli import main
sys.argv = ["rvrt", "--help"]
try:
    main()
except SystemExit:
    slow = {"mindspore", "av", "imageio"} & set(sys.modules)
    assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "upscale" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["upscale", "-x.mp4", "out.mp4"], "No such option '-x'; a file of this name is ./-x.mp4; see rvrt upscale --help"),
        (["upscale", "in.mp4"], "Missing argument 'TARGET'; see rvrt upscale --help"),
        (["upscale", "in.mp4", "out.mp4", "--window", "ten"], "'ten' is not a valid integer; see rvrt upscale --help"),
        (["upscale", "in.mp4", "out.mp4", "--windw", "6"], "No such option '--windw' (Did you mean"),
        (["enlarge"], "No such command 'enlarge'"),
    ],
)  # fmt: skip
def test_words_that_are_no_command_are_refused_in_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, *words) == 2
    shown, line = capsys.readouterr()
    assert shown == ""
    assert line.startswith("rvrt: ")
    assert line.count("\n") == 1
    assert said in line


def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    good, out = clip(tmp_path / "good.mp4"), tmp_path / "out.mp4"
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 50)
    sound = tmp_path / "sound.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", sound)
    small = tmp_path / "small.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=2x2:r=25", "-frames:v", "2", "-c:v", "ffv1", small)
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"precious")
    foreign = tmp_path / "foreign.safetensors"
    _foreign_weights(foreign)
    cases = {
        "no such file": (tmp_path / "missing.mp4", out),
        "the source has no name": ("", out),
        "the target has no name": (good, ""),
        "text": (text, out),
        "sound.m4a": (sound, out),
        "at least 8x8": (small, out),
        "missing/out.mp4": (good, tmp_path / "missing" / "out.mp4"),
        "--overwrite": (good, taken),
        "good.mp4": (good, good, "--overwrite"),
        "nocodec": (good, out, "--codec", "nocodec"),
        "foreign.safetensors": (good, out, "--weights", foreign),
        "--device cpu": (good, out, "--device", "ascend"),
        "--tile 8": (good, out, "--tile", "8"),
        "--memory": (good, out, "--memory", "12"),
        "--size": (good, out, "--size", "big"),
        "--crf 99": (good, out, "--crf", "99"),
        "--precision float16": (good, out, "--precision", "float16"),
        "rvrt weights": (good, out, "--model", "nothing-like-it"),
    }
    before = sorted(os.listdir(tmp_path))
    for expected, arguments in cases.items():
        line = refusal(monkeypatch, capsys, *arguments)
        assert expected in line, f"{expected!r} is not in: {line}"
    assert sorted(os.listdir(tmp_path)) == before
    assert taken.read_bytes() == b"precious"


def _foreign_weights(path: Path) -> None:
    from rvrt_cli.weights import save_weights

    arrays = {"feat_extract.main.1.weight": np.zeros((32, 3, 1, 3, 3), np.float32)}
    card = {"name": "foreign", "trained": True, "degradation": "bi"}
    save_weights(path, arrays, PRESETS["rvrt-tiny"], card)


@pytest.fixture(scope="module")
def upscaled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A clip with sound and an odd frame time, its enlargement, and what the command said."""
    folder = tmp_path_factory.mktemp("upscaled")
    source, target = folder / "a clip's näme.mkv", folder / "out.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.28", "-f", "lavfi", "-i", "sine=f=440:d=0.28:r=48000",
        "-vf", "setpts='if(gt(N,3),PTS+0.013/TB,PTS)'", "-fps_mode", "passthrough", "-c:a", "flac", *FAST, source,
    )  # fmt: skip
    command = [sys.executable, "-c", "from rvrt_cli.cli import main; main()", "upscale", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(folder)) == sorted([source.name, target.name]), "stray files in the working directory"
    return source, target, done.stderr


def test_upscaled_video_keeps_frames_times_and_sound(upscaled: tuple[Path, Path, str]) -> None:
    source, target, said = upscaled
    with av.open(str(target)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 96)
    before, after = decoded_times(source), decoded_times(target)
    assert len(after) == 7
    assert max(abs(float(a - b)) for a, b in zip(before, after, strict=True)) < 1.1e-3  # Matroska counts milliseconds
    sounds = [next(s for s in look(path) if s.type == "audio") for path in (source, target)]
    assert sounds[0].data == sounds[1].data
    assert "7 frames in" in said
    if json.loads(_metadata_of_embedded())["card"]["trained"] is False:
        assert "untrained" in said


def _metadata_of_embedded() -> str:
    from safetensors import safe_open

    from rvrt_cli.weights import find_weights

    with safe_open(find_weights("rvrt-tiny"), framework="numpy") as file:
        return file.metadata()["rvrt"]


def test_whole_clip_untiled_is_exactly_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = clip(tmp_path / "in.mp4", frames=5), tmp_path / "frames"
    assert rvrt(monkeypatch, "upscale", source, folder, "--window", "0", "--tile", "0", "--quiet") == 0
    use_device("cpu")
    import mindspore as ms

    from rvrt_cli.model import RVRT
    from rvrt_cli.weights import find_weights, load_weights

    weights = load_weights(find_weights("rvrt-tiny"))
    network = RVRT(weights.config)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(weights.arrays[parameter.name]))
    frames = np.stack([frame.pixels for frame in read_all(source)])
    output = network(ms.Tensor(frames.transpose(0, 3, 1, 2)[None].astype(np.float32) / 255)).asnumpy()[0]
    expected = np.rint(np.clip(output, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    files = sorted(folder.iterdir())
    assert len(files) == 5
    for file, wanted in zip(files, expected, strict=True):
        difference = np.abs(iio.imread(file).astype(int) - wanted)
        assert difference.max() <= 1  # rounding of x.5, at most
        assert (difference > 0).mean() < 1e-3


def test_scale_size_part_and_streams_of_y4m(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture
) -> None:
    source = clip(tmp_path / "in.mp4", frames=10)
    assert rvrt(monkeypatch, "upscale", source, tmp_path / "half", "--scale", "2", "-q", "--duration", "0.12") == 0
    assert [iio.imread(file).shape for file in sorted((tmp_path / "half").iterdir())] == [(48, 64, 3)] * 3
    capfdbinary.readouterr()
    assert rvrt(monkeypatch, "upscale", source, "-", "--size", "80x60", "--start", "0.2", "--json") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.startswith(b"YUV4MPEG2 W80 H60 ")
    assert captured.out.count(b"FRAME") == 5
    events = [json.loads(line) for line in captured.err.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "end"] or events[0]["event"] == "note"
    assert events[-1]["frames"] == 5


def test_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, target = clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    assert rvrt(monkeypatch, "upscale", source, target, "--dry-run", "--window", "4", "--tile", "32") == 0
    said = capsys.readouterr().err
    assert "128x96" in said
    assert "windows of 4 + 2 frames" in said
    assert not target.exists()


@pytest.mark.skipif(os.name != "posix", reason="closes files as a POSIX shell does")
@pytest.mark.parametrize("closed", ["2>&-", "2</dev/null", "<&- >&- 2>&-"])
def test_closed_standard_streams_stop_nothing(tmp_path: Path, closed: str) -> None:
    source = clip(tmp_path / "in.mp4", frames=3)
    code = "from rvrt_cli.cli import main; main()"
    command = f'"$0" -c "{code}" upscale in.mp4 "$1" {closed}'
    for target, status in (("out.mp4", 0), ("-", 1)) if ">&- 2" in closed else (("out.mp4", 0),):
        done = subprocess.run(["sh", "-c", command, sys.executable, target], cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")
    assert sorted(os.listdir(tmp_path)) == [source.name, "out.mp4"]
    assert len(decoded_times(tmp_path / "out.mp4")) == 3


def test_truncated_video_gives_its_readable_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = clip(tmp_path / "whole.mp4", "32x24", 20, "-movflags", "+faststart", "-g", "5")
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    data = (tmp_path / "fast.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.7)])
    assert rvrt(monkeypatch, "upscale", cut, tmp_path / "out.mp4") == 0
    said = capsys.readouterr().err
    frames = len(decoded_times(tmp_path / "out.mp4"))
    assert 0 < frames < 20
    assert f"{20 - frames} " in said
    assert "missing" in said


def test_interruption_in_the_first_segment_leaves_nothing(tmp_path: Path) -> None:
    source, target = clip(tmp_path / "in.mp4", "64x48", 400), tmp_path / "out.mp4"
    command = [sys.executable, "-c", "from rvrt_cli.cli import main; main()", "upscale", str(source), str(target)]
    process = subprocess.Popen(
        [*command, "--json", "--window", "2", "--lookahead", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "interrupted after" in err
    assert "Run the same command to start again" in err
    assert "Traceback" not in err
    assert not target.exists()
    assert leftovers(tmp_path) == []


def test_a_second_ctrl_c_ends_at_once_even_while_the_network_computes(tmp_path: Path) -> None:
    source, target = clip(tmp_path / "in.mp4", "160x120", 60), tmp_path / "out.mp4"
    code = "from rvrt_cli.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "upscale", str(source), str(target), "--json", "--window", "0", "--tile", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "begin":
            break
    time.sleep(1.5)  # the network compiles or computes, and one call takes far longer than the test waits
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first one waits for the call"
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - before < 2
    assert process.returncode == 130
    assert "ended at once" in err
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root writes everywhere but on a file system that cannot be written")
def test_a_working_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = clip(tmp_path / "in.mp4", frames=2), tmp_path / "folder"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with monkeypatch.context() as inside:
            inside.chdir(folder)
            assert rvrt(inside, "upscale", source, tmp_path / "out.mp4", "-q") == 0
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert len(decoded_times(tmp_path / "out.mp4")) == 2


def test_memory_is_kept_to(tmp_path: Path) -> None:
    """MindSpore, ffmpeg and all stay within the budget and a tenth together at every moment, as an unplanned run would not."""
    source = clip(tmp_path / "in.mkv", "320x180", 12)
    peaks = dict.fromkeys(("1400M", "4G"), 0)
    for memory in peaks:
        target = tmp_path / f"{memory}.mkv"
        arguments = ["upscale", str(source), str(target), "--memory", memory]
        code = "from rvrt_cli.cli import main; main()"
        with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None:
                peaks[memory] = max(peaks[memory], sum(map(_rss, _tree(run.pid))))
                time.sleep(0.1)  # a call takes seconds
        assert run.returncode == 0
        assert len(decoded_times(target)) == 12
    assert peaks["1400M"] <= 1.1 * 1400 * 2**20, peaks
    assert peaks["4G"] > 1.1 * 1400 * 2**20, peaks


def test_an_encoder_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = clip(tmp_path / "in.mkv", "640x360", 2)
    said = refusal(monkeypatch, capsys, source, tmp_path / "out.mp4", "--memory", "1G")
    assert "GiB of it are the encoder's: less with --size or --preset ultrafast" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended
        return 0


def _tree(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []
