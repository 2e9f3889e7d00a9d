"""The encoder and the container tried on black pictures before the work: what would fail at its end does so here."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.video.ffmpeg import file_url
from rvrt_cli.video.mux.final_mux import lost_in, mux
from rvrt_cli.video.mux.remux import UNFIT
from rvrt_cli.video.read.probe import SourceInfo, reason
from rvrt_cli.video.write.encoder import Encoder

if TYPE_CHECKING:
    from rvrt_cli.video.write.target import Target

_PACKET = re.compile(r"0,\s*-?\d+,\s*-?\d+,\s*\d+,\s*[1-9]")  # framecrc's line of one that is not empty
_SIDE = 256  # px; all encoders take pictures of this size, if they take any
_APART = Fraction(1, 200)  # s between pictures, at least
_PICTURES = 20  # of this size: more than an encoder puts into another order at once


def rehearse(info: SourceInfo, plan: Target) -> None:
    """Encode black pictures, and put them into the container.

    Two of the whole size find options, sizes and devices that the encoder refuses, and encoders that keep nothing of a
    picture which equals the one before. Some more small ones find encoders that lose the pictures' times, and what they
    write that does not go into the container.

    Raises:
        MediaError, OptionError: with what has to be changed.
    """
    try:  # each packet's size comes as a message
        lines = _encode(info, plan, [0, _step(info)], ["-f", "framecrc", "pipe:2"])
    except MediaError as error:
        why = str(error).partition("cannot be encoded: ")[2]
        if not why:  # ffmpeg was not even asked
            raise
        raise OptionError(
            f"--codec {plan.encoder}: does not take {plan.width}x{plan.height} {plan.pix_fmt} with these options ({why}); "
            "change --codec, --preset, --crf or --pix-fmt"
        ) from error
    if sum(bool(_PACKET.match(line)) for line in lines) < 2:
        raise OptionError(
            f"--codec {plan.encoder}: this encoder drops a picture that equals the one before; choose another --codec"
        )
    unused = [line for line in lines if "has not been used for any stream" in line]
    if unused:
        option = re.search(r"AVOption (\S+)", unused[0])
        name = {"crf": "--crf", "preset": "--preset"}.get(option[1] if option else "", "an option")
        raise OptionError(f"--codec {plan.encoder}: this encoder has no {name}; leave it out")
    small = replace(plan, width=min(plan.width, _SIDE), height=min(plan.height, _SIDE))
    with (
        contextlib.suppress(OSError),  # nowhere to try it
        tempfile.TemporaryDirectory(prefix="rvrt-", ignore_cleanup_errors=True) as folder,
    ):
        _check_times(info, small, Path(folder))


def _check_times(info: SourceInfo, plan: Target, folder: Path) -> None:
    part, made = (folder / f"{name}{plan.path.suffix}" for name in ("part", "made"))
    times = [number * _step(info) for number in range(_PICTURES)]
    try:
        _encode(info, plan, times, ["-avoid_negative_ts", "disabled", "-f", plan.muxer, file_url(part)])
    except MediaError:
        return  # it takes certain sizes only, as those that look at one picture at a time do
    try:
        mux(part, info, made, muxer=plan.muxer, source_mux=False)
        lost = lost_in(made, [pts * info.time_base for pts in times])
    except MediaError as error:
        if not isinstance(error.__cause__, UNFIT):
            return
        raise OptionError(
            f"--codec {plan.encoder}: what it writes cannot be put into {plan.path.suffix} ({reason(error.__cause__)}); "
            "choose another --codec"
        ) from error
    if lost:
        raise OptionError(f"--codec {plan.encoder}: this encoder loses {lost}; choose another --codec")


def _step(info: SourceInfo) -> int:
    """From one picture to the next, in units of the source's clock; no less than every container can tell apart."""
    return max(1, round(max(1 / info.frame_rate, _APART) / info.time_base))


def _encode(info: SourceInfo, plan: Target, times: Sequence[int], output: list[str]) -> list[str]:
    """Encode a black picture for each of `times`; what ffmpeg has said.

    Raises:
        MediaError: ffmpeg has failed.
    """
    encoder = Encoder(
        plan.path.name,
        width=plan.width,
        height=plan.height,
        deep=info.bit_depth > 8,
        alpha=False,
        time_base=info.time_base,
        chain=f"{plan.chain},setsar=1",
        output=[*plan.options, *output],
    )
    try:
        black = np.zeros((plan.height, plan.width, 3), np.uint16 if info.bit_depth > 8 else np.uint8)
        for pts in times:
            encoder.write(Frame(black, pts))
        encoder.finish()
    finally:
        encoder.abort()
    return encoder.lines
