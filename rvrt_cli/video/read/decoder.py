"""Pictures of a video with their times, decoded by an ffmpeg process of its own.

ffmpeg writes raw RGB in NUT, a container made for pipes that carries every picture's timestamp, so pictures and times
come from one decode. PyAV takes the packets out.
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
from rvrt_cli.video.read import y4m_header
from rvrt_cli.video.read.probe import SourceInfo, open_container, packets, stdin_descriptor

# Messages that say something about the whole of a source, wherever in it they come
_WATCH = {
    "uncolored": "no path between colorspaces",
    "jump": "Non-monotonic DTS",
    "field": r" i:[TB] iskey:",  # from the filter showinfo, once a picture
    "damage": r"ended prematurely|[Tt]runcat|corrupt|partial file",
}
# Formats with an index of their key pictures. Elsewhere ffmpeg seeks to any place (MPEG-TS) or takes it for the beginning
# (raw H.264), and pictures between there and the next key picture would be lost.
_INDEXED = {"mp4", "matroska", "avi", "flv", "asf", "mxf", "nut"}
_RUN_UP = 5.0  # s: seeking goes by times of decoding, and fails before the first one
NUT_OPTIONS = {"probesize": "32", "analyzeduration": "0"}  # believe the header; reading ahead would cost memory


class VideoDecoder:
    """Decodes `info` from `start` for `duration` seconds.

    After `frames`, `warnings` and `missing` tell how it went, and `until` when the last picture gives way, as a `pts`.
    """

    def __init__(self, info: SourceInfo, start: float, duration: float | None, deinterlace: bool, alpha: bool) -> None:
        self.info = info
        self.warnings: list[str] = []
        self.missing = 0
        self.until: int | None = None
        self._first = info.begin + Fraction(start).limit_denominator(10**6) if start > 0 else None
        begin = self._first if self._first is not None else info.begin
        self._end = begin + Fraction(duration).limit_denominator(10**6) if duration is not None else None
        # NUT has no negative times: such a source is moved past 0 on the way through
        self._lift = 0
        if info.start_time < 0:
            self._lift = int(-info.start_time / info.time_base) + int(1 / info.time_base) + 1
        self._closed = threading.Event()
        self._breaks_off = False  # a y4m stream, inside a frame
        self._alpha = alpha and color.has_alpha(info.pix_fmt)
        self._start, self._deinterlace = start, deinterlace
        self._woven = not (deinterlace or info.interlaced)  # interlaced pictures would surprise
        self._as_tagged = info.kind != "y4m"  # each picture's colors are as it says itself
        self._launch()
        if info.kind == "y4m":
            threading.Thread(target=self._pump, name="y4m-pump", daemon=True).start()

    def _launch(self) -> None:
        info = self.info
        turned = "transpose" in info.upright
        width, height = (info.height, info.width) if turned else (info.width, info.height)  # as stored
        chain, self._packed = self._filters(width, height)
        same = rf"{re.sub('^yuvj?', 'yuvj?', info.pix_fmt)}\b.* {width}x{height}\b"  # but for the colors
        changed = "Reconfiguring filter graph because video parameters changed to "
        self._ffmpeg = FFmpeg(
            [*self._input(self._start), "-vf", chain, *self._output()],
            stdin=info.kind == "y4m",
            stdout=True,
            level="verbose",  # the counts of packets and pictures come at this level
            watch={**_WATCH, "recolored": f"{changed}{same}", "change": f"{changed}(?!{same})"},
        )

    def _input(self, start: float) -> list[str]:
        info = self.info
        if info.kind == "y4m":
            return ["-f", "yuv4mpegpipe", "-i", "pipe:0", "-map", "0:v:0"]
        # Turned after the conversion to RGB instead: chroma does not lie where a turned picture says it does
        arguments = ["-noautorotate", "-copyts", "-protocol_whitelist", "file"]
        if info.decoder:
            arguments += ["-c:v", info.decoder]
        if info.codec == "theora":  # several threads lose the chroma of a picture now and then, after one that repeats
            arguments += ["-threads", "1"]
        if start > 2 * _RUN_UP and set(info.format.split(",")) & _INDEXED:
            arguments += ["-ss", f"{start - _RUN_UP:.6f}"]
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
        if self._lift:
            chain = f"setpts=PTS+{self._lift},{chain}"
        if self._woven:
            chain = f"showinfo=checksum=0,{chain}"
        if self._first is not None:  # or a little earlier, since deinterlacing looks at the pictures before, too
            chain = f"trim=start={float(self._first) - (1 if deinterlace else 0):.6f},{chain}"
        return chain, packed

    def _output(self) -> list[str]:
        base = self.info.time_base
        times = ["-fps_mode", "passthrough", "-enc_time_base", f"{base.numerator}/{base.denominator}"]
        return [*times, "-c:v", "rawvideo", "-f", "nut", "pipe:1"]

    def frames(self) -> Iterator[Frame]:
        """The pictures, in order of time, each time later than the one before.

        Raises:
            MediaError: not one picture came out.
        """
        count, last = 0, None
        for pts, picture in self._pictures():
            moment = pts * self.info.time_base
            if self._first is not None and moment < self._first:
                continue
            if self._end is not None and moment >= self._end:
                if last is not None:
                    self.until = max(last + 1, round(self._end / self.info.time_base))
                break
            if last is not None and pts <= last:
                pts = last + 1  # two pictures at one time: both are kept
            count, last = count + 1, pts
            if self._alpha:
                yield Frame(np.ascontiguousarray(picture[..., :3]), pts, np.ascontiguousarray(picture[..., 3]))
            else:
                yield Frame(picture, pts)
        else:
            if not self._closed.is_set():
                status = self._ffmpeg.wait()
                if status < 0 or status == 255:  # a signal: the rest of the source was never looked at
                    raise MediaError(f"{self.info.path}: ffmpeg was ended from outside while decoding; run it again")
                self._take_stock(count, last)
            return
        if not count:
            raise MediaError(
                f"{self.info.path}: no picture in the part that was asked for; check --start and --duration"
            )

    def _pictures(self) -> Iterator[tuple[int, np.ndarray]]:
        """Time and pixels of each picture that ffmpeg gives."""
        given = 0
        for item in self._decoded():
            yield item
            given += 1
        self._ffmpeg.wait()
        if self._ffmpeg.seen["uncolored"] and self._as_tagged and not self._closed.is_set():
            # Where some pictures say how their colors are meant and others do not, all are read as the first one
            self._ffmpeg.kill()
            self._as_tagged = False
            self._launch()
            yield from itertools.islice(self._decoded(), given, None)

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        info = self.info
        shape = (info.height, info.width, 4 if self._alpha else 3)
        kind = np.dtype("<u2") if self._packed in ("rgb48le", "rgba64le") else np.dtype(np.uint8)
        size = math.prod(shape) * kind.itemsize
        pipe = self._ffmpeg.process.stdout
        assert pipe is not None
        try:
            with av.open(f"pipe:{pipe.fileno()}", format="nut", options=NUT_OPTIONS) as container:
                stream = container.streams.video[0]
                scale = Fraction(stream.time_base) / info.time_base
                for packet in container.demux(stream):
                    if packet.size == size and packet.pts is not None:
                        pts = round(packet.pts * scale) - self._lift
                        yield pts, np.frombuffer(packet, kind).reshape(shape)
        except (av.error.FFmpegError, OSError, IndexError) as error:
            if self._closed.is_set():
                return
            if self._ffmpeg.wait() == 0 or (self._ffmpeg.seen["uncolored"] and self._as_tagged):
                return  # not one picture in the part that was asked for, or one that says nothing of its colors
            raise MediaError(f"{info.path}: cannot be decoded: {self._ffmpeg.last_error()}") from error

    def _take_stock(self, count: int, last: int | None) -> None:
        """After the last picture: when it ends, how many should have been there, and whether ffmpeg complained."""
        info, ffmpeg = self.info, self._ffmpeg
        if last is None:
            if self._first is not None:
                raise MediaError(f"{info.path}: no picture after {float(self._first - info.begin):g} s; lower --start")
            if info.kind == "y4m" and not ffmpeg.errors:
                raise MediaError("-: the y4m stream holds no whole frame; check the program that writes it")
            raise MediaError(f"{info.path}: no picture can be decoded: {ffmpeg.last_error()}")
        self.missing = self._count_missing(count, last)
        if ffmpeg.seen["change"]:
            self.warnings.append(
                f"{info.path}: the pictures change their size or format midway; all were scaled to "
                f"{info.width}x{info.height}"
            )
        if ffmpeg.seen["recolored"] and not self._as_tagged:
            self.warnings.append(
                f"{info.path}: the pictures change their colors' matrix or range midway, or do not tell; all were read "
                f"as {info.color.matrix}, {info.color.range}, like the first one"
            )
        fields = ffmpeg.seen["field"]
        if self._woven and fields:
            self.warnings.append(
                f"{info.path}: {fields} frame{'s are' if fields > 1 else ' is'} interlaced, unlike those at the beginning, "
                "and enlarged as they are; --deinterlace makes whole ones"
            )
        self.until = self._shown_until(last)
        jumps = ffmpeg.seen["jump"]
        if jumps:
            self.warnings.append(
                f"{info.path}: the clock runs backwards, {jumps} frames follow the last one at once; sound may be out "
                "of step (ffmpeg -i FILE -c copy NEW.mkv can mend that)"
            )
        if self.missing:
            plural = "s" if self.missing > 1 else ""
            what = "stream" if info.kind == "y4m" else "file"
            why = f"; ffmpeg: {ffmpeg.last_error()}" if ffmpeg.errors else ""
            self.warnings.append(
                f"{info.path}: {self.missing} frame{plural} missing, the {what} is truncated or damaged "
                f"({count} could be read{why})"
            )
        elif ffmpeg.errors:
            self.warnings.append(
                f"{info.path}: some frames may be damaged (ffmpeg: {ffmpeg.last_error()}, {ffmpeg.errors} such lines)"
            )

    def _shown_until(self, last: int) -> int:
        """When the picture of time `last`, the source's last one that can be decoded, gives way."""
        info = self.info
        begin = last * info.time_base
        if self.missing or info.end is None or info.end <= begin:  # such as an mp4 whose last picture has a late time
            held = 0 if self.missing else _packet_duration(info, last)
            until = begin + (held * info.time_base or 1 / info.frame_rate)
        else:
            until = info.end
        if self._end is not None:
            until = min(until, self._end)
        return max(last + 1, round(until / info.time_base))

    def _count_missing(self, count: int, last: int) -> int:
        """Pictures that the container announces, or that went in as packets, and that did not come out."""
        info = self.info
        if self._breaks_off:
            return 1
        whole = self._first is None and self._end is None
        if whole and info.exact_count and info.frame_count:
            return max(0, info.frame_count - count)
        if not (self._ffmpeg.errors or self._ffmpeg.seen["damage"]):
            return 0
        lost = 0
        counts = re.findall(r"(\d+) packets read .*?; (\d+) frames decoded", "\n".join(self._ffmpeg.lines))
        if whole and counts:
            lost = max(0, int(counts[0][0]) - int(counts[0][1]))
        if info.duration:
            end = info.start_time + Fraction(info.duration).limit_denominator(10**6)
            end = end if self._end is None else min(end, self._end)
            short = float((end - last * info.time_base) * info.frame_rate) - 1
            lost = max(lost, round(short))
        return lost

    def _pump(self) -> None:
        """Hand standard input on to ffmpeg, after the header that `probe` took from it."""
        pipe = self._ffmpeg.process.stdin
        assert pipe is not None
        info, source, given, begin = self.info, stdin_descriptor(), 0, b""
        with contextlib.suppress(OSError, ValueError):  # ffmpeg is gone, or the reader was closed
            pipe.write(info.header)
            while data := self._take(source):
                pipe.write(data)
                given += len(data)
                begin += data[: max(0, 80 - len(begin))]
            frame = begin.find(b"\n") + 1 + y4m_header.picture_bytes(info.pix_fmt, info.width, info.height)
            self._breaks_off = not self._closed.is_set() and given % frame > 0
            pipe.flush()
        with contextlib.suppress(OSError, ValueError):
            pipe.close()

    def _take(self, source: int) -> bytes:
        """The next bytes of standard input; none at its end, or when the reader is closed."""
        while not self._closed.is_set():
            if select.select([source], [], [], 0.1)[0]:
                return os.read(source, 1 << 20)
        return b""

    def close(self) -> None:
        """End ffmpeg, whatever it is doing. Safe to call twice and from another thread."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._ffmpeg.process.kill()

    def release(self) -> None:
        """After `frames` has ended: close the pipes."""
        self._closed.set()
        self._ffmpeg.kill()


def _packet_duration(info: SourceInfo, pts: int) -> int:
    """How long the picture of time `pts` is shown, as its packet says, in units of `time_base`; 0 when nobody says."""
    if info.kind != "video":
        return 0
    with open_container(info.path) as container, contextlib.suppress(av.error.FFmpegError, OSError):
        stream = container.streams[info.stream_index]
        container.seek(pts, stream=stream)
        for packet in packets(container, stream):
            if packet.pts == pts:
                return packet.duration or 0
    return 0
