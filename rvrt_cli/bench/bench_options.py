# SPDX-License-Identifier: Apache-2.0
"""Options of `rvrt bench`; no MindSpore or NumPy import."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import (
    DEVICE_HELP,
    MAX_NOISE,
    PRECISION_HELP,
    PRECISIONS,
    RUNTIMES,
    SMALLEST_FRAME,
    UpscaleOptions,
    check_choice,
    parse_device,
    parse_size,
    setting,
)

NOISE_PROTOCOLS = ("set8", "davis")
RESTORATION_PROTOCOLS = ("gopro", "dvd", *NOISE_PROTOCOLS)
PROTOCOLS = ("vimeo90k-t", "vid4", "reds4", "udm10", *RESTORATION_PROTOCOLS, "clips")
DEFAULT_SIGMA = 50.0  # levels of 255
# MATLAB's bicubic; blur and decimation; bicubic, then H.264; bicubic, then each degradation of the mix
TEST_DEGRADATIONS = ("bi", "bd", "video", "real")
RANDOM = "random"  # in place of a weights file


@dataclass(frozen=True)
class BenchOptions:
    """Options of `rvrt bench`; every field is one command-line option.

    Raises:
        OptionError: a value cannot be used, or one belongs to speed and another to quality.
    """

    model: str = setting(UpscaleOptions.model, "Weights to measure; see `rvrt weights list`.", metavar="NAME")
    weights: str | None = setting(
        None,
        "Weights file to use in place of --model; 'random' measures the speed of a preset without its weights.",
        metavar="FILE",
    )
    runtime: str = setting(
        "mindspore", "With onnx, time the exported network in ONNX Runtime too, beside MindSpore.", choices=RUNTIMES
    )
    device: str = setting(UpscaleOptions.device, DEVICE_HELP, metavar="DEVICE")
    precision: str = setting(
        UpscaleOptions.precision,
        PRECISION_HELP,
        choices=PRECISIONS,
    )
    frames: int = setting(14, "Frames per call.")
    size: str = setting("112x64", "Frame size before upscaling [px].", metavar="WIDTHxHEIGHT")  # Vimeo-90K's LR size
    repeat: int = setting(5, "Timed calls, after the warm-up.")
    pipeline: str | None = setting(
        None, "Video for a timing of the whole `rvrt upscale`, decoding and encoding included.", metavar="VIDEO"
    )
    training: bool = setting(False, "Time a whole training step of the network too.")
    kernels: bool = setting(
        False,
        "Time each C++ kernel too: its rate, convolutions counted as direct ones, and its time against its MindSpore "
        "definition's.",
    )
    sweep: bool = setting(False, "Measure other frame counts and frame sizes too: how time and memory grow.")
    protocol: str | None = setting(None, "Quality protocol; without one, speed is measured.", choices=PROTOCOLS)
    data: str | None = setting(
        None, "Folder of the test set.", metavar="FOLDER", shown="the sample clip, for --protocol clips"
    )
    degradation: str | None = setting(
        None, "Degradation of the low-resolution frames.", choices=TEST_DEGRADATIONS, shown="bi; bd for udm10"
    )
    sigma: float | None = setting(
        None, "Standard deviation of the noise, for set8 and davis [levels of 255].", shown=f"{DEFAULT_SIGMA:g}"
    )
    limit: int | None = setting(None, "Clips to sample, spread evenly over the set.", shown="all of them")
    save: str | None = setting(None, "Folder for the upscaled frames, as PNG.", metavar="FOLDER")
    vmaf: bool = setting(False, "Compute VMAF too, with ffmpeg's libvmaf.")
    force: bool = setting(False, "Score weights on data that they were not trained for.")

    def __post_init__(self) -> None:
        parse_device(self.device)
        check_choice("--precision", self.precision, PRECISIONS)
        if self.training and self.precision == "bfloat16":
            raise OptionError("--training: networks are not trained in bfloat16; leave it out, or --precision bfloat16")
        if self.kernels and self.precision == "bfloat16":
            raise OptionError("--kernels: measures float32; leave it out, or --precision bfloat16")
        if self.frames < 1:
            raise OptionError(f"--frames {self.frames}: give 1 or more")
        if self.repeat < 1:
            raise OptionError(f"--repeat {self.repeat}: give 1 or more")
        if min(self.width_height) < SMALLEST_FRAME:
            raise OptionError(f"--size {self.size}: the network needs at least {SMALLEST_FRAME}x{SMALLEST_FRAME} px")
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit {self.limit}: give 1 clip or more")
        if self.protocol is None:
            self._check_speed()
        else:
            self._check_quality(self.protocol)

    def _check_speed(self) -> None:
        check_choice("--runtime", self.runtime, RUNTIMES)
        if self.runtime == "onnx" and self.weights == RANDOM:
            raise OptionError("--weights random: no file to export; give a weights file, or omit --runtime onnx")
        if self.runtime == "onnx" and self.frames % 2:
            raise OptionError(
                f"--frames {self.frames}: exported windows are whole clips of 2 frames; give an even number"
            )
        for name in ("data", "degradation", "sigma", "limit", "save", "vmaf", "force"):
            if getattr(self, name):
                raise OptionError(f"--{name}: measures quality; choose a --protocol of {', '.join(PROTOCOLS)}")

    def _check_quality(self, protocol: str) -> None:
        check_choice("--protocol", protocol, PROTOCOLS)
        for name in ("pipeline", "training", "kernels", "sweep"):
            if getattr(self, name):
                raise OptionError(f"--{name}: measures speed; omit --protocol")
        if self.runtime == "onnx":
            raise OptionError("--runtime onnx: compares speed; omit it, or --protocol")
        if self.weights == RANDOM:
            raise OptionError("--weights random: measures speed only; name a --model, or give a weights file")
        if self.degradation is not None:
            check_choice("--degradation", self.degradation, TEST_DEGRADATIONS)
        if self.degradation is not None and protocol in RESTORATION_PROTOCOLS:
            raise OptionError(f"--degradation {self.degradation}: --protocol {protocol} has its own; omit it")
        if self.sigma is not None and (protocol not in NOISE_PROTOCOLS or not 0 < self.sigma <= MAX_NOISE):
            raise OptionError(f"--sigma {self.sigma:g}: give 1 to {MAX_NOISE}, with --protocol set8 or davis")
        if self.degradation in ("video", "real") and protocol != "clips":
            raise OptionError(f"--degradation {self.degradation}: for --protocol clips only; choose bi or bd")
        if self.data is None and protocol != "clips":
            raise OptionError(f"--protocol {protocol}: give its folder with --data FOLDER, or choose --protocol clips")

    @property
    def width_height(self) -> tuple[int, int]:
        """`size` in px."""
        try:
            size = parse_size(self.size)
        except OptionError:
            size = 0
        if isinstance(size, int):
            raise OptionError(f"--size {self.size!r}: write WIDTHxHEIGHT such as 112x64")
        return size
