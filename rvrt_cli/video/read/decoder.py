# SPDX-License-Identifier: Apache-2.0
"""Frames of a video with their timestamps, decoded by an ffmpeg process.

ffmpeg writes raw RGB in NUT, a container made for pipes that carries every frame's timestamp, so pixels and timestamps
come from one decode. PyAV demuxes the packets.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import select
import threading
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from rvrt_cli.errors import MediaError
from rvrt_cli.frame import Frame
from rvrt_cli.video import color
from rvrt_cli.video.ffmpeg import FFmpeg, file_url
from rvrt_cli.video.read.container import demux_packets, open_container
from rvrt_cli.video.read.source import SourceInfo
from rvrt_cli.video.read.telecine import ivtc_filters
from rvrt_cli.video.read.y4m_header import stdin_descriptor, y4m_frame_bytes

# ffmpeg's messages that matter for the whole source, however many others follow
_WATCHED_MESSAGES = {
    "untagged": "no path between colorspaces",
    "non-monotonic": "Non-monotonic DTS",
    "interlaced": r" i:[TB] iskey:",  # from the filter showinfo, once per frame
    "damage": r"ended prematurely|[Tt]runcat|corrupt|partial file",
}
# Formats with an index of their key frames. In others ffmpeg seeks to any position (MPEG-TS), or mistakes it for the start
# (raw H.264), and frames between there and the next key frame would be lost.
_INDEXED_FORMATS = {"mp4", "matroska", "avi", "flv", "asf", "mxf", "nut"}
_SEEK_MARGIN = 5.0  # s: seeking goes by decoding timestamps, and fails before the first one
NUT_OPTIONS = {"probesize": "32", "analyzeduration": "0"}  # trust the header; probing would buffer whole frames


class VideoDecoder:
    """Decodes `info` from `start` for `duration` seconds.

    After `frames`, `warnings` and `missing` report on damage, and `end_pts` is the end of the last frame.
    """

    def __init__(self, info: SourceInfo, start: float, duration: float | None, deinterlace: bool, alpha: bool) -> None:
        self.info = info
        self.warnings: list[str] = []
        self.missing = 0
        self.end_pts: int | None = None
        self._first = info.begin + Fraction(start).limit_denominator(10**6) if start > 0 else None
        begin = self._first if self._first is not None else info.begin
        self._end = begin + Fraction(duration).limit_denominator(10**6) if duration is not None else None
        # NUT has no negative timestamps: those of such a source are shifted above 0 in the pipe
        self._shift = 0
        if info.start_time < 0:
            self._shift = int(-info.start_time / info.time_base) + int(1 / info.time_base) + 1
        self._closed = threading.Event()
        self._cut_inside_frame = False  # a y4m stream
        self._alpha = alpha and color.has_alpha(info.pix_fmt)
        self._start, self._deinterlace = start, deinterlace
        self._expect_progressive = not (deinterlace or info.interlaced or info.telecined)
        self._as_tagged = info.kind != "y4m"  # read each frame's colors as its own tags say
        self._launch()
        if info.kind == "y4m":
            threading.Thread(target=self._pump, name="y4m-pump", daemon=True).start()

    def _launch(self) -> None:
        info = self.info
        swapped = "transpose" in info.upright
        width, height = (info.height, info.width) if swapped else (info.width, info.height)  # as stored
        chain, self._packed = self._filters(width, height)
        same_format = rf"{re.sub('^yuvj?', 'yuvj?', info.pix_fmt)}\b.* {width}x{height}\b"  # whatever the color tags
        changed = "Reconfiguring filter graph because video parameters changed to "
        changes = {"recolored": f"{changed}{same_format}", "reformatted": f"{changed}(?!{same_format})"}
        self._ffmpeg = FFmpeg(
            [*self._input(self._start), "-vf", chain, *self._output()],
            stdin=info.kind == "y4m",
            stdout=True,
            level="verbose",  # the level at which ffmpeg counts packets and frames
            watch={**_WATCHED_MESSAGES, **changes},
        )

    def _input(self, start: float) -> list[str]:
        info = self.info
        if info.kind == "y4m":
            return ["-f", "yuv4mpegpipe", "-i", "pipe:0", "-map", "0:v:0"]
        # Rotated after the conversion to RGB instead: rotation moves the chroma sites away from where the tags put them
        arguments = ["-noautorotate", "-copyts", "-protocol_whitelist", "file"]
        if info.decoder:
            arguments += ["-c:v", info.decoder]
        if info.codec == "theora":  # with several threads, a frame after a repeated one sometimes loses its chroma
            arguments += ["-threads", "1"]
        if start > 2 * _SEEK_MARGIN and set(info.format.split(",")) & _INDEXED_FORMATS:
            arguments += ["-ss", f"{start - _SEEK_MARGIN:.6f}"]
        return [*arguments, "-i", file_url(info.path), "-map", f"0:{info.stream_index}"]

    def _filters(self, width: int, height: int) -> tuple[str, str]:
        info, deinterlace = self.info, self._deinterlace
        chain, packed = color.to_rgb(
            info.pix_fmt, info.color, width, height, alpha=self._alpha, as_tagged=self._as_tagged
        )
        if info.upright:
            chain = f"{chain},{info.upright}"
        if deinterlace:
            chain = f"bwdif=mode=send_frame,{chain}"
        if info.telecined:
            chain = f"{ivtc_filters(info, self._shift)},{chain}"
        elif self._shift:
            chain = f"setpts=PTS+{self._shift},{chain}"
        if self._expect_progressive:
            chain = f"showinfo=checksum=0,{chain}"
        if self._first is not None:  # earlier where filters need the frames before
            chain = f"trim=start={float(self._first) - (1 if deinterlace or info.telecined else 0):.6f},{chain}"
        return chain, packed

    def _output(self) -> list[str]:
        base = self.info.time_base
        timing = ["-fps_mode", "passthrough", "-enc_time_base", f"{base.numerator}/{base.denominator}"]
        return [*timing, "-c:v", "rawvideo", "-f", "nut", "pipe:1"]

    def frames(self) -> Iterator[Frame]:
        """The frames in order of presentation, with strictly increasing timestamps.

        Raises:
            MediaError: there is not a single frame, or decoding failed.
        """
        count, last = 0, None
        for pts, pixels in self._decode():
            shown_at = pts * self.info.time_base
            if self._first is not None and shown_at < self._first:
                continue
            if self._end is not None and shown_at >= self._end:
                if last is not None:
                    self.end_pts = max(last + 1, round(self._end / self.info.time_base))
                break
            if last is not None and pts <= last:
                pts = last + 1  # two frames with one timestamp: both are kept
            count, last = count + 1, pts
            if self._alpha:
                yield Frame(np.ascontiguousarray(pixels[..., :3]), pts, np.ascontiguousarray(pixels[..., 3]))
            else:
                yield Frame(pixels, pts)
        else:
            if not self._closed.is_set():
                status = self._ffmpeg.wait()
                if status < 0 or status == 255:  # a signal: the rest of the source was not read
                    raise MediaError(f"{self.info.path}: ffmpeg was killed from outside while decoding; run it again")
                self._summarize(count, last)
            return
        if not count:
            raise MediaError(f"{self.info.path}: no frame in the requested part; check --start and --duration")

    def _decode(self) -> Iterator[tuple[int, np.ndarray]]:
        """Timestamp and pixels of each frame that ffmpeg delivers."""
        delivered = 0
        for item in self._read_pipe():
            yield item
            delivered += 1
        self._ffmpeg.wait()
        if self._ffmpeg.seen["untagged"] and self._as_tagged and not self._closed.is_set():
            # Where some frames have color tags and others do not, all are read like the first one
            self._ffmpeg.kill()
            self._as_tagged = False
            self._launch()
            yield from itertools.islice(self._read_pipe(), delivered, None)

    def _read_pipe(self) -> Iterator[tuple[int, np.ndarray]]:
        info = self.info
        shape = (info.height, info.width, 4 if self._alpha else 3)
        dtype = np.dtype("<u2") if self._packed in ("rgb48le", "rgba64le") else np.dtype(np.uint8)
        size = math.prod(shape) * dtype.itemsize
        pipe = self._ffmpeg.process.stdout
        assert pipe is not None
        try:
            with av.open(
                f"pipe:{pipe.fileno()}", format="nut", metadata_errors="replace", options=NUT_OPTIONS
            ) as container:
                stream = container.streams.video[0]
                scale = Fraction(stream.time_base) / info.time_base
                for packet in container.demux(stream):
                    if packet.size == size and packet.pts is not None:
                        pts = round(packet.pts * scale) - self._shift
                        yield pts, np.frombuffer(packet, dtype).reshape(shape)
        except (av.error.FFmpegError, OSError, IndexError) as error:
            if self._closed.is_set():
                return
            if self._ffmpeg.wait() == 0 or (self._ffmpeg.seen["untagged"] and self._as_tagged):
                return  # no frame in the requested part, or the first one has no color tags
            raise MediaError(f"{info.path}: cannot be decoded: {self._ffmpeg.last_error()}") from error

    def _summarize(self, count: int, last: int | None) -> None:
        """After the last frame: when it ends, how many frames are missing, and what ffmpeg complained about."""
        info, ffmpeg = self.info, self._ffmpeg
        if last is None:
            if self._first is not None:
                raise MediaError(f"{info.path}: no frame after {float(self._first - info.begin):g} s; lower --start")
            if info.kind == "y4m" and not ffmpeg.errors:
                raise MediaError("-: the y4m stream holds no complete frame; check the program that writes it")
            raise MediaError(f"{info.path}: no frame can be decoded: {ffmpeg.last_error()}")
        self.missing = self._count_missing(count, last)
        self.end_pts = self._find_end_pts(last)
        self.warnings += [f"{info.path}: {text}" for text in (*self._format_warnings(), *self._damage_warnings(count))]

    def _format_warnings(self) -> Iterator[str]:
        """What changed midway."""
        info, seen = self.info, self._ffmpeg.seen
        if seen["reformatted"]:
            size = f"{info.width}x{info.height}"
            yield f"the frames change their size or format midway; all were scaled to {size}"
        if seen["recolored"] and not self._as_tagged:
            yield (
                "the color matrix or range changes midway or is no longer tagged; all frames were read as "
                f"{info.color.matrix}, {info.color.range}, like the first one"
            )
        fields = seen["interlaced"]
        if self._expect_progressive and fields:
            yield (
                f"{fields} frame{'s are' if fields > 1 else ' is'} interlaced, unlike those at the beginning, and "
                "upscaled as they are; use --deinterlace to deinterlace them"
            )

    def _damage_warnings(self, count: int) -> Iterator[str]:
        """Timestamps out of order, missing frames, errors in ffmpeg's log."""
        info, ffmpeg = self.info, self._ffmpeg
        jumps = ffmpeg.seen["non-monotonic"]
        if jumps:
            yield (
                f"non-monotonic timestamps: {jumps} frame{'s' * (jumps > 1)} moved directly after the previous one; audio "
                "may be out of sync (ffmpeg -i FILE -c copy NEW.mkv may repair this)"
            )
        if self.missing:
            plural = "s" if self.missing > 1 else ""
            what = "stream" if info.kind == "y4m" else "file"
            why = f"; ffmpeg: {ffmpeg.last_error()}" if ffmpeg.errors else ""
            yield (
                f"{self.missing} frame{plural} missing, the {what} is truncated or damaged ({count} could be read{why})"
            )
        elif ffmpeg.errors:
            yield f"some frames may be damaged (ffmpeg: {ffmpeg.last_error()}, {ffmpeg.errors} such messages)"

    def _find_end_pts(self, last: int) -> int:
        """End of the frame with timestamp `last`, the last one of the source that can be decoded."""
        info = self.info
        begin = last * info.time_base
        if (
            self.missing or info.end is None or info.end <= begin
        ):  # such as an mp4 whose last frame has a late timestamp
            duration = 0 if self.missing else _packet_duration(info, last)
            end = begin + (duration * info.time_base or 1 / info.frame_rate)
        else:
            end = info.end
        if self._end is not None:
            end = min(end, self._end)
        return max(last + 1, round(end / info.time_base))

    def _count_missing(self, count: int, last: int) -> int:
        """Frames that the container announces, or that ffmpeg read as packets, and that were not decoded."""
        info = self.info
        if self._cut_inside_frame:
            return 1
        whole = self._first is None and self._end is None
        if whole and info.exact_count and info.frame_count:
            return max(0, info.frame_count - count)
        counts = re.findall(r"(\d+) packets read .*?; (\d+) frames decoded", "\n".join(self._ffmpeg.lines))
        if whole and info.coded_frames and counts:
            return max(0, info.coded_frames - int(counts[0][1]))
        if not (self._ffmpeg.errors or self._ffmpeg.seen["damage"]):
            return 0
        lost = 0
        if whole and counts:
            lost = max(0, int(counts[0][0]) - int(counts[0][1]))
        if info.duration:
            end = info.start_time + Fraction(info.duration).limit_denominator(10**6)
            end = end if self._end is None else min(end, self._end)
            short = float((end - last * info.time_base) * info.frame_rate) - 1
            lost = max(lost, round(short))
        return lost

    def _pump(self) -> None:
        """Forward standard input to ffmpeg, after the header that `probe` consumed."""
        pipe = self._ffmpeg.process.stdin
        assert pipe is not None
        info, source, forwarded, beginning = self.info, stdin_descriptor(), 0, b""
        with contextlib.suppress(OSError, ValueError):  # ffmpeg has ended, or the reader was closed
            pipe.write(info.header)
            while data := self._read_stdin(source):
                pipe.write(data)
                forwarded += len(data)
                beginning += data[: max(0, 80 - len(beginning))]
            frame_bytes = beginning.find(b"\n") + 1 + y4m_frame_bytes(info.pix_fmt, info.width, info.height)
            self._cut_inside_frame = not self._closed.is_set() and forwarded % frame_bytes > 0
            pipe.flush()
        with contextlib.suppress(OSError, ValueError):
            pipe.close()

    def _read_stdin(self, source: int) -> bytes:
        """The next bytes of standard input; empty at its end, or when the reader is closed."""
        while not self._closed.is_set():
            if select.select([source], [], [], 0.1)[0]:
                return os.read(source, 1 << 20)
        return b""

    def close(self) -> None:
        """Kill ffmpeg, whatever it is doing. Safe to call twice and from another thread."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._ffmpeg.process.kill()

    def release(self) -> None:
        """After `frames` has ended: close the pipes."""
        self._closed.set()
        self._ffmpeg.kill()


def _packet_duration(info: SourceInfo, pts: int) -> int:
    """Duration that the packet with timestamp `pts` states, in units of `time_base`; 0 when it states none."""
    if info.kind != "video" or info.telecined:
        return 0
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        stream = container.streams[info.stream_index]
        container.seek(pts, stream=stream)
        for packet in demux_packets(container, stream):
            if packet.pts == pts:
                return packet.duration or 0
    return 0
