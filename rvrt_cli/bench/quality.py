# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM of a network on a test set, beside those of bicubic; an interrupted run resumes.

T frames, H×W px high resolution, h×w = H/4 × W/4. Frames are uint8 RGB (T, H, W, 3).
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rvrt_cli import engine
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import CENTER, ClipPair, Dataset
from rvrt_cli.bench.flicker import mean_change, still_footage
from rvrt_cli.bench.published_figures import published_quality
from rvrt_cli.bench.report import make_report
from rvrt_cli.bench.resume_log import ResumeLog, resume_log_path
from rvrt_cli.bench.speed import network_facts
from rvrt_cli.bench.vmaf import vmaf
from rvrt_cli.data.validation import baseline_frames, bicubic_upscale
from rvrt_cli.device import memory_budget
from rvrt_cli.errors import OptionError, OutOfMemoryError, RvrtError
from rvrt_cli.files import write_atomically
from rvrt_cli.frame import Frame, to_float, to_pixels
from rvrt_cli.metrics import chroma_error, clip_means, psnr, rgb_to_y, ssim

if TYPE_CHECKING:
    from rvrt_cli.model import Network

# Degradations of the data that weights suit, by the degradation on their card. "video" and "real" contain clean bicubic;
# "video" imitates the most common part of "real", which shows how far that carries.
SUITABLE_DEGRADATIONS = {
    "bi": ("bi",),
    "bd": ("bd",),
    "video": ("video", "real", "bi"),
    "real": ("real", "video", "bi"),
    "blur": ("blur",),
    "noise": ("noise",),
}
_METRICS = ("psnr", "ssim")
_MEANS = (*_METRICS, "vmaf", "flicker")


@dataclass
class QualityProgress:
    """Progress of a run: `done` of `total` entries, `resumed` of them scored by an earlier run."""

    total: int
    done: int = 0
    resumed: int = 0


def check_degradation(card: dict[str, Any], degradation: str, force: bool) -> str | None:
    """Refuse weights trained for one degradation on data of another.

    Returns:
        a note where the mismatch is forced, or the card does not name a degradation; else None.

    Raises:
        OptionError: they do not fit, and `force` is not given.
    """
    trained_for = card["degradation"]
    if trained_for == "none":
        return "the weights do not say what degradation they were trained for"
    if degradation in SUITABLE_DEGRADATIONS[trained_for]:
        return None
    mismatch = f"the weights {card['name']} were trained for {trained_for} and the data is {degradation}"
    if not force:
        raise OptionError(
            f"{mismatch}: the scores would be misleading; choose other weights or --degradation, or add --force"
        )
    return f"forced: {mismatch}"


def fitting_network(network: Network, dataset: Dataset) -> Network:
    """The network, told the noise of the data if it takes a noise level.

    Raises:
        OptionError: it upscales and the data is for restoration, or the other way round; or it denoises other data.
    """
    if network.scale != dataset.scale:
        needed = "restores, such as rvrt-deblur-gopro" if dataset.scale == 1 else f"upscales {dataset.scale} times"
        name = network.card["name"]
        raise OptionError(f"--protocol {dataset.protocol}: {name} does not fit; choose a --model that {needed}")
    if network.config.noise_input and dataset.noise is None:
        raise OptionError(f"--protocol {dataset.protocol}: {network.card['name']} denoises; choose set8 or davis")
    if network.config.noise_input and dataset.noise is not None:
        return network.with_noise(dataset.noise / 255)
    return network


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """The keys of a report that describe the data."""
    return {
        "protocol": dataset.protocol,
        "data": dataset.description,
        "degradation": dataset.degradation,
        "low_resolution": dataset.low_resolution,
        "noise": dataset.noise,
        "baseline": dataset.baseline,
        "channel": dataset.channel,
    }


def measure_quality(
    options: BenchOptions,
    dataset: Dataset,
    network: Network,
    progress: QualityProgress | None = None,
    on_entry: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Score `network` on `dataset`: a report of kind "quality".

    Finished entries are logged in the user's cache until the run is complete, and the same command resumes from there. A
    sample (--limit) uses and extends the log of an interrupted run of the whole set, and leaves it in place.

    Args:
        progress: updated in place; `on_entry` is called after each entry.

    Raises:
        OptionError: the weights are made for other data, or --save names a folder that is not empty.
        RvrtError: with the remedy.
    """
    network = fitting_network(network, dataset)
    note = check_degradation(network.card, dataset.degradation, options.force)
    log = ResumeLog(resume_log_path(options, dataset, network))
    if options.save is not None:
        _check_save_folder(Path(options.save), log)
    log.begin()
    progress = progress or QualityProgress(len(dataset.entries))
    clips: list[dict[str, Any]] = []
    for entry in dataset.entries:
        fingerprint = entry.fingerprint()  # of the files before they are read
        scored = log.get(entry.name, fingerprint)
        progress.resumed += scored is not None
        if scored is None:
            # map does not keep a pair: it is freed before the next shot is read
            scored = list(map(partial(_score_clip, network, dataset, options), entry.load()))
            log.add(entry.name, fingerprint, scored)
        clips += scored
        progress.done += 1
        on_entry()
    if len(dataset.entries) == dataset.total or not log.existed:
        log.remove()
    facts = network_facts(network)
    notes = [*facts["notes"], *([note] if note else []), *_caveats(dataset, clips, progress)]
    return make_report(
        "quality",
        **{**facts, "notes": notes},
        **_dataset_facts(dataset),
        sample=len(dataset.entries) < dataset.total,
        clips_scored=len(dataset.entries),
        clips_total=dataset.total,
        shots_scored=len(clips),
        frames_scored=sum(clip["frames"] for clip in clips),
        **_mean_scores(clips),
        degradations=_scores_by_degradation(clips),
        clips=clips,
        published=published_quality(dataset.protocol, dataset.degradation, dataset.noise),
    )


def _caveats(dataset: Dataset, clips: list[dict[str, Any]], progress: QualityProgress) -> list[str]:
    """Ways in which the figures are not what a reader would take them for."""
    notes = []
    if dataset.protocol_total:
        notes.append(
            f"the set lists {dataset.total} of the protocol's {dataset.protocol_total} clips: these figures are of that part, "
            "published ones of the whole"
        )
    exact = sum(clip["exact"] for clip in clips)
    if exact:
        notes.append(
            f"frames that bicubic upscales exactly, such as black ones, are excluded from every PSNR: {exact} of "
            f"{sum(clip['frames'] for clip in clips)}"
        )
    split = sum(bool(clip["window"] or clip["tile"]) for clip in clips)
    if dataset.protocol == "clips":
        notes.append("the clips were streamed in windows, as `rvrt upscale` does (see clips)")
    elif split:
        notes.append(
            f"{split} of {len(clips)} clips did not fit the memory whole and were processed in windows or tiles (see "
            "clips), while the protocol takes each clip in one call"
        )
    if progress.resumed:
        notes.append(f"{progress.resumed} of {progress.total} clips were scored by an earlier, interrupted run")
    return notes


def _mean_scores(clips: list[dict[str, Any]]) -> dict[str, float]:
    """Means in which every clip counts the same, however long it is; clips without a PSNR are excluded from it."""
    plain = (key.removeprefix("bicubic_").removeprefix("input_") for key in clips[0])
    measured = [key for key, name in zip(clips[0], plain, strict=True) if name.startswith(_MEANS)]
    scored = {key: {clip["clip"]: [clip[key]] for clip in clips if clip[key] is not None} for key in measured}
    return {key: clip_means(scores)[1] if scores else math.nan for key, scores in scored.items()}


def _scores_by_degradation(clips: list[dict[str, Any]]) -> dict[str, dict[str, float]] | None:
    """`_mean_scores` of the clips of each degradation, where the set has several."""
    names = dict.fromkeys(clip["degradation"] for clip in clips)
    if set(names) == {""}:
        return None
    return {name: _mean_scores([clip for clip in clips if clip["degradation"] == name]) for name in names}


def _score_clip(network: Network, dataset: Dataset, options: BenchOptions, pair: ClipPair) -> dict[str, Any]:
    started = time.perf_counter()
    if dataset.center:
        upscaled, window, tile = upscale_center_frame(network, pair.low), 0, 0
        shown = pair.low[CENTER : CENTER + 1]
    else:
        upscaled, plan = upscale_clip(network, pair.low, whole=dataset.protocol != "clips")
        window, tile = plan.window, 0 if plan.tiles == 1 else max(plan.tile)
        shown = pair.low
    seconds = time.perf_counter() - started
    baseline, channel = baseline_frames(shown, pair.high), dataset.channel
    scores: dict[str, Any] = {"clip": pair.name, "degradation": pair.degradation, "frames": len(upscaled)}
    exact = (baseline == pair.high).all((1, 2, 3))  # its PSNR is infinite there, nothing can be compared with it
    counted = np.ones_like(exact) if dataset.protocol != "clips" else ~exact  # published protocols count every frame
    for prefix, frames in (("", upscaled), (f"{dataset.baseline}_", baseline)):
        values = score_frames(frames, pair.high, channel, counted)
        scores |= {f"{prefix}{name}_{channel}": value for name, value in zip(_METRICS, values, strict=True)}
        if options.vmaf:
            scores[f"{prefix}vmaf"] = vmaf(frames, pair.high)
        if dataset.protocol == "clips":  # published protocols score luma or RGB alone
            scores |= {f"{prefix}psnr_{name}": value for name, value in chroma_psnr(frames, pair.high).items()}
    if dataset.protocol == "clips" and not pair.degradation:  # flicker is that of undamaged footage
        footage = still_footage(pair.low[len(pair.low) // 2])
        scores |= {"flicker": mean_change(upscale_clip(network, footage, whole=False)[0])}
        scores |= {"bicubic_flicker": mean_change(bicubic_upscale(footage))}
    if options.save is not None:
        names = ["im4.png"] if dataset.center else [f"{number:08d}.png" for number in range(len(upscaled))]
        _save_frames(Path(options.save) / pair.name, upscaled, names)
    return {**scores, "exact": int((~counted).sum()), "window": window, "tile": tile, "seconds": seconds}


def score_frames(
    frames: np.ndarray, reference: np.ndarray, channel: str, counted: np.ndarray | None = None
) -> tuple[float | None, float]:
    """PSNR [dB] and SSIM, each the mean over the frames; on Y (`channel` "y") or on RGB, without a border.

    Args:
        counted: bool (T,), the frames that count for PSNR; None: all. Where there are none, PSNR is None.
    """
    pairs = [
        (rgb_to_y(frame), rgb_to_y(target)) if channel == "y" else (frame, target)
        for frame, target in zip(frames, reference, strict=True)
    ]
    ratios = [psnr(*pair) for k, pair in enumerate(pairs) if counted is None or counted[k]]
    return float(np.mean(ratios)) if ratios else None, float(np.mean([ssim(*pair) for pair in pairs]))


def chroma_psnr(frames: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """PSNR [dB] of Cb and Cr, by the mean squared error over all frames; None without an error, as of gray video."""
    errors = zip(("cb", "cr"), chroma_error(frames, reference), strict=True)
    return {name: 10 * math.log10(255**2 / error) if error > 0 else None for name, error in errors}


def upscale_clip(network: Network, low: np.ndarray, whole: bool) -> tuple[np.ndarray, engine.Plan]:
    """(T, scale * h, scale * w, 3) uint8 of (T, h, w, 3) uint8, or float32 on the scale [0, 1].

    Args:
        whole: the clip in one call, untiled, as published, where the memory allows it; else as `rvrt upscale` streams.

    Raises:
        OutOfMemoryError: nothing fits.
    """
    count, height, width = low.shape[:3]
    workload, budget = engine.Workload(width, height, frame_count=count), memory_budget(network.device)
    plan = None
    if whole:
        with suppress(OutOfMemoryError):
            plan = engine.make_plan(network, workload, engine.WindowOptions(window=0, tile=0), budget)
    plan = plan or engine.make_plan(network, workload, engine.WindowOptions(), budget)
    frames = (Frame(pixels, pts) for pts, pixels in enumerate(low))
    segments = engine.stream(frames, network, plan, scenes=False)
    return np.stack([_as_levels(frame.pixels) for segment in segments for frame in segment]), plan


def _as_levels(pixels: np.ndarray) -> np.ndarray:
    """uint8, rounded from floats as published protocols do; of (T, H, W, 3) or (H, W, 3)."""
    return pixels if pixels.dtype == np.uint8 else to_pixels(pixels, np.empty(pixels.shape, np.uint8))


def upscale_center_frame(network: Network, low: np.ndarray) -> np.ndarray:
    """The center frame (1, 4h, 4w, 3) of a septuplet (7, h, w, 3), by the protocol of Vimeo-90K-T.

    The clip and its mirror image go through the network as one, 7 → 14 frames; the two outputs of the center frame, 3 and
    10 from 0, are averaged before they are clipped and rounded.
    """
    clip = to_float(low)
    mirrored = np.concatenate([clip, clip[::-1]])
    output, _ = network(mirrored[None], None, len(mirrored), mirrored=True)
    if not np.isfinite(output).all():
        raise RvrtError("the network's output is not finite; use --precision float32, or check the weights")
    center = (output[0, CENTER] + output[0, len(mirrored) - 1 - CENTER]) / 2
    return to_pixels(center, np.empty(center.shape, np.uint8))[None]


def _check_save_folder(folder: Path, log: ResumeLog) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--save {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not log.existed:
        raise OptionError(f"--save {folder}: is not empty; name a new folder")


def _save_frames(folder: Path, frames: np.ndarray, names: list[str]) -> None:
    for frame, name in zip(frames, names, strict=True):
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "PNG")
        write_atomically(folder / name, data.getvalue(), "free some space, or choose another --save", sync=False)
