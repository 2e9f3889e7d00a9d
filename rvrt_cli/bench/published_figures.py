# SPDX-License-Identifier: Apache-2.0
"""Published figures, for comparison with ours; none of them was measured by this program."""

from __future__ import annotations

from typing import Any

from rvrt_cli.weights import PUBLISHED

# One call on 14 frames of 64×112 px (MindSpore); one frame of 180×320 px (the paper's Table 2)
_PUBLISHED_SPEED: tuple[tuple[tuple[int | None, int, int], dict[str, Any]], ...] = (
    ((14, 112, 64), {"network": "rvrt", "on": "RTX 3090 Ti, float32, MindSpore", "seconds_per_call": 2.32, "gb": 11.7}),
    ((14, 112, 64), {"network": "rvrt", "on": "Ascend 910, mixed precision, MindSpore", "seconds_per_call": 0.74}),
    (
        (14, 112, 64),
        {"network": "rvrt-light", "on": "RTX 3090 Ti, float32, MindSpore", "seconds_per_call": 1.9, "gb": 6.3},
    ),
    (
        (14, 112, 64),
        {"network": "rvrt-light", "on": "Ascend 910, mixed precision, MindSpore", "seconds_per_call": 0.40},
    ),
    ((None, 320, 180), {"network": "rvrt", "on": "V100, PyTorch", "seconds_per_frame": 0.183}),
)
_TABLE_NAMES = {"vimeo90k-t": "Vimeo-90K-T", "vid4": "Vid4", "reds4": "REDS4", "udm10": "UDM10"}
_TABLE_NAMES |= {"gopro": "GoPro", "dvd": "DVD", "set8": "Set8", "davis": "DAVIS"}
_OTHER_SCORES: dict[tuple[str, str], tuple[tuple[str, float], ...]] = {
    ("vimeo90k-t", "bi"): (
        ("rvrt, MindSpore", 38.12),
        ("rvrt-light, MindSpore", 37.91),
        ("BasicVSR", 37.18),
        ("BasicVSR++", 37.79),
        ("VRT", 38.20),
        ("PSRT-recurrent", 38.27),
    ),
    ("vid4", "bi"): (("bicubic", 23.78),),
}


def published_speed(frames: int, width: int, height: int) -> list[dict[str, Any]]:
    """Published times [s] and memory ("gb") of calls of this size, each with the network and what it ran on."""
    return [
        {**entry, "published": True}
        for job, entry in _PUBLISHED_SPEED
        if job[1:] == (width, height) and job[0] in (None, frames)
    ]


def published_quality(protocol: str, degradation: str, noise: float | None = None) -> list[dict[str, Any]]:
    """Published PSNR [dB] and SSIM on this set, each with the network; on the channel of the protocol.

    Args:
        noise: standard deviation of the noise, for denoising [levels of 255].
    """
    table = _TABLE_NAMES.get(protocol, "") + ("" if noise is None else f" {noise:g}")
    found: list[dict[str, Any]] = []
    for entry in PUBLISHED:
        scores = entry.scores.get(table)
        if scores and entry.degradation == degradation:
            ssim = scores[1] if len(scores) > 1 else None
            found.append({"network": entry.name, "psnr": scores[0], "ssim": ssim, "published": True})
    others = _OTHER_SCORES.get((protocol, degradation), ())
    return found + [{"network": name, "psnr": value, "ssim": None, "published": True} for name, value in others]
