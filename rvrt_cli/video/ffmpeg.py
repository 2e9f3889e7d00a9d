# SPDX-License-Identifier: Apache-2.0
"""The ffmpeg program: where it is, what it supports, and running it without blocking it or leaving it behind."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from rvrt_cli.errors import MediaError
from rvrt_cli.signals import child_setup

PIPE_BYTES = 1 << 20  # the most that Linux grants ordinary users; the default of 64 KiB halves the throughput
_KEPT_LINES = 400  # of ffmpeg's log

# The level follows the component's name; anywhere else the word may come from a file's own metadata
_ERROR_LINE = re.compile(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] ?)*\[(?:error|fatal|panic)\]|^x265 \[error\]")
_INFO_LINE = re.compile(r"^(?:\[[^\]]* @ 0x[0-9a-f]+\] ?)*\[(?:info|verbose|debug)\]")
# Lines that only repeat that something failed before
_FOLLOW_UP_ERROR = re.compile(
    r"Conversion failed|Task finished with error|Terminating thread|Error opening (input|output) files?\b|"
    r"Error applying encoder options|Nothing was written|Error (sending|submitting|while|muxing|encoding|closing|writing trailer)|"
    r"Could not open encoder before|Could not write header|Error during demuxing|Exiting with"
)


def ffmpeg_exe() -> str:
    """Path of the ffmpeg program: IMAGEIO_FFMPEG_EXE, or the one that comes with imageio-ffmpeg.

    Raises:
        MediaError: no ffmpeg was found.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise MediaError(
            "no ffmpeg program found: reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to one"
        ) from error


def file_url(path: str | Path) -> str:
    """`path` as a URL that ffmpeg and PyAV open as a plain file, whatever its characters ("concat:", "-", quotes)."""
    return "file:" + os.path.abspath(path)


def _query(*arguments: str) -> str:
    exe = ffmpeg_exe()
    try:
        done = subprocess.run(
            [exe, "-hide_banner", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MediaError(
            f"{exe}: this ffmpeg does not run ({error}); set IMAGEIO_FFMPEG_EXE to one that does"
        ) from error
    return done.stdout.decode("utf-8", "replace")


@lru_cache(maxsize=4)
def _query_version(exe: str) -> str:
    return _query("-version").partition("\n")[0].partition(" Copyright")[0]


def ffmpeg_version() -> str:
    """First words of `ffmpeg -version`: "ffmpeg version 7.0.2"."""
    return _query_version(ffmpeg_exe())


@lru_cache(maxsize=8)
def _query_encoders(exe: str, kind: str) -> dict[str, str]:
    found = {}
    for line in _query("-encoders").splitlines():
        match = re.match(rf" {kind}[A-Z.]{{5}} ([^\s=]\S*)\s+(.*)", line)  # the legend has lines with a =
        if match:
            codec = re.search(r"\(codec (\S+)\)$", match[2])
            found[match[1]] = codec[1] if codec else match[1]
    return found


def video_encoders() -> dict[str, str]:
    """The video encoders of this ffmpeg, each with the name of the codec it writes: {"libx264": "h264", ...}."""
    return _query_encoders(ffmpeg_exe(), "V")


def audio_encoders() -> dict[str, str]:
    """The audio encoders of this ffmpeg, as `video_encoders`: {"libopus": "opus", ...}."""
    return _query_encoders(ffmpeg_exe(), "A")


@lru_cache(maxsize=64)
def _query_encoder_help(exe: str, encoder: str) -> str:
    return _query("-h", f"encoder={encoder}")


@lru_cache(maxsize=4)
def _query_codec_options(exe: str) -> frozenset[str]:
    """Names of the options that ffmpeg has for all video encoders."""
    section = re.search(r"^AVCodecContext AVOptions:\n(.*?)(?=^\S)", _query("-h", "full"), re.DOTALL | re.MULTILINE)
    return _video_option_names(section[1]) if section else frozenset()


def _video_option_names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"^  -(\S+)\s+<\w+>\s+E..V", text, re.MULTILINE))


def encoder_pix_fmts(encoder: str) -> tuple[str, ...]:
    """The pixel formats that `encoder` accepts; empty when this ffmpeg does not list them."""
    match = re.search(r"Supported pixel formats:(.*)", _query_encoder_help(ffmpeg_exe(), encoder))
    return tuple(match[1].split()) if match else ()


def encoder_option_names(encoder: str) -> frozenset[str]:
    """Names of the options that this ffmpeg lists for `encoder`: its own, and those of all video encoders."""
    exe = ffmpeg_exe()
    return _video_option_names(_query_encoder_help(exe, encoder)) | _query_codec_options(exe)


@lru_cache(maxsize=4)
def _query_lossless_codecs(exe: str) -> frozenset[str]:
    return frozenset(re.findall(r"^ .EV[I.][.]S (\S+)\s", _query("-codecs"), re.MULTILINE))


def always_lossless(codec: str) -> bool:
    """Whether all that this codec can store is without loss, as in FFV1."""
    return codec in _query_lossless_codecs(ffmpeg_exe())


@lru_cache(maxsize=4)
def _query_filters(exe: str) -> frozenset[str]:
    return frozenset(re.findall(r"^ \S+ (\w+)\s", _query("-filters"), re.MULTILINE))


def has_filter(name: str) -> bool:
    """Whether this ffmpeg has the filter."""
    return name in _query_filters(ffmpeg_exe())


def has_zscale() -> bool:
    """Whether this ffmpeg has zimg's scaler, which converts colors exactly and faster than swscale in accurate mode."""
    return has_filter("zscale")


@lru_cache(maxsize=4)
def _query_decoders(exe: str) -> frozenset[str]:
    return frozenset(re.findall(r"^ [A-Z.]{6} (\S+)\s", _query("-decoders"), re.MULTILINE))


def has_decoder(name: str) -> bool:
    """Whether this ffmpeg has the decoder."""
    return name in _query_decoders(ffmpeg_exe())


def opens_device(kind: str) -> bool:
    """Whether this ffmpeg can open a device of a type such as "vaapi", "qsv" or "vulkan" on this machine."""
    try_it = [
        "-init_hw_device",
        f"{kind}=probed",
        "-f",
        "lavfi",
        "-i",
        "nullsrc=s=16x16",
        "-frames:v",
        "1",
        "-f",
        "null",
    ]
    ffmpeg = FFmpeg([*try_it, "-"])
    try:
        return ffmpeg.wait() == 0
    finally:
        ffmpeg.kill()


class FFmpeg:
    """A running ffmpeg process. A thread reads its log, so that it never blocks on it; only the last lines are kept.

    Lines that are no longer kept still count: `errors` counts those of level error or worse, and `seen` those that match
    a pattern of `watch`, by its name.

    The process runs in its own session: Ctrl-C reaches only this program, which then decides how to finish. It is killed
    by `kill` and when Python exits. When Python itself is killed, its pipes break and it ends; one without pipes is killed
    by the kernel (Linux only), and must be waited for in the thread that starts it.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        level: str = "warning",
        watch: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start `ffmpeg arguments`; `stdin`, `stdout`: whether to open a pipe (else empty input, inherited output)."""
        exe = ffmpeg_exe()
        command = [exe, "-hide_banner", "-nostdin", "-nostats", "-loglevel", f"level+{level}", *arguments]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else None,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=None if stdin or stdout else child_setup(),
            )
        except OSError as error:
            raise MediaError(
                f"{exe}: this ffmpeg does not start ({error.strerror}); set IMAGEIO_FFMPEG_EXE to one that does"
            ) from error
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                _grow_pipe(pipe.fileno())
        self._finalizer = weakref.finalize(self, _kill_process, self.process)
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.errors = 0
        self.seen: Counter[str] = Counter()
        self._error_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._watch = {name: re.compile(pattern) for name, pattern in watch.items()}
        self._drain = threading.Thread(target=self._read_messages, name="ffmpeg-messages", daemon=True)
        self._drain.start()

    def _read_messages(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError, OSError):  # closed by `kill` meanwhile
            for raw in self.process.stderr:
                line = raw.decode("utf-8", "replace").rstrip()
                self.lines.append(line)
                self.seen.update(name for name, pattern in self._watch.items() if pattern.search(line))
                if _ERROR_LINE.search(line):
                    self.errors += 1
                    self._error_lines.append(line)

    def wait(self) -> int:
        """The exit status, after the whole log has been read."""
        status = self.process.wait()
        self._drain.join(timeout=10)
        return status

    def kill(self) -> None:
        """Kill the process if it still runs, and close its pipes. Safe to call twice."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._drain.join(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._finalizer.detach()

    def last_error(self) -> str:
        """What went wrong in ffmpeg's own words: its last error line that does not merely follow from another one."""
        errors = list(self._error_lines)
        others = [line for line in self.lines if line and not _INFO_LINE.search(line)]
        informative = [line for line in errors if not _FOLLOW_UP_ERROR.search(line)] or errors or others
        if not informative:
            return f"exit status {self.process.poll()} without a message"
        text = re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] ?", "", informative[-1])
        return re.sub(r"^\s*\[\w+\] ?", "", text).strip()


def _grow_pipe(descriptor: int) -> None:
    """Ask for a larger pipe buffer where the system supports it (Linux's F_SETPIPE_SZ)."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _kill_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
