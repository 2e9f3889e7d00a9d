"""Where the output goes, refused before any work when it cannot work."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av

from rvrt_cli.errors import MediaError, OptionError
from rvrt_cli.video import color
from rvrt_cli.video.color import Color
from rvrt_cli.video.ffmpeg import encoder_pix_fmts, video_encoders
from rvrt_cli.video.mux.stream_plan import plan_streams
from rvrt_cli.video.mux.transcode import Route
from rvrt_cli.video.read.probe import SourceInfo
from rvrt_cli.video.write.encoder import encoder_bytes
from rvrt_cli.video.write.fidelity_notes import chroma, coarser, unsaid, without
from rvrt_cli.video.write.preflight import rehearse

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_DEFAULT_ENCODER = {"webm": "libvpx-vp9"}
# Constant quality a little above ffmpeg's defaults: enlarged detail should not be quantized away again
_DEFAULT_CRF = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 26, "libaom-av1": 24}
_LIGHT_CODECS = {
    "prores",
    "ffv1",
    "mjpeg",
    "png",
    "dnxhd",
    "rawvideo",
}  # each picture by itself: nothing is looked ahead to
_CPU_USED = {"libvpx-vp9", "libvpx", "libaom-av1"}  # their "preset" is called -cpu-used
_PRIVATE_OPTIONS = {"libx264": "-x264-params", "libx265": "-x265-params", "libsvtav1": "-svtav1-params"}
_NO_ALPHA = "alpha is left out, only a folder of PNG keeps it"
_OWN_IMAGE = re.compile(r"\d{6,}\.png")
_CHROMA_CHOICES = {"420": ("420", "422", "444"), "422": ("422", "444", "420"), "444": ("444", "422", "420")}


@dataclass(frozen=True)
class Target:
    """A target that has passed `check_target`, with everything decided.

    Attributes:
        kind: "video", "folder" (PNG sequence) or "y4m" (standard output).
        path: of the file or folder; meaningless for "y4m".
        encoder, codec: ffmpeg's name of the encoder ("libx264") and of what it writes ("h264").
        color: what pictures are converted to and tagged with.
        options: ffmpeg's arguments for the encoder.
        routes: what happens to the source's other streams.
        notes: what is worth telling the user before the work, one line each.
    """

    kind: str
    path: Path
    width: int
    height: int
    muxer: str
    encoder: str
    codec: str
    pix_fmt: str
    color: Color
    options: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    notes: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def keeps_alpha(self) -> bool:
        """Whether frames are written with their alpha."""
        return self.kind == "folder" and color.has_alpha(self.pix_fmt)

    @property
    def encoder_bytes(self) -> int:
        """Main memory that ffmpeg takes to encode into this target."""
        if self.kind != "video":
            return 0
        light = self.codec in _LIGHT_CODECS or "ultrafast" in self.options
        return encoder_bytes(self.width, self.height, self.pix_fmt, light=light)

    @property
    def chain(self) -> str:
        """Filters from packed RGB to what the encoder takes (the sample aspect is added by the writer)."""
        return color.from_rgb(self.pix_fmt, self.color, self.width, self.height)


def check_target(
    info: SourceInfo,
    target: str | Path,
    *,
    width: int,
    height: int,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    overwrite: bool = False,
    source_mux: bool = True,
) -> Target:
    """Decide how `info`'s pictures, `width` x `height` px, go into `target`, and try it on two black pictures.

    Args:
        target: a file (.mp4 .mov .mkv .webm), a folder for PNG, or "-" for y4m on standard output.
        codec: ffmpeg's name of a video encoder; libx264, or libvpx-vp9 for .webm, unless given.
        crf, preset, pix_fmt: the encoder's quality, speed and pixel format; chosen unless given.
        overwrite: an existing target may be replaced.
        source_mux: sound, subtitles and the rest of the source are copied into a video target.

    Raises:
        MediaError: the target exists, is the source, cannot be written, or cannot hold what it should.
        OptionError: an encoder or its option does not exist.
    """
    text = str(target)
    if text == "-":
        return _y4m_target(info, width, height, pix_fmt, source_mux)
    if not text:
        raise MediaError("the target has no name; give that of a video or a folder, or -")
    path = real_folder(target)
    folder = text.endswith(("/", os.sep)) or path.is_dir() or not path.suffix
    if not folder and path.suffix.lower() not in MUXERS:
        known = " ".join(MUXERS)
        raise MediaError(f"{text}: unknown type of file {path.suffix!r}; choose one of {known}, or end a folder in /")
    _check_place(info, path, folder, overwrite)
    if folder:
        return _folder_target(info, path, width, height, overwrite, source_mux)
    muxer = MUXERS[path.suffix.lower()]
    encoder = codec or _DEFAULT_ENCODER.get(muxer, "libx264")
    written = _check_encoder(encoder, muxer, path)
    chosen = _choose_pix_fmt(info, encoder, pix_fmt)
    routes, notes = plan_streams(info, muxer, path) if source_mux else ((), ())
    if info.has_alpha:
        notes = (*notes, f"{path.name}: {_NO_ALPHA}")
    if (info.mastering or info.light_level) and encoder not in _PRIVATE_OPTIONS:
        known = ", ".join(_PRIVATE_OPTIONS)
        notes = (*notes, f"{path.name}: HDR's mastering display is left out by {encoder}; --codec {known} keep it")
    notes = (*notes, *coarser(info, chosen, path.name))
    tags = color.for_output(info.color, chosen)
    if written == "mjpeg":  # of which JPEG knows one matrix and range, whatever is said beside it
        tags = replace(tags, matrix="bt470bg", range="pc")
    plan = Target(
        kind="video",
        path=path,
        width=width,
        height=height,
        muxer=muxer,
        encoder=encoder,
        codec=written,
        pix_fmt=chosen,
        color=tags,
        routes=routes,
        notes=notes,
        overwrite=overwrite,
    )
    plan = replace(plan, options=tuple(_encoder_options(info, plan, crf, preset)))
    rehearse(info, plan)
    return plan


def real_folder(target: str | Path) -> Path:
    """Where `target` lies: a link to a folder stays, and the folder that it leads to is filled."""
    path = Path(target)
    return Path(os.path.realpath(path)) if path.is_symlink() and path.is_dir() else path


def _check_place(info: SourceInfo, path: Path, folder: bool, overwrite: bool) -> None:
    sources = [Path(info.path)] if info.kind == "video" else [*info.files, *{file.parent for file in info.files}]
    if path.exists():
        if any(source.exists() and os.path.samefile(source, path) for source in sources):
            raise MediaError(f"{path}: target and source are the same; choose another name for the target")
        _check_existing(path, folder, overwrite)
    elif path.is_symlink():
        raise MediaError(f"{path}: a link that leads nowhere; remove it or choose another name")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise MediaError(f"{path}: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise MediaError(f"{path}: no permission to write into the folder {parent}; choose another one")


def _check_existing(path: Path, folder: bool, overwrite: bool) -> None:
    if folder and not path.is_dir():
        raise MediaError(f"{path}: exists and is not a folder; choose another name")
    if not folder:
        if not path.is_file():
            raise MediaError(f"{path}: exists and is not a regular file; choose another name")
        if not overwrite:
            raise MediaError(f"{path}: exists already; choose another name, or --overwrite")
        return
    if _is_held(path):
        raise MediaError(
            f"{path}: the folder is in use as a working directory or a mount, so that all images cannot appear in it at "
            f"once; choose a new folder in it, such as {path / 'frames'}{os.sep}"
        )
    names = os.listdir(path)
    foreign = [name for name in names if not _OWN_IMAGE.fullmatch(name)]
    if foreign:
        raise MediaError(f"{path}: the folder holds other files ({foreign[0]!r}); choose a new or an empty one")
    if names and not overwrite:
        raise MediaError(f"{path}: the folder holds images already; choose another one, or --overwrite")


def _is_held(folder: Path) -> bool:
    """Whether no other folder can take the place of this one: we are in it, or something is mounted there."""
    if os.path.samefile(folder, os.curdir) or os.path.ismount(folder):
        return True
    with contextlib.suppress(OSError):  # Linux also knows the mounts of a folder of the same file system
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        real = os.fsencode(os.path.realpath(folder))
        return real in [re.sub(rb"\\([0-7]{3})", lambda sign: bytes([int(sign[1], 8)]), place) for place in places]
    return False


def _check_encoder(encoder: str, muxer: str, path: Path) -> str:
    """The codec that `encoder` writes, when this ffmpeg has it and the container can hold it."""
    known = video_encoders()
    if encoder not in known:
        same = sorted(name for name, codec in known.items() if codec == encoder or encoder in name)[:4]
        hint = ", ".join(same) if same else "libx264, libx265, libvpx-vp9, libsvtav1, ffv1"
        raise OptionError(f"--codec {encoder}: this ffmpeg has no such video encoder; choose for example {hint}")
    written = known[encoder]
    if not _holds(muxer, written):
        fits = [suffix for suffix, other in MUXERS.items() if suffix != ".m4v" and _holds(other, written)]
        remedy = f"choose {' or '.join(fits)}" if fits else "choose another --codec"
        raise MediaError(f"{path.name}: the video codec {written!r} cannot go into {path.suffix}; {remedy}")
    return written


def _holds(muxer: str, codec: str) -> bool:
    with av.open(os.devnull, "w", format=muxer) as container:
        return codec in container.supported_codecs


def _choose_pix_fmt(info: SourceInfo, encoder: str, wanted: str | None) -> str:
    """The format nearest to the source's in depth, then in chroma, that the encoder takes."""
    supported = encoder_pix_fmts(encoder)
    if wanted is not None:
        if supported and wanted not in supported:
            raise OptionError(f"--pix-fmt {wanted}: {encoder} does not take it; choose one of {', '.join(supported)}")
        try:
            av.VideoFormat(wanted)
        except ValueError as error:
            raise OptionError(f"--pix-fmt {wanted}: ffmpeg knows no such pixel format; try yuv420p") from error
        return wanted
    depths = ("10le", "12le", "16le", "") if info.bit_depth > 8 else ("", "10le", "12le")
    if info.bit_depth > 10:
        depths = ("12le", "16le", "10le", "") if info.bit_depth <= 12 else ("16le", "12le", "10le", "")
    choices = _CHROMA_CHOICES[chroma(info)]
    candidates = [f"yuv{c}p{depth}" for depth in depths for c in choices]
    candidates = [name for c in candidates for name in ((c, "p010le") if c == "yuv420p10le" else (c,))]
    if color.is_rgb(info.pix_fmt) and info.kind == "video" and encoder in ("ffv1", "utvideo", "magicyuv", "huffyuv"):
        candidates = ["gbrp", "bgr0", "rgb24", *candidates] if info.bit_depth <= 8 else ["gbrp16le", *candidates]
    candidates += ["rgb24", "bgr24", "gbrp", "bgr0"]
    if supported and supported[0].startswith("yuvj"):  # of JPEG, which is of full range
        candidates = [f"yuvj{c}p" for c in choices] + candidates
    for name in candidates:
        if not supported or name in supported:
            return name
    raise OptionError(f"--codec {encoder}: choose its --pix-fmt, one of {', '.join(supported)}")


def _encoder_options(info: SourceInfo, plan: Target, crf: int | None, preset: str | None) -> list[str]:
    encoder = plan.encoder
    if crf is not None and not 0 <= crf <= 63:
        raise OptionError(f"--crf {crf}: give 0 (best) to 51, or to 63 for VP9 and AV1")
    options = ["-c:v", encoder]
    quality = _DEFAULT_CRF.get(encoder) if crf is None else crf
    if quality is not None:
        options += ["-crf", str(quality)]
        if encoder in _CPU_USED:
            options += ["-b:v", "0"]  # else the bit rate's default of 256 kb/s caps the quality
    if encoder == "libvpx-vp9":
        options += ["-row-mt", "1"]
        preset = preset or "2"
    if preset is not None:
        options += ["-cpu-used" if encoder in _CPU_USED else "-preset", preset]
    if plan.codec == "hevc" and plan.muxer in ("mp4", "mov"):
        options += ["-tag:v", "hvc1"]  # Apple's players refuse the other one
    for key, value in _private_options(info, plan.encoder).items():
        options += [key, value]
    return [*options, *color.tag_options(plan.color)]


def _private_options(info: SourceInfo, encoder: str) -> dict[str, str]:
    """The frame rate, which raw pictures do not carry, and HDR10's static metadata, in the encoder's own dialect."""
    key = _PRIVATE_OPTIONS.get(encoder)
    if key is None:
        return {}
    rate = info.frame_rate.limit_denominator(1001)
    words = []
    if encoder != "libsvtav1" and rate > 0:
        words.append(f"fps={rate.numerator}/{rate.denominator}")
    if encoder == "libx265":
        words.append("log-level=error")
    scale, unit = (Fraction(1), Fraction(1)) if encoder == "libsvtav1" else (Fraction(50000), Fraction(10000))
    if info.mastering is not None:
        words.append("mastering-display=" if encoder != "libx265" else "master-display=")
        words[-1] += _mastering(info, scale, unit, integers=encoder != "libsvtav1")
    if info.light_level is not None:
        name = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}[encoder]
        words.append(f"{name}={info.light_level[0]},{info.light_level[1]}")
    return {key: ":".join(words)} if words else {}


def _mastering(info: SourceInfo, scale: Fraction, unit: Fraction, *, integers: bool) -> str:
    display = info.mastering
    assert display is not None

    def number(value: Fraction) -> str:
        return str(round(value)) if integers else f"{float(value):.5f}"

    def pair(point: tuple[Fraction, Fraction]) -> str:
        return f"({number(point[0] * scale)},{number(point[1] * scale)})"

    light = f"({number(display.max_luminance * unit)},{number(display.min_luminance * unit)})"
    return f"G{pair(display.green)}B{pair(display.blue)}R{pair(display.red)}WP{pair(display.white)}L{light}"


def _folder_target(info: SourceInfo, path: Path, width: int, height: int, overwrite: bool, source_mux: bool) -> Target:
    deep = info.bit_depth > 8
    keeps_alpha = info.has_alpha and (info.kind == "images" or color.has_alpha(info.pix_fmt))
    notes = without(info, path.name, "a folder of PNG holds pictures only", source_mux)
    if info.has_alpha and not keeps_alpha:
        notes.append(
            f"{path.name}: alpha is left out, this ffmpeg cannot decode it; set IMAGEIO_FFMPEG_EXE to one with libvpx",
        )
    pix_fmt = {(False, False): "rgb24", (True, False): "rgb48be", (False, True): "rgba", (True, True): "rgba64be"}[
        deep, keeps_alpha
    ]
    # Against the default (6), 10 % larger and five times as fast
    options = ("-c:v", "png", "-compression_level", "1", "-pred", "paeth")
    tags = color.for_output(info.color, pix_fmt)
    return Target(
        "folder", path, width, height, "image2", "png", "png", pix_fmt, tags, options, (),
        (*notes, *coarser(info, pix_fmt, path.name)), overwrite=overwrite,
    )  # fmt: skip


def _y4m_target(info: SourceInfo, width: int, height: int, pix_fmt: str | None, source_mux: bool) -> Target:
    chosen = pix_fmt or _choose_pix_fmt(info, "wrapped_avframe", None)
    if not re.fullmatch(r"yuv(420|422|444)p(9le|10le|12le|14le|16le)?", chosen):
        raise OptionError(f"--pix-fmt {chosen}: y4m cannot hold it; choose yuv420p, yuv422p or yuv444p, or their 10le")
    options = ("-c:v", "wrapped_avframe", "-strict", "-1")
    tags = color.for_output(info.color, chosen)
    name = "standard output"
    notes = [*without(info, name, "y4m holds pictures only", source_mux), *coarser(info, chosen, name)]
    notes += unsaid(tags, chosen, height, name)
    notes += [f"{name}: {_NO_ALPHA}"] * info.has_alpha
    return Target(
        "y4m", Path("-"), width, height, "yuv4mpegpipe", "wrapped_avframe", "rawvideo", chosen, tags, options, (),
        tuple(notes),
    )  # fmt: skip
