"""Options of `rvrt bench`; no MindSpore import."""

from __future__ import annotations

from dataclasses import dataclass

from rvrt_cli.errors import OptionError
from rvrt_cli.options import DEVICES, PRECISIONS, UpscaleOptions, parse_size

PROTOCOLS = ("vimeo90k-t", "vid4", "reds4", "udm10", "clips")
DEGRADATIONS = ("bi", "bd", "video")  # MATLAB's bicubic; blur and decimation; bicubic, then H.264
RANDOM = "random"  # in place of a weights file
SMALLEST = 8  # px, one attention window


@dataclass(frozen=True)
class BenchOptions:
    """What `rvrt bench` measures; every field is one command-line option.

    Raises:
        OptionError: a value cannot be used, or one belongs to speed and another to quality.
    """

    model: str = UpscaleOptions.model
    weights: str | None = None  # a file, or "random" for speed alone
    device: str = UpscaleOptions.device
    precision: str = UpscaleOptions.precision
    frames: int = 14  # of one call
    size: str = "112x64"  # LR px, WIDTHxHEIGHT: Vimeo-90K's 64 rows of 112 px
    repeat: int = 5  # calls that are timed, after warm-up
    pipeline: str | None = None  # a video for the whole of `rvrt upscale`
    training: bool = False  # a training step too
    kernels: bool = False  # each kernel against its definition too
    sweep: bool = False  # other numbers of frames and frame sizes too
    protocol: str | None = None  # quality in place of speed
    data: str | None = None
    degradation: str | None = None  # of the data; None: the protocol's own
    limit: int | None = None  # clips
    save: str | None = None  # folder for the enlarged frames
    vmaf: bool = False
    force: bool = False  # weights of another degradation than the data's

    def __post_init__(self) -> None:
        _one_of("--device", self.device, DEVICES)
        _one_of("--precision", self.precision, PRECISIONS)
        if self.frames < 1:
            raise OptionError(f"--frames {self.frames}: give 1 or more")
        if self.repeat < 1:
            raise OptionError(f"--repeat {self.repeat}: give 1 or more")
        if min(self.width_height) < SMALLEST:
            raise OptionError(f"--size {self.size}: the network needs {SMALLEST}x{SMALLEST} px at least")
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit {self.limit}: give 1 clip or more")
        if self.protocol is None:
            self._check_speed()
        else:
            self._check_quality(self.protocol)

    def _check_speed(self) -> None:
        for name in ("data", "degradation", "limit", "save", "vmaf", "force"):
            if getattr(self, name):
                raise OptionError(f"--{name}: belongs to quality; choose a --protocol of {', '.join(PROTOCOLS)}")

    def _check_quality(self, protocol: str) -> None:
        _one_of("--protocol", protocol, PROTOCOLS)
        for name in ("pipeline", "training", "kernels", "sweep"):
            if getattr(self, name):
                raise OptionError(f"--{name}: belongs to speed; leave out --protocol")
        if self.weights == RANDOM:
            raise OptionError("--weights random: good for speed only; name a --model, or give a weights file")
        if self.degradation is not None:
            _one_of("--degradation", self.degradation, DEGRADATIONS)
        if self.degradation == "video" and protocol != "clips":
            raise OptionError("--degradation video: only --protocol clips has it; choose bi or bd")
        if self.data is None and protocol != "clips":
            raise OptionError(f"--protocol {protocol}: give its folder with --data DIR; without data there is clips")

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


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{option} {value!r}: choose one of {', '.join(allowed)}")
