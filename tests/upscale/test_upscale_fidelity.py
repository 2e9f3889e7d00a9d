# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost on the whole way of `rvrt upscale`, in segments that are joined: source against target, by PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_clips import BFRAMES, decoded_times, ffmpeg, look, pgs_display_set, read_all

from rvrt_cli.video.read.probe import probe

VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p"]


def quick(target: Path) -> list[str]:
    return ["--preset", "8" if target.suffix == ".webm" else "veryfast"]


def video_end(path: Path) -> Fraction:
    """When the last frame ends [s]: by the track's length, which in Matroska is a tag."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if "matroska" in container.format.name:
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        return (stream.start_time + stream.duration) * stream.time_base


def held(source: Path, target: Path, seconds: Fraction) -> None:
    """Copy `source`, with its last frame shown for `seconds`."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        copies = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        packets = [packet for packet in given.demux() if packet.size]
        video = given.streams.video[0]
        last = max((p for p in packets if p.stream_index == video.index), key=lambda p: p.pts)
        last.duration = round(seconds / video.time_base)
        for packet in packets:
            packet.stream = copies[packet.stream_index]
            made.mux(packet)


# name: (frames/s, frames, how long the last one is held in s, else as long as the others)
ENDINGS = {
    "2": (Fraction(2), 6, None),
    "10": (Fraction(10), 10, None),
    "23.976": (Fraction(24000, 1001), 24, None),
    "59.94": (Fraction(60000, 1001), 30, None),
    "120": (Fraction(120), 30, None),
    "held": (Fraction(25), 20, Fraction(2)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("2", ".mp4"),
        ("2", ".webm"),
        ("10", ".mov"),
        ("23.976", ".mkv"),
        ("59.94", ".mp4"),
        ("59.94", ".mkv"),
        ("120", ".mp4"),
        ("120", ".webm"),
        *itertools.product(["held"], [".mp4", ".mov", ".mkv", ".webm"]),
    ],
)
def test_audio_and_video_end_together(tmp_path: Path, upscale: Callable[..., str], name: str, suffix: str) -> None:
    rate, frames, hold = ENDINGS[name]
    end = (frames - 1) / rate + (hold or 1 / rate)
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    made = tmp_path / f"made{suffix}" if hold else source
    pictures = [
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s=32x24:r={rate}:d={float(frames / rate)}",
        "-f",
        "lavfi",
        "-i",
        f"sine=r=48000:d={float(end)}",
    ]
    coded = [*VP9, "-c:a", "libopus"] if suffix == ".webm" else [*BFRAMES, "-c:a", "aac"]
    ffmpeg(*pictures, *coded, made)
    if hold:
        held(made, source, hold)
    upscale(source, target, *quick(target))
    assert abs(video_end(source) - end) <= Fraction(1, 1000), "the source is not what it should be"
    assert len(decoded_times(target)) == frames
    assert abs(video_end(target) - end) <= Fraction(1, 1000)
    with av.open(str(target)) as container:
        audio = container.streams.audio[0]
        packets = [packet for packet in container.demux(audio) if packet.size]
        sound = max((packet.pts + packet.duration) * packet.time_base for packet in packets)
    assert abs(sound - video_end(target)) < max(1 / rate, Fraction(1024, 48000))  # AAC comes in frames of 1024


@pytest.mark.parametrize(("rate", "suffix"), [("24000/1001", ".mp4"), ("10", ".mkv")])
def test_y4m_says_the_frame_rate(tmp_path: Path, upscale: Callable[..., str], rate: str, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x24:r={rate}:d=1", *BFRAMES, source)
    upscale(source, "-")
    numerator, _, denominator = rate.partition("/")
    header = upscale.out.split(b"\n")[0].split()
    assert f"F{numerator}:{denominator or 1}".encode() in header


# One table: sources of every kind through the whole command, each property of source and target compared


TEXT = "1\n00:00:00,100 --> 00:00:00,400\nGrüße\n\n2\n00:00:00,500 --> 00:00:00,900\nsecond\n"
ABOUT = (
    ";FFMETADATA1\ntitle=Ein Film\nartist=Somebody\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=1000\ntitle=Zwei\n"
)
HDR10 = (
    "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:log-level=none:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
)
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-pix_fmt", "yuv420p"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", HDR10, "-pix_fmt", "yuv420p10le"]
PRORES = ["-c:v", "prores_ks", "-profile:v", "3", "-pix_fmt", "yuv422p10le"]
TAGS = {
    "bt601": "smpte170m:smpte170m:smpte170m:tv",
    "bt709": "bt709:bt709:bt709:tv",
    "full": "bt709:bt709:bt709:pc",
    "hlg": "bt2020:arib-std-b67:bt2020nc:tv",
    "pq": "bt2020:smpte2084:bt2020nc:tv",
}
TRACKS = {"deu": "Ton", "fra": "Zweitton"}  # languages and titles of the sounds
PGS, SRT = "hdmv_pgs_subtitle", "subrip"


@dataclass(frozen=True)
class Row:
    """A source, the target's suffix and options, and what must be there in both."""

    suffix: str
    video: list[str]
    audio: list[str]  # encoders, one a track
    target: str
    tags: str = "bt709"
    rate: str = "25"
    aspect: str = "1"
    times: str = "PTS"  # setpts
    rotation: int = 0
    subtitles: tuple[str, ...] = ()
    extras: bool = False  # chapters, titles; an attachment in Matroska
    options: tuple[str, ...] = ()
    languages: tuple[str | None, ...] = ("deu", "fra")  # of the target's sounds
    notes: tuple[str, ...] = ()


WAVES = "PTS+0.013*gt(N,6)/TB+0.02*gt(N,15)/TB"
TABLE = {
    "film mkv": Row(
        ".mkv", X264, ["flac", "ac3"], ".mkv", aspect="12/11", times=WAVES, subtitles=(SRT, PGS), extras=True
    ),
    "film mkv to mp4": Row(".mkv", X264, ["flac", "aac"], ".mp4", rate="24000/1001", aspect="4/3", extras=True),
    "phone mp4": Row(".mp4", X264, ["aac"], ".mp4", rate="30000/1001", rotation=90, times=WAVES, extras=True),
    "phone mp4 to mov": Row(
        ".mp4", X264, ["aac"], ".mov", rate="30000/1001", rotation=270, aspect="3/2", languages=("ger",)
    ),
    "pq mkv": Row(".mkv", X265, ["libopus"], ".mkv", "pq", options=("--codec", "libx265")),
    "pq mov": Row(".mov", X265, ["aac"], ".mov", "pq", options=("--codec", "libx265"), languages=(None,)),
    "hlg mov": Row(
        ".mov", PRORES, ["pcm_s24le"], ".mov", "hlg", aspect="4/3", options=("--codec", "prores_ks"), languages=(None,)
    ),
    "webm": Row(
        ".webm", VP9, ["libopus", "libvorbis"], ".webm", "bt601", aspect="3/4", subtitles=("webvtt",), extras=True
    ),
    "webm to mkv": Row(".webm", VP9, ["libopus"], ".mkv", "full", rate="60000/1001", times=WAVES),
    "webm to mp4": Row(".webm", VP9, ["libopus"], ".mp4", "bt601", aspect="5/4"),
    "mkv to webm": Row(
        ".mkv",
        X264,
        ["aac", "libopus"],
        ".webm",
        notes=("stream 1 (audio, aac) is re-encoded to opus, since .webm cannot hold it",),
    ),
}


def make(row: Row, folder: Path) -> Path:
    """The source that `row` describes: a second of moving pictures over a flat gray, and its tracks."""
    source = folder / f"in{row.suffix}"
    primaries, transfer, matrix, value_range = TAGS[row.tags].split(":")
    color = f"color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}:range={value_range}"
    pictures = f"color=0x808080:s=64x48:r={row.rate}:d=0.96[gray];testsrc2=s=32x48:r={row.rate}:d=0.96[moving]"
    chain = f"[gray][moving]overlay=eof_action=endall,setpts='{row.times}',setsar={row.aspect}"
    matrix_name = {"smpte170m": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)
    chain += f",scale=out_color_matrix={matrix_name}:out_range={value_range},setparams={color}"
    inputs: list[object] = ["-f", "lavfi", "-i", f"{pictures};{chain}"]
    maps: list[object] = ["-map", "0:v"]
    for number, (encoder, (language, title)) in enumerate(zip(row.audio, TRACKS.items(), strict=False)):
        inputs += ["-f", "lavfi", "-i", f"sine=f={440 * (number + 1)}:d=1:r=48000"]
        maps += [
            "-map",
            f"{number + 1}:a",
            f"-c:a:{number}",
            encoder,
            f"-metadata:s:a:{number}",
            f"language={language}",
        ]
        maps += [
            f"-metadata:s:a:{number}",
            f"title={title}",
            f"-disposition:a:{number}",
            ["default", "comment"][number],
        ]
    following = len(row.audio) + 1
    for number, codec in enumerate(row.subtitles):
        subtitle = folder / f"{number}{'.sup' if codec == PGS else '.srt'}"
        if codec == PGS:
            subtitle.write_bytes(pgs_display_set(0.2, True) + pgs_display_set(0.7, False))
        else:
            subtitle.write_text(TEXT, encoding="utf-8")
        inputs += ["-i", subtitle]
        maps += ["-map", f"{following}:s", f"-c:s:{number}", "copy" if codec == PGS else codec]
        maps += [f"-metadata:s:s:{number}", "language=spa"]
        following += 1
    if row.extras:
        (folder / "about.txt").write_text(ABOUT, encoding="utf-8")
        inputs += ["-i", folder / "about.txt"]
        maps += ["-map_metadata", following, "-map_chapters", following]
    if row.rotation:
        flat = folder / f"flat{row.suffix}"
        ffmpeg(*inputs, *maps, "-fps_mode", "passthrough", *row.video, flat)
        ffmpeg(
            "-display_rotation",
            row.rotation,
            "-i",
            flat,
            "-map",
            "0",
            "-c",
            "copy",
            "-metadata:s:a",
            "title=Ton",
            source,
        )
    else:
        ffmpeg(*inputs, *maps, "-fps_mode", "passthrough", *row.video, source)
    return source


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_nothing_is_lost_on_the_way(tmp_path: Path, upscale: Callable[..., str], name: str) -> None:
    row = TABLE[name]
    source = make(row, tmp_path)
    target = tmp_path / f"out{row.target}"
    said = upscale(source, target, *quick(target) * (row.video is not PRORES), *row.options)
    notes = [line.removeprefix("note: ") for line in said.splitlines() if line.startswith("note: ")]
    assert notes == [f"out{row.target}: {note}" for note in row.notes]
    before, after = look(source), look(target)

    # Frames and their times, to the container's precision
    want, got = decoded_times(source), decoded_times(target)
    assert len(got) == len(want) >= 23
    exact = row.target in (".mp4", ".mov")
    assert max(abs(a - b) for a, b in zip(want, got, strict=True)) <= (0 if exact else Fraction(1, 2000))
    assert abs(video_end(target) - video_end(source)) <= Fraction(1, 1000)

    # Pictures: size and shape, upright once; colors said and kept; depth
    first, shown = probe(source), probe(target)
    sideways = row.rotation % 180 == 90
    assert (shown.width, shown.height) == ((192, 256) if sideways else (256, 192))
    assert shown.rotation == 0
    assert shown.sample_aspect == (1 / Fraction(row.aspect) if sideways else Fraction(row.aspect))
    primaries, transfer, matrix, value_range = TAGS[row.tags].split(":")
    told = shown.color
    assert (told.primaries, told.transfer, told.matrix, told.range) == (primaries, transfer, matrix, value_range)
    assert shown.bit_depth == first.bit_depth == (8 if row.video in (X264, VP9) else 10)
    if row.tags == "pq":
        assert shown.mastering is not None
        assert shown.mastering.max_luminance == 1000
        assert shown.light_level == (1000, 400)
        assert (shown.mastering, shown.light_level) == (first.mastering, first.light_level)
    gray = []
    for path, scale in ((source, 1), (target, 4)):
        pixels = np.rot90(read_all(path)[-1].pixels, -row.rotation // 90).astype(float)
        gray.append(
            pixels[12 * scale : 36 * scale, 40 * scale : 56 * scale].mean((0, 1)) / (257 if first.bit_depth > 8 else 1)
        )
    assert np.abs(gray[0] - gray[1]).max() <= 1, f"gray {gray[0]} came back as {gray[1]}"

    # Sounds
    sounds = [[s for s in streams if s.type == "audio"] for streams in (before, after)]
    assert [s.metadata.get("language") for s in sounds[1]] == list(row.languages[: len(row.audio)])
    assert [s.metadata.get("title", s.metadata.get("name")) for s in sounds[1]] == list(TRACKS.values())[
        : len(row.audio)
    ]
    for old, new in zip(*sounds, strict=True):
        assert abs(old.times[0] - new.times[0]) <= Fraction(1, 1000) or row.notes
        known = 1 if row.target == ".webm" else -1  # WebM has a flag for the default track and none for a comment
        assert new.disposition == old.disposition & known
        if any(f"(audio, {old.codec})" in note for note in row.notes):
            assert new.codec != old.codec
        else:
            assert (new.codec, b"".join(new.data)) == (old.codec, b"".join(old.data))

    # Subtitles, chapters, titles
    texts = [[s for s in streams if s.type == "subtitle"] for streams in (before, after)]
    assert tuple(s.codec for s in texts[1]) == row.subtitles
    for old, new in zip(*texts, strict=True):
        assert (new.data, new.disposition, new.metadata["language"]) == (old.data, old.disposition, "spa")
        assert len(new.data) == 2
        assert [abs(a - b) < Fraction(1, 1000) for a, b in zip(old.times, new.times, strict=True)] == [True] * 2
    if row.extras:
        with av.open(str(target)) as container:
            assert container.metadata["title"] == "Ein Film"
            chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
            named = [c["metadata"]["title"] for c in container.chapters()]
        assert chapters == [(0, Fraction(2, 5)), (Fraction(2, 5), 1)]
        assert named == ["One", "Zwei"]


def test_telecined_film_is_upscaled_at_its_own_rate_and_in_sync(tmp_path: Path, upscale: Callable[..., str]) -> None:
    source, target = tmp_path / "telecined.mkv", tmp_path / "out.mkv"
    film = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=24000/1001", "-f", "lavfi", "-i", "sine=f=440:r=48000"]
    ffmpeg(*film, "-vf", "telecine", "-frames:v", "60", "-t", "2.002", "-c:v", "ffv1", "-c:a", "flac", source)
    assert len(look(source)[0].times) == 60
    said = upscale(source, target, "--ivtc", "--preset", "ultrafast")
    assert "film is restored from the source by inverse telecine, at 23.976 frames/s" in said
    [video], [audio] = ([stream for stream in look(target) if stream.type == kind] for kind in ("video", "audio"))
    assert len(video.times) == 48
    assert all(
        abs(time - number * Fraction(1001, 24000)) <= Fraction(1, 1000) for number, time in enumerate(video.times)
    )
    assert audio.data == look(source)[1].data
    assert audio.times == look(source)[1].times
    assert abs(video_end(target) - video_end(source)) <= Fraction(1, 100)
    refused = upscale(source, tmp_path / "other.mkv", "--ivtc", "--check", status=1)
    assert "--check: compares frame by frame, and --ivtc makes other frames" in refused


def test_picture_subtitles_are_refused_before_the_work_where_they_do_not_fit(
    tmp_path: Path, upscale: Callable[..., str]
) -> None:
    source = make(TABLE["film mkv"], tmp_path)
    for suffix in (".mp4", ".mov", ".webm"):
        said = upscale(source, tmp_path / f"out{suffix}", status=1)
        assert f"the subtitle codec '{PGS}' is not supported in {suffix}; choose .mkv" in said
        assert not (tmp_path / "calls").exists()
        assert not (tmp_path / f"out{suffix}").exists()
