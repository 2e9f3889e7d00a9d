# SPDX-License-Identifier: Apache-2.0
"""What is known of a source before it is decoded; `probe` fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from rvrt_cli.video.color import ColorDescription

ATTACHED_PIC = 0x400  # disposition flag of cover art


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a source as its container describes it; `codec` is ffmpeg's name, "" when unknown."""

    index: int
    type: str  # "video" | "audio" | "subtitle" | "data" | "attachment"
    codec: str
    language: str
    title: str
    disposition: int  # ffmpeg's flags
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def cover(self) -> bool:
        """Whether it is a still image attached to the file, such as cover art."""
        return bool(self.disposition & ATTACHED_PIC)

    @property
    def name(self) -> str:
        """The stream as messages name it."""
        return f"stream {self.index} ({self.type}{', ' + self.codec if self.codec else ''})"


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that HDR content was graded on: CIE 1931 xy of red, green, blue, white; luminance in cd/m²."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    min_luminance: Fraction
    max_luminance: Fraction


@dataclass(frozen=True)
class SourceInfo:
    """A source as `probe` found it. Sizes in px, times in seconds on the source's own clock.

    Attributes:
        kind: "video" (anything that ffmpeg demuxes, GIF included), "images" or "y4m" (standard input).
        path: as given by the user; "-" for standard input.
        width, height: as displayed, after rotation.
        bit_depth: bits of the largest component.
        frame_rate: average, in frames/s.
        time_base: unit of the frames' `pts`, in seconds.
        start_time: timestamp of the first frame.
        begin: start of the container, from which `start` of readers and writers counts.
        duration: of the video stream; None when unknown.
        end: end of the last frame according to the video stream; None where only the container states a length.
        frame_count: None when unknown; `exact_count`: it is not an estimate.
        sample_aspect: width by height of one displayed px.
        rotation: degrees counterclockwise by which a player rotates the stored frame.
        upright: ffmpeg filters that rotate and mirror the stored frame upright; "" for none.
        color: resolved description, see `resolve_color`.
        decoder: name of the ffmpeg decoder to use in place of the default; "" for the default.
        telecined: it is film that is restored by inverse telecine, see `rvrt_cli.video.read.telecine`; rates and counts are
            those of the film.
        coded_frames: the exact number of frames before that; None when unknown, or where that is `frame_count`.
        base_view: the video has several views, as MV-HEVC has, of which the first is read.
        free_clock: the format's timestamps start anywhere (MPEG-TS): an output counts from `begin` instead of from 0.
    """

    kind: str
    path: str
    width: int
    height: int
    bit_depth: int
    pix_fmt: str
    has_alpha: bool
    interlaced: bool
    frame_rate: Fraction
    time_base: Fraction
    color: ColorDescription
    start_time: Fraction = Fraction(0)
    begin: Fraction = Fraction(0)
    duration: float | None = None
    end: Fraction | None = None
    frame_count: int | None = None
    exact_count: bool = False
    sample_aspect: Fraction = Fraction(1)
    rotation: int = 0
    upright: str = ""
    telecined: bool = False
    coded_frames: int | None = None
    base_view: bool = False
    free_clock: bool = False
    format: str = ""
    codec: str = ""
    decoder: str = ""
    stream_index: int = 0
    streams: tuple[StreamInfo, ...] = ()
    chapters: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    mastering: MasteringDisplay | None = None
    light_level: tuple[int, int] | None = None  # (MaxCLL, MaxFALL) in cd/m²
    hdr10_plus: bool = False  # dynamic metadata of ST 2094-40
    dolby_vision: int | None = None  # profile; 0: unknown
    files: tuple[Path, ...] = ()  # of an image sequence, in order
    extra_images: int = 0  # pages or animation frames after the first of each of these files, which are not read
    icc_profile: str = ""  # name of the first ICC profile among these files that is not sRGB
    header: bytes = b""  # of a y4m stream, already consumed from standard input

    def stream(self, index: int) -> StreamInfo:
        """The stream with this index."""
        return next(stream for stream in self.streams if stream.index == index)

    @property
    def hdr_metadata(self) -> str:
        """The metadata of HDR that it has, apart from color tags, in words; empty for none."""
        static = self.mastering is not None or self.light_level is not None
        return " and ".join(["HDR10"] * static + ["HDR10+"] * self.hdr10_plus)

    def output_zero(self, start: float = 0.0) -> Fraction:
        """Timestamp on the source's clock that becomes 0 in an output which begins `start` seconds into the source.

        A multiple of `time_base`. Without `start` it is 0: a video that first appears at 0.5 s keeps doing so.
        """
        if start > 0:
            zero = self.begin + Fraction(start).limit_denominator(10**6)
        elif self.free_clock or min(self.start_time, self.begin) < 0:
            zero = min(self.begin, self.start_time)
        else:
            return Fraction(0)
        return zero // self.time_base * self.time_base
