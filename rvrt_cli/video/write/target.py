# SPDX-License-Identifier: Apache-2.0
"""What is asked for (OutputRequest), and what has been decided about it (Target)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rvrt_cli.video import color
from rvrt_cli.video.color import ColorDescription
from rvrt_cli.video.mux.route import Route
from rvrt_cli.video.write.encoder import encoder_bytes

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# They encode each frame by itself, without lookahead
_INTRA_ONLY_CODECS = {"prores", "ffv1", "mjpeg", "png", "dnxhd", "rawvideo"}


@dataclass(frozen=True)
class OutputRequest:
    """The output as the user asks for it, not checked yet.

    Attributes:
        target: a file (video, image or .gif), a folder for PNG, or "-" for y4m on standard output.
        width, height: of the output, in px.
        codec: ffmpeg's name of a video encoder; libx264, or libvpx-vp9 for .webm, unless given.
        crf, preset, pix_fmt: the encoder's quality, speed and pixel format; chosen unless given.
        quality: from 1 to 100 (best) for any encoder, in place of `crf`.
        lossless: encode without loss.
        encoder_options: of ffmpeg, by name.
        overwrite: an existing target may be replaced.
        copy_streams: copy audio, subtitles and the rest of the source into a video target.
        new_folders: missing folders above the target will have been made by the time it is written.
        images: the files that become frames, where the source is images.
        frame_count: expected; None where that is unknown.
    """

    target: str | Path
    width: int
    height: int
    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    quality: int | None = None
    lossless: bool = False
    encoder_options: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    copy_streams: bool = True
    new_folders: bool = False
    images: tuple[Path, ...] = ()
    frame_count: int | None = None

    @property
    def encoder_wishes(self) -> tuple[str, ...]:
        """What is asked of the encoder, as on the command line: "--crf 18"."""
        values = {"--codec": self.codec, "--crf": self.crf, "--quality": self.quality, "--preset": self.preset}
        words = [f"{name} {value}" for name, value in values.items() if value is not None]
        words += ["--lossless"] * self.lossless
        return (*words, *(f"--encoder-option {name}={value}" for name, value in self.encoder_options.items()))


@dataclass(frozen=True)
class Target:
    """An output that has passed `check_target`, with everything decided.

    Attributes:
        kind: "video", "folder" (PNG sequence), "image" (one), "gif" or "y4m" (standard output).
        path: of the file or folder; "-" for "y4m".
        encoder, codec: ffmpeg's name of the encoder ("libx264") and of what it writes ("h264").
        color: what frames are converted to and tagged with.
        options: ffmpeg's arguments for the encoder.
        routes: how the source's other streams reach the output.
        notes: what the output cannot keep, one line each.
        copy_streams: chapters and metadata are copied too.
        image_names: of the images of a folder, in order; empty: they are numbered.
        upload: type of the device ("vaapi") into whose memory the encoder wants frames uploaded; "" for none.
        wishes: what is asked of the encoder, as on the command line.
    """

    kind: str
    path: Path
    width: int
    height: int
    muxer: str
    encoder: str
    codec: str
    pix_fmt: str
    color: ColorDescription
    options: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    notes: tuple[str, ...] = ()
    overwrite: bool = False
    copy_streams: bool = True
    image_names: tuple[str, ...] = ()
    upload: str = ""
    wishes: tuple[str, ...] = ()

    @property
    def holds_images(self) -> bool:
        """Whether each frame is a file of its own."""
        return self.kind in ("folder", "image")

    @property
    def part_suffix(self) -> str:
        """Suffix of the files in which segments or images are kept until the target is complete."""
        return {"folder": ".png", "gif": ".mkv"}.get(self.kind, self.path.suffix.lower())

    @property
    def name(self) -> str:
        """The target as messages name it."""
        return "standard output" if self.kind == "y4m" else self.path.name

    @property
    def keeps_alpha(self) -> bool:
        """Whether frames are written with their alpha."""
        return self.holds_images and color.has_alpha(self.pix_fmt)

    @property
    def encoder_bytes(self) -> int:
        """Main memory that ffmpeg takes to encode into this target."""
        if self.kind not in ("video", "gif"):
            return 0
        light = self.codec in _INTRA_ONLY_CODECS or "ultrafast" in self.options
        return encoder_bytes(self.width, self.height, self.pix_fmt, light=light)

    @property
    def filter_chain(self) -> str:
        """Filters from packed RGB to what the encoder accepts, without the sample aspect."""
        chain = color.from_rgb(self.pix_fmt, self.color, self.width, self.height)
        return f"{chain},hwupload" if self.upload else chain
