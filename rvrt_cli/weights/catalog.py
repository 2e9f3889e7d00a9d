# SPDX-License-Identifier: Apache-2.0
"""The weights that exist and where they are: embedded in the package, in the user's cache, or published on the web."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from rvrt_cli.errors import WeightsError
from rvrt_cli.files import cache_folder
from rvrt_cli.weights.safe_pickle import sanitize
from rvrt_cli.weights.weights_file import read_about

PUBLISHED_LICENSE = "CC-BY-NC-4.0 (non-commercial use only)"
PUBLISHED_URL = "https://github.com/JingyunLiang/RVRT/releases/download/v0.0"


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint.

    Attributes:
        preset: the network that it holds, a key of `PRESETS`.
        bytes: approximate size of the file.
        scores: the paper's PSNR [dB] and, where it has one, SSIM by test set; on RGB for REDS4 and restoration, else on Y.
            The noise of denoising is part of the set's name, "DAVIS 50" [levels of 255].
    """

    name: str
    file: str
    degradation: str
    data: str
    scores: dict[str, list[float]] = field(hash=False)
    preset: str = "rvrt"
    bytes: int = 46_000_000

    def card(self, source: str, sha256: str) -> dict:
        """The model card of the weights converted from `source`, whose SHA-256 is `sha256`."""
        return {
            "name": self.name,
            "trained": True,
            "degradation": self.degradation,
            "data": self.data,
            "license": PUBLISHED_LICENSE,
            "scores": self.scores,
            "scores_from": "Liang et al., NeurIPS 2022 (PSNR [dB], SSIM)",
            "source": source,
            "source_sha256": sha256,
        }


PUBLISHED = (
    PublishedCheckpoint(
        name="rvrt-bi-reds",
        file="001_RVRT_videosr_bi_REDS_30frames.pth",
        degradation="bi",
        data="REDS, 30 frames",
        scores={"REDS4": [32.75, 0.9113]},
    ),
    PublishedCheckpoint(
        name="rvrt-bi-vimeo",
        file="002_RVRT_videosr_bi_Vimeo_14frames.pth",
        degradation="bi",
        data="Vimeo-90K, 14 frames",
        scores={"Vimeo-90K-T": [38.15, 0.9527], "Vid4": [27.99, 0.8462]},
    ),
    PublishedCheckpoint(
        name="rvrt-bd-vimeo",
        file="003_RVRT_videosr_bd_Vimeo_14frames.pth",
        degradation="bd",
        data="Vimeo-90K, 14 frames",
        scores={"Vimeo-90K-T": [38.59, 0.9576], "Vid4": [29.54, 0.8810], "UDM10": [40.90, 0.9729]},
    ),
    PublishedCheckpoint(
        name="rvrt-deblur-dvd",
        file="004_RVRT_videodeblurring_DVD_16frames.pth",
        degradation="blur",
        data="DVD, 16 frames",
        scores={"DVD": [34.30, 0.9655]},
        preset="rvrt-deblur",
        bytes=57_000_000,
    ),
    PublishedCheckpoint(
        name="rvrt-deblur-gopro",
        file="005_RVRT_videodeblurring_GoPro_16frames.pth",
        degradation="blur",
        data="GoPro, 16 frames",
        scores={"GoPro": [34.92, 0.9738]},
        preset="rvrt-deblur",
        bytes=57_000_000,
    ),
    PublishedCheckpoint(
        name="rvrt-denoise-davis",
        file="006_RVRT_videodenoising_DAVIS_16frames.pth",
        degradation="noise",
        data="DAVIS, 16 frames",
        scores={"DAVIS 10": [40.57], "DAVIS 20": [38.05], "DAVIS 30": [36.57]},
        preset="rvrt-denoise",
        bytes=54_000_000,
    ),
)
_DEFAULT_PUBLISHED = "rvrt-bi-reds"  # what plain "rvrt" means


@dataclass(frozen=True)
class ListedWeights:
    """One row of `rvrt weights list`. `state`: "embedded", "cached", "available" (for download) or "damaged"."""

    name: str
    state: str
    bytes: int  # file size; the approximate download size if the state is "available"
    trained: bool | None
    degradation: str | None
    license: str | None
    path: str | None


def match_published(name: str) -> PublishedCheckpoint | None:
    """The published checkpoint called `name`, if any: a short name, "rvrt", or the file name with or without ".pth"."""
    wanted = _DEFAULT_PUBLISHED if name == "rvrt" else name.removesuffix(".pth")
    return next((entry for entry in PUBLISHED if wanted in (entry.name, entry.file.removesuffix(".pth"))), None)


def find_published(name: str) -> PublishedCheckpoint:
    """The published checkpoint called `name`, see `match_published`.

    Raises:
        WeightsError: no such checkpoint; the message lists the names.
    """
    entry = match_published(name)
    if entry is None:
        names = ", ".join(known.name for known in PUBLISHED)
        raise WeightsError(f"{sanitize(name)}: no published weights of this name; choose one of {names}")
    return entry


def embedded_folder() -> Path:
    """The folder of embedded weights: inside the installed package, or `weights/` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "embedded"
    return installed if installed.is_dir() else package.parent / "weights"


def find_weights(name: str | None, file: Path | str | None = None) -> Path:
    """The path of a weights file: `file` itself if given, otherwise the embedded or cached file called `name`.

    Nothing is downloaded.

    Raises:
        WeightsError: no such weights; the message says how to get them.
    """
    if file is not None:
        if not Path(file).is_file():
            raise WeightsError(f"{file}: no such file; `rvrt weights list` shows the weights available")
        return Path(file)
    wanted = name or ""
    known = match_published(wanted)
    stem = known.name if known else wanted
    if re.fullmatch(r"[\w][\w.-]*", stem):  # a plain name, never a path out of the folder
        for folder in (embedded_folder(), cache_folder()):
            path = folder / f"{stem}.safetensors"
            if path.is_file():
                return path
    if known:
        raise WeightsError(f"{wanted}: not downloaded yet; run `rvrt weights pull {known.name}`")
    if wanted == "rvrt-light":
        raise WeightsError(
            "rvrt-light: no published weights exist; train the network, or give your own weights with --weights FILE"
        )
    names = ", ".join(dict.fromkeys(entry.name for entry in list_weights()))
    raise WeightsError(
        f"{sanitize(repr(wanted))}: unknown weights; choose one of {names}. `rvrt weights pull NAME` downloads them; "
        "--weights FILE uses a file of your own"
    )


def file_sha256(name: str | None, file: Path | str | None = None) -> str:
    """Hexadecimal SHA-256 of the file that `find_weights` returns. Raises the same errors."""
    return hashlib.sha256(find_weights(name, file).read_bytes()).hexdigest()


def list_weights() -> list[ListedWeights]:
    """All weights with a name: embedded, cached, and published ones available for download."""
    found: list[ListedWeights] = []
    for state, folder in (("embedded", embedded_folder()), ("cached", cache_folder())):
        for path in sorted(folder.glob("*.safetensors")):
            found.append(_list_file(path, state))
    present = {entry.name for entry in found}
    for entry in PUBLISHED:
        if entry.name not in present:
            found.append(
                ListedWeights(
                    name=entry.name,
                    state="available",
                    bytes=entry.bytes,
                    trained=True,
                    degradation=entry.degradation,
                    license=PUBLISHED_LICENSE,
                    path=None,
                )
            )
    return found


def _list_file(path: Path, state: str) -> ListedWeights:
    try:
        card = read_about(path).card
    except WeightsError:
        state, card = "damaged", {}
    license = card.get("license")
    return ListedWeights(
        name=path.stem,
        state=state,
        bytes=path.stat().st_size,
        trained=card.get("trained"),
        degradation=card.get("degradation"),
        license=license and sanitize(license, 200),
        path=str(path),
    )
