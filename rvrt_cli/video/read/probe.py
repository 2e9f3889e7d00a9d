"""What a source is: its streams, its pictures' size and meaning, its clock. Found out once, before any work."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from rvrt_cli.errors import MediaError
from rvrt_cli.video import color
from rvrt_cli.video.color import Color
from rvrt_cli.video.ffmpeg import file_url, has_decoder
from rvrt_cli.video.read import image_files, y4m_header

DEFAULT_FPS = Fraction(24)
ATTACHED_PIC = 0x400  # disposition of cover art

# Formats that are scripts to open other files or addresses, or that take any text for a picture
_REFUSED_FORMATS = {"tty", "concat", "hls", "dash", "applehttp", "sdp", "rtsp", "lavfi", "imf", "webm_dash_manifest"}
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own leave the alpha of WebM out
_UNFINISHED = 1 << 30  # so many pictures ffmpeg notes in an AVI before it knows better
# Clocks of these formats start anywhere; only differences mean something
_FREE_CLOCKS = {"mpegts", "mpeg", "mpegtsraw", "rtp", "vob"}
# Nor do they say at the beginning what their streams are: sound that begins late is known by its first packet
LOOKING_FAR = {"analyzeduration": "600000000", "probesize": str(64 << 20)}


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a source as its container describes it; `codec` is ffmpeg's name, "" when it has none."""

    index: int
    type: str  # "video" | "audio" | "subtitle" | "data" | "attachment"
    codec: str
    language: str
    title: str
    disposition: int  # ffmpeg's flags
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def cover(self) -> bool:
        """Whether it is a still picture attached to the file, such as cover art."""
        return bool(self.disposition & ATTACHED_PIC)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"stream {self.index} ({self.type}{', ' + self.codec if self.codec else ''})"


@dataclass(frozen=True)
class SourceInfo:
    """A source, as `probe` found it. Sizes in px, times in seconds on the source's own clock.

    Attributes:
        kind: "video" (anything that ffmpeg demuxes, GIF included), "images" or "y4m" (standard input).
        path: what was asked for; "-" for standard input.
        width, height: as displayed, that is after rotation.
        bit_depth: bits of the largest component.
        frame_rate: average, in frames/s.
        time_base: unit of the frames' `pts`, in seconds.
        start_time: first picture's time; `begin`: the container's, from which `start` of readers and writers counts.
        duration: of the pictures, or None when unknown; frame_count likewise, `exact_count`: it is no estimate.
        end: when the last picture gives way, as the video stream says; None where only the container knows a length.
        sample_aspect: width by height of one displayed px.
        rotation: degrees counter-clockwise by which a player turns the stored picture.
        upright: ffmpeg's filters that do so, mirroring included; "" for none.
        color: resolved description, see `color.resolve`.
        decoder: ffmpeg's, where the usual one will not do; "" elsewhere.
        free_clock: the format's clock starts anywhere (MPEG-TS), so an output counts from `begin` instead of from 0.
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
    color: Color
    start_time: Fraction = Fraction(0)
    begin: Fraction = Fraction(0)
    duration: float | None = None
    end: Fraction | None = None
    frame_count: int | None = None
    exact_count: bool = False
    sample_aspect: Fraction = Fraction(1)
    rotation: int = 0
    upright: str = ""
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
    files: tuple[Path, ...] = ()  # of an image sequence, in order
    more_pictures: int = 0  # pages and the like in these files after the first of each, which are not read
    profile: str = ""  # name of one of these files' colors, where they are not those of sRGB
    header: bytes = b""  # of a y4m stream, already taken from standard input

    def stream(self, index: int) -> StreamInfo:
        """The stream of this number."""
        return next(stream for stream in self.streams if stream.index == index)

    def zero(self, start: float = 0.0) -> Fraction:
        """The time on the source's clock that is 0 in an output which begins `start` seconds into the source.

        It is a multiple of `time_base`. Without `start` it is 0: a picture that first appears at 0.5 s keeps doing so.
        """
        if start > 0:
            moment = self.begin + Fraction(start).limit_denominator(10**6)
        elif self.free_clock or min(self.start_time, self.begin) < 0:
            moment = min(self.begin, self.start_time)
        else:
            return Fraction(0)
        return moment // self.time_base * self.time_base


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that HDR pictures were graded on: CIE xy of red, green, blue, white; luminance in cd/m²."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    min_luminance: Fraction
    max_luminance: Fraction


def probe(source: str | Path, *, fps: Fraction | None = None) -> SourceInfo:
    """Find out what `source` is: a file's name, a folder or pattern of images, or "-" for y4m on standard input.

    Args:
        fps: frames/s of an image sequence; 24 unless given. Other sources have their own clock.

    Raises:
        MediaError: it is missing, is no video, has no pictures, or its first picture cannot be read.
    """
    text = str(source)
    if text == "-":
        return _probe_y4m()
    if not text:  # as of a variable that is not set; the current folder is .
        raise MediaError("the source has no name; give that of a video, a folder or pattern of images, or -")
    path = Path(source)
    if path.is_dir():
        return _probe_images(text, image_files.list_images(path), fps)
    if not os.path.lexists(path) and image_files.is_pattern(text):
        return _probe_images(text, image_files.list_images(source), fps)
    if not path.exists():
        raise MediaError(f"{text}: no such file or folder")
    if not path.is_file():
        raise MediaError(f"{text}: not a regular file; for a pipe, send y4m to standard input and name the source -")
    if path.suffix.lower() not in image_files.SUFFIXES:
        return _probe_video(path)
    found = image_files.header(path)
    if found.more and found.format == "WEBP":
        raise MediaError(f"{text}: an animated WebP, which cannot be read; make an .apng or a folder of images of it")
    return _probe_video(path) if found.more and found.format == "PNG" else _probe_images(text, [path], fps)


@contextlib.contextmanager
def open_container(path: str | Path) -> Iterator[Any]:
    """A PyAV container on the file of exactly this name; nothing else is ever opened (no address, no playlist).

    Raises:
        MediaError: it cannot be opened as audio or video.
    """
    options = {"protocol_whitelist": "file"}
    try:
        container = av.open(file_url(path), metadata_errors="replace", options=options)
        if set(container.format.name.split(",")) & _FREE_CLOCKS:
            container.close()
            container = av.open(file_url(path), metadata_errors="replace", options={**options, **LOOKING_FAR})
    except PermissionError as error:
        raise MediaError(f"{path}: no permission to read this file") from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{path}: not a video that ffmpeg can read ({reason(error)})") from error
    with container:
        if set(container.format.name.split(",")) & _REFUSED_FORMATS:
            raise MediaError(f"{path}: not a video, but text or a list of other files; name the video itself")
        yield container


def packets(container: Any, streams: Any) -> Iterator[Any]:
    """The packets of one stream or a list of them, to the end of the file.

    Where a stream has come up only on the way, such as in FLV, PyAV fails when it meets it, and at the end for sure.
    """
    stumbles = 0
    while stumbles < 100:
        try:
            for packet in container.demux(streams):
                stumbles = 0 if packet.size else stumbles
                yield packet
            return
        except IndexError:
            stumbles += 1


def disposition(stream: Any) -> int:
    """ffmpeg's flags of a stream; PyAV gives an enumeration up to version 17 and a number since."""
    flags = stream.disposition
    return int(getattr(flags, "value", flags))


def reason(error: BaseException) -> str:
    """The words of a PyAV error without its numbers and the file's name."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0]


def _probe_video(path: Path) -> SourceInfo:
    with open_container(path) as container:
        videos = [s for s in container.streams.video if not disposition(s) & ATTACHED_PIC]
        if not videos:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams at all"
            raise MediaError(f"{path}: no video in this file, but {kinds}; name a file with pictures")
        known = [s for s in videos if s.codec_context is not None]
        if not known:
            raise MediaError(f"{path}: its pictures are of a kind that ffmpeg does not know; the file may be damaged")
        stream = max(
            known, key=lambda s: (disposition(s) & 1, s.codec_context.width * s.codec_context.height, -s.index)
        )
        # Everything that decoding could change is read first
        streams = tuple(_stream_info(s) for s in container.streams)
        count, exact = _frame_count(container, stream)
        end = _end(stream)
        begin = Fraction(container.start_time or 0, 1_000_000)
        frame = _first_frame(path, container, stream)
        pix_fmt = frame.format.name
        has_alpha = color.has_alpha(pix_fmt) or stream.metadata.get("alpha_mode") == "1"
        decoder = ""
        if has_alpha and pix_fmt == "yuv420p" and has_decoder(_ALPHA_DECODERS.get(stream.codec_context.name, "")):
            pix_fmt, decoder = "yuva420p", _ALPHA_DECODERS[stream.codec_context.name]
        # Pictures that begin later than ffmpeg looks have no average, and it guesses a tick of the clock for each
        decoded = stream.codec_context.framerate
        rates = (stream.average_rate, decoded, stream.guessed_rate, stream.base_rate, Fraction(25))
        rate = next(rate for rate in rates[2 * _counts_ticks(container) :] if rate)
        first = stream.start_time if stream.start_time is not None else (frame.pts or 0)
        start_time = first * Fraction(stream.time_base)
        if end is not None and end > start_time:
            duration: float | None = float(end - start_time)
        else:
            duration = container.duration / 1e6 if container.duration else None
        if count is None and duration:
            count = max(1, round(duration * rate))
        rotation, upright = _orientation(frame)
        turned = "transpose" in upright
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        mastering, light = _hdr(frame)
        return SourceInfo(
            kind="video",
            path=str(path),
            width=frame.height if turned else frame.width,
            height=frame.width if turned else frame.height,
            bit_depth=color.bit_depth(pix_fmt),
            pix_fmt=pix_fmt,
            has_alpha=has_alpha,
            interlaced=bool(frame.interlaced_frame),
            frame_rate=Fraction(rate),
            time_base=Fraction(stream.time_base),
            color=color.resolve(_codes(frame), pix_fmt, frame.height),
            start_time=start_time,
            begin=begin,
            duration=duration,
            end=end,
            frame_count=count,
            exact_count=exact,
            sample_aspect=(1 / aspect if turned else aspect) if aspect > 0 else Fraction(1),
            rotation=rotation,
            upright=upright,
            free_clock=bool(set(container.format.name.split(",")) & _FREE_CLOCKS),
            format=container.format.name,
            codec=stream.codec_context.name,
            decoder=decoder,
            stream_index=stream.index,
            streams=streams,
            chapters=tuple(dict(chapter) for chapter in container.chapters()),
            metadata=dict(container.metadata),
            mastering=mastering,
            light_level=light,
        )


def _stream_info(stream: Any) -> StreamInfo:
    metadata = dict(stream.metadata)
    context = getattr(stream, "codec_context", None)
    codec = context.codec.canonical_name if context is not None else ""
    language, title = metadata.get("language", "und"), metadata.get("title", "")
    return StreamInfo(stream.index, stream.type, codec, language, title, disposition(stream), metadata)


def _first_frame(path: Path, container: Any, stream: Any) -> Any:
    """The first picture that decodes; damaged packets before it are passed over."""
    stream.thread_type = "SLICE"  # frame threads read far ahead for this one picture
    last: Exception | None = None
    try:
        for packet in packets(container, stream):
            try:
                frames = packet.decode()
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                last = error
                continue
            if frames:
                return frames[0]
    except (av.error.FFmpegError, OSError) as error:
        last = error
    why = f" ({reason(last)})" if last else ""
    raise MediaError(f"{path}: no picture in it can be decoded{why}; the file is damaged or empty")


def _frame_count(container: Any, stream: Any) -> tuple[int | None, bool]:
    """(number of pictures, whether it is exact). The index of an mp4 says which samples an edit list hides."""
    announced, entries = stream.frames, stream.index_entries
    if "mp4" in container.format.name.split(",") and announced and len(entries) >= announced:
        hidden = 2  # AVINDEX_DISCARD_FRAME
        return sum(not entry.flags & hidden for entry in entries), True
    if _counts_ticks(container):
        return None, False
    if container.format.name != "avi":
        return announced or None, False
    if not 0 < announced < _UNFINISHED:
        return None, False
    # AVI announces moments: one at which the picture stays has an empty chunk, which is not in the index
    filled = sum(entry.size > 0 for entry in entries)
    moments = 1 + round(entries[-1].timestamp * stream.time_base * stream.average_rate) if filled else 0
    return filled + max(0, announced - moments), True  # the rest is that of a file that is cut


def _counts_ticks(container: Any) -> bool:
    """Whether ffmpeg takes the ticks of the clock for pictures, as it does in raw DV: 2002 times too many."""
    return container.format.name == "dv"


def _end(stream: Any) -> Fraction | None:
    """When the stream's last picture gives way, in seconds on its clock; None when it does not say."""
    if stream.duration and stream.frames < _UNFINISHED:
        return ((stream.start_time or 0) + stream.duration) * Fraction(stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska's statistics, which count from 0
    match = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,12})?)", tag)
    return int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3]) if match else None


def _orientation(frame: Any) -> tuple[int, str]:
    """(degrees counter-clockwise, filters) that show the frame as its display matrix wants, in steps of 90 degrees.

    The matrix maps stored (x, y) to displayed (a x + c y, b x + d y), y downwards, in units of 1/65536.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX" and data.buffer_size >= 36:
            a, b, _, c, d = struct.unpack("@5i", bytes(data)[:20])
            if abs(a) + abs(d) >= abs(b) + abs(c):  # or all are 0, with which players do nothing
                filters = {
                    (1, 1): (0, ""),
                    (-1, -1): (180, "hflip,vflip"),
                    (-1, 1): (0, "hflip"),
                    (1, -1): (0, "vflip"),
                }
                return filters[_sign(a), _sign(d)]
            filters = {
                (-1, 1): (90, "transpose=cclock"),
                (1, -1): (270, "transpose=clock"),
                (1, 1): (90, "transpose=cclock_flip"),
                (-1, -1): (90, "transpose=clock_flip"),
            }
            return filters[_sign(b), _sign(c)]
    return 0, ""


def _sign(value: int) -> int:
    return 1 if value >= 0 else -1


def _codes(frame: Any) -> dict[str, int]:
    return {
        "matrix": int(frame.colorspace),
        "range": int(frame.color_range),
        "primaries": int(frame.color_primaries),
        "transfer": int(frame.color_trc),
    }


def _hdr(frame: Any) -> tuple[MasteringDisplay | None, tuple[int, int] | None]:
    """HDR10's static metadata, from libavutil's AVMasteringDisplayMetadata and AVContentLightMetadata."""
    mastering = light = None
    for data in frame.side_data:
        if data.type.name == "MASTERING_DISPLAY_METADATA" and data.buffer_size >= 88:
            *numbers, has_primaries, has_luminance = struct.unpack("@20i2i", bytes(data)[:88])
            values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(numbers[::2], numbers[1::2], strict=True)]
            if has_primaries and has_luminance:
                pairs = [(values[i], values[i + 1]) for i in range(0, 8, 2)]
                mastering = MasteringDisplay(pairs[0], pairs[1], pairs[2], pairs[3], values[8], values[9])
        elif data.type.name == "CONTENT_LIGHT_LEVEL" and data.buffer_size >= 8:
            light = struct.unpack("@2I", bytes(data)[:8])
    return mastering, light


def _probe_images(source: str, files: list[Path], fps: Fraction | None) -> SourceInfo:
    with open_container(files[0]) as container:
        if not container.streams.video:
            raise MediaError(f"{files[0]}: this image cannot be read; remove or replace it")
        pix_fmt = _first_frame(files[0], container, container.streams.video[0]).format.name
    headers = [image_files.header(path) for path in files]
    depth = max(color.bit_depth(pix_fmt), *(found.bits for found in headers))
    pixels, alpha = image_files.read_image(files[0], deep=depth > 8)
    rate = fps or DEFAULT_FPS
    return SourceInfo(
        kind="images",
        path=source,
        width=pixels.shape[1],
        height=pixels.shape[0],
        bit_depth=depth,
        pix_fmt=pix_fmt,
        has_alpha=alpha is not None or any(found.alpha for found in headers),
        interlaced=False,
        frame_rate=rate,
        time_base=1 / rate,
        color=Color("gbr", "pc"),
        duration=float(len(files) / rate),
        frame_count=len(files),
        exact_count=True,
        format="images",
        files=tuple(files),
        more_pictures=sum(found.more for found in headers),
        profile=next((found.profile for found in headers if found.profile), ""),
    )


def stdin_descriptor() -> int:
    """The file descriptor of standard input.

    Raises:
        MediaError: there is none.
    """
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise MediaError("-: this program has no standard input; name a file") from error


def _probe_y4m() -> SourceInfo:
    descriptor = stdin_descriptor()
    if os.isatty(descriptor):
        raise MediaError("-: standard input is a terminal; pipe a y4m stream into it")
    header = y4m_header.read_header(descriptor)
    ranges = {"tv": 1, "pc": 2}
    codes = {"range": ranges[header.range]} if header.range else {}
    return SourceInfo(
        kind="y4m",
        path="-",
        width=header.width,
        height=header.height,
        bit_depth=color.bit_depth(header.pix_fmt),
        pix_fmt=header.pix_fmt,
        has_alpha=False,
        interlaced=header.interlaced,
        frame_rate=header.rate,
        time_base=1 / header.rate,
        color=color.resolve(codes, header.pix_fmt, header.height),
        sample_aspect=header.sample_aspect,
        format="yuv4mpegpipe",
        codec="rawvideo",
        header=header.raw,
    )
