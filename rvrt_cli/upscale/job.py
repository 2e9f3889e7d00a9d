"""What is going to happen, decided before any work starts, and whether an earlier run left something to go on with."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rvrt_cli
from rvrt_cli import engine
from rvrt_cli.device import host_free_bytes, use_device
from rvrt_cli.engine.network_protocol import check_size
from rvrt_cli.engine.plan import QUEUED_FRAMES
from rvrt_cli.errors import MediaError, OptionError, OutOfMemoryError
from rvrt_cli.options import NATIVE_SCALE, UpscaleOptions
from rvrt_cli.upscale.workdir import MANIFEST, Manifest, Shapes, Work
from rvrt_cli.video.ffmpeg import ffmpeg_version
from rvrt_cli.video.read.probe import SourceInfo, probe
from rvrt_cli.video.write.fidelity_notes import unread
from rvrt_cli.video.write.publish import check_part, part_file
from rvrt_cli.video.write.target import Target, check_target, real_folder
from rvrt_cli.weights import check_names, file_sha256, find_weights, load_weights

if TYPE_CHECKING:
    from rvrt_cli.model import Network

MEMORY_SHARE = 0.8  # of what is free; the rest is for the user's other programs
# Options that do not change the result; that of `model` and `weights` is the network's, that of `device` its kind
_ASIDE = {"model", "weights", "device", "overwrite", "ranks", "local_ranks", "node", "master"}


@dataclass(frozen=True)
class Job:
    """What is going to happen, decided before any work starts.

    Attributes:
        source, target: as probed and checked.
        plan: windows and tiles; those of an earlier run where this one goes on with it.
        frames: how many will come out, as far as the container tells; None when it does not.
        notes: what is worth telling the user, one line each.
        work: where the run keeps what is done; None for y4m on standard output.
        manifest: what `work` has to be made for.
        goes_on: with what an earlier run has left in `work`, `kept` frames; else that is thrown away.
        resumable: whether the same command could go on; not with a source that comes only once.
        finished: the target is complete already, an earlier run was killed just before its end.
    """

    options: UpscaleOptions
    source: SourceInfo
    target: Target
    network: Network
    plan: engine.Plan
    frames: int | None
    notes: tuple[str, ...]
    work: Work | None
    manifest: Manifest
    goes_on: bool
    kept: int
    resumable: bool
    finished: bool

    def carried(self, first: int) -> engine.Carried:
        """What an earlier run has kept for the segment that begins with frame `first`.

        Raises:
            MediaError: it is missing or damaged.
        """
        assert self.work is not None
        return self.work.carried(first, _state_shapes(self.network, self.source, self.options))


def load_network(
    model: str = UpscaleOptions.model,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Network:
    """A network that is ready to be called: see `rvrt_cli.model.Network`.

    Args:
        model: name of embedded or converted weights, see `rvrt weights list`.
        weights: a weights file in place of `model`.
        device: "auto", "cpu", "gpu" or "ascend"; precision: "float32" or, on an accelerator, "float16".

    Raises:
        WeightsError: no such weights, or they do not fit their network.
        RvrtError: no such device.
    """
    path = find_weights(model, Path(weights) if weights is not None else None)
    loaded = load_weights(path)
    chosen = use_device(device, precision)
    from rvrt_cli.model import Network, parameter_shapes  # brings MindSpore, whose device is set by now

    check_names(loaded.arrays, parameter_shapes(loaded.config), path)
    return Network(loaded.config, loaded.arrays, loaded.card, chosen)


def prepare(source: str | Path, target: str | Path, options: UpscaleOptions, *, as_rank: bool = False) -> Job:
    """Check everything that can be checked before the work: source, target, weights, device, memory, earlier runs.

    Args:
        as_rank: this process works for another one, which holds the lock on the target.

    Raises:
        RvrtError: with the remedy.
    """
    info = probe(source)
    check_size(info.width, info.height)
    width, height = options.output_size(info.width, info.height)
    work = None if str(target) == "-" else Work(real_folder(target))
    if options.ranks > 1 and (work is None or info.kind == "y4m"):
        raise OptionError(f"--ranks {options.ranks}: needs a source and a target that are files; - is neither")
    alone = not as_rank and options.node == 0  # else the first machine decides
    if work is not None and alone:
        work.check_free()
    published = work.published() if work is not None and alone else None
    _check_frame(info, width, height, options)
    checked = check_target(
        info, target, width=width, height=height, codec=options.codec, crf=options.crf, preset=options.preset,
        pix_fmt=options.pix_fmt, overwrite=options.overwrite or published is not None,
    )  # fmt: skip
    network = load_network(options.model, options.weights, options.device, options.precision)
    about = _about(info, checked, network, options)
    resumable = work is not None and info.kind != "y4m"
    finished = resumable and published is not None and published.about == about
    if published is not None and not finished and not options.overwrite:
        raise MediaError(f"{checked.path}: exists already; choose another name, or --overwrite")
    earlier, note, kept = None, None, published.frames if published is not None and finished else 0
    if work is not None and not finished and (alone or as_rank):
        earlier, note = _earlier(work, about, info, checked, network, options, whole=not as_rank)
        kept = sum(segment.frames for segment in work.segments()) if earlier is not None else 0
    frames = _frame_count(info, options)
    plan = earlier.plan if earlier is not None else _plan(network, info, checked, options, frames)
    notes = [*network.notes, *unread(info), *checked.notes, *([note] if note else [])]
    if info.interlaced:
        done = "deinterlaced first" if options.deinterlace else "enlarged as they are; --deinterlace makes whole ones"
        notes.append(f"the source is interlaced; its frames are {done}")
    return Job(
        options, info, checked, network, plan, frames, tuple(notes), work, Manifest(about, plan), earlier is not None,
        kept, resumable, finished,
    )  # fmt: skip


def _host_bytes(options: UpscaleOptions) -> int:
    """Main memory of one rank."""
    budget = options.memory_bytes
    return (budget if budget is not None else int(MEMORY_SHARE * host_free_bytes())) // options.ranks_here


def _check_frame(info: SourceInfo, width: int, height: int, options: UpscaleOptions) -> None:
    """Refuse sizes with which not even the frames on their way to the encoder fit the memory.

    Raises:
        MediaError: with what asks for them.
    """
    pixels = max(width * height, NATIVE_SCALE**2 * info.width * info.height)
    needed, free = (QUEUED_FRAMES + 1) * 3 * (2 if info.bit_depth > 8 else 1) * pixels, _host_bytes(options)
    if needed > free:
        asking = "-: the y4m header asks for" if info.kind == "y4m" else f"{info.path}: the pictures have"
        raise MediaError(
            f"{asking} {info.width}x{info.height} px, {pixels / 1e6:.0f} million when enlarged: this needs more than "
            f"{needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB may be used; make them smaller"
        )


def _plan(
    network: Network, info: SourceInfo, target: Target, options: UpscaleOptions, frames: int | None
) -> engine.Plan:  # fmt: skip
    """Windows and tiles for the memory of one rank."""
    host = _host_bytes(options)
    device_free = network.device.free_bytes()
    try:
        return engine.plan(
            network, info.width, info.height,
            free_bytes=host if device_free is None else int(MEMORY_SHARE * device_free),
            host_free_bytes=None if device_free is None else host,
            window=options.window, tile=options.tile, overlap=options.overlap, lookahead=options.lookahead,
            frame_count=frames, pixel_bytes=2 if info.bit_depth > 8 else 1, other_bytes=target.encoder_bytes,
        )  # fmt: skip
    except OutOfMemoryError as error:
        if target.encoder_bytes < host // 4:
            raise
        share = f"{target.encoder_bytes / 2**30:.2f} GiB of it"
        raise OutOfMemoryError(f"{error}; {share} are the encoder's: less with --size or --preset ultrafast") from error


def _earlier(
    work: Work, about: dict[str, dict[str, Any]], info: SourceInfo, target: Target, network: Network,
    options: UpscaleOptions, *, whole: bool,
) -> tuple[Manifest | None, str | None]:  # fmt: skip
    """What an earlier run has begun, if this one can go on with it, and what to tell the user if it cannot.

    Args:
        whole: look into the segments too.

    Raises:
        MediaError: it was made of or for something else, or is damaged, and may not be thrown away.
    """
    try:
        manifest = work.manifest()
        if manifest is None or not manifest.about["source"]:  # of a stream nobody can go on with
            return None, None
        done = sum(segment.frames for segment in work.segments())
        changed = manifest.differences(about)
        if not changed:
            _check_earlier(work, manifest, info, target, network, options, whole)
            return manifest, None
    except MediaError as error:
        if not options.overwrite:
            raise
        return None, f"starting afresh: {str(error).partition(';')[0]}"
    what = f"{', '.join(changed)} changed since an interrupted run, which had {done} frames done"
    if options.overwrite:
        return None, f"starting afresh: {what}"
    raise MediaError(f"{work.target}: {what}; give the same as then to go on, or --overwrite to start afresh")


def _check_earlier(
    work: Work, manifest: Manifest, info: SourceInfo, target: Target, network: Network, options: UpscaleOptions,
    whole: bool,
) -> None:  # fmt: skip
    """Whether everything is there that going on needs.

    Raises:
        MediaError: something is damaged; it names `--overwrite`.
    """
    with work.checking(MANIFEST):
        engine.check_plan(
            manifest.plan, network, info.width, info.height, window=options.window, overlap=options.overlap,
            lookahead=options.lookahead,
        )  # fmt: skip
    work.ended()
    segments = work.segments() if whole else []
    first = {segment.first for segment in segments}
    header = None
    for segment in segments:
        with work.checking(part_file(target, work.folder, segment.first).name):
            header = check_part(target, work.folder, segment.first, segment.frames, header)
        if segment.carries and segment.after not in first:
            work.carried(segment.after, _state_shapes(network, info, options))


def _state_shapes(network: Network, info: SourceInfo, options: UpscaleOptions) -> Shapes:
    """The states of tiles of a size; a run that lacked memory may have made them smaller than the plan's."""

    def shapes(tile: tuple[int, int]) -> list[dict[str, tuple[int, ...]]]:
        engine.check_tile(tile, info.width, info.height)
        grid = engine.TileGrid(info.height, info.width, tile, options.overlap)
        return [network.state_shapes(*tile)] * len(grid)

    return shapes


def _about(info: SourceInfo, target: Target, network: Network, options: UpscaleOptions) -> dict[str, dict[str, Any]]:
    """What the result depends on, as JSON has it."""
    settings = {"--" + name.replace("_", "-"): value for name, value in asdict(options).items() if name not in _ASIDE}
    output = [target.kind, target.width, target.height, target.encoder, target.pix_fmt, *target.options]
    about = {
        "source": _identity(info),
        "network": {"name": network.card["name"], "sha256": file_sha256(options.model, options.weights)},
        "settings": {
            **settings, "--device": network.device.kind, "the encoder's options": output,
            "the version of rvrt": rvrt_cli.__version__, "the version of ffmpeg": ffmpeg_version(),
        },
    }  # fmt: skip
    return json.loads(json.dumps(about))


def _identity(info: SourceInfo) -> dict[str, Any]:
    """What tells a source from another one of its name: paths, sizes and times of change."""
    if info.kind == "y4m":
        return {}
    files = list(info.files) or [Path(info.path)]
    digest = hashlib.sha256()
    size = 0
    for path in files:
        seen = path.stat()
        size += seen.st_size
        digest.update(f"{path.absolute()}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"path": str(Path(info.path).absolute()).encode("utf-8", "replace").decode(), "files": len(files),
            "bytes": size, "sha256": digest.hexdigest()}  # fmt: skip


def _frame_count(info: SourceInfo, options: UpscaleOptions) -> int | None:
    if options.start == 0 and options.duration is None:
        return info.frame_count
    if info.duration is None:
        return None
    seconds = max(0.0, info.duration - options.start)
    if options.duration is not None:
        seconds = min(seconds, options.duration)
    return max(1, math.ceil(seconds * info.frame_rate - 1e-6))  # a frame belongs to what its time lies in
