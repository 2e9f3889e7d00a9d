# SPDX-License-Identifier: Apache-2.0
"""Tries the encoder and the container on black frames before any work: what would fail at its end fails here."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import file_url, opens_device
from rvrt_cli.video.mux.final_mux import MuxJob, mux
from rvrt_cli.video.mux.remux import MUXER_REFUSALS
from rvrt_cli.video.mux.video_packets import find_loss
from rvrt_cli.video.read.container import reason
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.encoder import Encoder, RawFormat
from rvrt_cli.video.write.encoder_quality import QUALITY_SCALES
from rvrt_cli.video.write.target import Target

_FRAMECRC_PACKET = re.compile(r"0,\s*-?\d+,\s*-?\d+,\s*\d+,\s*[1-9]")  # framecrc's line for a packet that is not empty
# A warning that an encoder does not know an option or its value; without a name it is -q
_IGNORED_OPTION = re.compile(
    r"\[warning\] (?:(?:Error parsing option|Unknown option:|Invalid value for|Invalid option:) '?(?P<name>[\w-]+)|"
    r"-qscale is ignored)"
)
# Types of the devices that encoders of these families open themselves
_DEVICES = {"qsv": "qsv", "nvenc": "cuda", "amf": "amf", "videotoolbox": "videotoolbox", "d3d12va": "d3d12va"}
_SYSTEM_ENCODERS = ("v4l2m2m", "mf", "mediacodec", "omx", "videotoolbox", "rkmpp")  # found through the operating system
_SMALL_SIDE = 256  # px; accepted by all encoders that accept any size
_MIN_FRAME_DURATION = Fraction(1, 200)  # s: every container can tell such timestamps apart
_SMALL_FRAMES = 20  # more than an encoder reorders


def preflight(info: SourceInfo, target: Target) -> None:
    """Encode black frames, and mux them.

    Two frames of the full size reveal options, sizes and devices that the encoder rejects, and encoders that drop a frame
    which equals the one before. Some small ones reveal encoders that lose timestamps, and streams that the container
    rejects.

    Raises:
        MediaError, OptionError: with what has to be changed.
    """
    encoder = target.encoder
    try:  # framecrc logs the size of each packet
        lines = _encode_black(info, target, [0, _frame_step(info)], ["-f", "framecrc", "pipe:2"])
    except MediaError as error:
        why = str(error).partition("cannot be encoded: ")[2]
        if not why:  # ffmpeg was not even started
            raise
        _explain_missing_hardware(target, why, error)
        raise OptionError(
            f"--codec {encoder}: rejects {target.width}x{target.height} {target.pix_fmt} with these options ({why}); "
            f"change {_changeable(target)}"
        ) from error
    if sum(bool(_FRAMECRC_PACKET.match(line)) for line in lines) < 2:
        raise OptionError(
            f"--codec {encoder}: this encoder drops frames that equal the one before; choose another --codec"
        )
    _check_all_used(target, lines)
    small = replace(target, width=min(target.width, _SMALL_SIDE), height=min(target.height, _SMALL_SIDE))
    with (
        contextlib.suppress(OSError),  # no temporary folder to try it in
        tempfile.TemporaryDirectory(prefix="rvrt-", ignore_cleanup_errors=True) as folder,
    ):
        _check_muxing(info, small, Path(folder))


def _explain_missing_hardware(target: Target, why: str, error: MediaError) -> None:
    """Say so where the encoder failed since there is no hardware for it."""
    encoder = target.encoder
    family = encoder.rpartition("_")[2]
    device = target.upload or _DEVICES.get(family, "")
    remedy = "choose an encoder that runs on the CPU, such as libx264"
    if device and not opens_device(device):
        raise OptionError(
            f"--codec {encoder}: ffmpeg cannot open a device of type {device} on this machine; install its driver, or {remedy}"
        ) from error
    if family in _SYSTEM_ENCODERS:
        raise OptionError(f"--codec {encoder}: this machine has no hardware for it ({why}); {remedy}") from error


def _changeable(target: Target) -> str:
    """The options that may be at fault."""
    names = [wish.partition(" ")[0] for wish in target.wishes]
    return ", ".join(dict.fromkeys(["--codec", "--preset", "--crf", *names])) + " or --pix-fmt"


def _check_all_used(target: Target, lines: Sequence[str]) -> None:
    """Refuse options that the encoder has ignored.

    Raises:
        OptionError: there are some.
    """
    encoder = target.encoder
    unused = [line for line in lines if "has not been used for any stream" in line]
    if unused:
        match = re.search(r"AVOption (\S+)", unused[0])
        option = match[1] if match else ""
        name = {"crf": "--crf", "preset": "--preset", "cpu-used": "--preset"}.get(option, f"the option {option!r}")
        instead = "; --quality may set its quality" if name == "--crf" and encoder in QUALITY_SCALES else ""
        raise OptionError(f"--codec {encoder}: this encoder does not support {name}; omit it{instead}")
    for line in lines:  # some encoders only warn of an entry of a list such as x265-params
        match = _IGNORED_OPTION.search(line)
        if match is None:
            continue
        name = match["name"] or "q"
        culprits = [wish for wish in target.wishes if re.search(rf"[-=:, ]{re.escape(name)}(=|$)", wish)]
        if culprits:
            why = line.partition("[warning]")[2].strip().rstrip(".")
            raise OptionError(f"{culprits[0]}: {encoder} ignores this ({why}); correct or omit it")


def _check_muxing(info: SourceInfo, target: Target, folder: Path) -> None:
    part, muxed = (folder / f"{name}{target.path.suffix}" for name in ("part", "muxed"))
    timestamps = [number * _frame_step(info) for number in range(_SMALL_FRAMES)]
    try:
        output = ["-avoid_negative_ts", "disabled", "-f", target.muxer, file_url(part)]
        _encode_black(info, target, timestamps, output)
    except MediaError:
        return  # it accepts certain sizes only, like some intra-only encoders
    try:
        mux(MuxJob(info=info, parts=(part,), output=muxed, muxer=target.muxer, copy_streams=False))
        lost = find_loss(muxed, [pts * info.time_base for pts in timestamps])
    except MediaError as error:
        if not isinstance(error.__cause__, MUXER_REFUSALS):
            return
        suffix, why = target.path.suffix, reason(error.__cause__)
        raise OptionError(
            f"--codec {target.encoder}: its output cannot be muxed into {suffix} ({why}); choose another --codec"
        ) from error
    if lost:
        raise OptionError(f"--codec {target.encoder}: this encoder loses {lost}; choose another --codec")


def _frame_step(info: SourceInfo) -> int:
    """From one frame to the next, in units of the source's time base."""
    return max(1, round(max(1 / info.frame_rate, _MIN_FRAME_DURATION) / info.time_base))


def _encode_black(info: SourceInfo, target: Target, timestamps: Sequence[int], output: list[str]) -> list[str]:
    """Encode a black frame for each timestamp; ffmpeg's log.

    Raises:
        MediaError: ffmpeg has failed.
    """
    raw = RawFormat(target.width, target.height, deep=info.bit_depth > 8)
    encoder = Encoder(target.name, raw, info.time_base, f"{target.filter_chain},setsar=1", [*target.options, *output])
    try:
        black = np.zeros((raw.height, raw.width, 3), raw.dtype)
        for pts in timestamps:
            encoder.write(Frame(black, pts))
        encoder.finish()
    finally:
        encoder.abort()
    return encoder.lines
