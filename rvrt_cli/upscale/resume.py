# SPDX-License-Identifier: Apache-2.0
"""What an earlier run has left, and whether this one can resume it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvrt_cli import engine
from rvrt_cli.errors import MediaError
from rvrt_cli.frame import padded_size
from rvrt_cli.options import JobOptions, option_flag
from rvrt_cli.runtime import OnnxNetwork
from rvrt_cli.upscale.finish import Finish
from rvrt_cli.upscale.grain import GrainCurve
from rvrt_cli.upscale.noise_estimate import NoiseLevel
from rvrt_cli.upscale.workdir import RUN_MANIFEST, About, Published, RunManifest, StateShapes, Workdir
from rvrt_cli.version import __version__
from rvrt_cli.video.ffmpeg import ffmpeg_version
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.publish import check_part, part_file
from rvrt_cli.video.write.target import Target
from rvrt_cli.weights import file_sha256

if TYPE_CHECKING:
    from rvrt_cli.model import Network, NetworkOutline

# Options that do not change the result; that of `model` and `weights` is the network's, that of `device` and
# `runtime` what they stand for
_WITHOUT_EFFECT = {"model", "weights", "device", "runtime", "memory", "overwrite", "segment"}
_WITHOUT_EFFECT |= {"ranks", "local_ranks", "node", "master"}


@dataclass(frozen=True)
class JobInputs:
    """What a job is made from: options, source as probed, its noise and grain, target as checked, network as loaded."""

    options: JobOptions
    source: SourceInfo
    target: Target
    network: Network | NetworkOutline | OnnxNetwork
    noise: NoiseLevel | None = None
    grain: GrainCurve | None = None

    @property
    def window_options(self) -> engine.WindowOptions:
        """What the user asks of windows and tiles."""
        options, window, tile = self.options, self.options.window, self.options.tile
        if isinstance(self.network, OnnxNetwork):  # made for one window, and perhaps for one size
            window = self.network.model.frames
            tile = tile if self.network.model.size is None else 0
        return engine.WindowOptions(window, tile, options.overlap, options.lookahead)

    @property
    def finish(self) -> Finish:
        """What becomes of a frame between the network and the encoder."""
        before, after = ((part.height, part.width) for part in (self.source, self.target))
        return Finish.of_options(self.options, before, after, self.grain)


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run has left; by default nothing.

    Attributes:
        plan: its windows and tiles, where this run resumes it.
        kept: frames that it has finished.
        finished: the target is complete already: it was killed just before its end.
        notes: why it cannot be resumed, for the user.
    """

    plan: engine.Plan | None = None
    kept: int = 0
    finished: bool = False
    notes: tuple[str, ...] = ()


def identify(inputs: JobInputs) -> About:
    """What the result depends on, as JSON has it."""
    options, target = inputs.options, inputs.target
    encoding = [target.kind, target.width, target.height, target.encoder, target.pix_fmt, *target.options]
    about = {
        "source": _identify_source(inputs.source),
        "network": {
            "name": inputs.network.card["name"],
            "sha256": file_sha256(options.model, options.weights),
        },
        "settings": {
            **_settings(options),
            "--device": inputs.network.device.kind,
            "--runtime": "mindspore" if options.uses_mindspore else "onnx",
            "the encoder's options": encoding,
            "the version of rvrt": __version__,
            "the version of ffmpeg": ffmpeg_version(),
        },
    }
    return json.loads(json.dumps(about))


def identify_request(source: str, files: Sequence[Path], options: JobOptions) -> About:
    """What a result depends on, as far as that is known without a look into its source.

    Only settings that are not the defaults, so that options which a later version adds change nothing.

    Args:
        files: of the source.

    Raises:
        OSError: one of them is missing.
        WeightsError: no such weights.
    """
    about = {
        "source": _identify_files(source, files),
        "network": {"sha256": file_sha256(options.model, options.weights)},
        "settings": _settings(options, defaults=False),
    }
    return json.loads(json.dumps(about))


def _settings(options: JobOptions, *, defaults: bool = True) -> dict[str, Any]:
    """The options that change the result, as they are written on the command line; also those left at their `defaults`."""
    return {
        option_flag(entry.name): getattr(options, entry.name)
        for entry in fields(options)
        if entry.name not in _WITHOUT_EFFECT and (defaults or getattr(options, entry.name) != entry.default)
    }


def _identify_source(info: SourceInfo) -> dict[str, Any]:
    """See `_identify_files`; nothing of a stream."""
    return {} if info.kind == "y4m" else _identify_files(info.path, info.files or (Path(info.path),))


def _identify_files(source: str, files: Sequence[Path]) -> dict[str, Any]:
    """What tells a source from another one of the same name: paths, sizes and times of modification."""
    digest = hashlib.sha256()
    size = 0
    for path in files:
        found = path.stat()
        size += found.st_size
        digest.update(f"{path.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {
        "path": str(Path(source).absolute()).encode("utf-8", "replace").decode(),
        "files": len(files),
        "bytes": size,
        "sha256": digest.hexdigest(),
    }


def refuse_foreign_target(inputs: JobInputs, published: Published, about: About, resumable: bool) -> None:
    """Refuse to replace a target that an earlier run has completed for something else.

    Raises:
        MediaError: without --overwrite.
    """
    if not (resumable and published.about == about) and not inputs.options.overwrite:
        raise MediaError(f"{inputs.target.path}: exists already; choose another name, or --overwrite")


def find_earlier_run(
    inputs: JobInputs, workdir: Workdir, about: About, published: Published | None, *, look_inside: bool
) -> EarlierRun:
    """What an earlier run has left in `workdir`, if this one can resume it.

    Args:
        published: what the target holds already, if an earlier run was killed after it had its name.
        look_inside: check the encoded segments too.

    Raises:
        MediaError: it was made of or for something else, or is damaged, and may not be thrown away.
    """
    if published is not None and published.about == about:
        return EarlierRun(kept=published.frames, finished=True)
    try:
        manifest = workdir.manifest()
        if manifest is None or not manifest.about["source"]:  # a stream cannot be resumed
            return EarlierRun()
        done = sum(segment.frames for segment in workdir.segments())
        changed = manifest.differences(about)
        if not changed:
            _check_intact(inputs, workdir, manifest, look_inside)
            return EarlierRun(plan=manifest.plan, kept=done)
    except MediaError as error:
        if not inputs.options.overwrite:
            raise
        return EarlierRun(notes=(f"restarting: {str(error).partition(';')[0]}",))
    what = f"{', '.join(changed)} changed since an interrupted run, which had {done} frames done"
    if inputs.options.overwrite:
        return EarlierRun(notes=(f"restarting: {what}",))
    raise MediaError(f"{workdir.target}: {what}; give the same as then to resume, or --overwrite to restart")


def _check_intact(inputs: JobInputs, workdir: Workdir, manifest: RunManifest, look_inside: bool) -> None:
    """Check that everything is there that resuming needs.

    Raises:
        MediaError: something is damaged; it names `--overwrite`.
    """
    source, target = inputs.source, inputs.target
    with workdir.checking(RUN_MANIFEST):
        workload = engine.Workload(source.width, source.height)
        engine.check_plan(manifest.plan, inputs.network, workload, inputs.window_options)
    workdir.source_end()
    segments = workdir.segments() if look_inside else []
    first_frames = {segment.first for segment in segments}
    header = None
    for segment in segments:
        with workdir.checking(part_file(target, workdir.folder, segment.first).name):
            header = check_part(target, workdir.folder, segment.first, segment.frames, header)
        if segment.carries and segment.after not in first_frames:
            workdir.carried(segment.after, state_shapes(inputs))


def state_shapes(inputs: JobInputs) -> StateShapes:
    """The states of tiles of a given size; a run that lacked memory may have made them smaller than planned."""
    source, network, overlap = inputs.source, inputs.network, inputs.options.overlap

    def shapes(tile: tuple[int, int]) -> list[dict[str, tuple[int, ...]]]:
        padded = padded_size(source.height, source.width, network.reduction)
        engine.check_tile(tile, padded, network.reduction)
        grid = engine.TileGrid(*padded, tile, overlap, network.reduction)
        return [network.state_shapes(*tile)] * len(grid)

    return shapes
