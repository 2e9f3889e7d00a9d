# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost between source and target: timestamps, audio, subtitles, tags; checked with PyAV on real files."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.video_clips import (
    AUDIO,
    BFRAMES,
    CLOCKS,
    FAST,
    MILLISECOND,
    VIDEO,
    Seen,
    decoded_times,
    ffmpeg,
    leftovers,
    look,
    make_clip,
    read_all,
    request_for,
    slow_after,
    streams,
    upscale_clip,
)

from rvrt_cli.errors import MediaError
from rvrt_cli.video.read.probe import probe
from rvrt_cli.video.read.reader import open_reader
from rvrt_cli.video.write.target_check import check_target


@pytest.mark.parametrize(
    ("clock", "suffix"), slow_after(1, itertools.product(CLOCKS, [".mp4", ".mov", ".mkv", ".webm"]))
)
def test_every_frame_keeps_its_time(tmp_path: Path, clock: str, suffix: str) -> None:
    arguments, source_suffix = CLOCKS[clock]
    source, target = tmp_path / f"in{source_suffix}", tmp_path / f"out{suffix}"
    make_clip(*arguments, source)
    upscale_clip(source, target)
    want, got = decoded_times(source), decoded_times(target)
    assert len(got) == len(want)
    tolerance = 0 if suffix in (".mp4", ".mov") else MILLISECOND / 2
    worst = max(abs(a - b) for a, b in zip(want, got, strict=True))
    assert worst <= tolerance, f"off by {float(worst) * 1000:.3f} ms"
    if clock.startswith("ntsc"):
        assert float(probe(target).frame_rate) == pytest.approx(float(probe(source).frame_rate), rel=1e-5)
    assert leftovers(tmp_path) == []


def test_an_edit_list_hides_the_same_frames(tmp_path: Path) -> None:
    """A copy that starts between key frames has hidden frames before its edit list; they must not appear."""
    whole, source, target = tmp_path / "whole.mp4", tmp_path / "in.mp4", tmp_path / "out.mp4"
    make_clip(*VIDEO, *AUDIO, *BFRAMES, "-c:a", "aac", whole)
    ffmpeg("-ss", "0.55", "-i", whole, "-c", "copy", source)
    assert look(source)[0].times[0] < 0
    upscale_clip(source, target)
    assert probe(source).frame_count == len(decoded_times(target))
    assert decoded_times(target) == [t for t in decoded_times(source) if t >= 0]


def test_a_transport_stream_starts_at_zero_with_its_audio_in_sync(tmp_path: Path) -> None:
    source, target = tmp_path / "in.ts", tmp_path / "out.mp4"
    make_clip(*VIDEO, *AUDIO, *BFRAMES, "-c:a", "aac", "-output_ts_offset", "900", source)
    upscale_clip(source, target)
    before, after = look(source), look(target)
    assert min(after[0].times[0], after[1].times[0]) == 0
    gap_before = before[0].times[0] - before[1].times[0]
    gap_after = after[0].times[0] - after[1].times[0]
    assert abs(gap_before - gap_after) < MILLISECOND / 10
    assert len(after[0].times) == 30


def title(stream: Seen) -> str | None:
    """A track's title, which an mp4 stores as the handler's name."""
    return stream.metadata.get("title", stream.metadata.get("name"))


COPIED_AUDIO = {
    "aac": (".mp4", ".mp4"),
    "libopus": (".mkv", ".webm"),
    "flac": (".mkv", ".mkv"),
    "pcm_s16le": (".mov", ".mkv"),
    "ac3": (".mkv", ".mp4"),
    "libmp3lame": (".mp4", ".mkv"),
    "libvorbis": (".webm", ".webm"),
}


@pytest.mark.parametrize("encoder", slow_after(1, COPIED_AUDIO))
def test_audio_is_copied_bit_for_bit(tmp_path: Path, encoder: str) -> None:
    source, target = (
        tmp_path / f"{name}{suffix}" for name, suffix in zip(("in", "out"), COPIED_AUDIO[encoder], strict=True)
    )
    video = ["-c:v", "libvpx-vp9", "-deadline", "realtime"] if COPIED_AUDIO[encoder][0] == ".webm" else FAST
    two = ["-map", "0", "-map", "1", "-map", "2", "-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=fra"]
    second = ["-f", "lavfi", "-i", "sine=f=880:d=1:r=48000"]
    make_clip(*VIDEO, *AUDIO, *second, *two, "-metadata:s:a:1", "title=Zweitton", *video, "-c:a", encoder, source)
    upscale_clip(source, target)
    before, after = streams(source, "audio"), streams(target, "audio")
    assert len(before) == len(after) == 2
    # ffmpeg does not store "deu" in a .mov, so the source lacks it here
    assert [s.metadata.get("language") for s in after] == [None if encoder == "pcm_s16le" else "deu", "fra"]
    assert [title(s) for s in after] == [None, "Zweitton"]
    for a, b in zip(before, after, strict=True):
        assert a.codec == b.codec
        assert b"".join(a.data) == b"".join(b.data)
        assert abs(a.times[0] - b.times[0]) <= MILLISECOND
        assert a.metadata.get("language") == b.metadata.get("language")
        assert a.disposition == b.disposition


# (encoder of the source, its suffix, channels, the target's suffix, codec there, loss of correlation allowed)
TRANSCODED = [
    ("aac", ".mp4", 2, ".webm", "opus", 0.01),
    ("flac", ".mkv", 1, ".webm", "opus", 0.01),
    ("ac3", ".mkv", 6, ".webm", "opus", 0.01),  # 5.1(side) is not a layout of Opus
    ("flac", ".mkv", 2, ".mov", "alac", 0),
    ("wavpack", ".mkv", 2, ".mp4", "alac", 0),
    ("libopus", ".mkv", 2, ".mov", "aac", 0.01),
    ("wmav2", ".asf", 2, ".mkv", "flac", 0.01),
    ("pcm_mulaw", ".mov", 1, ".mkv", "flac", 0),
]


@pytest.mark.parametrize(
    ("suffix", "language", "kept"),
    [
        (".mov", "deu", "ger"),
        (".mov", "fre", "fra"),
        (".mov", "swe", "sve"),
        (".mov", "ita", "ita"),
        (".mov", "glg", None),
        (".mp4", "glg", "glg"),
        (".mp4", "en-US", None),
        (".mkv", "en-US", "en-US"),
    ],
)
def test_a_language_gets_the_code_that_the_container_can_store(
    tmp_path: Path, suffix: str, language: str, kept: str | None
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    make_clip(*VIDEO, *AUDIO, *FAST, "-c:a", "pcm_s16le", "-metadata:s:a:0", f"language={language}", source)
    notes = upscale_clip(source, target, duration=0.2)
    assert streams(target, "audio")[0].metadata.get("language", "und") == (kept or "und")
    lost = f"out{suffix}: stream 1 (audio) loses its language {language!r}, which {suffix} cannot store"
    assert notes == ([] if kept else [lost])


@pytest.mark.parametrize(("encoder", "suffix", "channels", "wanted", "codec", "loss"), slow_after(1, TRANSCODED))
def test_audio_that_the_container_cannot_hold_is_transcoded_and_reported(
    tmp_path: Path, encoder: str, suffix: str, channels: int, wanted: str, codec: Any, loss: float
) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{wanted}"
    late = "adelay=120:all=1,atrim=start=0.12" if suffix == ".mkv" else "anull"  # audio starts after video
    chirp = f"aevalsrc='0.3*sin(2*PI*(200+900*t)*t)':d=1.12:s=48000,{late},aformat=channel_layouts={channels}c"
    if channels == 6:
        chirp = f"aevalsrc='0.3*sin(2*PI*(200+900*t)*t)':d=1.12:s=48000,{late},pan=5.1(side)|" + "|".join(
            f"c{number}=c0" for number in range(6)
        )
    ffmpeg(
        *VIDEO, "-f", "lavfi", "-i", chirp, *FAST, "-copyts", "-c:a", encoder, "-metadata:s:a:0", "language=ita", source
    )
    notes = upscale_clip(source, target)
    name = streams(source, "audio")[0].codec
    why = "rvrt cannot copy it into .mkv" if wanted == ".mkv" else f"{wanted} cannot hold it"
    assert notes == [f"{target.name}: stream 1 (audio, {name}) is re-encoded to {codec}, since {why}"]
    after = streams(target, "audio")
    assert [stream.codec for stream in after] == [codec]
    assert after[0].metadata["language"] == "ita"
    (begin, before), (start, heard) = decoded_audio(source), decoded_audio(target)
    assert heard.shape[0] == before.shape[0] == channels
    assert abs(heard.shape[1] - before.shape[1]) <= 2048, "more than encoder delay and padding of AAC"
    # On the video's clock, the same audio is there at the same time
    shift = round((start - begin) * 48000)
    assert abs(shift) <= 48 + 1024
    here = before[:, 4096:-4096]

    def correlation(lag: int) -> float:
        there = heard[:, 4096 - shift + lag :][:, : here.shape[1]]
        return (here * there).sum() / np.sqrt((here**2).sum() * (there**2).sum())

    best = max(range(-48, 49), key=correlation)  # Matroska's timestamps are 48 samples apart
    assert correlation(best) >= 1 - loss - 1e-6, f"correlation {correlation(best):.4f} at a lag of {best} samples"


def decoded_audio(path: Path) -> tuple[Fraction, np.ndarray]:
    """(time of the first sample in s, samples as (channels, length))."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        layout = frames[0].layout.name
        assert frames[0].sample_rate == 48000
        resampler = av.AudioResampler("fltp", layout, 48000)
        first = frames[0].pts * frames[0].time_base
        arrays = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    return first, np.concatenate(arrays, 1)


def test_aac_of_an_mp4_keeps_its_encoder_delay_in_matroska(tmp_path: Path) -> None:
    """The first AAC packet lies before 0 and is not played; losing it would shift video against audio."""
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    make_clip(*VIDEO, *AUDIO, *BFRAMES, "-c:a", "aac", source)
    upscale_clip(source, target)
    assert streams(source, "audio")[0].times[0] < 0
    assert decoded_times(target)[0] == 0
    assert abs(streams(target, "audio")[0].times[0] - streams(source, "audio")[0].times[0]) <= MILLISECOND


def test_an_excerpt_has_the_audio_of_that_part(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_clip(*VIDEO, *AUDIO, *BFRAMES, "-c:a", "flac", "-frame_size", "480", source)
    upscale_clip(source, target, start=0.4, duration=0.3)
    wanted = [t for t in decoded_times(source) if Fraction(4, 10) <= t < Fraction(7, 10)]
    shifted = [t - Fraction(4, 10) for t in wanted]
    assert decoded_times(target) == shifted
    original, copied = streams(source, "audio")[0], streams(target, "audio")[0]
    begin = original.data.index(copied.data[0])
    assert original.data[begin : begin + len(copied.data)] == copied.data
    assert 0 <= copied.times[0] < Fraction(11, 1000)
    assert copied.times[-1] < Fraction(3, 10)
    assert len(copied.data) in (29, 30)


def test_an_excerpt_from_the_beginning_keeps_the_encoder_delay(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    make_clip(*VIDEO, *AUDIO, *BFRAMES, "-c:a", "aac", "-metadata", "creation_time=2001-02-03T04:05:06Z", source)
    upscale_clip(source, target, duration=0.5)
    original, copied = streams(source, "audio")[0], streams(target, "audio")[0]
    assert copied.times[0] == original.times[0] < 0
    assert copied.data == original.data[: len(copied.data)]
    assert copied.times[-1] < Fraction(1, 2) <= original.times[len(copied.data)]
    assert chapters_of(target)[1]["creation_time"].startswith("2001-02-03T04:05:06")


SUBTITLES = "1\n00:00:00,100 --> 00:00:00,400\nGrüße, “you”\n\n2\n00:00:00,500 --> 00:00:00,900\nsecond\n"
CHAPTERS = (
    ";FFMETADATA1\ntitle=Ein Film\nartist=Somebody\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=1000\ntitle=Zwei\n"
)


@pytest.fixture
def rich_mkv(tmp_path: Path) -> Path:
    """A Matroska file with everything: two languages, subtitles, chapters, a font, titles."""
    (tmp_path / "s.srt").write_text(SUBTITLES, encoding="utf-8")
    (tmp_path / "c.txt").write_text(CHAPTERS, encoding="utf-8")
    (tmp_path / "font.ttf").write_bytes(b"\0\1\0\0not really")
    path = tmp_path / "rich.mkv"
    inputs = [*VIDEO, *AUDIO, "-i", tmp_path / "s.srt", "-i", tmp_path / "c.txt"]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3", "-map_chapters", "3"]
    tags = ["-metadata:s:s:0", "language=ger", "-metadata:s:v:0", "title=Bild", "-disposition:s:0", "forced"]
    font = ["-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=font/ttf"]
    ffmpeg(*inputs, *maps, *tags, *font, *FAST, "-c:a", "aac", "-c:s", "srt", path)
    return path


def chapters_of(path: Path) -> tuple[list[tuple[float, float, str]], dict[str, str]]:
    with av.open(str(path)) as container:
        return [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"]["title"])
            for c in container.chapters()
        ], dict(container.metadata)


def test_subtitles_chapters_attachments_and_tags_are_copied(tmp_path: Path, rich_mkv: Path) -> None:
    target = tmp_path / "out.mkv"
    assert upscale_clip(rich_mkv, target) == []
    before, after = look(rich_mkv), look(target)
    assert [s.type for s in after] == [s.type for s in before]
    for a, b in zip(before[1:3], after[1:3], strict=True):
        assert (a.codec, a.times, a.data, a.disposition) == (b.codec, b.times, b.data, b.disposition)
    assert after[2].metadata["language"] == "ger"
    assert after[0].metadata["title"] == "Bild"
    with av.open(str(target)) as container:
        font = container.streams[3]
        assert (font.name, font.mimetype, font.data) == ("font.ttf", "font/ttf", b"\0\1\0\0not really")
    chapters, metadata = chapters_of(target)
    assert chapters == [(0.0, 0.4, "One"), (0.4, 1.0, "Zwei")]
    assert metadata["title"] == "Ein Film"
    assert metadata["ARTIST"] == "Somebody"


def test_text_subtitles_are_converted_to_the_format_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "s.srt").write_text(SUBTITLES, encoding="utf-8")
    (tmp_path / "c.txt").write_text(CHAPTERS, encoding="utf-8")
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    ffmpeg(
        *VIDEO,
        "-i",
        tmp_path / "s.srt",
        "-i",
        tmp_path / "c.txt",
        "-map",
        "0",
        "-map",
        "1",
        "-map_metadata",
        "2",
        *FAST,
        "-c:s",
        "srt",
        source,
    )
    notes = upscale_clip(source, target)
    assert notes == ["out.mp4: stream 1 (subtitle, subrip) is converted to mov_text, the text format of .mp4"]
    assert "Grüße, “you”" in ffmpeg("-i", target, "-map", "0:s", "-f", "srt", "-").decode()
    chapters, metadata = chapters_of(target)
    assert [c[2] for c in chapters] == ["One", "Zwei"]
    assert metadata["title"] == "Ein Film"


def test_chapters_are_cut_with_an_excerpt(tmp_path: Path, rich_mkv: Path) -> None:
    target = tmp_path / "out.mkv"
    upscale_clip(rich_mkv, target, start=0.3, duration=0.5)
    chapters, _ = chapters_of(target)
    assert [(round(b, 3), round(e, 3), title) for b, e, title in chapters] == [(0.0, 0.1, "One"), (0.1, 0.5, "Zwei")]
    lines = streams(target, "subtitle")[0]
    assert lines.data == [s.encode() for s in ("Grüße, “you”", "second")]
    assert lines.times == [0, Fraction(1, 5)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_is_kept(tmp_path: Path, suffix: str) -> None:
    cover, film, source = tmp_path / "c.png", tmp_path / "film.mp4", tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32", "-frames:v", "1", cover)
    make_clip(*VIDEO, *FAST, film)
    ffmpeg("-i", film, "-i", cover, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", source)
    assert (probe(source).width, probe(source).height) == (64, 48)
    target = tmp_path / f"out{suffix}"
    upscale_clip(source, target)
    video, image = streams(target, "video")
    assert (video.codec, image.codec) == ("h264", "png")
    assert image.disposition & 0x400
    assert image.data == [cover.read_bytes()]
    assert len(video.data) == 30
    with pytest.raises(MediaError, match=r"the cover image 'png' is not supported in \.mov; choose \.mkv or \.mp4"):
        upscale_clip(source, tmp_path / "out.mov")


def test_covers_and_attachments_keep_their_names_and_titles(tmp_path: Path) -> None:
    film, source = tmp_path / "film.mkv", tmp_path / "in.mkv"
    make_clip(*VIDEO, *FAST, film)
    files: list[object] = []
    for number, (name, mime) in enumerate({"a.gif": "image/gif", "b.png": "image/png", "c.webp": "image/webp"}.items()):
        if name != "c.webp":
            ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:d={number + 1}", "-frames:v", "1", tmp_path / name)
        else:
            (tmp_path / name).write_bytes(b"RIFF")
        tags = {"mimetype": mime, "title": f"Bild {number}"}
        files += ["-attach", tmp_path / name]
        files += [word for key, value in tags.items() for word in (f"-metadata:s:t:{number}", f"{key}={value}")]
    ffmpeg("-i", film, *files, "-c", "copy", source)
    assert upscale_clip(source, tmp_path / "out.mkv") == []
    before, after = look(source)[1:], look(tmp_path / "out.mkv")[1:]
    assert [s.metadata for s in after] == [s.metadata for s in before]
    assert [s.metadata["title"] for s in after] == ["Bild 0", "Bild 1", "Bild 2"]
    assert [s.data for s in after] == [s.data for s in before]


def test_streams_that_the_container_cannot_hold_are_refused_before_the_work(tmp_path: Path, rich_mkv: Path) -> None:
    with pytest.raises(
        MediaError, match=r"rich\.mkv: the attachment 'font\.ttf' is not supported in \.mp4; choose \.mkv"
    ):
        upscale_clip(rich_mkv, tmp_path / "out.mp4")
    source = tmp_path / "in.mkv"
    make_clip(*VIDEO, *FAST, source)
    with pytest.raises(MediaError, match=r"video codec 'h264' is not supported in \.webm; choose \.mp4"):
        upscale_clip(source, tmp_path / "out.webm", codec="libx264")
    assert not list(tmp_path.glob("out*"))
    assert leftovers(tmp_path) == []


def test_a_timecode_track_is_reported_by_name(tmp_path: Path) -> None:
    source = tmp_path / "in.mov"
    make_clip(*VIDEO, *FAST, "-timecode", "01:02:03:04", source)
    assert upscale_clip(source, tmp_path / "out.mov") == [
        "out.mov: stream 1 (data) is dropped: rvrt does not copy timecode tracks"
    ]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_phone_video_is_upright_once(tmp_path: Path, degrees: int) -> None:
    flat, source, target = tmp_path / "flat.mp4", tmp_path / "in.mp4", tmp_path / "out.mp4"
    make_clip(*VIDEO, "-vf", "setsar=4/3", *FAST, "-qp", "0", flat)
    ffmpeg("-display_rotation", degrees, "-i", flat, "-c", "copy", source)
    info = probe(source)
    swapped = degrees % 180 == 90
    assert (info.width, info.height) == ((48, 64) if swapped else (64, 48))
    assert info.sample_aspect == (Fraction(3, 4) if swapped else Fraction(4, 3))
    want = np.rot90(read_all(flat)[0].pixels, degrees // 90).astype(int)
    got = read_all(source)[0].pixels.astype(int)
    assert np.abs(got - want).max() == 0
    upscale_clip(source, target)
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (info.width, info.height, 0)
        assert container.streams.video[0].sample_aspect_ratio == info.sample_aspect


@pytest.mark.parametrize(("option", "axis"), [("-display_hflip", 1), ("-display_vflip", 0)])
def test_a_mirrored_video_is_mirrored_back(tmp_path: Path, option: str, axis: int) -> None:
    flat, source = tmp_path / "flat.mp4", tmp_path / "in.mp4"
    make_clip(*VIDEO, *FAST, flat)
    ffmpeg(option, "-i", flat, "-c", "copy", source)
    assert np.array_equal(read_all(source)[0].pixels, np.flip(read_all(flat)[0].pixels, axis))


@pytest.mark.parametrize(
    ("suffix", "codec", "aspect"),
    [
        (".mp4", "libx264", "12/11"),
        (".mkv", "libx264", "12/11"),
        (".mov", "prores_ks", "12/11"),
        (".mkv", "ffv1", "3/2"),
        (".webm", "libvpx-vp9", "3/4"),
        (".mp4", "libvpx-vp9", "3/4"),
    ],
)
def test_the_sample_aspect_is_kept_or_follows_the_size(tmp_path: Path, suffix: str, codec: Any, aspect: str) -> None:
    """H.264 has it in its bitstream; the others leave it to the container."""
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    make_clip(*VIDEO, "-vf", f"setsar={aspect}", *FAST, source)
    upscale_clip(source, target, scale=2, codec=codec, preset={"libx264": "ultrafast", "libvpx-vp9": "8"}.get(codec))
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(aspect)
    assert len(decoded_times(target)) == 30
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_hdr10_keeps_tags_depth_and_mastering_display(tmp_path: Path, codec: Any) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / f"{codec}.mp4"
    hdr = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:log-level=none:" + (
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    )
    make_clip(*VIDEO, "-t", "0.2", "-c:v", "libx265", "-x265-params", hdr, "-pix_fmt", "yuv420p10le", source)
    before = probe(source)
    assert before.mastering is not None
    assert before.mastering.max_luminance == 1000
    upscale_clip(source, target, codec=codec)
    after = probe(target)
    assert (after.mastering, after.light_level) == (before.mastering, before.light_level)
    assert after.color == before.color
    assert after.pix_fmt == "yuv420p10le"
    for place in (f"{tmp_path}/frames/", "-"):
        note, *more = check_target(before, request_for(before, place, 4)).notes
        assert "HDR10 metadata is dropped" in note
        assert len(more) == (place == "-"), "y4m carries no color tags either"


@pytest.mark.parametrize(
    ("source_format", "codec", "expected"),
    [
        ("yuv420p", "libx264", "yuv420p"),
        ("yuv422p", "libx264", "yuv422p"),
        ("yuv444p", "libx264", "yuv444p"),
        ("yuv420p10le", "libx264", "yuv420p10le"),
        ("yuv422p10le", "libx264", "yuv422p10le"),
        ("yuv422p10le", "prores_ks", "yuv422p10le"),
        ("yuv444p12le", "libx265", "yuv444p12le"),
        ("yuv420p12le", "libx264", "yuv420p10le"),
        ("gray", "libx264", "yuvj420p"),  # PyAV's name of full range
        ("bgr0", "ffv1", "bgr0"),
    ],
)
def test_depth_and_chroma_are_kept_where_the_codec_can(
    tmp_path: Path, source_format: str, codec: Any, expected: str
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make_clip(*VIDEO, "-t", "0.1", "-c:v", "ffv1", "-pix_fmt", source_format, source)
    upscale_clip(source, target, codec=codec, preset="ultrafast" if codec.startswith("libx26") else None)
    after = probe(target)
    assert after.pix_fmt == expected
    # and the content is the same
    assert abs(float(read_all(source)[0].pixels.mean()) / float(read_all(target)[0].pixels.mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("source_format", "codec", "said"),
    [
        ("yuv420p12le", "libx264", ["12 bits are reduced to 10"]),
        ("yuv444p", "libsvtav1", ["chroma is reduced from 4:4:4 to 4:2:0"]),
        ("yuv422p", "mpeg4", ["chroma is reduced from 4:2:2 to 4:2:0"]),
        ("yuv444p12le", "mpeg4", ["12 bits are reduced to 8", "chroma is reduced from 4:4:4 to 4:2:0"]),
        ("yuv411p", "libx264", []),
        ("yuv420p", "mpeg4", []),
        ("gray", "libx264", []),
        ("bgr0", "ffv1", []),
    ],
)
def test_reduced_depth_and_chroma_are_reported(tmp_path: Path, source_format: str, codec: Any, said: list[str]) -> None:
    source = tmp_path / "in.mkv"
    make_clip(*VIDEO, "-t", "0.1", "-c:v", "ffv1", "-pix_fmt", source_format, source)
    info = probe(source)
    notes = check_target(info, request_for(info, tmp_path / "out.mkv", 4, codec=codec)).notes
    assert [note.partition(";")[0] for note in notes] == [f"out.mkv: {words}" for words in said]
    assert all("--codec or --pix-fmt" in note for note in notes)


@pytest.mark.parametrize("target", ["frames/", "-"])
def test_what_a_frames_only_target_loses_is_reported(tmp_path: Path, rich_mkv: Path, target: str) -> None:
    varying, steady = tmp_path / "varying.mkv", tmp_path / "steady.mkv"
    make_clip(*VIDEO, "-vf", "setpts=PTS+0.1*gt(N\\,5)/TB", "-fps_mode", "passthrough", *FAST, varying)
    make_clip(*VIDEO, *FAST, steady)
    place, name = (f"{tmp_path}/{target}", "frames") if target != "-" else ("-", "standard output")

    def notes(source: Path, **options: Any) -> tuple[str, ...]:
        info = probe(source)
        return check_target(info, request_for(info, place, 4, **options)).notes

    (note,) = notes(rich_mkv)
    assert re.match(
        rf"{name}: audio, subtitles, attachments and chapters are dropped, .* holds frames only; .*\.mkv", note
    )
    assert notes(rich_mkv, copy_streams=False) == ()
    (note,) = notes(varying)
    assert note.startswith(f"{name}: the variable frame rate is lost")
    assert notes(steady) == ()


@pytest.mark.parametrize("size", ["63x47", "64x47", "33x32"])
def test_odd_sizes_survive(tmp_path: Path, size: str) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    video = f"testsrc2=s=80x80:d=0.2,format=yuv444p,gblur=4,crop={size.replace('x', ':')}:exact=1"
    ffmpeg("-f", "lavfi", "-i", video, "-c:v", "ffv1", "-pix_fmt", "yuv420p", source)
    upscale_clip(source, target, codec="ffv1", preset=None)
    width, height = map(int, size.split("x"))
    want, got = read_all(source), read_all(target)
    assert [f.pixels.shape for f in got] == [(height, width, 3)] * 5
    errors = np.abs(want[0].pixels.astype(int) - got[0].pixels)
    assert errors.max() <= 6, f"largest error {errors.max()}, mean {errors.mean():.2f}"
    assert errors.mean() < 0.7


def test_interlaced_video_is_recognized_and_can_be_deinterlaced(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    moving = "testsrc2=s=64x48:r=50:d=1,gblur=2,scroll=h=0.05"
    ffmpeg("-f", "lavfi", "-i", moving, "-vf", "interlace", "-flags", "+ilme+ildct", *FAST, source)
    info = probe(source)
    assert info.interlaced
    with open_reader(info) as woven, open_reader(info, deinterlace=True) as clean:
        combs = [[_comb(frame.pixels) for frame in reader] for reader in (woven, clean)]
    assert len(combs[0]) == len(combs[1]) == info.frame_count
    assert np.mean(combs[0]) > 1.5 * np.mean(combs[1])


def test_frames_that_are_interlaced_only_later_are_reported(tmp_path: Path) -> None:
    source, parts = tmp_path / "in.m2v", (tmp_path / "a.m2v", tmp_path / "b.m2v")
    video, coding = "testsrc2=s=64x48:r=50:d=0.8,gblur=2", ["-c:v", "mpeg2video", "-bf", "0"]
    ffmpeg("-f", "lavfi", "-i", video, "-vf", "fps=25", "-frames:v", 10, *coding, parts[0])
    ffmpeg("-f", "lavfi", "-i", video, "-vf", "interlace", *coding, "-flags", "+ilme+ildct", parts[1])
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    for deinterlace in (False, True):
        with open_reader(probe(source), deinterlace=deinterlace) as reader:
            assert len(list(reader)) >= 29  # ffmpeg's decoder loses one where the sequence header changes
        warnings = [line for line in reader.warnings if "20 frames are interlaced" in line and "--deinterlace" in line]
        assert len(warnings) == (not deinterlace)


def _comb(pixels: np.ndarray) -> float:
    """Mean difference between each line and the mean of its neighbors: motion between two fields."""
    lines = pixels.astype(float)
    return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_is_tagged_as_apples_players_require(tmp_path: Path, suffix: str) -> None:
    clip, target = tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    make_clip(*VIDEO, "-frames:v", "4", *FAST, clip)
    upscale_clip(clip, target, codec="libx265")
    boxes = target.read_bytes()
    assert b"hvc1" in boxes
    assert b"hev1" not in boxes


def test_a_prores_profile_keeps_its_tag(tmp_path: Path) -> None:
    clip, target = tmp_path / "in.mkv", tmp_path / "out.mov"
    make_clip(*VIDEO, "-frames:v", "2", "-pix_fmt", "yuv444p", *FAST, clip)
    upscale_clip(clip, target, codec="prores_ks", preset=None, pix_fmt="yuv444p10le")
    assert b"ap4h" in target.read_bytes()  # 4444
