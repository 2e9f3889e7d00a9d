# SPDX-License-Identifier: Apache-2.0
"""What the user should know before the work, beyond what network, source and target have to say; one line each."""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec

from rvrt_cli import engine
from rvrt_cli.options import AUTO, NATIVE_SCALE, JobOptions, UpscaleOptions
from rvrt_cli.upscale.resume import EarlierRun, JobInputs
from rvrt_cli.video.read.source import SourceInfo

_ROUNDED = Fraction(1, 50)  # an aspect that differs by less differs by rounding to whole px


def job_notes(requested: JobOptions, inputs: JobInputs, plan: engine.Plan, earlier: EarlierRun) -> tuple[str, ...]:
    """All notes on a job.

    Args:
        requested: the user's options, where those of `inputs` differ.
    """
    info, options = inputs.source, inputs.options
    return (
        *_runtime_notes(options),
        *_interlacing_notes(info, options),
        *_size_notes(info, options),
        *_strength_notes(options),
        *_frame_rate_notes(info, options, inputs.target.kind),
        *_tile_notes(plan, earlier.plan),
        *_rank_notes(requested, options),
    )


def _runtime_notes(options: JobOptions) -> list[str]:
    """That ONNX Runtime stands in for a missing MindSpore."""
    if not isinstance(options, UpscaleOptions) or options.runtime != AUTO or options.uses_mindspore:
        return []
    if find_spec("mindspore") is not None:
        return []
    return ["MindSpore is not installed: the network runs in ONNX Runtime, as with --runtime onnx"]


def _interlacing_notes(info: SourceInfo, options: JobOptions) -> list[str]:
    """How the frames of an interlaced source are treated."""
    if info.telecined:
        return [f"film is restored from the source by inverse telecine, at {float(info.frame_rate):.6g} frames/s"]
    if not info.interlaced:
        return []
    how = "processed as they are; --deinterlace makes progressive ones, --ivtc restores film from them"
    how = "deinterlaced first" if options.deinterlace else how
    return [f"the source is interlaced; its frames are {how}"]


def _strength_notes(options: JobOptions) -> list[str]:
    """That the network works for nothing."""
    return [] if options.strength else ["--strength 0: nothing of the network's result is used"]


def _frame_rate_notes(info: SourceInfo, options: JobOptions, target_kind: str) -> list[str]:
    """The frame rate of images that become a video, where the user has given none."""
    if options.fps is not None or len(info.files) < 2 or target_kind in ("folder", "image"):
        return []
    return [f"the images are shown at {float(info.frame_rate):g} frames/s; --fps gives another frame rate"]


def _size_notes(info: SourceInfo, options: JobOptions) -> list[str]:
    """A --size that is below the source, beyond what the network makes, or of another aspect."""
    if not isinstance(options, UpscaleOptions) or options.size is None:
        return []
    width, height = options.output_size(info.width, info.height)
    native = NATIVE_SCALE * info.width, NATIVE_SCALE * info.height
    asked = f"--size {options.size}: {width}x{height} px"
    notes = []
    if width < info.width or height < info.height:
        notes.append(
            f"{asked} is smaller than the source, {info.width}x{info.height} px: the {NATIVE_SCALE}x result is reduced to "
            "it; give a larger --size to gain resolution"
        )
    elif width > native[0] or height > native[1]:
        notes.append(
            f"{asked} is more than {NATIVE_SCALE}x: the network's {native[0]}x{native[1]} px are enlarged to it by antialiased "
            "bicubic interpolation, which adds no detail"
        )
    if abs(Fraction(width * info.height, height * info.width) - 1) > _ROUNDED:
        notes.append(
            f"{asked} has another aspect ratio than the source, {info.width}x{info.height} px: players stretch it back; "
            "images are distorted"
        )
    return notes


def _tile_notes(plan: engine.Plan, earlier: engine.Plan | None) -> list[str]:
    """Tiles that had to become smaller since an interrupted run."""
    if earlier is None or plan.tile == earlier.tile:
        return []
    before, after = (f"{width}x{height} px" for height, width in (earlier.tile, plan.tile))
    return [f"less memory may be used than in the interrupted run: tiles of {before} are now {after}"]


def _rank_notes(requested: JobOptions, used: JobOptions) -> list[str]:
    """Fewer worker processes than asked for, since there are fewer scenes."""
    if used.ranks == requested.ranks:
        return []
    scenes, processes = (
        ("one scene", "one process computes it")
        if used.ranks == 1
        else (f"{used.ranks} scenes to distribute", f"{used.ranks} processes compute them")
    )
    return [f"--ranks {requested.ranks}: the source has {scenes}; {processes}, on all cores"]
