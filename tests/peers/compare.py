# SPDX-License-Identifier: Apache-2.0
"""Time rvrt against PyTorch and OpenVINO on the same processor, in turn.

    python3 -m venv peers && peers/bin/pip install -r tests/peers/requirements.txt
    git clone https://github.com/JingyunLiang/RVRT && git clone https://github.com/njulj/RFDN
    python tests/peers/compare.py --peers-python peers/bin/python --rvrt RVRT --rfdn RFDN

Run it with the Python in which rvrt is installed. `--rvrt` compares the published RVRT on one clip: the published code in
PyTorch, the same converted to OpenVINO, and rvrt with the same weights; their outputs are compared too, so all do the same
work. `--rfdn` compares rvrt-tiny with RFDN, a single-image network of about its cost, in OpenVINO.

Each measurement is a process of its own; all sides take turns, once per round. A side's time is the median over the rounds
of each round's median, warmed up and without compiling. Run it on a quiet machine: other programs slow PyTorch, whose threads
wait for one another, several times as much as they slow the others; the column "load" is what they took. Operations are
counted from the architecture, so a fast algorithm such as Winograd's shows as a higher rate.

`--isa avx2` holds all sides to AVX2, except OpenVINO's dense layers that use MLAS, which heeds no setting: the table says
what share of OpenVINO's time is spent in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
RVRT = [sys.executable, "-c", "import sys; from rvrt_cli.cli import main; sys.exit(main())"]
TOLERANCE = 1e-4  # largest difference of two float32 outputs in [0, 1]
# Every library that multiplies has a variable of its own: rvrt; PyTorch's ATen, oneDNN and MKL; OpenVINO's oneDNN.
AVX2_ENVIRONMENT = {
    "RVRT_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
Measurement = dict[str, Any]  # seconds, fastest, peak_mb, gflop, isa, version, other_load


class PeerError(Exception):
    """A process failed; its last line of standard error."""


@dataclass(frozen=True)
class Settings:
    """What all sides of a comparison share.

    Args:
        peers_python: Python of the environment of requirements.txt.
        folder: for weights, converted networks, inputs and outputs.
        repeat: timed calls of each side per round.
        threads: per call; None leaves the choice to each side.
    """

    peers_python: str
    folder: Path
    rounds: int
    repeat: int
    precision: str
    threads: int | None
    isa: str | None

    def run(self, command: list[str]) -> Measurement:
        """Run a process that prints one JSON object.

        Raises:
            PeerError: it fails.
        """
        environment = {**os.environ, **(AVX2_ENVIRONMENT if self.isa == "avx2" else {})}
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        # In its own folder, where no `rvrt_cli` of the working directory is found before the one that is installed
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)
        if done.returncode != 0:
            told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise PeerError(f"{told[-1]} ({command[0]})")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def peer(self, command: str, *arguments: Any) -> Measurement:
        """Run a command of measure_peer.py."""
        return self.run([self.peers_python, str(HERE / "measure_peer.py"), command, *map(str, arguments)])

    @property
    def call_options(self) -> list[str]:
        """Options of measure_peer.py that say how to call a network."""
        options = ["--repeat", str(self.repeat), "--precision", self.precision]
        return options + (["--threads", str(self.threads)] if self.threads else [])

    def bench(self, *arguments: str) -> Measurement:
        """Run `rvrt bench` on the CPU."""
        options = ["--device", "cpu", "--precision", self.precision, "--repeat", str(self.repeat), "--json", "-"]
        report = self.run([*RVRT, "bench", *arguments, *options])
        return {
            "seconds": report["seconds_per_call"],
            "fastest": report["seconds_per_call_min"],
            "peak_mb": report["peak_rss_mb"],
            "gflop": report["gflop_per_call"],
            "isa": report["machine"].get("kernels_isa") or "unknown",
            "version": report["rvrt"],
            "report": report,
        }


def compare_rvrt(settings: Settings, checkout: Path, frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """The published RVRT in rvrt, PyTorch and OpenVINO, on a clip of `frames` frames of `size` (width, height) px."""
    folder, width_height = settings.folder, [str(side) for side in size]
    checkpoint, weights = folder / "checkpoint.pth", folder / "weights.safetensors"
    clip, reference = folder / "clip.npy", folder / "float32.npy"
    outputs = {side: folder / f"{side}.npy" for side in ("rvrt", "PyTorch", "OpenVINO")}
    _say("converting the published network for OpenVINO and for rvrt")
    settings.peer("prepare-rvrt", checkout, folder, "--frames", frames, "--size", *width_height)
    settings.run([*RVRT, "weights", "convert", str(checkpoint), str(weights), "--overwrite"])
    script = [sys.executable, str(HERE / "run_rvrt.py"), str(weights), str(frames), *width_height]
    gflop = settings.run([*script, "float32", str(clip), str(reference)])["gflop"]

    def rvrt() -> Measurement:
        settings.run([*script, settings.precision, str(clip), str(outputs["rvrt"])])
        return settings.bench("--weights", str(weights), "--frames", str(frames), "--size", "x".join(width_height))

    call = settings.call_options
    sides: dict[str, Callable[[], Measurement]] = {
        "rvrt": rvrt,
        "PyTorch": lambda: settings.peer("pytorch", checkout, clip, outputs["PyTorch"], *call),
        "OpenVINO": lambda: settings.peer("openvino", folder / "rvrt.xml", clip, outputs["OpenVINO"], *call),
    }
    result = _take_turns(settings, sides)
    for side, measured in result["sides"].items():
        difference = np.abs(np.load(outputs[side]) - np.load(reference))
        measured |= {"gflop": gflop, "frames": frames, "difference": float(difference.max())}
        if settings.precision == "float32" and not measured["difference"] <= TOLERANCE:
            place = np.unravel_index(difference.argmax(), difference.shape)
            result["failures"].append(f"{side}: output differs from that of rvrt by {difference.max():.1e} at {place}")
    return {"network": f"published RVRT, {frames} frames of {'x'.join(width_height)} px", **result}


def compare_rfdn(settings: Settings, checkout: Path, frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """rvrt-tiny on a clip of `frames` frames of `size` (width, height) px, and RFDN in OpenVINO on one such image."""
    width, height = size
    image = settings.folder / "image.npy"
    np.save(image, np.random.default_rng(0).random((1, height, width, 3), np.float32))
    _say("converting RFDN for OpenVINO")
    gflop = settings.peer("prepare-rfdn", checkout, settings.folder, "--size", width, height)["gflop"]
    files = (settings.folder / "rfdn.xml", image, settings.folder / "rfdn.npy")
    sides: dict[str, Callable[[], Measurement]] = {
        "rvrt-tiny": lambda: (
            settings.bench("--frames", str(frames), "--size", f"{width}x{height}") | {"frames": frames}
        ),
        "RFDN, OpenVINO": lambda: (
            settings.peer("openvino", *files, *settings.call_options) | {"gflop": gflop, "frames": 1}
        ),
    }
    return {"network": f"rvrt-tiny and RFDN, {width}x{height} px", **_take_turns(settings, sides)}


def _take_turns(settings: Settings, sides: dict[str, Callable[[], Measurement]]) -> dict[str, Any]:
    """Measure all sides once per round. A side that fails is left out of later rounds, and reported."""
    measured: dict[str, list[Measurement]] = {side: [] for side in sides}
    failures: list[str] = []
    for number in range(settings.rounds):
        for side in [side for side in sides if len(measured[side]) == number]:
            _say(f"round {number + 1} of {settings.rounds}: {side}")
            try:
                load = _OtherLoad()
                measured[side].append(sides[side]() | {"other_load": load.share()})
            except PeerError as error:
                failures.append(f"{side}: {error}")
    complete = {side: _over_rounds(runs) for side, runs in measured.items() if len(runs) == settings.rounds}
    if settings.isa == "avx2":
        wide = [(side, run["isa"]) for side, run in complete.items() if "avx2" not in run["isa"].lower()]
        failures += [f"{side}: ran on {isa}, not held to AVX2" for side, isa in wide]
    return {"sides": complete, "failures": failures}


def _over_rounds(runs: list[Measurement]) -> Measurement:
    """Median time, fastest call, largest memory and load, and the rest from the last round."""
    seconds = [run["seconds"] for run in runs]
    summary = {"seconds": statistics.median(seconds), "seconds_by_round": seconds}
    largest = {key: max(run[key] for run in runs) for key in ("peak_mb", "other_load")}
    return {**runs[-1], **summary, **largest, "fastest": min(run["fastest"] for run in runs)}


class _OtherLoad:
    """Share of the processors that programs other than this one's children take from now on."""

    def __init__(self) -> None:
        self._start = self._seconds()

    @staticmethod
    def _seconds() -> np.ndarray:
        """Processor time: of all processors together, in use, used by this program's finished children."""
        all_processors, own = psutil.cpu_times(), os.times()
        idle = all_processors.idle + getattr(all_processors, "iowait", 0)
        total = psutil.cpu_count() * time.monotonic()
        return np.array([total, total - idle, own.children_user + own.children_system])

    def share(self) -> float:
        """In [0, 1]; 0 on a quiet machine."""
        total, used, own = self._seconds() - self._start
        return float(np.clip((used - own) / total, 0, 1))


def _print_table(comparison: dict[str, Any], held: bool) -> None:
    """One row per side.

    `rvrt vs.` is the rate of rvrt divided by that of the row, diff. the largest difference from rvrt's float32 output, and
    load what other programs took of the processors. `held`: to AVX2.
    """
    sides = comparison["sides"]
    print(f"\n{comparison['network']}")
    print(
        f"{'':16}{'s/frame':>9}{'s/call':>8}{'fastest':>9}{'GFLOP':>8}{'GFLOP/s':>9}{'rvrt vs.':>10}{'diff.':>7}{'MB':>6}"
        "  load  instruction set"
    )
    rates = {side: run["gflop"] / run["seconds"] for side, run in sides.items()}
    for side, run in sides.items():
        own = next((rate for name, rate in rates.items() if name.startswith("rvrt")), None)
        factor = f"{own / rates[side]:.2f}x" if own else ""
        difference = f"{run['difference']:.0e}" if "difference" in run else ""
        wide = (
            f", {run['wider_than_avx2']:.0%} of the time wider than AVX2" if held and run.get("wider_than_avx2") else ""
        )
        print(
            f"{side:16}{run['seconds'] / run['frames']:9.3f}{run['seconds']:8.3f}{run['fastest']:9.3f}{run['gflop']:8.1f}"
            f"{rates[side]:9.1f}{factor:>10}{difference:>7}{run['peak_mb']:6.0f}{run['other_load']:6.0%}  {run['isa']}{wide}"
        )
    for report in (run["report"] for run in sides.values() if "report" in run):
        print(f"best 2048³ matrix product in the last round of rvrt: {report['gemm_gflops']:.0f} GFLOP/s")
        for note in report["notes"]:
            print(f"note: {note}")
    for failure in comparison["failures"]:
        print(f"failed: {failure}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers-python", type=Path, required=True, metavar="PYTHON", help="Python with PyTorch and OpenVINO."
    )
    parser.add_argument("--rvrt", type=Path, metavar="CHECKOUT", help="Checkout of github.com/JingyunLiang/RVRT.")
    parser.add_argument("--rfdn", type=Path, metavar="CHECKOUT", help="Checkout of github.com/njulj/RFDN.")
    parser.add_argument("--rounds", type=int, default=3, help="Measurements of each side, in turn. [3]")
    parser.add_argument("--repeat", type=int, default=3, help="Timed calls per measurement. [3]")
    parser.add_argument("--threads", type=int, help="Threads of each side. [their own choice, usually all cores]")
    parser.add_argument("--isa", choices=["avx2"], help="Widest instruction set. [the processor's]")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="Of all sides. [float32]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file for the result.")
    parsed = parser.parse_args()
    if parsed.rvrt is None and parsed.rfdn is None:
        parser.error("give --rvrt CHECKOUT, --rfdn CHECKOUT, or both")
    return parsed


def main() -> int:
    """Compare, print and save. 1 if a side failed or its output differs."""
    options = _parse()
    comparisons = []
    shared = {name: getattr(options, name) for name in ("rounds", "repeat", "precision", "threads", "isa")}
    with tempfile.TemporaryDirectory(prefix="rvrt-peers-") as folder:
        settings = Settings(peers_python=str(options.peers_python.absolute()), folder=Path(folder), **shared)
        if options.rvrt is not None:
            comparisons.append(compare_rvrt(settings, options.rvrt.resolve(), frames=4, size=(64, 64)))
        if options.rfdn is not None:
            comparisons.append(compare_rfdn(settings, options.rfdn.resolve(), frames=6, size=(320, 180)))
    for comparison in comparisons:
        _print_table(comparison, held=options.isa == "avx2")
    if options.json is not None:
        options.json.write_text(json.dumps({"settings": shared, "comparisons": comparisons}, indent=2) + "\n")
    return int(any(comparison["failures"] for comparison in comparisons))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PeerError as error:
        sys.exit(f"compare.py: {error}")
