"""Which weights there are, and where: embedded in the package, in the user's cache, or published on the web."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rvrt_cli.errors import WeightsError
from rvrt_cli.weights.safe_pickle import shown
from rvrt_cli.weights.weights_file import read_about

LICENSE = "CC-BY-NC-4.0 (non-commercial use only)"
RELEASE = "https://github.com/JingyunLiang/RVRT/releases/download/v0.0"
PUBLISHED_BYTES = 46_000_000  # about; the three have the same tensors


@dataclass(frozen=True)
class Published:
    """A published x4 checkpoint. `scores` are the paper's: PSNR [dB] and SSIM, on Y except REDS4 (RGB)."""

    name: str
    file: str
    degradation: str
    data: str
    scores: dict[str, list[float]] = field(hash=False)

    def card(self, source: str, sha256: str) -> dict:
        """The model card of the converted weights."""
        return {
            "name": self.name,
            "trained": True,
            "degradation": self.degradation,
            "data": self.data,
            "license": LICENSE,
            "scores": self.scores,
            "scores_from": "Liang et al., NeurIPS 2022 (PSNR [dB], SSIM)",
            "source": source,
            "source_sha256": sha256,
        }


PUBLISHED = (
    Published(
        "rvrt-bi-reds",
        "001_RVRT_videosr_bi_REDS_30frames.pth",
        "bi",
        "REDS, 30 frames",
        {"REDS4": [32.75, 0.9113]},
    ),
    Published(
        "rvrt-bi-vimeo",
        "002_RVRT_videosr_bi_Vimeo_14frames.pth",
        "bi",
        "Vimeo-90K, 14 frames",
        {"Vimeo-90K-T": [38.15, 0.9527], "Vid4": [27.99, 0.8462]},
    ),
    Published(
        "rvrt-bd-vimeo",
        "003_RVRT_videosr_bd_Vimeo_14frames.pth",
        "bd",
        "Vimeo-90K, 14 frames",
        {"Vimeo-90K-T": [38.59, 0.9576], "Vid4": [29.54, 0.8810], "UDM10": [40.90, 0.9729]},
    ),
)
_DEFAULT = "rvrt-bi-reds"  # what plain "rvrt" means


@dataclass(frozen=True)
class Listed:
    """One line of `rvrt weights list`. `state`: "embedded", "cached", "available" (to pull) or "damaged"."""

    name: str
    state: str
    bytes: int  # of the file; about the size of the download where it is available
    trained: bool | None
    degradation: str | None
    license: str | None
    path: str | None


def published(name: str) -> Published | None:
    """The published checkpoint of this name: short, "rvrt", or the file's own with or without ".pth"."""
    wanted = _DEFAULT if name == "rvrt" else name.removesuffix(".pth")
    return next((entry for entry in PUBLISHED if wanted in (entry.name, entry.file.removesuffix(".pth"))), None)


def cache_folder() -> Path:
    """Where pulled weights lie: $RVRT_CACHE, or "rvrt" in the user's cache folder. It need not exist."""
    if os.environ.get("RVRT_CACHE"):
        return Path(os.environ["RVRT_CACHE"]).expanduser()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "rvrt" / "cache"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "rvrt"  # the XDG standard ignores relative ones


def embedded_folder() -> Path:
    """The package's own weights: inside it when installed, in a checkout `weights/` beside it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "embedded"
    return installed if installed.is_dir() else package.parent / "weights"


def resolve(name: str | None, file: Path | str | None = None) -> Path:
    """The weights file that a user means: `file` itself, or the one of this name, embedded or cached.

    Raises:
        WeightsError: there is none; the message says how to get it. Nothing is downloaded, nothing made up.
    """
    if file is not None:
        if not Path(file).is_file():
            raise WeightsError(f"{file}: no such file; see `rvrt weights list` for what is there")
        return Path(file)
    wanted = name or ""
    known = published(wanted)
    stem = known.name if known else wanted
    if re.fullmatch(r"[\w][\w.-]*", stem):  # a name, not a path out of the folder
        for folder in (embedded_folder(), cache_folder()):
            path = folder / f"{stem}.safetensors"
            if path.is_file():
                return path
    if known:
        raise WeightsError(f"{wanted}: not on this machine yet; fetch it with `rvrt weights pull {known.name}`")
    if wanted == "rvrt-light":
        raise WeightsError(
            "rvrt-light: nobody has published weights for it; train it, or give yours with --weights FILE"
        )
    names = ", ".join(dict.fromkeys(entry.name for entry in list_weights()))
    raise WeightsError(
        f"{shown(repr(wanted))}: no weights of this name; there are {names}. `rvrt weights pull NAME` fetches one, "
        "--weights takes a file"
    )


def file_sha256(name: str | None, file: Path | str | None = None) -> str:
    """SHA-256, in hexadecimal, of the file that `resolve` finds; raises what that raises."""
    return hashlib.sha256(resolve(name, file).read_bytes()).hexdigest()


def list_weights() -> list[Listed]:
    """Everything by name: embedded, cached, and what could be pulled."""
    found: list[Listed] = []
    for state, folder in (("embedded", embedded_folder()), ("cached", cache_folder())):
        for path in sorted(folder.glob("*.safetensors")):
            found.append(_listed(path, state))
    have = {entry.name for entry in found}
    for entry in PUBLISHED:
        if entry.name not in have:
            found.append(Listed(entry.name, "available", PUBLISHED_BYTES, True, entry.degradation, LICENSE, None))
    return found


def _listed(path: Path, state: str) -> Listed:
    size = path.stat().st_size
    try:
        _, card, _ = read_about(path)
    except WeightsError:
        return Listed(path.stem, "damaged", size, None, None, None, str(path))
    license = card.get("license")
    return Listed(
        path.stem, state, size, card["trained"], card["degradation"], license and shown(license, 200), str(path)
    )
