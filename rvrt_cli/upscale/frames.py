# SPDX-License-Identifier: Apache-2.0
"""Frames in memory through the network, without a file: `upscale_frames`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING

import numpy as np

from rvrt_cli import engine
from rvrt_cli.device import memory_budget
from rvrt_cli.errors import OptionError
from rvrt_cli.frame import Frame
from rvrt_cli.options import UpscaleOptions, option_flag
from rvrt_cli.upscale.finish import Finish
from rvrt_cli.upscale.grain import RUN_FRAMES, measure_grain
from rvrt_cli.upscale.job import load_network

if TYPE_CHECKING:
    from rvrt_cli.model import Network

# The options that mean something without a source and a target
_NETWORK_OPTIONS = ("model", "weights", "device", "precision")
_FRAME_OPTIONS = (
    *_NETWORK_OPTIONS,
    "scale",
    "size",
    "window",
    "lookahead",
    "tile",
    "overlap",
    "memory",
    "strength",
    "grain",
)
_GRAIN_FRAMES = 3 * RUN_FRAMES  # that grain is measured on


def upscale_frames(
    frames: Iterable[np.ndarray], options: UpscaleOptions | None = None, network: Network | None = None
) -> Iterator[np.ndarray]:
    """Upscale frames with the scene cuts, windows and tiles of `upscale_video`: one comes out for each one in, in order.

    Frames are read as they are needed, a window ahead of those that come out; memory does not grow with their number. With
    `grain`, the first nine are read at once, and the grain is measured on them.

    Args:
        frames: pixels (H, W, 3) RGB, uint8, uint16 with white at 65535, or float32 with white at 1; all of one size and type.
        options: those for the network, windows, tiles, memory and output size.
        network: one of `load_network`, in place of the options for the network; it can be used again.

    Yields:
        pixels (H', W', 3) of the same type, H' = 4H and W' = 4W unless `scale` or `size` say otherwise.

    Raises:
        OptionError: an option that only means something for files, or one for the network beside `network`.
        WeightsError: no such weights.
        MediaError: frames below 8×8 px, or, while they are read, of another size or type than the first.
        OutOfMemoryError: not enough memory, whatever the window and tile.
        ValueError: frames that are not (H, W, 3) uint8, uint16 or float32.
    """
    options = options or UpscaleOptions()
    _check_options(options, network)
    network = network or load_network(options.model, options.weights, options.device, options.precision)
    return _upscaled(iter(frames), options, network)


def _check_options(options: UpscaleOptions, network: Network | None) -> None:
    usable = _FRAME_OPTIONS if network is None else tuple(set(_FRAME_OPTIONS) - set(_NETWORK_OPTIONS))
    for entry in fields(options):
        if entry.name not in usable and getattr(options, entry.name) != entry.default:
            reason = "the network is given" if entry.name in _NETWORK_OPTIONS else "only upscale_video has it"
            raise OptionError(f"{option_flag(entry.name)}: has no effect on upscale_frames, {reason}; leave it out")


def _upscaled(frames: Iterator[np.ndarray], options: UpscaleOptions, network: Network) -> Iterator[np.ndarray]:
    first = list(islice(frames, _GRAIN_FRAMES if options.grain else 1))
    if not first:
        return
    engine.check_pixels(first[0])
    height, width = first[0].shape[:2]
    grain = None
    if options.grain:
        alike = list(takewhile(lambda pixels: pixels.shape == (height, width, 3), first))  # the engine refuses others
        grain = measure_grain(alike[start : start + RUN_FRAMES] for start in range(0, len(alike), RUN_FRAMES))
    finish = Finish.of_options(options, (height, width), options.output_size(width, height)[::-1], grain)
    depth = first[0].dtype.itemsize
    workload = engine.Workload(width, height, pixel_bytes=depth, queued_frames=0, other_bytes=finish.bytes)
    numbered = (Frame(pixels, number) for number, pixels in enumerate(chain(_emptied(first), frames)))
    wanted = engine.WindowOptions(options.window, options.tile, options.overlap, options.lookahead)
    plan = engine.make_plan(network, workload, wanted, memory_budget(network.device, options.memory_bytes))
    for segment in engine.stream(numbered, network, plan, keep_source=finish.needs_source):
        for frame in segment:
            yield finish(frame).pixels


def _emptied(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames of a list, which holds them no longer than they are needed."""
    while frames:
        yield frames.pop(0)
