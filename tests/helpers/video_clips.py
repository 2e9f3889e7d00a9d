# SPDX-License-Identifier: Apache-2.0
"""Small clips made with ffmpeg, the whole way from a source to a target, and an independent look (PyAV) at the result."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from helpers.upscale_runs import as_word
from rvrt_cli.frame import Frame
from rvrt_cli.video.mux.excerpt import Excerpt
from rvrt_cli.video.read.container import disposition
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import Reader, open_reader
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.write.publish import EncodedSegments, assemble, publish
from rvrt_cli.video.write.target import OutputRequest, Target
from rvrt_cli.video.write.target_check import check_target
from rvrt_cli.video.write.writers import SegmentWriter, Y4mWriter

VIDEO = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=1"]
AUDIO = ["-f", "lavfi", "-i", "sine=f=440:d=1:r=48000"]
FAST = ["-c:v", "libx264", "-preset", "ultrafast"]
BFRAMES = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "12"]
MILLISECOND = Fraction(1, 1000)

# Frame rates and timestamps that must survive: (ffmpeg arguments that make the source, its suffix)
CLOCKS = {
    "variable": ([*VIDEO, "-vf", "setpts=N*N*37+N*900", "-fps_mode", "passthrough", *BFRAMES], ".mp4"),
    "ntsc film": (["-f", "lavfi", "-i", "testsrc2=s=64x48:r=24000/1001:d=1", *BFRAMES], ".mp4"),
    "ntsc 29.97": ([*VIDEO, *BFRAMES], ".mp4"),
    "ntsc 59.94": (["-f", "lavfi", "-i", "testsrc2=s=64x48:r=60000/1001:d=1", *BFRAMES], ".mov"),
    "variable mkv": ([*VIDEO, "-vf", "setpts=(N*N*7+N*800)", "-fps_mode", "passthrough", *BFRAMES], ".mkv"),
    "late start": ([*VIDEO, "-vf", "setpts=PTS+0.5338/TB", "-copyts", *BFRAMES], ".mp4"),
    "late start mkv": ([*VIDEO, "-vf", "setpts=PTS+0.5338/TB", "-copyts", *BFRAMES], ".mkv"),
}

_made_clips: dict[tuple[str, ...], bytes] = {}


def ffmpeg(*arguments: object, data: bytes | None = None) -> bytes:
    """Run ffmpeg (overwriting) and return its standard output."""
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    command = [exe, "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def make_clip(*arguments: object) -> Path:
    """Run ffmpeg on generated input, the last argument being the file to write; the same clip is encoded only once."""
    *recipe, path = arguments
    assert isinstance(path, Path)
    key = (*map(str, recipe), path.suffix)
    if key not in _made_clips:
        ffmpeg(*arguments)
        _made_clips[key] = path.read_bytes()
    else:
        path.write_bytes(_made_clips[key])
    return path


def write_video(path: Path, frames: list[np.ndarray], *, lossless: bool = False) -> None:
    """Frames (H, W, 3) uint8 as H.264 at 25/s: as RGB, bit for bit, or as good 4:4:4."""
    codec, pix_fmt, crf = ("libx264rgb", "rgb24", "0") if lossless else ("libx264", "yuv444p", "5")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": crf, "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


@dataclass
class Seen:
    """One stream of a file as PyAV demuxes it: times in seconds, in order of presentation; packets' bytes."""

    type: str
    codec: str
    metadata: dict[str, str]
    disposition: int
    times: list[Fraction] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)


def look(path: Path) -> list[Seen]:
    """Every stream of `path` with all its packets that have content."""
    with av.open(str(path)) as container:
        seen = []
        for stream in container.streams:
            context = stream.codec_context
            name = context.codec.canonical_name if context else ""
            seen.append(Seen(stream.type, name, dict(stream.metadata), disposition(stream)))
        for packet in container.demux():
            if packet.size:
                seen[packet.stream_index].data.append(bytes(packet))
            if packet.size and packet.pts is not None:
                seen[packet.stream_index].times.append(packet.pts * packet.time_base)
    for stream in seen:
        stream.times.sort()
    return seen


def streams(path: Path, kind: str) -> list[Seen]:
    return [stream for stream in look(path) if stream.type == kind]


def decoded_times(path: Path) -> list[Fraction]:
    """Timestamps of the decoded frames, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def read_all(path: str | Path, **part: Any) -> list[Frame]:
    with open_reader(probe(path), **part) as reader:
        return list(reader)


@dataclass(frozen=True)
class Written:
    """A target that `write_target` has completed."""

    path: Path
    target: Target
    warnings: list[str]


def write_target(
    info: SourceInfo,
    request: OutputRequest,
    frames: Iterable[Frame],
    excerpt: Excerpt | None = None,
    before_frame: Callable[[int, SegmentWriter | Y4mWriter], object] = lambda number, writer: None,
) -> Written:
    """Check a target, write `frames` to it as one segment, every pixel repeated to fill its size, and publish it.

    Args:
        frames: a Reader also gives the end of the last frame.
        before_frame: called with the number of each frame before it is written.
    """
    target = check_target(info, request)
    excerpt = excerpt or Excerpt()
    if target.kind == "y4m":
        _write_segment(Y4mWriter(target, info), frames, before_frame)
        return Written(target.path, target, [])
    with tempfile.TemporaryDirectory(
        prefix=f".{target.path.name}.", dir=target.path.absolute().parent, ignore_cleanup_errors=True
    ) as work:
        writer = SegmentWriter(target, info, Path(work), time_base=info.time_base, start=excerpt.start)
        _write_segment(writer, frames, before_frame)
        excerpt = dataclasses.replace(excerpt, end_pts=frames.end_pts if isinstance(frames, Reader) else None)
        result = assemble(target, info, EncodedSegments(Path(work), (0,), writer.written, excerpt))
        return Written(publish(target, result.path), target, result.warnings)


def _write_segment(
    writer: SegmentWriter | Y4mWriter,
    frames: Iterable[Frame],
    before_frame: Callable[[int, SegmentWriter | Y4mWriter], object],
) -> None:
    width = writer.target.width
    with writer, writer.segment(0):
        for number, frame in enumerate(frames):
            before_frame(number, writer)
            scale = width // frame.pixels.shape[1]
            pixels = np.repeat(np.repeat(frame.pixels, scale, 0), scale, 1) if scale > 1 else frame.pixels
            writer.write(dataclasses.replace(frame, pixels=pixels))


def request_for(info: SourceInfo, target: str | Path, scale: int = 1, **options: Any) -> OutputRequest:
    return OutputRequest(as_word(target), info.width * scale, info.height * scale, **options)


def upscale_clip(
    source: str | Path,
    target: str | Path,
    *,
    scale: int = 1,
    start: float = 0.0,
    duration: float | None = None,
    **options: Any,
) -> list[str]:
    """Read `source`, repeat every pixel `scale` times, write `target`; warnings, then the target's notes.

    Encoders are set to their fastest preset unless `options` of OutputRequest say otherwise.
    """
    info = probe(source)
    presets = {".mp4": "ultrafast", ".mov": "ultrafast", ".mkv": "ultrafast", ".webm": "8"}
    options = {"preset": presets.get(Path(target).suffix), **options}
    with open_reader(info, start=start, duration=duration) as reader:
        written = write_target(info, request_for(info, target, scale, **options), reader, Excerpt(start, duration))
        return [*reader.warnings, *written.warnings, *written.target.notes]


def leftovers(folder: Path) -> list[str]:
    """Hidden files in `folder`: there must never be any."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def slow_after(count: int, values: Iterable[Any]) -> list[Any]:
    """Parameters of a test; all but the first `count` are marked slow, since together they take seconds."""
    parameters = []
    for number, value in enumerate(values):
        row = value if isinstance(value, list | tuple) else (value,)
        parameters.append(pytest.param(*row, marks=[pytest.mark.slow] * (number >= count)))
    return parameters


def pgs_display_set(seconds: float, show: bool) -> bytes:
    """One display set of bitmap subtitles (PGS, as on a Blu-ray): a square of 8 px, or nothing."""

    def segment(kind: int, body: bytes) -> bytes:
        return b"PG" + struct.pack(">IIBH", round(seconds * 90000), 0, kind, len(body)) + body

    item = struct.pack(">HBBHH", 0, 0, 0, 4, 4)
    composition = struct.pack(">HHBHBBBB", 64, 48, 0x10, int(show), 0x80, 0, 0, int(show)) + item * show
    window = struct.pack(">BBHHHH", 1, 0, 4, 4, 8, 8)
    if not show:
        return segment(0x16, composition) + segment(0x17, window) + segment(0x80, b"")
    palette = bytes([0, 0, 1, 235, 128, 128, 255])  # version, then entry 1: opaque white
    rows = (b"\0\x88\1" + b"\0\0") * 8  # eight px of color 1, end of line
    bitmap = struct.pack(">HBBBHHH", 0, 0, 0xC0, 0, len(rows) + 4, 8, 8) + rows
    return b"".join(
        segment(kind, body)
        for kind, body in ((0x16, composition), (0x17, window), (0x14, palette), (0x15, bitmap), (0x80, b""))
    )
