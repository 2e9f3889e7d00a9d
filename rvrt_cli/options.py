"""Options of the commands: frozen dataclasses that validate themselves; the single source of defaults.

No MindSpore import: `rvrt --help` reads the defaults from here.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

from rvrt_cli.errors import OptionError


def setting(default: Any, help: str, *, metavar: str | None = None, shown: str | None = None) -> Any:
    """A dataclass field that is one command-line option, `--like-this` for `like_this`; `rvrt_cli.cli` builds it from here.

    Args:
        help: a noun phrase that stands alone, its unit in square brackets.
        metavar: what stands for the value in the help; by default its type.
        shown: the default as people write it, where `default` itself is not it ("all cores" for 0).
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, "shown": shown})


DEVICES = ("auto", "cpu", "gpu", "ascend")
PRECISIONS = ("float32", "float16")
PRESET_HEIGHTS = {"480p": 480, "720p": 720, "1080p": 1080, "1440p": 1440, "2160p": 2160, "4320p": 4320}
NATIVE_SCALE = 4
_MOST = 1_000_000  # frames or px of any option


@dataclass(frozen=True)
class UpscaleOptions:
    """How `rvrt upscale` works; every field is one command-line option.

    Frames and pixels count in the source's own size ("LR" pixels) unless a field says otherwise.

    Raises:
        OptionError: a value cannot be used; the message names the option and the remedy.
    """

    model: str = "rvrt-tiny"  # embedded weights' name, or a preset whose converted weights are in the cache
    weights: str | None = None  # a .safetensors file instead of `model`
    device: str = "auto"
    precision: str = "float32"
    scale: int = NATIVE_SCALE  # 2, 3 or 4: x4, then an antialiased reduction
    size: str | None = None  # "WIDTHxHEIGHT" or "1080p"; overrides `scale`
    window: int | None = None  # frames emitted per call; 0: the whole clip at once; None: planned from the memory
    lookahead: int = 2  # frames of the future that a window sees
    tile: int | None = None  # LR px; 0: untiled; None: planned from the memory
    overlap: int = 16  # LR px shared by neighboring tiles
    memory: str | None = None  # such as "4G"; None: most of what is free
    start: float = 0.0  # s
    duration: float | None = None  # s
    deinterlace: bool = False  # make one frame of every two fields before enlarging
    codec: str | None = None  # ffmpeg's name of a video encoder; None: libx264, or libvpx-vp9 for .webm
    crf: int | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    overwrite: bool = False
    segment: int = 96  # frames that are kept, as one, when a run is interrupted
    ranks: int = 1  # processes that share out the scenes, over all machines
    local_ranks: int = 0  # of them on this machine; 0: all
    node: int = 0  # number of this machine, from 0
    master: str | None = None  # "HOST:PORT" at which the ranks of several machines meet

    def __post_init__(self) -> None:
        _one_of("--device", self.device, DEVICES)
        _one_of("--precision", self.precision, PRECISIONS)
        if self.scale not in (2, 3, 4):
            raise OptionError(f"--scale {self.scale}: the network enlarges 4 times; choose 2, 3 or 4")
        for name in ("window", "lookahead", "tile", "overlap", "segment"):
            if (getattr(self, name) or 0) > _MOST:
                raise OptionError(f"--{name} {getattr(self, name)}: give {_MOST} or less")
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
        if not 0 <= self.start < math.inf:
            raise OptionError(f"--start {self.start}: give seconds from the beginning, 0 or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise OptionError(f"--duration {self.duration}: give more than 0 seconds")
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise OptionError(f"--crf {self.crf}: give 0 (best) to 63")
        if self.segment < 1:
            raise OptionError(f"--segment {self.segment}: give a number of frames, 1 or more")
        check_ranks(self.ranks, self.local_ranks, self.node, self.master)
        self.memory_bytes  # noqa: B018  validates
        if self.size is not None:
            parse_size(self.size)

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes, or None when it is to be planned."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def ranks_here(self) -> int:
        """Ranks on this machine."""
        return self.local_ranks or self.ranks

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) px of the output for a source of `width` x `height` px."""
        if self.size is None:
            return width * self.scale, height * self.scale
        wanted = parse_size(self.size)
        if isinstance(wanted, int):  # a height: keep the aspect, even width
            return max(2, round(width * wanted / height / 2) * 2), wanted
        return wanted


def usable_cores() -> int:
    """Processors that this process may use: fewer than the machine has in many a container or batch system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def parse_size(text: str) -> tuple[int, int] | int:
    """(width, height) px of "1920x1080", or the height px of "1080p".

    Raises:
        OptionError: neither form, or a side of zero.
    """
    if text.lower() in PRESET_HEIGHTS:
        return PRESET_HEIGHTS[text.lower()]
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text, re.ASCII)
    if not match or int(match[1]) < 2 or int(match[2]) < 2:
        raise OptionError(
            f"--size {text!r}: write WIDTHxHEIGHT such as 1920x1080, or one of {', '.join(PRESET_HEIGHTS)}"
        )
    return int(match[1]), int(match[2])


def check_ranks(ranks: int, local_ranks: int, node: int, master: str | None) -> None:
    """Refuse ranks that cannot be started.

    Raises:
        OptionError: a number is too small, or does not go with the others.
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
        OptionError: another form, or a port that users may not take.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1024 <= int(port) <= 65535:
        raise OptionError(f"--master {text!r}: write HOST:PORT, the port from 1024 to 65535")
    return host, int(port)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{option} {value!r}: choose one of {', '.join(allowed)}")
