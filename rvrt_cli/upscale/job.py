# SPDX-License-Identifier: Apache-2.0
"""What `rvrt upscale` or `rvrt restore` is going to do, checked and decided before any work starts."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rvrt_cli import engine
from rvrt_cli.device import certain_device, host_budget, memory_budget, use_device
from rvrt_cli.engine.plan import QUEUED_FRAMES
from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError
from rvrt_cli.model.outline import NetworkOutline, has_cpu_kernels
from rvrt_cli.model.weight_shapes import parameter_shapes
from rvrt_cli.options import AUTO, JobOptions, RestoreOptions, UpscaleOptions
from rvrt_cli.runtime import OnnxNetwork
from rvrt_cli.upscale.exported import open_exported
from rvrt_cli.upscale.finish import Finish
from rvrt_cli.upscale.grain import GrainCurve, source_grain
from rvrt_cli.upscale.job_notes import job_notes
from rvrt_cli.upscale.noise_estimate import NoiseLevel, noise_level
from rvrt_cli.upscale.resume import (
    EarlierRun,
    JobInputs,
    find_earlier_run,
    identify,
    refuse_foreign_target,
    state_shapes,
)
from rvrt_cli.upscale.scene_count import with_useful_ranks
from rvrt_cli.upscale.workdir import RunManifest, Workdir
from rvrt_cli.video.read.image_decoder import images_shown
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.read.telecine import inverse_telecined
from rvrt_cli.video.write.destination import real_folder
from rvrt_cli.video.write.fidelity_notes import unread
from rvrt_cli.video.write.target import OutputRequest, Target
from rvrt_cli.video.write.target_check import check_target
from rvrt_cli.weights import check_names, find_weights, load_weights, read_about
from rvrt_cli.weights.weights_file import NetworkWeights

if TYPE_CHECKING:
    from rvrt_cli.model import Network


@dataclass(frozen=True)
class Job:
    """What is going to happen.

    Attributes:
        inputs: options, source, target and network.
        plan: windows and tiles; those of the earlier run where this one resumes it, or smaller tiles for less memory.
        frames: how many will come out, as far as the container tells; None when it does not.
        notes: what the user should know before the work, one line each.
        workdir: where finished segments are kept; None for y4m on standard output.
        manifest: what `workdir` has to be made for.
        earlier: what an earlier run has left.
        resumable: whether the same command could resume; not with a source or target that is a stream.
    """

    inputs: JobInputs
    plan: engine.Plan
    frames: int | None
    notes: tuple[str, ...]
    workdir: Workdir | None
    manifest: RunManifest
    earlier: EarlierRun
    resumable: bool

    @property
    def options(self) -> JobOptions:
        return self.inputs.options

    @property
    def source(self) -> SourceInfo:
        return self.inputs.source

    @property
    def target(self) -> Target:
        return self.inputs.target

    @property
    def network(self) -> Network:
        """The network; in a dry run, which does not call it, perhaps only its outline."""
        return cast("Network", self.inputs.network)

    @property
    def noise(self) -> NoiseLevel | None:
        """The source's noise, where the network is told it."""
        return self.inputs.noise

    @property
    def grain(self) -> GrainCurve | None:
        """The source's grain, where it is to be added again."""
        return self.inputs.grain

    @property
    def finish(self) -> Finish:
        """What becomes of a frame between the network and the encoder."""
        return self.inputs.finish

    @property
    def kept(self) -> int:
        """Frames that an earlier run has finished."""
        return self.earlier.kept

    def carried(self, first: int) -> engine.Carried:
        """The state that an earlier run has kept for the segment that begins with frame `first`.

        Raises:
            MediaError: it is missing or damaged.
        """
        assert self.workdir is not None
        return self.workdir.carried(first, state_shapes(self.inputs))

    def frames_done(self) -> int:
        """Frames that are complete by now and need not be computed again; 0 where the job cannot resume."""
        done = 0
        if self.workdir is not None and self.resumable:
            with suppress(MediaError):
                done = sum(segment.frames for segment in self.workdir.segments())
        return done


def load_network(
    model: str = UpscaleOptions.model,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    noise: float | None = None,
) -> Network:
    """A network that is ready to be called: see `rvrt_cli.model.Network`.

    Args:
        model: name of embedded or converted weights, see `rvrt weights list`.
        weights: a weights file in place of `model`.
        device: "auto", "cpu", "gpu" or "ascend"; precision: see `rvrt_cli.device.use_device`.
        noise: standard deviation of the frames' noise [0 to 1], for a network that denoises.

    Raises:
        WeightsError: no such weights, or they do not fit their network.
        OptionError: a noise level for a network that takes none.
        RvrtError: no such device.
    """
    loaded = _fitting_weights(model, weights)
    chosen = use_device(device, precision)
    from rvrt_cli.model import Network  # imports MindSpore, whose device is set by now

    network = Network(loaded.config, loaded.arrays, loaded.card, chosen)
    return network if noise is None else network.with_noise(noise)


def outline_network(
    model: str = UpscaleOptions.model,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    noise: float | None = None,
) -> Network | NetworkOutline:
    """What is known of a network without MindSpore, or the network itself where its device needs MindSpore to be known.

    Arguments and errors as `load_network`.
    """
    loaded = _fitting_weights(model, weights)
    chosen = certain_device(device, precision)
    if chosen is None or not has_cpu_kernels():
        return load_network(model, weights, device, precision, noise)
    return NetworkOutline(loaded.config, loaded.card, chosen, uses_kernels=True)


class LoadedNetworks:
    """The networks of several jobs, each loaded once: what is compiled for one job serves the next of its size."""

    def __init__(self) -> None:
        self._networks: dict[tuple, Network | NetworkOutline | OnnxNetwork] = {}

    def find(self, options: JobOptions, *, dry_run: bool) -> Network | NetworkOutline | OnnxNetwork:
        """The network of the options, without a noise level; in a dry run perhaps only its outline.

        Raises:
            RvrtError: see `load_network` and `open_exported`.
        """
        arguments = options.model, options.weights, options.device, options.precision
        if isinstance(options, UpscaleOptions) and not options.uses_mindspore:
            exported = (*arguments, options.window, options.lookahead)
            if exported not in self._networks:
                self._networks[exported] = open_exported(options)
            return self._networks[exported]
        key = (*arguments, dry_run)
        if key not in self._networks:
            self._networks[key] = (outline_network if dry_run else load_network)(*arguments)
        return self._networks[key]


def _fitting_weights(model: str, weights: str | Path | None) -> NetworkWeights:
    """Weights that are exactly those of their network.

    Raises:
        WeightsError: no such weights, or they are not.
    """
    path = find_weights(model, Path(weights) if weights is not None else None)
    loaded = load_weights(path)
    check_names(loaded.arrays, parameter_shapes(loaded.config), path)
    return loaded


def prepare(
    source: str | Path,
    target: str | Path,
    options: JobOptions,
    *,
    as_rank: bool = False,
    dry_run: bool = False,
    new_folders: bool = False,
    networks: LoadedNetworks | None = None,
) -> Job:
    """Check everything that can be checked before the work: source, target, weights, device, memory, earlier runs.

    Args:
        as_rank: this process works for another one, which holds the lock on the target.
        dry_run: the job is for looking at and cannot be run; MindSpore is imported only where an accelerator may be chosen.
        new_folders: missing folders above the target will have been made by the time the job is run.
        networks: those that earlier jobs have loaded.

    Raises:
        RvrtError: with the remedy.
    """
    check_purpose(options)
    info = _probe_source(source, options)

    # the target, and whether it may be written
    workdir = None if str(target) == "-" else Workdir(real_folder(target))
    if options.ranks > 1 and (workdir is None or info.kind == "y4m"):
        raise OptionError(f"--ranks {options.ranks}: needs a source and a target that are files; - is neither")
    decides = not as_rank and options.node == 0  # on the other machines the first one decides
    requested, options = options, with_useful_ranks(info, options) if decides else options
    if workdir is not None and decides:
        workdir.check_free()
    published = workdir.published() if workdir is not None and decides else None
    request = _output_request(info, target, options, replaces=published is not None)
    checked = check_target(info, replace(request, new_folders=new_folders))

    # the network, and what an earlier run has left
    noise = noise_level(options, info) if isinstance(options, RestoreOptions) else None
    network = _fitting_network(info, noise, (networks or LoadedNetworks()).find(options, dry_run=dry_run))
    grain = source_grain(options, info)
    inputs = JobInputs(options=options, source=info, target=checked, network=network, noise=noise, grain=grain)
    about = identify(inputs)
    resumable = workdir is not None and info.kind != "y4m"
    if published is not None:
        refuse_foreign_target(inputs, published, about, resumable)
    earlier = EarlierRun()
    if workdir is not None and (decides or as_rank):
        earlier = find_earlier_run(inputs, workdir, about, published if resumable else None, look_inside=not as_rank)

    plan = _plan(inputs, request.frame_count, earlier.plan)
    return Job(
        inputs=inputs,
        plan=plan,
        frames=request.frame_count,
        notes=(*_inherited_notes(inputs, earlier), *job_notes(requested, inputs, plan, earlier)),
        workdir=workdir,
        manifest=RunManifest(about, earlier.plan or plan),
        earlier=earlier,
        resumable=resumable,
    )


def _inherited_notes(inputs: JobInputs, earlier: EarlierRun) -> tuple[str, ...]:
    """What network, source, target and earlier run have to say."""
    return *inputs.network.notes, *unread(inputs.source), *inputs.target.notes, *earlier.notes


def check_purpose(options: JobOptions) -> None:
    """Refuse weights that are made for the other command, or for another use of `--sigma`.

    Raises:
        WeightsError: no such weights.
        OptionError: they do not fit the options.
    """
    weights = None if options.weights is None else Path(options.weights)
    if not options.uses_mindspore and weights is not None and weights.suffix == ".onnx":
        return  # which only `rvrt export` makes, of networks that upscale
    config, card, _ = read_about(find_weights(options.model, weights))
    asked = f"--model {options.model}" if weights is None else f"--weights {options.weights}"
    if config.scale != options.network_scale:
        raise OptionError(
            f"{asked}: restores frames at their own size; use rvrt restore"
            if config.scale == 1
            else f"{asked}: upscales {config.scale} times; use rvrt upscale, or choose a network such as rvrt-deblur-gopro"
        )
    if isinstance(options, RestoreOptions):
        if config.noise_input and options.sigma is None:
            raise OptionError(f"{asked}: needs the noise level; give --sigma, such as 25 or {AUTO}")
        if options.sigma is not None and not config.noise_input:
            raise OptionError(
                f"--sigma {options.sigma}: {card['name']} does not denoise; omit --sigma, or choose rvrt-denoise-davis"
            )


def _probe_source(source: str | Path, options: JobOptions) -> SourceInfo:
    """The source, and options and sizes with which it cannot work refused."""
    info = probe(source, fps=options.frame_rate)
    if options.fps is not None and info.kind != "images":
        raise OptionError(f"--fps {options.fps}: for images only; {info.path} has timestamps of its own, leave it out")
    if options.ivtc:
        info = inverse_telecined(info)
    engine.check_frame_size(info.width, info.height)
    _check_excerpt(info, options)
    _check_queues_fit(info, options)
    return info


def _fitting_network(
    info: SourceInfo, noise: NoiseLevel | None, network: Network | NetworkOutline | OnnxNetwork
) -> Network | NetworkOutline | OnnxNetwork:
    """The network, told the source's noise where it takes it.

    Raises:
        OptionError: it does not take frames of this size.
    """
    if isinstance(network, OnnxNetwork):
        network.check_frames(info.width, info.height)
    if noise is None or isinstance(network, NetworkOutline | OnnxNetwork):
        return network
    return network.with_noise(noise.levels / 255)


def _output_request(info: SourceInfo, target: str | Path, options: JobOptions, *, replaces: bool) -> OutputRequest:
    """The output that the options ask for; `replaces`: an earlier run has published this target."""
    width, height = options.output_size(info.width, info.height)
    return OutputRequest(
        target,
        width=width,
        height=height,
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        pix_fmt=options.pix_fmt,
        quality=options.quality,
        lossless=options.lossless,
        encoder_options=options.encoder_options,
        overwrite=options.overwrite or replaces,
        images=tuple(info.files[number] for number in images_shown(info, options.start, options.duration)),
        frame_count=_expected_frames(info, options),
    )


def _check_excerpt(info: SourceInfo, options: JobOptions) -> None:
    """Refuse a --start beyond the end of the source.

    Raises:
        MediaError: nothing is left of the source.
    """
    if info.duration is not None and options.start >= info.duration > 0:
        raise MediaError(
            f"{info.path}: --start {options.start:g} is beyond the end of the source, which lasts {info.duration:g} s; "
            "lower --start"
        )


def _check_queues_fit(info: SourceInfo, options: JobOptions) -> None:
    """Refuse sizes with which not even the frames that wait for the encoder fit the memory.

    Raises:
        MediaError: the source or y4m header that asks for them.
    """
    width, height = options.output_size(info.width, info.height)
    pixels = max(width * height, options.network_scale**2 * info.width * info.height)
    needed = (QUEUED_FRAMES + 1) * 3 * _pixel_bytes(info) * pixels
    free = host_budget(options.memory_bytes, options.ranks_here)
    if needed > free:
        asking = "-: the y4m header asks for" if info.kind == "y4m" else f"{info.path}: its frames are"
        raise MediaError(
            f"{asking} {info.width}x{info.height} px, {pixels / 1e6:.0f} million px in the output: this needs more than "
            f"{needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB may be used; reduce them first"
        )


def _plan(inputs: JobInputs, frames: int | None, earlier: engine.Plan | None) -> engine.Plan:
    """Windows and tiles for the memory of one rank; those of an `earlier` run where they fit, and its windows in any case."""
    options, info, encoder_bytes = inputs.options, inputs.source, inputs.target.encoder_bytes
    budget = memory_budget(inputs.network.device, options.memory_bytes, options.ranks_here)
    workload = engine.Workload(
        width=info.width,
        height=info.height,
        frame_count=frames,
        pixel_bytes=_pixel_bytes(info),
        other_bytes=encoder_bytes + inputs.finish.bytes,
    )
    wanted = inputs.window_options if earlier is None else replace(inputs.window_options, window=earlier.window)
    try:
        plan = engine.make_plan(inputs.network, workload, wanted, budget)
    except OutOfMemoryError as error:
        text = str(error)
        if encoder_bytes >= budget.host // 4:
            share = f"{encoder_bytes / 2**30:.2f} GiB of it"
            text += f"; {share} is the encoder's: less with --size or --preset ultrafast"
        if earlier is not None:
            text += "; an interrupted run began with these windows, and --overwrite restarts with others"
        raise OutOfMemoryError(text) from error
    return plan if earlier is None or math.prod(plan.tile) < math.prod(earlier.tile) else earlier


def _pixel_bytes(info: SourceInfo) -> int:
    return 2 if info.bit_depth > 8 else 1


def _expected_frames(info: SourceInfo, options: JobOptions) -> int | None:
    if info.kind == "images":
        return len(images_shown(info, options.start, options.duration))
    if options.start == 0 and options.duration is None:
        return info.frame_count
    if info.duration is None:
        return None
    seconds = max(0.0, info.duration - options.start)
    if options.duration is not None:
        seconds = min(seconds, options.duration)
    return max(1, math.ceil(seconds * info.frame_rate - 1e-6))  # a frame belongs to what its timestamp lies in
