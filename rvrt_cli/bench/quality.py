"""PSNR and SSIM of a network on a test set, with bicubic beside it; takes up where an interrupted run stopped.

T frames, H×W px high resolution, h×w = H/4 × W/4. Frames are uint8 RGB (T, H, W, 3).
"""

from __future__ import annotations

import hashlib
import io
import json
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

from rvrt_cli import __version__, engine
from rvrt_cli.bench.bench_options import BenchOptions
from rvrt_cli.bench.datasets import CENTER, Dataset, Pair
from rvrt_cli.bench.published_figures import published_quality
from rvrt_cli.bench.report import report
from rvrt_cli.bench.speed import about
from rvrt_cli.bench.vmaf import vmaf
from rvrt_cli.data.validation import bicubic_upscale
from rvrt_cli.device import host_free_bytes
from rvrt_cli.errors import OptionError, OutOfMemoryError, RvrtError
from rvrt_cli.files import write_atomically
from rvrt_cli.frame import to_float, to_pixels
from rvrt_cli.metrics import clip_means, psnr, rgb_to_y, ssim
from rvrt_cli.upscale import MEMORY_SHARE
from rvrt_cli.weights import cache_folder, file_sha256

if TYPE_CHECKING:
    from rvrt_cli.model import Network

# Degradations of the data that weights are made for, by what their card says; "video" has clean bicubic among its clips
SUITED = {"bi": ("bi",), "bd": ("bd",), "video": ("video", "bi")}
_SCORES = ("psnr", "ssim")
_NOTES = 2  # counts up when what is noted of a case changes


@dataclass
class Standing:
    """How far a run is: `done` of `total` cases, `resumed` of them by a run before."""

    total: int
    done: int = 0
    resumed: int = 0


def check_degradation(card: dict[str, Any], degradation: str, force: bool) -> str | None:
    """Refuse weights for one kind of data on another; a note where that is forced, or the weights do not say.

    Raises:
        OptionError: they do not fit, and `force` is not given.
    """
    made_for = card["degradation"]
    if made_for == "none":
        return "the weights do not say what degradation they were trained for"
    if degradation in SUITED[made_for]:
        return None
    mismatch = f"the weights {card['name']} were trained for {made_for} and the data is {degradation}"
    if not force:
        raise OptionError(f"{mismatch}: scores would say little; choose other weights or --degradation, or add --force")
    return f"forced: {mismatch}"


def measure_quality(
    options: BenchOptions,
    dataset: Dataset,
    network: Network,
    standing: Standing | None = None,
    on_clip: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Score `network` on `dataset`: a report of kind "quality".

    What is done is written down case by case in the user's cache, until the run is complete; the same command goes on
    from there. A sample (--limit) reads and adds to the notes of an interrupted run of more, and leaves them to it.

    Args:
        standing: kept up to date; `on_clip` is called after each case.

    Raises:
        OptionError: the weights are made for other data, or --save names a folder with something else in it.
        RvrtError: with the remedy.
    """
    note = check_degradation(network.card, dataset.degradation, options.force)
    progress = Notes(notes_path(options, dataset, network))
    if options.save is not None:
        _check_save(Path(options.save), progress)
    progress.begin()
    standing = standing or Standing(len(dataset.cases))
    clips: list[dict[str, Any]] = []
    for case in dataset.cases:
        stamp = case.stamp()  # of the files before they are read
        scored = progress.get(case.name, stamp)
        standing.resumed += scored is not None
        if scored is None:
            # no name for the pair: it goes before the next shot is read
            scored = list(map(partial(_score, network, dataset, options), case.load()))
            progress.add(case.name, stamp, scored)
        clips += scored
        standing.done += 1
        on_clip()
    if len(dataset.cases) == dataset.total or not progress.existed:
        progress.remove()
    result, more = about(network), [note] if note else []
    more += _remarks(dataset, clips, standing)
    return report(
        "quality",
        **{**result, "notes": [*result["notes"], *more]},
        protocol=dataset.protocol,
        data=dataset.about,
        degradation=dataset.degradation,
        low_resolution=dataset.low,
        channel=dataset.channel,
        sample=len(dataset.cases) < dataset.total,
        clips_scored=len(dataset.cases),
        clips_total=dataset.total,
        shots_scored=len(clips),
        frames_scored=sum(clip["frames"] for clip in clips),
        **_means(clips),
        clips=clips,
        published=published_quality(dataset.protocol, dataset.degradation),
    )


def _remarks(dataset: Dataset, clips: list[dict[str, Any]], standing: Standing) -> list[str]:
    """How the figures are not what a reader would take them for."""
    more = []
    if dataset.whole:
        more.append(
            f"the set lists {dataset.total} of the protocol's {dataset.whole} clips: these are figures of a part of it, those "
            "published are of the whole"
        )
    exact = sum(clip["exact"] for clip in clips)
    if exact:
        more.append(
            f"frames that bicubic enlarges exactly, such as black ones, say nothing: {exact} of "
            f"{sum(clip['frames'] for clip in clips)} are left out of every PSNR"
        )
    cut = sum(bool(clip["window"] or clip["tile"]) for clip in clips)
    if dataset.protocol == "clips":
        more.append("the clips went through as `rvrt upscale` streams them, in windows (see clips)")
    elif cut:
        more.append(
            f"{cut} of {len(clips)} clips did not fit the memory whole: they went through in windows or tiles (see clips), "
            "which is not the protocol's one call a clip"
        )
    if standing.resumed:
        more.append(f"{standing.resumed} of {standing.total} clips were scored by an interrupted run before this one")
    return more


def _means(clips: list[dict[str, Any]]) -> dict[str, float]:
    """Every clip counts the same, however long it is; of PSNR those alone of which a frame is left."""
    measured = [key for key in clips[0] if key.removeprefix("bicubic_").startswith((*_SCORES, "vmaf"))]
    scored = {key: {clip["clip"]: [clip[key]] for clip in clips if clip[key] is not None} for key in measured}
    return {key: clip_means(scores)[1] if scores else math.nan for key, scores in scored.items()}


def _score(network: Network, dataset: Dataset, options: BenchOptions, pair: Pair) -> dict[str, Any]:
    started = time.perf_counter()
    if dataset.center:
        ours, window, tile = enlarge_center(network, pair.low), 0, 0
        bicubic = bicubic_upscale(pair.low[CENTER : CENTER + 1])
    else:
        ours, plan = enlarge(network, pair.low, whole=dataset.protocol != "clips")
        window, tile = plan.window, 0 if plan.tiles == 1 else max(plan.tile)
        bicubic = bicubic_upscale(pair.low)
    seconds = time.perf_counter() - started
    channel = dataset.channel
    scores: dict[str, Any] = {"clip": pair.name, "frames": len(ours)}
    exact = (bicubic == pair.high).all((1, 2, 3))  # bicubic's PSNR is infinite there, and what is better?
    told = np.ones_like(exact) if dataset.protocol != "clips" else ~exact  # the field's protocols have every frame
    for prefix, frames in (("", ours), ("bicubic_", bicubic)):
        values = score_frames(frames, pair.high, channel, told)
        scores |= {f"{prefix}{name}_{channel}": value for name, value in zip(_SCORES, values, strict=True)}
        if options.vmaf:
            scores[f"{prefix}vmaf"] = vmaf(frames, pair.high)
    if options.save is not None:
        names = ["im4.png"] if dataset.center else [f"{number:08d}.png" for number in range(len(ours))]
        _save(Path(options.save) / pair.name, ours, names)
    return {**scores, "exact": int((~told).sum()), "window": window, "tile": tile, "seconds": seconds}


def score_frames(
    frames: np.ndarray, reference: np.ndarray, channel: str, told: np.ndarray | None = None
) -> tuple[float | None, float]:
    """PSNR [dB] and SSIM, each the mean over the frames; on Y (`channel` "y") or on RGB, without a border.

    Args:
        told: bool (T,), the frames that PSNR is taken of; all. None comes back where there is none.
    """
    pairs = [
        (rgb_to_y(frame), rgb_to_y(target)) if channel == "y" else (frame, target)
        for frame, target in zip(frames, reference, strict=True)
    ]
    ratios = [psnr(*pair) for k, pair in enumerate(pairs) if told is None or told[k]]
    return float(np.mean(ratios)) if ratios else None, float(np.mean([ssim(*pair) for pair in pairs]))


def enlarge(network: Network, low: np.ndarray, whole: bool) -> tuple[np.ndarray, engine.Plan]:
    """(T, 4h, 4w, 3) of (T, h, w, 3).

    Args:
        whole: the clip at once, untiled, as published, where the memory allows it; else as `rvrt upscale` streams.

    Raises:
        OutOfMemoryError: nothing fits.
    """
    frames, height, width = low.shape[:3]
    host = int(MEMORY_SHARE * host_free_bytes())
    device = network.device.free_bytes()
    free, host_free = (host, None) if device is None else (int(MEMORY_SHARE * device), host)
    size: dict[str, Any] = {"free_bytes": free, "host_free_bytes": host_free, "frame_count": frames}
    plan = None
    if whole:
        with suppress(OutOfMemoryError):
            plan = engine.plan(network, width, height, window=0, tile=0, **size)
    plan = plan or engine.plan(network, width, height, **size)
    return np.stack(list(engine.stream(iter(low), network, plan, scenes=False))), plan


def enlarge_center(network: Network, low: np.ndarray) -> np.ndarray:
    """The center frame (1, 4h, 4w, 3) of a septuplet (7, h, w, 3), after Vimeo-90K-T's protocol.

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


class Notes:
    """What is done of a run: a line of JSON per case, written down as it is finished."""

    def __init__(self, path: Path) -> None:
        self.path, self.existed = path, path.exists()
        self._done: dict[tuple[str, str], list[dict[str, Any]]] = {}
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # the last line may be cut short
                    entry = json.loads(line)
                    self._done[entry["case"], entry["stamp"]] = entry["clips"]

    def begin(self) -> None:
        """Leave a mark before anything else is written."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()

    def get(self, case: str, stamp: str) -> list[dict[str, Any]] | None:
        """The scores of a case's clips, if it is done and its files are still those."""
        return self._done.get((case, stamp))

    def add(self, case: str, stamp: str, clips: list[dict[str, Any]]) -> None:
        """Write down a case. Where that fails the run goes on, and cannot be resumed from here."""
        # on a line of its own: the one before may have been cut short
        line = "\n" + json.dumps({"case": case, "stamp": stamp, "clips": clips})
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def remove(self) -> None:
        """Forget the run: nothing of it is left to do."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self.path.parents[:2]:  # where nothing else is in them
                folder.rmdir()


def notes_path(options: BenchOptions, dataset: Dataset, network: Network) -> Path:
    """Where the notes of this run lie: a name that changes with whatever changes the scores or the saved frames."""
    weights = file_sha256(options.model, options.weights)
    data = str(Path(options.data).resolve()) if options.data else ""
    save = str(Path(options.save).resolve()) if options.save else ""
    device = network.device
    facts = [
        __version__,
        _NOTES,
        weights,
        dataset.protocol,
        data,
        dataset.about,
        dataset.degradation,
        dataset.low,
        save,
    ]
    facts += [device.kind, device.precision, str(options.vmaf)]
    return cache_folder() / "bench" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.jsonl"


def _check_save(folder: Path, progress: Notes) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--save {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not progress.existed:
        raise OptionError(f"--save {folder}: is not empty; name a new folder")


def _save(folder: Path, frames: np.ndarray, names: list[str]) -> None:
    for frame, name in zip(frames, names, strict=True):
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "PNG")
        write_atomically(folder / name, data.getvalue(), "free some space, or choose another --save", sync=False)
