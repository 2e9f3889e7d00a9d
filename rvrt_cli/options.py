# SPDX-License-Identifier: Apache-2.0
"""Options of the commands: frozen dataclasses that validate themselves; the single source of defaults and help texts.

No MindSpore or NumPy import: `rvrt --help` reads everything it prints from here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

from rvrt_cli.errors import OptionError

DEVICES = ("auto", "cpu", "gpu", "ascend")
DEVICE_HELP = "Device that runs the network: auto, cpu, gpu or ascend; gpu:1 is the second GPU."
AUTO = "auto"
RUNTIMES = ("mindspore", "onnx")
RUNTIME_HELP = (
    "What runs the network: mindspore, or onnx for ONNX Runtime, which takes the names of its providers as --device too; auto is "
    "onnx for --weights FILE.onnx and where MindSpore is missing."
)
PRECISIONS = ("float32", "float16", "bfloat16")
PRECISION_HELP = (
    "Floating-point precision of the network; float16 needs a GPU or NPU, bfloat16 a CPU with AMX or AVX512-BF16."
)
_NAMED_SIZES = {"4k": 2160, "uhd": 2160, "8k": 4320}  # the shorter side [px]
ISA_NAMES = ("portable", "avx2", "avx512")  # values of RVRT_ISA, from low to high as in ops/kernels/kernel.h
NATIVE_SCALE = 4
SMALLEST_FRAME = 8  # px of a network's features, both ways: one attention window
CONTAINERS = ("mp4", "mov", "mkv", "webm")
MAX_NOISE = 50  # levels of 255; what the published network for denoising was trained for
_MAX_COUNT = 1_000_000  # frames or px that any option may ask for


def setting(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    shown: str | None = None,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], Any] | None = None,
    negatable: bool = False,
) -> Any:
    """A dataclass field that is one command-line option, `--like-this` for `like_this`.

    `rvrt_cli.cli.generated_options` builds the option from it.

    Args:
        help: a noun phrase that stands alone (an imperative for a flag), with its unit in square brackets.
        metavar: placeholder for the value in the help text; by default the name of its type.
        shown: the default as people write it, where `default` itself is not that ("all cores" for 0).
        choices: the values that are allowed; empty for any.
        parse: from the text on the command line to the value, where that takes more than its type; raises OptionError.
        negatable: a flag that can be set elsewhere too, so that there is a `--no-like-this`.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "shown": shown,
        "choices": choices,
        "parse": parse,
        "negatable": negatable,
    }
    return field(default=default, metadata=metadata)


def parse_time(text: str) -> float:
    """Seconds of "90", "1:30" or "00:01:30.5".

    Raises:
        OptionError: another form, or minutes or seconds of 60 and more after a colon.
    """
    match = re.fullmatch(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d{0,9})?)", text.strip(), re.ASCII)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, math.nan)
    if not match or (match[2] and seconds >= 60) or (match[1] and minutes >= 60):
        raise OptionError(f"{text!r} is not a time; write seconds, such as 90 or 1.5, or HH:MM:SS, such as 00:01:30")
    return 3600 * hours + 60 * minutes + seconds


@dataclass(frozen=True)
class JobOptions:
    """Options that `rvrt upscale` and `rvrt restore` share; every field is one command-line option.

    Frames and pixels are counted at the source's own size ("LR" pixels) unless a field says otherwise.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    model: str = setting("rvrt-tiny", "Weights to use; see `rvrt weights list`.", metavar="NAME")
    weights: str | None = setting(None, "Weights file to use in place of --model.", metavar="FILE")
    device: str = setting("auto", DEVICE_HELP, metavar="DEVICE")
    precision: str = setting(
        "float32",
        PRECISION_HELP,
        choices=PRECISIONS,
    )
    window: int | None = setting(  # None: planned from the memory
        None, "Frames per window; 0: the whole clip in one window.", shown="as many as memory allows, up to 14"
    )
    lookahead: int = setting(2, "Future frames that the recurrence of each window sees; frame fusion may see more.")
    tile: int | None = setting(  # None: planned from the memory
        None, "Longest tile edge, at the source's size [px]; 0: untiled.", shown="as large as memory allows"
    )
    overlap: int = setting(16, "Overlap between neighboring tiles [px].")
    memory: str | None = setting(None, "Memory limit, such as 4G.", metavar="SIZE", shown="most of the free memory")
    start: float = setting(
        0.0, "Start of the part to process, such as 90 or 00:01:30 [s].", metavar="TIME", shown="0", parse=parse_time
    )
    duration: float | None = setting(
        None, "Duration of the part to process [s].", metavar="TIME", shown="to the end", parse=parse_time
    )
    fps: str | None = setting(
        None, "Frame rate of a sequence of images, such as 25 or 30000/1001 [frames/s].", metavar="RATE", shown="24"
    )
    deinterlace: bool = setting(False, "Deinterlace the source first.", negatable=True)
    ivtc: bool = setting(
        False,
        "Undo the telecine of film at 29.97 frames/s first (inverse telecine), to 23.976 frames/s.",
        negatable=True,
    )
    strength: float = setting(
        1.0, "Share of the network's result [0 to 1]; the rest is the source, enlarged by bicubic interpolation."
    )
    grain: float = setting(
        0.0, "Share of the source's grain that is added to the result [0 to 1]; as strong as it is measured, in luma."
    )
    codec: str | None = setting(
        None, "Video encoder, by its ffmpeg name.", metavar="NAME", shown="libx264, or libvpx-vp9 for .webm"
    )
    crf: int | None = setting(None, "Encoder quality (CRF), from 0 to 63; lower is better.")
    quality: int | None = setting(None, "Quality for any encoder, from 1 to 100 (best), in place of --crf.", shown="75")
    lossless: bool = setting(False, "Encode without loss, where the encoder can.", negatable=True)
    encoder_option: tuple[str, ...] = setting(
        (), "Option of the encoder by its ffmpeg name, such as aq-mode=3; may be repeated.", metavar="KEY=VALUE"
    )
    preset: str | None = setting(None, "Encoder speed preset, such as fast.", metavar="NAME")
    pix_fmt: str | None = setting(None, "Encoder pixel format, such as yuv420p10le.", metavar="NAME")
    overwrite: bool = setting(False, "Replace an existing target.")
    segment: float = setting(
        60.0, "Work after which what is done is kept, so that an interrupted run resumes from it; 0: each window [s]."
    )
    ranks: int = setting(
        1, "Worker processes on all machines; scenes are distributed among them, so one long scene occupies one."
    )
    local_ranks: int = setting(0, "Worker processes on this machine.", shown="all")
    node: int = setting(0, "Number of this machine; the --master machine is 0.")
    master: str | None = setting(
        None,
        "Address where the worker processes of several machines meet; they share the folders of SOURCE and TARGET.",
        metavar="HOST:PORT",
    )

    def __post_init__(self) -> None:
        if self.uses_mindspore:
            parse_device(self.device)  # those of ONNX Runtime are known only to itself
        check_choice("--precision", self.precision, PRECISIONS)
        self._check_windows()
        check_excerpt(self.start, self.duration)
        for name, value in (("strength", self.strength), ("grain", self.grain)):
            if not 0 <= value <= 1:
                raise OptionError(f"--{name} {value}: give 0 to 1")
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise OptionError(f"--crf {self.crf}: give 0 (best) to 63")
        if self.ivtc and self.deinterlace:
            raise OptionError("--ivtc: contradicts --deinterlace; give one of them")
        self._check_quality()
        check_ranks(self.ranks, self.local_ranks, self.node, self.master)
        self.memory_bytes  # noqa: B018  validates
        self.frame_rate  # noqa: B018

    def _check_windows(self) -> None:
        for name in ("window", "lookahead", "tile", "overlap"):
            if (getattr(self, name) or 0) > _MAX_COUNT:
                raise OptionError(f"--{name} {getattr(self, name)}: give {_MAX_COUNT} or less")
        if self.window is not None and self.window < 0:
            raise OptionError(f"--window {self.window}: give a number of frames, or 0 for the whole clip")
        if self.lookahead < 0:
            raise OptionError(f"--lookahead {self.lookahead}: give a number of frames, 0 or more")
        if self.tile is not None and self.tile != 0 and self.tile < 32:
            raise OptionError(f"--tile {self.tile}: give 32 px or more, or 0 for untiled")
        if self.overlap < 0:
            raise OptionError(f"--overlap {self.overlap}: give 0 px or more")
        if self.tile and self.overlap > self.tile // 2:
            raise OptionError(f"--overlap {self.overlap}: at most half of --tile {self.tile}")
        if not 0 <= self.segment < math.inf:
            raise OptionError(f"--segment {self.segment}: give seconds of work, or 0 to keep each window")

    def _check_quality(self) -> None:
        object.__setattr__(self, "encoder_option", tuple(self.encoder_option))  # JSON has lists
        self.encoder_options  # noqa: B018  validates
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError(f"--quality {self.quality}: give 1 to 100 (best)")
        given = {"--crf": self.crf is not None, "--quality": self.quality is not None, "--lossless": self.lossless}
        names = [name for name, there in given.items() if there]
        if len(names) > 1:
            raise OptionError(f"{names[0]}: contradicts {' and '.join(names[1:])}; give one of them")

    @property
    def encoder_options(self) -> dict[str, str]:
        """`encoder_option` as values by name."""
        return parse_encoder_options(self.encoder_option)

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes; None when no limit is given."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def frame_rate(self) -> Fraction | None:
        """`fps` in frames/s; None when it is not given."""
        return None if self.fps is None else parse_frame_rate(self.fps)

    @property
    def ranks_here(self) -> int:
        """Ranks on this machine."""
        return self.local_ranks or self.ranks

    @property
    def uses_mindspore(self) -> bool:
        """Whether the network runs in MindSpore."""
        return True

    @property
    def network_scale(self) -> int:
        """Output px per px of the source that the network has to have."""
        raise NotImplementedError

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) px of the output for a source of `width` x `height` px."""
        raise NotImplementedError


@dataclass(frozen=True)
class UpscaleOptions(JobOptions):
    """Options of `rvrt upscale`.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    scale: int = setting(NATIVE_SCALE, "Scale factor: 2, 3 or 4; for 2 and 3 the 4x result is downscaled.")
    size: str | None = setting(
        None,
        "Output size in place of --scale: 1920x1080, or the shorter side, such as 1080p or 4K (2160p) [px].",
        metavar="SIZE",
    )
    runtime: str = setting(AUTO, RUNTIME_HELP, choices=(AUTO, *RUNTIMES))

    def __post_init__(self) -> None:
        check_choice("--runtime", self.runtime, (AUTO, *RUNTIMES))
        super().__post_init__()
        if not self.uses_mindspore:
            self._check_onnx()
        if self.scale not in (2, 3, 4):
            raise OptionError(f"--scale {self.scale}: the network upscales 4 times; choose 2, 3 or 4")
        if self.size is not None:
            parse_size(self.size)

    def _check_onnx(self) -> None:
        if self.window == 0:
            raise OptionError("--window 0: an exported model has windows of a fixed length; give their frames")
        if self.master is not None:
            raise OptionError(f"--master {self.master}: several machines meet through MindSpore; omit it")

    @property
    def uses_mindspore(self) -> bool:
        """See `JobOptions`."""
        if self.runtime != AUTO:
            return self.runtime == "mindspore"
        return not (self.weights or "").endswith(".onnx") and find_spec("mindspore") is not None

    @property
    def network_scale(self) -> int:
        """See `JobOptions`."""
        return NATIVE_SCALE

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """See `JobOptions`."""
        if self.size is None:
            return width * self.scale, height * self.scale
        wanted = parse_size(self.size)
        if not isinstance(wanted, int):
            return wanted
        longer = max(2, round(wanted * max(width, height) / min(width, height) / 2) * 2)  # the aspect is kept, but even
        return (longer, wanted) if width >= height else (wanted, longer)


@dataclass(frozen=True)
class RestoreOptions(JobOptions):
    """Options of `rvrt restore`.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    model: str = setting("rvrt-deblur-gopro", "Weights to use; see `rvrt weights list`.", metavar="NAME")
    overlap: int = setting(64, "Overlap between neighboring tiles [px].")
    sigma: str | None = setting(
        None,
        "Standard deviation of the noise, for denoising [0 to 50 of 255 levels]; auto estimates it from the frames.",
        metavar="LEVELS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise_levels  # noqa: B018  validates

    @property
    def network_scale(self) -> int:
        """See `JobOptions`."""
        return 1

    @property
    def noise_levels(self) -> float | None:
        """`sigma` as a number; None where it is to be estimated, or not given.

        Raises:
            OptionError: neither a number in the range nor auto.
        """
        if self.sigma in (None, AUTO):
            return None
        try:
            value = float(self.sigma)
        except ValueError:
            value = math.nan
        if not 0 <= value <= MAX_NOISE:
            raise OptionError(f"--sigma {self.sigma}: give 0 to {MAX_NOISE} (levels of 255), or {AUTO}")
        return value

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """See `JobOptions`."""
        return width, height


@dataclass(frozen=True)
class QueueOptions:
    """Options of `rvrt upscale` and `rvrt restore` for several sources.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    output_dir: str | None = setting(None, "Folder for the targets of several sources; see above.", metavar="FOLDER")
    suffix: str = setting("", "Text between a target's name and its file type, such as -x4.", metavar="TEXT")
    container: str | None = setting(
        None,
        "File type of the videos in --output-dir.",
        shown="as the source where it can be written, else mkv",
        choices=CONTAINERS,
    )
    recursive: bool = setting(False, "Search folders below those named as SOURCE, too.")
    skip_existing: bool = setting(False, "Skip sources whose target exists, whatever it is.")

    def __post_init__(self) -> None:
        if self.output_dir is None:
            for name in ("suffix", "container", "recursive", "skip_existing"):
                if getattr(self, name):
                    raise OptionError(f"{option_flag(name)}: for several sources; give --output-dir too")
        elif self.output_dir in ("", "-"):
            raise OptionError(f"--output-dir {self.output_dir!r}: is no folder; name one, such as out/")
        if re.search(r"[/\\\0]", self.suffix):
            raise OptionError(f"--suffix {self.suffix!r}: a part of a file name; give it without folders, such as -x4")


def option_flag(name: str) -> str:
    """The command-line option of a field: `--like-this` for `like_this`."""
    return "--" + name.replace("_", "-")


def check_excerpt(start: float, duration: float | None) -> None:
    """Validate --start and --duration [s].

    Raises:
        OptionError: a value is outside its range.
    """
    if not 0 <= start < math.inf:
        raise OptionError(f"--start {start}: give seconds from the beginning, 0 or more")
    if duration is not None and not 0 < duration < math.inf:
        raise OptionError(f"--duration {duration}: give more than 0 seconds")


def check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among the allowed ones.

    Raises:
        OptionError: it is not.
    """
    if value not in allowed:
        raise OptionError(f"{option} {value!r}: choose one of {', '.join(allowed)}")


def parse_device(text: str) -> tuple[str, int | None]:
    """("gpu", 1) of "gpu:1", ("gpu", None) of "gpu".

    Raises:
        OptionError: an unknown device, or a number where there is none.
    """
    kind, colon, number = text.partition(":")
    if kind not in DEVICES or (colon and (kind not in ("gpu", "ascend") or not re.fullmatch(r"[0-9]{1,3}", number))):
        raise OptionError(f"--device {text!r}: choose one of {', '.join(DEVICES)}, or with a number such as gpu:1")
    return kind, int(number) if colon else None


def usable_cores() -> int:
    """Processors that this process may use; in a container or batch system often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def isa_limit() -> str | None:
    """The highest instruction set that the environment variable RVRT_ISA allows the kernels; None: the best.

    Raises:
        OptionError: not one of `ISA_NAMES`.
    """
    limit = os.environ.get("RVRT_ISA")
    if not limit:
        return None
    if limit not in ISA_NAMES:
        raise OptionError(f"RVRT_ISA={limit}: choose one of {', '.join(ISA_NAMES)}, or unset it")
    return limit


def parse_memory(text: str) -> int:
    """Bytes of "4G", "512M", "1.5 GiB" (powers of 1024).

    Raises:
        OptionError: not a positive amount with a unit.
    """
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*([KMGT])(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    amount = int(float(match[1]) * 1024 ** (1 + "KMGT".index(match[2].upper()))) if match else 0
    if amount == 0:
        raise OptionError(f"--memory {text!r}: write an amount with a unit, such as 4G or 512M")
    return amount


def parse_encoder_options(entries: Sequence[str]) -> dict[str, str]:
    """Values by name of "KEY=VALUE" each; a stream specifier of the video (b:v) is ignored, since there is one video.

    Raises:
        OptionError: another form, or a name twice.
    """
    options: dict[str, str] = {}
    for entry in entries:
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)(?::v(?::0)?)?=([^\0-\x1f]+)", entry, re.ASCII)
        if not match:
            raise OptionError(f"--encoder-option {entry!r}: write KEY=VALUE, such as aq-mode=3")
        if match[1] in options:
            raise OptionError(f"--encoder-option {entry}: {match[1]} is given twice; give it once")
        options[match[1]] = match[2]
    return options


def parse_frame_rate(text: str) -> Fraction:
    """Frames/s of "25", "29.97" or "30000/1001".

    Raises:
        OptionError: another form, or outside [1/1000, 1000].
    """
    match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,6})?)(?:/(\d{1,7}))?", text, re.ASCII)
    rate = Fraction(match[1]) / Fraction(match[2] or 1) if match and int(match[2] or 1) else Fraction(0)
    if not Fraction(1, 1000) <= rate <= 1000:
        raise OptionError(f"--fps {text!r}: write frames per second from 0.001 to 1000, such as 25 or 30000/1001")
    return rate


def parse_size(text: str) -> tuple[int, int] | int:
    """(width, height) px of "1920x1080", or the shorter side [px] of "1080p" or "4K".

    Raises:
        OptionError: neither form, or a side of less than 2 px.
    """
    if text.lower() in _NAMED_SIZES:
        return _NAMED_SIZES[text.lower()]
    match = re.fullmatch(r"(\d{1,5})(?:p|[xX×](\d{1,5}))", text, re.ASCII | re.IGNORECASE)
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or min(sides) < 2:
        raise OptionError(f"--size {text!r}: write WIDTHxHEIGHT such as 1920x1080, or the shorter side: 1080p, 4K")
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def check_ranks(ranks: int, local_ranks: int, node: int, master: str | None) -> None:
    """Refuse ranks that cannot be started.

    Raises:
        OptionError: a number is too small, or contradicts the others.
    """
    if ranks < 1:
        raise OptionError(f"--ranks {ranks}: give 1 or more")
    if local_ranks < 0 or node < 0:
        name, value = ("--local-ranks", local_ranks) if local_ranks < 0 else ("--node", node)
        raise OptionError(f"{name} {value}: give 0 or more")
    if master is not None:
        parse_address(master)
    if local_ranks > ranks or (0 < local_ranks < ranks and master is None):
        raise OptionError(f"--local-ranks {local_ranks}: at most --ranks {ranks}; fewer need --master")
    others = ranks - (local_ranks or ranks)
    if node > others:
        raise OptionError(f"--node {node}: {others} of {ranks} ranks are on other machines; give {others} at most")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT".

    Raises:
        OptionError: another form, or a port that ordinary users may not open.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1024 <= int(port) <= 65535:
        raise OptionError(f"--master {text!r}: write HOST:PORT, with a port from 1024 to 65535")
    return host, int(port)
