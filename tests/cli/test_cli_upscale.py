# SPDX-License-Identifier: Apache-2.0
"""`rvrt upscale` as a user meets it: real clips, the real network, the real command line.

Calls of the network have 6 frames of 32×24 px wherever the size does not matter: every other size compiles for seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import psutil
import pytest
from helpers import upscale_runs
from helpers.commands import RVRT, refusal, rvrt
from helpers.video_clips import decoded_times, ffmpeg, leftovers, look, read_all

from rvrt_cli.device import certain_device, use_device
from rvrt_cli.model import outline
from rvrt_cli.model.config import PRESETS
from rvrt_cli.model.outline import has_cpu_kernels
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.ops.kernels.build import LIBRARY, SOURCES
from rvrt_cli.options import UpscaleOptions
from rvrt_cli.upscale import Interruption, prepare, run
from rvrt_cli.upscale.job import load_network, outline_network
from rvrt_cli.weights import save_weights

FAST = ["-c:v", "libx264", "-preset", "ultrafast"]


def write_clip(path: Path, size: str = "32x24", frames: int = 6, *encoder: str) -> Path:
    source = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", str(frames)]
    ffmpeg(*source, *encoder, *FAST, "-pix_fmt", "yuv444p", path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of 32×24 px."""
    return write_clip(tmp_path_factory.mktemp("clip") / "in.mp4", frames=10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["upscale", "-x.mp4", "out.mp4"],
            "No such option '-x'; a file of this name is ./-x.mp4; see rvrt upscale --help",
        ),
        (["upscale", "in.mp4"], "Missing argument 'TARGET'; see rvrt upscale --help"),
        (["upscale"], "Missing argument 'SOURCE'; see rvrt upscale --help"),
        (["upscale", "--output-dir", "out"], "Missing argument 'SOURCE'; see rvrt upscale --help"),
        (
            ["upscale", "a.mp4", "b.mp4", "c.mp4"],
            "Got unexpected extra argument (c.mp4); several sources need --output-dir; see rvrt upscale --help",
        ),
        (["upscale", "in.mp4", "out.mp4", "--window", "ten"], "'ten' is not a valid integer; see rvrt upscale --help"),
        (["upscale", "in.mp4", "out.mp4", "--windw", "6"], "No such option '--windw' (Did you mean"),
        (["enlarge"], "No such command 'enlarge'"),
    ],
)
def test_bad_command_lines_are_refused_in_one_line(
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
    good, out = write_clip(tmp_path / "good.mp4"), tmp_path / "out.mp4"
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 50)
    audio = tmp_path / "audio.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", audio)
    small = tmp_path / "small.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=2x2:r=25", "-frames:v", "2", "-c:v", "ffv1", small)
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"precious")
    foreign = tmp_path / "foreign.safetensors"
    _write_foreign_weights(foreign)
    cases = {
        "no such file": (tmp_path / "missing.mp4", out),
        "the source has no name": ("", out),
        "the target has no name": (good, ""),
        "text": (text, out),
        "audio.m4a": (audio, out),
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
        line = refusal(monkeypatch, capsys, "upscale", *arguments)
        assert expected in line, f"{expected!r} is not in: {line}"
    assert sorted(os.listdir(tmp_path)) == before
    assert taken.read_bytes() == b"precious"


def _write_foreign_weights(path: Path) -> None:
    from rvrt_cli.weights import save_weights

    arrays = {"feat_extract.main.1.weight": np.zeros((32, 3, 1, 3, 3), np.float32)}
    card = {"name": "foreign", "trained": True, "degradation": "bi"}
    save_weights(path, arrays, PRESETS["rvrt-tiny"], card)


@pytest.mark.slow
def test_upscaled_video_keeps_frames_timestamps_and_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, target = tmp_path / "a clip's näme.mkv", tmp_path / "out.mkv"
    ffmpeg(  # with an odd timestamp
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=32x24:r=25:d=0.24",
        "-f",
        "lavfi",
        "-i",
        "sine=f=440:d=0.24:r=48000",
        "-vf",
        "setpts='if(gt(N,3),PTS+0.013/TB,PTS)'",
        "-fps_mode",
        "passthrough",
        "-c:a",
        "flac",
        *FAST,
        source,
    )
    assert rvrt(monkeypatch, "upscale", source, target) == 0
    said = capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, target.name])
    assert not os.listdir(), "stray files in the working directory"
    with av.open(str(target)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 96)
    before, after = decoded_times(source), decoded_times(target)
    assert len(after) == 6
    assert max(abs(float(a - b)) for a, b in zip(before, after, strict=True)) < 1.1e-3  # Matroska counts milliseconds
    audio = [next(s for s in look(path) if s.type == "audio") for path in (source, target)]
    assert audio[0].data == audio[1].data
    assert "6 frames in" in said
    if json.loads(_metadata_of_embedded())["card"]["trained"] is False:
        assert "untrained" in said


def _metadata_of_embedded() -> str:
    from safetensors import safe_open

    from rvrt_cli.weights import find_weights

    with safe_open(find_weights("rvrt-tiny"), framework="numpy") as file:
        return file.metadata()["rvrt"]


@pytest.mark.slow
def test_whole_clip_untiled_is_exactly_the_network(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rvrt_cli.weights import find_weights, load_weights

    weights = load_weights(find_weights("rvrt-tiny"))
    config, plain = replace(weights.config, steadying=0, chroma_shrinkage=False), tmp_path / "network.safetensors"
    save_weights(plain, weights.arrays, config, weights.card)
    folder = tmp_path / "frames"
    part = ("--duration", "0.24", "--window", "0", "--tile", "0", "--quiet")
    assert rvrt(monkeypatch, "upscale", clip, folder, "--weights", plain, *part) == 0
    use_device("cpu")
    import mindspore as ms

    from rvrt_cli.model import RVRT

    network = RVRT(config)
    network.load(weights.arrays)
    frames = np.stack([frame.pixels for frame in read_all(clip)[:6]])
    output = network(ms.Tensor(frames[None].astype(np.float32) / 255)).asnumpy()[0]
    expected = np.rint(np.clip(output, 0, 1) * 255).astype(np.uint8)
    files = sorted(folder.iterdir())
    assert len(files) == 6
    for file, wanted in zip(files, expected, strict=True):
        difference = np.abs(iio.imread(file).astype(int) - wanted)
        where = np.unravel_index(difference.argmax(), difference.shape)
        assert difference.max() <= 1, f"{file.name}: off by {difference.max()} levels at {where}"  # rounding of x.5
        assert (difference > 0).mean() < 1e-3


@pytest.mark.slow
def test_scale_size_part_and_streams_of_y4m(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, "upscale", clip, tmp_path / "half", "--scale", "2", "-q", "--duration", "0.2") == 0
    assert [iio.imread(file).shape for file in sorted((tmp_path / "half").iterdir())] == [(48, 64, 3)] * 5
    capfdbinary.readouterr()
    assert rvrt(monkeypatch, "upscale", clip, "-", "--size", "80x60", "--start", "0.2", "--json") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.startswith(b"YUV4MPEG2 W80 H60 ")
    assert captured.out.count(b"FRAME") == 5
    events = [json.loads(line) for line in captured.err.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["begin", "end"] or events[0]["event"] == "note"
    assert events[-1]["frames"] == 5
    [begin] = [event for event in events if event["event"] == "begin"]
    assert list(begin) == [
        "event",
        "frames",
        "width",
        "height",
        "window",
        "lookahead",
        "tile",
        "tiles",
        "device",
        "network",
        "noise",
        "grain",
        "kept",
    ]
    assert {event["event"] for event in events} <= {"note", "begin", "progress", "end"}
    assert all(event["rate"] > 0 and event["seconds_left"] >= 0 for event in events[-2:])
    assert events[-1]["seconds_left"] == 0
    keys = {
        "rate",
        "seconds_left",
        "frames",
        "total",
        "computed",
        "kept",
        "elapsed",
        "network",
        "waiting_for_source",
        "waiting_for_target",
        "notes",
        "warnings",
        "path",
        "scenes",
    }
    assert all(keys <= set(event) for event in events if event["event"] in ("progress", "end"))


def test_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "out.mp4"
    plan_options = ("--dry-run", "--window", "4", "--tile", "32")
    assert rvrt(monkeypatch, "upscale", clip, target, *plan_options) == 0
    said = capsys.readouterr().err
    assert "128x96" in said
    assert "windows of 4 + 2 frames" in said
    assert not target.exists()
    assert rvrt(monkeypatch, "upscale", clip, target, *plan_options, "--quiet") == 0
    shown, nothing = capsys.readouterr()
    assert nothing == ""
    plan, timeless = ([line for line in text.splitlines() if not line.startswith("note: ")] for text in (said, shown))
    assert timeless[:-1] == plan[:-1]
    assert plan[-1].startswith("time: about ")
    assert rvrt(monkeypatch, "upscale", clip, target, *plan_options, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "plan"
    assert (events[-1]["frames"], events[-1]["window"], events[-1]["kept"]) == (10, 4, 0)
    assert events[-1]["seconds"] > 0


@pytest.mark.slow
def test_dry_run_plans_what_the_run_does(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The plan is made without the network; the lines must be those of the network itself."""
    words = ("upscale", clip, tmp_path / "out.mp4", "--device", "cpu", "--window", "4")
    assert rvrt(monkeypatch, *words, "--dry-run") == 0
    planned = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("options ")]
    assert rvrt(monkeypatch, *words) == 0
    done = capsys.readouterr().err.splitlines()
    assert [line for line in done if line.startswith(("source:", "target:", "network:"))] == planned[:3]
    assert len(planned) == 4  # and the time


def test_dry_run_says_what_the_target_drops_and_what_an_earlier_run_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, target = tmp_path / "in.mkv", f"{tmp_path}/out/"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-f", "lavfi", "-i", "sine", "-t", "0.48", *FAST, source)
    words = ("upscale", source, target, "--device", "cpu", "--window", "6")
    job = prepare(source, target, UpscaleOptions(device="cpu", window=6, segment=0))
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt):
        run(job, lambda progress: progress.frames and interruption.request(), interruption)
    assert rvrt(monkeypatch, *words, "--dry-run", "--start", "00:00:00") == 0
    said = capsys.readouterr().err
    assert "note: out: audio is dropped" in said
    assert "time: 6 of 12 frames are done already; about" in said


def test_dry_run_refuses_what_the_run_refuses(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    foreign, misfit = tmp_path / "foreign.safetensors", tmp_path / "misfit.safetensors"
    _write_foreign_weights(foreign)
    config = PRESETS["rvrt-tiny"]
    arrays = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    arrays["conv_last.bias"] = np.ones(7, np.float32)
    save_weights(misfit, arrays, config, {"name": "misfit", "trained": True, "degradation": "bi"})
    for options in (
        ("--weights", foreign),
        ("--weights", misfit),
        ("--model", "nothing-like-it"),
        ("--precision", "float16"),
        ("--device", "ascend"),
        ("--codec", "nocodec"),
        ("--memory", "12"),
    ):
        words = ("upscale", clip, tmp_path / "out.mp4", *options)
        assert refusal(monkeypatch, capsys, *words, "--dry-run") == refusal(monkeypatch, capsys, *words), options


@pytest.mark.slow
def test_dry_run_does_not_import_mindspore(tmp_path: Path, clip: Path) -> None:
    if certain_device() is None or not has_cpu_kernels():
        pytest.skip("an accelerator may be chosen, or the kernels are missing")
    code = "import sys\nfrom rvrt_cli.cli import main\ntry: main()\n"
    code += "except SystemExit as end: sys.exit('mindspore' in sys.modules or end.code)"
    command = [sys.executable, "-c", code, "upscale", str(clip), str(tmp_path / "out.mp4"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "network: rvrt-tiny on cpu" in done.stderr


def test_the_outline_of_a_network_says_what_the_network_says() -> None:
    assert outline._CPU_KERNELS == SOURCES / LIBRARY
    network = load_network(device="cpu")
    found = outline_network(device="cpu")
    assert (found.card, found.config, found.device) == (network.card, network.config, network.device)
    for size in ((16, 100, 180), (2, 8, 8)):
        assert found.memory(*size) == network.memory(*size)
    assert found.state_shapes(24, 32) == network.state_shapes(24, 32)
    cell = {parameter.name: parameter.shape for parameter in network.cell.get_parameters()}
    assert parameter_shapes(network.config) == cell


def test_a_call_of_the_network_tells_how_far_it_is() -> None:
    network, shares = load_network(device="cpu"), []
    network.on_share = shares.append
    try:
        network(np.zeros((1, 6, 24, 32, 3), np.float32), None, 4)
    finally:
        network.on_share = None
    assert shares == sorted(shares)
    assert len(shares) >= 6
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1)


def _run_with_streams_closed(folder: Path, target: str, closed: str, command: tuple[str, ...]) -> int:
    line = " ".join(f'"${number}"' for number in range(len(command)))
    done = subprocess.run(
        ["sh", "-c", f"{line} upscale in.mp4 {target} {closed}", *command], cwd=folder, capture_output=True, check=False
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    return done.returncode


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="closes files as a POSIX shell does")
@pytest.mark.parametrize("closed", ["2>&-", "2</dev/null", "<&- >&- 2>&-"])
def test_closed_standard_streams_stop_nothing(tmp_path: Path, closed: str) -> None:
    """With a network of NumPy; the next test has MindSpore, which prints too."""
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    source = write_clip(folder / "in.mp4", frames=3)
    echo = (sys.executable, upscale_runs.__file__, str(log), "0", "never")
    assert _run_with_streams_closed(folder, "out.mp4", closed, echo) == 0
    if ">&- 2" in closed:
        assert _run_with_streams_closed(folder, "-", closed, echo) == 1
    assert sorted(os.listdir(folder)) == [source.name, "out.mp4"]
    assert len(decoded_times(folder / "out.mp4")) == 3


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="closes files as a POSIX shell does")
def test_closed_standard_streams_do_not_stop_mindspore(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", frames=3)
    assert _run_with_streams_closed(tmp_path, "out.mp4", "<&- >&- 2>&-", RVRT) == 0
    assert sorted(os.listdir(tmp_path)) == [source.name, "out.mp4"], "stray files in the working directory"
    assert len(decoded_times(tmp_path / "out.mp4")) == 3


@pytest.mark.slow
def test_truncated_video_gives_its_readable_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = write_clip(tmp_path / "whole.mp4", "32x24", 20, "-movflags", "+faststart", "-g", "5")
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    data = (tmp_path / "fast.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.7)])
    assert rvrt(monkeypatch, "upscale", cut, tmp_path / "out.mp4", "--window", "4") == 0
    said = capsys.readouterr().err
    frames = len(decoded_times(tmp_path / "out.mp4"))
    assert 0 < frames < 20
    assert f"{20 - frames} " in said
    assert "missing" in said


@pytest.mark.slow
def test_ctrl_c_is_answered_at_once_and_keeps_the_window(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    source, target = write_clip(folder / "in.mp4", "64x48", 40), folder / "out.mp4"
    words = (source, target, "--json", "--window", "2", "--lookahead", "0", "--segment", "400")
    process = upscale_runs.start(tmp_path, *words, seconds=1)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":  # the first window is done, and the second one takes a second
            break
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "stopping":
            break
    assert time.monotonic() - sent < 0.5, "said at once, while the network computes"
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["frames"]) == ("interrupted", last["kept"])
    assert last["kept"] == upscale_runs.computed(tmp_path) >= 4
    assert f"Run the same command to resume after the {last['kept']} frames kept" in err
    assert "Traceback" not in err
    assert not target.exists()
    words = (*words[:3], "--window", "2", "--lookahead", "0", "--segment", "0", "--memory", "3G")  # both may change
    process = upscale_runs.start(tmp_path, *words, seconds=0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["kept"] == last["kept"]
    assert upscale_runs.computed(tmp_path) == len(decoded_times(target)) == 40
    assert leftovers(folder) == []


def test_an_error_is_an_event_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert rvrt(monkeypatch, "upscale", tmp_path / "missing.mp4", tmp_path / "out.mp4", "--json") == 1
    shown, said = capsys.readouterr()
    event = json.loads(shown)
    assert event["event"] == "error"
    assert said == f"rvrt: {event['text']}\n"
    assert "no such file" in said


@pytest.mark.slow
def test_a_second_ctrl_c_exits_at_once_even_while_the_network_computes(tmp_path: Path) -> None:
    source, target = write_clip(tmp_path / "in.mp4", "160x120", 60), tmp_path / "out.mp4"
    process = subprocess.Popen(
        [*RVRT, "upscale", str(source), str(target), "--json", "--window", "0", "--tile", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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
    assert "exited at once" in err
    assert not target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root can write anywhere but on a read-only file system")
def test_a_read_only_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = write_clip(tmp_path / "in.mp4"), tmp_path / "folder"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with monkeypatch.context() as inside:
            inside.chdir(folder)
            assert rvrt(inside, "upscale", source, tmp_path / "out.mp4", "-q") == 0
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert len(decoded_times(tmp_path / "out.mp4")) == 6


@pytest.mark.slow
def test_the_memory_limit_is_kept(tmp_path: Path) -> None:
    """MindSpore, ffmpeg and all stay within the limit and a tenth together at every moment; without it they would not."""
    source = write_clip(tmp_path / "in.mkv", "320x180", 17)  # windows grow with the memory
    peaks = {"1400M": 0, "4G": 0}
    for memory in peaks:
        target = tmp_path / f"{memory}.mkv"
        command = [*RVRT, "upscale", str(source), str(target), "--memory", memory]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None:
                peaks[memory] = max(peaks[memory], sum(map(_rss, _process_tree(run.pid))))
                time.sleep(0.1)  # a call takes seconds
        assert run.returncode == 0
        assert len(decoded_times(target)) == 17
    assert peaks["1400M"] <= 1.1 * 1400 * 2**20, peaks
    assert peaks["4G"] > 1.1 * 1400 * 2**20, peaks


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended
        return 0


def _process_tree(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def test_an_encoder_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write_clip(tmp_path / "in.mkv", "640x360", 2)
    said = refusal(monkeypatch, capsys, "upscale", source, tmp_path / "out.mp4", "--memory", "1G")
    assert "GiB of it is the encoder's: less with --size or --preset ultrafast" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
