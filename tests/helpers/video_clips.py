"""Small clips made with ffmpeg, and an independent look (PyAV) at what came out."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from rvrt_cli.frame import Frame
from rvrt_cli.video.read.probe import disposition, probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.writers import open_writer

PICTURES = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=1"]
SOUND = ["-f", "lavfi", "-i", "sine=f=440:d=1:r=48000"]
FAST = ["-c:v", "libx264", "-preset", "ultrafast"]
BFRAMES = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "12"]


def ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Run ffmpeg (overwriting) and return its standard output."""
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    command = [exe, "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


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
    """Times of the decoded pictures, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def read_all(path: str | Path, **part: float) -> list[Frame]:
    with open_reader(probe(path), **part) as reader:
        return list(reader)


def enlarge(source: str | Path, target: str | Path, *, scale: int = 1, **options: object) -> list[str]:
    """Read `source`, repeat every pixel `scale` times, write `target`; warnings and the target's notes."""
    info = probe(source)
    part = {key: options[key] for key in ("start", "duration") if key in options}
    options = {"preset": "ultrafast", **options} if Path(target).suffix in (".mp4", ".mov", ".mkv") else options
    with (
        open_reader(info, **part) as reader,
        open_writer(target, info, width=info.width * scale, height=info.height * scale, **options) as writer,
    ):
        for frame in reader:
            pixels = np.repeat(np.repeat(frame.pixels, scale, 0), scale, 1)
            writer.write(Frame(pixels, frame.pts, frame.alpha))
        writer.finish(reader.until)
    return [*reader.warnings, *writer.warnings, *writer.target.notes]


def leftovers(folder: Path) -> list[str]:
    """Hidden files in `folder`: there must never be any."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
