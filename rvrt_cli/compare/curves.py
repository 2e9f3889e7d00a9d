# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM, VMAF and flicker over time.

Flicker of a frame is how much of its change since the frame before the reference does not have: the mean of
|(frame - frame before) - (reference - reference before)| on the Y channel, in levels. The reference is the truth, or without
one the bicubic enlargement of the source.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rvrt_cli.bench.vmaf import vmaf_of_frames
from rvrt_cli.compare.aligned_frames import Aligned, Comparison, aligned_frames
from rvrt_cli.metrics import psnr, rgb_to_y, ssim
from rvrt_cli.video.ffmpeg import has_filter

_MAX_CURVE_PIXELS = 400_000_000  # of one layer, that are read in all
_MAX_SSIM_PIXELS = 100_000_000
_SEGMENT_FRAMES = 16  # consecutive frames, where not all are read
_VMAF_BYTES = 200_000_000  # of the frames of one segment
_SMALLEST_SSIM = 11  # px a side

Points = list[tuple[float, float]]


@dataclass
class CurveSet:
    """Scores by curve ("psnr", "ssim", "vmaf", "flicker") and layer, as points (seconds, value)."""

    comparison: Comparison
    points: dict[tuple[str, int], Points] = field(default_factory=lambda: defaultdict(list))
    gap: float = 0.0  # s between points, above which they are not joined
    frames: int = 0
    _ssim_every: int = 1  # frames

    def measure(self) -> None:
        """Read all frames, or segments spread over the whole where they are too many."""
        comparison = self.comparison
        height, width = comparison.size
        rate = float(comparison.after.frame_rate)
        total = max(1, round(comparison.seconds * rate))
        affordable = max(2 * _SEGMENT_FRAMES, _MAX_CURVE_PIXELS // (height * width))
        segment = _SEGMENT_FRAMES / rate
        self.gap = 2.5 / rate
        self._ssim_every = max(1, min(total, affordable) * height * width // _MAX_SSIM_PIXELS)
        if total <= affordable:
            self._take_everything()
            return
        places = np.linspace(0.0, comparison.seconds - segment, affordable // _SEGMENT_FRAMES)
        self.gap = max(self.gap, 1.5 * float(places[1] - places[0]))
        for begin in places:
            self._take(list(aligned_frames(comparison, float(begin), segment)), None)

    def _take_everything(self) -> None:
        batch: list[Aligned] = []
        last: Aligned | None = None
        for frame in aligned_frames(self.comparison, 0.0, None):
            batch.append(frame)
            if len(batch) == _SEGMENT_FRAMES:
                self._take(batch, last)
                last, batch = batch[-1], []
        self._take(batch, last)

    def _take(self, frames: list[Aligned], last: Aligned | None) -> None:
        """Score consecutive frames; `last`: the one before them."""
        has_truth = self.comparison.truth is not None
        before = [rgb_to_y(layer) for layer in last.layers] if last is not None else None
        for frame in frames:
            luma = [rgb_to_y(layer) for layer in frame.layers]
            if before is not None:
                self._add_flicker(frame.seconds, luma, before)
            if has_truth:
                self._add_scores(frame.seconds, luma)
            before = luma
            self.frames += 1
        if has_truth and frames and has_filter("libvmaf"):
            self._add_vmaf(frames)

    def _add_flicker(self, seconds: float, luma: list[np.ndarray], before: list[np.ndarray]) -> None:
        reference = 2 if self.comparison.truth is not None else 0
        moved = luma[reference] - before[reference]
        for layer in (0, 1):
            if layer != reference:
                change = float(np.abs(luma[layer] - before[layer] - moved).mean())
                self.points["flicker", layer].append((seconds, change))

    def _add_scores(self, seconds: float, luma: list[np.ndarray]) -> None:
        for layer in (0, 1):
            score = psnr(luma[layer], luma[2])
            if np.isfinite(score):
                self.points["psnr", layer].append((seconds, score))
            if self.frames % self._ssim_every == 0 and min(luma[2].shape) >= _SMALLEST_SSIM:
                self.points["ssim", layer].append((seconds, ssim(luma[layer], luma[2])))

    def _add_vmaf(self, frames: list[Aligned]) -> None:
        if 3 * len(frames) * frames[0].layers[0].nbytes > _VMAF_BYTES:
            return
        truth = np.stack([frame.layers[2] for frame in frames])
        for layer in (0, 1):
            scores = vmaf_of_frames(np.stack([frame.layers[layer] for frame in frames]), truth)
            self.points["vmaf", layer] += [(frame.seconds, score) for frame, score in zip(frames, scores, strict=True)]

    def for_page(self) -> list[dict[str, Any]]:
        """The curves that have points, as the page draws them."""
        kinds = (
            ("psnr", "PSNR, Y channel", "dB", 2, False),
            ("ssim", "SSIM, Y channel", "", 4, False),
            ("vmaf", "VMAF", "", 1, False),
            ("flicker", "Temporal flicker", "levels", 3, True),
        )
        curves = []
        for kind, name, unit, digits, zero in kinds:
            lines = []
            for layer, label in enumerate(self.comparison.layers):
                points = self.points.get((kind, layer))
                if points:
                    rounded = [(round(seconds, 4), round(value, digits + 2)) for seconds, value in points]
                    mean = float(np.mean([value for _, value in points]))
                    lines.append({"label": label, "color": layer, "points": rounded, "mean": mean})
            if lines:
                gap = max(self.gap, self.gap * self._ssim_every if kind == "ssim" else 0.0)
                curves.append({"name": name, "unit": unit, "digits": digits, "zero": zero, "gap": gap, "lines": lines})
        return curves
